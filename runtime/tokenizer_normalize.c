// The normalizer: a list of steps over a whole text. Marks travel with the bytes that they belong
// to, through replacements and compositions.
//
// Unicode's forms: characters that stay as they are, whatever follows, are copied; a stretch of
// others, with the character before, is decomposed, its marks ordered, and composed again (UAX 15).
// Sources: Hugging Face tokenizers, normalizers/*; the crate spm_precompiled (SentencePiece's map).
#include "tokenizer_normalize.h"

#include "tokenizer_pattern.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

bool text_buffer_add(TextBuffer *b, const void *data, size_t size, Error *err) {
    if (size > b->room - b->size) {
        size_t room = 2 * (b->size + size) + 64;
        unsigned char *bigger = realloc(b->data, room);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 955, "no memory for %zu bytes of text", room);
        b->data = bigger;
        b->room = room;
    }
    if (size)
        memcpy(b->data + b->size, data, size);
    b->size += size;
    return true;
}

// One step at work.
typedef struct Normal {
    const unsigned char *base;
    const NormalStep *step;
    Bytes text;
    const uint8_t *marks; // NULL: none
    MarkedText *out;
    Error *err;
} Normal;

static Bytes step_from(const Normal *n) {
    return (Bytes){n->base + n->step->from, (size_t)n->step->from_size};
}

static Bytes step_to(const Normal *n) {
    return (Bytes){n->base + n->step->to, (size_t)n->step->to_size};
}

// Bytes of the text as they are.
static bool keep(Normal *n, size_t start, size_t end) {
    return text_buffer_add(&n->out->bytes, n->text.data + start, end - start, n->err) &&
           (!n->marks || text_buffer_add(&n->out->marks, n->marks + start, end - start, n->err));
}

static uint8_t mark_of(const Normal *n, size_t start, size_t end) {
    return n->marks && memchr(n->marks + start, 1, end - start);
}

static bool put(Normal *n, Bytes text, uint8_t mark) {
    TRY(text_buffer_add(&n->out->bytes, text.data, text.size, n->err));
    for (size_t at = 0; n->marks && at < text.size; at++)
        TRY(text_buffer_add(&n->out->marks, &mark, 1, n->err));
    return true;
}

static bool put_code(Normal *n, uint32_t code, uint8_t mark) {
    unsigned char bytes[4];
    size_t size = utf8_write(bytes, code);
    return put(n, (Bytes){bytes, size}, mark);
}

// ---- text ---------------------------------------------------------------------------------------

static bool run_prepend(Normal *n) {
    return (!n->text.size || put(n, step_to(n), 0)) && keep(n, 0, n->text.size);
}

static bool run_replace(Normal *n) {
    Bytes from = step_from(n), text = n->text;
    size_t at = 0;
    while (at < text.size) {
        const unsigned char *found =
            from.size == 1 ? memchr(text.data + at, from.data[0], text.size - at)
                           : memmem(text.data + at, text.size - at, from.data, from.size);
        if (!found)
            break;
        size_t start = (size_t)(found - text.data);
        TRY(keep(n, at, start));
        at = start + from.size;
        TRY(put(n, step_to(n), mark_of(n, start, at)));
    }
    return keep(n, at, text.size);
}

// The compiler refuses expressions that match nothing.
static bool run_pattern(Normal *n) {
    size_t at = 0;
    PatternMatch m;
    while (at < n->text.size && pattern_find(step_from(n), n->text, at, &m) && m.end > at) {
        TRY(keep(n, at, m.start));
        TRY(put(n, step_to(n), mark_of(n, m.start, m.end)));
        at = m.end;
    }
    return keep(n, at, n->text.size);
}

static bool run_strip(Normal *n) {
    size_t start = 0, end = n->text.size, length;
    const unsigned char *text = n->text.data;
    while (n->step->option & 1 && start < end &&
           utf8_is_space(utf8_read(text + start, end - start, &length)))
        start += length;
    while (n->step->option & 2 && end > start) {
        size_t before = end - 1;
        while (before > start && (text[before] & 0xc0) == 0x80)
            before--;
        if (!utf8_is_space(utf8_read(text + before, end - before, &length)))
            break;
        end = before;
    }
    return keep(n, start, end);
}

// ---- Unicode's forms ----------------------------------------------------------------------------

typedef struct Form {
    const FormHeader *h;
    const FormRecord *records;
    const FormPair *pairs;
    const uint32_t *points;
    const uint16_t *index, *pages;
} Form;

static Form form_of(Bytes tables) {
    const FormHeader *h = (const FormHeader *)(const void *)tables.data;
    const FormRecord *records = (const FormRecord *)(const void *)(tables.data + sizeof *h);
    const FormPair *pairs = (const FormPair *)(const void *)(records + h->records);
    const uint32_t *points = (const uint32_t *)(const void *)(pairs + h->pairs);
    const uint16_t *index = (const uint16_t *)(const void *)(points + h->points);
    return (Form){h, records, pairs, points, index, index + TOKENIZER_CODE_POINTS / 256};
}

static const FormRecord *record_of(const Form *f, uint32_t code) {
    uint32_t page = f->index[code < TOKENIZER_CODE_POINTS ? code / 256 : 0];
    return &f->records[f->pages[page * 256 + code % 256]];
}

// Hangul syllables are composed by arithmetic (Unicode 3.12).
enum {
    HANGUL_S = 0xac00,
    HANGUL_L = 0x1100,
    HANGUL_V = 0x1161,
    HANGUL_T = 0x11a7,
    HANGUL_LS = 19,
    HANGUL_VS = 21,
    HANGUL_TS = 28,
    HANGUL_SYLLABLES = HANGUL_LS * HANGUL_VS * HANGUL_TS,
};

typedef struct Point {
    uint32_t code;
    uint8_t order, mark;
} Point;

// A stretch of decomposed text; `sorted` is as large.
typedef struct Points {
    Point *items, *sorted; // owner: run_form
    size_t count, room;
} Points;

static bool point_add(Points *p, Point point, Error *err) {
    if (p->count == p->room) {
        size_t room = 2 * p->room + 64;
        Point *items = realloc(p->items, room * sizeof *items);
        p->items = items ? items : p->items;
        Point *sorted = realloc(p->sorted, room * sizeof *sorted);
        p->sorted = sorted ? sorted : p->sorted;
        if (!items || !sorted)
            return fail(err, ERR_RESOURCE, 993, "no memory for %zu characters", room);
        p->room = room;
    }
    p->items[p->count++] = point;
    return true;
}

static bool hangul_add(Points *p, uint32_t syllable, uint8_t mark, Error *err) {
    uint32_t tail = syllable % HANGUL_TS, body = syllable / HANGUL_TS;
    TRY(point_add(p, (Point){HANGUL_L + body / HANGUL_VS, 0, mark}, err));
    TRY(point_add(p, (Point){HANGUL_V + body % HANGUL_VS, 0, mark}, err));
    return !tail || point_add(p, (Point){HANGUL_T + tail, 0, mark}, err);
}

static bool code_decompose(const Form *f, Points *p, uint32_t code, uint8_t mark, Error *err) {
    const FormRecord *r = record_of(f, code);
    if (r->count == FORM_HANGUL)
        return hangul_add(p, code - HANGUL_S, mark, err);
    if (r->itself)
        return point_add(p, (Point){code, r->order, mark}, err);
    for (uint32_t at = 0; at < r->count; at++) {
        uint32_t part = f->points[r->first + at];
        TRY(point_add(p, (Point){part, record_of(f, part)->order, mark}, err));
    }
    return true;
}

// Marks between two starters, by class and otherwise as they come: counted, so that a hostile run
// of marks costs no more than a friendly one.
static void marks_sort(Points *p, size_t start, size_t end) {
    size_t places[256] = {0}, sum = start;
    for (size_t at = start; at < end; at++)
        places[p->items[at].order]++;
    for (size_t order = 0; order < 256; order++) {
        size_t count = places[order];
        places[order] = sum;
        sum += count;
    }
    for (size_t at = start; at < end; at++)
        p->sorted[places[p->items[at].order]++] = p->items[at];
    memcpy(p->items + start, p->sorted + start, (end - start) * sizeof *p->items);
}

static void points_order(Points *p) {
    size_t start = 0;
    bool ordered = true;
    for (size_t at = 0; at <= p->count; at++) {
        if (at == p->count || p->items[at].order == 0) {
            if (!ordered)
                marks_sort(p, start, at);
            start = at + 1;
            ordered = true;
        } else if (at > start && p->items[at].order < p->items[at - 1].order) {
            ordered = false;
        }
    }
}

// The composition of two characters, 0: none.
static uint32_t code_compose(const Form *f, uint32_t first, uint32_t second) {
    uint32_t l = first - HANGUL_L, v = second - HANGUL_V, s = first - HANGUL_S;
    if (l < HANGUL_LS && v < HANGUL_VS)
        return HANGUL_S + (l * HANGUL_VS + v) * HANGUL_TS;
    if (s < HANGUL_SYLLABLES && s % HANGUL_TS == 0 && second > HANGUL_T &&
        second < HANGUL_T + HANGUL_TS)
        return first + second - HANGUL_T;
    size_t low = 0, high = f->h->pairs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const FormPair *pair = &f->pairs[middle];
        if (pair->first == first && pair->second == second)
            return pair->composed;
        bool below = pair->first < first || (pair->first == first && pair->second < second);
        low = below ? middle + 1 : low;
        high = below ? high : middle;
    }
    return 0;
}

// Each character joins the last starter unless one of the same or a higher class stands between.
static void points_compose(const Form *f, Points *p) {
    size_t used = 0, starter = SIZE_MAX;
    for (size_t at = 0; at < p->count; at++) {
        Point point = p->items[at];
        bool adjacent = starter != SIZE_MAX && used == starter + 1;
        bool free = adjacent || (starter != SIZE_MAX && p->items[used - 1].order < point.order &&
                                 p->items[used - 1].order != 0);
        uint32_t composed = free ? code_compose(f, p->items[starter].code, point.code) : 0;
        if (composed) {
            p->items[starter].code = composed;
            p->items[starter].mark |= point.mark;
            continue;
        }
        if (point.order == 0)
            starter = used;
        p->items[used++] = point;
    }
    p->count = used;
}

// The stretch of the text from `start`: up to the first quiet character behind `loud`.
static bool stretch_read(Normal *n, const Form *f, Points *p, size_t start, size_t loud,
                         size_t *end) {
    size_t at = start, length;
    p->count = 0;
    for (; at < n->text.size; at += length) {
        uint32_t code = utf8_read(n->text.data + at, n->text.size - at, &length);
        if (at > loud && record_of(f, code)->quiet)
            break;
        TRY(code_decompose(f, p, code, mark_of(n, at, at + length), n->err));
    }
    *end = at;
    return true;
}

static bool points_put(Normal *n, const Points *p) {
    for (size_t at = 0; at < p->count; at++)
        TRY(put_code(n, p->items[at].code, p->items[at].mark));
    return true;
}

static bool form_text(Normal *n, const Form *f, Points *p) {
    size_t copied = 0, before = SIZE_MAX, at = 0, length;
    while (at < n->text.size) {
        uint32_t code = utf8_read(n->text.data + at, n->text.size - at, &length);
        if (code < 0x80 || record_of(f, code)->quiet) {
            before = at;
            at += length;
            continue;
        }
        size_t start = before == SIZE_MAX ? at : before;
        TRY(keep(n, copied, start));
        TRY(stretch_read(n, f, p, start, at, &at));
        points_order(p);
        if (n->step->option)
            points_compose(f, p);
        TRY(points_put(n, p));
        copied = at;
        before = SIZE_MAX;
    }
    return keep(n, copied, n->text.size);
}

static bool run_form(Normal *n) {
    Form f = form_of(step_from(n));
    Points p = {NULL, NULL, 0, 0};
    bool done = form_text(n, &f, &p);
    free(p.items);
    free(p.sorted);
    return done;
}

static bool run_map(Normal *n) {
    Form f = form_of(step_from(n));
    size_t copied = 0;
    for (size_t at = 0, length; at < n->text.size; at += length) {
        const FormRecord *r =
            record_of(&f, utf8_read(n->text.data + at, n->text.size - at, &length));
        if (r->itself)
            continue;
        TRY(keep(n, copied, at));
        copied = at + length;
        for (uint32_t part = 0; part < r->count; part++)
            TRY(put_code(n, f.points[r->first + part], mark_of(n, at, copied)));
    }
    return keep(n, copied, n->text.size);
}

static bool form_valid(Bytes tables) {
    FormHeader h;
    if (tables.size < sizeof h)
        return false;
    memcpy(&h, tables.data, sizeof h);
    size_t room = tables.size / 2, index = TOKENIZER_CODE_POINTS / 256;
    if (h.records < 1 || h.records > room || h.pairs > room || h.points > room || h.pages > index ||
        tables.size != sizeof h + h.records * sizeof(FormRecord) + h.pairs * sizeof(FormPair) +
                           4 * (size_t)h.points + 2 * (index + 256 * (size_t)h.pages))
        return false;
    Form f = form_of(tables);
    for (size_t at = 0; at < index; at++)
        if (f.index[at] >= h.pages)
            return false;
    uint16_t most = 0;
    for (size_t at = 0; at < 256 * (size_t)h.pages; at++)
        most = f.pages[at] > most ? f.pages[at] : most;
    for (size_t at = 0; at < h.records; at++)
        if (f.records[at].count != FORM_HANGUL &&
            (f.records[at].first > h.points ||
             f.records[at].count > h.points - f.records[at].first))
            return false;
    return most < h.records;
}

// ---- SentencePiece's map ------------------------------------------------------------------------

typedef struct Charsmap {
    const CharsmapHeader *h;
    const uint32_t *units;
    const unsigned char *texts;
    const uint16_t *index;
    const uint8_t *pages;
} Charsmap;

static Charsmap charsmap_of(Bytes tables) {
    const CharsmapHeader *h = (const CharsmapHeader *)(const void *)tables.data;
    const uint32_t *units = (const uint32_t *)(const void *)(tables.data + sizeof *h);
    const uint16_t *index = (const uint16_t *)(const void *)(units + h->units);
    const uint8_t *pages = (const uint8_t *)(index + TOKENIZER_CODE_POINTS / 256);
    return (Charsmap){h, units, pages + 256 * (size_t)h->pages, index, pages};
}

static bool charsmap_valid(Bytes tables) {
    CharsmapHeader h;
    size_t index = TOKENIZER_CODE_POINTS / 256;
    if (tables.size < sizeof h)
        return false;
    memcpy(&h, tables.data, sizeof h);
    if (h.units > tables.size || h.texts > tables.size || h.pages > index ||
        tables.size != sizeof h + 4 * (size_t)h.units + 2 * index + 256 * (size_t)h.pages + h.texts)
        return false;
    Charsmap c = charsmap_of(tables);
    for (size_t at = 0; at < index; at++)
        if (c.index[at] >= h.pages)
            return false;
    return true;
}

// The text for the shortest key that `from` starts with; data NULL: there is none.
static Bytes charsmap_find(const Charsmap *c, Bytes from) {
    Bytes none = {NULL, 0};
    uint32_t place = 0, unit = c->h->units ? c->units[0] : 0;
    place ^= unit >> 10 << ((unit & 1u << 9) >> 6);
    for (size_t at = 0; at < from.size && from.data[at]; at++) {
        place ^= from.data[at];
        if (place >= c->h->units)
            return none;
        unit = c->units[place];
        if ((unit & (1u << 31 | 0xff)) != from.data[at])
            return none;
        place ^= unit >> 10 << ((unit & 1u << 9) >> 6);
        if (!(unit >> 8 & 1))
            continue;
        uint32_t text = place < c->h->units ? c->units[place] & 0x7fffffff : UINT32_MAX;
        if (text >= c->h->texts)
            return none;
        return (Bytes){c->texts + text, strnlen((const char *)c->texts + text, c->h->texts - text)};
    }
    return none;
}

static unsigned break_class(const Charsmap *c, uint32_t code) {
    uint32_t page = c->index[code < TOKENIZER_CODE_POINTS ? code / 256 : 0];
    return c->pages[page * 256 + code % 256];
}

// The end of what a reader takes for one character (UAX 29). Rules for characters of three bytes
// and more are left out: the map is asked for texts below six bytes only.
static size_t grapheme_end(const Charsmap *c, Bytes text, size_t at) {
    size_t length;
    unsigned last = break_class(c, utf8_read(text.data + at, text.size - at, &length));
    bool picture = last == BREAK_PICTURE;
    for (at += length; at < text.size; at += length) {
        unsigned class = break_class(c, utf8_read(text.data + at, text.size - at, &length));
        bool control = last == BREAK_CONTROL || last == BREAK_RETURN || last == BREAK_FEED;
        bool joins = class == BREAK_EXTEND || class == BREAK_JOINER || class == BREAK_SPACING;
        if (last == BREAK_RETURN && class == BREAK_FEED)
            joins = true;
        else if (control)
            return at;
        else if (last == BREAK_PREPEND && class != BREAK_CONTROL && class != BREAK_RETURN &&
                 class != BREAK_FEED)
            joins = true;
        else if (picture && last == BREAK_JOINER && class == BREAK_PICTURE)
            joins = true;
        if (!joins)
            return at;
        picture = class == BREAK_PICTURE || (picture && class != BREAK_SPACING);
        last = class;
    }
    return at;
}

static bool grapheme_map(Normal *n, const Charsmap *c, size_t start, size_t end) {
    Bytes whole = {n->text.data + start, end - start}, to;
    if (whole.size < 6 && (to = charsmap_find(c, whole)).data)
        return put(n, to, mark_of(n, start, end));
    for (size_t at = start, length; at < end; at += length) {
        length = utf8_length(n->text.data[at]);
        to = charsmap_find(c, (Bytes){n->text.data + at, length});
        TRY(to.data ? put(n, to, mark_of(n, at, at + length)) : keep(n, at, at + length));
    }
    return true;
}

static bool run_charsmap(Normal *n) {
    Charsmap c = charsmap_of(step_from(n));
    for (size_t at = 0, end; at < n->text.size; at = end) {
        end = grapheme_end(&c, n->text, at);
        TRY(grapheme_map(n, &c, at, end));
    }
    return true;
}

// ---- the list -----------------------------------------------------------------------------------

typedef struct NormalType {
    bool (*run)(Normal *n);
    bool (*valid)(Bytes tables); // NULL: any bytes are
} NormalType;

static const NormalType types[NORMAL_KIND_COUNT] = {
    // ORDER NORMALS
    [NORMAL_PREPEND] = {run_prepend, NULL},
    [NORMAL_REPLACE] = {run_replace, NULL},
    [NORMAL_PATTERN] = {run_pattern, pattern_valid},
    [NORMAL_FORM] = {run_form, form_valid},
    [NORMAL_MAP] = {run_map, form_valid},
    [NORMAL_STRIP] = {run_strip, NULL},
    [NORMAL_CHARSMAP] = {run_charsmap, charsmap_valid},
};

bool normal_valid(const unsigned char *base, uint64_t size, const NormalStep *step) {
    if (step->kind >= NORMAL_KIND_COUNT || step->from > size || step->to > size ||
        step->from_size > size - step->from || step->to_size > size - step->to)
        return false;
    if (step->kind == NORMAL_REPLACE && !step->from_size)
        return false;
    bool (*valid)(Bytes) = types[step->kind].valid;
    return !valid ||
           (step->from % 8 == 0 && valid((Bytes){base + step->from, (size_t)step->from_size}));
}

bool normalize_run(const unsigned char *base, const NormalStep *steps, uint32_t count, Bytes text,
                   const uint8_t *marks, MarkedText *out, Error *err) {
    MarkedText other = {{0}, {0}};
    bool done = true;
    out->bytes.size = out->marks.size = 0;
    Normal n = {.base = base, .text = text, .marks = marks, .out = out, .err = err};
    for (uint32_t at = 0; done && at < count; at++) {
        MarkedText last = *out;
        *out = other;
        other = last;
        out->bytes.size = out->marks.size = 0;
        n.step = &steps[at];
        done = types[steps[at].kind].run(&n);
        n.text = (Bytes){out->bytes.data, out->bytes.size};
        n.marks = marks ? out->marks.data : NULL;
    }
    if (done && !count)
        done = keep(&n, 0, text.size);
    free(other.bytes.data);
    free(other.marks.data);
    return done;
}

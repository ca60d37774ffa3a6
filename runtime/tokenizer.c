// Byte-level BPE on tables used in place.
//
// Text is first cut at added tokens, then into words by one of a few published patterns (written
// out as code: each alternative in the pattern's order, with what its backtracking comes to), then
// each word's bytes are merged, best rank first, with a heap over a linked list: O(n log n).
#include "tokenizer.h"

#include "payload_tokenizer.h"

#include <stdlib.h>
#include <string.h>

struct Tokenizer {
    TokenizerHeader h;
    const unsigned char *base;
    const uint32_t *piece_offsets;
    const unsigned char *pieces, *flags, *classes;
    const int32_t *byte_ids, *piece_table, *added_first;
    const MergeEntry *merges;
    const AddedToken *added;
    const uint16_t *class_index;
};

// ---- tables -------------------------------------------------------------------------------------

// Where `count` elements lie; NULL if they are not inside the segment.
static const void *table_at(const Tokenizer *t, uint64_t offset, uint64_t count, uint64_t elem) {
    if (offset % 8 || offset > t->h.size || count > (t->h.size - offset) / elem)
        return NULL;
    return t->base + offset;
}

static bool tables_valid(const Tokenizer *t) {
    const TokenizerHeader *h = &t->h;
    uint32_t last = 0;
    for (int32_t id = 0; id < h->vocab_size; last = t->piece_offsets[++id])
        if (t->piece_offsets[id] < last || t->piece_offsets[id + 1] < t->piece_offsets[id])
            return false;
    if (!table_at(t, h->pieces, t->piece_offsets[h->vocab_size], 1))
        return false;
    for (int at = 0; at < TOKENIZER_CODE_POINTS / 256; at++)
        if (t->class_index[at] >= h->class_pages)
            return false;
    for (int32_t at = 0; at < h->added_count; at++)
        if (t->added[at].id < 0 || t->added[at].id >= h->vocab_size)
            return false;
    for (int byte = 0; byte < 256; byte++)
        if (t->byte_ids[byte] >= h->vocab_size || t->added_first[byte] < 0 ||
            t->added_first[byte] > t->added_first[byte + 1] ||
            t->added_first[byte + 1] > h->added_count)
            return false;
    return true;
}

static bool power_of_two(uint32_t value) {
    return value && !(value & (value - 1));
}

static bool tables_find(Tokenizer *t) {
    const TokenizerHeader *h = &t->h;
    if (h->vocab_size < 0 || h->added_count < 0 || !power_of_two(h->merge_slots) ||
        !power_of_two(h->piece_slots) || (uint32_t)h->prefix_count > TOKENIZER_MAX_TEMPLATE ||
        (uint32_t)h->suffix_count > TOKENIZER_MAX_TEMPLATE)
        return false;
    uint64_t vocab = (uint64_t)h->vocab_size;
    t->piece_offsets = table_at(t, h->piece_offsets, vocab + 1, 4);
    t->pieces = table_at(t, h->pieces, 0, 1);
    t->flags = table_at(t, h->token_flags, vocab, 1);
    t->byte_ids = table_at(t, h->byte_ids, 256, 4);
    t->merges = table_at(t, h->merges, h->merge_slots, sizeof(MergeEntry));
    t->piece_table = table_at(t, h->piece_table, h->piece_slots, 4);
    t->added = table_at(t, h->added, (uint64_t)h->added_count, sizeof(AddedToken));
    t->added_first = table_at(t, h->added_first, 257, 4);
    t->class_index = table_at(t, h->class_index, TOKENIZER_CODE_POINTS / 256, 2);
    t->classes = table_at(t, h->classes, h->class_pages, 256);
    return t->piece_offsets && t->pieces && t->flags && t->byte_ids && t->merges &&
           t->piece_table && t->added && t->added_first && t->class_index && t->classes &&
           tables_valid(t);
}

bool tokenizer_open(Tokenizer **out, Bytes tables, Error *err) {
    Tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, ERR_RESOURCE, 950, "no memory for the tokenizer");
    t->base = tables.data;
    if (tables.size >= sizeof t->h)
        memcpy(&t->h, tables.data, sizeof t->h);
    if (t->h.magic != TOKENIZER_MAGIC || t->h.version != TOKENIZER_VERSION ||
        t->h.size != tables.size || t->h.model != TOKENIZER_BYTE_BPE || !tables_find(t)) {
        free(t);
        return fail(err, ERR_CORRUPT, 951, "the tokenizer's tables are damaged");
    }
    *out = t;
    return true;
}

void tokenizer_close(Tokenizer *t) {
    free(t);
}

Bytes tokenizer_piece(const Tokenizer *t, int32_t id) {
    if (id >= t->h.vocab_size)
        return (Bytes){t->pieces, 0};
    return (Bytes){t->pieces + t->piece_offsets[id],
                   t->piece_offsets[id + 1] - t->piece_offsets[id]};
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id < t->h.vocab_size && t->flags[id] & TOKEN_SPECIAL;
}

// ---- UTF-8 --------------------------------------------------------------------------------------

// Length of the valid character at text[at], 0 if there is none; *bad: bytes to replace then (the
// longest start of a character, at least one).
static size_t character_length(Bytes text, size_t at, size_t *bad) {
    unsigned char first = text.data[at];
    size_t wants = first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2
                   : first >= 0xe0 && first < 0xf0                  ? 3
                   : first >= 0xf0 && first < 0xf5                  ? 4
                                                                    : 0;
    *bad = 1;
    for (size_t i = 1; i < wants; i++) {
        unsigned char low = 0x80, high = 0xbf;
        if (i == 1 && first == 0xe0)
            low = 0xa0; // overlong
        if (i == 1 && first == 0xed)
            high = 0x9f; // surrogates
        if (i == 1 && first == 0xf0)
            low = 0x90; // overlong
        if (i == 1 && first == 0xf4)
            high = 0x8f; // above U+10FFFF
        if (at + i >= text.size || text.data[at + i] < low || text.data[at + i] > high)
            return 0;
        *bad = i + 1;
    }
    return wants;
}

// Text with every invalid part replaced by U+FFFD, and its marks. *owned: what the caller frees.
static bool text_repair(Bytes *text, const uint8_t **marks, unsigned char **owned, Error *err) {
    size_t bad, invalid = 0;
    for (size_t at = 0, length; at < text->size; at += length ? length : bad) {
        length = character_length(*text, at, &bad);
        invalid += !length;
    }
    *owned = NULL;
    if (!invalid)
        return true;
    size_t room = text->size + 2 * invalid + 1, size = 0;
    unsigned char *out = *owned = malloc(2 * room), *out_marks = out + room;
    if (!out)
        return fail(err, ERR_RESOURCE, 952, "no memory for the text");
    for (size_t at = 0, length; at < text->size; at += length ? length : bad) {
        length = character_length(*text, at, &bad);
        memcpy(out + size, length ? text->data + at : (const unsigned char *)"\xef\xbf\xbd",
               length ? length : 3);
        for (size_t i = 0; *marks && i < (length ? length : 3); i++)
            out_marks[size + i] = (*marks)[at + (length ? i : 0)];
        size += length ? length : 3;
    }
    *text = (Bytes){out, size};
    if (*marks)
        *marks = out_marks;
    return true;
}

// A character of valid UTF-8 and its classes.
typedef struct Character {
    uint32_t code;
    unsigned char class;
    size_t length; // 0: end of text
} Character;

static Character character_at(const Tokenizer *t, const unsigned char *at, const unsigned char *end) {
    Character c = {0};
    if (at >= end)
        return c;
    c.code = at[0];
    c.length = at[0] < 0x80 ? 1 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : 4;
    if (c.length > 1)
        c.code = at[0] & (0x7f >> c.length);
    for (size_t i = 1; i < c.length; i++)
        c.code = c.code << 6 | (at[i] & 0x3f);
    c.class = t->classes[t->class_index[c.code / 256] * 256 + c.code % 256];
    return c;
}

// ---- words: each function returns the end of its alternative's match, or NULL -------------------

typedef struct Cursor {
    const Tokenizer *t;
    const unsigned char *at, *end;
} Cursor;

static bool is_newline(Character c) {
    return c.length && (c.code == '\r' || c.code == '\n');
}

static bool is_symbol(Character c) { // [^\s\p{L}\p{N}]
    return c.length && !(c.class & (CLASS_SPACE | CLASS_LETTER | CLASS_NUMBER));
}

// The end of a run of characters of a class, at most `most`.
static const unsigned char *run_end(Cursor c, unsigned class, int most) {
    for (Character ch; most-- > 0; c.at += ch.length) {
        ch = character_at(c.t, c.at, c.end);
        if (!ch.length || !(ch.class & class))
            break;
    }
    return c.at;
}

// 's|'t|'re|'ve|'m|'ll|'d
static const unsigned char *match_contraction(Cursor c, bool any_case) {
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (c.at >= c.end || *c.at != '\'')
        return NULL;
    for (size_t tail = 0; tail < sizeof tails / sizeof *tails; tail++) {
        size_t size = strlen(tails[tail]), i = 0;
        if ((size_t)(c.end - c.at) < 1 + size)
            continue;
        while (i < size && (c.at[1 + i] | (any_case ? 0x20 : 0)) == (unsigned char)tails[tail][i])
            i++;
        if (i == size)
            return c.at + 1 + size;
    }
    // U+017F, the long s, folds to s.
    if (any_case && c.end - c.at >= 3 && c.at[1] == 0xc5 && c.at[2] == 0xbf)
        return c.at + 3;
    return NULL;
}

// " ?" and then a run of the class
static const unsigned char *match_spaced_run(Cursor c, unsigned class) {
    Cursor body = c;
    if (c.at < c.end && *c.at == ' ')
        body.at++;
    const unsigned char *end = run_end(body, class, INT32_MAX);
    return end > body.at ? end : NULL; // a blank is in none of these classes
}

// [^\r\n\p{L}\p{N}]?\p{L}+
static const unsigned char *match_lead_letters(Cursor c) {
    Character first = character_at(c.t, c.at, c.end);
    Cursor body = c;
    if (first.length && !is_newline(first) && !(first.class & (CLASS_LETTER | CLASS_NUMBER)))
        body.at += first.length;
    const unsigned char *end = run_end(body, CLASS_LETTER, INT32_MAX);
    return end > body.at ? end : NULL;
}

// " ?[^\s\p{L}\p{N}]+", and [\r\n]* behind it
static const unsigned char *match_symbols(Cursor c, bool newlines) {
    if (c.at < c.end && *c.at == ' ')
        c.at++;
    const unsigned char *start = c.at;
    for (Character ch; is_symbol(ch = character_at(c.t, c.at, c.end));)
        c.at += ch.length;
    if (c.at == start)
        return NULL;
    while (newlines && c.at < c.end && (*c.at == '\r' || *c.at == '\n'))
        c.at++;
    return c.at;
}

// \s*[\r\n]+: up to the last line end of the run of space
static const unsigned char *match_lines(Cursor c) {
    const unsigned char *end = NULL, *stop = run_end(c, CLASS_SPACE, INT32_MAX);
    for (; c.at < stop; c.at++)
        if (*c.at == '\r' || *c.at == '\n')
            end = c.at + 1;
    return end;
}

// \s+(?!\S)|\s+: leaves the last space to the word behind it
static const unsigned char *match_space(Cursor c) {
    const unsigned char *start = c.at, *stop = run_end(c, CLASS_SPACE, INT32_MAX), *last = start;
    if (stop == start || stop == c.end)
        return stop > start ? stop : NULL;
    while (c.at < stop) {
        last = c.at;
        c.at += character_at(c.t, c.at, c.end).length;
    }
    return last > start ? last : stop;
}

static const unsigned char *word_end(Cursor c, SplitKind split) {
    const unsigned char *end = NULL;
    bool gpt2 = split == SPLIT_GPT2;
    if (split == SPLIT_NONE)
        return c.end;
    if (!end)
        end = match_contraction(c, !gpt2);
    if (!end)
        end = gpt2 ? match_spaced_run(c, CLASS_LETTER) : match_lead_letters(c);
    if (!end && gpt2)
        end = match_spaced_run(c, CLASS_NUMBER);
    if (!end && !gpt2) {
        const unsigned char *digits = run_end(c, CLASS_NUMBER, split == SPLIT_LLAMA3 ? 3 : 1);
        end = digits > c.at ? digits : NULL;
    }
    if (!end)
        end = match_symbols(c, !gpt2);
    if (!end && !gpt2)
        end = match_lines(c);
    if (!end)
        end = match_space(c);
    return end ? end : c.at + character_at(c.t, c.at, c.end).length;
}

// ---- merging ------------------------------------------------------------------------------------

typedef struct Symbol {
    int32_t id, previous, next; // -1: none
} Symbol;

typedef struct Candidate { // a pair that may be merged
    int32_t rank, left, right, left_id, right_id, id;
} Candidate;

// Grows as needed; one per encode call.
typedef struct Encoder {
    const Tokenizer *t;
    const uint8_t *marks; // of the text's bytes; NULL: none is a user's
    int32_t *ids;
    int64_t count, room;
    Symbol *symbols;
    Candidate *heap;
    int64_t symbol_room, heap_count;
} Encoder;

static bool ids_add(Encoder *e, int32_t id, Error *err) {
    if (e->count == e->room) {
        int64_t room = e->room ? 2 * e->room : 64;
        int32_t *bigger = realloc(e->ids, (size_t)room * sizeof *bigger);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 953, "no memory for %lld tokens", (long long)room);
        e->ids = bigger;
        e->room = room;
    }
    e->ids[e->count++] = id;
    return true;
}

static const MergeEntry *merge_find(const Tokenizer *t, int32_t left, int32_t right) {
    uint32_t mask = t->h.merge_slots - 1, slot = merge_hash(left, right) & mask;
    for (uint32_t probes = 0; probes <= mask; probes++, slot = (slot + 1) & mask) {
        const MergeEntry *m = &t->merges[slot];
        if (m->id < 0)
            return NULL;
        if (m->left == left && m->right == right)
            return m->id < t->h.vocab_size ? m : NULL;
    }
    return NULL;
}

// Lower rank first; among equals the one further left, as a scan from the left would find it.
static bool before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(Encoder *e, Candidate c) {
    int64_t at = e->heap_count++;
    while (at && before(&c, &e->heap[(at - 1) / 2])) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = c;
}

static Candidate heap_pop(Encoder *e) {
    Candidate top = e->heap[0], last = e->heap[--e->heap_count];
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < e->heap_count; at = child) {
        if (child + 1 < e->heap_count && before(&e->heap[child + 1], &e->heap[child]))
            child++;
        if (!before(&e->heap[child], &last))
            break;
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = last;
    return top;
}

static void pair_consider(Encoder *e, int32_t left, int32_t right) {
    if (left < 0 || right < 0)
        return;
    int32_t left_id = e->symbols[left].id, right_id = e->symbols[right].id;
    const MergeEntry *m = merge_find(e->t, left_id, right_id);
    if (m)
        heap_push(e, (Candidate){m->rank, left, right, left_id, right_id, m->id});
}

static bool rooms_grow(Encoder *e, int64_t size, Error *err) {
    if (size <= e->symbol_room)
        return true;
    int64_t room = 2 * size + 64;
    free(e->symbols);
    free(e->heap);
    e->symbols = malloc((size_t)room * sizeof *e->symbols);
    e->heap = malloc(3 * (size_t)room * sizeof *e->heap); // a merge adds two pairs at most
    e->symbol_room = room;
    return (e->symbols && e->heap) ||
           fail(err, ERR_RESOURCE, 954, "no memory for a word of %lld bytes", (long long)size);
}

static bool word_merge(Encoder *e, const unsigned char *word, int64_t size, Error *err) {
    TRY(rooms_grow(e, size, err));
    int32_t count = 0;
    for (int64_t at = 0; at < size; at++) {
        int32_t id = e->t->byte_ids[word[at]];
        if (id >= 0) { // a byte without a token is dropped, as without an unknown token
            e->symbols[count] = (Symbol){id, count - 1, count + 1};
            count++;
        }
    }
    if (!count)
        return true;
    e->symbols[count - 1].next = -1;
    e->heap_count = 0;
    for (int32_t at = 0; at + 1 < count; at++)
        pair_consider(e, at, at + 1);
    while (e->heap_count) {
        Candidate c = heap_pop(e);
        Symbol *left = &e->symbols[c.left], *right = &e->symbols[c.right];
        if (left->id != c.left_id || right->id != c.right_id || left->next != c.right)
            continue; // one of the two was merged with another
        left->id = c.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            e->symbols[left->next].previous = c.left;
        pair_consider(e, left->previous, c.left);
        pair_consider(e, c.left, left->next);
    }
    for (int32_t at = 0; at >= 0; at = e->symbols[at].next)
        TRY(ids_add(e, e->symbols[at].id, err));
    return true;
}

static int32_t piece_find(const Tokenizer *t, const unsigned char *bytes, size_t size) {
    uint32_t mask = t->h.piece_slots - 1, slot = piece_hash(bytes, size) & mask;
    for (uint32_t probes = 0; probes <= mask; probes++, slot = (slot + 1) & mask) {
        int32_t id = t->piece_table[slot];
        if (id < 0 || id >= t->h.vocab_size)
            return -1;
        Bytes piece = tokenizer_piece(t, id);
        if (piece.size == size && memcmp(piece.data, bytes, size) == 0)
            return id;
    }
    return -1;
}

static bool word_encode(Encoder *e, const unsigned char *word, size_t size, Error *err) {
    int32_t whole = size == 1 || e->t->h.ignore_merges ? piece_find(e->t, word, size) : -1;
    if (whole >= 0)
        return ids_add(e, whole, err);
    return word_merge(e, word, (int64_t)size, err);
}

// Text between added tokens.
static bool segment_encode(Encoder *e, const unsigned char *at, const unsigned char *end,
                           Error *err) {
    while (at < end) {
        const unsigned char *stop =
            word_end((Cursor){e->t, at, end}, (SplitKind)e->t->h.split);
        TRY(word_encode(e, at, (size_t)(stop - at), err));
        at = stop;
    }
    return true;
}

// ---- added tokens -------------------------------------------------------------------------------

static bool is_word_at(const Tokenizer *t, const unsigned char *at, const unsigned char *end) {
    return character_at(t, at, end).class & CLASS_WORD;
}

static const unsigned char *character_before(const unsigned char *start, const unsigned char *at) {
    do
        at--;
    while (at > start && (*at & 0xc0) == 0x80);
    return at;
}

static bool alone(const Tokenizer *t, Bytes text, const unsigned char *at, size_t size) {
    const unsigned char *end = text.data + text.size;
    bool left = at > text.data && is_word_at(t, character_before(text.data, at), end);
    return !left && !(at + size < end && is_word_at(t, at + size, end));
}

// The longest added token at this place; NULL: none.
static const AddedToken *added_find(const Encoder *e, Bytes text, const unsigned char *at,
                                    unsigned flags) {
    const Tokenizer *t = e->t;
    size_t left = (size_t)(text.data + text.size - at);
    for (int32_t i = t->added_first[*at]; i < t->added_first[*at + 1]; i++) {
        const AddedToken *a = &t->added[i];
        Bytes piece = tokenizer_piece(t, a->id);
        bool fits = piece.size && piece.size <= left && memcmp(piece.data, at, piece.size) == 0;
        if (!fits)
            continue;
        bool user = e->marks && memchr(e->marks + (at - text.data), 1, piece.size);
        if ((user || flags & TOKENIZER_PLAIN_TEXT) && tokenizer_is_special(t, a->id))
            continue;
        if (!(a->flags & ADDED_SINGLE_WORD) || alone(t, text, at, piece.size))
            return a;
    }
    return NULL;
}

static bool text_encode(Encoder *e, Bytes text, unsigned flags, Error *err) {
    const unsigned char *start = text.data, *at = text.data, *end = text.data + text.size;
    while (at < end) {
        const AddedToken *a = added_find(e, text, at, flags);
        if (!a) {
            at++;
            continue;
        }
        const unsigned char *stop = at, *behind = at + tokenizer_piece(e->t, a->id).size;
        while (a->flags & ADDED_LSTRIP && stop > start &&
               character_at(e->t, character_before(start, stop), end).class & CLASS_SPACE)
            stop = character_before(start, stop);
        if (a->flags & ADDED_RSTRIP)
            behind = run_end((Cursor){e->t, behind, end}, CLASS_SPACE, INT32_MAX);
        TRY(segment_encode(e, start, stop, err));
        TRY(ids_add(e, a->id, err));
        start = at = behind;
    }
    return segment_encode(e, start, end, err);
}

static bool encode_all(Encoder *e, Bytes text, unsigned flags, Error *err) {
    const TokenizerHeader *h = &e->t->h;
    bool special = flags & TOKENIZER_ADD_SPECIAL;
    for (int32_t at = 0; special && at < h->prefix_count; at++)
        TRY(ids_add(e, h->prefix[at], err));
    TRY(text_encode(e, text, flags, err));
    for (int32_t at = 0; special && at < h->suffix_count; at++)
        TRY(ids_add(e, h->suffix[at], err));
    return true;
}

bool tokenizer_encode_marked(const Tokenizer *t, Bytes text, const uint8_t *user_marks,
                             unsigned flags, int32_t **ids, int64_t *count, Error *err) {
    Encoder e = {.t = t, .marks = user_marks};
    unsigned char *owned = NULL;
    bool done = text_repair(&text, &e.marks, &owned, err) && encode_all(&e, text, flags, err);
    free(owned);
    free(e.symbols);
    free(e.heap);
    if (!done) {
        free(e.ids);
        return false;
    }
    *ids = e.ids;
    *count = e.count;
    return true;
}

bool tokenizer_encode(const Tokenizer *t, Bytes text, unsigned flags, int32_t **ids, int64_t *count,
                      Error *err) {
    return tokenizer_encode_marked(t, text, NULL, flags, ids, count, err);
}

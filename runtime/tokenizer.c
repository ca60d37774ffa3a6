// Tables opened in place, and the way of a text through them: repair, added tokens, normalizer,
// added tokens again, words (tokenizer_split.c), model (tokenizer_model.c).
#include "tokenizer.h"

#include "grammar_vocabulary.h"
#include "tokenizer_tables.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_TEXT = 1 << 30,  // bytes of one text: positions fit into int32_t
    CACHE_FROM = 1 << 12 // bytes of a text for which a cache of words pays
};

// ---- tables -------------------------------------------------------------------------------------

// Where `count` elements lie; NULL if they are not inside the segment.
static const void *table_at(const Tokenizer *t, uint64_t offset, uint64_t count, uint64_t elem) {
    if (offset % 8 || offset > t->h->size || count > (t->h->size - offset) / elem)
        return NULL;
    return t->base + offset;
}

static bool trie_find(const Tokenizer *t, const TrieTable *table, Trie *out) {
    out->count = table->count;
    out->nodes = table_at(t, table->nodes, table->count, sizeof(TrieNode));
    out->labels = table_at(t, table->labels, table->count, 1);
    out->root = table_at(t, table->root, table->count ? 256 : 0, 4);
    return table->count <= INT32_MAX && out->nodes && out->labels && out->root;
}

static bool power_of_two(uint32_t value) {
    return value && !(value & (value - 1));
}

static bool counts_valid(const TokenizerHeader *h) {
    return h->vocab_size >= 0 && h->added_count >= 0 && power_of_two(h->merge_slots) &&
           power_of_two(h->piece_slots) && (uint32_t)h->prefix_count <= TOKENIZER_MAX_TEMPLATE &&
           (uint32_t)h->suffix_count <= TOKENIZER_MAX_TEMPLATE &&
           h->step_count <= TOKENIZER_MAX_STEPS && h->decode_count <= TOKENIZER_MAX_STEPS &&
           h->normal_count <= TOKENIZER_MAX_STEPS && h->unknown_id < h->vocab_size &&
           h->model <= TOKENIZER_UNIGRAM;
}

static bool tables_find(Tokenizer *t) {
    const TokenizerHeader *h = t->h;
    if (!counts_valid(h))
        return false;
    uint64_t vocab = (uint64_t)h->vocab_size;
    bool bytes = h->flags & (MODEL_BYTE_LEVEL | MODEL_BYTE_FALLBACK);
    t->piece_offsets = table_at(t, h->piece_offsets, vocab + 1, 4);
    t->pieces = table_at(t, h->pieces, h->pieces_size, 1);
    t->flags = table_at(t, h->token_flags, vocab, 1);
    t->byte_ids = table_at(t, h->byte_ids, bytes ? 256 : 0, 4);
    t->merges = table_at(t, h->merges, h->merge_slots, sizeof(MergeEntry));
    t->piece_table = table_at(t, h->piece_table, h->piece_slots, sizeof(PieceSlot));
    t->added = table_at(t, h->added, (uint64_t)h->added_count, sizeof(AddedToken));
    t->scores = table_at(t, h->scores, h->model == TOKENIZER_UNIGRAM ? vocab : 0, sizeof(double));
    t->cuts = table_at(t, h->cuts, h->flags & MODEL_CUT_SPACES ? 256 : 0, 1);
    t->class_index = table_at(t, h->class_index, TOKENIZER_CODE_POINTS / 256, 2);
    t->classes = table_at(t, h->classes, h->class_pages, 256);
    return t->piece_offsets && t->pieces && t->flags && t->byte_ids && t->merges &&
           t->piece_table && t->added && t->scores && t->cuts && t->class_index && t->classes &&
           trie_find(t, &h->raw, &t->raw) && trie_find(t, &h->normalized, &t->normalized) &&
           trie_find(t, &h->vocabulary, &t->vocabulary);
}

static bool normals_valid(const Tokenizer *t) {
    for (uint32_t at = 0; at < t->h->normal_count; at++)
        if (!normal_valid(t->base, t->h->size, &t->h->normals[at]))
            return false;
    return true;
}

static bool tables_open(Tokenizer *t, Bytes tables) {
    t->base = tables.data;
    t->h = (const TokenizerHeader *)(const void *)tables.data;
    return tables.size >= sizeof *t->h && (uintptr_t)tables.data % 8 == 0 &&
           t->h->magic == TOKENIZER_MAGIC && t->h->version == TOKENIZER_VERSION &&
           t->h->size == tables.size && tables_find(t) && steps_valid(t) && decodes_valid(t) &&
           normals_valid(t);
}

bool tokenizer_open(Tokenizer **out, Bytes tables, Error *err) {
    Tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, ERR_RESOURCE, 950, "no memory for the tokenizer");
    if (!tables_open(t, tables)) {
        free(t);
        return fail(err, ERR_CORRUPT, 951, "the tokenizer's tables are damaged");
    }
    t->shared = calloc(1, sizeof *t->shared);
    if (!t->shared) {
        free(t);
        return fail(err, ERR_RESOURCE, 1219, "no memory for what grammars share");
    }
    pthread_mutex_init(&t->shared->lock, NULL);
    symbols_open(t);
    *out = t;
    return true;
}

void tokenizer_close(Tokenizer *t) {
    if (!t)
        return;
    vocabulary_close(t->shared->vocabulary);
    pthread_mutex_destroy(&t->shared->lock);
    free(t->shared);
    free(t);
}

void tokenizer_set_stops(Tokenizer *t, const int32_t *ids, int32_t count) {
    t->shared->stop_count = count < TOKENIZER_MAX_STOPS ? count : TOKENIZER_MAX_STOPS;
    memcpy(t->shared->stop_ids, ids, (size_t)t->shared->stop_count * sizeof *ids);
}

int32_t tokenizer_vocab_size(const Tokenizer *t) {
    return t->h->vocab_size;
}

Bytes tokenizer_piece(const Tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->h->vocab_size)
        return (Bytes){t->pieces, 0};
    uint32_t start = t->piece_offsets[id], end = t->piece_offsets[id + 1];
    if (start > end || end > t->h->pieces_size)
        return (Bytes){t->pieces, 0};
    return (Bytes){t->pieces + start, end - start};
}

int32_t tokenizer_token_count(const Tokenizer *t) {
    int32_t count = t->h->vocab_size;
    while (count > 0 && !(t->flags[count - 1] & TOKEN_EXISTS))
        count--;
    return count;
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id_is_special(t, id);
}

// ---- growing things -----------------------------------------------------------------------------

bool encoder_id(Encoder *e, int32_t id) {
    if (e->count == e->room) {
        int64_t room = e->room ? 2 * e->room : 64;
        int32_t *bigger = realloc(e->ids, (size_t)room * sizeof *bigger);
        if (!bigger)
            return fail(e->err, ERR_RESOURCE, 953, "no memory for %lld tokens", (long long)room);
        e->ids = bigger;
        e->room = room;
    }
    e->ids[e->count++] = id;
    return true;
}

bool span_add(Spans *s, size_t start, size_t size, Error *err) {
    if (s->count == s->room) {
        size_t room = s->room ? 2 * s->room : 64;
        Span *bigger = realloc(s->items, room * sizeof *bigger);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 956, "no memory for %zu words", room);
        s->items = bigger;
        s->room = room;
    }
    s->items[s->count++] = (Span){start, size};
    return true;
}

static void encoder_close(Encoder *e) {
    free(e->normal.bytes.data);
    free(e->normal.marks.data);
    free(e->text.data);
    free(e->spare.data);
    free(e->spans.items);
    free(e->next.items);
    free(e->symbols);
    free(e->heap);
    free(e->path);
    free(e->cache);
}

// ---- UTF-8 --------------------------------------------------------------------------------------

// Text with every invalid part replaced by U+FFFD, and its marks. *owned: what the caller frees.
static bool text_repair(Bytes *text, const uint8_t **marks, unsigned char **owned, Error *err) {
    size_t bad, invalid = 0;
    for (size_t at = 0, length; at < text->size; at += length ? length : bad) {
        length = utf8_check(text->data + at, text->size - at, &bad);
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
        length = utf8_check(text->data + at, text->size - at, &bad);
        memcpy(out + size, length ? (const char *)text->data + at : UTF8_REPLACEMENT,
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

// ---- added tokens -------------------------------------------------------------------------------

// Text that is searched for added tokens of one of the two tries.
typedef struct Search {
    Bytes text;
    const uint8_t *marks; // of `text`; NULL: none is a user's
    const Trie *trie;
} Search;

typedef struct Found {
    const AddedToken *token; // NULL: none
    size_t start, end;       // of the match, with the space that it takes
    size_t resume;           // where the search goes on
} Found;

// May these bytes become this token?
static bool added_allowed(const Search *s, const AddedToken *a, size_t start, size_t size) {
    return !(a->flags & ADDED_SPECIAL) || !s->marks || !memchr(s->marks + start, 1, size);
}

// The longest added token at this place; *size: of its text; NULL: none.
static const AddedToken *added_at(const Encoder *e, const Search *s, size_t at, size_t *size) {
    const AddedToken *best = NULL;
    uint32_t node = trie_root(s->trie, s->text.data[at]);
    for (size_t length = 1; node; length++) {
        int32_t value = s->trie->nodes[node].value;
        if (value >= 0 && value < e->t->h->added_count &&
            added_allowed(s, &e->t->added[value], at, length)) {
            best = &e->t->added[value];
            *size = length;
        }
        if (at + length >= s->text.size)
            break;
        node = trie_child(s->trie, node, s->text.data[at + length]);
    }
    return best;
}

static bool is_word_at(const Tokenizer *t, const unsigned char *at, const unsigned char *end) {
    return character_at(t, at, end).class & CLASS_WORD;
}

static bool stands_alone(const Tokenizer *t, Bytes text, size_t start, size_t end) {
    const unsigned char *from = text.data, *stop = text.data + text.size;
    bool left = start > 0 && is_word_at(t, character_before(from, from + start), stop);
    return !left && !(end < text.size && is_word_at(t, from + end, stop));
}

// Space that the token takes on its sides; `taken`: where the part before it may begin.
static void added_strip(const Tokenizer *t, Bytes text, const AddedToken *a, size_t taken,
                        Found *f) {
    const unsigned char *from = text.data, *stop = text.data + text.size;
    while (a->flags & ADDED_LSTRIP && f->start > taken) {
        const unsigned char *before = character_before(from, from + f->start);
        if (!(character_at(t, before, stop).class & CLASS_SPACE))
            break;
        f->start = (size_t)(before - from);
    }
    if (f->start < taken)
        f->start = taken;
    for (Character c; a->flags & ADDED_RSTRIP; f->end += c.length) {
        c = character_at(t, from + f->end, stop);
        if (!(c.class & CLASS_SPACE))
            break;
    }
}

// The first added token from `at` on. A match that does not count is passed over whole, as
// tokenizers does it. Matches are sought in the text, whatever space others have taken.
static Found added_next(const Encoder *e, const Search *s, size_t at, size_t taken) {
    const Tokenizer *t = e->t;
    while (at < s->text.size) {
        size_t size = 0;
        const AddedToken *a = added_at(e, s, at, &size);
        if (!a) {
            at++;
            continue;
        }
        Found f = {a, at, at + size, at + size};
        at += size;
        if (e->plain_added && a->flags & ADDED_SPECIAL)
            continue;
        if (a->flags & ADDED_SINGLE_WORD && !stands_alone(t, s->text, f.start, f.end))
            continue;
        added_strip(t, s->text, a, taken, &f);
        return f;
    }
    return (Found){NULL, s->text.size, s->text.size, s->text.size};
}

// ---- the way of a text --------------------------------------------------------------------------

// Text between added tokens.
static bool words_encode(Encoder *e, Bytes text, bool first) {
    if (!text.size)
        return true;
    e->text.size = 0;
    TRY(text_buffer_add(&e->text, text.data, text.size, e->err));
    TRY(text_split(e, first));
    for (size_t at = 0; at < e->spans.count; at++)
        TRY(word_encode(e, e->text.data + e->spans.items[at].start, e->spans.items[at].size));
    return true;
}

// A part between added tokens of the raw text, normalized; then the other added tokens.
static bool part_encode(Encoder *e, Bytes part, const uint8_t *marks, bool first) {
    const TokenizerHeader *h = e->t->h;
    Search s = {part, marks, &e->t->normalized};
    if (h->normal_count) {
        MarkedText *n = &e->normal;
        TRY(normalize_run(e->t->base, h->normals, h->normal_count, part, marks, n, e->err));
        s.text = (Bytes){n->bytes.data, n->bytes.size};
        s.marks = marks ? n->marks.data : NULL;
    }
    for (size_t start = 0, at = 0; start < s.text.size;) {
        Found f = s.trie->count ? added_next(e, &s, at, start)
                                : (Found){NULL, s.text.size, s.text.size, s.text.size};
        Bytes text = {s.text.data + start, f.start - start};
        TRY(words_encode(e, text, first && !start));
        TRY(!f.token || encoder_id(e, f.token->id));
        start = f.end;
        at = f.resume;
    }
    return true;
}

static bool text_encode(Encoder *e, Bytes text) {
    Search s = {text, e->marks, &e->t->raw};
    for (size_t start = 0, at = 0; start < text.size;) {
        Found f = s.trie->count ? added_next(e, &s, at, start)
                                : (Found){NULL, text.size, text.size, text.size};
        Bytes part = {text.data + start, f.start - start};
        TRY(!part.size || part_encode(e, part, e->marks ? e->marks + start : NULL, !start));
        TRY(!f.token || encoder_id(e, f.token->id));
        start = f.end;
        at = f.resume;
    }
    return true;
}

static bool encode_all(Encoder *e, Bytes text, unsigned flags) {
    const TokenizerHeader *h = e->t->h;
    bool special = flags & TOKENIZER_ADD_SPECIAL;
    for (int32_t at = 0; special && at < h->prefix_count; at++)
        TRY(encoder_id(e, h->prefix[at]));
    TRY(text_encode(e, text));
    for (int32_t at = 0; special && at < h->suffix_count; at++)
        TRY(encoder_id(e, h->suffix[at]));
    return true;
}

bool tokenizer_encode_marked(const Tokenizer *t, Bytes text, const uint8_t *user_marks,
                             unsigned flags, int32_t **ids, int64_t *count, Error *err) {
    Encoder e = {.t = t, .err = err, .marks = user_marks};
    unsigned char *owned = NULL;
    e.plain_added = flags & TOKENIZER_PLAIN_TEXT;
    e.plain = e.plain_added || user_marks;
    if (text.size > CACHE_FROM)
        e.cache = calloc(WORD_CACHE, sizeof *e.cache); // without it everything is slower only
    bool done = text.size <= MAX_TEXT ||
                fail(err, ERR_RESOURCE, 957, "a text of %zu bytes; at most %d at once", text.size,
                     MAX_TEXT);
    done = done && text_repair(&text, &e.marks, &owned, err) && encode_all(&e, text, flags);
    free(owned);
    encoder_close(&e);
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

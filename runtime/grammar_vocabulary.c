// Tokens sorted by their bytes; each adds to the trie what it does not share with the one before.
#include "grammar_vocabulary.h"

#include <stdlib.h>
#include <string.h>

typedef struct Entry {
    Bytes bytes;
    int32_t id;
} Entry;

static int by_bytes(const void *a, const void *b) {
    const Entry *left = a, *right = b;
    size_t shared = left->bytes.size < right->bytes.size ? left->bytes.size : right->bytes.size;
    int order = memcmp(left->bytes.data, right->bytes.data, shared);
    if (order == 0)
        order = (left->bytes.size > right->bytes.size) - (left->bytes.size < right->bytes.size);
    return order ? order : (left->id > right->id) - (left->id < right->id);
}

static size_t shared_prefix(Bytes a, Bytes b) {
    size_t at = 0;
    while (at < a.size && at < b.size && a.data[at] == b.data[at])
        at++;
    return at;
}

static void trie_free(TokenTrie *t) {
    free(t->depth);
    free(t->byte);
    free(t->skip);
    free(t->first);
    free(t->ids);
}

// Nodes from `from` on that are at least as deep as `depth` end before node `count`.
static void skips_set(TokenTrie *t, int32_t *open, size_t from, size_t to) {
    for (size_t depth = from; depth < to; depth++)
        t->skip[open[depth]] = t->count;
}

static void trie_fill(TokenTrie *t, const Entry *entries, int32_t count, int32_t *open) {
    Bytes last = {NULL, 0};
    int32_t ids = 0;
    for (int32_t at = 0; at < count; at++) {
        Bytes b = entries[at].bytes; // empty ones come first
        size_t shared = shared_prefix(last, b);
        skips_set(t, open, shared, last.size);
        for (size_t depth = shared; depth < b.size; depth++) {
            open[depth] = t->count;
            t->depth[t->count] = (uint16_t)depth;
            t->byte[t->count] = b.data[depth];
            t->first[t->count++] = ids;
        }
        t->ids[ids++] = entries[at].id;
        last = b;
    }
    skips_set(t, open, 0, last.size);
    t->first[t->count] = ids;
}

static bool trie_make(TokenTrie *t, Entry *entries, int32_t count, Error *err) {
    size_t nodes = 0;
    int32_t open[VOCABULARY_MAX_BYTES];
    qsort(entries, (size_t)count, sizeof *entries, by_bytes);
    for (int32_t at = 0; at < count; at++)
        nodes += entries[at].bytes.size -
                 (at ? shared_prefix(entries[at - 1].bytes, entries[at].bytes) : 0);
    t->depth = calloc(nodes + 1, sizeof *t->depth);
    t->byte = calloc(nodes + 1, sizeof *t->byte);
    t->skip = calloc(nodes + 1, sizeof *t->skip);
    t->first = calloc(nodes + 1, sizeof *t->first);
    t->ids = calloc((size_t)count + 1, sizeof *t->ids);
    if (!t->depth || !t->byte || !t->skip || !t->first || !t->ids)
        return fail(err, ERR_RESOURCE, 1212, "no memory for a trie of %zu nodes", nodes);
    trie_fill(t, entries, count, open);
    return true;
}

// ---- what tokens add ----------------------------------------------------------------------------

static bool bytes_read(const Vocabulary *v, const Tokenizer *t, bool opening, uint32_t **offsets,
                       unsigned char **bytes, Error *err) {
    TokenizerStream *s;
    unsigned char *all = NULL;
    size_t size = 0, room = 0;
    *offsets = calloc((size_t)v->size + 1, sizeof **offsets);
    if (!*offsets)
        return fail(err, ERR_RESOURCE, 1213, "no memory for %d tokens", v->size);
    TRY(tokenizer_stream_open(&s, t, 0, err));
    bool done = true;
    for (int32_t id = 0; done && id < v->size; id++) {
        Bytes one = {NULL, 0};
        done = tokenizer_is_special(t, id) || tokenizer_stream_token(s, id, opening, &one, err);
        if (!done || one.size > VOCABULARY_MAX_BYTES)
            one.size = 0;
        if (size + one.size > room) {
            room = 2 * room + one.size + (1 << 16);
            unsigned char *bigger = room < UINT32_MAX ? realloc(all, room) : NULL;
            if (!bigger) {
                done =
                    fail(err, ERR_RESOURCE, 1214, "no memory for the text of %d tokens", v->size);
                break;
            }
            all = bigger;
        }
        if (one.size)
            memcpy(all + size, one.data, one.size);
        size += one.size;
        (*offsets)[id + 1] = (uint32_t)size;
    }
    tokenizer_stream_close(s);
    *bytes = all;
    return done;
}

Bytes vocabulary_bytes(const Vocabulary *v, int32_t id, bool opening) {
    opening = opening && v->opening_offsets;
    const uint32_t *offsets = opening ? v->opening_offsets : v->offsets;
    if (id < 0 || id >= v->size)
        return (Bytes){NULL, 0};
    return (Bytes){(opening ? v->opening_bytes : v->bytes) + offsets[id],
                   offsets[id + 1] - offsets[id]};
}

static bool trie_of(TokenTrie *trie, const Vocabulary *v, bool opening, Error *err) {
    Entry *entries = calloc((size_t)v->size + 1, sizeof *entries);
    int32_t count = 0;
    if (!entries)
        return fail(err, ERR_RESOURCE, 1215, "no memory to sort %d tokens", v->size);
    for (int32_t id = 0; id < v->size; id++) {
        Bytes b = vocabulary_bytes(v, id, opening);
        if (b.size || (opening && vocabulary_bytes(v, id, false).size))
            entries[count++] = (Entry){b, id};
    }
    bool done = trie_make(trie, entries, count, err);
    free(entries);
    return done;
}

static bool no_different(const Vocabulary *v) {
    size_t offsets_bytes = ((size_t)v->size + 1) * sizeof *v->offsets;
    return memcmp(v->offsets, v->opening_offsets, offsets_bytes) == 0 &&
           (v->offsets[v->size] == 0 ||
            memcmp(v->bytes, v->opening_bytes, v->offsets[v->size]) == 0);
}

static bool vocabulary_fill(Vocabulary *v, const Tokenizer *t, Error *err) {
    TRY(bytes_read(v, t, false, &v->offsets, &v->bytes, err));
    TRY(bytes_read(v, t, true, &v->opening_offsets, &v->opening_bytes, err));
    TRY(trie_of(&v->trie, v, false, err));
    if (!no_different(v))
        return trie_of(&v->opening, v, true, err);
    free(v->opening_offsets);
    free(v->opening_bytes);
    v->opening_offsets = NULL;
    v->opening_bytes = NULL;
    return true;
}

bool vocabulary_open(Vocabulary **out, const Tokenizer *t, Error *err) {
    Vocabulary *v = calloc(1, sizeof *v);
    if (!v)
        return fail(err, ERR_RESOURCE, 1216, "no memory for a vocabulary");
    v->size = tokenizer_vocab_size(t);
    if (!vocabulary_fill(v, t, err)) {
        vocabulary_close(v);
        return false;
    }
    *out = v;
    return true;
}

void vocabulary_close(Vocabulary *v) {
    if (!v)
        return;
    trie_free(&v->trie);
    trie_free(&v->opening);
    free(v->offsets);
    free(v->opening_offsets);
    free(v->bytes);
    free(v->opening_bytes);
    free(v);
}

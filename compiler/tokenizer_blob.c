// The tables of the tokenizer: bytes in a growing segment, tries, classes of characters.
#include "tokenizer_build.h"
#include "tokenizer_regex.h"

#include <stdlib.h>
#include <string.h>

uint64_t blob_add(TokenizerBuild *b, const void *data, size_t size) {
    size_t at = (size_t)round_up(b->data_size ? b->data_size : sizeof b->h, 8);
    if (at + size > b->data_room) {
        size_t room = 2 * (at + size);
        unsigned char *bigger = arena_alloc(b->arena, room);
        if (b->data_size)
            memcpy(bigger, b->data, b->data_size);
        b->data = bigger;
        b->data_room = room;
    }
    if (size)
        memcpy(b->data + at, data, size);
    b->data_size = at + size;
    return at;
}

// ---- tries --------------------------------------------------------------------------------------

typedef struct SortKey {
    TrieKey key;
    size_t order;
} SortKey;

static int by_bytes(const void *left, const void *right) {
    const SortKey *l = left, *r = right;
    size_t size = l->key.size < r->key.size ? l->key.size : r->key.size;
    int order = memcmp(l->key.bytes, r->key.bytes, size);
    if (order)
        return order;
    if (l->key.size != r->key.size)
        return l->key.size < r->key.size ? -1 : 1;
    return (l->order > r->order) - (l->order < r->order);
}

// The sorted keys without empty ones, the last one of equal ones.
static size_t keys_sort(TokenizerBuild *b, TrieKey *keys, size_t count) {
    SortKey *sorted = ARENA_NEW(b->arena, SortKey, count + 1);
    size_t used = 0, kept = 0;
    for (size_t at = 0; at < count; at++)
        if (keys[at].bytes && keys[at].size)
            sorted[used++] = (SortKey){keys[at], at};
    qsort(sorted, used, sizeof *sorted, by_bytes);
    for (size_t at = 0; at < used; at++) {
        const TrieKey *k = &sorted[at].key, *last = kept ? &keys[kept - 1] : NULL;
        bool same = last && last->size == k->size && memcmp(last->bytes, k->bytes, k->size) == 0;
        kept -= same;
        keys[kept++] = *k;
    }
    return kept;
}

typedef struct Range { // keys of one node: all start with the same `depth` bytes
    size_t low, high;
    uint32_t depth;
} Range;

// The children of a node: one for each byte that follows in its keys.
static void node_expand(const TrieKey *keys, Range r, TrieNode *node, Range *ranges,
                        uint8_t *labels, size_t *count) {
    node->first = (uint32_t)*count;
    node->value = -1;
    if (r.low < r.high && keys[r.low].size == r.depth)
        node->value = keys[r.low++].value;
    while (r.low < r.high) {
        size_t end = r.low + 1;
        uint8_t label = keys[r.low].bytes[r.depth];
        while (end < r.high && keys[end].bytes[r.depth] == label)
            end++;
        labels[*count] = label;
        ranges[(*count)++] = (Range){r.low, end, r.depth + 1};
        r.low = end;
    }
    node->count = (uint32_t)*count - node->first;
}

TrieTable trie_make(TokenizerBuild *b, TrieKey *keys, size_t count) {
    size_t room = 1, nodes_used = 1;
    count = keys_sort(b, keys, count);
    for (size_t at = 0; at < count; at++)
        room += keys[at].size; // no more nodes than bytes
    if (!count)
        return (TrieTable){.nodes = blob_add(b, NULL, 0)};
    TrieNode *nodes = ARENA_NEW(b->arena, TrieNode, room);
    Range *ranges = ARENA_NEW(b->arena, Range, room);
    uint8_t *labels = ARENA_NEW(b->arena, uint8_t, room);
    int32_t root[256] = {0};
    ranges[0] = (Range){0, count, 0};
    for (size_t at = 0; at < nodes_used; at++)
        node_expand(keys, ranges[at], &nodes[at], ranges, labels, &nodes_used);
    for (uint32_t at = nodes[0].first; at < nodes[0].first + nodes[0].count; at++)
        root[labels[at]] = (int32_t)at;
    return (TrieTable){.nodes = blob_add(b, nodes, nodes_used * sizeof *nodes),
                       .labels = blob_add(b, labels, nodes_used),
                       .root = blob_add(b, root, sizeof root),
                       .count = (uint32_t)nodes_used};
}

// ---- classes of characters ----------------------------------------------------------------------

// Pages of 256 code points, equal ones stored once.
static void classes_make(TokenizerBuild *b) {
    uint16_t index[TOKENIZER_CODE_POINTS / 256];
    uint8_t *pages = arena_alloc(b->arena, TOKENIZER_CODE_POINTS), page[256];
    for (uint32_t at = 0; at < TOKENIZER_CODE_POINTS / 256; at++) {
        for (uint32_t i = 0; i < 256; i++)
            page[i] = code_class(at * 256 + i);
        uint32_t same = 0;
        while (same < b->h.class_pages && memcmp(pages + same * 256, page, 256) != 0)
            same++;
        if (same == b->h.class_pages)
            memcpy(pages + 256 * b->h.class_pages++, page, 256);
        index[at] = (uint16_t)same;
    }
    b->h.class_index = blob_add(b, index, sizeof index);
    b->h.classes = blob_add(b, pages, 256 * (size_t)b->h.class_pages);
}

// ---- the segment --------------------------------------------------------------------------------

static void pieces_blob(TokenizerBuild *b) {
    size_t vocab = (size_t)b->h.vocab_size, size = 0;
    uint32_t *offsets = ARENA_NEW(b->arena, uint32_t, vocab + 1);
    uint8_t *flags = ARENA_NEW(b->arena, uint8_t, vocab);
    for (size_t id = 0; id < vocab; id++) {
        offsets[id] = (uint32_t)size;
        size += b->pieces[id].size;
        flags[id] = b->pieces[id].flags;
    }
    offsets[vocab] = (uint32_t)size;
    unsigned char *bytes = arena_alloc(b->arena, size + 1);
    for (size_t id = 0; id < vocab; id++)
        if (b->pieces[id].size)
            memcpy(bytes + offsets[id], b->pieces[id].bytes, b->pieces[id].size);
    b->h.pieces_size = size;
    b->h.piece_offsets = blob_add(b, offsets, (vocab + 1) * sizeof *offsets);
    b->h.pieces = blob_add(b, bytes, size);
    b->h.token_flags = blob_add(b, flags, vocab);
}

// What the runtime looks pieces up in: those that the model may find.
static void piece_table_blob(TokenizerBuild *b) {
    uint32_t mask = b->h.piece_slots - 1;
    PieceSlot *table = ARENA_NEW(b->arena, PieceSlot, b->h.piece_slots);
    memset(table, 0xff, b->h.piece_slots * sizeof *table);
    for (uint32_t at = 0; at <= mask; at++) {
        PieceSlot s = b->piece_table[at];
        if (s.id < 0 || !b->pieces[s.id].in_model)
            continue;
        uint32_t slot = s.hash & mask;
        while (table[slot].id >= 0)
            slot = (slot + 1) & mask;
        table[slot] = s;
    }
    b->h.piece_table = blob_add(b, table, b->h.piece_slots * sizeof *table);
}

Bytes blob_make(TokenizerBuild *b) {
    classes_make(b);
    pieces_blob(b);
    piece_table_blob(b);
    b->h.merges = blob_add(b, b->merges, b->h.merge_slots * sizeof *b->merges);
    if (b->h.model != TOKENIZER_UNIGRAM) {
        b->h.scores = blob_add(b, NULL, 0);
        b->h.vocabulary = trie_make(b, NULL, 0);
    }
    b->h.size = b->data_size;
    memcpy(b->data, &b->h, sizeof b->h);
    return (Bytes){b->data, b->data_size};
}

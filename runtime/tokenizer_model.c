// Words to ids: BPE and Unigram.
//
// BPE: a word's symbols are merged, the best rank first and among equals the leftmost, with a heap
// over a linked list: O(n log n). Short words are merged by scanning, and remembered in a table of
// fixed size. Unigram: the best path over the pieces that a trie finds, O(n * longest piece).
// Source: Hugging Face tokenizers, models/bpe/{model,word}.rs, models/unigram/model.rs.
#include "tokenizer_tables.h"

#include <stdlib.h>

enum { SCAN_SYMBOLS = 24 }; // up to here a scan beats the heap

// ---- look-ups -----------------------------------------------------------------------------------

static bool id_inside(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->h->vocab_size;
}

static int32_t piece_find(const Tokenizer *t, const unsigned char *bytes, size_t size) {
    uint32_t hash = piece_hash(bytes, size);
    uint32_t mask = t->h->piece_slots - 1, slot = hash & mask;
    for (uint32_t probes = 0; probes <= mask; probes++, slot = (slot + 1) & mask) {
        PieceSlot s = t->piece_table[slot];
        if (!id_inside(t, s.id))
            return -1;
        if (s.hash != hash)
            continue;
        Bytes piece = tokenizer_piece(t, s.id);
        if (piece.size == size && memcmp(piece.data, bytes, size) == 0)
            return s.id;
    }
    return -1;
}

static const MergeEntry *merge_find(const Tokenizer *t, int32_t left, int32_t right) {
    uint32_t mask = t->h->merge_slots - 1, slot = merge_hash(left, right) & mask;
    for (uint32_t probes = 0; probes <= mask; probes++, slot = (slot + 1) & mask) {
        const MergeEntry *m = &t->merges[slot];
        if (m->id < 0)
            return NULL;
        if (m->left == left && m->right == right)
            return id_inside(t, m->id) ? m : NULL;
    }
    return NULL;
}

// A merge that this call may use.
static const MergeEntry *merge_allowed(const Encoder *e, int32_t left, int32_t right) {
    const MergeEntry *m = merge_find(e->t, left, right);
    return m && !(e->plain && id_is_special(e->t, m->id)) ? m : NULL;
}

void symbols_open(Tokenizer *t) {
    for (int code = 0; code < 128; code++)
        t->ascii_ids[code] = piece_find(t, &(unsigned char){(unsigned char)code}, 1);
}

// ---- symbols of a word --------------------------------------------------------------------------

static bool symbols_grow(Encoder *e, int64_t size) {
    if (size <= e->symbol_room)
        return true;
    int64_t room = 2 * size + 64;
    free(e->symbols);
    e->symbols = malloc((size_t)room * sizeof *e->symbols);
    e->symbol_room = e->symbols ? room : 0;
    return e->symbols ||
           fail(e->err, ERR_RESOURCE, 954, "no memory for a word of %lld bytes", (long long)size);
}

static void symbol_put(Encoder *e, int32_t *count, int32_t id) {
    e->symbols[*count] = (Symbol){id, *count - 1, *count + 1};
    ++*count;
}

// The tokens <0xNN> of a character, if all of them exist.
static bool fallback_put(Encoder *e, int32_t *count, const unsigned char *at, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (!id_inside(e->t, e->t->byte_ids[at[i]]))
            return false;
    for (size_t i = 0; i < size; i++)
        symbol_put(e, count, e->t->byte_ids[at[i]]);
    return true;
}

// A character without a token; *unknown: one waits to be put. Characters that become bytes do not
// put it, so that it comes behind them (as in tokenizers).
static void stranger_put(Encoder *e, int32_t *count, const unsigned char *at, size_t size,
                         bool *unknown) {
    const TokenizerHeader *h = e->t->h;
    if (h->flags & MODEL_BYTE_FALLBACK && fallback_put(e, count, at, size))
        return;
    if (h->unknown_id < 0)
        return;
    if (*unknown && !(h->flags & MODEL_FUSE_UNKNOWN))
        symbol_put(e, count, h->unknown_id);
    *unknown = true;
}

// A word's first symbols: characters, or bytes.
static int32_t symbols_make(Encoder *e, const unsigned char *word, size_t size) {
    const Tokenizer *t = e->t;
    bool bytes = t->h->flags & MODEL_BYTE_LEVEL, unknown = false;
    int32_t count = 0;
    for (size_t at = 0, length; at < size; at += length) {
        length = bytes ? 1 : utf8_length(word[at]);
        if (length > size - at)
            length = size - at;
        int32_t id = bytes         ? t->byte_ids[word[at]]
                     : length == 1 ? t->ascii_ids[word[at] & 0x7f]
                                   : piece_find(t, word + at, length);
        if (!id_inside(t, id) || (e->plain && id_is_special(t, id))) {
            stranger_put(e, &count, word + at, length, &unknown);
            continue;
        }
        if (unknown)
            symbol_put(e, &count, t->h->unknown_id);
        unknown = false;
        symbol_put(e, &count, id);
    }
    if (unknown)
        symbol_put(e, &count, t->h->unknown_id);
    if (count)
        e->symbols[count - 1].next = -1;
    return count;
}

// ---- merging ------------------------------------------------------------------------------------

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
    const MergeEntry *m = merge_allowed(e, left_id, right_id);
    if (m)
        heap_push(e, (Candidate){m->rank, left, right, left_id, right_id, m->id});
}

static bool heap_grow(Encoder *e, int64_t size) {
    if (size <= e->heap_room)
        return true;
    free(e->heap);
    e->heap = malloc((size_t)size * sizeof *e->heap);
    e->heap_room = e->heap ? size : 0;
    return e->heap || fail(e->err, ERR_RESOURCE, 958, "no memory for %lld pairs", (long long)size);
}

static void symbols_join(Encoder *e, int32_t left, int32_t right, int32_t id) {
    Symbol *l = &e->symbols[left], *r = &e->symbols[right];
    l->id = id;
    l->next = r->next;
    r->id = -1;
    if (l->next >= 0)
        e->symbols[l->next].previous = left;
}

static bool merge_by_heap(Encoder *e, int32_t count) {
    TRY(heap_grow(e, 3 * (int64_t)count)); // a merge adds two pairs at most
    e->heap_count = 0;
    for (int32_t at = 0; at + 1 < count; at++)
        pair_consider(e, at, at + 1);
    while (e->heap_count) {
        Candidate c = heap_pop(e);
        Symbol *left = &e->symbols[c.left], *right = &e->symbols[c.right];
        if (left->id != c.left_id || right->id != c.right_id || left->next != c.right)
            continue; // one of the two was merged with another
        symbols_join(e, c.left, c.right, c.id);
        pair_consider(e, left->previous, c.left);
        pair_consider(e, c.left, left->next);
    }
    return true;
}

typedef struct Pair {
    int32_t rank, id; // of merging a symbol with the next one; rank INT32_MAX: no merge
} Pair;

static Pair pair_of(const Encoder *e, int32_t left, int32_t right) {
    const MergeEntry *m = merge_allowed(e, left, right);
    return m ? (Pair){m->rank, m->id} : (Pair){INT32_MAX, -1};
}

// Leaves the merged symbols side by side at the front; returns how many.
static int32_t merge_by_scan(Encoder *e, int32_t count) {
    Pair pairs[SCAN_SYMBOLS + 1] = {{0, 0}}; // one more, so that moving needs no test
    Symbol *s = e->symbols;
    for (int32_t at = 0; at + 1 < count; at++)
        pairs[at] = pair_of(e, s[at].id, s[at + 1].id);
    while (count > 1) {
        int32_t best = 0;
        for (int32_t at = 1; at + 1 < count; at++)
            if (pairs[at].rank < pairs[best].rank)
                best = at;
        if (pairs[best].rank == INT32_MAX)
            break;
        s[best].id = pairs[best].id;
        count--;
        for (int32_t at = best + 1; at < count; at++) {
            s[at].id = s[at + 1].id;
            pairs[at] = pairs[at + 1];
        }
        if (best + 1 < count)
            pairs[best] = pair_of(e, s[best].id, s[best + 1].id);
        if (best > 0)
            pairs[best - 1] = pair_of(e, s[best - 1].id, s[best].id);
    }
    return count;
}

static bool word_merge(Encoder *e, const unsigned char *word, size_t size) {
    TRY(symbols_grow(e, (int64_t)size + 1));
    int32_t count = symbols_make(e, word, size);
    if (count <= SCAN_SYMBOLS) {
        count = merge_by_scan(e, count);
        for (int32_t at = 0; at < count; at++)
            TRY(encoder_id(e, e->symbols[at].id));
        return true;
    }
    TRY(merge_by_heap(e, count));
    for (int32_t at = 0; at >= 0; at = e->symbols[at].next)
        TRY(encoder_id(e, e->symbols[at].id));
    return true;
}

// ---- words --------------------------------------------------------------------------------------

// Where a word's key belongs in the cache, whether it is there or not.
static CachedWord *cache_slot(const Encoder *e, const unsigned char *word, size_t size,
                              CachedWord *key) {
    *key = (CachedWord){.count = 0};
    memcpy(key->key, word, size);
    key->key[WORD_KEY] = (unsigned char)size;
    uint64_t low, high;
    memcpy(&low, key->key, 8);
    memcpy(&high, key->key + 8, 8);
    uint64_t mixed = (low ^ high * 0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd;
    return &e->cache[(mixed ^ mixed >> 31) >> 8 & (WORD_CACHE - 1)];
}

static bool word_cached(Encoder *e, const unsigned char *word, size_t size) {
    if (!e->cache || size > WORD_KEY)
        return word_merge(e, word, size);
    CachedWord key, *slot = cache_slot(e, word, size, &key);
    if (memcmp(slot->key, key.key, sizeof key.key) == 0) {
        for (int64_t at = 0; at < slot->count; at++)
            TRY(encoder_id(e, e->ids[slot->first + at]));
        return true;
    }
    key.first = e->count;
    TRY(word_merge(e, word, size));
    key.count = e->count - key.first;
    *slot = key;
    return true;
}

// The end of the part of a word that no merge crosses: before a U+2581 where the tables say so.
static size_t cut_next(const Tokenizer *t, const unsigned char *word, size_t size) {
    for (size_t at = 1; at + 2 < size; at++) {
        const unsigned char *found = memchr(word + at, 0xe2, size - at - 2);
        if (!found)
            return size;
        at = (size_t)(found - word);
        if (found[1] == 0x96 && found[2] == 0x81 && t->cuts[found[-1]])
            return at;
    }
    return size;
}

static bool bpe_encode(Encoder *e, const unsigned char *word, size_t size) {
    const Tokenizer *t = e->t;
    if (t->h->flags & MODEL_IGNORE_MERGES) {
        int32_t whole = piece_find(t, word, size);
        if (whole >= 0 && !(e->plain && id_is_special(t, whole)))
            return encoder_id(e, whole);
    }
    if (!(t->h->flags & MODEL_CUT_SPACES))
        return word_cached(e, word, size);
    for (size_t at = 0, part; at < size; at += part) {
        part = cut_next(t, word + at, size - at);
        TRY(word_cached(e, word + at, part));
    }
    return true;
}

// ---- Unigram ------------------------------------------------------------------------------------

static bool path_grow(Encoder *e, size_t size) {
    if (size > e->path_room) {
        free(e->path);
        e->path = malloc(2 * size * sizeof *e->path);
        e->path_room = e->path ? 2 * size : 0;
    }
    if (!e->path)
        return fail(e->err, ERR_RESOURCE, 959, "no memory for a text of %zu bytes", size);
    for (size_t at = 0; at < size; at++)
        e->path[at] = (PathNode){0, -1, -1};
    return true;
}

static void path_try(Encoder *e, size_t start, size_t end, double score, int32_t id) {
    PathNode *to = &e->path[end];
    score += e->path[start].score;
    if (to->start < 0 || score > to->score)
        *to = (PathNode){score, (int64_t)start, id};
}

// All pieces that start at `at`. Returns whether the character there is one by itself.
static bool pieces_try(Encoder *e, const unsigned char *text, size_t size, size_t at,
                       size_t length) {
    const Trie *trie = &e->t->vocabulary;
    uint32_t node = trie_root(trie, text[at]);
    bool single = false;
    for (size_t used = 1; node; used++) {
        int32_t id = trie->nodes[node].value;
        if (id_inside(e->t, id) && !(e->plain && id_is_special(e->t, id))) {
            path_try(e, at, at + used, e->t->scores[id], id);
            single |= used == length;
        }
        if (at + used >= size)
            break;
        node = trie_child(trie, node, text[at + used]);
    }
    return single;
}

// A text that is no piece by itself: characters without a token, side by side.
static bool strangers_encode(Encoder *e, const unsigned char *text, size_t size) {
    const Tokenizer *t = e->t;
    int32_t whole = piece_find(t, text, size);
    if (whole >= 0 && !(e->plain && id_is_special(t, whole)))
        return encoder_id(e, whole);
    bool all = t->h->flags & MODEL_BYTE_FALLBACK;
    for (size_t at = 0; all && at < size; at++)
        all = id_inside(t, t->byte_ids[text[at]]);
    for (size_t at = 0; all && at < size; at++)
        TRY(encoder_id(e, t->byte_ids[text[at]]));
    return all || encoder_id(e, t->h->unknown_id);
}

// Turns the links of the best path round: path[start].start becomes the end of the piece there.
static void path_reverse(Encoder *e, size_t size) {
    int64_t end = (int64_t)size;
    int32_t id = -1;
    for (int64_t at = end; at > 0;) {
        PathNode *node = &e->path[at];
        int64_t start = node->start;
        int32_t piece = node->id;
        node->start = end;
        node->id = id;
        end = at;
        id = piece;
        at = start;
    }
    e->path[0].start = end;
    e->path[0].id = id;
}

static bool unigram_encode(Encoder *e, const unsigned char *text, size_t size) {
    int32_t unknown = e->t->h->unknown_id;
    TRY(path_grow(e, size + 1));
    for (size_t at = 0, length; at < size; at += length) {
        length = utf8_length(text[at]);
        if (length > size - at)
            length = size - at;
        if (pieces_try(e, text, size, at, length))
            continue;
        if (unknown < 0)
            return fail(e->err, ERR_UNSUPPORTED, 960,
                        "the text has a character that the tokenizer does not know, and the "
                        "tokenizer has no unknown token");
        path_try(e, at, at + length, e->t->h->unknown_score, unknown);
    }
    path_reverse(e, size);
    for (size_t at = 0, end; at < size; at = end) {
        int32_t id = e->path[at].id;
        end = (size_t)e->path[at].start;
        if (id != unknown) {
            TRY(encoder_id(e, id));
            continue;
        }
        while (end < size && e->path[end].id == unknown)
            end = (size_t)e->path[end].start;
        TRY(strangers_encode(e, text + at, end - at));
    }
    return true;
}

bool word_encode(Encoder *e, const unsigned char *word, size_t size) {
    if (!size)
        return true;
    return e->t->h->model == TOKENIZER_UNIGRAM ? unigram_encode(e, word, size)
                                               : bpe_encode(e, word, size);
}

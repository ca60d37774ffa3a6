// What the files of the tokenizer share: the opened tables, small readers of them, growing buffers,
// and the state of one encode call. Offsets in the tables were checked when they were opened; what
// they lead to (ids, nodes, ranges of pieces) is checked where it is used, so that opening costs
// the same for every size of vocabulary.
#ifndef TOKENIZER_TABLES_H
#define TOKENIZER_TABLES_H

#include "payload_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_normalize.h"
#include "utf8.h"

#include <pthread.h>
#include <string.h>

enum { TOKENIZER_MAX_STOPS = 16 };

// What grammars need of a tokenizer that is constant otherwise.
typedef struct TokenizerShared {
    int32_t stop_ids[TOKENIZER_MAX_STOPS], stop_count;
    pthread_mutex_t lock;          // of the next one
    struct Vocabulary *vocabulary; // made for the first grammar
} TokenizerShared;

typedef struct Trie {
    const TrieNode *nodes; // [count]
    const uint8_t *labels;
    const int32_t *root; // [256]
    uint32_t count;      // 0: empty
} Trie;

struct Tokenizer {
    const TokenizerHeader *h;
    const unsigned char *base;
    const uint32_t *piece_offsets;
    const unsigned char *pieces, *flags, *classes, *cuts;
    const int32_t *byte_ids;
    const PieceSlot *piece_table;
    const MergeEntry *merges;
    const AddedToken *added;
    const double *scores;
    const uint16_t *class_index;
    Trie raw, normalized, vocabulary;
    int32_t ascii_ids[128];         // not MODEL_BYTE_LEVEL: token of a character, -1: none
    struct TokenizerShared *shared; // owner: tokenizer_close
};

// A part of a text.
typedef struct Span {
    size_t start, size;
} Span;

typedef struct Spans {
    Span *items; // owner: encoder_close
    size_t count, room;
} Spans;

// A merged word of at most WORD_KEY bytes and where its ids lie in the output.
enum { WORD_KEY = 15, WORD_CACHE = 8192 };
typedef struct CachedWord {
    unsigned char key[WORD_KEY + 1]; // the last one: size, 0: empty
    int64_t first;                   // in Encoder.ids
    int64_t count;
} CachedWord;

typedef struct Symbol {
    int32_t id, previous, next; // -1: none
} Symbol;

typedef struct Candidate { // a pair that may be merged
    int32_t rank, left, right, left_id, right_id, id;
} Candidate;

typedef struct PathNode { // Unigram: the best way to a place of the text
    double score;
    int64_t start; // where its last piece starts, -1: not reached
    int32_t id;
} PathNode;

// The state of one encode call; everything grows as needed.
typedef struct Encoder {
    const Tokenizer *t;
    Error *err;
    const uint8_t *marks; // of the text's bytes, 1: a user's; NULL: none is
    bool plain;           // the model must not make special tokens
    bool plain_added;     // nor are they looked for in the text
    int32_t *ids;
    int64_t count, room;
    MarkedText normal;      // of the part that is normalized
    TextBuffer text, spare; // of the part between added tokens, as the steps change it
    Spans spans, next;
    Symbol *symbols;
    Candidate *heap;
    int64_t symbol_room, heap_count, heap_room;
    PathNode *path;
    size_t path_room;
    CachedWord *cache; // [WORD_CACHE]; NULL: none
} Encoder;

// A character of valid UTF-8 and its classes.
typedef struct Character {
    uint32_t code;
    unsigned char class;
    unsigned char length; // 0: end of text
} Character;

static inline unsigned char class_of(const Tokenizer *t, uint32_t code) {
    uint32_t page = t->class_index[code / 256];
    return page < t->h->class_pages ? t->classes[page * 256 + code % 256] : 0;
}

static inline Character character_at(const Tokenizer *t, const unsigned char *at,
                                     const unsigned char *end) {
    Character c = {0};
    if (at >= end)
        return c;
    c.code = at[0];
    c.length = (unsigned char)utf8_length(at[0]);
    if (c.length > end - at)
        c.length = (unsigned char)(end - at);
    if (c.length > 1)
        c.code = at[0] & (0x7fu >> c.length);
    for (int i = 1; i < c.length; i++)
        c.code = c.code << 6 | (at[i] & 0x3fu);
    c.class = c.code < TOKENIZER_CODE_POINTS ? class_of(t, c.code) : 0;
    return c;
}

static inline const unsigned char *character_before(const unsigned char *start,
                                                    const unsigned char *at) {
    do
        at--;
    while (at > start && (*at & 0xc0) == 0x80);
    return at;
}

static inline bool id_is_special(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->h->vocab_size && t->flags[id] & TOKEN_SPECIAL;
}

// The child of `node` (not the root) by the edge `label`; 0: none.
static inline uint32_t trie_child(const Trie *trie, uint32_t node, unsigned char label) {
    uint32_t low = trie->nodes[node].first, count = trie->nodes[node].count;
    if (low <= node || low > trie->count || count > trie->count - low)
        return 0;
    while (count > 8) { // ascending: halve
        uint32_t half = count / 2;
        if (trie->labels[low + half] <= label) {
            low += half;
            count -= half;
        } else {
            count = half;
        }
    }
    for (uint32_t at = low; at < low + count; at++)
        if (trie->labels[at] == label)
            return at;
    return 0;
}

static inline uint32_t trie_root(const Trie *trie, unsigned char label) {
    uint32_t node = trie->count ? (uint32_t)trie->root[label] : 0;
    return node < trie->count ? node : 0;
}

// tokenizer.c
bool encoder_id(Encoder *e, int32_t id);
bool span_add(Spans *s, size_t start, size_t size, Error *err);

// tokenizer_split.c: runs the pre-tokenizer over e->text; leaves words in e->spans.
// first: e->text starts where the whole text starts.
bool text_split(Encoder *e, bool first);
bool steps_valid(const Tokenizer *t);

// tokenizer_model.c
void symbols_open(Tokenizer *t);
bool word_encode(Encoder *e, const unsigned char *word, size_t size);

// tokenizer_decode.c
bool decodes_valid(const Tokenizer *t);

#endif

// The vocabulary as a trie of the bytes that tokens add to a text; made once for a tokenizer.
#ifndef GRAMMAR_VOCABULARY_H
#define GRAMMAR_VOCABULARY_H

#include "tokenizer.h"

enum { VOCABULARY_MAX_BYTES = 1 << 10 }; // of a token; longer ones are never allowed

// Nodes in depth-first order, the root left out: the child of a node follows it, its next sibling
// is at `skip`. Tokens that end at node i: ids[first[i]] .. ids[first[i + 1] - 1]; those in front of
// first[0] add nothing (a blank that is taken off where a text begins).
typedef struct TokenTrie {
    int32_t count;
    uint16_t *depth; // of each node, 0: first byte
    uint8_t *byte;
    int32_t *skip;
    int32_t *first; // [count + 1]
    int32_t *ids;
} TokenTrie;

typedef struct Vocabulary {
    int32_t size;      // of the vocabulary
    TokenTrie trie;    // of what tokens add
    TokenTrie opening; // the same for the first token of an answer; count 0: no different
    uint32_t *offsets,
        *opening_offsets; // [size + 1] into bytes; opening_offsets NULL: no different
    unsigned char *bytes, *opening_bytes;
} Vocabulary;

bool vocabulary_open(Vocabulary **out, const Tokenizer *t, Error *err);
void vocabulary_close(Vocabulary *v); // takes NULL
// What a token adds; nothing for special ones, which are no text.
Bytes vocabulary_bytes(const Vocabulary *v, int32_t id, bool opening);

#endif

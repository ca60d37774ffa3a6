// Grammars as nondeterministic automata over bytes with a stack: rules call each other, repeats
// count. Built from fragments, then measured (how much stack the shortest way to the end takes) and
// read-only.
//
// A failure while building sticks: later calls do nothing, nfa_finish reports it.
#ifndef GRAMMAR_NFA_H
#define GRAMMAR_NFA_H

#include "base.h"

enum {
    NFA_MAX_NODES = 1 << 17,
    NFA_MAX_DEPTH = 192,     // frames; a JSON value inside of another takes at most three
    NFA_ENDLESS = 1 << 20,   // Node.need: there is no way to the end
    NFA_UNBOUNDED = -1,      // Node.max
    NFA_MAX_REPEAT = 1 << 20 // of {m,n}
};

typedef enum NodeKind {
    NODE_RETURN, // pops a frame; without one: the text may end
    NODE_BYTES,  // one byte in [low, high], then next
    NODE_EMPTY,  // next
    NODE_SPLIT,  // next or other
    NODE_CALL,   // rule `other`, then next
    NODE_REPEAT, // the body at `other`, which ends with a RETURN, min to max times, then next
    NODE_NEVER,  // no text
} NodeKind;

typedef struct Node {
    uint8_t kind;      // NodeKind
    uint8_t low, high; // NODE_BYTES
    bool nullable;     // NODE_REPEAT: the body takes the empty text
    int32_t next, other;
    int32_t min, max; // NODE_REPEAT
    int32_t need;     // frames that the shallowest way from here to RETURN takes; NFA_ENDLESS
} Node;

typedef struct Nfa {
    Node *nodes; // [count]; 0 is a RETURN; owner: nfa_free
    int32_t count, room;
    int32_t *rules; // [rule_count] first nodes; owner: nfa_free
    int32_t rule_count, rule_room;
    int32_t start;        // node
    uint8_t classes[256]; // of bytes that no node tells apart
    int32_t class_count;
    uint8_t class_byte[256]; // one byte of each class
    bool failed;
    Error error; // what failed
} Nfa;

// A part of an automaton: in at start, out at `end`, an EMPTY node that leads nowhere yet. Joining
// consumes the parts.
typedef struct Fragment {
    int32_t start, end;
} Fragment;

void nfa_free(Nfa *n);
// Remembers the first failure.
void nfa_fail(Nfa *n, ErrorCode code, int id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

Fragment nfa_empty(Nfa *n);
Fragment nfa_never(Nfa *n);
Fragment nfa_bytes(Nfa *n, unsigned low, unsigned high);
Fragment nfa_text(Nfa *n, const void *text, size_t size);
Fragment nfa_then(Nfa *n, Fragment a, Fragment b);
Fragment nfa_either(Nfa *n, Fragment a, Fragment b);
// min to max times; max: NFA_UNBOUNDED or up to NFA_MAX_REPEAT. No copies: what is large is counted.
Fragment nfa_repeat(Nfa *n, Fragment a, int32_t min, int32_t max);

// For what is no tree of fragments: a place, and edges from it to nodes. A fragment's end is a place.
int32_t nfa_place(Nfa *n);
void nfa_edge(Nfa *n, int32_t place, int32_t to);

// A rule has a number before it has a body, so that rules can call each other.
int32_t nfa_rule(Nfa *n);
void nfa_rule_set(Nfa *n, int32_t rule, Fragment body);
Fragment nfa_call(Nfa *n, int32_t rule);

// Measures everything. ERR_USAGE: no text ends; else the first failure of building.
bool nfa_finish(Nfa *n, int32_t rule, Error *err);

#endif

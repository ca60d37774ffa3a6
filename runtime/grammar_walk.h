// The automaton of a grammar made deterministic while it is walked. A state is the set of places
// (node and stack) where a text may be; states, their transitions and their stacks are made when
// they are first met, found again by their contents, and thrown away together when there are many.
#ifndef GRAMMAR_WALK_H
#define GRAMMAR_WALK_H

#include "grammar_nfa.h"
#include "grammar_vocabulary.h"

typedef struct Walk Walk;

enum { WALK_DEAD = 0 }; // the state of a text that cannot go on

// Where a sequence is. Linked, so that its state survives when states are thrown away.
typedef struct Walker {
    int32_t state;
    bool opening, ended; // no token yet; a stop token was taken
    struct Walker *previous, *next;
} Walker;

bool walk_open(Walk **out, const Nfa *nfa, const Vocabulary *v, Error *err);
void walk_close(Walk *w); // takes NULL
bool walker_start(Walk *w, Walker *k, Error *err);
void walker_copy(Walker *to, const Walker *from); // both were started with one walk
void walker_end(Walk *w, Walker *k);

// Throws states away if there are many. To be called before the two below, whose states then live.
void walk_tidy(Walk *w);
// The state behind one byte; WALK_DEAD also when there is no room for it.
int32_t walk_step(Walk *w, int32_t state, unsigned char byte);
// [ceil(vocab / 32)] tokens that lead on from a state; owned by the walk, valid until the next call.
const uint32_t *walk_mask(Walk *w, int32_t state, bool opening);
// The same, if it was made before; else NULL.
const uint32_t *walk_mask_kept(const Walk *w, int32_t state, bool opening);
bool walk_accepts(const Walk *w, int32_t state);

#endif

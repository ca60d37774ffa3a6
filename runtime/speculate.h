// Speculation by prompt lookup (n-grams): what followed the last few tokens when they stood in the
// text before is tried as what follows now. The model checks a whole draft in one step, and the tokens
// that it draws are those that it would have drawn one by one.
// Source: Saxena, "Prompt Lookup Decoding" (2023).
#ifndef SPECULATE_H
#define SPECULATE_H

#include <stdint.h>

enum { SPECULATE_MAX = 16 }; // tokens of a draft

typedef struct Speculate {
    int32_t most;   // tokens of a draft; 0: never
    int32_t length; // of the next one: grows with success
    int64_t drafted, accepted;
} Speculate;

// What may follow ids[0, count), at most `room` tokens. Returns how many.
int32_t speculate_draft(const Speculate *s, const int32_t *ids, int64_t count, int64_t room,
                        int32_t drafts[SPECULATE_MAX]);
void speculate_learn(Speculate *s, int32_t drafted, int32_t accepted);

#endif

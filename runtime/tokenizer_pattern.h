// Matches of a regular expression that the compiler turned into an automaton.
#ifndef TOKENIZER_PATTERN_H
#define TOKENIZER_PATTERN_H

#include "base.h"

typedef struct PatternMatch {
    size_t start, end;
} PatternMatch;

// The tables lie as PatternHeader says and lead nowhere else.
bool pattern_valid(Bytes tables);
// The first match at or behind `at`; false: there is none. text: valid UTF-8; what lies outside of
// it is the end of the text for the pattern.
bool pattern_find(Bytes tables, Bytes text, size_t at, PatternMatch *match);

#endif

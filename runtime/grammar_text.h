// Sets of characters, and regular expressions, as parts of an automaton: in plain UTF-8 or as the
// contents of JSON strings.
#ifndef GRAMMAR_TEXT_H
#define GRAMMAR_TEXT_H

#include "grammar_nfa.h"

enum { SET_MAX_RANGES = 512 };

// Code points; sorted and apart after charset_sort.
typedef struct CharSet {
    struct CharRange {
        uint32_t low, high;
    } ranges[SET_MAX_RANGES];
    int count;
    bool full; // there was one too many
} CharSet;

void charset_add(CharSet *s, uint32_t low, uint32_t high);
void charset_sort(CharSet *s);
void charset_invert(CharSet *s); // sorted; within 0 .. 10ffff
// json: each character as json.dumps(ensure_ascii=False) writes it in a string.
Fragment charset_fragment(Nfa *n, const CharSet *s, bool json);

typedef struct RegexOptions {
    bool json;        // inside of a JSON string
    bool search;      // it may match anywhere in the text, as in JSON Schema; else the whole text
    const char *name; // what messages call it
} RegexOptions;

// Unicode regular expressions in the common syntax of Python, ECMAScript and PCRE; \d and \w are
// ASCII, \s is ECMAScript's. What is not regular is refused by name (ERR_USAGE).
Fragment regex_fragment(Nfa *n, Bytes regex, const RegexOptions *o);
// One of our own, as text.
Fragment regex_own(Nfa *n, const char *regex, bool json);

#endif

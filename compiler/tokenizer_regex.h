// Regular expressions of tokenizer.json: text -> program (tokenizer_regex.c) -> automaton
// (tokenizer_dfa.c), over sets of code points (tokenizer_unicode.c).
#ifndef TOKENIZER_REGEX_H
#define TOKENIZER_REGEX_H

#include "compile.h"

#include "../runtime/payload_tokenizer.h"

// ---- sets ---------------------------------------------------------------------------------------

enum { SET_WORDS = TOKENIZER_CODE_POINTS / 64 };

// A bit for each code point.
typedef struct CodeSet {
    uint64_t words[SET_WORDS];
    bool end; // the end of the text belongs to it (sets that look ahead)
} CodeSet;

static inline void set_add(CodeSet *s, uint32_t code) {
    s->words[code / 64] |= 1ull << code % 64;
}

static inline bool set_has(const CodeSet *s, uint32_t code) {
    return s->words[code / 64] >> code % 64 & 1;
}

void set_add_range(CodeSet *s, uint32_t first, uint32_t last);
void set_join(CodeSet *s, const CodeSet *other);
void set_meet(CodeSet *s, const CodeSet *other);
void set_invert(CodeSet *s); // but for `end`
// What characters below FOLDED become without case; no letter beyond has another case.
enum { FOLDED = 0x1f000 };
uint32_t *folds_make(Arena *a);
// Adds what the members become in another case, one character for one.
void set_fold(CodeSet *s, const uint32_t *folds);
// A property by its name ("L", "Han", "Alpha", case and blanks do not count); false: unknown.
bool set_property(CodeSet *s, const char *name);
void set_space(CodeSet *s);
void set_digit(CodeSet *s);
void set_word(CodeSet *s);

// CLASS_* of a code point.
uint8_t code_class(uint32_t code);

// ---- programs -----------------------------------------------------------------------------------

enum { PROGRAM_MAX = 4096, PROGRAM_SETS = 64 };

typedef enum ProgramOp {
    OP_SET,   // one character of sets[x], then on
    OP_AHEAD, // on if the next character, or the end, is in sets[x]
    OP_SPLIT, // x first, then y
    OP_JUMP,  // x
    OP_MATCH,
} ProgramOp;

// x, y of jumps count from the operation itself.
typedef struct Operation {
    ProgramOp op;
    int32_t x, y;
} Operation;

typedef struct Program {
    Operation code[PROGRAM_MAX + 1];
    int32_t size;
    CodeSet *sets[PROGRAM_SETS];
    int32_t set_count;
} Program;

// `where`: of the expression, for messages. What is not supported is refused with its place.
bool regex_parse(Program *out, const char *regex, const char *where, Arena *a, Error *err);
// *tables: a PatternHeader and what belongs to it.
bool pattern_compile(Bytes *tables, const char *regex, const char *where, Arena *a, Error *err);
// Can the expression match an empty text?
bool pattern_matches_nothing(Bytes tables);

#endif

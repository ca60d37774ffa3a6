// The values of JSON as parts of an automaton: what schemas are made of.
#ifndef GRAMMAR_SCHEMA_TYPES_H
#define GRAMMAR_SCHEMA_TYPES_H

#include "grammar_text.h"

struct cJSON;

typedef struct NumberBounds {
    double low, high; // infinite: none
    bool low_open, high_open;
} NumberBounds;

// A number without exponent where it has bounds. path: of the schema, for messages.
Fragment number_fragment(Nfa *n, NumberBounds b, bool integer, const char *path);
// A string with its quotes; max: NFA_UNBOUNDED or characters.
Fragment string_fragment(Nfa *n, int32_t min, int32_t max);
// A string in a format of JSON Schema; false: there is none of that name.
bool format_fragment(Nfa *n, const char *name, Fragment *out);
// One value, printed compactly, with the optional blanks.
Fragment literal_fragment(Nfa *n, const struct cJSON *value);
// A string (of a key) as JSON.
Fragment quoted_fragment(Nfa *n, const char *text);
// A string with its quotes that is none of the names.
Fragment except_fragment(Nfa *n, const char *const *names, int32_t count);
// `,` or `:` and maybe a blank.
Fragment separator_fragment(Nfa *n, char c);
// `f` in quotes.
Fragment quotes_fragment(Nfa *n, Fragment f);

#endif

// JSON Schemas as rules of an automaton. docs/structured-output.md says what is taken.
#ifndef GRAMMAR_SCHEMA_H
#define GRAMMAR_SCHEMA_H

#include "grammar_nfa.h"

// *rule: the whole document. ERR_USAGE names the place in the schema.
bool schema_compile(Nfa *n, Bytes schema, int32_t *rule, Error *err);

#endif

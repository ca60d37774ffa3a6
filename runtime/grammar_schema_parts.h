// What must hold for one value: schemas that are all true of it.
#ifndef GRAMMAR_SCHEMA_PARTS_H
#define GRAMMAR_SCHEMA_PARTS_H

#include "grammar_nfa.h"

#include <cjson/cJSON.h>

enum { PARTS_MAX = 48, SCHEMA_MAX_DEPTH = 100, SCHEMA_MAX_BYTES = 1 << 18 };

typedef struct Part {
    const cJSON *node; // an object
    const char *path;  // of the node, for messages
    bool any_done;     // an alternative of its anyOf was chosen
    bool one_done;     // ... of its oneOf
} Part;

typedef struct Parts {
    Part items[PARTS_MAX];
    int count;
    bool never; // nothing is valid
} Parts;

// Adds a schema with all that it refers to (`$ref`, `allOf`), each schema once, and checks its
// keywords: known, supported, of the right type. Failures stick to `n`.
void parts_add(Nfa *n, const cJSON *root, Arena *a, Parts *p, const cJSON *node, const char *path);
const cJSON *schema_member(const cJSON *object, const char *name); // NULL: none
// A part's keyword; NULL: it has none.
const cJSON *keyword(const Part *p, const char *name);
// One more name at the end of a path.
const char *path_of(Arena *a, const char *path, const char *name);

#endif

// The state of a schema's translation (grammar_schema.c), and how each kind of value becomes a
// fragment of an automaton. Failures stick to the automaton.
#ifndef GRAMMAR_SCHEMA_RULES_H
#define GRAMMAR_SCHEMA_RULES_H

#include "grammar_schema_parts.h"

enum { // ORDER TYPES
    TYPE_NULL = 1,
    TYPE_BOOLEAN = 2,
    TYPE_INTEGER = 4,
    TYPE_NUMBER = 8,
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ALL = 127,
};

typedef struct SchemaRule {
    int32_t rule;
    Part *parts; // [count]
    int count;
    bool never;
} SchemaRule;

typedef struct Schema {
    Nfa *n;
    Arena arena; // paths and parts
    const cJSON *root;
    SchemaRule *rules; // [MAX_RULES]
    int count;
} Schema;

// ---- grammar_schema.c ---------------------------------------------------------------------------

// A call of the rule for a list; a new one waits for its body.
Fragment schema_call(Schema *s, const Parts *p);
void schema_add(Schema *s, Parts *p, const cJSON *node, const char *path);
// The smallest or largest value of a keyword; `none` if no part has it.
double schema_extreme(const Parts *p, const char *name, bool largest, double none);
bool schema_has(const Parts *p, const char *name);
// Of the first part, for messages.
const char *schema_path(const Parts *p);
// A count of characters or items.
int32_t schema_count(Schema *s, const Parts *p, const char *name, bool largest, int32_t none);

// ---- grammar_schema_plain.c ---------------------------------------------------------------------

// enum and const; allowed: types.
Fragment schema_constants(Schema *s, const Parts *p, int allowed);
Fragment schema_string(Schema *s, const Parts *p);
Fragment schema_number(Schema *s, const Parts *p, bool integer);

// ---- grammar_schema_nested.c --------------------------------------------------------------------

Fragment schema_array(Schema *s, const Parts *p);
Fragment schema_object(Schema *s, const Parts *p);

#endif

// From schemas to rules. A value that must fulfil several schemas at once (allOf, $ref beside other
// keywords, an alternative of anyOf) is a list of them, and a list is a rule; equal lists are the
// same rule, so references may be circular. Rules wait in a queue: nothing here is recursive.
//
// Objects have their keys in the order of the schema, as OpenAI's strict mode has it; further keys
// only where additionalProperties allows them, or where no key is named at all. oneOf is anyOf.
#include "grammar_schema.h"

#include "grammar_schema_rules.h"
#include "grammar_schema_types.h"
#include "utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RULES = 4096 };

static const struct {
    const char *name;
    int type;
} types[] = {{"null", TYPE_NULL},       {"boolean", TYPE_BOOLEAN},
             {"integer", TYPE_INTEGER}, {"number", TYPE_NUMBER | TYPE_INTEGER},
             {"string", TYPE_STRING},   {"array", TYPE_ARRAY},
             {"object", TYPE_OBJECT}};

// ---- rules --------------------------------------------------------------------------------------

static bool same_parts(const SchemaRule *r, const Parts *p) {
    bool same = r->count == p->count && r->never == p->never;
    for (int at = 0; same && at < p->count; at++)
        same = r->parts[at].node == p->items[at].node &&
               r->parts[at].any_done == p->items[at].any_done &&
               r->parts[at].one_done == p->items[at].one_done;
    return same;
}

Fragment schema_call(Schema *s, const Parts *p) {
    for (int at = 0; at < s->count; at++)
        if (same_parts(&s->rules[at], p))
            return nfa_call(s->n, s->rules[at].rule);
    if (s->count == MAX_RULES)
        nfa_fail(s->n, ERR_RESOURCE, 1236, "the schema has more than %d different values",
                 MAX_RULES);
    if (s->n->failed)
        return (Fragment){0};
    SchemaRule *r = &s->rules[s->count++];
    *r = (SchemaRule){.rule = nfa_rule(s->n), .count = p->count, .never = p->never};
    r->parts = ARENA_NEW(&s->arena, Part, p->count + 1);
    memcpy(r->parts, p->items, (size_t)p->count * sizeof *r->parts);
    return nfa_call(s->n, r->rule);
}

void schema_add(Schema *s, Parts *p, const cJSON *node, const char *path) {
    parts_add(s->n, s->root, &s->arena, p, node, path);
}

double schema_extreme(const Parts *p, const char *name, bool largest, double none) {
    double best = none;
    bool any = false;
    for (int at = 0; at < p->count; at++) {
        const cJSON *value = keyword(&p->items[at], name);
        if (value && (!any || (value->valuedouble > best) == largest)) {
            best = value->valuedouble;
            any = true;
        }
    }
    return best;
}

bool schema_has(const Parts *p, const char *name) {
    for (int at = 0; at < p->count; at++)
        if (keyword(&p->items[at], name))
            return true;
    return false;
}

const char *schema_path(const Parts *p) {
    return p->count ? p->items[0].path : "#";
}

int32_t schema_count(Schema *s, const Parts *p, const char *name, bool largest, int32_t none) {
    double value = schema_extreme(p, name, largest, none);
    if (value == none)
        return none;
    if (value < 0 || value != floor(value))
        nfa_fail(s->n, ERR_USAGE, 1237, "%s: \"%s\" is %g, expected a count", schema_path(p), name,
                 value);
    if (value > (double)NFA_MAX_REPEAT && largest) // of the least ones
        nfa_fail(s->n, ERR_RESOURCE, 1238, "%s: \"%s\" is more than %d", schema_path(p), name,
                 NFA_MAX_REPEAT);
    return value > (double)NFA_MAX_REPEAT ? NFA_UNBOUNDED : (int32_t)value;
}

// ---- types --------------------------------------------------------------------------------------

static int type_named(Schema *s, const Part *p, const cJSON *name) {
    for (size_t at = 0; cJSON_IsString(name) && at < sizeof types / sizeof *types; at++)
        if (strcmp(types[at].name, name->valuestring) == 0)
            return types[at].type;
    nfa_fail(s->n, ERR_USAGE, 1239,
             "%s: \"type\" is none of null, boolean, integer, number, string, array, object",
             p->path);
    return 0;
}

static int part_types(Schema *s, const Part *p) {
    const cJSON *type = keyword(p, "type");
    int all = 0;
    if (!type)
        return TYPE_ALL;
    if (!cJSON_IsArray(type))
        return type_named(s, p, type);
    for (const cJSON *name = type->child; name; name = name->next)
        all |= type_named(s, p, name);
    return all;
}

// Keywords that speak of one type mean it where no type is named.
static int types_meant(const Parts *p) {
    static const struct {
        const char *name;
        int type;
    } hints[] = {{"properties", TYPE_OBJECT},
                 {"required", TYPE_OBJECT},
                 {"additionalProperties", TYPE_OBJECT},
                 {"items", TYPE_ARRAY},
                 {"prefixItems", TYPE_ARRAY},
                 {"minItems", TYPE_ARRAY},
                 {"maxItems", TYPE_ARRAY},
                 {"minLength", TYPE_STRING},
                 {"maxLength", TYPE_STRING},
                 {"pattern", TYPE_STRING},
                 {"format", TYPE_STRING},
                 {"minimum", TYPE_NUMBER},
                 {"maximum", TYPE_NUMBER},
                 {"exclusiveMinimum", TYPE_NUMBER},
                 {"exclusiveMaximum", TYPE_NUMBER}};
    int all = 0;
    for (size_t at = 0; at < sizeof hints / sizeof *hints; at++)
        if (schema_has(p, hints[at].name))
            all |= hints[at].type;
    return all & TYPE_NUMBER ? all | TYPE_INTEGER : all;
}

static int types_of(Schema *s, const Parts *p) {
    int all = TYPE_ALL;
    for (int at = 0; at < p->count; at++)
        all &= part_types(s, &p->items[at]);
    if (schema_has(p, "type") || schema_has(p, "enum") || schema_has(p, "const"))
        return all;
    int meant = types_meant(p);
    return meant ? meant : all;
}

// ---- one value ----------------------------------------------------------------------------------

static Fragment null_of(Schema *s, const Parts *p) {
    (void)p;
    return nfa_text(s->n, "null", 4);
}

static Fragment boolean_of(Schema *s, const Parts *p) {
    (void)p;
    return regex_own(s->n, "true|false", false);
}

static Fragment integer_of(Schema *s, const Parts *p) {
    return schema_number(s, p, true);
}

static Fragment real_of(Schema *s, const Parts *p) {
    return schema_number(s, p, false);
}

static Fragment by_type(Schema *s, const Parts *p, int allowed) {
    static const struct {
        int type;
        Fragment (*make)(Schema *s, const Parts *p);
    } makers[] = {{TYPE_NULL, null_of},         {TYPE_BOOLEAN, boolean_of},
                  {TYPE_INTEGER, integer_of},   {TYPE_NUMBER, real_of},
                  {TYPE_STRING, schema_string}, {TYPE_ARRAY, schema_array},
                  {TYPE_OBJECT, schema_object}};
    Fragment all = {0};
    bool any = false;
    if (allowed & TYPE_NUMBER)
        allowed &= ~TYPE_INTEGER; // numbers hold them
    for (size_t at = 0; at < sizeof makers / sizeof *makers && !s->n->failed; at++) {
        if (!(allowed & makers[at].type))
            continue;
        Fragment f = makers[at].make(s, p);
        all = any ? nfa_either(s->n, all, f) : f;
        any = true;
    }
    return any ? all : nfa_never(s->n);
}

// The list with each alternative of a part's anyOf or oneOf.
static Fragment alternatives(Schema *s, Parts *p, int part, const char *name) {
    const char *path = path_of(&s->arena, p->items[part].path, name);
    Fragment all = {0};
    bool any = false;
    int at = 0;
    bool *done = strcmp(name, "anyOf") == 0 ? &p->items[part].any_done : &p->items[part].one_done;
    *done = true;
    for (const cJSON *one = keyword(&p->items[part], name)->child; one && !s->n->failed;
         one = one->next) {
        Parts chosen = *p;
        schema_add(s, &chosen, one, arena_printf(&s->arena, "%.160s/%d", path, at++));
        Fragment f = schema_call(s, &chosen);
        all = any ? nfa_either(s->n, all, f) : f;
        any = true;
    }
    return any ? all : nfa_never(s->n);
}

static Fragment body_of(Schema *s, Parts *p) {
    if (p->never)
        return nfa_never(s->n);
    for (int at = 0; at < p->count; at++) {
        if (!p->items[at].any_done && keyword(&p->items[at], "anyOf"))
            return alternatives(s, p, at, "anyOf");
        if (!p->items[at].one_done && keyword(&p->items[at], "oneOf"))
            return alternatives(s, p, at, "oneOf");
    }
    int allowed = types_of(s, p);
    if (schema_has(p, "enum") || schema_has(p, "const"))
        return schema_constants(s, p, allowed);
    return by_type(s, p, allowed);
}

static int32_t compile(Schema *s) {
    Parts p = {.count = 0};
    schema_add(s, &p, s->root, "#");
    schema_call(s, &p);
    for (int at = 0; at < s->count && !s->n->failed; at++) {
        const SchemaRule *r = &s->rules[at];
        p.count = r->count;
        p.never = r->never;
        memcpy(p.items, r->parts, (size_t)r->count * sizeof *r->parts);
        int32_t rule = r->rule;
        nfa_rule_set(s->n, rule, body_of(s, &p));
    }
    return s->n->failed ? 0 : s->rules[0].rule;
}

// ---- the text of a schema -----------------------------------------------------------------------

// cJSON takes any bytes, recurses, and ends strings at zero bytes.
static bool text_check(Bytes text, Error *err) {
    int depth = 0, deepest = 0;
    bool inside = false, zero = false;
    for (size_t at = 0, size, part; at < text.size; at += size) {
        size = utf8_check(text.data + at, text.size - at, &part);
        if (!size)
            return fail(err, ERR_USAGE, 1089, "the schema is not valid UTF-8 at byte %zu", at + 1);
    }
    for (size_t at = 0; at < text.size; at++) {
        unsigned char c = text.data[at];
        if (c == '"')
            inside = !inside;
        else if (inside && c == '\\') {
            at++;
            zero = zero || (text.size - at > 4 && memcmp(text.data + at, "u0000", 5) == 0);
        } else if (!inside && (c == '{' || c == '['))
            depth++;
        else if (!inside && (c == '}' || c == ']'))
            depth--;
        deepest = depth > deepest ? depth : deepest;
        zero = zero || c == 0;
    }
    if (text.size > SCHEMA_MAX_BYTES)
        return fail(err, ERR_RESOURCE, 1246, "the schema has %zu bytes, at most %d are taken",
                    text.size, SCHEMA_MAX_BYTES);
    if (deepest > SCHEMA_MAX_DEPTH)
        return fail(err, ERR_RESOURCE, 1247, "the schema is nested deeper than %d levels",
                    SCHEMA_MAX_DEPTH);
    return !zero || fail(err, ERR_USAGE, 1248, "the schema has a zero character in a string");
}

bool schema_compile(Nfa *n, Bytes schema, int32_t *rule, Error *err) {
    TRY(text_check(schema, err));
    Schema s = {.n = n};
    cJSON *root = cJSON_ParseWithLength((const char *)schema.data, schema.size);
    s.root = root;
    s.rules = calloc(MAX_RULES, sizeof *s.rules);
    if (!root)
        nfa_fail(n, ERR_USAGE, 1249, "the schema is not valid JSON");
    else if (!s.rules)
        nfa_fail(n, ERR_RESOURCE, 1250, "no memory for the rules of a schema");
    else
        *rule = compile(&s);
    cJSON_Delete(root);
    free(s.rules);
    arena_free(&s.arena);
    if (n->failed)
        *err = n->error;
    return !n->failed;
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    Nfa n = {.nodes = NULL};
    int32_t rule = 0;
    if (schema_compile(&n, (Bytes){data, size}, &rule, &err))
        nfa_finish(&n, rule, &err);
    nfa_free(&n);
    return 0;
}
#endif

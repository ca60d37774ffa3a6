// References, allOf and the table of keywords.
#include "grammar_schema_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { // types that a keyword's value may have
    IS_OBJECT = 1,
    IS_ARRAY = 2,
    IS_STRING = 4,
    IS_NUMBER = 8,
    IS_BOOL = 16,
    IS_SCHEMA = IS_OBJECT | IS_BOOL,
    IS_ANY = 63,
};

typedef enum KeywordKind {
    KEYWORD_NOTE,    // says nothing about what is valid
    KEYWORD_LINK,    // leads to other schemas
    KEYWORD_RULE,    // supported
    KEYWORD_REFUSED, // would change what is valid
} KeywordKind;

typedef struct Keyword {
    const char *name;
    KeywordKind kind;
    int types;
} Keyword;

// clang-format off
static const Keyword keywords[] = {
    {"$ref", KEYWORD_LINK, IS_STRING},           {"allOf", KEYWORD_LINK, IS_ARRAY},
    {"type", KEYWORD_RULE, IS_STRING | IS_ARRAY},{"enum", KEYWORD_RULE, IS_ARRAY},
    {"const", KEYWORD_RULE, IS_ANY},             {"anyOf", KEYWORD_RULE, IS_ARRAY},
    {"oneOf", KEYWORD_RULE, IS_ARRAY},           {"properties", KEYWORD_RULE, IS_OBJECT},
    {"required", KEYWORD_RULE, IS_ARRAY},        {"additionalProperties", KEYWORD_RULE, IS_SCHEMA},
    {"items", KEYWORD_RULE, IS_SCHEMA},          {"prefixItems", KEYWORD_RULE, IS_ARRAY},
    {"minItems", KEYWORD_RULE, IS_NUMBER},       {"maxItems", KEYWORD_RULE, IS_NUMBER},
    {"minLength", KEYWORD_RULE, IS_NUMBER},      {"maxLength", KEYWORD_RULE, IS_NUMBER},
    {"pattern", KEYWORD_RULE, IS_STRING},        {"format", KEYWORD_RULE, IS_STRING},
    {"minimum", KEYWORD_RULE, IS_NUMBER},        {"maximum", KEYWORD_RULE, IS_NUMBER},
    {"exclusiveMinimum", KEYWORD_RULE, IS_NUMBER},
    {"exclusiveMaximum", KEYWORD_RULE, IS_NUMBER},
    {"not", KEYWORD_REFUSED, IS_ANY},            {"if", KEYWORD_REFUSED, IS_ANY},
    {"then", KEYWORD_REFUSED, IS_ANY},           {"else", KEYWORD_REFUSED, IS_ANY},
    {"patternProperties", KEYWORD_REFUSED, IS_ANY},
    {"propertyNames", KEYWORD_REFUSED, IS_ANY},  {"minProperties", KEYWORD_REFUSED, IS_ANY},
    {"maxProperties", KEYWORD_REFUSED, IS_ANY},  {"dependentRequired", KEYWORD_REFUSED, IS_ANY},
    {"dependentSchemas", KEYWORD_REFUSED, IS_ANY},
    {"dependencies", KEYWORD_REFUSED, IS_ANY},   {"unevaluatedProperties", KEYWORD_REFUSED, IS_ANY},
    {"unevaluatedItems", KEYWORD_REFUSED, IS_ANY},
    {"additionalItems", KEYWORD_REFUSED, IS_ANY},{"contains", KEYWORD_REFUSED, IS_ANY},
    {"minContains", KEYWORD_REFUSED, IS_ANY},    {"maxContains", KEYWORD_REFUSED, IS_ANY},
    {"uniqueItems", KEYWORD_REFUSED, IS_ANY},    {"multipleOf", KEYWORD_REFUSED, IS_ANY},
    {"$dynamicRef", KEYWORD_REFUSED, IS_ANY},    {"$recursiveRef", KEYWORD_REFUSED, IS_ANY},
};
// clang-format on

const cJSON *schema_member(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

const cJSON *keyword(const Part *p, const char *name) {
    return schema_member(p->node, name);
}

const char *path_of(Arena *a, const char *path, const char *name) {
    char shown[96];
    text_escape(shown, sizeof shown, name, strlen(name));
    return strlen(path) > 160 ? path : arena_printf(a, "%s/%s", path, shown);
}

// ---- keywords -----------------------------------------------------------------------------------

static int type_of(const cJSON *value) {
    return cJSON_IsObject(value)   ? IS_OBJECT
           : cJSON_IsArray(value)  ? IS_ARRAY
           : cJSON_IsString(value) ? IS_STRING
           : cJSON_IsNumber(value) ? IS_NUMBER
           : cJSON_IsBool(value)   ? IS_BOOL
                                   : 32;
}

static const Keyword *keyword_find(const char *name) {
    for (size_t at = 0; at < sizeof keywords / sizeof *keywords; at++)
        if (strcmp(keywords[at].name, name) == 0)
            return &keywords[at];
    return NULL;
}

// Refused keywords with a value that says nothing.
static bool harmless(const cJSON *value) {
    return (strcmp(value->string, "uniqueItems") == 0 && cJSON_IsFalse(value)) ||
           (strcmp(value->string, "minProperties") == 0 && cJSON_IsNumber(value) &&
            value->valuedouble == 0) ||
           (strncmp(value->string, "unevaluated", 11) == 0 && cJSON_IsTrue(value));
}

// Checks all keywords; *rules: some say what is valid.
static bool keywords_check(Nfa *n, const cJSON *node, const char *path, bool *rules) {
    *rules = false;
    for (const cJSON *value = node->child; value && !n->failed; value = value->next) {
        const Keyword *k = keyword_find(value->string);
        if (!k || (k->kind == KEYWORD_REFUSED && harmless(value)))
            continue;
        if (k->kind == KEYWORD_REFUSED)
            nfa_fail(n, ERR_USAGE, 1230, "%s: the keyword \"%s\" is not supported", path, k->name);
        else if (!(type_of(value) & k->types))
            nfa_fail(n, ERR_USAGE, 1231, "%s: \"%s\" has a value of the wrong type", path, k->name);
        *rules = *rules || k->kind == KEYWORD_RULE;
    }
    return !n->failed;
}

// ---- references ---------------------------------------------------------------------------------

// One step of a JSON pointer (RFC 6901), with ~0, ~1 and %XX resolved.
static size_t step_read(const char *from, char *out, size_t room) {
    size_t at = 0, size = 0;
    for (; from[at] && from[at] != '/' && size + 1 < room; size++) {
        char hex[3] = {0};
        if (from[at] == '%' && from[at + 1] && from[at + 2]) {
            memcpy(hex, from + at + 1, 2);
            out[size] = (char)strtol(hex, NULL, 16);
            at += 3;
        } else if (from[at] == '~' && (from[at + 1] == '0' || from[at + 1] == '1')) {
            out[size] = from[at + 1] == '0' ? '~' : '/';
            at += 2;
        } else {
            out[size] = from[at++];
        }
    }
    out[size] = 0;
    return at;
}

static const cJSON *reference_find(const cJSON *root, const char *pointer) {
    const cJSON *node = root;
    while (node && *pointer == '/') {
        char name[512], *end;
        pointer += 1 + step_read(pointer + 1, name, sizeof name);
        long index = strtol(name, &end, 10);
        node = cJSON_IsArray(node) ? (*name && !*end ? cJSON_GetArrayItem(node, (int)index) : NULL)
                                   : schema_member(node, name);
    }
    return *pointer ? NULL : node;
}

typedef struct Todo {
    const cJSON *node;
    const char *path;
} Todo;

static bool known(const Parts *p, const cJSON *node) {
    for (int at = 0; at < p->count; at++)
        if (p->items[at].node == node)
            return true;
    return false;
}

// What a schema leads to, behind `count` others; the new count.
static int links_add(Nfa *n, const cJSON *root, Arena *a, Todo from, Todo *todo, int count) {
    const cJSON *ref = schema_member(from.node, "$ref"), *all = schema_member(from.node, "allOf");
    int at = 0;
    if (ref) {
        const char *text = ref->valuestring;
        const cJSON *to = *text == '#' ? reference_find(root, text + 1) : NULL;
        if (!to)
            nfa_fail(n, ERR_USAGE, 1232,
                     "%s: \"$ref\" leads to no schema of this document; expected # or "
                     "#/$defs/NAME",
                     from.path);
        if (count < PARTS_MAX)
            todo[count] =
                (Todo){to, arena_strndup(a, text, strlen(text) < 160 ? strlen(text) : 160)};
        count++;
    }
    for (const cJSON *child = all ? all->child : NULL; child; child = child->next, count++)
        if (count < PARTS_MAX)
            todo[count] = (Todo){child, arena_printf(a, "%.160s/allOf/%d", from.path, at++)};
    if (count > PARTS_MAX) {
        nfa_fail(n, ERR_RESOURCE, 1233, "%s: more than %d schemas in allOf and $ref", from.path,
                 PARTS_MAX);
        return PARTS_MAX;
    }
    return count;
}

void parts_add(Nfa *n, const cJSON *root, Arena *a, Parts *p, const cJSON *node, const char *path) {
    Todo todo[PARTS_MAX] = {{node, path}};
    for (int at = 0, count = 1; at < count && !n->failed; at++) {
        const cJSON *now = todo[at].node;
        bool rules, seen = false;
        for (int before = 0; before < at; before++)
            seen = seen || todo[before].node == now;
        if (seen || known(p, now) || cJSON_IsTrue(now))
            continue;
        if (cJSON_IsFalse(now)) {
            p->never = true;
            continue;
        }
        if (!cJSON_IsObject(now)) {
            nfa_fail(n, ERR_USAGE, 1234, "%s: expected a schema, which is an object or a boolean",
                     todo[at].path);
            return;
        }
        if (!keywords_check(n, now, todo[at].path, &rules))
            return;
        count = links_add(n, root, a, todo[at], todo, count);
        if (rules && p->count == PARTS_MAX)
            nfa_fail(n, ERR_RESOURCE, 1235, "%s: more than %d schemas for one value", path,
                     PARTS_MAX);
        else if (rules)
            p->items[p->count++] = (Part){.node = now, .path = todo[at].path};
    }
}

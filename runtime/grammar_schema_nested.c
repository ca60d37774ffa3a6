// Values of a schema that hold others: arrays and objects. Objects have their keys in the order of
// the schema; further keys only where additionalProperties allows them, or where no key is named at
// all.
#include "grammar_schema_rules.h"
#include "grammar_schema_types.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_KEYS = 2000 };

// ---- arrays -------------------------------------------------------------------------------------

// The item at `index`; -1: those behind all prefixItems.
static Fragment item_of(Schema *s, const Parts *p, int index) {
    Parts item = {.count = 0};
    for (int at = 0; at < p->count; at++) {
        const Part *part = &p->items[at];
        const cJSON *prefix = keyword(part, "prefixItems"), *items = keyword(part, "items");
        const cJSON *one = prefix && index >= 0 ? cJSON_GetArrayItem(prefix, index) : NULL;
        if (one)
            schema_add(s, &item, one,
                       arena_printf(&s->arena, "%.160s/prefixItems/%d", part->path, index));
        else if (items)
            schema_add(s, &item, items, path_of(&s->arena, part->path, "items"));
    }
    return schema_call(s, &item);
}

// Items behind `first` others.
static Fragment items_rest(Schema *s, const Parts *p, int32_t first, int32_t min, int32_t max) {
    Nfa *n = s->n;
    bool endless = max == NFA_UNBOUNDED;
    int32_t least = min > first ? min - first : 0;
    Fragment more = nfa_then(n, separator_fragment(n, ','), item_of(s, p, -1));
    if (first)
        return nfa_repeat(n, more, least, endless ? max : max - first);
    Fragment rest = nfa_repeat(n, more, least > 1 ? least - 1 : 0, endless ? max : max - 1);
    Fragment all = nfa_then(n, item_of(s, p, -1), rest);
    return least ? all : nfa_repeat(n, all, 0, 1);
}

Fragment schema_array(Schema *s, const Parts *p) {
    Nfa *n = s->n;
    int32_t min = schema_count(s, p, "minItems", true, 0), prefix = 0;
    int32_t max = schema_count(s, p, "maxItems", false, NFA_UNBOUNDED);
    for (int at = 0; at < p->count; at++) {
        int32_t size = cJSON_GetArraySize(keyword(&p->items[at], "prefixItems"));
        prefix = size > prefix ? size : prefix;
    }
    if (max != NFA_UNBOUNDED && max < min)
        return nfa_never(n);
    if (max != NFA_UNBOUNDED && max < prefix)
        prefix = max;
    Fragment all = nfa_text(n, "[", 1), close = nfa_text(n, "]", 1);
    for (int32_t at = 0; at < prefix && !n->failed; at++) {
        if (at >= min)
            nfa_edge(n, all.end, close.start);
        Fragment item = item_of(s, p, at);
        if (at)
            item = nfa_then(n, separator_fragment(n, ','), item);
        nfa_edge(n, all.end, item.start);
        all.end = item.end;
    }
    if (max == NFA_UNBOUNDED || max > prefix) {
        Fragment rest = items_rest(s, p, prefix, min, max);
        nfa_edge(n, all.end, rest.start);
        all.end = rest.end;
    }
    nfa_edge(n, all.end, close.start);
    return (Fragment){all.start, close.end};
}

// ---- objects ------------------------------------------------------------------------------------

typedef struct Keys {
    const char *names[MAX_KEYS];
    int32_t count;
} Keys;

// Named before by this part or another one?
static bool key_known(const Parts *p, int part, const cJSON *key) {
    for (int at = 0; at < part; at++)
        if (schema_member(keyword(&p->items[at], "properties"), key->string))
            return true;
    return schema_member(keyword(&p->items[part], "properties"), key->string) != key;
}

static bool key_required(const Parts *p, const char *name) {
    for (int at = 0; at < p->count; at++) {
        const cJSON *list = keyword(&p->items[at], "required");
        for (const cJSON *one = list ? list->child : NULL; one; one = one->next)
            if (cJSON_IsString(one) && strcmp(one->valuestring, name) == 0)
                return true;
    }
    return false;
}

static void key_add(Schema *s, Keys *k, const char *name) {
    if (k->count == MAX_KEYS)
        nfa_fail(s->n, ERR_RESOURCE, 1243, "an object of the schema has more than %d keys",
                 MAX_KEYS);
    else
        k->names[k->count++] = name;
}

static void keys_find(Schema *s, const Parts *p, Keys *k) {
    for (int at = 0; at < p->count; at++) {
        const cJSON *all = keyword(&p->items[at], "properties");
        for (const cJSON *key = all ? all->child : NULL; key && !s->n->failed; key = key->next)
            if (!key_known(p, at, key))
                key_add(s, k, key->string);
    }
    for (int at = 0; at < p->count; at++) { // those that are required only
        const cJSON *all = keyword(&p->items[at], "required");
        for (const cJSON *one = all ? all->child : NULL; one && !s->n->failed; one = one->next) {
            bool known = false;
            if (!cJSON_IsString(one))
                nfa_fail(s->n, ERR_USAGE, 1244, "%s: \"required\" has an entry that is no string",
                         p->items[at].path);
            for (int32_t key = 0; key < k->count && cJSON_IsString(one); key++)
                known = known || strcmp(k->names[key], one->valuestring) == 0;
            if (!known && cJSON_IsString(one))
                key_add(s, k, one->valuestring);
        }
    }
}

// `"name": value`
static Fragment pair_of(Schema *s, const Parts *p, const char *name) {
    Parts value = {.count = 0};
    for (int at = 0; at < p->count; at++) {
        const Part *part = &p->items[at];
        const cJSON *own = schema_member(keyword(part, "properties"), name);
        const cJSON *other = keyword(part, "additionalProperties");
        if (own)
            schema_add(s, &value, own,
                       path_of(&s->arena, path_of(&s->arena, part->path, "properties"), name));
        else if (other)
            schema_add(s, &value, other, path_of(&s->arena, part->path, "additionalProperties"));
    }
    Fragment key = nfa_then(s->n, quoted_fragment(s->n, name), separator_fragment(s->n, ':'));
    return nfa_then(s->n, key, schema_call(s, &value));
}

// A pair with another key.
static Fragment pair_other(Schema *s, const Parts *p, const Keys *k) {
    Parts value = {.count = 0};
    for (int at = 0; at < p->count; at++) {
        const cJSON *other = keyword(&p->items[at], "additionalProperties");
        if (other)
            schema_add(s, &value, other,
                       path_of(&s->arena, p->items[at].path, "additionalProperties"));
    }
    Fragment key =
        nfa_then(s->n, except_fragment(s->n, k->names, k->count), separator_fragment(s->n, ':'));
    return nfa_then(s->n, key, schema_call(s, &value));
}

// Adds an edge to a pair and from it: behind `{`, or behind a comma. none: no key stands before;
// some: one does.
static void pair_join(Nfa *n, Fragment pair, int32_t none, int32_t some, int32_t to) {
    Fragment comma = separator_fragment(n, ',');
    if (none >= 0)
        nfa_edge(n, none, pair.start);
    nfa_edge(n, some, comma.start);
    nfa_edge(n, comma.end, pair.start);
    if (to >= 0)
        nfa_edge(n, pair.end, to);
}

static Fragment object_fill(Schema *s, const Parts *p, Keys *k) {
    Nfa *n = s->n;
    keys_find(s, p, k);
    bool others = schema_has(p, "additionalProperties") || !k->count;
    Fragment open = nfa_text(n, "{", 1), close = nfa_text(n, "}", 1);
    int32_t none = open.end, some = nfa_place(n);
    for (int32_t at = 0; at < k->count && !n->failed; at++) {
        int32_t none_next = nfa_place(n), some_next = nfa_place(n);
        bool required = key_required(p, k->names[at]);
        pair_join(n, pair_of(s, p, k->names[at]), none, some, some_next);
        if (!required) {
            nfa_edge(n, none, none_next);
            nfa_edge(n, some, some_next);
        }
        none = none_next;
        some = some_next;
    }
    if (others && !n->failed) {
        Fragment pair = pair_other(s, p, k);
        pair_join(n, pair, none, some, some);
    }
    nfa_edge(n, none, close.start);
    nfa_edge(n, some, close.start);
    return (Fragment){open.start, close.end};
}

Fragment schema_object(Schema *s, const Parts *p) {
    Keys *k = calloc(1, sizeof *k);
    Fragment f = {0};
    if (k)
        f = object_fill(s, p, k);
    else
        nfa_fail(s->n, ERR_RESOURCE, 1245, "no memory for the keys of an object");
    free(k);
    return f;
}

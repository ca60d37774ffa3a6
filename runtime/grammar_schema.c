// From schemas to rules. A value that must fulfil several schemas at once (allOf, $ref beside other
// keywords, an alternative of anyOf) is a list of them, and a list is a rule; equal lists are the
// same rule, so references may be circular. Rules wait in a queue: nothing here is recursive.
//
// Objects have their keys in the order of the schema, as OpenAI's strict mode has it; further keys
// only where additionalProperties allows them, or where no key is named at all. oneOf is anyOf.
#include "grammar_schema.h"

#include "grammar_schema_parts.h"
#include "grammar_schema_types.h"
#include "utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RULES = 4096, MAX_KEYS = 2000 };

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

static const struct {
    const char *name;
    int type;
} types[] = {{"null", TYPE_NULL},       {"boolean", TYPE_BOOLEAN},
             {"integer", TYPE_INTEGER}, {"number", TYPE_NUMBER | TYPE_INTEGER},
             {"string", TYPE_STRING},   {"array", TYPE_ARRAY},
             {"object", TYPE_OBJECT}};

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

// ---- rules --------------------------------------------------------------------------------------

static bool same_parts(const SchemaRule *r, const Parts *p) {
    bool same = r->count == p->count && r->never == p->never;
    for (int at = 0; same && at < p->count; at++)
        same = r->parts[at].node == p->items[at].node &&
               r->parts[at].any_done == p->items[at].any_done &&
               r->parts[at].one_done == p->items[at].one_done;
    return same;
}

// A call of the rule for a list; a new one waits for its body.
static Fragment call_of(Schema *s, const Parts *p) {
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

static void add(Schema *s, Parts *p, const cJSON *node, const char *path) {
    parts_add(s->n, s->root, &s->arena, p, node, path);
}

// The smallest or largest value of a keyword; `none` if no part has it.
static double extreme(const Parts *p, const char *name, bool largest, double none) {
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

static bool has(const Parts *p, const char *name) {
    for (int at = 0; at < p->count; at++)
        if (keyword(&p->items[at], name))
            return true;
    return false;
}

static const char *path_first(const Parts *p) {
    return p->count ? p->items[0].path : "#";
}

// A count of characters or items.
static int32_t count_of(Schema *s, const Parts *p, const char *name, bool largest, int32_t none) {
    double value = extreme(p, name, largest, none);
    if (value == none)
        return none;
    if (value < 0 || value != floor(value))
        nfa_fail(s->n, ERR_USAGE, 1237, "%s: \"%s\" is %g, expected a count", path_first(p), name,
                 value);
    if (value > (double)NFA_MAX_REPEAT && largest) // of the least ones
        nfa_fail(s->n, ERR_RESOURCE, 1238, "%s: \"%s\" is more than %d", path_first(p), name,
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
        if (has(p, hints[at].name))
            all |= hints[at].type;
    return all & TYPE_NUMBER ? all | TYPE_INTEGER : all;
}

static int types_of(Schema *s, const Parts *p) {
    int all = TYPE_ALL;
    for (int at = 0; at < p->count; at++)
        all &= part_types(s, &p->items[at]);
    if (has(p, "type") || has(p, "enum") || has(p, "const"))
        return all;
    int meant = types_meant(p);
    return meant ? meant : all;
}

// ---- constants ----------------------------------------------------------------------------------

static int value_type(const cJSON *v) {
    bool whole = cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble);
    return cJSON_IsNull(v)     ? TYPE_NULL
           : cJSON_IsBool(v)   ? TYPE_BOOLEAN
           : whole             ? TYPE_INTEGER
           : cJSON_IsNumber(v) ? TYPE_NUMBER
           : cJSON_IsString(v) ? TYPE_STRING
           : cJSON_IsArray(v)  ? TYPE_ARRAY
                               : TYPE_OBJECT;
}

static bool listed(const cJSON *list, const cJSON *value) {
    for (const cJSON *one = list->child; one; one = one->next)
        if (cJSON_Compare(one, value, true))
            return true;
    return false;
}

// Is the value one that every part's enum and const has?
static bool constant_valid(const Parts *p, const cJSON *value, int allowed) {
    bool valid = value_type(value) & allowed;
    for (int at = 0; valid && at < p->count; at++) {
        const cJSON *list = keyword(&p->items[at], "enum"), *one = keyword(&p->items[at], "const");
        valid = (!list || listed(list, value)) && (!one || cJSON_Compare(one, value, true));
    }
    return valid;
}

static Fragment constants(Schema *s, const Parts *p, int allowed) {
    static const char *const others[] = {
        "properties",       "required",        "items",   "prefixItems", "minItems", "maxItems",
        "minLength",        "maxLength",       "pattern", "format",      "minimum",  "maximum",
        "exclusiveMinimum", "exclusiveMaximum"};
    const cJSON *list = NULL, *one = NULL;
    Fragment all = {0};
    bool any = false;
    for (size_t at = 0; at < sizeof others / sizeof *others; at++)
        if (has(p, others[at]))
            nfa_fail(s->n, ERR_USAGE, 1240, "%s: enum or const beside \"%s\" is not supported",
                     path_first(p), others[at]);
    for (int at = 0; at < p->count && !list && !one; at++) {
        list = keyword(&p->items[at], "enum");
        one = keyword(&p->items[at], "const");
    }
    for (const cJSON *v = one ? one : list->child; v && !s->n->failed; v = one ? NULL : v->next) {
        if (!constant_valid(p, v, allowed))
            continue;
        Fragment f = literal_fragment(s->n, v);
        all = any ? nfa_either(s->n, all, f) : f;
        any = true;
    }
    return any ? all : nfa_never(s->n);
}

// ---- strings and numbers ------------------------------------------------------------------------

static Fragment string_of(Schema *s, const Parts *p) {
    const cJSON *pattern = NULL, *format = NULL;
    int found = 0;
    for (int at = 0; at < p->count; at++) {
        const cJSON *one = keyword(&p->items[at], "pattern"),
                    *other = keyword(&p->items[at], "format");
        bool again = (one && pattern && strcmp(one->valuestring, pattern->valuestring) == 0) ||
                     (other && format && strcmp(other->valuestring, format->valuestring) == 0);
        found += again ? 0 : (one != NULL) + (other != NULL);
        pattern = one ? one : pattern;
        format = other ? other : format;
    }
    bool length = has(p, "minLength") || has(p, "maxLength");
    Fragment f = {0};
    if (found > 1 || (found && length)) {
        nfa_fail(s->n, ERR_USAGE, 1241,
                 "%s: only one of pattern, format, and minLength or maxLength is supported for a "
                 "string",
                 path_first(p));
    } else if (pattern) {
        RegexOptions o = {.json = true, .search = true};
        o.name = path_of(&s->arena, path_first(p), "pattern");
        const char *text = pattern->valuestring;
        f = regex_fragment(s->n, (Bytes){(const unsigned char *)text, strlen(text)}, &o);
        f = quotes_fragment(s->n, f);
    } else if (format) {
        if (!format_fragment(s->n, format->valuestring, &f))
            nfa_fail(s->n, ERR_USAGE, 1242,
                     "%s: this format is not supported; date, date-time, duration, email, "
                     "hostname, ipv4, ipv6, time, uri, uuid are",
                     path_first(p));
    } else {
        int32_t min = count_of(s, p, "minLength", true, 0);
        int32_t max = count_of(s, p, "maxLength", false, NFA_UNBOUNDED);
        f = max != NFA_UNBOUNDED && max < min ? nfa_never(s->n) : string_fragment(s->n, min, max);
    }
    return f;
}

static Fragment number_of(Schema *s, const Parts *p, bool integer) {
    NumberBounds b = {.low = extreme(p, "minimum", true, -HUGE_VAL),
                      .high = extreme(p, "maximum", false, HUGE_VAL)};
    double above = extreme(p, "exclusiveMinimum", true, -HUGE_VAL);
    double below = extreme(p, "exclusiveMaximum", false, HUGE_VAL);
    b.low_open = above >= b.low && isfinite(above);
    b.high_open = below <= b.high && isfinite(below);
    b.low = b.low_open ? above : b.low;
    b.high = b.high_open ? below : b.high;
    if (b.low > b.high)
        return nfa_never(s->n);
    return number_fragment(s->n, b, integer, path_first(p));
}

// ---- arrays -------------------------------------------------------------------------------------

// The item at `index`; -1: those behind all prefixItems.
static Fragment item_of(Schema *s, const Parts *p, int index) {
    Parts item = {.count = 0};
    for (int at = 0; at < p->count; at++) {
        const Part *part = &p->items[at];
        const cJSON *prefix = keyword(part, "prefixItems"), *items = keyword(part, "items");
        const cJSON *one = prefix && index >= 0 ? cJSON_GetArrayItem(prefix, index) : NULL;
        if (one)
            add(s, &item, one, arena_printf(&s->arena, "%.160s/prefixItems/%d", part->path, index));
        else if (items)
            add(s, &item, items, path_of(&s->arena, part->path, "items"));
    }
    return call_of(s, &item);
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

static Fragment array_of(Schema *s, const Parts *p) {
    Nfa *n = s->n;
    int32_t min = count_of(s, p, "minItems", true, 0), prefix = 0;
    int32_t max = count_of(s, p, "maxItems", false, NFA_UNBOUNDED);
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
            add(s, &value, own,
                path_of(&s->arena, path_of(&s->arena, part->path, "properties"), name));
        else if (other)
            add(s, &value, other, path_of(&s->arena, part->path, "additionalProperties"));
    }
    Fragment key = nfa_then(s->n, quoted_fragment(s->n, name), separator_fragment(s->n, ':'));
    return nfa_then(s->n, key, call_of(s, &value));
}

// A pair with another key.
static Fragment pair_other(Schema *s, const Parts *p, const Keys *k) {
    Parts value = {.count = 0};
    for (int at = 0; at < p->count; at++) {
        const cJSON *other = keyword(&p->items[at], "additionalProperties");
        if (other)
            add(s, &value, other, path_of(&s->arena, p->items[at].path, "additionalProperties"));
    }
    Fragment key =
        nfa_then(s->n, except_fragment(s->n, k->names, k->count), separator_fragment(s->n, ':'));
    return nfa_then(s->n, key, call_of(s, &value));
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
    bool others = has(p, "additionalProperties") || !k->count;
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

static Fragment object_of(Schema *s, const Parts *p) {
    Keys *k = calloc(1, sizeof *k);
    Fragment f = {0};
    if (k)
        f = object_fill(s, p, k);
    else
        nfa_fail(s->n, ERR_RESOURCE, 1245, "no memory for the keys of an object");
    free(k);
    return f;
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
    return number_of(s, p, true);
}

static Fragment real_of(Schema *s, const Parts *p) {
    return number_of(s, p, false);
}

static Fragment by_type(Schema *s, const Parts *p, int allowed) {
    static const struct {
        int type;
        Fragment (*make)(Schema *s, const Parts *p);
    } makers[] = {{TYPE_NULL, null_of},    {TYPE_BOOLEAN, boolean_of}, {TYPE_INTEGER, integer_of},
                  {TYPE_NUMBER, real_of},  {TYPE_STRING, string_of},   {TYPE_ARRAY, array_of},
                  {TYPE_OBJECT, object_of}};
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
        add(s, &chosen, one, arena_printf(&s->arena, "%.160s/%d", path, at++));
        Fragment f = call_of(s, &chosen);
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
    if (has(p, "enum") || has(p, "const"))
        return constants(s, p, allowed);
    return by_type(s, p, allowed);
}

static int32_t compile(Schema *s) {
    Parts p = {.count = 0};
    add(s, &p, s->root, "#");
    call_of(s, &p);
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

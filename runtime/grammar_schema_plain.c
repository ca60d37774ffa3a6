// Values of a schema that hold no others: constants, strings, numbers.
#include "grammar_schema_rules.h"
#include "grammar_schema_types.h"

#include <math.h>
#include <string.h>

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

Fragment schema_constants(Schema *s, const Parts *p, int allowed) {
    static const char *const others[] = {
        "properties",       "required",        "items",   "prefixItems", "minItems", "maxItems",
        "minLength",        "maxLength",       "pattern", "format",      "minimum",  "maximum",
        "exclusiveMinimum", "exclusiveMaximum"};
    const cJSON *list = NULL, *one = NULL;
    Fragment all = {0};
    bool any = false;
    for (size_t at = 0; at < sizeof others / sizeof *others; at++)
        if (schema_has(p, others[at]))
            nfa_fail(s->n, ERR_USAGE, 1240, "%s: enum or const beside \"%s\" is not supported",
                     schema_path(p), others[at]);
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

Fragment schema_string(Schema *s, const Parts *p) {
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
    bool length = schema_has(p, "minLength") || schema_has(p, "maxLength");
    Fragment f = {0};
    if (found > 1 || (found && length)) {
        nfa_fail(s->n, ERR_USAGE, 1241,
                 "%s: only one of pattern, format, and minLength or maxLength is supported for a "
                 "string",
                 schema_path(p));
    } else if (pattern) {
        RegexOptions o = {.json = true, .search = true};
        o.name = path_of(&s->arena, schema_path(p), "pattern");
        const char *text = pattern->valuestring;
        f = regex_fragment(s->n, (Bytes){(const unsigned char *)text, strlen(text)}, &o);
        f = quotes_fragment(s->n, f);
    } else if (format) {
        if (!format_fragment(s->n, format->valuestring, &f))
            nfa_fail(s->n, ERR_USAGE, 1242,
                     "%s: this format is not supported; date, date-time, duration, email, "
                     "hostname, ipv4, ipv6, time, uri, uuid are",
                     schema_path(p));
    } else {
        int32_t min = schema_count(s, p, "minLength", true, 0);
        int32_t max = schema_count(s, p, "maxLength", false, NFA_UNBOUNDED);
        f = max != NFA_UNBOUNDED && max < min ? nfa_never(s->n) : string_fragment(s->n, min, max);
    }
    return f;
}

Fragment schema_number(Schema *s, const Parts *p, bool integer) {
    NumberBounds b = {.low = schema_extreme(p, "minimum", true, -HUGE_VAL),
                      .high = schema_extreme(p, "maximum", false, HUGE_VAL)};
    double above = schema_extreme(p, "exclusiveMinimum", true, -HUGE_VAL);
    double below = schema_extreme(p, "exclusiveMaximum", false, HUGE_VAL);
    b.low_open = above >= b.low && isfinite(above);
    b.high_open = below <= b.high && isfinite(below);
    b.low = b.low_open ? above : b.low;
    b.high = b.high_open ? below : b.high;
    if (b.low > b.high)
        return nfa_never(s->n);
    return number_fragment(s->n, b, integer, schema_path(p));
}

// Filters of chat templates: jinja2/filters.py, and tojson as transformers defines it. What jinja2
// gives as a generator is one here too, but its items are made at once.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template_value.h"

typedef bool Filter(Run *r, Value v, const Args *args, Value *out);

static const Text empty_text = {.data = "", .size = 0};

// ---- texts --------------------------------------------------------------------------------------

static bool case_filter(Run *r, Value v, const Args *args, CaseKind kind, Value *out) {
    TRY(args_none(r, "the filter", args));
    TRY(value_string(r, v, &v));
    return text_case(r, v.text, kind, out);
}

bool filter_upper(Run *r, Value v, const Args *args, Value *out) {
    return case_filter(r, v, args, CASE_UPPER, out);
}

bool filter_lower(Run *r, Value v, const Args *args, Value *out) {
    return case_filter(r, v, args, CASE_LOWER, out);
}

bool filter_title(Run *r, Value v, const Args *args, Value *out) {
    return case_filter(r, v, args, CASE_WORDS, out);
}

bool filter_capitalize(Run *r, Value v, const Args *args, Value *out) {
    return case_filter(r, v, args, CASE_CAPITALIZE, out);
}

bool filter_trim(Run *r, Value v, const Args *args, Value *out) {
    Value chars;
    TRY(args_bind(r, "trim", args, "chars", 0, &chars));
    TRY(value_string(r, v, &v));
    return text_strip(r, v.text, value_or(chars, value_none()), 3, out);
}

bool filter_string(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "string", args));
    return value_string(r, v, out);
}

bool filter_safe(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "safe", args));
    TRY(value_string(r, v, &v));
    TRY(text_part(r, v.text, 0, v.text->size, out));
    ((Text *)out->text)->safe = true;
    return true;
}

bool filter_forceescape(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "escape", args));
    TRY(value_string(r, v, &v));
    return text_escape_html(r, v.text, out);
}

bool filter_escape(Run *r, Value v, const Args *args, Value *out) {
    *out = v;
    return v.kind == VALUE_TEXT && v.text->safe ? true : filter_forceescape(r, v, args, out);
}

bool filter_replace(Run *r, Value v, const Args *args, Value *out) {
    Value given[3];
    TRY(args_bind(r, "replace", args, "old new count", 2, given));
    TRY(value_string(r, v, &v));
    TRY(value_string(r, given[0], &given[0]));
    TRY(value_string(r, given[1], &given[1]));
    if (given[2].kind == VALUE_NONE)
        given[2].kind = VALUE_MISSING;
    return text_replace(r, v.text, given, out);
}

bool filter_center(Run *r, Value v, const Args *args, Value *out) {
    static const Text space = {.data = " ", .size = 1};
    Value width;
    int64_t chars = 80;
    TRY(args_bind(r, "center", args, "width", 0, &width));
    TRY(value_string(r, v, &v));
    if (width.kind != VALUE_MISSING)
        TRY(arg_int(r, width, &chars));
    return text_pad(r, v.text, chars, &space, 0, out);
}

bool filter_format(Run *r, Value v, const Args *args, Value *out) {
    Value arguments;
    TRY(value_string(r, v, &v));
    if (args->count && args->keyword_count)
        return type_fail(r, "format takes positional or keyword arguments, not both");
    if (args->keyword_count) {
        TRY(dict_make(r, &arguments));
        for (int at = 0; at < args->keyword_count; at++)
            TRY(dict_set(r, arguments.dict, args->keywords[at].key, args->keywords[at].value));
    } else {
        TRY(list_make(r, LIST_TUPLE, args->values, (size_t)args->count, &arguments));
    }
    return format_percent(r, v.text, arguments, out);
}

bool filter_indent(Run *r, Value v, const Args *args, Value *out) {
    Value given[3], lines;
    int64_t width = 4;
    TRY(args_bind(r, "indent", args, "width first blank", 0, given));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (v.kind != VALUE_TEXT)
        return type_fail(r, "indent takes a string, found %s", value_type(v));
    if (given[0].kind != VALUE_TEXT) {
        static const Text space = {.data = " ", .size = 1};
        if (given[0].kind != VALUE_MISSING)
            TRY(arg_int(r, given[0], &width));
        TRY(text_pad(r, &empty_text, width, &space, 1, &given[0]));
    }
    bool first = value_truth(value_or(given[1], value_bool(false)));
    bool blank = value_truth(value_or(given[2], value_bool(false)));
    Builder b = {.r = r}, whole = {.r = r};
    TRY(builder_text(&whole, v.text));
    TRY(builder_plain(&whole, "\n"));
    TRY(builder_done(&whole, &lines));
    TRY(text_splitlines(r, lines.text, false, &lines));
    for (uint32_t at = 0; at < lines.list->count; at++) {
        const Text *line = lines.list->items[at].text;
        TRY(builder_plain(&b, at ? "\n" : ""));
        if (at ? line->size || blank : first)
            TRY(builder_text(&b, given[0].text));
        TRY(builder_text(&b, line));
    }
    return builder_done(&b, out);
}

bool filter_truncate(Run *r, Value v, const Args *args, Value *out) {
    Value given[4], part;
    int64_t length = 255, leeway = 5, size;
    TRY(args_bind(r, "truncate", args, "length killwords end leeway", 0, given));
    if (given[0].kind != VALUE_MISSING)
        TRY(arg_int(r, given[0], &length));
    if (given[3].kind != VALUE_MISSING && given[3].kind != VALUE_NONE)
        TRY(arg_int(r, given[3], &leeway));
    if (given[2].kind == VALUE_MISSING)
        TRY(text_make(r, "...", 3, &given[2]));
    TRY(value_string(r, given[2], &given[2]));
    int64_t end = (int64_t)text_length(given[2].text);
    TRY(value_length(r, v, &size));
    if (length < end || leeway < 0)
        return value_fail(r, "truncate: a length below that of its end");
    *out = v;
    if (size <= length || size - length <= leeway)
        return true;
    if (v.kind != VALUE_TEXT)
        return type_fail(r, "truncate takes a string, found %s", value_type(v));
    Value bounds[3] = {value_none(), value_int(length - end), value_none()};
    TRY(value_slice(r, v, bounds, &part));
    if (!value_truth(value_or(given[1], value_bool(false)))) {
        const char *space = memrchr(part.text->data, ' ', part.text->size);
        if (space)
            TRY(text_part(r, part.text, 0, (size_t)(space - part.text->data), &part));
    }
    return value_binary(r, TEMPLATE_OP_ADD, part, given[2], out);
}

bool filter_urlencode(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "urlencode", args));
    if (v.kind == VALUE_DICT || v.kind == VALUE_LIST)
        return type_fail(r, "urlencode of a %s is not supported", value_type(v));
    TRY(value_string(r, v, &v));
    Builder b = {.r = r};
    for (size_t at = 0; at < v.text->size; at++) {
        unsigned char c = (unsigned char)v.text->data[at];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                     (c && strchr("_.-~/", c));
        char code[4];
        snprintf(code, sizeof code, "%%%02X", c);
        TRY(plain ? builder_part(&b, v.text, at, at + 1)
                  : builder_add(&b, code, 3, NULL, text_mark(v.text, at)));
    }
    return builder_done(&b, out);
}

bool filter_tojson(Run *r, Value v, const Args *args, Value *out) {
    static const Text comma = {.data = ", ", .size = 2}, colon = {.data = ": ", .size = 2};
    static const Text space = {.data = " ", .size = 1};
    Value given[4];
    TRY(args_bind(r, "tojson", args, "ensure_ascii indent separators sort_keys", 0, given));
    JsonStyle style = {.ascii = value_truth(value_or(given[0], value_bool(false))),
                       .sort_keys = value_truth(value_or(given[3], value_bool(false))),
                       .item_end = &comma,
                       .key_end = &colon};
    if (given[1].kind == VALUE_TEXT) {
        style.indent = given[1].text;
    } else if (given[1].kind != VALUE_MISSING && given[1].kind != VALUE_NONE) {
        int64_t width;
        TRY(arg_int(r, given[1], &width));
        TRY(text_pad(r, &empty_text, width, &space, 1, &given[1]));
        style.indent = given[1].text;
    }
    Text line_comma = {.data = ",", .size = 1};
    if (style.indent)
        style.item_end = &line_comma;
    if (given[2].kind != VALUE_MISSING && given[2].kind != VALUE_NONE) {
        if (given[2].kind != VALUE_LIST || given[2].list->count != 2 ||
            given[2].list->items[0].kind != VALUE_TEXT ||
            given[2].list->items[1].kind != VALUE_TEXT)
            return type_fail(r, "tojson: separators must be two strings");
        style.item_end = given[2].list->items[0].text;
        style.key_end = given[2].list->items[1].text;
    }
    Builder b = {.r = r};
    TRY(json_dump(&b, v, &style, 0));
    return builder_done(&b, out);
}

// ---- numbers ------------------------------------------------------------------------------------

static Text without_blanks(Text text) {
    while (text.size && is_space((unsigned char)text.data[0])) {
        text.data++;
        text.size--;
    }
    while (text.size && is_space((unsigned char)text.data[text.size - 1]))
        text.size--;
    return text;
}

// int(text, base) or float(text) as Python reads them; false: no number.
static bool parse_int(const Text *text, int base, int64_t *out) {
    char digits[72];
    size_t used = 0;
    bool after_digit = false;
    Text rest = without_blanks(*text);
    for (size_t at = 0; at < rest.size; at++) {
        char c = rest.data[at];
        if (c == '_' && after_digit && at + 1 < rest.size && rest.data[at + 1] != '_')
            continue;
        after_digit = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if ((!after_digit && !(at == 0 && (c == '-' || c == '+'))) || used + 1 >= sizeof digits)
            return false;
        digits[used++] = c;
    }
    digits[used] = 0;
    const char *start = digits + (digits[0] == '-' || digits[0] == '+');
    if (base == 2 && start[0] == '0' && (start[1] | 32) == 'b')
        memmove((char *)start, start + 2, strlen(start + 2) + 1);
    if (base == 8 && start[0] == '0' && (start[1] | 32) == 'o')
        memmove((char *)start, start + 2, strlen(start + 2) + 1);
    char *end;
    errno = 0;
    *out = strtoll(digits, &end, base);
    return *start && end != digits && *end == 0 && errno == 0;
}

static bool parse_float(const Text *text, double *out) {
    char digits[400];
    Text rest = without_blanks(*text);
    if (rest.size == 0 || rest.size >= sizeof digits || memchr(rest.data, 'x', rest.size) ||
        memchr(rest.data, 'X', rest.size) || memchr(rest.data, '(', rest.size))
        return false;
    memcpy(digits, rest.data, rest.size);
    digits[rest.size] = 0;
    char *end;
    *out = strtod(digits, &end);
    return end != digits && *end == 0;
}

static bool float_to_int(Run *r, double number, Value *out) {
    if (!(number > -9.2e18 && number < 9.2e18))
        return value_fail(r, "a number beyond 64 bits is not supported");
    *out = value_int((int64_t)number);
    return true;
}

bool filter_int(Run *r, Value v, const Args *args, Value *out) {
    Value given[2];
    int64_t base = 10, number;
    double real;
    TRY(args_bind(r, "int", args, "default base", 0, given));
    if (given[1].kind != VALUE_MISSING)
        TRY(arg_int(r, given[1], &base));
    *out = value_or(given[0], value_int(0));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (is_integral(v))
        *out = value_int(v.integer);
    else if (v.kind == VALUE_BIG)
        *out = v;
    else if (v.kind == VALUE_FLOAT && !isnan(v.number) && !isinf(v.number))
        return float_to_int(r, v.number, out);
    else if (v.kind == VALUE_TEXT && base >= 2 && base <= 36 &&
             parse_int(v.text, (int)base, &number))
        *out = value_int(number);
    else if (v.kind == VALUE_TEXT && parse_float(v.text, &real) && !isnan(real) && !isinf(real))
        return float_to_int(r, real, out);
    return true;
}

bool filter_float(Run *r, Value v, const Args *args, Value *out) {
    Value given;
    double real;
    TRY(args_bind(r, "float", args, "default", 0, &given));
    *out = value_or(given, value_float(0));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (is_integral(v))
        *out = value_float((double)v.integer);
    else if (v.kind == VALUE_FLOAT)
        *out = v;
    else if ((v.kind == VALUE_TEXT || v.kind == VALUE_BIG) && parse_float(v.text, &real))
        *out = value_float(real);
    return true;
}

bool filter_abs(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "abs", args));
    if (v.kind == VALUE_FLOAT)
        *out = value_float(fabs(v.number));
    else if (is_integral(v) && v.integer >= 0)
        *out = value_int(v.integer);
    else
        return value_unary(r, TEMPLATE_OP_NEG, v, out);
    return true;
}

// Correctly rounded, half to even, through the decimal digits as Python does.
static double round_to(double number, int64_t places) {
    char digits[400];
    if (isnan(number) || isinf(number) || places > 300)
        return number;
    if (places >= 0) {
        snprintf(digits, sizeof digits, "%.*f", (int)places, number);
        return strtod(digits, NULL);
    }
    if (places < -300)
        return 0;
    double unit = pow(10, (double)-places);
    return nearbyint(number / unit) * unit;
}

bool filter_round(Run *r, Value v, const Args *args, Value *out) {
    Value given[2];
    int64_t places = 0;
    TRY(args_bind(r, "round", args, "precision method", 0, given));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (!is_number(v))
        return type_fail(r, "round takes a number, found %s", value_type(v));
    if (given[0].kind != VALUE_MISSING)
        TRY(arg_int(r, given[0], &places));
    bool up = given[1].kind == VALUE_TEXT && text_is(given[1].text, "ceil");
    bool down = given[1].kind == VALUE_TEXT && text_is(given[1].text, "floor");
    bool common = given[1].kind == VALUE_MISSING ||
                  (given[1].kind == VALUE_TEXT && text_is(given[1].text, "common"));
    if (!up && !down && !common)
        return value_fail(r, "round: the method must be common, ceil or floor");
    *out = v;
    if (common && is_integral(v)) {
        if (places < 0)
            return type_fail(r, "round of an integer to tens is not supported");
        *out = value_int(v.integer);
        return true;
    }
    double number = v.kind == VALUE_FLOAT ? v.number : (double)v.integer;
    double unit = pow(10, (double)places);
    *out = value_float(common ? round_to(number, places)
                              : (up ? ceil(number * unit) : floor(number * unit)) / unit);
    return true;
}

// ---- one item of many ---------------------------------------------------------------------------

bool filter_length(Run *r, Value v, const Args *args, Value *out) {
    int64_t length;
    TRY(args_none(r, "length", args));
    TRY(value_length(r, v, &length));
    *out = value_int(length);
    return true;
}

bool filter_default(Run *r, Value v, const Args *args, Value *out) {
    Value given[2];
    TRY(args_bind(r, "default", args, "default_value boolean", 0, given));
    bool boolean = value_truth(value_or(given[1], value_bool(false)));
    *out = v;
    if (v.kind == VALUE_UNDEFINED || (boolean && !value_truth(v)))
        *out = value_or(given[0], value_text(&empty_text));
    return true;
}

bool filter_attr(Run *r, Value v, const Args *args, Value *out) {
    Value name;
    TRY(args_bind(r, "attr", args, "name", 1, &name));
    if (name.kind != VALUE_TEXT)
        return type_fail(r, "attr takes a name, found %s", value_type(name));
    *out = value_undefined(name.text);
    out->owner = (uint8_t)v.kind;
    return v.kind == VALUE_DICT || v.kind == VALUE_UNDEFINED ? true
                                                             : value_attr(r, v, name.text, out);
}

bool filter_first(Run *r, Value v, const Args *args, Value *out) {
    const Value *items;
    uint32_t count, taken = is_list(v, LIST_GENERATOR) ? v.list->taken : 0;
    TRY(args_none(r, "first", args));
    TRY(value_items(r, v, &items, &count));
    *out = count ? items[0] : value_undefined(NULL);
    if (count && is_list(v, LIST_GENERATOR))
        v.list->taken = taken + 1;
    return true;
}

bool filter_last(Run *r, Value v, const Args *args, Value *out) {
    const Value *items;
    uint32_t count;
    TRY(args_none(r, "last", args));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (is_list(v, LIST_GENERATOR))
        return type_fail(r, "last does not work on a generator");
    TRY(value_items(r, v, &items, &count));
    *out = count ? items[count - 1] : value_undefined(NULL);
    return true;
}

static bool extreme(Run *r, Value v, const Args *args, bool largest, Value *out) {
    Value given[2], best, key;
    const Value *items;
    uint32_t count;
    TRY(args_bind(r, largest ? "max" : "min", args, "case_sensitive attribute", 0, given));
    TRY(value_items(r, v, &items, &count));
    *out = count ? items[0] : value_undefined(NULL);
    bool cased = value_truth(value_or(given[0], value_bool(false)));
    for (uint32_t at = 0; at < count; at++) {
        bool better = false;
        TRY(value_sort_key(r, items[at], given[1], cased, &key));
        if (at)
            TRY(largest ? value_less(r, best, key, &better) : value_less(r, key, best, &better));
        if (at && !better)
            continue;
        best = key;
        *out = items[at];
    }
    return true;
}

bool filter_min(Run *r, Value v, const Args *args, Value *out) {
    return extreme(r, v, args, false, out);
}

bool filter_max(Run *r, Value v, const Args *args, Value *out) {
    return extreme(r, v, args, true, out);
}

bool filter_sum(Run *r, Value v, const Args *args, Value *out) {
    Value given[2], item;
    const Value *items;
    uint32_t count;
    TRY(args_bind(r, "sum", args, "attribute start", 0, given));
    *out = value_or(given[1], value_int(0));
    if (out->kind == VALUE_TEXT)
        return type_fail(r, "sum cannot add strings");
    TRY(value_items(r, v, &items, &count));
    for (uint32_t at = 0; at < count; at++) {
        TRY(value_path(r, items[at], given[0], (Value){.kind = VALUE_MISSING}, &item));
        TRY(value_binary(r, TEMPLATE_OP_ADD, *out, item, out));
    }
    return true;
}

bool filter_join(Run *r, Value v, const Args *args, Value *out) {
    Value given[2], item;
    const Value *items;
    uint32_t count;
    TRY(args_bind(r, "join", args, "d attribute", 0, given));
    TRY(value_string(r, value_or(given[0], value_text(&empty_text)), &given[0]));
    TRY(value_items(r, v, &items, &count));
    Builder b = {.r = r};
    for (uint32_t at = 0; at < count; at++) {
        TRY(value_path(r, items[at], given[1], (Value){.kind = VALUE_MISSING}, &item));
        if (at)
            TRY(builder_text(&b, given[0].text));
        TRY(value_write(&b, item));
    }
    return builder_done(&b, out);
}

// ---- the table ----------------------------------------------------------------------------------

static const struct {
    const char *name;
    Filter *call;
} filters[] = {
#define FILTER_ROW(name, c_name) {name, filter_##c_name},
    TEMPLATE_FILTERS(FILTER_ROW)
#undef FILTER_ROW
};

int filter_id(const Text *name) {
    for (size_t id = 0; id < sizeof filters / sizeof filters[0]; id++) {
        if (text_is(name, filters[id].name))
            return (int)id;
    }
    return -1;
}

bool filter_call(Run *r, int id, Value subject, const Args *args, Value *out) {
    TRY(run_step(r, 1));
    return filters[id].call(r, subject, args, out);
}

// "%s" % x, the filter format, and "{}".format(x) of chat templates, as far as Python's formatting
// of strings and numbers goes. Not taken: grouping, alignment by '=', and conversions of other
// types.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template_value.h"

// What stands between % or : and the conversion.
typedef struct Spec {
    char align, sign; // '<' '>' '^', or 0; '+' ' ' or 0
    bool zero, alternate;
    int64_t width, precision; // -1: not given
    char type;
} Spec;

enum { MAX_WIDTH = 10000 };

static bool pad_to(Builder *b, const Text *text, const Spec *spec, char align) {
    static const Text space = {.data = " ", .size = 1}, zero = {.data = "0", .size = 1};
    Value padded;
    Text rest = *text;
    bool zeros = spec->zero && align == '>';
    if (zeros && rest.size && strchr("+- ", rest.data[0]) && rest.data[0]) {
        TRY(builder_part(b, text, 0, 1)); // a sign stands before the zeros
        rest.data++;
        rest.marks = rest.marks ? rest.marks + 1 : NULL;
        rest.size--;
    }
    TRY(text_pad(b->r, &rest, spec->width - (int64_t)(text->size - rest.size),
                 zeros ? &zero : &space,
                 align == '<'   ? 2
                 : align == '>' ? 1
                                : 0,
                 &padded));
    return builder_text(b, padded.text);
}

static bool format_text(Builder *b, const Text *text, const Spec *spec, char align) {
    Text cut = *text;
    if (spec->precision >= 0) {
        size_t at = 0;
        for (int64_t count = 0; count < spec->precision && at < text->size; count++)
            text_code(text, &at);
        cut.size = (uint32_t)at;
    }
    Spec plain = *spec;
    plain.zero = false;
    return pad_to(b, &cut, &plain, align);
}

static bool format_number(Builder *b, Value v, const Spec *spec, char align) {
    char out[800];
    const char *sign = spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    int64_t integer = v.kind == VALUE_FLOAT ? 0 : v.integer;
    double number = v.kind == VALUE_FLOAT ? v.number : (double)v.integer;
    if (precision > 300)
        return value_fail(b->r, "a precision above 300 is not supported");
    bool negative = integer < 0;
    uint64_t size = negative ? 0 - (uint64_t)integer : (uint64_t)integer;
    if (negative)
        sign = "-";
    switch (spec->type) {
    case 'd':
        snprintf(out, sizeof out, "%s%llu", sign, (unsigned long long)size);
        break;
    case 'x':
        snprintf(out, sizeof out, "%s%s%llx", sign, spec->alternate ? "0x" : "",
                 (unsigned long long)size);
        break;
    case 'X':
        snprintf(out, sizeof out, "%s%s%llX", sign, spec->alternate ? "0X" : "",
                 (unsigned long long)size);
        break;
    case 'o':
        snprintf(out, sizeof out, "%s%s%llo", sign, spec->alternate ? "0o" : "",
                 (unsigned long long)size);
        break;
    case 'f':
        snprintf(out, sizeof out, "%s%.*f", number < 0 ? "" : sign, precision, number);
        break;
    case 'e':
        snprintf(out, sizeof out, "%s%.*e", number < 0 ? "" : sign, precision, number);
        break;
    case '%':
        snprintf(out, sizeof out, "%s%.*f%%", number < 0 ? "" : sign, precision, number * 100);
        break;
    default:
        snprintf(out, sizeof out, "%s%.*g", number < 0 ? "" : sign, precision ? precision : 1,
                 number);
        break;
    }
    Text text = {.data = out, .size = (uint32_t)strlen(out)};
    return pad_to(b, &text, spec, align);
}

static bool read_digits(const Text *text, size_t *at, int64_t *out) {
    bool any = false;
    for (*out = 0; *at < text->size && text->data[*at] >= '0' && text->data[*at] <= '9'; ++*at) {
        *out = *out < MAX_WIDTH ? *out * 10 + (text->data[*at] - '0') : *out;
        any = true;
    }
    return any;
}

static bool check_number(Run *r, Value v, char type) {
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    bool integral = type && strchr("dxXo", type);
    if (!is_number(v) || (integral && v.kind == VALUE_FLOAT &&
                          (type != 'd' || !(v.number > -9e18 && v.number < 9e18))))
        return type_fail(r, "%%%c needs a number, found %s", type, value_type(v));
    return true;
}

// ---- percent ------------------------------------------------------------------------------------

typedef struct Percent {
    Value arguments; // a tuple, a dict, or one value
    uint32_t used;
} Percent;

static bool percent_next(Run *r, Percent *p, Value *out) {
    bool tuple = is_list(p->arguments, LIST_TUPLE);
    uint32_t count = tuple ? p->arguments.list->count : 1;
    if (p->used == count)
        return type_fail(r, "not enough arguments for the format string");
    *out = tuple ? p->arguments.list->items[p->used] : p->arguments;
    p->used++;
    return true;
}

static bool percent_spec(Run *r, Percent *p, const Text *format, size_t *at, Spec *spec) {
    *spec = (Spec){.precision = -1};
    for (; *at < format->size && format->data[*at] && strchr("-+ 0#", format->data[*at]); ++*at) {
        char flag = format->data[*at];
        if (flag == '-')
            spec->align = '<';
        else if (flag == '0')
            spec->zero = true;
        else if (flag == '#')
            spec->alternate = true;
        else
            spec->sign = flag;
    }
    Value width;
    if (*at < format->size && format->data[*at] == '*') {
        ++*at;
        TRY(percent_next(r, p, &width));
        TRY(arg_int(r, width, &spec->width));
    } else {
        read_digits(format, at, &spec->width);
    }
    if (*at < format->size && format->data[*at] == '.') {
        ++*at;
        read_digits(format, at, &spec->precision);
    }
    if (*at >= format->size)
        return value_fail(r, "incomplete format");
    spec->type = format->data[(*at)++];
    return spec->width <= MAX_WIDTH ? true : value_fail(r, "a format wider than %d", MAX_WIDTH);
}

static bool percent_value(Builder *b, Percent *p, Value v, Spec *spec) {
    (void)p;
    char align = spec->align ? spec->align : '>';
    if (spec->type == 's' || spec->type == 'r') {
        Builder shown = {.r = b->r};
        Value text;
        TRY(spec->type == 's' ? value_write(&shown, v) : value_repr(&shown, v, 0));
        TRY(builder_done(&shown, &text));
        return format_text(b, text.text, spec, align);
    }
    if (spec->type == 'i' || spec->type == 'u')
        spec->type = 'd';
    if (!spec->type || !strchr("dxXofeg", spec->type))
        return value_fail(b->r, "unsupported format character '%c'", spec->type);
    TRY(check_number(b->r, v, spec->type));
    if (spec->type == 'd' && v.kind == VALUE_FLOAT)
        v = value_int((int64_t)v.number);
    if (spec->align == '<')
        spec->zero = false;
    return format_number(b, v, spec, align);
}

bool format_percent(Run *r, const Text *format, Value arguments, Value *out) {
    Builder b = {.r = r};
    Percent p = {.arguments = arguments};
    for (size_t at = 0; at < format->size;) {
        const char *sign = memchr(format->data + at, '%', format->size - at);
        size_t to = sign ? (size_t)(sign - format->data) : format->size;
        TRY(builder_part(&b, format, at, to));
        at = to + 1;
        if (!sign)
            break;
        Spec spec;
        Value v = value_none();
        bool named = at < format->size && format->data[at] == '(';
        if (named) {
            size_t from = ++at;
            while (at < format->size && format->data[at] != ')')
                at++;
            bool found = false;
            Value key;
            TRY(text_part(r, format, from, at, &key));
            if (arguments.kind == VALUE_DICT)
                TRY(dict_get(r, arguments.dict, key, &v, &found));
            if (!found)
                return type_fail(r, "format: a named argument is not there");
            at++;
        }
        TRY(percent_spec(r, &p, format, &at, &spec));
        if (spec.type == '%') {
            TRY(builder_plain(&b, "%"));
            continue;
        }
        if (!named)
            TRY(percent_next(r, &p, &v));
        TRY(percent_value(&b, &p, v, &spec));
    }
    if (arguments.kind != VALUE_DICT && !is_list(arguments, LIST_LIST) &&
        p.used < (is_list(arguments, LIST_TUPLE) ? arguments.list->count : 1))
        return type_fail(r, "not all arguments were used by the format string");
    return builder_done(&b, out);
}

// ---- braces -------------------------------------------------------------------------------------

// [[fill]align][sign][#][0][width][.precision][type]
static bool brace_spec(Run *r, const Text *spec_text, Spec *spec) {
    size_t at = 0;
    *spec = (Spec){.precision = -1};
    if (spec_text->size && strchr("<>^", spec_text->data[0]) && spec_text->data[0])
        spec->align = spec_text->data[at++];
    for (; at < spec_text->size && spec_text->data[at] && strchr("+ #0-", spec_text->data[at]);
         at++) {
        char flag = spec_text->data[at];
        spec->zero = spec->zero || flag == '0';
        spec->alternate = spec->alternate || flag == '#';
        spec->sign = flag == '+' || flag == ' ' ? flag : spec->sign;
    }
    read_digits(spec_text, &at, &spec->width);
    if (at < spec_text->size && spec_text->data[at] == '.') {
        at++;
        read_digits(spec_text, &at, &spec->precision);
    }
    if (at < spec_text->size)
        spec->type = spec_text->data[at++];
    if (at < spec_text->size || spec->width > MAX_WIDTH)
        return value_fail(r, "a format specification that is not supported");
    return true;
}

static bool brace_value(Builder *b, Value v, const Text *spec_text) {
    Spec spec;
    Value text;
    TRY(brace_spec(b->r, spec_text, &spec));
    if (v.kind == VALUE_TEXT && (!spec.type || spec.type == 's'))
        return format_text(b, v.text, &spec, spec.align ? spec.align : '<');
    char align = spec.align ? spec.align : '>';
    bool typed = spec.type && strchr("dxXofeg%", spec.type);
    if (is_number(v) && (typed || (!spec.type && v.kind == VALUE_INT && spec.precision < 0))) {
        spec.type = spec.type ? spec.type : 'd';
        if (v.kind == VALUE_FLOAT && strchr("dxXo", spec.type))
            return value_fail(b->r, "format: '%c' needs an integer", spec.type);
        return format_number(b, v, &spec, align);
    }
    if (spec_text->size)
        return value_fail(b->r, "a format specification that is not supported for %s",
                          value_type(v));
    TRY(value_string(b->r, v, &text));
    return builder_text(b, text.text);
}

// The value that the field name "", "0", "name" or "name.attr" or "name[key]" stands for.
static bool brace_field(Run *r, const Text *name, const Args *args, int *next, Value *out) {
    size_t at = 0;
    int64_t number;
    if (name->size == 0 || read_digits(name, &at, &number)) {
        number = name->size ? number : (*next)++;
        if (at < name->size || number >= args->count)
            return value_fail(r, "format: there is no argument %lld", (long long)number);
        *out = args->values[number];
        return true;
    }
    for (int which = 0; which < args->keyword_count; which++) {
        if (text_same(args->keywords[which].key.text, name)) {
            *out = args->keywords[which].value;
            return true;
        }
    }
    return value_fail(r, "format: there is no argument \"%.*s\"", (int)(name->size & 63),
                      name->data);
}

bool format_braces(Run *r, const Text *format, const Args *args, Value *out) {
    Builder b = {.r = r};
    int next = 0;
    for (size_t at = 0; at < format->size;) {
        char c = format->data[at];
        if (c != '{' && c != '}') {
            TRY(builder_part(&b, format, at, at + 1));
            at++;
            continue;
        }
        if (at + 1 < format->size && format->data[at + 1] == c) {
            TRY(builder_part(&b, format, at, at + 1));
            at += 2;
            continue;
        }
        const char *close = memchr(format->data + at, '}', format->size - at);
        if (c == '}' || !close)
            return value_fail(r, "format: a single '%c'", c);
        size_t end = (size_t)(close - format->data);
        const char *colon = memchr(format->data + at, ':', end - at);
        size_t split = colon ? (size_t)(colon - format->data) : end;
        Value name, spec, v;
        TRY(text_part(r, format, at + 1, split, &name));
        TRY(text_part(r, format, colon ? split + 1 : end, end, &spec));
        TRY(brace_field(r, name.text, args, &next, &v));
        TRY(brace_value(&b, v, spec.text));
        at = end + 1;
    }
    return builder_done(&b, out);
}

// Texts of chat templates: UTF-8 with a mark for every byte that a user wrote, joined and cut
// without losing the marks, and Python's str() and repr() of all values.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template_value.h"
#include "utf8.h"

// ---- building -----------------------------------------------------------------------------------

static bool builder_reserve(Builder *b, size_t more) {
    size_t needed;
    if (!size_add(b->size, more, &needed) || needed > INT32_MAX || (b->limit && needed > b->limit))
        return run_fail(b->r, ERR_RESOURCE, 1065, "the text grows beyond %zu bytes",
                        b->limit ? b->limit : (size_t)INT32_MAX);
    if (needed <= b->capacity)
        return true;
    size_t capacity = needed < 64 ? 64 : needed + needed / 2;
    char *data = run_alloc(b->r, capacity, 1);
    if (!data)
        return false;
    if (b->size)
        memcpy(data, b->data, b->size);
    b->data = data;
    if (b->marks) {
        uint8_t *marks = run_alloc(b->r, capacity, 1);
        if (!marks)
            return false;
        memcpy(marks, b->marks, b->size);
        b->marks = marks;
    }
    b->capacity = capacity;
    return true;
}

// From one mark for all bytes to one for each.
static bool builder_split_marks(Builder *b) {
    b->marks = run_alloc(b->r, b->capacity, 1);
    if (!b->marks)
        return false;
    memset(b->marks, b->mark, b->size);
    return true;
}

bool builder_add(Builder *b, const char *data, size_t size, const uint8_t *marks, uint8_t mark) {
    if (size == 0)
        return true;
    TRY(run_step(b->r, size / 64));
    TRY(builder_reserve(b, size));
    if (b->size == 0 && !b->marks)
        b->mark = mark;
    if (!b->marks && (marks || mark != b->mark))
        TRY(builder_split_marks(b));
    memcpy(b->data + b->size, data, size);
    if (b->marks && marks)
        memcpy(b->marks + b->size, marks, size);
    else if (b->marks)
        memset(b->marks + b->size, mark, size);
    b->size += size;
    return true;
}

bool builder_text(Builder *b, const Text *text) {
    return builder_add(b, text->data, text->size, text->marks, text->mark);
}

bool builder_part(Builder *b, const Text *text, size_t from, size_t to) {
    return builder_add(b, text->data + from, to - from, text->marks ? text->marks + from : NULL,
                       text->mark);
}

bool builder_plain(Builder *b, const char *text) {
    return builder_add(b, text, strlen(text), NULL, 0);
}

bool builder_code(Builder *b, uint32_t code, uint8_t mark) {
    unsigned char out[4];
    size_t size = utf8_write(out, code);
    return builder_add(b, (const char *)out, size, NULL, mark);
}

bool builder_done(Builder *b, Value *out) {
    Text *text = run_alloc(b->r, 1, sizeof *text);
    if (!text)
        return false;
    *text = (Text){.data = b->size ? b->data : "",
                   .marks = b->marks,
                   .size = (uint32_t)b->size,
                   .mark = b->mark};
    *out = value_text(text);
    return true;
}

bool text_make(Run *r, const char *data, size_t size, Value *out) {
    Text *text = run_alloc(r, 1, sizeof *text);
    if (!text)
        return false;
    *text = (Text){.data = data, .size = (uint32_t)size};
    *out = value_text(text);
    return true;
}

bool text_copy(Run *r, const char *data, size_t size, Value *out) {
    Builder b = {.r = r};
    TRY(builder_add(&b, data, size, NULL, 0));
    return builder_done(&b, out);
}

bool text_part(Run *r, const Text *text, size_t from, size_t to, Value *out) {
    Text *part = run_alloc(r, 1, sizeof *part);
    if (!part)
        return false;
    *part = *text;
    part->data += from;
    part->size = (uint32_t)(to - from);
    part->marks = text->marks ? text->marks + from : NULL;
    *out = value_text(part);
    return true;
}

// ---- looking ------------------------------------------------------------------------------------

bool text_is(const Text *text, const char *plain) {
    size_t size = strlen(plain);
    return text->size == size && memcmp(text->data, plain, size) == 0;
}

bool text_same(const Text *a, const Text *b) {
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

int text_order(const Text *a, const Text *b) {
    int order = memcmp(a->data, b->data, a->size < b->size ? a->size : b->size);
    return order ? order : (a->size > b->size) - (a->size < b->size);
}

uint8_t text_mark(const Text *text, size_t at) {
    return text->marks ? text->marks[at] : text->mark;
}

uint32_t text_code(const Text *text, size_t *at) {
    size_t size;
    uint32_t code = utf8_read((const unsigned char *)text->data + *at, text->size - *at, &size);
    *at += size;
    return code;
}

size_t text_length(const Text *text) {
    size_t length = 0;
    for (uint32_t at = 0; at < text->size; at++)
        length += ((unsigned char)text->data[at] & 0xc0) != 0x80;
    return length;
}

bool is_space(uint32_t code) {
    return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20) || code == 0x85 ||
           code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool text_find(const Text *text, const Text *what, size_t from, size_t *at) {
    *at = from;
    if (what->size == 0)
        return from <= text->size;
    if (from > text->size)
        return false;
    const char *found = memmem(text->data + from, text->size - from, what->data, what->size);
    if (found)
        *at = (size_t)(found - text->data);
    return found;
}

bool text_escape_html(Run *r, const Text *text, Value *out) {
    static const struct {
        char from;
        const char *to;
    } escapes[] = {{'&', "&amp;"}, {'>', "&gt;"}, {'<', "&lt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    Builder b = {.r = r};
    for (size_t at = 0; at < text->size; at++) {
        const char *to = NULL;
        for (size_t which = 0; which < sizeof escapes / sizeof escapes[0]; which++)
            to = text->data[at] == escapes[which].from ? escapes[which].to : to;
        if (to)
            TRY(builder_add(&b, to, strlen(to), NULL, text_mark(text, at)));
        else
            TRY(builder_part(&b, text, at, at + 1));
    }
    TRY(builder_done(&b, out));
    ((Text *)out->text)->safe = true;
    return true;
}

// ---- str() and repr() ---------------------------------------------------------------------------

// The shortest digits that give the number back, in Python's choice of notation.
void float_repr(double number, char out[40]) {
    if (isnan(number) || isinf(number)) {
        snprintf(out, 40, "%s", isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    char text[40], digits[24];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, number);
        if (strtod(text, NULL) >= number && strtod(text, NULL) <= number)
            break;
    }
    int count = 0, exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    for (const char *c = text; *c != 'e'; c++) {
        if (*c >= '0' && *c <= '9')
            digits[count++] = *c;
    }
    const char *sign = text[0] == '-' ? "-" : "";
    int point = exponent + 1; // digits before the decimal point
    if (point <= -4 || point > 16)
        snprintf(out, 40, "%s%c%s%.*s", sign, digits[0], count > 1 ? "." : "", count - 1,
                 digits + 1);
    else if (point <= 0)
        snprintf(out, 40, "%s0.%.*s%.*s", sign, -point, "0000", count, digits);
    else if (count <= point)
        snprintf(out, 40, "%s%.*s%.*s.0", sign, count, digits, point - count, "0000000000000000");
    else
        snprintf(out, 40, "%s%.*s.%.*s", sign, point, digits, count - point, digits + point);
    if (point <= -4 || point > 16) {
        size_t used = strlen(out);
        snprintf(out + used, 40 - used, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
}

static bool is_printable(const Template *t, uint32_t code) {
    if (code >= 0x20 && code < 0x7f)
        return true;
    const CaseTables *tables = &t->tables;
    uint32_t low = 0, high = tables->printable_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const TemplateRange *range = &tables->printable[middle];
        if (code < range->first)
            high = middle;
        else if (code > range->last)
            low = middle + 1;
        else
            return (code - range->first) % range->step == 0;
    }
    return false;
}

static bool text_repr(Builder *b, const Text *text) {
    bool single = memchr(text->data, '\'', text->size), twice = memchr(text->data, '"', text->size);
    char quote = single && !twice ? '"' : '\'', edge[2] = {quote, 0};
    TRY(builder_plain(b, edge));
    for (size_t at = 0; at < text->size;) {
        size_t from = at;
        uint32_t code = text_code(text, &at);
        uint8_t mark = text_mark(text, from);
        char out[12] = "";
        if (code == (unsigned char)quote || code == '\\')
            snprintf(out, sizeof out, "\\%c", (char)code);
        else if (code == '\n' || code == '\r' || code == '\t')
            snprintf(out, sizeof out, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
        else if (!is_printable(b->r->t, code))
            snprintf(out, sizeof out, "\\%c%0*x",
                     code < 0x100     ? 'x'
                     : code < 0x10000 ? 'u'
                                      : 'U',
                     code < 0x100     ? 2
                     : code < 0x10000 ? 4
                                      : 8,
                     code);
        if (out[0])
            TRY(builder_add(b, out, strlen(out), NULL, mark));
        else
            TRY(builder_part(b, text, from, at));
    }
    return builder_plain(b, edge);
}

static bool dict_repr(Builder *b, const Dict *d, int depth) {
    TRY(builder_plain(b, "{"));
    for (uint32_t at = 0; at < d->count; at++) {
        TRY(builder_plain(b, at ? ", " : ""));
        TRY(value_repr(b, d->entries[at].key, depth + 1));
        TRY(builder_plain(b, ": "));
        TRY(value_repr(b, d->entries[at].value, depth + 1));
    }
    return builder_plain(b, "}");
}

static bool list_repr(Builder *b, const List *list, int depth) {
    static const char *const edges[LIST_KINDS][2] = {// ORDER LISTS
                                                     {"[", "]"},
                                                     {"(", ")"},
                                                     {"range(", ")"},
                                                     {"<generator object>", ""},
                                                     {"dict_keys([", "])"},
                                                     {"dict_values([", "])"},
                                                     {"dict_items([", "])"}};
    TRY(builder_plain(b, edges[list->kind][0]));
    if (list->kind == LIST_RANGE) {
        int64_t first = list->count ? list->items[0].integer : 0;
        int64_t step = list->count > 1 ? list->items[1].integer - first : 1;
        char out[80], last[32] = "";
        if (step != 1)
            snprintf(last, sizeof last, ", %lld", (long long)step);
        snprintf(out, sizeof out, "%lld, %lld%s", (long long)first,
                 (long long)(first + step * list->count), last);
        TRY(builder_plain(b, out));
    }
    for (uint32_t at = 0;
         list->kind != LIST_RANGE && list->kind != LIST_GENERATOR && at < list->count; at++) {
        TRY(builder_plain(b, at ? ", " : ""));
        TRY(value_repr(b, list->items[at], depth + 1));
    }
    if (list->kind == LIST_TUPLE && list->count == 1)
        TRY(builder_plain(b, ","));
    return builder_plain(b, edges[list->kind][1]);
}

bool value_repr(Builder *b, Value v, int depth) {
    char out[48] = "";
    TRY(run_step(b->r, 1));
    if (depth > TEMPLATE_MAX_VALUE_DEPTH)
        return run_fail(b->r, ERR_RESOURCE, 1072, "values are nested too deeply to be shown");
    if (v.kind == VALUE_TEXT)
        return text_repr(b, v.text);
    if (v.kind == VALUE_BIG)
        return builder_text(b, v.text);
    if (v.kind == VALUE_LIST)
        return list_repr(b, v.list, depth);
    if (v.kind == VALUE_DICT)
        return dict_repr(b, v.dict, depth);
    if (v.kind == VALUE_NAMESPACE) {
        TRY(builder_plain(b, "<Namespace "));
        TRY(dict_repr(b, v.dict, depth));
        return builder_plain(b, ">");
    }
    if (v.kind == VALUE_MACRO) {
        TRY(builder_plain(b, "<Macro "));
        TRY(text_repr(b, b->r->t->consts[b->r->t->functions[v.macro->function].name].text));
        return builder_plain(b, ">");
    }
    if (v.kind == VALUE_FLOAT)
        float_repr(v.number, out);
    else if (v.kind == VALUE_INT)
        snprintf(out, sizeof out, "%lld", (long long)v.integer);
    else if (v.kind == VALUE_NONE || v.kind == VALUE_BOOL)
        snprintf(out, sizeof out, "%s",
                 v.kind == VALUE_NONE ? "None"
                 : v.integer          ? "True"
                                      : "False");
    else
        snprintf(out, sizeof out, "%s%s%s", v.kind == VALUE_UNDEFINED ? "" : "<", value_type(v),
                 v.kind == VALUE_UNDEFINED ? "" : ">");
    return builder_plain(b, out);
}

bool value_write(Builder *b, Value v) {
    if (v.kind == VALUE_TEXT)
        return builder_text(b, v.text);
    return v.kind == VALUE_UNDEFINED || v.kind == VALUE_MISSING ? true : value_repr(b, v, 0);
}

bool value_string(Run *r, Value v, Value *out) {
    *out = v;
    if (v.kind == VALUE_TEXT)
        return true;
    Builder b = {.r = r};
    TRY(value_write(&b, v));
    return builder_done(&b, out);
}

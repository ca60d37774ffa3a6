// Functions that every chat template can call, and how arguments reach functions, filters and
// methods.
#include <stdio.h>
#include <string.h>

#include "template_value.h"

// ---- arguments ----------------------------------------------------------------------------------

static int name_place(const char *names, const Text *name) {
    int place = 0;
    for (const char *at = names; *at; place++) {
        size_t size = strcspn(at, " ");
        if (name->size == size && memcmp(name->data, at, size) == 0)
            return place;
        at += size + (at[size] == ' ');
    }
    return -1;
}

static int name_count(const char *names) {
    int count = *names != 0;
    for (; *names; names++)
        count += *names == ' ';
    return count;
}

bool args_bind(Run *r, const char *what, const Args *args, const char *names, int required,
               Value *out) {
    int count = name_count(names);
    for (int at = 0; at < count; at++)
        out[at] = at < args->count ? args->values[at] : (Value){.kind = VALUE_MISSING};
    if (args->count > count)
        return type_fail(r, "%s takes %d arguments, %d given", what, count, args->count);
    for (int at = 0; at < args->keyword_count; at++) {
        int place = name_place(names, args->keywords[at].key.text);
        if (place < 0 || out[place].kind != VALUE_MISSING)
            return type_fail(r, "%s: unexpected argument \"%.*s\"", what,
                             (int)(args->keywords[at].key.text->size & 63),
                             args->keywords[at].key.text->data);
        out[place] = args->keywords[at].value;
    }
    for (int at = 0; at < required; at++) {
        if (out[at].kind == VALUE_MISSING)
            return type_fail(r, "%s needs %d arguments", what, required);
    }
    return true;
}

bool args_none(Run *r, const char *what, const Args *args) {
    return args_bind(r, what, args, "", 0, NULL);
}

bool arg_int(Run *r, Value v, int64_t *out) {
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (!is_integral(v))
        return type_fail(r, "expected an integer, found %s", value_type(v));
    *out = v.integer;
    return true;
}

// ---- global functions ---------------------------------------------------------------------------

static bool call_range(Run *r, const Args *args, Value *out) {
    Value given[3];
    int64_t bounds[3] = {0, 0, 1};
    TRY(args_bind(r, "range", args, "start stop step", 1, given));
    for (int at = 0; at < 3; at++) {
        if (given[at].kind != VALUE_MISSING)
            TRY(arg_int(r, given[at], &bounds[at]));
    }
    if (given[1].kind == VALUE_MISSING) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    if (bounds[2] == 0)
        return value_fail(r, "range() with a step of 0");
    double span = ((double)bounds[1] - (double)bounds[0]) / (double)bounds[2];
    if (span > TEMPLATE_MAX_RANGE + 1)
        return value_fail(r, "range() of more than %d numbers", TEMPLATE_MAX_RANGE);
    int64_t count = 0;
    Value *items = run_alloc(r, span > 0 ? (size_t)span + 2 : 1, sizeof *items);
    if (!items)
        return false;
    for (int64_t at = bounds[0]; bounds[2] > 0 ? at < bounds[1] : at > bounds[1]; count++) {
        items[count] = value_int(at);
        if (__builtin_add_overflow(at, bounds[2], &at))
            break;
    }
    if (count > TEMPLATE_MAX_RANGE)
        return value_fail(r, "range() of more than %d numbers", TEMPLATE_MAX_RANGE);
    TRY(run_step(r, (uint64_t)count));
    return list_make(r, LIST_RANGE, items, (size_t)count, out);
}

// dict(...) and namespace(...): a dict or pairs, then keywords.
static bool call_dict(Run *r, const Args *args, Value *out) {
    const Value *pairs, *pair;
    uint32_t count, two;
    TRY(dict_make(r, out));
    if (args->count > 1)
        return type_fail(r, "dict takes one positional argument, %d given", args->count);
    if (args->count && args->values[0].kind == VALUE_DICT) {
        const Dict *from = args->values[0].dict;
        for (uint32_t at = 0; at < from->count; at++)
            TRY(dict_set(r, out->dict, from->entries[at].key, from->entries[at].value));
    } else if (args->count) {
        TRY(value_items(r, args->values[0], &pairs, &count));
        for (uint32_t at = 0; at < count; at++) {
            TRY(value_items(r, pairs[at], &pair, &two));
            if (two != 2)
                return value_fail(r, "dict takes pairs, found %u values", two);
            TRY(dict_set(r, out->dict, pair[0], pair[1]));
        }
    }
    for (int at = 0; at < args->keyword_count; at++)
        TRY(dict_set(r, out->dict, args->keywords[at].key, args->keywords[at].value));
    return true;
}

static bool call_namespace(Run *r, const Args *args, Value *out) {
    TRY(call_dict(r, args, out));
    out->kind = VALUE_NAMESPACE;
    return true;
}

static bool call_raise(Run *r, const Args *args, Value *out) {
    Value message;
    TRY(args_bind(r, "raise_exception", args, "message", 1, &message));
    TRY(value_string(r, message, out));
    char text[400];
    text_escape(text, sizeof text, out->text->data, out->text->size);
    return fail(r->err, ERR_USAGE, 1062, "the chat template refuses this conversation: %s", text);
}

// %f, %z and %Z would need more than a time_t: 0 and nothing, as for Python's naive times.
static bool call_strftime(Run *r, const Args *args, Value *out) {
    Value format;
    struct tm parts;
    Builder b = {.r = r};
    TRY(args_bind(r, "strftime_now", args, "format", 1, &format));
    if (format.kind != VALUE_TEXT || !localtime_r(&r->limits.now, &parts))
        return type_fail(r, "strftime_now takes a string");
    const Text *text = format.text;
    for (size_t at = 0; at < text->size; at++) {
        char piece[4] = {'%', text->data[at], 0, 0}, shown[256] = "";
        if (text->data[at] != '%' || at + 1 == text->size) {
            TRY(builder_part(&b, text, at, at + 1));
            continue;
        }
        piece[1] = text->data[++at];
        if (piece[1] == '-' && at + 1 < text->size)
            piece[2] = text->data[++at];
        if (piece[1] == 'f')
            TRY(builder_plain(&b, "000000"));
        else if (piece[1] != 'z' && piece[1] != 'Z') {
            size_t size = strftime(shown, sizeof shown, piece, &parts);
            TRY(builder_add(&b, shown, size, NULL, 0));
        }
    }
    return builder_done(&b, out);
}

static const struct {
    const char *name;
    bool (*call)(Run *r, const Args *args, Value *out);
} globals[GLOBAL_COUNT] = {
    // ORDER GLOBALS
    {"range", call_range},           {"dict", call_dict},
    {"namespace", call_namespace},   {"raise_exception", call_raise},
    {"strftime_now", call_strftime},
};

bool global_find(const Text *name, Value *out) {
    for (int which = 0; which < GLOBAL_COUNT; which++) {
        if (text_is(name, globals[which].name)) {
            *out = (Value){.kind = VALUE_FUNCTION, .integer = which};
            return true;
        }
    }
    return false;
}

bool global_call(Run *r, int64_t id, const Args *args, Value *out) {
    return globals[id].call(r, args, out);
}

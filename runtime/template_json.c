// JSON of chat templates. Reading: the context, with what Python's json keeps and cJSON does not:
// 1.0 is a float and 1 an integer, integers have all their digits, the last of equal keys wins. An
// explicit stack, so that nesting costs no C stack. Writing: json.dumps as the filter tojson calls
// it.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template_value.h"
#include "utf8.h"

enum { JSON_MAX_DEPTH = 128 };

// A list or dict that is being read.
typedef struct Level {
    Value dict;   // DICT, or MISSING: a list
    Value key;    // the key whose value comes next
    Value *items; // of a list
    uint32_t count, capacity;
} Level;

typedef struct Reader {
    Run *r;
    const char *start, *at, *end;
    Level levels[JSON_MAX_DEPTH];
    int depth;
} Reader;

static bool json_fail(Reader *j, const char *what) {
    return fail(j->r->err, ERR_USAGE, 1061, "context of the chat template: byte %zu: %s",
                (size_t)(j->at - j->start), what);
}

static void skip_space(Reader *j) {
    while (j->at < j->end && memchr(" \t\n\r", *j->at, 4))
        j->at++;
}

// ---- strings ------------------------------------------------------------------------------------

static bool read_hex(Reader *j, uint32_t *code) {
    *code = 0;
    if (j->end - j->at < 4)
        return json_fail(j, "a \\u without four digits");
    for (int digit = 0; digit < 4; digit++, j->at++) {
        static const char digits[] = "0123456789abcdef";
        const char *found = *j->at ? strchr(digits, *j->at | (*j->at >= 'A' ? 0x20 : 0)) : NULL;
        if (!found)
            return json_fail(j, "a \\u without four digits");
        *code = *code << 4 | (uint32_t)(found - digits);
    }
    return true;
}

// Behind a backslash. Half a surrogate pair becomes U+FFFD.
static bool read_escape(Reader *j, Builder *b) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = *j->at++;
    const char *known = c ? strchr(from, c) : NULL;
    if (known)
        return builder_code(b, (unsigned char)to[known - from], 1);
    if (c != 'u')
        return json_fail(j, "an unknown escape in a string");
    uint32_t code, low = 0;
    TRY(read_hex(j, &code));
    if (code >= 0xd800 && code < 0xdc00 && j->end - j->at >= 6 && j->at[0] == '\\' &&
        j->at[1] == 'u') {
        const char *before = j->at;
        j->at += 2;
        TRY(read_hex(j, &low));
        if (low >= 0xdc00 && low < 0xe000)
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        else
            j->at = before;
    }
    return builder_code(b, code >= 0xd800 && code < 0xe000 ? 0xfffd : code, 1);
}

static bool read_string(Reader *j, Value *out) {
    Builder b = {.r = j->r, .mark = 1};
    j->at++;
    while (j->at < j->end && *j->at != '"') {
        const char *from = j->at;
        while (j->at < j->end && *j->at != '"' && *j->at != '\\') {
            size_t part, size = utf8_check(j->at, (size_t)(j->end - j->at), &part);
            if (size == 0)
                break;
            j->at += size;
        }
        TRY(builder_add(&b, from, (size_t)(j->at - from), NULL, 1));
        if (j->at == j->end || *j->at == '"')
            break;
        if (*j->at++ != '\\')
            TRY(builder_code(&b, 0xfffd, 1)); // no UTF-8
        else if (j->at < j->end)
            TRY(read_escape(j, &b));
    }
    if (j->at == j->end)
        return json_fail(j, "a string does not end");
    j->at++;
    return builder_done(&b, out);
}

// ---- numbers and words --------------------------------------------------------------------------

static bool read_number(Reader *j, Value *out) {
    const char *from = j->at;
    bool is_float = false;
    while (j->at < j->end && memchr("+-.0123456789eE", *j->at, 15)) {
        is_float = is_float || memchr(".eE", *j->at, 3);
        j->at++;
    }
    size_t size = (size_t)(j->at - from);
    const char *digits = from + (size && *from == '-');
    bool plain = digits < j->at && *digits >= '0' && *digits <= '9' && j->at[-1] >= '0' &&
                 j->at[-1] <= '9' && (*digits != '0' || digits + 1 == j->at || is_float);
    char *end;
    errno = 0;
    if (is_float)
        *out = value_float(strtod(from, &end));
    else
        *out = value_int(strtoll(from, &end, 10));
    if (!plain || end != j->at)
        return json_fail(j, "expected a value");
    if (is_float || errno != ERANGE)
        return true;
    TRY(text_copy(j->r, from, size, out));
    out->kind = VALUE_BIG;
    return true;
}

static bool read_word(Reader *j, Value *out) {
    const struct {
        const char *word;
        Value value;
    } words[] = {
        {"true", value_bool(true)},
        {"false", value_bool(false)},
        {"null", value_none()},
        {"NaN", value_float((double)NAN)},
        {"Infinity", value_float((double)INFINITY)},
        {"-Infinity", value_float(-(double)INFINITY)},
    };
    for (size_t which = 0; which < sizeof words / sizeof words[0]; which++) {
        size_t size = strlen(words[which].word);
        if ((size_t)(j->end - j->at) >= size && memcmp(j->at, words[which].word, size) == 0) {
            *out = words[which].value;
            j->at += size;
            return true;
        }
    }
    return read_number(j, out);
}

// ---- lists and dicts ----------------------------------------------------------------------------

static bool list_push(Reader *j, Level *level, Value v) {
    if (level->count == level->capacity) {
        uint32_t capacity = level->capacity ? level->capacity * 2 : 8;
        Value *items = run_alloc(j->r, capacity, sizeof *items);
        if (!items)
            return false;
        if (level->count)
            memcpy(items, level->items, level->count * sizeof *items);
        level->items = items;
        level->capacity = capacity;
    }
    level->items[level->count++] = v;
    return true;
}

static bool read_key(Reader *j, Level *level) {
    skip_space(j);
    if (j->at == j->end || *j->at != '"')
        return json_fail(j, "expected a key in quotes");
    TRY(read_string(j, &level->key));
    skip_space(j);
    if (j->at == j->end || *j->at != ':')
        return json_fail(j, "expected ':' behind a key");
    j->at++;
    return true;
}

// A bracket opens. Empty ones are values at once.
static bool open_level(Reader *j, Value *out, bool *complete) {
    bool dict = *j->at++ == '{';
    *complete = false;
    if (j->depth == JSON_MAX_DEPTH)
        return json_fail(j, "lists and objects are nested too deeply");
    Level *level = &j->levels[j->depth++];
    *level = (Level){0};
    if (dict)
        TRY(dict_make(j->r, &level->dict));
    skip_space(j);
    if (j->at < j->end && *j->at == (dict ? '}' : ']')) {
        j->at++;
        j->depth--;
        *complete = true;
        *out = level->dict;
        return dict ? true : list_make(j->r, LIST_LIST, NULL, 0, out);
    }
    return dict ? read_key(j, level) : true;
}

// A value is complete; it goes into the level around it, and so on while levels close.
static bool close_values(Reader *j, Value *v) {
    while (j->depth > 0) {
        Level *level = &j->levels[j->depth - 1];
        bool dict = level->dict.kind == VALUE_DICT;
        TRY(dict ? dict_set(j->r, level->dict.dict, level->key, *v) : list_push(j, level, *v));
        skip_space(j);
        if (j->at < j->end && *j->at == ',') {
            j->at++;
            return dict ? read_key(j, level) : true;
        }
        if (j->at == j->end || *j->at != (dict ? '}' : ']'))
            return json_fail(j, "expected ',' or a closing bracket");
        j->at++;
        j->depth--;
        if (dict)
            *v = level->dict;
        else
            TRY(list_make(j->r, LIST_LIST, level->items, level->count, v));
    }
    return true;
}

static bool read_values(Reader *j, Value *out) {
    do {
        bool complete = true;
        skip_space(j);
        if (j->at == j->end)
            return json_fail(j, "the text ends within a value");
        if (*j->at == '{' || *j->at == '[')
            TRY(open_level(j, out, &complete));
        else if (*j->at == '"')
            TRY(read_string(j, out));
        else
            TRY(read_word(j, out));
        if (complete)
            TRY(close_values(j, out));
    } while (j->depth > 0);
    skip_space(j);
    return j->at == j->end ? true : json_fail(j, "something stands behind the object");
}

static bool trust(Run *r, const Value *found, const char *const *words, size_t count) {
    bool known = count == 0;
    if (!found || found->kind != VALUE_TEXT)
        return true;
    for (size_t which = 0; which < count; which++)
        known = known || text_is(found->text, words[which]);
    return known ? text_make(r, found->text->data, found->text->size, (Value *)found) : true;
}

// Not written by a user: the strings that name special tokens, and roles that every family knows.
// Templates may put a special token together from a role ('<|' + message.role + '|>').
static bool trust_context(Run *r, const Dict *context) {
    static const char *const tokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
    static const char *const roles[] = {"system", "developer", "user",     "assistant",
                                        "model",  "tool",      "function", "ipython"};
    for (size_t which = 0; which < sizeof tokens / sizeof tokens[0]; which++)
        TRY(trust(r, dict_find(context, tokens[which]), NULL, 0));
    const Value *messages = dict_find(context, "messages");
    if (!messages || messages->kind != VALUE_LIST)
        return true;
    for (uint32_t at = 0; at < messages->list->count; at++) {
        Value message = messages->list->items[at];
        if (message.kind == VALUE_DICT)
            TRY(trust(r, dict_find(message.dict, "role"), roles, sizeof roles / sizeof roles[0]));
    }
    return true;
}

bool context_read(Run *r, const char *text, Value *out) {
    Reader *j = run_alloc(r, 1, sizeof *j);
    if (!j)
        return false;
    j->r = r;
    j->start = j->at = text;
    j->end = text + strlen(text);
    TRY(read_values(j, out));
    if (out->kind != VALUE_DICT)
        return json_fail(j, "expected an object");
    return trust_context(r, out->dict);
}

// ---- writing ------------------------------------------------------------------------------------

static bool write_code_escape(Builder *b, uint32_t code, uint8_t mark) {
    char out[16];
    if (code >= 0x10000)
        snprintf(out, sizeof out, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                 0xdc00 + ((code - 0x10000) & 0x3ff));
    else
        snprintf(out, sizeof out, "\\u%04x", code);
    return builder_add(b, out, strlen(out), NULL, mark);
}

static bool write_string(Builder *b, const Text *text, bool ascii) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    TRY(builder_plain(b, "\""));
    for (size_t at = 0; at < text->size;) {
        size_t start = at;
        uint32_t code = text_code(text, &at);
        const char *known = code && code < 0x80 ? strchr(from, (int)code) : NULL;
        uint8_t mark = text_mark(text, start);
        if (known) {
            char out[2] = {'\\', to[known - from]};
            TRY(builder_add(b, out, 2, NULL, mark));
        } else if (code < 0x20 || (ascii && code > 0x7e)) {
            TRY(write_code_escape(b, code, mark));
        } else {
            TRY(builder_part(b, text, start, at));
        }
    }
    return builder_plain(b, "\"");
}

static bool write_break(Builder *b, const JsonStyle *style, int depth) {
    if (!style->indent)
        return true;
    TRY(builder_plain(b, "\n"));
    for (int level = 0; level < depth; level++)
        TRY(builder_text(b, style->indent));
    return true;
}

static bool write_scalar(Builder *b, Value v) {
    char out[48];
    if (v.kind == VALUE_BIG)
        return builder_text(b, v.text);
    if (v.kind == VALUE_NONE || v.kind == VALUE_BOOL)
        snprintf(out, sizeof out, "%s",
                 v.kind == VALUE_NONE ? "null"
                 : v.integer          ? "true"
                                      : "false");
    else if (v.kind == VALUE_INT)
        snprintf(out, sizeof out, "%lld", (long long)v.integer);
    else if (v.kind == VALUE_FLOAT && (isnan(v.number) || isinf(v.number)))
        snprintf(out, sizeof out, "%s",
                 isnan(v.number) ? "NaN"
                 : v.number < 0  ? "-Infinity"
                                 : "Infinity");
    else if (v.kind == VALUE_FLOAT)
        float_repr(v.number, out);
    else
        return type_fail(b->r, "object of type %s is not JSON serializable", value_type(v));
    return builder_plain(b, out);
}

static bool write_key(Builder *b, Value key, const JsonStyle *style) {
    if (key.kind == VALUE_TEXT) {
        TRY(write_string(b, key.text, style->ascii));
    } else {
        if (key.kind == VALUE_LIST)
            return type_fail(b->r, "keys of JSON must be strings, numbers, booleans or none");
        TRY(builder_plain(b, "\""));
        TRY(write_scalar(b, key));
        TRY(builder_plain(b, "\""));
    }
    return builder_text(b, style->key_end);
}

static bool sorted_entries(Run *r, const Dict *d, const Entry **out) {
    Value *keys = run_alloc(r, d->count, sizeof *keys);
    Value *order = run_alloc(r, d->count, sizeof *order);
    Entry *entries = run_alloc(r, d->count, sizeof *entries);
    if (!keys || !order || !entries)
        return false;
    for (uint32_t at = 0; at < d->count; at++) {
        keys[at] = d->entries[at].key;
        order[at] = value_int(at);
    }
    TRY(values_sort(r, keys, order, d->count, false));
    for (uint32_t at = 0; at < d->count; at++)
        entries[at] = d->entries[order[at].integer];
    *out = entries;
    return true;
}

static bool write_dict(Builder *b, const Dict *d, const JsonStyle *style, int depth) {
    const Entry *entries = d->entries;
    if (style->sort_keys)
        TRY(sorted_entries(b->r, d, &entries));
    TRY(builder_plain(b, "{"));
    for (uint32_t at = 0; at < d->count; at++) {
        if (at)
            TRY(builder_text(b, style->item_end));
        TRY(write_break(b, style, depth + 1));
        TRY(write_key(b, entries[at].key, style));
        TRY(json_dump(b, entries[at].value, style, depth + 1));
    }
    if (d->count)
        TRY(write_break(b, style, depth));
    return builder_plain(b, "}");
}

bool json_dump(Builder *b, Value v, const JsonStyle *style, int depth) {
    TRY(run_step(b->r, 1));
    if (depth > TEMPLATE_MAX_VALUE_DEPTH)
        return run_fail(b->r, ERR_RESOURCE, 1073, "values are nested too deeply for tojson");
    if (v.kind == VALUE_TEXT)
        return write_string(b, v.text, style->ascii);
    if (v.kind == VALUE_DICT)
        return write_dict(b, v.dict, style, depth);
    if (v.kind != VALUE_LIST || v.list->kind > LIST_TUPLE)
        return write_scalar(b, v);
    TRY(builder_plain(b, "["));
    for (uint32_t at = 0; at < v.list->count; at++) {
        if (at)
            TRY(builder_text(b, style->item_end));
        TRY(write_break(b, style, depth + 1));
        TRY(json_dump(b, v.list->items[at], style, depth + 1));
    }
    if (v.list->count)
        TRY(write_break(b, style, depth));
    return builder_plain(b, "]");
}

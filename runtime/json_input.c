// Checks a JSON text in one pass, without recursion, and hands it to cJSON, which is too generous:
// it takes control characters, leading zeros, infinite numbers, and ends strings at a zero byte.
#include "json_input.h"
#include "utf8.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_VALUES = 2 << 20, MAX_NUMBER_BYTES = 64 };

typedef enum Expect { // what may come next
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, // right behind [
    EXPECT_KEY,
    EXPECT_KEY_OR_END, // right behind {
    EXPECT_COMMA,      // or the end of the list
} Expect;

typedef struct Reader {
    const unsigned char *start, *at, *end;
    uint64_t objects; // bit d: the list at depth d is an object
    int depth;
    int64_t values;
    Expect expect;
} Reader;

static bool wrong(const Reader *r, Error *err, const char *what) {
    int line = 1, column = 1;
    for (const unsigned char *at = r->start; at < r->at; at++) {
        line += *at == '\n';
        column = *at == '\n' ? 1 : column + 1;
    }
    return fail(err, ERR_USAGE, 1140,
                "the body is not JSON that this server takes: line %d, column %d: %s", line, column,
                what);
}

static bool hex4(Reader *r, unsigned *value, Error *err) {
    *value = 0;
    for (int digit = 0; digit < 4; digit++, r->at++) {
        int c = r->at < r->end ? *r->at : 0;
        int v = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0)
            return wrong(r, err, "\\u wants four hexadecimal digits");
        *value = *value * 16 + (unsigned)v;
    }
    return true;
}

static bool escape(Reader *r, Error *err) {
    unsigned value, low;
    int c = r->at < r->end ? *r->at++ : 0;
    if (c && c != 'u')
        return strchr("\"\\/bfnrt", c) || wrong(r, err, "an escape that JSON does not have");
    if (c != 'u')
        return wrong(r, err, "the string has no end");
    TRY(hex4(r, &value, err));
    if (value == 0)
        return wrong(r, err, "a zero character in a string");
    if (value >= 0xdc00 && value < 0xe000)
        return wrong(r, err, "a low surrogate without a high one before it");
    if (value < 0xd800 || value >= 0xdc00)
        return true;
    if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u')
        return wrong(r, err, "a high surrogate without a low one behind it");
    r->at += 2;
    TRY(hex4(r, &low, err));
    return (low >= 0xdc00 && low < 0xe000) ||
           wrong(r, err, "a high surrogate without a low one behind it");
}

static bool character(Reader *r, Error *err) {
    size_t part, size = utf8_check(r->at, (size_t)(r->end - r->at), &part);
    r->at += size;
    return size || wrong(r, err, "bytes that are not UTF-8");
}

static bool string(Reader *r, Error *err) {
    r->at++;
    while (r->at < r->end) {
        unsigned c = *r->at;
        if (c == '"') {
            r->at++;
            return true;
        }
        if (c < ' ')
            return wrong(r, err, "a control character in a string");
        if (c >= 0x80) {
            TRY(character(r, err));
            continue;
        }
        r->at++;
        if (c == '\\')
            TRY(escape(r, err));
    }
    return wrong(r, err, "the string has no end");
}

static int digits(Reader *r) {
    int count = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        count++;
    return count;
}

static bool number(Reader *r, Error *err) {
    const unsigned char *start = r->at;
    char copy[MAX_NUMBER_BYTES + 1] = {0};
    r->at += *r->at == '-';
    bool zero = r->at < r->end && *r->at == '0';
    int whole = digits(r);
    bool good = whole > 0 && !(zero && whole > 1);
    if (good && r->at < r->end && *r->at == '.') {
        r->at++;
        good = digits(r) > 0;
    }
    if (good && r->at < r->end && (*r->at | ' ') == 'e') {
        r->at++;
        r->at += r->at < r->end && (*r->at == '+' || *r->at == '-');
        good = digits(r) > 0;
    }
    if (!good)
        return wrong(r, err, "a value that JSON does not have");
    if (r->at - start > MAX_NUMBER_BYTES)
        return wrong(r, err, "a number of more than 64 digits");
    memcpy(copy, start, (size_t)(r->at - start));
    return isfinite(strtod(copy, NULL)) || wrong(r, err, "a number that is too large");
}

static bool word(Reader *r, Error *err) {
    static const char *const words[] = {"null", "true", "false"};
    for (size_t at = 0; at < sizeof words / sizeof *words; at++) {
        size_t size = strlen(words[at]);
        if ((size_t)(r->end - r->at) >= size && memcmp(r->at, words[at], size) == 0) {
            r->at += size;
            return true;
        }
    }
    return wrong(r, err, "a value that JSON does not have");
}

static bool list_begin(Reader *r, Error *err) {
    bool object = *r->at == '{';
    if (r->depth == MAX_DEPTH)
        return wrong(r, err, "lists in lists, more than 64 deep");
    uint64_t bit = (uint64_t)1 << r->depth++;
    r->objects = object ? r->objects | bit : r->objects & ~bit;
    r->expect = object ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
    r->at++;
    return true;
}

static bool value(Reader *r, Error *err) {
    unsigned c = *r->at;
    if (++r->values > MAX_VALUES)
        return wrong(r, err, "more than 2 million values");
    if (c == '{' || c == '[')
        return list_begin(r, err);
    r->expect = EXPECT_COMMA;
    if (c == '"')
        return string(r, err);
    return (c == '-' || (c >= '0' && c <= '9') ? number : word)(r, err);
}

static void blanks(Reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
        r->at++;
}

static bool key(Reader *r, Error *err) {
    if (*r->at != '"')
        return wrong(r, err, "a key in quotes is expected");
    TRY(string(r, err));
    blanks(r);
    if (r->at == r->end || *r->at != ':')
        return wrong(r, err, "a colon is expected");
    r->at++;
    r->expect = EXPECT_VALUE;
    return true;
}

// One step; the text is not at its end, and at no blank.
static bool token(Reader *r, Error *err) {
    bool object = r->depth && (r->objects >> (r->depth - 1) & 1);
    unsigned c = *r->at;
    bool may_end = r->expect == EXPECT_COMMA || r->expect == EXPECT_KEY_OR_END ||
                   r->expect == EXPECT_VALUE_OR_END;
    if (may_end && r->depth && c == (object ? '}' : ']')) {
        r->depth--;
        r->expect = EXPECT_COMMA;
        r->at++;
        return true;
    }
    if (r->expect == EXPECT_KEY || r->expect == EXPECT_KEY_OR_END)
        return key(r, err);
    if (r->expect != EXPECT_COMMA)
        return value(r, err);
    if (!r->depth)
        return wrong(r, err, "the value has ended, and more follows");
    if (c != ',')
        return wrong(r, err, "a comma or the end of the list is expected");
    r->at++;
    r->expect = object ? EXPECT_KEY : EXPECT_VALUE;
    return true;
}

bool json_input(cJSON **out, Bytes text, Error *err) {
    *out = NULL;
    if (!text.size)
        return fail(err, ERR_USAGE, 1141, "the body is empty; a JSON object is expected");
    Reader r = {.start = text.data, .at = text.data, .end = text.data + text.size};
    for (blanks(&r); r.at < r.end; blanks(&r))
        TRY(token(&r, err));
    if (r.depth || r.expect != EXPECT_COMMA)
        return wrong(&r, err, "the text ends too early");
    *out = cJSON_ParseWithLength((const char *)text.data, text.size);
    return *out || fail(err, ERR_RESOURCE, 1142, "no memory for the request");
}

cJSON *json_member(const cJSON *object, const char *name) {
    cJSON *found = NULL;
    for (cJSON *item = object ? object->child : NULL; item; item = item->next)
        if (item->string && strcmp(item->string, name) == 0)
            found = item;
    return cJSON_IsNull(found) ? NULL : found;
}

// The end of the value that begins at `at`, in JSON that json_input takes.
static const unsigned char *value_end(const unsigned char *at, const unsigned char *end) {
    int depth = 0;
    bool quoted = false;
    for (; at < end; at++) {
        if (quoted && *at == '\\') {
            at++;
        } else if (*at == '"') {
            quoted = !quoted;
        } else if (!quoted && (*at == '{' || *at == '[')) {
            depth++;
        } else if (!quoted && (*at == '}' || *at == ']')) {
            if (depth-- == 0)
                return at; // of the list around a number or word
        } else if (!quoted && depth == 0 && (*at == ',' || *at == ':' || *at <= ' ')) {
            return at;
        } else {
            continue;
        }
        if (!quoted && depth == 0)
            return at + 1;
    }
    return end;
}

bool json_member_text(Bytes object, const char *name, Bytes *value) {
    Reader r = {.at = object.data, .end = object.data + object.size};
    bool found = false;
    blanks(&r);
    while (r.at < r.end && (*r.at == '{' || *r.at == ',')) {
        r.at++;
        blanks(&r);
        const unsigned char *start = r.at, *end = value_end(r.at, r.end);
        bool same =
            (size_t)(end - start) == strlen(name) + 2 && memcmp(start + 1, name, strlen(name)) == 0;
        r.at = end;
        blanks(&r);
        if (r.at == r.end || *r.at != ':')
            return found; // no member: the object is empty
        r.at++;
        blanks(&r);
        start = r.at;
        r.at = value_end(start, r.end);
        if (same)
            *value = (Bytes){start, (size_t)(r.at - start)};
        found |= same;
        blanks(&r);
    }
    return found;
}

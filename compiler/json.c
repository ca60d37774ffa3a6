// JSON by cJSON, with the things that cJSON lacks for hostile and hand-edited files.
//
// Idea: one pass over the text before cJSON sees it. It checks UTF-8, nesting and the number of
// values (cJSON takes 64 bytes for each and recurses), refuses zero bytes in strings (cJSON would
// cut the string there), and blanks commas before ] and }, which published quantize_config.json
// files contain. Accessors take numbers that are written as strings.
//
// Non-goals: speed beyond a few hundred MB/s, comments, writing JSON.
#include "compile.h"
#include "fd.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    JSON_MAX_DEPTH = 64,
    JSON_MAX_VALUES = 1 << 24,     // 1 GiB of cJSON nodes; the largest tokenizer.json has 2 million
    JSON_MAX_FILE_BYTES = 1 << 28, // the largest tokenizer.json has 35 MB
};

// Doubles hold all integers up to here.
static const double JSON_MAX_INTEGER = 0x1p53;

bool file_read(Bytes *out, const char *path, size_t limit, Arena *a, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, ERR_CORRUPT, 201, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (!regular || (size_t)st.st_size > limit) {
        close(fd);
        return fail(err, ERR_CORRUPT, 202, "%s: expected a regular file of at most %zu bytes", path,
                    limit);
    }
    size_t size = (size_t)st.st_size;
    unsigned char *data = arena_alloc(a, size + 1);
    bool whole = fd_read(fd, data, size, 0) == size;
    int read_errno = errno;
    close(fd);
    if (!whole)
        return fail(err, ERR_CORRUPT, 203, "%s: cannot read %zu bytes: %s", path, size,
                    strerror(read_errno));
    *out = (Bytes){data, size};
    return true;
}

// ---- the pass before cJSON ----------------------------------------------------------------------

static bool fail_at(Error *err, int id, Bytes text, size_t at, const char *file, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < text.size; i++) {
        column++;
        if (text.data[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return fail(err, ERR_CORRUPT, id, "%s:%zu:%zu: not valid JSON: %s", file, line, column, what);
}

// Length of the UTF-8 sequence at p, 0 if it is not one (overlong, surrogate, too large, cut).
static size_t utf8_length(const unsigned char *p, const unsigned char *end) {
    static const struct {
        unsigned char mask, value, length;
        uint32_t least;
    } FORMS[] = {{0x80, 0x00, 1, 0},
                 {0xe0, 0xc0, 2, 0x80},
                 {0xf0, 0xe0, 3, 0x800},
                 {0xf8, 0xf0, 4, 0x10000}};
    for (size_t form = 0; form < sizeof FORMS / sizeof FORMS[0]; form++) {
        size_t length = FORMS[form].length;
        if ((*p & FORMS[form].mask) != FORMS[form].value)
            continue;
        if ((size_t)(end - p) < length)
            return 0;
        uint32_t code = *p & (unsigned char)~FORMS[form].mask;
        for (size_t i = 1; i < length; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (p[i] & 0x3f);
        }
        bool surrogate = code >= 0xd800 && code < 0xe000;
        return code < FORMS[form].least || code > 0x10ffff || surrogate ? 0 : length;
    }
    return 0;
}

static bool is_blank(unsigned char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Position behind the string that starts at `at`.
static bool string_skip(Bytes text, size_t *at, const char *file, Error *err) {
    size_t start = *at;
    for (size_t i = start + 1; i < text.size; i++) {
        unsigned char c = text.data[i];
        if (c == '"') {
            *at = i + 1;
            return true;
        }
        if (c != '\\')
            continue;
        i++;
        if (text.size - i >= 5 && memcmp(text.data + i, "u0000", 5) == 0)
            return fail_at(err, 205, text, i - 1, file, "a zero character in a string");
    }
    return fail_at(err, 206, text, start, file, "this string has no end");
}

// Checks `text` and blanks trailing commas in it.
static bool text_prepare(unsigned char *bytes, size_t size, const char *file, Error *err) {
    Bytes text = {bytes, size};
    for (size_t i = 0; i < size;) {
        size_t length = utf8_length(bytes + i, bytes + size);
        if (!bytes[i])
            return fail_at(err, 204, text, i, file, "a zero byte");
        if (!length)
            return fail_at(err, 207, text, i, file, "not UTF-8");
        i += length;
    }
    size_t values = 1, comma = SIZE_MAX; // comma: the last character but blanks was this one
    int depth = 0;
    for (size_t i = 0; i < size;) {
        unsigned char c = bytes[i];
        if (is_blank(c)) {
            i++;
            continue;
        }
        if ((c == ']' || c == '}') && comma != SIZE_MAX)
            bytes[comma] = ' ';
        comma = c == ',' ? i : SIZE_MAX;
        values += c == ',' || c == '[' || c == '{';
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        if (depth > JSON_MAX_DEPTH)
            return fail_at(err, 208, text, i, file, "nested deeper than 64");
        if (values > JSON_MAX_VALUES)
            return fail_at(err, 209, text, i, file, "more than 16 million values");
        if (c == '"')
            TRY(string_skip(text, &i, file, err));
        else
            i++;
    }
    return true;
}

// Runs cJSON on prepared, zero-terminated text; nothing but blanks may follow the value.
static bool text_parse(cJSON **out, Bytes text, const char *file, Error *err) {
    const char *start = (const char *)text.data, *end = start;
    *out = cJSON_ParseWithLengthOpts(start, text.size + 1, &end, false);
    size_t stop = end ? (size_t)(end - start) : 0;
    if (!*out)
        return fail_at(err, 211, text, stop, file, text.size ? "unexpected text" : "empty file");
    while (stop < text.size && is_blank(text.data[stop]))
        stop++;
    if (stop < text.size) {
        cJSON_Delete(*out);
        *out = NULL;
        return fail_at(err, 212, text, stop, file, "text behind the end of the value");
    }
    return true;
}

bool json_parse(cJSON **out, Bytes text, const char *file, Error *err) {
    *out = NULL;
    unsigned char *copy = malloc(text.size + 1);
    if (!copy)
        return fail(err, ERR_RESOURCE, 210, "%s: out of memory for %zu bytes", file, text.size);
    memcpy(copy, text.data, text.size);
    copy[text.size] = 0;
    bool done = text_prepare(copy, text.size, file, err) &&
                text_parse(out, (Bytes){copy, text.size}, file, err);
    free(copy);
    return done;
}

bool json_read(cJSON **out, bool *found, const char *path, Error *err) {
    *out = NULL;
    *found = access(path, F_OK) == 0;
    if (!*found)
        return true;
    Arena arena = {0};
    Bytes text;
    bool done = file_read(&text, path, JSON_MAX_FILE_BYTES, &arena, err) &&
                json_parse(out, text, path, err);
    arena_free(&arena);
    return done;
}

// ---- members ------------------------------------------------------------------------------------

const cJSON *json_get(const cJSON *object, const char *key) {
    const cJSON *found = NULL;
    if (!cJSON_IsObject(object))
        return NULL;
    for (const cJSON *item = object->child; item; item = item->next)
        if (item->string && strcmp(item->string, key) == 0)
            found = item; // the last one, as Python reads it
    return found && !cJSON_IsNull(found) ? found : NULL;
}

// The value of a number or of a string that is one; false: neither.
static bool number_of(const cJSON *item, double *value) {
    if (cJSON_IsNumber(item)) {
        *value = item->valuedouble;
        return isfinite(*value);
    }
    if (!cJSON_IsString(item) || !item->valuestring[0])
        return false;
    char *end;
    *value = strtod(item->valuestring, &end);
    return *end == 0 && isfinite(*value);
}

static bool fail_type(Error *err, int id, const cJSON *item, const char *file,
                      const char *expected) {
    char found[64], key[64];
    char *text = cJSON_PrintUnformatted(item);
    text_escape(found, sizeof found, text ? text : "?", text ? strlen(text) : 1);
    cJSON_free(text);
    text_escape(key, sizeof key, item->string, strlen(item->string));
    return fail(err, ERR_CORRUPT, id, "%s: key \"%s\" is %s, expected %s", file, key, found,
                expected);
}

static cJSON *node_keep(const cJSON *from, Arena *a) {
    cJSON *node = ARENA_NEW(a, cJSON, 1);
    *node =
        (cJSON){.type = from->type, .valueint = from->valueint, .valuedouble = from->valuedouble};
    if (from->string)
        node->string = arena_strndup(a, from->string, strlen(from->string));
    if (from->valuestring)
        node->valuestring = arena_strndup(a, from->valuestring, strlen(from->valuestring));
    return node;
}

static void children_keep(cJSON *to, const cJSON *from, Arena *a) {
    cJSON **link = &to->child, *last = NULL;
    for (const cJSON *child = from->child; child; child = child->next) {
        *link = node_keep(child, a);
        (*link)->prev = last;
        last = *link;
        link = &last->next;
    }
    if (to->child)
        to->child->prev = last; // cJSON keeps the last one there
}

const cJSON *json_keep(const cJSON *object, Arena *a) {
    cJSON *copy = node_keep(object, a);
    children_keep(copy, object, a);
    cJSON *to = copy->child;
    for (const cJSON *from = object->child; from; from = from->next, to = to->next)
        children_keep(to, from, a);
    return copy;
}

bool json_int(const cJSON *object, const char *key, int64_t *value, const char *file, Error *err) {
    const cJSON *item = json_get(object, key);
    double number;
    if (!item)
        return true;
    if (!number_of(item, &number) || number != floor(number) || fabs(number) > JSON_MAX_INTEGER)
        return fail_type(err, 213, item, file, "an integer");
    *value = (int64_t)number;
    return true;
}

bool json_number(const cJSON *object, const char *key, double *value, const char *file,
                 Error *err) {
    const cJSON *item = json_get(object, key);
    if (!item)
        return true;
    if (!number_of(item, value))
        return fail_type(err, 214, item, file, "a number");
    return true;
}

bool json_bool(const cJSON *object, const char *key, bool *value, const char *file, Error *err) {
    const cJSON *item = json_get(object, key);
    if (!item)
        return true;
    const char *text = cJSON_IsString(item) ? item->valuestring : "";
    if (cJSON_IsTrue(item) || strcasecmp(text, "true") == 0)
        *value = true;
    else if (cJSON_IsFalse(item) || strcasecmp(text, "false") == 0)
        *value = false;
    else
        return fail_type(err, 215, item, file, "true or false");
    return true;
}

bool json_text(const cJSON *object, const char *key, const char **value, const char *file,
               Error *err) {
    const cJSON *item = json_get(object, key);
    if (!item)
        return true;
    if (!cJSON_IsString(item))
        return fail_type(err, 216, item, file, "a string");
    *value = item->valuestring;
    return true;
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *json;
    Error err;
    if (json_parse(&json, (Bytes){data, size}, "fuzz", &err))
        cJSON_Delete(json);
    return 0;
}
#endif

// What the tests of the tokenizer share: texts in hexadecimal digits, compiling and opening, and
// comparing with ids and text that Hugging Face computed.
#ifndef TOKENIZER_LAB_H
#define TOKENIZER_LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../compiler/compile.h"
#include "../runtime/payload_tokenizer.h"
#include "../runtime/tokenizer.h"

// cmocka's fail_msg needs its macro `fail`.
#define failed(...)                \
    do {                           \
        print_error(__VA_ARGS__);  \
        _fail(__FILE__, __LINE__); \
    } while (0)

static inline int hex_digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static inline Bytes bytes_of(const char *hex, Arena *a) {
    size_t size = strlen(hex) / 2;
    unsigned char *bytes = arena_alloc(a, size + 1);
    for (size_t at = 0; at < size; at++)
        bytes[at] = (unsigned char)(hex_digit(hex[2 * at]) * 16 + hex_digit(hex[2 * at + 1]));
    return (Bytes){bytes, size};
}

static inline Bytes text_bytes(const char *text) {
    return (Bytes){(const unsigned char *)text, strlen(text)};
}

static inline cJSON *vectors_read(const char *path, Arena *a) {
    Error err = {0};
    Bytes file;
    if (!file_read(&file, path, 1 << 24, a, &err))
        failed("%s", err.message);
    cJSON *json = cJSON_ParseWithLength((const char *)file.data, file.size);
    assert_non_null(json);
    return json;
}

static inline Tokenizer *lab_open(const char *dir, int64_t vocab_size, Arena *a) {
    Error err = {0};
    Bytes blob;
    Tokenizer *t;
    if (!tokenizer_compile(dir, vocab_size, a, &blob, &err))
        failed("%s", err.message);
    assert_true(tokenizer_open(&t, blob, &err));
    return t;
}

// name: of the case, for messages.
static inline void ids_equal(const Tokenizer *t, Bytes text, unsigned flags, const cJSON *expected,
                             const char *name) {
    Error err = {0};
    int32_t *ids;
    int64_t count, at = 0;
    assert_true(tokenizer_encode(t, text, flags, &ids, &count, &err));
    for (const cJSON *id = expected->child; id; id = id->next, at++)
        if (at >= count || ids[at] != id->valueint)
            failed("%s: id %lld is %d, expected %d", name, (long long)at, at < count ? ids[at] : -1,
                   id->valueint);
    if (at != count)
        failed("%s: %lld ids, expected %lld", name, (long long)count, (long long)at);
    free(ids);
}

static inline bool starts_character(const unsigned char *at) {
    return (*at & 0xc0) != 0x80;
}

// The text of ids, at once and as a stream whose parts are whole characters.
static inline void decode_equal(const Tokenizer *t, const cJSON *list, Bytes expected,
                                const char *name) {
    Error err = {0};
    int32_t ids[4096], count = 0;
    char *text;
    size_t size, at = 0;
    TokenizerStream *s;
    for (const cJSON *id = list->child; id; id = id->next)
        ids[count++] = id->valueint;
    assert_true(tokenizer_decode(t, ids, count, 0, &text, &size, &err));
    size_t compared = expected.size == strlen(text) ? expected.size : size; // a NUL ends C strings
    if (compared != expected.size || memcmp(text, expected.data, compared) != 0)
        failed("%s: decoded \"%s\", expected \"%s\"", name, text, (const char *)expected.data);
    assert_true(tokenizer_stream_open(&s, t, 0, &err));
    for (int32_t i = 0; i <= count; i++) {
        Bytes part;
        assert_true(i < count ? tokenizer_stream_add(s, ids[i], &part, &err)
                              : tokenizer_stream_end(s, &part, &err));
        assert_true(part.size <= size - at);
        assert_memory_equal(part.data, text + at, part.size);
        at += part.size;
        assert_true(at == size || starts_character((unsigned char *)text + at));
    }
    assert_int_equal(at, size);
    tokenizer_stream_close(s);
    free(text);
}

#endif

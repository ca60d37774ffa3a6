// The tokenizer, both halves, against ids that Hugging Face's `tokenizers` computed
// (tests/make_tokenizer_vectors.py), and the messages of what is refused.
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

#include "../../compiler/compile.h"
#include "../../runtime/payload_tokenizer.h"
#include "../../runtime/tokenizer.h"

// cmocka's fail_msg needs its macro `fail`.
#define failed(...)                                                                                \
    do {                                                                                           \
        print_error(__VA_ARGS__);                                                                  \
        _fail(__FILE__, __LINE__);                                                                 \
    } while (0)

typedef struct Model {
    const char *name, *dir;
    int64_t vocab_size;
} Model;

static const Model models[] = {
    {"storyteller", "samples/storyteller", 8192},
    {"llama32-4b-g128", "tests/vectors/fixtures/llama32-4b-g128", 1024},
};

static int hex_digit(char c) {
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static Bytes bytes_of(const char *hex, Arena *a) {
    size_t size = strlen(hex) / 2;
    unsigned char *bytes = arena_alloc(a, size + 1);
    for (size_t at = 0; at < size; at++)
        bytes[at] = (unsigned char)(hex_digit(hex[2 * at]) * 16 + hex_digit(hex[2 * at + 1]));
    return (Bytes){bytes, size};
}

static void ids_equal(const Tokenizer *t, Bytes text, unsigned flags, const cJSON *expected,
                      const char *hex) {
    Error err = {0};
    int32_t *ids;
    int64_t count;
    assert_true(tokenizer_encode(t, text, flags, &ids, &count, &err));
    int64_t at = 0;
    for (const cJSON *id = expected->child; id; id = id->next, at++)
        if (at >= count || ids[at] != id->valueint)
            failed("%s: id %lld is %d, expected %d", hex, (long long)at, at < count ? ids[at] : -1,
                     id->valueint);
    if (at != count)
        failed("%s: %lld ids, expected %lld", hex, (long long)count, (long long)at);
    free(ids);
}

// Bytes of the pieces, with what is no UTF-8 replaced, are Hugging Face's text.
static void text_equal(const Tokenizer *t, const cJSON *ids, const char *expected) {
    char joined[8192];
    size_t size = 0;
    for (const cJSON *id = ids->child; id; id = id->next) {
        Bytes piece = tokenizer_piece(t, id->valueint);
        assert_true(size + piece.size < sizeof joined);
        memcpy(joined + size, piece.data, piece.size);
        size += piece.size;
    }
    joined[size] = 0;
    if (strlen(joined) == size) // NUL bytes end a C string
        assert_string_equal(joined, expected);
}

static void check_model(const Model *m) {
    Arena arena = {0};
    Error err = {0};
    Bytes blob, file;
    Tokenizer *t;
    if (!tokenizer_compile(m->dir, m->vocab_size, &arena, &blob, &err))
        failed("%s", err.message);
    assert_true(tokenizer_open(&t, blob, &err));
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/tokenizer/%s.json", m->name);
    assert_true(file_read(&file, path, 1 << 24, &arena, &err));
    cJSON *vectors = cJSON_ParseWithLength((const char *)file.data, file.size);
    assert_true(cJSON_GetArraySize(vectors) > 100);
    for (const cJSON *v = vectors->child; v; v = v->next) {
        const char *hex = cJSON_GetObjectItem(v, "hex")->valuestring;
        Bytes text = bytes_of(hex, &arena);
        ids_equal(t, text, TOKENIZER_ADD_SPECIAL, cJSON_GetObjectItem(v, "ids"), hex);
        ids_equal(t, text, 0, cJSON_GetObjectItem(v, "plain"), hex);
        text_equal(t, cJSON_GetObjectItem(v, "plain"), cJSON_GetObjectItem(v, "text")->valuestring);
    }
    cJSON_Delete(vectors);
    tokenizer_close(t);
    arena_free(&arena);
}

static void test_storyteller(void **state) {
    (void)state;
    check_model(&models[0]);
}

static void test_llama3(void **state) {
    (void)state;
    check_model(&models[1]);
}

// The text of a special token stays text when it is asked for.
static void test_plain_text(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Bytes blob, text = {(const unsigned char *)"<|eot_id|>", 10};
    Tokenizer *t;
    int32_t *ids;
    int64_t count;
    assert_true(tokenizer_compile("samples/storyteller", 8192, &arena, &blob, &err));
    assert_true(tokenizer_open(&t, blob, &err));
    assert_true(tokenizer_encode(t, text, 0, &ids, &count, &err));
    assert_int_equal(count, 1);
    assert_true(tokenizer_is_special(t, ids[0]));
    free(ids);
    assert_true(tokenizer_encode(t, text, TOKENIZER_PLAIN_TEXT, &ids, &count, &err));
    assert_true(count > 1);
    for (int64_t at = 0; at < count; at++)
        assert_false(tokenizer_is_special(t, ids[at]));
    free(ids);
    tokenizer_close(t);
    arena_free(&arena);
}

// A damaged header is refused, wherever an offset of it is damaged.
static void test_damaged(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Bytes blob;
    Tokenizer *t;
    assert_true(tokenizer_compile("samples/storyteller", 8192, &arena, &blob, &err));
    assert_false(tokenizer_open(&t, (Bytes){blob.data, 16}, &err));
    assert_int_equal(err.id, 951);
    unsigned char *copy = arena_alloc(&arena, blob.size);
    for (size_t at = offsetof(TokenizerHeader, size); at < offsetof(TokenizerHeader, scores);
         at += 8) {
        memcpy(copy, blob.data, blob.size);
        memset(copy + at, 0xff, 8);
        assert_false(tokenizer_open(&t, (Bytes){copy, blob.size}, &err));
    }
    arena_free(&arena);
}

typedef struct Refusal {
    int id;
    const char *json;
} Refusal;

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define PRE "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"

static const Refusal refusals[] = {
    {901, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99},\"merges\":[]}," PRE "}"},
    {903, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}," PRE "}"},
    {904, "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}," PRE "}"},
    {905, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}," PRE "}"},
    {906, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}," PRE "}"},
    {907, "{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}," PRE "}"},
    {908, "{" PRE "}"},
    {910, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}," PRE "}"},
    {911, "{\"model\":{\"type\":\"BPE\",\"dropout\":0.5}," PRE "}"},
    {912, "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"}," PRE "}"},
    {913, "{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}"},
    {914, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}," PRE "}"},
    {915, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}"},
    {916, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}}"},
    {917, "{\"model\":{\"type\":\"WordPiece\"}}"},
    {918, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}," PRE
          "}"},
    {920, "{" MODEL "," PRE ",\"added_tokens\":{}}"},
    {922, "{" MODEL "," PRE ",\"added_tokens\":[{\"id\":1}]}"},
    {926, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Shuffled\"}}"},
    {927, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\"}}"},
    {928, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"x\"}}"},
    {962, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"FixedLength\"}}"},
    {963, "{" MODEL "," PRE ",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",77],"
          "\"sep\":[\"b\",1]}}"},
    {966, "{" MODEL "," PRE ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
          "[{\"SpecialToken\":{\"id\":\"x\"}}]}}"},
    {967, "{" MODEL "," PRE ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}"},
    {968, "{" MODEL "," PRE ",\"post_processor\":{\"type\":\"Other\"}}"},
    {972, "{" MODEL ",\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"}}}"},
    {976, "{" MODEL ",\"decoder\":{\"type\":\"CTC\"}}"},
    {977, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}"},
    {989, "{" MODEL "," PRE ",\"normalizer\":{\"type\":\"Nmt\"}}"},
};

static void test_refusals(void **state) {
    (void)state;
    char dir[] = "/tmp/test_tokenizer.XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    for (size_t at = 0; at < sizeof refusals / sizeof *refusals; at++) {
        Arena arena = {0};
        Error err = {0};
        Bytes blob;
        FILE *file = fopen(path, "w");
        fputs(refusals[at].json, file);
        fclose(file);
        assert_false(tokenizer_compile(dir, 10, &arena, &blob, &err));
        if (err.id != refusals[at].id)
            failed("GQC-%04d (%s), expected %d", err.id, err.message, refusals[at].id);
        assert_non_null(strstr(err.message, "tokenizer.json"));
        arena_free(&arena);
    }
    remove(path);
    Arena arena = {0};
    Error err = {0};
    Bytes blob;
    assert_false(tokenizer_compile(dir, 10, &arena, &blob, &err));
    assert_int_equal(err.id, 900);
    arena_free(&arena);
    remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storyteller), cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_plain_text),  cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

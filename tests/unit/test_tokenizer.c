// The tokenizer, both halves, against ids that Hugging Face's `tokenizers` computed
// (tests/make_tokenizer_vectors.py), and the messages of what is refused.
#include "../tokenizer_lab.h"

#include "../../compiler/tokenizer_regex.h"
#include "../../runtime/tokenizer_pattern.h"

typedef struct Model {
    const char *name, *dir;
    int64_t vocab_size;
} Model;

static const Model models[] = {
    {"storyteller", "samples/storyteller", 8192},
    {"llama32-4b-g128", "tests/vectors/fixtures/llama32-4b-g128", 1024},
};

static void check_model(const Model *m) {
    Arena arena = {0};
    Tokenizer *t = lab_open(m->dir, m->vocab_size, &arena);
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/tokenizer/%s.json", m->name);
    cJSON *vectors = vectors_read(path, &arena);
    assert_true(cJSON_GetArraySize(vectors) > 100);
    for (const cJSON *v = vectors->child; v; v = v->next) {
        const char *hex = cJSON_GetObjectItem(v, "hex")->valuestring;
        const cJSON *plain = cJSON_GetObjectItem(v, "plain");
        const char *decoded = cJSON_GetObjectItem(v, "text")->valuestring;
        Bytes text = bytes_of(hex, &arena);
        ids_equal(t, text, TOKENIZER_ADD_SPECIAL, cJSON_GetObjectItem(v, "ids"), hex);
        ids_equal(t, text, 0, plain, hex);
        if (!memchr(text.data, 0, text.size)) // NUL bytes end a C string
            decode_equal(t, plain, text_bytes(decoded), hex);
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

// Each checkpoint's prompts and answers, as transformers computed them.
static void check_fixture(const char *name, int64_t vocab_size) {
    Arena arena = {0};
    char dir[96], path[128];
    snprintf(dir, sizeof dir, "tests/vectors/fixtures/%s", name);
    snprintf(path, sizeof path, "%s/reference.json", dir);
    cJSON *reference = vectors_read(path, &arena);
    Tokenizer *t = lab_open(dir, vocab_size, &arena);
    const cJSON *prompts = cJSON_GetObjectItem(reference, "prompts");
    assert_true(cJSON_GetArraySize(prompts) > 3);
    for (const cJSON *p = prompts->child; p; p = p->next) {
        const char *prompt = cJSON_GetObjectItem(p, "prompt")->valuestring;
        ids_equal(t, text_bytes(prompt), TOKENIZER_ADD_SPECIAL, cJSON_GetObjectItem(p, "input_ids"),
                  name);
        decode_equal(t, cJSON_GetObjectItem(p, "greedy_ids"),
                     text_bytes(cJSON_GetObjectItem(p, "greedy_text")->valuestring), name);
    }
    cJSON_Delete(reference);
    tokenizer_close(t);
    arena_free(&arena);
}

static void test_fixtures(void **state) {
    (void)state;
    static const char *const names[] = {"llama32-4b-g128",     "llama2-4b-g128-bf16-lmhead",
                                        "mistral-4b-g128",     "qwen2-4b-g128",
                                        "qwen3-4b-g128",       "phi3-4b-g128",
                                        "gemma2-4b-g128-bf16", "mixtral-4b-g128"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        check_fixture(names[at], 1024);
}

static int special_count(const Tokenizer *t, const int32_t *ids, int64_t count) {
    int special = 0;
    for (int64_t at = 0; at < count; at++)
        special += tokenizer_is_special(t, ids[at]);
    return special;
}

// The text of a special token stays text when it is asked for.
static void test_plain_text(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Bytes text = text_bytes("<|eot_id|>");
    int32_t *ids;
    int64_t count;
    Tokenizer *t = lab_open("samples/storyteller", 8192, &arena);
    assert_true(tokenizer_encode(t, text, 0, &ids, &count, &err));
    assert_int_equal(count, 1);
    assert_true(tokenizer_is_special(t, ids[0]));
    free(ids);
    assert_true(tokenizer_encode(t, text, TOKENIZER_PLAIN_TEXT, &ids, &count, &err));
    assert_true(count > 1);
    assert_int_equal(special_count(t, ids, count), 0);
    free(ids);
    tokenizer_close(t);
    arena_free(&arena);
}

typedef struct Marked {
    const char *dir, *special;
} Marked;

// What a user wrote never becomes a special token; what the template wrote does. The user's text
// changes its length in the normalizer, so the marks have to travel.
static void check_marked(const Marked *m) {
    static const char *const wrote[] = {"", "e\u0301 \u1100\u1161 ", " \xff\xf0\x9f ", "u\u0308<",
                                        "\n"};
    Arena arena = {0};
    Error err = {0};
    Tokenizer *t = lab_open(m->dir, 1024, &arena);
    for (size_t at = 0; at < sizeof wrote / sizeof *wrote; at++) {
        char text[600];
        uint8_t marks[600] = {0};
        int32_t *ids;
        int64_t count;
        int front = snprintf(text, sizeof text, "A\u0308 %s ", m->special);
        int user = snprintf(text + front, sizeof text - (size_t)front, "%s%s%s%s", wrote[at],
                            m->special, m->special, wrote[at]);
        snprintf(text + front + user, sizeof text - (size_t)(front + user), "o\u0308%s",
                 m->special);
        memset(marks + front, 1, (size_t)user);
        assert_true(tokenizer_encode_marked(t, text_bytes(text), marks, 0, &ids, &count, &err));
        assert_int_equal(special_count(t, ids, count), 2);
        assert_true(tokenizer_is_special(t, ids[count - 1]));
        free(ids);
        marks[strlen(text) - 1] = 1; // one byte is enough
        assert_true(tokenizer_encode_marked(t, text_bytes(text), marks, 0, &ids, &count, &err));
        assert_int_equal(special_count(t, ids, count), 1);
        free(ids);
    }
    tokenizer_close(t);
    arena_free(&arena);
}

static void test_marked(void **state) {
    (void)state;
    static const Marked cases[] = {{"tests/vectors/fixtures/qwen2-4b-g128", "<|im_end|>"},
                                   {"tests/vectors/fixtures/phi3-4b-g128", "</s>"},
                                   {"tests/vectors/fixtures/llama32-4b-g128", "<|end_of_text|>"}};
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++)
        check_marked(&cases[at]);
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

#define MODEL \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
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
    {918,
     "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}," PRE
     "}"},
    {920, "{" MODEL "," PRE ",\"added_tokens\":{}}"},
    {922, "{" MODEL "," PRE ",\"added_tokens\":[{\"id\":1}]}"},
    {924, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
          "{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}}"},
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
    {973, "{" MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}}"},
    {974, "{" MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\"ab\",\"start\":1,\"stop\":0}}"},
    {975, "{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
          "{\"type\":\"ByteLevel\"}]}}"},
    {986, "{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\"}}"},
    {987,
     "{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAB\"}}"},
    {988, "{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"$\"}}"},
    {989, "{" MODEL "," PRE ",\"normalizer\":{\"type\":\"Nmt\"}}"},
    {990, "{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a*\"}}}"},
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

// Expressions: what no automaton can do, what is damaged, what would be too large.
static const Refusal expressions[] = {
    {980, "(?=ab)"},
    {980, "(?<=a)b"},
    {980, "\\\\bfoo"},
    {980, "(a)\\\\1"},
    {980, "(?>ab)c"},
    {980, "(ab)*+"},
    {980, "a{1000}{1000}"},
    {980, "^a"},
    {980, "\\\\p{Nonsense}"},
    {980, "a{1001}"},
    {980, "*a"},
    {980, "[[[[[[[[[a]]]]]]]]]"},
    {981, "("},
    {981, "a)"},
    {981, "[a"},
    {981, "a\\\\"},
    {981, "[z-a]"},
    {981, "\\\\x{110000}"},
    {981, "\\\\pL"},
    {983, "[ab]*a[ab]{11}c"},
};

static void test_expressions(void **state) {
    (void)state;
    char dir[] = "/tmp/test_tokenizer.XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    for (size_t at = 0; at < sizeof expressions / sizeof *expressions; at++) {
        Arena arena = {0};
        Error err = {0};
        Bytes blob;
        FILE *file = fopen(path, "w");
        fprintf(file,
                "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\","
                "\"pattern\":{\"Regex\":\"%s\"}}}",
                expressions[at].json);
        fclose(file);
        assert_false(tokenizer_compile(dir, 10, &arena, &blob, &err));
        if (err.id != expressions[at].id)
            failed("%s: GQC-%04d (%s), expected %d", expressions[at].json, err.id, err.message,
                   expressions[at].id);
        assert_non_null(strstr(err.message, "pre_tokenizer.pattern.Regex"));
        arena_free(&arena);
    }
    remove(path);
    remove(dir);
}

// Late failures, one after the other, must not make the search quadratic.
static void test_long_blanks(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    Arena arena = {0};
    Error err = {0};
    Bytes tables;
    PatternMatch match;
    unsigned char *text = arena_alloc(&arena, SIZE);
    memset(text, ' ', SIZE);
    text[SIZE - 1] = 'x';
    assert_true(pattern_compile(&tables, "\\s+$", "test", &arena, &err));
    assert_true(pattern_valid(tables));
    assert_false(pattern_find(tables, (Bytes){text, SIZE}, 0, &match));
    assert_true(pattern_find(tables, (Bytes){text, SIZE - 1}, 5, &match));
    assert_int_equal(match.start, 5);
    assert_int_equal(match.end, SIZE - 1);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storyteller), cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_fixtures),    cmocka_unit_test(test_plain_text),
        cmocka_unit_test(test_marked),      cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_long_blanks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Tokenizers of many families, put together from a fixture's tokenizer.json and other parts, and
// SentencePiece models, against ids and texts of Hugging Face (tests/make_tokenizer_vectors.py).
#include "../tokenizer_lab.h"

enum { VOCAB_SIZE = 1100 };

static void file_write(const char *dir, const char *name, const char *text) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void file_remove(const char *dir, const char *name) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    remove(path);
}

// Sets the member that a dotted path names. Added tokens are put behind those that are there.
static void patch_apply(cJSON *whole, const cJSON *patch) {
    char path[64], *key = path, *dot;
    cJSON *place = whole;
    snprintf(path, sizeof path, "%s", patch->string);
    for (; (dot = strchr(key, '.')); key = dot + 1) {
        *dot = 0;
        place = cJSON_GetObjectItem(place, key);
    }
    cJSON *value = cJSON_Duplicate(patch, true);
    if (strcmp(key, "added_tokens") != 0) {
        cJSON_DeleteItemFromObjectCaseSensitive(place, key);
        cJSON_AddItemToObject(place, key, value);
        return;
    }
    for (cJSON *token; (token = cJSON_DetachItemFromArray(value, 0));)
        cJSON_AddItemToArray(cJSON_GetObjectItem(place, key), token);
    cJSON_Delete(value);
}

static void vectors_check(const Tokenizer *t, const cJSON *texts, const cJSON *expected, Arena *a) {
    const char *name = cJSON_GetObjectItem(expected, "name")->valuestring;
    const cJSON *ids = cJSON_GetObjectItem(expected, "ids")->child;
    for (const cJSON *text = texts->child; text; text = text->next, ids = ids->next) {
        char where[600];
        snprintf(where, sizeof where, "%s %s", name, text->valuestring);
        assert_non_null(ids);
        ids_equal(t, bytes_of(text->valuestring, a), TOKENIZER_ADD_SPECIAL, ids, where);
    }
    const cJSON *decoded = cJSON_GetObjectItem(expected, "decoded");
    for (const cJSON *one = decoded->child; one; one = one->next)
        decode_equal(t, one->child, bytes_of(one->child->next->valuestring, a), name);
}

static void variant_check(const cJSON *variant, const cJSON *texts, const char *dir) {
    Arena arena = {0};
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/fixtures/%s/tokenizer.json",
             cJSON_GetObjectItem(variant, "fixture")->valuestring);
    cJSON *whole = vectors_read(path, &arena);
    for (const cJSON *p = cJSON_GetObjectItem(variant, "patch")->child; p; p = p->next)
        patch_apply(whole, p);
    char *text = cJSON_PrintUnformatted(whole);
    file_write(dir, "tokenizer.json", text);
    Tokenizer *t = lab_open(dir, VOCAB_SIZE, &arena);
    vectors_check(t, texts, variant, &arena);
    tokenizer_close(t);
    cJSON_free(text);
    cJSON_Delete(whole);
    arena_free(&arena);
}

static void test_families(void **state) {
    (void)state;
    Arena arena = {0};
    char dir[] = "/tmp/test_families.XXXXXX";
    assert_non_null(mkdtemp(dir));
    cJSON *vectors = vectors_read("tests/vectors/tokenizer/families.json", &arena);
    const cJSON *variants = cJSON_GetObjectItem(vectors, "variants");
    assert_true(cJSON_GetArraySize(variants) > 30);
    for (const cJSON *v = variants->child; v; v = v->next)
        variant_check(v, cJSON_GetObjectItem(vectors, "texts"), dir);
    file_remove(dir, "tokenizer.json");
    remove(dir);
    cJSON_Delete(vectors);
    arena_free(&arena);
}

static void bytes_write(const char *dir, const char *name, Bytes bytes) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes.data, 1, bytes.size, file), bytes.size);
    fclose(file);
}

static Bytes model_read(const char *name, Arena *a) {
    Error err = {0};
    Bytes model;
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/tokenizer/%s.model", name);
    assert_true(file_read(&model, path, 1 << 20, a, &err));
    return model;
}

static void spm_check(const cJSON *entry, const cJSON *texts, const char *dir) {
    Arena arena = {0};
    const cJSON *files = cJSON_GetObjectItem(entry, "files");
    bytes_write(dir, "tokenizer.model",
                model_read(cJSON_GetObjectItem(entry, "model")->valuestring, &arena));
    for (const cJSON *f = files->child; f; f = f->next) {
        char *text = cJSON_PrintUnformatted(f);
        file_write(dir, f->string, text);
        cJSON_free(text);
    }
    Tokenizer *t = lab_open(dir, VOCAB_SIZE, &arena);
    vectors_check(t, texts, entry, &arena);
    tokenizer_close(t);
    for (const cJSON *f = files->child; f; f = f->next)
        file_remove(dir, f->string);
    file_remove(dir, "tokenizer.model");
    arena_free(&arena);
}

static void test_sentencepiece(void **state) {
    (void)state;
    Arena arena = {0};
    char dir[] = "/tmp/test_families.XXXXXX";
    assert_non_null(mkdtemp(dir));
    cJSON *vectors = vectors_read("tests/vectors/tokenizer/sentencepiece.json", &arena);
    const cJSON *models = cJSON_GetObjectItem(vectors, "models");
    assert_true(cJSON_GetArraySize(models) > 5);
    for (const cJSON *m = models->child; m; m = m->next)
        spm_check(m, cJSON_GetObjectItem(vectors, "texts"), dir);
    remove(dir);
    cJSON_Delete(vectors);
    arena_free(&arena);
}

typedef struct Affixes {
    const char *processor; // post_processor of tokenizer.json
    const char *config;    // tokenizer_config.json
    int32_t first, last;   // what stands around a text, -1: nothing
} Affixes;

#define TEMPLATE                                                                         \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"</s>\"}}," \
    "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"</s>\":{\"ids\":[2]}}}"
#define CONFIG(class, keys)                                                                    \
    "{\"tokenizer_class\":\"" class "\",\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</" \
                                    "s>\"}" keys "}"

// As transformers 4.46 and 5.23 do it; where they differ, as the file says.
static const Affixes affixes[] = {
    {TEMPLATE, CONFIG("LlamaTokenizer", ",\"add_bos_token\":true"), 2, -1},
    {TEMPLATE, CONFIG("PreTrainedTokenizerFast", ",\"add_bos_token\":false"), 2, -1},
    {"null", CONFIG("LlamaTokenizerFast", ""), 1, -1},
    {"null", CONFIG("LlamaTokenizer", ",\"add_bos_token\":false"), -1, -1},
    {"null", CONFIG("LlamaTokenizer", ",\"add_eos_token\":true"), 1, 2},
    {"null", CONFIG("GemmaTokenizer", ",\"add_bos_token\":true"), 1, -1},
    {"null", CONFIG("PreTrainedTokenizerFast", ",\"add_bos_token\":true"), -1, -1},
    {"null", CONFIG("Qwen2Tokenizer", ",\"add_eos_token\":true"), -1, -1},
    {"{\"type\":\"ByteLevel\"}", CONFIG("LlamaTokenizer", ""), -1, -1},
    {"{\"type\":\"ByteLevel\"}", CONFIG("LlamaTokenizer", ",\"add_bos_token\":true"), 1, -1},
};

static void affixes_check(const Affixes *a, const char *dir) {
    Arena arena = {0};
    Error err = {0};
    int32_t *plain, *ids;
    int64_t count, all;
    cJSON *whole = vectors_read("tests/vectors/fixtures/phi3-4b-g128/tokenizer.json", &arena);
    cJSON_ReplaceItemInObjectCaseSensitive(whole, "post_processor", cJSON_Parse(a->processor));
    char *text = cJSON_PrintUnformatted(whole);
    file_write(dir, "tokenizer.json", text);
    file_write(dir, "tokenizer_config.json", a->config);
    Tokenizer *t = lab_open(dir, VOCAB_SIZE, &arena);
    Bytes words = text_bytes("a b");
    assert_true(tokenizer_encode(t, words, 0, &plain, &count, &err));
    assert_true(tokenizer_encode(t, words, TOKENIZER_ADD_SPECIAL, &ids, &all, &err));
    assert_int_equal(all, count + (a->first >= 0) + (a->last >= 0));
    assert_int_equal(ids[0], a->first >= 0 ? a->first : plain[0]);
    assert_int_equal(ids[all - 1], a->last >= 0 ? a->last : plain[count - 1]);
    free(plain);
    free(ids);
    tokenizer_close(t);
    cJSON_free(text);
    cJSON_Delete(whole);
    arena_free(&arena);
}

static void test_affixes(void **state) {
    (void)state;
    char dir[] = "/tmp/test_families.XXXXXX";
    assert_non_null(mkdtemp(dir));
    for (size_t at = 0; at < sizeof affixes / sizeof *affixes; at++)
        affixes_check(&affixes[at], dir);
    file_remove(dir, "tokenizer.json");
    file_remove(dir, "tokenizer_config.json");
    remove(dir);
}

// A model cut off anywhere is refused, or is a shorter model; nothing else happens.
static void test_cut_model(void **state) {
    (void)state;
    char dir[] = "/tmp/test_families.XXXXXX";
    assert_non_null(mkdtemp(dir));
    int refused = 0;
    for (size_t size = 0; size < 6000; size += 97) {
        Arena arena = {0};
        Error err = {0};
        Bytes blob, model = model_read("bpe", &arena);
        model.size = size < model.size ? size : model.size;
        bytes_write(dir, "tokenizer.model", model);
        bool done = tokenizer_compile(dir, VOCAB_SIZE, &arena, &blob, &err);
        assert_true(done || err.id > 900);
        refused += err.id == 991;
        arena_free(&arena);
    }
    assert_true(refused > 30);
    file_remove(dir, "tokenizer.model");
    remove(dir);
}

static void damaged_use(Bytes tables) {
    Bytes text = text_bytes("The \xc3\xa9 e\xcc\x81 <s> </s> 12345 \xed\x95\x9c <|im_end|>  x\n");
    Error err = {0};
    Tokenizer *t;
    int32_t *ids = NULL;
    int64_t count = 0;
    char *decoded = NULL;
    size_t size;
    if (!tokenizer_open(&t, tables, &err))
        return;
    if (tokenizer_encode(t, text, 0, &ids, &count, &err) &&
        tokenizer_decode(t, ids, count, 0, &decoded, &size, &err))
        free(decoded);
    free(ids);
    tokenizer_close(t);
}

// Bytes of the tables that opening does not check lead to wrong ids at most.
static void damaged_check(const char *dir) {
    Arena arena = {0};
    Error err = {0};
    Bytes blob;
    uint32_t random = 1;
    assert_true(tokenizer_compile(dir, VOCAB_SIZE, &arena, &blob, &err));
    unsigned char *damaged = arena_alloc(&arena, blob.size);
    for (int round = 0; round < 300; round++) {
        memcpy(damaged, blob.data, blob.size);
        for (int at = 0; at < 1 + round / 4; at++) {
            random = random * 1664525 + 1013904223;
            size_t place = (random >> 4) % (round % 2 ? blob.size : sizeof(TokenizerHeader));
            damaged[place] = (unsigned char)(random >> 24);
        }
        damaged_use((Bytes){damaged, blob.size});
    }
    arena_free(&arena);
}

static void test_damaged_tables(void **state) {
    (void)state;
    damaged_check("tests/vectors/fixtures/qwen2-4b-g128");
    damaged_check("tests/vectors/fixtures/phi3-4b-g128");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),       cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_affixes),        cmocka_unit_test(test_cut_model),
        cmocka_unit_test(test_damaged_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Grammars against what jsonschema and Python's re say of documents and texts
// (tests/make_grammar_vectors.py), token by token with the tokenizers of several families; masks
// against advancing; what is refused; hostile schemas and expressions in bounded time.
#include "../tokenizer_lab.h"

#include "../../runtime/grammar.h"

#include <regex.h>

enum { MAX_VOCAB = 8192, MAX_SKIPPED_PERCENT = 5 };

static const struct {
    const char *dir;
    int32_t vocab_size;
} models[] = {
    {"samples/storyteller", 8192},
    {"tests/vectors/fixtures/llama32-4b-g128", 1024},
    {"tests/vectors/fixtures/llama2-4b-g128-bf16-lmhead", 1024},
    {"tests/vectors/fixtures/qwen2-4b-g128", 1024},
    {"tests/vectors/fixtures/gemma2-4b-g128-bf16", 1024},
    {"tests/vectors/fixtures/phi3-4b-g128", 1024},
};

enum { MODELS = sizeof models / sizeof *models };

typedef struct Lab {
    Arena arena;
    Tokenizer *t;
    const char *dir;
    int32_t vocab, stop;
    int walked, skipped;
} Lab;

static void lab_start(Lab *l, int model) {
    *l = (Lab){.dir = models[model].dir, .vocab = models[model].vocab_size};
    l->t = lab_open(models[model].dir, l->vocab, &l->arena);
    while (l->stop < l->vocab - 1 && !tokenizer_is_special(l->t, l->stop))
        l->stop++;
    tokenizer_set_stops(l->t, &l->stop, 1);
}

static void lab_end(Lab *l) {
    tokenizer_close(l->t);
    arena_free(&l->arena);
}

static bool allowed(const uint32_t *mask, int32_t id) {
    return mask[id / 32] >> (id % 32) & 1;
}

// Each token of the mask can be taken and no other one.
static void mask_exact(const Lab *l, const Grammar *g, const GrammarState *s) {
    Error err = {0};
    uint32_t mask[MAX_VOCAB / 32];
    GrammarState *copy;
    grammar_mask(s, mask);
    assert_true(grammar_state_open(&copy, g, &err));
    for (int32_t id = 0; id < l->vocab; id++) {
        assert_true(grammar_state_copy(copy, s, &err));
        if (id != l->stop && grammar_advance(copy, id) != allowed(mask, id))
            failed("token %d: the mask has %d", id, allowed(mask, id));
    }
    assert_int_equal(allowed(mask, l->stop), grammar_may_end(s));
    grammar_state_close(copy);
}

// Does the grammar take the text? -1: this vocabulary cannot write it.
static int takes(Lab *l, const Grammar *g, const char *text, bool exact) {
    Error err = {0};
    GrammarState *s;
    uint32_t mask[MAX_VOCAB / 32];
    int32_t *ids;
    int64_t count, at = 0;
    char *back;
    size_t size;
    bool taken = true;
    assert_true(tokenizer_encode(l->t, text_bytes(text), TOKENIZER_PLAIN_TEXT, &ids, &count, &err));
    assert_true(tokenizer_decode(l->t, ids, count, 0, &back, &size, &err));
    bool same = size == strlen(text) && memcmp(back, text, size) == 0;
    free(back);
    assert_true(grammar_state_open(&s, g, &err));
    for (; same && taken && at < count; at++) {
        if (exact)
            mask_exact(l, g, s);
        grammar_mask(s, mask);
        bool in_mask = allowed(mask, ids[at]);
        taken = grammar_advance(s, ids[at]);
        if (taken != in_mask)
            failed("\"%s\": token %lld: mask %d, advance %d", text, (long long)at, in_mask, taken);
    }
    int result = !same ? -1 : taken && grammar_may_end(s);
    grammar_state_close(s);
    free(ids);
    l->walked += result >= 0;
    l->skipped += result < 0;
    return result;
}

static void check_texts(Lab *l, const Grammar *g, const cJSON *v, const char *name,
                        const char *what, int expected) {
    bool exact = expected;
    for (const cJSON *text = cJSON_GetObjectItem(v, what)->child; text; text = text->next) {
        int found = takes(l, g, text->valuestring, exact && strlen(text->valuestring) < 40);
        if (found >= 0 && found != expected)
            failed("%s: %s: %s \"%s\": taken %d", l->dir, name, what, text->valuestring, found);
        exact = false; // of the first text only
    }
}

static bool grammar_of(Lab *l, const cJSON *v, Grammar **g, Error *err) {
    const cJSON *regex = cJSON_GetObjectItem(v, "regex");
    const cJSON *schema = cJSON_GetObjectItem(v, "schema");
    return regex ? grammar_regex(g, l->t, text_bytes(regex->valuestring), err)
                 : grammar_json_schema(g, l->t, text_bytes(schema->valuestring), err);
}

static void check_vectors(const char *path, int model) {
    Lab l;
    Error err = {0};
    lab_start(&l, model);
    cJSON *vectors = vectors_read(path, &l.arena);
    assert_true(cJSON_GetArraySize(vectors) > 20);
    for (const cJSON *v = vectors->child; v; v = v->next) {
        const char *name = v->child->valuestring;
        Grammar *g;
        if (!grammar_of(&l, v, &g, &err))
            failed("%s: %s", name, err.message);
        check_texts(&l, g, v, name, "accept", 1);
        check_texts(&l, g, v, name, "reject", 0);
        grammar_free(g);
    }
    if (l.skipped * 100 > l.walked * MAX_SKIPPED_PERCENT)
        failed("%s: %d texts of %d cannot be written", models[model].dir, l.skipped, l.walked);
    cJSON_Delete(vectors);
    lab_end(&l);
}

static void test_schemas(void **state) {
    (void)state;
    for (int model = 0; model < MODELS; model++)
        check_vectors("tests/vectors/grammar/schemas.json", model);
}

static void test_regexes(void **state) {
    (void)state;
    for (int model = 0; model < MODELS; model++)
        check_vectors("tests/vectors/grammar/regexes.json", model);
}

static void test_refused(void **state) {
    (void)state;
    Lab l;
    lab_start(&l, 1);
    cJSON *vectors = vectors_read("tests/vectors/grammar/refused.json", &l.arena);
    for (const cJSON *v = vectors->child; v; v = v->next) {
        const char *words = cJSON_GetObjectItem(v, "words")->valuestring;
        Error err = {0};
        Grammar *g = NULL;
        regex_t pattern;
        if (grammar_of(&l, v, &g, &err))
            failed("%s: was taken", v->child->valuestring);
        assert_int_equal(regcomp(&pattern, words, REG_EXTENDED | REG_NOSUB), 0);
        if ((err.code != ERR_USAGE && err.code != ERR_RESOURCE) ||
            regexec(&pattern, err.message, 0, NULL, 0) != 0)
            failed("%s: code %d, \"%s\", expected %s", v->child->valuestring, (int)err.code,
                   err.message, words);
        regfree(&pattern);
    }
    cJSON_Delete(vectors);
    lab_end(&l);
}

// Text that cannot be one: bytes that are no characters, and zero characters, which cJSON's strings
// cannot hold. An escaped backslash before u0000 is none.
static void test_bad_text(void **state) {
    (void)state;
    static const struct {
        const char *schema;
        int id; // 0: taken
    } rows[] = {
        {"{\"properties\":{\"a\xff\":{},\"a\xe2\":{}},\"additionalProperties\":true}", 1089},
        {"{\"const\":\"\xed\xa0\x80\"}", 1089},
        {"{\"const\":\"\xc0\x80\"}", 1089},
        {"\"\xf0\x9f", 1089},
        {"{\"const\":\"a\\u0000b\"}", 1248},
        {"{\"properties\":{\"\\u0000\":{}}}", 1248},
        {"{\"const\":\"a\\\\u0000\"}", 0},
    };
    Lab l;
    lab_start(&l, 1);
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++) {
        Error err = {0};
        Grammar *g = NULL;
        bool taken = grammar_json_schema(&g, l.t, text_bytes(rows[at].schema), &err);
        assert_int_equal(taken, rows[at].id == 0);
        assert_int_equal(taken ? 0 : err.id, rows[at].id);
        if (taken)
            grammar_free(g);
    }
    lab_end(&l);
}

static void test_choice(void **state) {
    (void)state;
    Lab l;
    Error err = {0};
    Grammar *g;
    const Bytes choices[] = {text_bytes("yes"), text_bytes("yes, of course"),
                             text_bytes("n\xc3\xb6")};
    lab_start(&l, 0);
    assert_true(grammar_choice(&g, l.t, choices, 3, &err));
    assert_int_equal(takes(&l, g, "yes", true), 1);
    assert_int_equal(takes(&l, g, "yes, of course", true), 1);
    assert_int_equal(takes(&l, g, "n\xc3\xb6", true), 1);
    assert_int_equal(takes(&l, g, "yes,", false), 0);
    assert_int_equal(takes(&l, g, "no", false), 0);
    grammar_free(g);
    assert_false(grammar_choice(&g, l.t, choices, 0, &err));
    assert_int_equal(err.code, ERR_USAGE);
    lab_end(&l);
}

static void test_object(void **state) {
    (void)state;
    Lab l;
    Error err = {0};
    Grammar *g;
    lab_start(&l, 0);
    assert_true(grammar_json_object(&g, l.t, &err));
    assert_int_equal(takes(&l, g, "{\"a\": [1, null, {\"b\": \"\\u00e9\"}]}", true), 1);
    assert_int_equal(takes(&l, g, "[]", false), 0);
    assert_int_equal(takes(&l, g, "{\"a\": \"\\ud83d\\ude00\"}", true), 1);
    assert_int_equal(takes(&l, g, "{\"a\": \"\\ud83d\\uec00\"}", false), 0);
    assert_int_equal(takes(&l, g, "{\"a\": \"\\ud83d\\udb00\"}", false), 0);
    grammar_free(g);
    lab_end(&l);
}

// After the end there is nothing but the end.
static void test_end(void **state) {
    (void)state;
    Lab l;
    Error err = {0};
    Grammar *g;
    GrammarState *s;
    uint32_t mask[MAX_VOCAB / 32];
    lab_start(&l, 1);
    assert_true(grammar_regex(&g, l.t, text_bytes(""), &err));
    assert_true(grammar_state_open(&s, g, &err));
    grammar_free(g); // the state lives on
    assert_true(grammar_may_end(s));
    assert_false(grammar_advance(s, -1));
    assert_false(grammar_advance(s, l.vocab));
    assert_false(grammar_advance(s, l.stop));
    assert_false(grammar_advance(s, l.stop));
    grammar_mask(s, mask);
    for (int32_t id = 0; id < l.vocab; id++)
        assert_int_equal(allowed(mask, id), id == l.stop);
    grammar_state_close(s);
    lab_end(&l);
}

// Opens a grammar, if it can be, and makes `steps` masks of it; all in bounded time.
static void check_hostile(Lab *l, const char *regex, const char *schema, int steps) {
    const double LIMIT_S = 20; // with sanitizers, on a busy machine
    double start = clock_seconds();
    Error err = {0};
    Grammar *g;
    GrammarState *s;
    uint32_t mask[MAX_VOCAB / 32];
    bool done = regex ? grammar_regex(&g, l->t, text_bytes(regex), &err)
                      : grammar_json_schema(&g, l->t, text_bytes(schema), &err);
    if (!done) {
        assert_true(err.code == ERR_RESOURCE || err.code == ERR_USAGE);
        return;
    }
    assert_true(grammar_state_open(&s, g, &err));
    for (int step = 0; step < steps; step++) {
        int32_t id = 0;
        grammar_mask(s, mask);
        while (id < l->vocab - 1 && (!allowed(mask, id) || id == l->stop))
            id++;
        if (!allowed(mask, id) || !grammar_advance(s, id))
            break;
    }
    grammar_state_close(s);
    grammar_free(g);
    if (clock_seconds() - start > LIMIT_S)
        failed("%s: %.1f s", regex ? regex : schema, clock_seconds() - start);
}

static char *many(Arena *a, const char *before, const char *part, int count, const char *after) {
    size_t size = strlen(part);
    char *text = arena_alloc(a, strlen(before) + size * (size_t)count + strlen(after) + 1),
         *to = text;
    to = stpcpy(to, before);
    for (int at = 0; at < count; at++)
        to = stpcpy(to, part);
    stpcpy(to, after);
    return text;
}

static void test_hostile(void **state) {
    (void)state;
    Lab l;
    lab_start(&l, 1);
    Arena *a = &l.arena;
    check_hostile(&l, "(((a{1,1000}){1,1000}){1,1000}){1,1000}b", NULL, 30);
    check_hostile(&l, "(a|b|ab|ba|a?b?){1,100000}(a|b){1,100000}", NULL, 30);
    check_hostile(&l, "(.*a.*b.*){1,1000}", NULL, 30);
    check_hostile(&l, "((a?){1000}){1000}", NULL, 10);
    check_hostile(&l, "(.*,){50}x", NULL, 10);
    check_hostile(&l, many(a, "", "(a|b)*a(a|b){9}", 50, ""), NULL, 10);
    check_hostile(&l, many(a, "", "(", 60000, ""), NULL, 10);
    check_hostile(&l, many(a, "", "[^a]", 15000, ""), NULL, 10);
    check_hostile(&l, NULL, many(a, "", "[", 100000, ""), 10);
    check_hostile(&l, NULL, many(a, "", "{\"items\":", 90, "{}") /* no end */, 10);
    check_hostile(&l, NULL, "{\"anyOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"},{\"type\":\"null\"}]}",
                  10);
    check_hostile(
        &l, NULL,
        "{\"allOf\":[{\"$ref\":\"#/$defs/a\"},{\"$ref\":\"#/$defs/b\"}],\"$defs\":{\"a\":{"
        "\"allOf\":[{\"$ref\":\"#/$defs/b\"}],\"items\":{\"$ref\":\"#/$defs/b\"}},\"b\":{"
        "\"allOf\":[{\"$ref\":\"#/$defs/a\"}],\"items\":{\"$ref\":\"#\"}}}}",
        10);
    const char *pair = "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]},";
    check_hostile(&l, NULL, many(a, "{\"allOf\":[", pair, 30, "{}]}"), 10);
    check_hostile(&l, NULL, many(a, "{\"allOf\":[", pair, 300, "{}]}"), 10);
    check_hostile(&l, NULL,
                  "{\"type\":\"array\",\"minItems\":1000000,\"items\":{\"type\":\"array\","
                  "\"minItems\":1000000}}",
                  30);
    lab_end(&l);
}

// States are thrown away while sequences live: each goes on where it was.
static void test_many_states(void **state) {
    (void)state;
    enum { SEQUENCES = 24 };
    Lab l;
    Error err = {0};
    Grammar *g;
    GrammarState *all[SEQUENCES];
    uint32_t mask[MAX_VOCAB / 32];
    lab_start(&l, 1);
    const char *regex = "(?:[a-z]{1,300}[0-9]{1,300}){1,20}x{3000}!";
    assert_true(grammar_regex(&g, l.t, text_bytes(regex), &err));
    int32_t letter = -1, figure = -1;
    for (int32_t id = 0; id < l.vocab; id++) {
        Bytes piece = tokenizer_piece(l.t, id);
        letter = piece.size == 1 && piece.data[0] == 'x' ? id : letter;
        figure = piece.size == 1 && piece.data[0] == '7' ? id : figure;
    }
    for (int at = 0; at < SEQUENCES; at++)
        assert_true(grammar_state_open(&all[at], g, &err));
    for (int step = 0; step < 400; step++)
        for (int at = 0; at < SEQUENCES; at++) {
            bool figures = step % (at + 2) == at + 1; // 1 to SEQUENCES letters, then a figure
            if (step < 20 * 2)
                grammar_mask(all[at], mask);
            if (step / (at + 2) < 20)
                assert_true(grammar_advance(all[at], figures ? figure : letter));
        }
    for (int at = 0; at < SEQUENCES; at++) {
        if (400 / (at + 2) >= 20) { // the last figure was written: x{3000}! is left
            for (int step = 0; step < 3000; step++)
                assert_true(grammar_advance(all[at], letter));
            assert_false(grammar_advance(all[at], letter));
        }
        grammar_state_close(all[at]);
    }
    grammar_free(g);
    lab_end(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemas), cmocka_unit_test(test_regexes),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_choice),  cmocka_unit_test(test_object),
        cmocka_unit_test(test_end),     cmocka_unit_test(test_many_states),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

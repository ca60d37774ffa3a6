// The oracle against transformers (reference.json), and the fused graph against the unfused one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../compiler/compile.h"

enum { MAX_SEQ = 512, MAX_IDS = 256 };

static const struct {
    const char *name;
    int steps; // of greedy decoding that are compared
    // Relative L2 of all logits, 0: 1e-4. Gemma's factor on embeddings is rounded to bf16 here, as
    // in training, and was not in the reference's float32.
    double bound;
} fixtures[] = {
    {"gemma2-4b-g128-bf16", 240, 3e-3},
    {"llama-linear-rope-4b-g64", 32, 0},
    {"llama2-4b-g128-bf16-lmhead", 58, 0},
    {"llama32-2b-g32-asym", 202, 0},
    {"llama32-3b-g128", 106, 0},
    {"llama32-4b-g128", 114, 0},
    {"llama32-4b-g32-actorder-asym", 166, 0},
    {"llama32-4b-v2-asym", 213, 0},
    {"llama32-8b-g-1", 149, 0},
    {"llama32-8b-g32-asym", 127, 0},
    {"llama32-dynamic", 123, 0},
    {"mistral-4b-g128", 57, 0},
    {"mixtral-4b-g128", 67, 0},
    {"phi3-4b-g128", 94, 0},
    {"qwen2-4b-g128", 30, 0},
    {"qwen2-8b-g128", 108, 0},
    {"qwen3-4b-g128", 193, 0},
    {"qwen3moe-4b-g128", 33, 0},
};

enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static const char *fixture_dir(size_t at) {
    static char dir[200];
    snprintf(dir, sizeof dir, "tests/vectors/fixtures/%s", fixtures[at].name);
    return dir;
}

typedef struct Model {
    Arena arena;
    Checkpoint checkpoint;
    Config config;
    Graph unfused, fused;
    cJSON *reference;
} Model;

static void model_open(Model *m, const char *dir) {
    Error err = {0};
    Bytes text;
    *m = (Model){0};
    assert_true(checkpoint_open(&m->checkpoint, dir, &m->arena, &err));
    assert_true(config_read(&m->config, dir, &m->arena, &err));
    m->unfused = graph_new(&m->arena);
    bool done = arch_build(arch_find(m->config.architecture), &m->unfused, &m->config,
                           &m->checkpoint, MAX_SEQ, &m->arena, &err);
    if (!done)
        print_message("%s: %s\n", dir, err.message);
    assert_true(done);
    assert_true(graph_verify(&m->unfused, &err));
    assert_true(graph_fuse(&m->fused, &m->unfused, &m->arena, &err));
    const char *path = arena_printf(&m->arena, "%s/reference.json", dir);
    assert_true(file_read(&text, path, 1 << 24, &m->arena, &err));
    m->reference = cJSON_ParseWithLength((const char *)text.data, text.size);
    assert_non_null(m->reference);
}

static void model_close(Model *m) {
    cJSON_Delete(m->reference);
    arena_free(&m->arena);
}

static int ids_of(const cJSON *prompt, int32_t *ids) {
    int count = 0;
    const cJSON *list = cJSON_GetObjectItem(prompt, "input_ids");
    for (const cJSON *id = list->child; id; id = id->next)
        ids[count++] = id->valueint;
    assert_true(count > 0 && count < MAX_IDS);
    return count;
}

static double *logits_of(const Model *m, const Graph *g, const int32_t *ids, int count) {
    Error err = {0};
    double *logits = calloc((size_t)(count * m->config.vocab_size), sizeof *logits);
    Arena arena = {0};
    assert_true(interp_run(interp_new(g, &m->config, MAX_SEQ, &arena), ids, count, logits, &err));
    arena_free(&arena);
    return logits;
}

// Worst difference of the 16 best log-probabilities.
static double logprob_error(const cJSON *prompt, const double *last, int64_t vocab) {
    double top = last[0], total = 0, worst = 0;
    for (int64_t id = 1; id < vocab; id++)
        top = last[id] > top ? last[id] : top;
    for (int64_t id = 0; id < vocab; id++)
        total += exp(last[id] - top);
    const cJSON *ids = cJSON_GetObjectItem(prompt, "top16_ids");
    const cJSON *expected = cJSON_GetObjectItem(prompt, "top16_logprobs");
    for (int at = 0; at < cJSON_GetArraySize(ids); at++) {
        double found = last[cJSON_GetArrayItem(ids, at)->valueint] - top - log(total);
        double error = fabs(found - cJSON_GetArrayItem(expected, at)->valuedouble);
        worst = error > worst ? error : worst;
    }
    return worst;
}

static void test_storyteller(void **state) {
    (void)state;
    Model m;
    int32_t ids[MAX_IDS];
    model_open(&m, "samples/storyteller");
    const cJSON *prompts = cJSON_GetObjectItem(m.reference, "prompts");
    for (const cJSON *prompt = prompts->child; prompt; prompt = prompt->next) {
        int count = ids_of(prompt, ids);
        double *logits = logits_of(&m, &m.unfused, ids, count);
        const double *last = logits + (count - 1) * m.config.vocab_size;
        assert_true(logprob_error(prompt, last, m.config.vocab_size) < 2e-4);
        double squares = 0;
        for (int64_t id = 0; id < m.config.vocab_size; id++)
            squares += last[id] * last[id];
        double expected = cJSON_GetObjectItem(prompt, "last_logits_l2")->valuedouble;
        assert_true(fabs(sqrt(squares) / expected - 1) < 1e-5);
        free(logits);
    }
    model_close(&m);
}

// The token with the largest logit, the first of equals.
static int32_t best_of(const double *logits, int64_t vocab) {
    int32_t best = 0;
    for (int32_t id = 1; id < vocab; id++)
        best = logits[id] > logits[best] ? id : best;
    return best;
}

// Token by token through the cache, up to the first step that rounding could turn (the reference
// was computed in float32): returns how many were compared.
static int check_greedy(const Model *m, const cJSON *prompt) {
    enum { STEPS_MAX = 96 };
    const double margin_min = 0.05;
    int32_t ids[MAX_IDS];
    int count = ids_of(prompt, ids), steps = 0;
    int64_t vocab = m->config.vocab_size;
    const cJSON *expected = cJSON_GetObjectItem(prompt, "greedy_ids")->child;
    const cJSON *margin = cJSON_GetObjectItem(prompt, "greedy_margin")->child;
    Arena arena = {0};
    Error err = {0};
    Interp *in = interp_new(&m->fused, &m->config, MAX_SEQ, &arena);
    double *logits = calloc((size_t)(count * vocab), sizeof *logits);
    assert_true(interp_run(in, ids, count, logits, &err));
    const double *last = logits + (count - 1) * vocab;
    while (expected && steps < STEPS_MAX && margin->valuedouble >= margin_min) {
        int32_t id = best_of(last, vocab);
        assert_int_equal(id, expected->valueint);
        assert_true(interp_run(in, &id, 1, logits, &err));
        last = logits;
        expected = expected->next;
        margin = margin->next;
        steps++;
    }
    free(logits);
    arena_free(&arena);
    return steps;
}

static int check_all_greedy(const char *dir) {
    Model m;
    int steps = 0;
    model_open(&m, dir);
    const cJSON *prompts = cJSON_GetObjectItem(m.reference, "prompts");
    for (const cJSON *prompt = prompts->child; prompt; prompt = prompt->next)
        steps += check_greedy(&m, prompt);
    model_close(&m);
    return steps;
}

// The counts are those of steps in the references before the first small margin.
static void test_greedy(void **state) {
    (void)state;
    assert_int_equal(check_all_greedy("samples/storyteller"), 187);
    for (size_t at = 0; at < FIXTURES; at++) {
        print_message("%s\n", fixtures[at].name);
        assert_int_equal(check_all_greedy(fixture_dir(at)), fixtures[at].steps);
    }
}

// Mean of -log p(next token) over the prompt.
static double mean_nll(const double *logits, const int32_t *ids, int count, int64_t vocab) {
    double sum = 0;
    for (int at = 0; at + 1 < count; at++) {
        const double *row = logits + at * vocab;
        double top = row[best_of(row, vocab)], total = 0;
        for (int64_t id = 0; id < vocab; id++)
            total += exp(row[id] - top);
        sum += top + log(total) - row[ids[at + 1]];
    }
    return sum / (count - 1);
}

// All logits of the last position, relative L2, and the loss of the prompt.
static void check_fixture(const char *dir, double bound) {
    Model m;
    int32_t ids[MAX_IDS];
    model_open(&m, dir);
    const cJSON *prompts = cJSON_GetObjectItem(m.reference, "prompts");
    for (const cJSON *prompt = prompts->child; prompt; prompt = prompt->next) {
        int count = ids_of(prompt, ids);
        double *logits = logits_of(&m, &m.unfused, ids, count), distance = 0, norm = 0;
        const double *last = logits + (count - 1) * m.config.vocab_size;
        const cJSON *expected = cJSON_GetObjectItem(prompt, "last_logits");
        int64_t id = 0;
        for (const cJSON *e = expected->child; e; e = e->next, id++) {
            distance += (last[id] - e->valuedouble) * (last[id] - e->valuedouble);
            norm += e->valuedouble * e->valuedouble;
        }
        assert_int_equal(id, m.config.vocab_size);
        assert_true(sqrt(distance / norm) < bound);
        double nll = mean_nll(logits, ids, count, m.config.vocab_size);
        const double expected_nll = cJSON_GetObjectItem(prompt, "mean_nll")->valuedouble;
        assert_true(count < 2 || fabs(nll - expected_nll) < 10 * bound);
        free(logits);
    }
    model_close(&m);
}

static void test_fixtures(void **state) {
    (void)state;
    for (size_t at = 0; at < FIXTURES; at++) {
        print_message("%s\n", fixtures[at].name);
        check_fixture(fixture_dir(at), fixtures[at].bound > 0 ? fixtures[at].bound : 1e-4);
    }
}

// Fusion changes nothing but the order of a few additions.
static void check_fused(const char *dir) {
    Model m;
    int32_t ids[MAX_IDS];
    model_open(&m, dir);
    const cJSON *prompts = cJSON_GetObjectItem(m.reference, "prompts");
    int count = ids_of(prompts->child, ids);
    double *one = logits_of(&m, &m.unfused, ids, count);
    double *other = logits_of(&m, &m.fused, ids, count);
    for (int64_t at = 0; at < count * m.config.vocab_size; at++)
        assert_true(fabs(one[at] - other[at]) < 1e-9 * (1 + fabs(one[at])));
    free(one);
    free(other);
    model_close(&m);
}

static void test_fused(void **state) {
    (void)state;
    for (size_t at = 0; at < FIXTURES; at++)
        check_fused(fixture_dir(at));
}

// A llama layer is five ops, in this order; no weight is stored twice.
static void test_fused_shape(void **state) {
    (void)state;
    Model m;
    model_open(&m, "samples/storyteller");
    const Graph *g = &m.fused;
    int64_t layers = m.config.num_hidden_layers, bytes;
    Error err = {0};
    assert_int_equal(g->op_count, 1 + 5 * layers + 2);
    const LinearEpilogue epilogues[] = {EPILOGUE_ROPE_KV, EPILOGUE_STORE, EPILOGUE_ADD,
                                        EPILOGUE_ACT_MUL, EPILOGUE_ADD};
    for (int at = 0; at < 5 * layers; at++) {
        const Op *op = &g->ops[1 + at];
        assert_int_equal(op->layer, at / 5);
        if (at % 5 == 1) {
            assert_int_equal(op->kind, OP_ATTENTION);
            continue;
        }
        assert_int_equal(op->kind, OP_LINEAR);
        assert_int_equal(op->linear.epilogue, epilogues[at % 5]);
        assert_int_equal(op->linear.prologue,
                         at % 5 == 0 || at % 5 == 3 ? PROLOGUE_NORM : PROLOGUE_NONE);
    }
    assert_int_equal(g->ops[g->op_count - 1].linear.weight, g->ops[0].embed.table); // tied
    assert_true(weights_layout(&m.fused, &bytes, &err));
    assert_true((double)bytes < 1.02 * (double)m.checkpoint.bytes);
    model_close(&m);
}

// Two runs of a sequence in parts give what one run gives.
static void test_appending(void **state) {
    (void)state;
    Model m;
    Error err = {0};
    const int32_t ids[] = {1, 20, 300, 44, 500, 6};
    model_open(&m, "tests/vectors/fixtures/llama32-4b-g128");
    int64_t vocab = m.config.vocab_size;
    double *whole = logits_of(&m, &m.fused, ids, 6),
           *part = calloc((size_t)(4 * vocab), sizeof *part);
    Arena arena = {0};
    Interp *in = interp_new(&m.fused, &m.config, MAX_SEQ, &arena);
    assert_true(interp_run(in, ids, 2, part, &err));
    assert_true(interp_run(in, ids + 2, 4, part, &err));
    for (int64_t at = 0; at < 4 * vocab; at++)
        assert_true(fabs(part[at] - whole[2 * vocab + at]) < 1e-12);
    assert_false(interp_run(in, (const int32_t[]){-1}, 1, part, &err));
    assert_int_equal(err.id, 481);
    free(whole);
    free(part);
    arena_free(&arena);
    model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_storyteller), cmocka_unit_test(test_fixtures),
        cmocka_unit_test(test_greedy),      cmocka_unit_test(test_fused),
        cmocka_unit_test(test_fused_shape), cmocka_unit_test(test_appending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Every GPU kernel, with the parameters that the compiler gives it, compiles for every target,
// without spills and without local memory: all kernels of the sample's
// plan, shapes of other models where registers or shared memory are tighter, and whatever the
// fixtures' graphs have besides linears and experts, fused or not. Also: bytes do not depend on
// threads, parameters arrive as macros, and what does not compile is named.
#include "compiler/cache.h"
#include "tests/attention_lab.h"
#include "tests/rows_cases.h"
#include "tests/sample_lab.h"

#include <dirent.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

// clang-format off
// One of each kind; tests/cases/target_all.sh compiles the sample for all.
static const char *const target_names[] = {"sm_80", "sm_89", "sm_90a", "sm_120a"};
static const AttentionCase attention_cases[] = {
    {.name = "decode 128", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .lengths = {9, 9}},
    {.name = "decode 128 mqa", .heads = 16, .kv_heads = 1, .head_dim = 128, .page = 64,
     .lengths = {9}},
    {.name = "decode 256", .heads = 8, .kv_heads = 4, .head_dim = 256, .page = 64, .lengths = {9}},
    {.name = "prefill 128", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64, .tokens = 99},
    {.name = "prefill 96", .heads = 8, .kv_heads = 8, .head_dim = 96, .page = 64, .tokens = 99},
    {.name = "prefill 256", .heads = 8, .kv_heads = 4, .head_dim = 256, .page = 64, .tokens = 99},
    {.name = "decode 256, gemma", .heads = 8, .kv_heads = 4, .head_dim = 256, .page = 64,
     .lengths = {9999}, .window = 4096, .softcap = 50, .places = true, .bf16 = true},
    {.name = "prefill 256, gemma", .heads = 8, .kv_heads = 4, .head_dim = 256, .page = 64,
     .tokens = 99, .start = 4096, .window = 4096, .softcap = 50, .places = true, .bf16 = true},
    {.name = "decode 128, window", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .lengths = {9999}, .window = 4096, .bf16 = true},
    {.name = "prefill 128, window", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 99, .start = 4096, .window = 4096, .places = true, .bf16 = true},
    {.name = "prefill 64, cap", .heads = 32, .kv_heads = 8, .head_dim = 64, .page = 64,
     .tokens = 99, .start = 4096, .window = 4096, .softcap = 30, .places = true},
    {.name = "prefill 64, pages of 16", .heads = 12, .kv_heads = 1, .head_dim = 64, .page = 16,
     .tokens = 99, .window = 64, .softcap = 30, .places = true, .bf16 = true},
    {.name = "decode 120", .heads = 32, .kv_heads = 1, .head_dim = 120, .page = 64, .lengths = {9},
     .places = true, .softcap = 30},
    {.name = "prefill 248", .heads = 32, .kv_heads = 1, .head_dim = 248, .page = 16, .tokens = 9,
     .softcap = 30},
    {.name = "decode 248", .heads = 32, .kv_heads = 1, .head_dim = 248, .page = 16, .lengths = {9},
     .softcap = 30},
};
static const int64_t vocabularies[] = {128256};
// clang-format on
enum {
    TARGETS = sizeof target_names / sizeof *target_names,
    ATTENTION_CASES = sizeof attention_cases / sizeof *attention_cases,
    WGMMA_CASES = 7, // of them, on sm_90a
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies
};

typedef struct Kernels {
    StepLab lab;
    AttentionRun attention[ATTENTION_CASES], wgmma[ATTENTION_CASES];
    RowsRun rows[ROWS_CASES];
    SampleRun samples[VOCABULARIES];
    Plan plan;
} Kernels;

static const Target *target_named(const char *name) {
    Error err;
    const Target *targets[4];
    int count;
    assert_true(targets_parse(targets, &count, 4, name, &err));
    return targets[0];
}

// The same cases by wgmma, where it takes them; returns how many.
static int wgmma_add(Kernels *k) {
    const AttentionChoice wgmma = {.kernel = &kernel_attention_wgmma};
    int taken = 0;
    for (int at = 0; at < ATTENTION_CASES; at++)
        taken += attention_cases[at].tokens > 0 &&
                 attention_add(&k->wgmma[at], &attention_cases[at], wgmma, &k->lab);
    return taken;
}

static void kernels_make(Kernels *k, const char *target) {
    memset(k, 0, sizeof *k);
    k->lab.target = target_named(target);
    for (int at = 0; at < ATTENTION_CASES; at++)
        assert_true(
            attention_add(&k->attention[at], &attention_cases[at], (AttentionChoice){0}, &k->lab));
    assert_int_equal(wgmma_add(k), strcmp(target, "sm_90a") == 0 ? WGMMA_CASES : 0);
    for (int at = 0; at < ROWS_CASES; at++)
        rows_add(&k->rows[at], &rows_cases[at], &k->lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&k->samples[at], vocabularies[at], &k->lab);
    k->plan = k->lab.distinct;
}

static void nvrtc_or_skip(void) {
    Arena a = {0};
    Error err;
    Nvrtc *nvrtc;
    bool found = nvrtc_open(&nvrtc, &a, &err);
    arena_free(&a);
    if (!found) {
        printf("skipped: %s\n", err.message);
        skip();
    }
}

static void compile_or_fail(const Plan *plan, Arena *a) {
    Cubin *cubins = ARENA_NEW(a, Cubin, plan->kernel_count);
    Cache *cache;
    CubinStats stats = {0};
    Error err = {0};
    assert_true(cache_open(&cache, NULL, CACHE_ON, a, &err));
    if (!cubins_make(cubins, plan, cache, 2, &stats, a, &err))
        fail_msg("%s", err.message);
    if (stats.slow)
        fail_msg("%s", stats.slow_note);
    for (int at = 0; at < plan->kernel_count; at++) {
        assert_true(cubins[at].image.size > 1000);
        assert_memory_equal(cubins[at].image.data,
                            "\x7f"
                            "ELF",
                            4);
    }
    printf("%s: %d compiled, %d cached\n", plan->target->name, stats.compiled, stats.cached);
}

static void kernels_of_other_shapes_compile(void **state) {
    (void)state;
    nvrtc_or_skip();
    static Kernels k;
    for (int target = 0; target < TARGETS; target++) {
        kernels_make(&k, target_names[target]);
        compile_or_fail(&k.plan, &k.lab.arena);
        arena_free(&k.lab.arena);
    }
}

static void kernels_of_the_sample_compile(void **state) {
    (void)state;
    nvrtc_or_skip();
    static const char model[] = "samples/storyteller";
    Arena a = {0};
    Error err = {0};
    Checkpoint checkpoint;
    Config config;
    Graph unfused = graph_new(&a), graph;
    int64_t bytes;
    const Sizes sizes = {.max_seq_len = 2048,
                         .max_batch_size = 16,
                         .max_num_tokens = 2048,
                         .max_head_rows = 16,
                         .page_tokens = 64};
    assert_true(checkpoint_open(&checkpoint, model, &a, &err) &&
                config_read(&config, model, &a, &err));
    assert_true(
        arch_build(arch_find(config.architecture), &unfused, &config, &checkpoint, 2048, &a, &err));
    assert_true(graph_fuse(&graph, &unfused, &a, &err) && weights_layout(&graph, &bytes, &err));
    for (int target = 0; target < TARGETS; target++) {
        const Target *targets[4];
        int count;
        Plan plan;
        assert_true(targets_parse(targets, &count, 4, target_names[target], &err));
        assert_true(plan_make(&plan, &graph, &config, targets[0], &sizes, &a, &err));
        compile_or_fail(&plan, &a);
    }
    arena_free(&a);
}

// ---- the fixtures -------------------------------------------------------------------------------

static const Sizes fixture_sizes = {.max_seq_len = 512,
                                    .max_batch_size = 8,
                                    .max_num_tokens = 256,
                                    .max_head_rows = 8,
                                    .page_tokens = 16};

static void fixture_model(Plan *plan, const Graph *g, const Config *c, const Target *t, Arena *a) {
    const Sizes *s = &fixture_sizes;
    *plan = (Plan){.target = t, .graph = g, .arena = a};
    ModelInfo *info = &plan->info;
    *info = (ModelInfo){.vocab_size = c->vocab_size,
                        .hidden_size = c->hidden_size,
                        .max_seq_len = s->max_seq_len,
                        .max_batch_size = s->max_batch_size,
                        .max_num_tokens = s->max_num_tokens,
                        .max_head_rows = s->max_head_rows,
                        .page_tokens = s->page_tokens};
    info->kv_layer_stride = 2 * c->num_key_value_heads * s->page_tokens * c->head_dim * 2;
    info->kv_page_bytes = c->num_hidden_layers * info->kv_layer_stride;
    plan->batch = batch_layout(info);
}

static bool is_linear(OpKind kind) {
    return kind == OP_LINEAR || kind == OP_EXPERTS_UP || kind == OP_EXPERTS_DOWN;
}

// Every family that takes the op lowers it; one must.
static void fixture_op(Plan *plan, PhasePlan *phase, const Op *op) {
    Problem problem = {
        .plan = plan, .op = op, .phase = phase->phase, .max_tokens = phase->max_tokens};
    char reason[REASON_BYTES] = "no family";
    int takers = 0;
    for (int at = 0; at < kernel_table_count; at++) {
        const Kernel *kernel = kernel_table[at];
        Params params[KERNEL_MAX_CANDIDATES];
        memset(params, 0, sizeof params);
        if (kernel->device != DEVICE_CUDA || kernel->op != op->kind ||
            !kernel->accepts(&problem, reason))
            continue;
        assert_true(kernel->candidates(&problem, params) > 0);
        Cost cost = kernel->cost(&problem, &params[0]);
        kernel->lower(&problem, &params[0], &cost, plan, phase);
        takers++;
    }
    if (!takers)
        fail_msg("%s of layer %d: %s", op_name(op->kind), op->layer, reason);
}

static void fixture_add(Plan *kernels, const Graph *g, const Config *c) {
    static const int phases[] = {PHASE_PREFILL, PHASE_DECODE};
    Plan plan;
    fixture_model(&plan, g, c, kernels->target, kernels->arena);
    for (int at = 0; at < 2; at++) {
        PhasePlan phase = {.phase = phases[at]};
        int64_t tokens = at ? fixture_sizes.max_batch_size : fixture_sizes.max_num_tokens;
        lab_values(&phase, g, tokens, kernels->arena);
        for (int op = 0; op < g->op_count; op++)
            if (!is_linear(g->ops[op].kind))
                fixture_op(&plan, &phase, &g->ops[op]);
        for (int step = 0; step < phase.step_count; step++)
            plan_kernel(kernels, &phase.steps[step]);
    }
}

// Both graphs of a checkpoint, unfused and fused.
static void fixture_read(Graph graphs[2], Config *c, const char *dir, Arena *a) {
    Error err = {0};
    int64_t bytes;
    Checkpoint *checkpoint = ARENA_NEW(a, Checkpoint, 1);
    graphs[0] = graph_new(a);
    if (!checkpoint_open(checkpoint, dir, a, &err) || !config_read(c, dir, a, &err) ||
        !arch_build(arch_find(c->architecture), &graphs[0], c, checkpoint,
                    fixture_sizes.max_seq_len, a, &err) ||
        !graph_fuse(&graphs[1], &graphs[0], a, &err))
        fail_msg("%s", err.message);
    for (int at = 0; at < 2; at++)
        assert_true(weights_layout(&graphs[at], &bytes, &err));
}

static void fixtures_compile(void **state) {
    (void)state;
    nvrtc_or_skip();
    static const char folder[] = "tests/vectors/fixtures";
    static const char *const names[] = {"sm_80", "sm_89", "sm_90a", "sm_120a"};
    enum { NAMES = sizeof names / sizeof *names, FIXTURES = 18 };
    Arena a = {0};
    Plan plans[NAMES];
    for (int at = 0; at < NAMES; at++)
        plans[at] = (Plan){.target = target_named(names[at]), .arena = &a};
    int fixtures = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (const struct dirent *entry; (entry = readdir(entries));) {
        char dir[512], file[600];
        snprintf(dir, sizeof dir, "%s/%s", folder, entry->d_name);
        snprintf(file, sizeof file, "%s/config.json", dir);
        if (access(file, R_OK) != 0)
            continue;
        Graph graphs[2];
        Config config;
        fixture_read(graphs, &config, dir, &a);
        fixtures++;
        for (int at = 0; at < NAMES * 2; at++)
            fixture_add(&plans[at / 2], &graphs[at % 2], &config);
    }
    closedir(entries);
    assert_int_equal(fixtures, FIXTURES);
    for (int at = 0; at < NAMES; at++)
        compile_or_fail(&plans[at], &a);
    arena_free(&a);
}

static void bytes_do_not_depend_on_threads_or_cache(void **state) {
    (void)state;
    nvrtc_or_skip();
    static Kernels k;
    kernels_make(&k, "sm_90a");
    k.plan.kernel_count = 3;
    Arena *a = &k.lab.arena;
    Cubin first[3], second[3];
    Cache *off;
    CubinStats stats = {0};
    Error err = {0};
    assert_true(cache_open(&off, NULL, CACHE_OFF, a, &err));
    assert_true(cubins_make(first, &k.plan, off, 1, &stats, a, &err));
    assert_true(cubins_make(second, &k.plan, off, 3, &stats, a, &err));
    assert_int_equal(stats.cached, 0);
    for (int at = 0; at < 3; at++) {
        assert_int_equal(first[at].image.size, second[at].image.size);
        assert_memory_equal(first[at].image.data, second[at].image.data, first[at].image.size);
        assert_memory_equal(first[at].key, second[at].key, sizeof first[at].key);
    }
    arena_free(a);
}

// The only cubin of a cache: its key text.
static Bytes cubin_key(const Cache *c, const char *dir) {
    static const char first[] = "gptq-compile cubin";
    Bytes key = {0}, image;
    DIR *entries = opendir(dir);
    assert_non_null(entries);
    for (const struct dirent *entry; (entry = readdir(entries));) {
        Bytes found, file = entry->d_name[0] == '.' ? (Bytes){0} : entry_load(c, entry->d_name);
        if (file.data && entry_parse(file, &found, &image) &&
            memcmp(found.data, first, sizeof first - 1) == 0)
            key = found; // the file stays in memory
    }
    closedir(entries);
    assert_true(key.size > 0);
    return key;
}

static void a_slow_kernel_is_cached_with_its_reason(void **state) {
    (void)state;
    nvrtc_or_skip();
    static const char why[] = "why this one is slow\n", because[] = "it dawdles";
    static Kernels k;
    char dir[FOLDER_BYTES];
    Cubin cubin;
    Cache *cache;
    CubinStats first = {0}, second = {0};
    Error err = {0};
    folder_make(dir);
    chmod(dir, 0700);
    kernels_make(&k, "sm_80");
    k.plan.kernel_count = 1;
    Arena *a = &k.lab.arena;
    assert_true(cache_open(&cache, dir, CACHE_ON, a, &err));
    assert_true(cubins_make(&cubin, &k.plan, cache, 1, &first, a, &err));
    assert_int_equal(first.slow, 0);
    Bytes key = cubin_key(cache, dir);
    char *of = arena_alloc(a, sizeof why + key.size);
    memcpy(of, why, sizeof why - 1);
    memcpy(of + sizeof why - 1, key.data, key.size);
    cache_put(cache, of, sizeof why - 1 + key.size,
              (Bytes){(const unsigned char *)because, sizeof because - 1});
    assert_true(cubins_make(&cubin, &k.plan, cache, 1, &second, a, &err));
    assert_int_equal(second.compiled, 0);
    assert_int_equal(second.cached, 1);
    assert_int_equal(second.slow, 1);
    assert_non_null(strstr(second.slow_note, because));
    arena_free(a);
    folder_remove(dir);
}

static void parameters_stand_in_front_of_the_source(void **state) {
    (void)state;
    Arena a = {0};
    Error err = {0};
    Step step = {.source = "kernels/gather.cu", .entry = "gather"};
    params_set(&step.params, "WIDTH", 384);
    params_set(&step.params, "ROWS", -1);
    params_set(&step.params, "LARGE", 1LL << 40);
    const Target *targets[2];
    int count;
    assert_true(targets_parse(targets, &count, 2, "sm_90a", &err));
    const char *text = kernel_source_text(&step, targets[0], &a, &err);
    assert_non_null(text);
    assert_ptr_equal(strstr(text,
                            "#define TARGET_SM 90\n#define TARGET_EXACT 1\n#define WIDTH 384\n"
                            "#define ROWS (-1)\n#define LARGE 1099511627776LL\n"
                            "#line 1 \"kernels/gather.cu\"\n"),
                     text);
    step.source = "kernels/none.cu";
    assert_null(kernel_source_text(&step, targets[0], &a, &err));
    assert_int_equal(err.id, 502);
    arena_free(&a);
}

static void what_does_not_compile_is_named(void **state) {
    (void)state;
    nvrtc_or_skip();
    Arena a = {0};
    Error err = {0};
    Step step = {.source = "kernels/gather.cu", .entry = "gather"};
    params_set(&step.params, "WIDTH", 0);
    params_set(&step.params, "ROWS", 8);
    const Target *targets[2];
    int count;
    assert_true(targets_parse(targets, &count, 2, "sm_90a", &err));
    Step *kernels[] = {&step};
    Plan plan = {.target = targets[0], .kernels = kernels, .kernel_count = 1};
    Cubin cubin;
    Cache *off;
    CubinStats stats = {0};
    assert_true(cache_open(&off, NULL, CACHE_OFF, &a, &err));
    assert_false(cubins_make(&cubin, &plan, off, 1, &stats, &a, &err));
    assert_int_equal(err.id, 504);
    assert_non_null(strstr(err.message, "kernels/gather.cu"));
    assert_non_null(strstr(err.message, "sm_90a"));
    assert_non_null(strstr(err.message, "static assertion"));
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_of_the_sample_compile),
        cmocka_unit_test(kernels_of_other_shapes_compile),
        cmocka_unit_test(fixtures_compile),
        cmocka_unit_test(bytes_do_not_depend_on_threads_or_cache),
        cmocka_unit_test(a_slow_kernel_is_cached_with_its_reason),
        cmocka_unit_test(parameters_stand_in_front_of_the_source),
        cmocka_unit_test(what_does_not_compile_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Every GPU kernel, with the parameters that the compiler gives it, compiles for every target,
// without spills and without local memory (cubins_make refuses both): all kernels of the sample's
// plan, and shapes of other models where registers or shared memory are tighter. Also: bytes do not
// depend on threads, parameters arrive as macros, and what does not compile is named.
#include "tests/attention_lab.h"
#include "tests/rows_lab.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// clang-format off
static const char *const target_names[] = {"sm_80",  "sm_86",   "sm_87",  "sm_89",
                                           "sm_90a", "sm_100a", "sm_120a"};
static const AttentionCase attention_cases[] = {
    {"decode 128", 32, 8, 128, 64, {9, 9}, 0, 0},  {"decode 128 mqa", 16, 1, 128, 64, {9}, 0, 0},
    {"decode 256", 8, 4, 256, 64, {9}, 0, 0},      {"prefill 128", 32, 8, 128, 64, {0}, 99, 0},
    {"prefill 96", 8, 8, 96, 64, {0}, 99, 0},      {"prefill 256", 8, 4, 256, 64, {0}, 99, 0},
};
static const RowsCase rows_cases[] = {{"norm 8192", OP_NORM, 8192, 0}};
static const int64_t vocabularies[] = {128256};
// clang-format on
enum {
    TARGETS = sizeof target_names / sizeof *target_names,
    ATTENTION_CASES = sizeof attention_cases / sizeof *attention_cases,
    ROWS_CASES = sizeof rows_cases / sizeof *rows_cases,
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies
};

typedef struct Kernels {
    StepLab lab;
    AttentionRun attention[ATTENTION_CASES];
    RowsRun rows[ROWS_CASES];
    SampleRun samples[VOCABULARIES];
    Plan plan;
} Kernels;

static void kernels_make(Kernels *k, const char *target) {
    Error err;
    const Target *targets[4];
    int count;
    memset(k, 0, sizeof *k);
    assert_true(targets_parse(targets, &count, 4, target, &err));
    k->lab.target = targets[0];
    for (int at = 0; at < ATTENTION_CASES; at++)
        attention_add(&k->attention[at], &attention_cases[at], 0, &k->lab);
    for (int at = 0; at < ROWS_CASES; at++)
        rows_add(&k->rows[at], &rows_cases[at], &k->lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&k->samples[at], vocabularies[at], &k->lab);
    k->plan =
        (Plan){.target = targets[0], .arena = &k->lab.arena, .kernel_count = k->lab.kernel_count};
    k->plan.kernels = ARENA_NEW(&k->lab.arena, Step *, k->plan.kernel_count);
    for (int at = 0; at < k->plan.kernel_count; at++) {
        k->plan.kernels[at] = ARENA_NEW(&k->lab.arena, Step, 1);
        *k->plan.kernels[at] = *k->lab.kernels[at].step;
    }
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
    params_set(&step.params, "WIDTH", 3); // no multiple of 4
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
        cmocka_unit_test(bytes_do_not_depend_on_threads_or_cache),
        cmocka_unit_test(parameters_stand_in_front_of_the_source),
        cmocka_unit_test(what_does_not_compile_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

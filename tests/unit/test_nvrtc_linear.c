// The GPU kernels of linears and experts compile for every format of weights, with what the
// compiler would choose for few and for many tokens, without spills and without local memory.
#include "tests/experts_lab.h"
#include "tests/linear_formats.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// clang-format off
static const char *const target_names[] = {"sm_80", "sm_90a", "sm_120a"};
// Shapes of models, by [K, N] of one linear.
static const Case model_cases[] = {
    {"7B bf16 gate_up", 4, 128, 3584, {18944, 18944}, ROWS_GATE_UP, PROLOGUE_NORM,
     EPILOGUE_ACT_MUL, .bf16 = true},
    {"7B bf16 qkv", 4, 128, 3584, {3584, 512, 512}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
     .bf16 = true, .bias = true, .heads = 28, .kv_heads = 4, .head_dim = 128},
    {"8B zeros down", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD, .zeros = true},
    {"8B 8 bits", 8, 32, 4096, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD, .scale_f32 = true},
    {"4096 order", 4, 128, 4096, {32, 32}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act_order = true},
    {"5120 order bf16", 4, 128, 5120, {64, 64, 64}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
     .heads = 1, .kv_heads = 1, .head_dim = 64, .act_order = true, .bf16 = true},
    {"8192 order", 4, 128, 8192, {32, 32}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act_order = true, .zeros = true},
    {"16384 order", 4, 128, 16384, {16, 16}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act_order = true},
    {"gemma head", 16, 0, 2304, {256000}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .bf16 = true,
     .f32 = true, .softcap = 30},
};
// clang-format on
enum {
    TARGETS = sizeof target_names / sizeof *target_names,
    MODEL_CASES = sizeof model_cases / sizeof *model_cases,
    LABS = FORMAT_COUNT + MODEL_CASES,
};

typedef struct Kernels {
    StepLab step_lab; // experts
    Formats formats;
    Lab labs[LABS];
    ExpertsLab experts[EXPERTS_CASES];
    PhasePlan phases[2 * LABS];
    Plan plan;
} Kernels;

// The cheapest candidate of a family that must take the op.
static void linear_add(Kernels *k, Lab *lab, const Kernel *kernel, int phase_kind,
                       int64_t max_tokens, PhasePlan *phase) {
    Problem problem = {
        .plan = &lab->plan, .op = lab->op, .phase = phase_kind, .max_tokens = max_tokens};
    char reason[REASON_BYTES] = "";
    Params params[KERNEL_MAX_CANDIDATES];
    memset(params, 0, sizeof params);
    if (!kernel->accepts(&problem, reason))
        fail_msg("%s, %s: %s", lab->c->name, kernel->name, reason);
    int count = kernel->candidates(&problem, params), best = 0;
    assert_true(count > 0);
    for (int at = 1; at < count; at++)
        if (kernel->cost(&problem, &params[at]).us < kernel->cost(&problem, &params[best]).us)
            best = at;
    Arena *a = k->plan.arena;
    *phase = (PhasePlan){.phase = phase_kind, .max_tokens = max_tokens};
    phase->value_buffer = ARENA_NEW(a, int, lab->graph.value_count);
    for (int at = 0; at < lab->graph.value_count; at++)
        phase->value_buffer[at] = -1;
    Cost cost = kernel->cost(&problem, &params[best]);
    kernel->lower(&problem, &params[best], &cost, &lab->plan, phase);
    for (int at = 0; at < phase->step_count; at++)
        plan_kernel(&k->plan, &phase->steps[at]);
}

static void kernels_make(Kernels *k, const char *target) {
    Error err;
    const Target *targets[4];
    int count;
    memset(k, 0, sizeof *k);
    Arena *a = &k->step_lab.arena;
    assert_true(targets_parse(targets, &count, 4, target, &err));
    k->step_lab.target = targets[0];
    k->plan = (Plan){.target = targets[0], .arena = a};
    formats_make(&k->formats);
    for (int at = 0; at < LABS; at++) {
        bool model = at >= FORMAT_COUNT;
        const Case *c = model ? &model_cases[at - FORMAT_COUNT] : &k->formats.cases[at];
        lab_make(&k->labs[at], c, targets[0], !model || c->act_order, a);
        linear_add(k, &k->labs[at], &kernel_linear_decode, PHASE_DECODE, 8, &k->phases[2 * at]);
        linear_add(k, &k->labs[at], &kernel_linear_gemm, PHASE_PREFILL, at % 2 ? 2048 : 512,
                   &k->phases[2 * at + 1]);
    }
    for (int at = 0; at < EXPERTS_CASES; at++)
        experts_add(&k->experts[at], &experts_cases[at], &k->step_lab);
    for (int at = 0; at < k->step_lab.distinct.kernel_count; at++)
        plan_kernel(&k->plan, k->step_lab.distinct.kernels[at]);
}

static void every_format_compiles(void **state) {
    (void)state;
    static Kernels k;
    Arena a = {0};
    Error err = {0};
    Nvrtc *nvrtc;
    if (!nvrtc_open(&nvrtc, &a, &err)) {
        printf("skipped: %s\n", err.message);
        skip();
    }
    for (int target = 0; target < TARGETS; target++) {
        kernels_make(&k, target_names[target]);
        Cubin *cubins = ARENA_NEW(&a, Cubin, k.plan.kernel_count);
        Cache *cache;
        CubinStats stats = {0};
        assert_true(cache_open(&cache, NULL, CACHE_ON, &a, &err));
        if (!cubins_make(cubins, &k.plan, cache, 2, &stats, &a, &err))
            fail_msg("%s", err.message);
        if (stats.slow)
            fail_msg("%s", stats.slow_note);
        printf("%s: %d compiled, %d cached\n", target_names[target], stats.compiled, stats.cached);
        arena_free(&k.step_lab.arena);
    }
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_compiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

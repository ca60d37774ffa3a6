// The kernels of experts on a GPU: checked against plain loops, then timed with every candidate;
// see gpu_bench.h.
#include "tests/experts_lab.h"
#include "tests/gpu_bench.h"

// clang-format off
#define UP(label, k, f, experts, top_k) \
    {OP_EXPERTS_UP, {.name = label, .bits = 4, .group_size = 128, .in = k, .out = {f, f}, \
     .order = ROWS_GATE_UP, .bf16 = true}, experts, top_k, false}
#define DOWN(label, f, n, experts, top_k) \
    {OP_EXPERTS_DOWN, {.name = label, .bits = 4, .group_size = 128, .in = f, .out = {n}, \
     .bf16 = true}, experts, top_k, false}
static const ExpertsCase time_cases[] = {
    UP("8x7B up", 4096, 14336, 8, 2),   DOWN("8x7B down", 14336, 4096, 8, 2),
    UP("30B-A3B up", 2048, 768, 128, 8), DOWN("30B-A3B down", 768, 2048, 128, 8),
};
// clang-format on
static const int64_t time_tokens[] = {1, 8, 32, 512, 2048};

enum {
    TIME_CASES = sizeof time_cases / sizeof *time_cases,
    TIME_TOKENS = sizeof time_tokens / sizeof *time_tokens,
    TIME_LAUNCHES = 8
};

typedef struct Bench {
    ExpertsLab checks[EXPERTS_CASES];
    ExpertsLab timed[TIME_CASES];
} Bench;

// Every candidate of both families for every number of tokens.
static void time_add(ExpertsLab *e, const ExpertsCase *c, StepLab *lab) {
    Random r = {.state = 5};
    bool up = c->op == OP_EXPERTS_UP;
    const Kernel *decode = up ? &kernel_experts_up_decode : &kernel_experts_down_decode;
    const Kernel *gemm = up ? &kernel_experts_up_gemm : &kernel_experts_down_gemm;
    experts_make(e, c, &r, false, lab);
    for (int at = 0; at < TIME_TOKENS; at++) {
        int64_t tokens = time_tokens[at];
        for (int candidate = 0; candidate < (tokens > DECODE_TOKENS_LIMIT ? 4 : 2); candidate++)
            experts_run_add(e, tokens > DECODE_TOKENS_LIMIT ? gemm : decode,
                            tokens <= DECODE_TOKENS_LIMIT, tokens, candidate, lab);
    }
}

static void bench_add(void *state, StepLab *lab, bool check, bool time) {
    Bench *b = state;
    for (int at = 0; at < EXPERTS_CASES && check; at++)
        experts_add(&b->checks[at], &experts_cases[at], lab);
    for (int at = 0; at < TIME_CASES && time; at++)
        time_add(&b->timed[at], &time_cases[at], lab);
}

static int bench_check(void *state, StepLab *lab) {
    Bench *b = state;
    int bad = 0;
    for (int at = 0; at < EXPERTS_CASES; at++)
        bad += !experts_check(&b->checks[at], lab);
    printf("%d of %d checks failed\n", bad, EXPERTS_CASES);
    return bad;
}

// Different random experts for each token.
static void routes_upload(const ExpertsLab *e, const ExpertsRun *run, StepLab *lab,
                          const uint64_t *base) {
    int64_t top_k = e->c->top_k;
    Random r = {.state = 11};
    float *routes = calloc((size_t)(run->max_tokens * 2 * top_k), sizeof *routes);
    assert(routes);
    for (int64_t token = 0; token < run->max_tokens; token++)
        for (int64_t j = 0; j < top_k; j++) {
            float *mine = routes + token * 2 * top_k;
            bool again = true;
            while (again) {
                mine[j] = (float)(random_u32(&r) % (uint32_t)e->routed);
                again = false;
                for (int64_t before = 0; before < j; before++)
                    again = again || (int)mine[before] == (int)mine[j];
            }
            mine[top_k + j] = 1.0f / (float)top_k;
        }
    lab_upload(lab, experts_buffer(run, base, e->routes), routes,
               (size_t)(run->max_tokens * 2 * top_k) * sizeof *routes);
    free(routes);
}

static void run_time(const ExpertsLab *e, const ExpertsRun *run, StepLab *lab, uint64_t weights) {
    Timing t = {.lab = lab,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .tokens = run->max_tokens,
                .ops = TIME_LAUNCHES};
    t.base[REGION_WEIGHTS] = weights;
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    bench_fill(lab, t.base[REGION_ARENA], run->arena_bytes);
    routes_upload(e, run, lab, t.base);
    const Step *s = &run->phase.steps[run->decode ? 0 : 1];
    const PackedTensor *w = &e->base.graph.packed[e->base.op->experts.weight];
    double flops = 2.0 * (double)run->max_tokens * (double)e->c->top_k * (double)w->in_features *
                   (double)w->out_features;
    double us = timing_us(&t);
    printf("%-14s %4lld tokens %9.1f us, predicted %9.1f, %6.1f TFLOP/s, %5.2f TB/s of the experts "
           "expected: %s %dx%dx%d\n",
           e->c->linear.name, (long long)run->max_tokens, us, s->cost.us, flops / us * 1e-6,
           s->cost.bytes / us * 1e-6, s->entry, s->grid[0], s->grid[1], s->grid[2]);
    lab_release(lab, t.base[REGION_ARENA]);
}

static void bench_time(void *state, StepLab *lab) {
    Bench *b = state;
    for (int at = 0; at < TIME_CASES; at++) {
        const ExpertsLab *e = &b->timed[at];
        uint64_t weights = lab_alloc(lab, (size_t)e->base.weights_bytes);
        bench_fill(lab, weights, e->base.weights_bytes);
        for (int run = 0; run < e->run_count; run++)
            run_time(e, &e->runs[run], lab, weights);
        lab_release(lab, weights);
    }
}

BENCH_MAIN(Bench, bench_add, bench_check, bench_time)

// Attention on a GPU: checked against plain loops, then timed; see gpu_bench.h. KV caches rotate
// over more than 256 MB, so nothing stays in the second-level cache. "read" is the time of the
// bytes at the target's read rate, "peak" that of the flops at its dense peak.
#include "tests/attention_lab.h"
#include "tests/gpu_bench.h"

enum { POOL_BYTES = 300 << 20 };

// clang-format off
static const AttentionCase check_cases[] = {
    {.name = "decode hd64 gqa1", .heads = 4, .kv_heads = 4, .head_dim = 64, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd64 gqa3", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 16,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd64 gqa4", .heads = 32, .kv_heads = 8, .head_dim = 64, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd64 gqa8", .heads = 16, .kv_heads = 2, .head_dim = 64, .page = 32,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd128 gqa1", .heads = 4, .kv_heads = 4, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd128 gqa4", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd128 gqa7", .heads = 28, .kv_heads = 4, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd128 gqa8", .heads = 64, .kv_heads = 8, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}},
    {.name = "decode hd128 gqa16", .heads = 16, .kv_heads = 1, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 40970}},
    {.name = "decode hd80 gqa20", .heads = 20, .kv_heads = 1, .head_dim = 80, .page = 16,
     .lengths = {1, 63, -1, 64, 65, 1000}},
    {.name = "decode hd96 gqa1", .heads = 8, .kv_heads = 8, .head_dim = 96, .page = 16,
     .lengths = {1, 63, -1, 64, 65, 1000}},
    {.name = "decode hd256 gqa8", .heads = 8, .kv_heads = 1, .head_dim = 256, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000}},
    {.name = "decode hd128 128k", .heads = 8, .kv_heads = 2, .head_dim = 128, .page = 64,
     .lengths = {131072}},
    {.name = "decode hd32 gemma2", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 64,
     .lengths = {1, 24, -1, 25, 200, 4097}, .window = 24, .softcap = 50, .bf16 = true},
    {.name = "decode hd32 places", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .lengths = {1, 63, -1, 64, 65, 1000}, .places = true},
    {.name = "decode hd256 gemma3", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 64,
     .lengths = {1, 511, 512, 513, 4097}, .window = 512, .bf16 = true},
    {.name = "decode hd128 window", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .lengths = {1, 4095, 4097, 9000}, .window = 4096},
    {.name = "decode hd128 bf16", .heads = 28, .kv_heads = 4, .head_dim = 128, .page = 64,
     .lengths = {1, 63, -1, 64, 65, 1000, 4097}, .places = true, .bf16 = true},
    {.name = "decode hd40 cap", .heads = 4, .kv_heads = 1, .head_dim = 40, .page = 16,
     .lengths = {5, 1300}, .softcap = 3, .places = true},
    {.name = "decode hd24", .heads = 3, .kv_heads = 1, .head_dim = 24, .page = 16,
     .lengths = {5, 1300}, .window = 17, .bf16 = true},
    {.name = "decode hd8", .heads = 2, .kv_heads = 1, .head_dim = 8, .page = 16,
     .lengths = {5, 130}},
    {.name = "decode hd112", .heads = 20, .kv_heads = 1, .head_dim = 112, .page = 16,
     .lengths = {5, 130}, .bf16 = true},
    {.name = "decode hd248 gqa9", .heads = 9, .kv_heads = 1, .head_dim = 248, .page = 16,
     .lengths = {33, 700}, .places = true},
    {.name = "prefill hd32 gemma2", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 64,
     .tokens = 300, .start = 41, .window = 24, .softcap = 50, .bf16 = true},
    {.name = "prefill hd32 places", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .tokens = 130, .places = true},
    {.name = "prefill hd256 gemma3", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 64,
     .tokens = 700, .start = 100, .window = 512, .bf16 = true},
    {.name = "prefill hd128 window", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 300, .start = 4000, .window = 4096},
    {.name = "prefill hd128 bf16", .heads = 28, .kv_heads = 4, .head_dim = 128, .page = 64,
     .tokens = 257, .start = 3, .places = true, .bf16 = true},
    {.name = "prefill hd40 cap", .heads = 4, .kv_heads = 1, .head_dim = 40, .page = 16,
     .tokens = 133, .softcap = 3, .places = true},
    {.name = "prefill hd24", .heads = 3, .kv_heads = 1, .head_dim = 24, .page = 16, .tokens = 133,
     .start = 90, .window = 17, .bf16 = true},
    {.name = "prefill hd8", .heads = 2, .kv_heads = 1, .head_dim = 8, .page = 16, .tokens = 70},
    {.name = "prefill hd112", .heads = 20, .kv_heads = 1, .head_dim = 112, .page = 16,
     .tokens = 70, .bf16 = true},
    {.name = "prefill hd248 gqa9", .heads = 9, .kv_heads = 1, .head_dim = 248, .page = 16,
     .tokens = 70, .places = true},
    {.name = "prefill hd64 gqa1", .heads = 4, .kv_heads = 4, .head_dim = 64, .page = 64,
     .tokens = 63},
    {.name = "prefill hd64 gqa3", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 16,
     .tokens = 1000},
    {.name = "prefill hd64 gqa4", .heads = 32, .kv_heads = 8, .head_dim = 64, .page = 64,
     .tokens = 64, .start = 4097},
    {.name = "prefill hd64 gqa8", .heads = 16, .kv_heads = 2, .head_dim = 64, .page = 32,
     .tokens = 65, .start = 63},
    {.name = "prefill hd128 gqa1", .heads = 4, .kv_heads = 4, .head_dim = 128, .page = 64,
     .tokens = 1000, .start = 1},
    {.name = "prefill hd128 gqa4", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 777, .start = 1000},
    {.name = "prefill hd128 gqa7", .heads = 28, .kv_heads = 4, .head_dim = 128, .page = 64,
     .tokens = 130, .start = 64},
    {.name = "prefill hd128 gqa8", .heads = 64, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 257},
    {.name = "prefill hd128 one", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 1, .start = 4096},
    {.name = "prefill hd80 gqa20", .heads = 20, .kv_heads = 1, .head_dim = 80, .page = 16,
     .tokens = 200, .start = 5},
    {.name = "prefill hd256 gqa8", .heads = 8, .kv_heads = 1, .head_dim = 256, .page = 64,
     .tokens = 300, .start = 17},
};
typedef struct TimeCase {
    const char *name;
    int heads, kv_heads, head_dim, rows, length, tokens, splits;
} TimeCase;

static const TimeCase time_cases[] = {
    {"8B decode 1 x 128", 32, 8, 128, 1, 128, 0, 0},
    {"8B decode 1 x 1024", 32, 8, 128, 1, 1024, 0, 0},
    {"8B decode 1 x 1024", 32, 8, 128, 1, 1024, 0, 8},
    {"8B decode 1 x 1024", 32, 8, 128, 1, 1024, 0, 32},
    {"8B decode 1 x 8192", 32, 8, 128, 1, 8192, 0, 8},
    {"8B decode 1 x 8192", 32, 8, 128, 1, 8192, 0, 16},
    {"8B decode 1 x 8192", 32, 8, 128, 1, 8192, 0, 32},
    {"8B decode 1 x 8192", 32, 8, 128, 1, 8192, 0, 48},
    {"8B decode 1 x 65536", 32, 8, 128, 1, 65536, 0, 16},
    {"8B decode 1 x 65536", 32, 8, 128, 1, 65536, 0, 32},
    {"8B decode 1 x 65536", 32, 8, 128, 1, 65536, 0, 64},
    {"8B decode 8 x 1024", 32, 8, 128, 8, 1024, 0, 8},
    {"8B decode 8 x 1024", 32, 8, 128, 8, 1024, 0, 16},
    {"8B decode 8 x 1024", 32, 8, 128, 8, 1024, 0, 32},
    {"8B decode 16 x 1024", 32, 8, 128, 16, 1024, 0, 16},
    {"8B decode 16 x 1024", 32, 8, 128, 16, 1024, 0, 32},
    {"8B decode 64 x 1024", 32, 8, 128, 64, 1024, 0, 16},
    {"8B decode 64 x 1024", 32, 8, 128, 64, 1024, 0, 32},
    {"1B decode 1 x 1024", 32, 8, 64, 1, 1024, 0, 0},
    {"1B decode 1 x 8192", 32, 8, 64, 1, 8192, 0, 0},
    {"70B decode 1 x 1024", 64, 8, 128, 1, 1024, 0, 0},
    {"Q7B decode 1 x 1024", 28, 4, 128, 1, 1024, 0, 0},
    {"Q7B decode 1 x 1024", 28, 4, 128, 1, 1024, 0, 16},
    {"8B prefill 512", 32, 8, 128, 0, 0, 512, 0},
    {"8B prefill 2048", 32, 8, 128, 0, 0, 2048, 0},
    {"8B prefill 8192", 32, 8, 128, 0, 0, 8192, 0},
    {"1B prefill 2048", 32, 8, 64, 0, 0, 2048, 0},
};
// clang-format on
enum {
    CHECK_CASES = sizeof check_cases / sizeof *check_cases,
    TIME_CASES = sizeof time_cases / sizeof *time_cases
};

typedef struct Bench {
    AttentionRun checks[CHECK_CASES];
    AttentionCase timed_cases[TIME_CASES];
    AttentionRun timed[TIME_CASES];
} Bench;

// ---- kernels ------------------------------------------------------------------------------------

static void bench_add(void *state, StepLab *lab, bool check, bool time) {
    Bench *b = state;
    for (int at = 0; at < CHECK_CASES && check; at++)
        attention_add(&b->checks[at], &check_cases[at], 0, lab);
    for (int at = 0; at < TIME_CASES && time; at++) {
        const TimeCase *t = &time_cases[at];
        AttentionCase *c = &b->timed_cases[at];
        *c = (AttentionCase){.name = t->name,
                             .heads = t->heads,
                             .kv_heads = t->kv_heads,
                             .head_dim = t->head_dim,
                             .page = 64,
                             .tokens = t->tokens};
        for (int row = 0; row < t->rows; row++)
            c->lengths[row] = t->length;
        attention_add(&b->timed[at], c, t->splits, lab);
    }
}

// ---- checks -------------------------------------------------------------------------------------

static int bench_check(void *state, StepLab *lab) {
    Bench *b = state;
    int bad = 0;
    for (int at = 0; at < CHECK_CASES; at++)
        bad += !attention_check(&b->checks[at], lab);
    printf("%d of %d checks failed\n", bad, CHECK_CASES);
    return bad;
}

// ---- times --------------------------------------------------------------------------------------

static void time_attention(StepLab *lab, AttentionRun *run, const TimeCase *c) {
    Arena scratch = {0};
    const BatchLayout *batch = &run->plan.batch;
    run->batch = arena_alloc(&scratch, (size_t)batch->bytes);
    for (int row = 0; row < run->rows; row++) {
        attention_batch(run, batch->positions)[row] = attention_length(run, row) - 1;
        attention_batch(run, batch->slots)[row] = attention_slot(run, row);
    }
    attention_pages(run, &scratch);
    Timing t = {.lab = lab,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .tokens = run->rows,
                .ops = c->tokens ? 4 : BENCH_OPS};
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes);
    bench_fill(lab, t.base[REGION_ARENA], run->arena_bytes);
    lab_upload(lab, t.base[REGION_BATCH], run->batch, (size_t)batch->bytes);
    int64_t pools = c->tokens ? 1 : POOL_BYTES / run->kv_bytes + 1;
    t.pool_count = pools < BENCH_POOLS_MAX ? (int)pools : BENCH_POOLS_MAX;
    for (int pool = 0; pool < t.pool_count; pool++) {
        t.pools[pool] = lab_alloc(lab, (size_t)run->kv_bytes);
        bench_fill(lab, t.pools[pool], run->kv_bytes);
    }
    double keys = c->tokens ? (double)c->tokens : (double)c->rows * c->length;
    double bytes = keys * c->kv_heads * c->head_dim * 4;
    double pairs = c->tokens ? (double)c->tokens * (c->tokens + 1) / 2 : keys;
    double flops = 4.0 * pairs * c->heads * c->head_dim;
    double us = timing_us(&t);
    double read = bytes / (lab->target->bandwidth_gbs * 1e3);
    double peak = flops / (lab->target->tensor_tflops * 1e6);
    printf("%-22s", c->name);
    if (c->tokens) {
        printf(" %9.1f us  peak %8.1f us  %3.0f %%  %4.0f TFLOP/s\n", us, peak, 100 * peak / us,
               flops / us * 1e-6);
    } else {
        t.only = 0;
        double part = timing_us(&t);
        t.only = 1;
        double merge = timing_us(&t);
        printf(" splits %2lld %7.2f us (alone %.2f + merge %.2f)  read %7.2f us  %3.0f %%\n",
               (long long)params_get(&run->phase.steps[0].params, "SPLITS"), us, part, merge, read,
               100 * read / us);
    }
    for (int pool = 0; pool < t.pool_count; pool++)
        lab_release(lab, t.pools[pool]);
    lab_release(lab, t.base[REGION_ARENA]);
    lab_release(lab, t.base[REGION_BATCH]);
    arena_free(&scratch);
}

static void bench_time(void *state, StepLab *lab) {
    Bench *b = state;
    for (int at = 0; at < TIME_CASES; at++)
        time_attention(lab, &b->timed[at], &time_cases[at]);
}

int main(int argc, char **argv) {
    static Bench state;
    const BenchProgram program = {.state = &state,
                                  .state_bytes = sizeof state,
                                  .add = bench_add,
                                  .check = bench_check,
                                  .time = bench_time};
    return bench_main(&program, argc, argv);
}

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
    {.name = "drafts hd64 gqa3", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 64,
     .tokens = 9, .start = 1019, .more = {{1, 77}, {5, 60}}, .drafts = true},
    {.name = "drafts hd128 gqa4", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 16, .start = 4090, .drafts = true},
    {.name = "drafts hd256 window", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 64,
     .tokens = 4, .more = {{12, 600}}, .window = 512, .bf16 = true, .drafts = true},
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
    {.name = "prefill hd64 exact", .heads = 2, .kv_heads = 1, .head_dim = 64, .page = 64,
     .tokens = 128},
    {.name = "prefill hd64 long", .heads = 8, .kv_heads = 2, .head_dim = 64, .page = 64,
     .tokens = 2500, .start = 129},
    {.name = "prefill hd64 window cap", .heads = 8, .kv_heads = 4, .head_dim = 64, .page = 16,
     .tokens = 700, .start = 65, .window = 200, .softcap = 30, .bf16 = true},
    {.name = "prefill hd96 gqa1", .heads = 3, .kv_heads = 3, .head_dim = 96, .page = 64,
     .tokens = 500, .start = 77},
    {.name = "prefill hd96 gqa4", .heads = 8, .kv_heads = 2, .head_dim = 96, .page = 32,
     .tokens = 300, .window = 100, .places = true, .bf16 = true},
    {.name = "prefill hd128 page256", .heads = 4, .kv_heads = 2, .head_dim = 128, .page = 256,
     .tokens = 900, .start = 200},
    {.name = "prefill hd128 gqa16", .heads = 16, .kv_heads = 1, .head_dim = 128, .page = 64,
     .tokens = 40, .start = 200},
    {.name = "prefill hd128 many works", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 1200, .bf16 = true},
    {.name = "prefill hd128 small window", .heads = 8, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 600, .start = 40, .window = 20},
    {.name = "prefill hd128 runs", .heads = 32, .kv_heads = 8, .head_dim = 128, .page = 64,
     .tokens = 500, .start = 12, .more = {{512, 0}, {1, 700}, {3, 0}, {40, 1100}, {31, 128}}},
    {.name = "prefill hd64 runs window", .heads = 8, .kv_heads = 4, .head_dim = 64, .page = 16,
     .tokens = 7, .more = {{90, 250}, {2, 4}, {130, 0}, {64, 64}}, .window = 60, .bf16 = true},
    {.name = "prefill hd96 runs", .heads = 8, .kv_heads = 2, .head_dim = 96, .page = 32,
     .tokens = 300, .more = {{20, 20}}, .places = true},
    {.name = "prefill hd256 runs", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 64,
     .tokens = 33, .more = {{33, 5}, {33, 500}, {200, 0}}},
    {.name = "prefill hd80 runs", .heads = 20, .kv_heads = 1, .head_dim = 80, .page = 16,
     .tokens = 2, .start = 5, .more = {{1, 0}, {50, 0}}},
    {.name = "prefill hd256 gemma2", .heads = 8, .kv_heads = 4, .head_dim = 256, .page = 64,
     .tokens = 400, .start = 70, .window = 128, .softcap = 50, .places = true, .bf16 = true},
};
typedef struct TimeCase {
    const char *name;
    int heads, kv_heads, head_dim, rows, length, tokens, splits;
    double bar; // cuDNN on an H200, measured elsewhere: TFLOP/s, or TB/s of KV; 0: not known
} TimeCase;

static const TimeCase time_cases[] = {
    {"8B decode 1 x 128", 32, 8, 128, 1, 128, 0, 0, 0},
    {"8B decode 1 x 1024", 32, 8, 128, 1, 1024, 0, 0, 0},
    {"8B decode 1 x 8192", 32, 8, 128, 1, 8192, 0, 0, 0},
    {"8B decode 1 x 32768", 32, 8, 128, 1, 32768, 0, 0, 2.48},
    {"8B decode 1 x 65536", 32, 8, 128, 1, 65536, 0, 0, 0},
    {"8B decode 8 x 1024", 32, 8, 128, 8, 1024, 0, 0, 0},
    {"8B decode 16 x 1024", 32, 8, 128, 16, 1024, 0, 0, 0},
    {"8B decode 64 x 1024", 32, 8, 128, 64, 1024, 0, 0, 3.33},
    {"8B decode 64 x 4096", 32, 8, 128, 64, 4096, 0, 0, 4.12},
    {"1B decode 1 x 1024", 32, 8, 64, 1, 1024, 0, 0, 0},
    {"1B decode 1 x 8192", 32, 8, 64, 1, 8192, 0, 0, 0},
    {"70B decode 1 x 1024", 64, 8, 128, 1, 1024, 0, 0, 0},
    {"Q7B decode 1 x 1024", 28, 4, 128, 1, 1024, 0, 0, 0},
    {"8B prefill 512", 32, 8, 128, 0, 0, 512, 0, 0},
    {"8B prefill 2048", 32, 8, 128, 0, 0, 2048, 0, 292},
    {"8B prefill 4096", 32, 8, 128, 0, 0, 4096, 0, 432},
    {"8B prefill 8192", 32, 8, 128, 0, 0, 8192, 0, 554},
    {"1B prefill 2048", 32, 8, 64, 0, 0, 2048, 0, 234},
    {"1B prefill 4096", 32, 8, 64, 0, 0, 4096, 0, 346},
    {"1B prefill 8192", 32, 8, 64, 0, 0, 8192, 0, 425},
    {"hd 96 prefill 4096", 32, 32, 96, 0, 0, 4096, 0, 0},
    {"hd 256 prefill 4096", 16, 8, 256, 0, 0, 4096, 0, 0},
};
// clang-format on
enum {
    CHECK_CASES = sizeof check_cases / sizeof *check_cases,
    TIME_CASES = sizeof time_cases / sizeof *time_cases,
    CHOICES = 8, // of a case
};

typedef struct Bench {
    AttentionRun checks[CHECK_CASES * CHOICES];
    AttentionCase timed_cases[TIME_CASES];
    AttentionRun timed[TIME_CASES * CHOICES];
    int which[TIME_CASES * CHOICES]; // index of the time case
    int check_count, timed_count;
} Bench;

// ---- kernels ------------------------------------------------------------------------------------

// The case by every kernel and candidate that takes it; returns how many.
static int choices_add(AttentionRun *runs, const AttentionCase *c, int splits, StepLab *lab) {
    int count = 0;
    if (!attention_add(&runs[count++], c, (AttentionChoice){.splits = splits}, lab)) {
        printf("%s is refused: %s\n", c->name, runs[0].reason);
        exit(1);
    }
    AttentionChoice choice = {.kernel = &kernel_attention_wgmma};
    if (!c->tokens || c->drafts)
        choice = (AttentionChoice){.splits = splits, .candidate = 1};
    for (; count < CHOICES; choice.candidate++, count++)
        if (!attention_add(&runs[count], c, choice, lab))
            break;
    return count;
}

static void bench_add(void *state, StepLab *lab, bool check, bool time) {
    Bench *b = state;
    for (int at = 0; at < CHECK_CASES && check; at++)
        b->check_count += choices_add(&b->checks[b->check_count], &check_cases[at], 0, lab);
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
        int first = b->timed_count;
        b->timed_count += choices_add(&b->timed[first], c, t->splits, lab);
        for (int run = first; run < b->timed_count; run++)
            b->which[run] = at;
    }
}

// ---- checks -------------------------------------------------------------------------------------

static int bench_check(void *state, StepLab *lab) {
    Bench *b = state;
    int bad = 0;
    for (int at = 0; at < b->check_count; at++)
        bad += !attention_check(&b->checks[at], lab);
    printf("%d of %d checks failed\n", bad, b->check_count);
    return bad;
}

// ---- times --------------------------------------------------------------------------------------

static void time_print(const AttentionRun *run, const TimeCase *c, const Timing *t, double us) {
    const Target *target = t->lab->target;
    const Params *params = &run->phase.steps[0].params;
    double keys = c->tokens ? (double)c->tokens : (double)c->rows * c->length;
    double bytes = keys * c->kv_heads * c->head_dim * 4;
    double pairs = c->tokens ? (double)c->tokens * (c->tokens + 1) / 2 : keys;
    double flops = 4.0 * pairs * c->heads * c->head_dim;
    double read = bytes / (target->bandwidth_gbs * 1e3);
    double peak = flops / (target->tensor_tflops * 1e6);
    double rate = c->tokens ? flops / us * 1e-6 : bytes / us * 1e-6;
    printf("%-20s %-17s %9.2f us  %7.2f %s  %3.0f %% of %s", c->name, run->phase.steps[0].entry, us,
           rate, c->tokens ? "TFLOP/s" : "TB/s", 100 * (c->tokens ? peak : read) / us,
           c->tokens ? "peak" : "read");
    if (c->bar > 0)
        printf("  %.2f of cuDNN's %.2f", rate / c->bar, c->bar);
    if (!c->tokens)
        printf("  splits %lld bulk %lld", (long long)params_get(params, "SPLITS"),
               (long long)params_get(params, "LOAD_BULK"));
    else if (strcmp(run->phase.steps[0].entry, "attention_wgmma") == 0)
        printf("  consumers %lld keys %lld slots %lld", (long long)params_get(params, "CONSUMERS"),
               (long long)params_get(params, "KEYS"), (long long)params_get(params, "SLOTS"));
    printf("\n");
}

static void time_attention(StepLab *lab, AttentionRun *run, const TimeCase *c) {
    Arena scratch = {0};
    const BatchLayout *batch = &run->plan.batch;
    run->batch = arena_alloc(&scratch, (size_t)batch->bytes);
    for (int row = 0; row < run->rows; row++) {
        attention_batch(run, batch->positions)[row] = attention_length(run->c, row) - 1;
        attention_batch(run, batch->slots)[row] = attention_tokens(run->c, row).slot;
    }
    attention_pages(run);
    const Buffer *q = &run->phase.buffers[run->phase.value_buffer[run->q]];
    Timing t = {.lab = lab,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .tokens = run->rows,
                .ops = c->tokens ? 4 : BENCH_OPS};
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes);
    lab_fill(lab, t.base[REGION_ARENA], 0, (size_t)run->arena_bytes); // counts
    bench_fill(lab, t.base[REGION_ARENA] + (uint64_t)q->offset, q->bytes);
    lab_upload(lab, t.base[REGION_BATCH], run->batch, (size_t)batch->bytes);
    int64_t pools = c->tokens ? 1 : POOL_BYTES / run->kv_bytes + 1;
    t.pool_count = pools < BENCH_POOLS_MAX ? (int)pools : BENCH_POOLS_MAX;
    for (int pool = 0; pool < t.pool_count; pool++) {
        t.pools[pool] = lab_alloc(lab, (size_t)run->kv_bytes);
        bench_fill(lab, t.pools[pool], run->kv_bytes);
    }
    time_print(run, c, &t, timing_us(&t));
    for (int pool = 0; pool < t.pool_count; pool++)
        lab_release(lab, t.pools[pool]);
    lab_release(lab, t.base[REGION_ARENA]);
    lab_release(lab, t.base[REGION_BATCH]);
    arena_free(&scratch);
}

static void bench_time(void *state, StepLab *lab) {
    Bench *b = state;
    for (int at = 0; at < b->timed_count; at++)
        time_attention(lab, &b->timed[at], &time_cases[b->which[at]]);
}

BENCH_MAIN(Bench, bench_add, bench_check, bench_time)

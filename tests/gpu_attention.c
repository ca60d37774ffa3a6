// The GPU kernels that are no linears: checked against plain loops, then timed.
//
//   gpu_attention compile [TARGET ...]  compiles every kernel, needs no GPU; a spill is an error
//   gpu_attention check                 worst element of every case against its bound
//   gpu_attention time                  shapes of real models in CUDA graphs
//   gpu_attention                       check, then time
//
// Times are medians of graph replays, divided by the ops in the graph, so they hold the gaps
// between kernels. KV caches rotate over more than 256 MB, so nothing stays in the second-level
// cache. "read" is the time of the bytes at the target's read rate, "peak" that of the flops at its
// dense peak.
#include "tests/attention_lab.h"
#include "tests/rows_lab.h"

enum { REPLAYS = 9, POOL_BYTES = 300 << 20, POOLS_MAX = 64, OPS = 32, RUNS_MAX = 160 };

// clang-format off
static const AttentionCase check_cases[] = {
    {"decode hd64 gqa1", 4, 4, 64, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd64 gqa3", 6, 2, 64, 16, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd64 gqa4", 32, 8, 64, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd64 gqa8", 16, 2, 64, 32, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd128 gqa1", 4, 4, 128, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd128 gqa4", 32, 8, 128, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd128 gqa7", 28, 4, 128, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd128 gqa8", 64, 8, 128, 64, {1, 63, -1, 64, 65, 1000, 4097}, 0, 0},
    {"decode hd128 gqa16", 16, 1, 128, 64, {1, 63, -1, 64, 65, 1000, 40970}, 0, 0},
    {"decode hd80 gqa20", 20, 1, 80, 16, {1, 63, -1, 64, 65, 1000}, 0, 0},
    {"decode hd96 gqa1", 8, 8, 96, 16, {1, 63, -1, 64, 65, 1000}, 0, 0},
    {"decode hd256 gqa8", 8, 1, 256, 64, {1, 63, -1, 64, 65, 1000}, 0, 0},
    {"decode hd128 128k", 8, 2, 128, 64, {131072}, 0, 0},
    {"prefill hd64 gqa1", 4, 4, 64, 64, {0}, 63, 0},
    {"prefill hd64 gqa3", 6, 2, 64, 16, {0}, 1000, 0},
    {"prefill hd64 gqa4", 32, 8, 64, 64, {0}, 64, 4097},
    {"prefill hd64 gqa8", 16, 2, 64, 32, {0}, 65, 63},
    {"prefill hd128 gqa1", 4, 4, 128, 64, {0}, 1000, 1},
    {"prefill hd128 gqa4", 32, 8, 128, 64, {0}, 777, 1000},
    {"prefill hd128 gqa7", 28, 4, 128, 64, {0}, 130, 64},
    {"prefill hd128 gqa8", 64, 8, 128, 64, {0}, 257, 0},
    {"prefill hd128 one", 32, 8, 128, 64, {0}, 1, 4096},
    {"prefill hd80 gqa20", 20, 1, 80, 16, {0}, 200, 5},
    {"prefill hd256 gqa8", 8, 1, 256, 64, {0}, 300, 17},
};
static const RowsCase rows_cases[] = {
    {"norm 384", OP_NORM, 384, 0},        {"norm 4096", OP_NORM, 4096, 0},
    {"norm 8200", OP_NORM, 8200, 0},      {"embed 384", OP_EMBED, 384, 8192},
    {"embed 4096", OP_EMBED, 4096, 1001}, {"gather 4096", OP_GATHER, 4096, 0},
};
static const int64_t vocabularies[] = {259, 8192, 32000, 128256, 262144};

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
    ROWS_CASES = sizeof rows_cases / sizeof *rows_cases,
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies,
    TIME_CASES = sizeof time_cases / sizeof *time_cases
};

typedef struct Bench {
    StepLab lab;
    Gpu gpu;
    AttentionRun checks[CHECK_CASES];
    AttentionCase timed_cases[TIME_CASES];
    AttentionRun timed[TIME_CASES];
    RowsRun rows[ROWS_CASES];
    SampleRun samples[VOCABULARIES];
} Bench;

// ---- kernels ------------------------------------------------------------------------------------

static void bench_add(Bench *b, bool check, bool time) {
    for (int at = 0; at < CHECK_CASES && check; at++)
        attention_add(&b->checks[at], &check_cases[at], 0, &b->lab);
    for (int at = 0; at < ROWS_CASES; at++)
        rows_add(&b->rows[at], &rows_cases[at], &b->lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&b->samples[at], vocabularies[at], &b->lab);
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
        attention_add(&b->timed[at], c, t->splits, &b->lab);
    }
}

// ---- checks -------------------------------------------------------------------------------------

// What is drawn must have the distribution of the weights: 256 tokens, against chi square.
static bool distribution_check(Bench *b) {
    enum { VOCAB = 259, ROUNDS = 400 };
    SampleRun *run = &b->samples[0];
    StepLab *lab = &b->lab;
    const BatchLayout *batch = &run->plan.batch;
    static float logits[SAMPLE_ROWS * VOCAB];
    static int counts[VOCAB];
    double total = 0, chi = 0, weights[VOCAB];
    Random r = {.state = 3};
    for (int id = 0; id < VOCAB; id++) {
        for (int row = 0; row < SAMPLE_ROWS; row++)
            logits[row * VOCAB + id] = row ? logits[id] : random_uniform(&r, -2, 2);
        weights[id] = exp((double)logits[id]);
        total += weights[id];
    }
    sample_batch(run, 12);
    for (int row = 0; row < SAMPLE_ROWS; row++)
        if (sample_slot(row) >= 0) {
            SampleParams *p =
                (SampleParams *)(void *)(run->batch + batch->sample) + sample_slot(row);
            p->temperature = p->top_p = p->repetition_penalty = 1;
            p->min_p = 0;
            p->top_k = 0;
        }
    uint64_t base[REGION_COUNT] = {[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes),
                                   [REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes)};
    const Buffer *buffer = &run->phase.buffers[run->phase.value_buffer[run->graph.logits]];
    lab_upload(lab, base[REGION_ARENA] + (uint64_t)buffer->offset, logits, sizeof logits);
    lab_upload(lab, base[REGION_BATCH], run->batch, (size_t)batch->bytes);
    int draws = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int32_t drawn[SAMPLE_ROWS];
        lab_phase_run(lab, &run->phase, run->first_kernel, base, SAMPLE_ROWS);
        lab_download(lab, drawn, base[REGION_BATCH] + (uint64_t)batch->sampled, sizeof drawn);
        for (int row = 0; row < SAMPLE_ROWS; row++)
            if (sample_slot(row) >= 0) {
                int32_t token = drawn[sample_slot(row)];
                if (token < 0 || token >= VOCAB)
                    return false;
                counts[token]++;
                draws++;
            }
    }
    for (int id = 0; id < VOCAB; id++) {
        double expected = weights[id] / total * draws;
        chi += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    bool good = chi < VOCAB - 1 + 4 * sqrt(2.0 * (VOCAB - 1)); // 4 standard deviations
    printf("%-6s %d draws of %d tokens: chi square %.0f, expected %d\n", good ? "ok" : "NOT OK",
           draws, VOCAB, chi, VOCAB - 1);
    return good;
}

static int check_all(Bench *b) {
    int bad = 0;
    for (int at = 0; at < CHECK_CASES; at++)
        bad += !attention_check(&b->checks[at], &b->lab);
    for (int at = 0; at < ROWS_CASES; at++)
        bad += !rows_check(&b->rows[at], &b->lab);
    // The hardware's 2^x may put a draw on the other side of a border now and then.
    for (int at = 0; at < VOCABULARIES; at++)
        bad += !sample_check(&b->samples[at], &b->lab, vocabularies[at] < 10000 ? 40 : 5, 1);
    bad += !distribution_check(b);
    printf("%d of %d checks failed\n", bad, CHECK_CASES + ROWS_CASES + VOCABULARIES + 1);
    return bad;
}

// ---- times --------------------------------------------------------------------------------------

typedef struct Timing {
    Bench *b;
    const PhasePlan *phase;
    int first_kernel, only; // only >= 0: this step alone
    int64_t tokens;
    uint64_t base[REGION_COUNT], pools[POOLS_MAX];
    int pool_count, ops;
} Timing;

static void timing_enqueue(void *user) {
    Timing *t = user;
    for (int op = 0; op < t->ops; op++) {
        if (t->pool_count)
            t->base[REGION_KV] = t->pools[op % t->pool_count];
        if (t->only >= 0)
            lab_step(&t->b->lab, t->phase, t->first_kernel + t->only, t->base, t->tokens);
        else
            lab_phase_run(&t->b->lab, t->phase, t->first_kernel, t->base, t->tokens);
    }
}

static double timing_us(Timing *t) {
    return gpu_graph_us(&t->b->gpu, timing_enqueue, t, REPLAYS) / t->ops;
}

// A block of random halves, repeated.
static void fill_random(StepLab *lab, uint64_t address, int64_t bytes) {
    enum { BLOCK = 1 << 20 };
    static uint16_t block[BLOCK / 2];
    Random r = {.state = 8};
    for (int at = 0; at < BLOCK / 2 && !block[BLOCK / 2 - 1]; at++)
        block[at] = half_from_float(random_uniform(&r, -1.7f, 1.7f));
    for (int64_t at = 0; at < bytes; at += BLOCK)
        lab_upload(lab, address + (uint64_t)at, block,
                   (size_t)(bytes - at < BLOCK ? bytes - at : BLOCK));
}

static void time_attention(Bench *b, AttentionRun *run, const TimeCase *c) {
    StepLab *lab = &b->lab;
    Arena scratch = {0};
    const BatchLayout *batch = &run->plan.batch;
    run->batch = arena_alloc(&scratch, (size_t)batch->bytes);
    for (int row = 0; row < run->rows; row++) {
        attention_batch(run, batch->positions)[row] = attention_length(run, row) - 1;
        attention_batch(run, batch->slots)[row] = attention_slot(run, row);
    }
    attention_pages(run, &scratch);
    Timing t = {.b = b,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .tokens = run->rows,
                .ops = c->tokens ? 4 : OPS};
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes);
    fill_random(lab, t.base[REGION_ARENA], run->arena_bytes);
    lab_upload(lab, t.base[REGION_BATCH], run->batch, (size_t)batch->bytes);
    int64_t pools = c->tokens ? 1 : POOL_BYTES / run->kv_bytes + 1;
    t.pool_count = pools < POOLS_MAX ? (int)pools : POOLS_MAX;
    for (int pool = 0; pool < t.pool_count; pool++) {
        t.pools[pool] = lab_alloc(lab, (size_t)run->kv_bytes);
        fill_random(lab, t.pools[pool], run->kv_bytes);
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

static void time_rows(Bench *b, RowsRun *run) {
    StepLab *lab = &b->lab;
    Timing t = {
        .b = b, .phase = &run->phase, .first_kernel = run->first_kernel, .only = -1, .ops = OPS};
    t.base[REGION_WEIGHTS] = lab_alloc(lab, (size_t)run->weights_bytes + 256);
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)run->plan.batch.bytes);
    lab_fill(lab, t.base[REGION_WEIGHTS], 0, (size_t)run->weights_bytes);
    lab_fill(lab, t.base[REGION_BATCH], 0, (size_t)run->plan.batch.bytes);
    fill_random(lab, t.base[REGION_ARENA], run->arena_bytes);
    for (t.tokens = 1; t.tokens <= ROWS_LIMIT; t.tokens += ROWS_LIMIT - 1)
        printf("%-14s %3lld rows %7.2f us\n", run->c->name, (long long)t.tokens, timing_us(&t));
    lab_release(lab, t.base[REGION_WEIGHTS]);
    lab_release(lab, t.base[REGION_ARENA]);
    lab_release(lab, t.base[REGION_BATCH]);
}

static void time_sample(Bench *b, SampleRun *run) {
    static const SampleParams settings[] = {
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repetition_penalty = 1.1f},
        {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1},
        {.temperature = 3, .top_p = 0.9f, .repetition_penalty = 1},
    };
    static const char *const names[] = {"greedy", "plain", "typical", "top-p", "whole row"};
    StepLab *lab = &b->lab;
    const BatchLayout *batch = &run->plan.batch;
    run->logits = ARENA_NEW(&lab->arena, float, SAMPLE_ROWS * run->vocab);
    run->batch = arena_alloc(&lab->arena, (size_t)batch->bytes);
    sample_logits(run, SHAPE_COUNT); // row 0 is SHAPE_MODEL
    sample_batch(run, 1);
    for (int row = 1; row < SAMPLE_ROWS; row++)
        memcpy(run->logits + row * run->vocab, run->logits, (size_t)run->vocab * 4);
    Timing t = {
        .b = b, .phase = &run->phase, .first_kernel = run->first_kernel, .only = -1, .ops = OPS};
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes);
    const Buffer *logits = &run->phase.buffers[run->phase.value_buffer[run->graph.logits]];
    lab_upload(lab, t.base[REGION_ARENA] + (uint64_t)logits->offset, run->logits,
               (size_t)(SAMPLE_ROWS * run->vocab * 4));
    for (size_t at = 0; at < sizeof settings / sizeof *settings; at++) {
        SampleParams *p = (SampleParams *)(void *)(run->batch + batch->sample);
        for (int slot = 0; slot < SAMPLE_ROWS; slot++)
            p[slot] = settings[at];
        printf("sample %-9s vocab %lld ", names[at], (long long)run->vocab);
        for (t.tokens = 1; t.tokens <= 8; t.tokens += 7) {
            lab_upload(lab, t.base[REGION_BATCH], run->batch, (size_t)batch->bytes);
            printf(" %lld rows %7.2f us", (long long)t.tokens, timing_us(&t));
        }
        puts("");
    }
    lab_release(lab, t.base[REGION_ARENA]);
    lab_release(lab, t.base[REGION_BATCH]);
}

static void time_all(Bench *b) {
    printf("%s, read rate %.0f GB/s, dense peak %.0f TFLOP/s\n", b->gpu.device,
           b->lab.target->bandwidth_gbs, b->lab.target->tensor_tflops);
    for (int at = 0; at < TIME_CASES; at++)
        time_attention(b, &b->timed[at], &time_cases[at]);
    for (int at = 0; at < ROWS_CASES; at++)
        time_rows(b, &b->rows[at]);
    for (int at = 0; at < VOCABULARIES; at++)
        if (vocabularies[at] == 8192 || vocabularies[at] == 128256)
            time_sample(b, &b->samples[at]);
}

// ---- main ---------------------------------------------------------------------------------------

static const Target *target_named(const char *name, int compute) {
    for (int at = 0; at < target_count; at++) {
        const Target *t = &target_table[at];
        if (t->device == DEVICE_CUDA &&
            (name ? strcmp(t->name, name) == 0
                  : t->compute_major * 10 + t->compute_minor == compute))
            return t;
    }
    return NULL;
}

static int compile_targets(Bench *b, int count, char **names) {
    static const char *const all[] = {"sm_80",  "sm_86",   "sm_87",  "sm_89",
                                      "sm_90a", "sm_100a", "sm_120a"};
    int total = count ? count : (int)(sizeof all / sizeof *all);
    for (int at = 0; at < total; at++) {
        Error err;
        memset(b, 0, sizeof *b);
        b->lab.target = target_named(count ? names[at] : all[at], 0);
        if (!b->lab.target) {
            fprintf(stderr, "unknown target\n");
            return 2;
        }
        bench_add(b, true, true);
        if (!lab_compile(&b->lab, &err)) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        arena_free(&b->lab.arena);
    }
    return 0;
}

int main(int argc, char **argv) {
    static Bench bench;
    Bench *b = &bench;
    Error err;
    const char *word = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(word, "compile") == 0)
        return compile_targets(b, argc - 2, argv + 2);
    if (!gpu_open(&b->gpu)) {
        puts("skipped: no GPU or no driver");
        return 0;
    }
    b->lab.gpu = &b->gpu;
    b->lab.target = target_named(NULL, b->gpu.compute);
    if (!b->lab.target) {
        fprintf(stderr, "no target for compute capability %d\n", b->gpu.compute);
        return 3;
    }
    bool check = strcmp(word, "time") != 0, time = strcmp(word, "check") != 0;
    bench_add(b, check, time);
    if (!lab_compile(&b->lab, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return (int)err.code;
    }
    int bad = check ? check_all(b) : 0;
    if (time)
        time_all(b);
    return bad ? 8 : 0;
}

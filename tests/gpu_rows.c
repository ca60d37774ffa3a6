// The kernels on rows and sampling on a GPU: checked against plain loops, then timed; see
// gpu_bench.h.
#include "tests/gpu_bench.h"
#include "tests/rows_cases.h"
#include "tests/sample_lab.h"

static const int64_t vocabularies[] = {259, 8192, 32000, 128256, 262144};

enum { TIME_ROOM = 2048 };

// clang-format off
static const RowsCase time_cases[] = {
    {.name = "embed 4096", .kind = OP_EMBED, .width = 4096, .rows = 8192, .scale = 1,
     .room = TIME_ROOM},
    {.name = "norm 2048", .kind = OP_NORM, .width = 2048, .rows = 1, .in_f32 = true,
     .room = TIME_ROOM},
    {.name = "norm 4096", .kind = OP_NORM, .width = 4096, .rows = 1, .in_f32 = true,
     .room = TIME_ROOM},
    {.name = "norm 4096, ordered", .kind = OP_NORM, .width = 4096, .rows = 1, .out = 4096,
     .in_f32 = true, .room = TIME_ROOM},
    {.name = "norm 32 x 128", .kind = OP_NORM, .width = 128, .rows = 32, .room = TIME_ROOM},
    {.name = "rope 32 x 128", .kind = OP_ROPE, .width = 128, .rows = 32, .out = 64, .scale = 1,
     .room = TIME_ROOM},
    {.name = "kv_append 8 x 128", .kind = OP_KV_APPEND, .width = 128, .rows = 8,
     .room = TIME_ROOM},
    {.name = "silu 14336", .kind = OP_ACT_MUL, .width = 14336, .act = ACT_SILU, .room = TIME_ROOM},
    {.name = "gelu 14336", .kind = OP_ACT_MUL, .width = 14336, .act = ACT_GELU, .room = TIME_ROOM},
    {.name = "add 4096", .kind = OP_ADD, .width = 4096, .scale = 1, .room = TIME_ROOM},
    {.name = "permute 4096", .kind = OP_PERMUTE, .width = 4096, .out = 4096, .room = TIME_ROOM},
    {.name = "route 8 of 128", .kind = OP_ROUTE, .width = 128, .rows = 8, .normalize = true,
     .room = TIME_ROOM},
    {.name = "gather 4096", .kind = OP_GATHER, .width = 4096, .room = TIME_ROOM},
};
// clang-format on
enum {
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies,
    TIME_CASES = sizeof time_cases / sizeof *time_cases
};

typedef struct Bench {
    RowsRun checks[ROWS_CASES];
    RowsRun timed[TIME_CASES];
    SampleRun samples[VOCABULARIES];
} Bench;

static void bench_add(void *state, StepLab *lab, bool check, bool time) {
    Bench *b = state;
    for (int at = 0; at < ROWS_CASES && check; at++)
        rows_add(&b->checks[at], &rows_cases[at], lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&b->samples[at], vocabularies[at], lab);
    for (int at = 0; at < TIME_CASES && time; at++)
        rows_add(&b->timed[at], &time_cases[at], lab);
}

// ---- checks -------------------------------------------------------------------------------------

static SampleParams *sample_of(const SampleRun *run, int row) {
    return (SampleParams *)(void *)(run->batch + run->plan.batch.sample) + sample_slot(row);
}

// What is drawn must have the distribution of the weights: 256 tokens, against chi square.
static bool distribution_check(SampleRun *run, StepLab *lab) {
    enum { VOCAB = 259, ROUNDS = 400 };
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
            SampleParams *p = sample_of(run, row);
            *p = (SampleParams){.temperature = 1,
                                .top_p = 1,
                                .repetition_penalty = 1,
                                .seed_low = p->seed_low,
                                .seed_high = p->seed_high};
        }
    uint64_t base[REGION_COUNT] = {[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes),
                                   [REGION_BATCH] = lab_alloc(lab, (size_t)batch->bytes)};
    const Buffer *buffer = &run->phase.buffers[run->phase.value_buffer[run->graph.logits]];
    lab_upload(lab, base[REGION_ARENA] + (uint64_t)buffer->offset, logits, sizeof logits);
    int draws = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int32_t drawn[SAMPLE_ROWS];
        for (int row = 0; row < SAMPLE_ROWS; row++) // a request draws anew in each step
            if (sample_slot(row) >= 0)
                sample_of(run, row)->step = round;
        lab_upload(lab, base[REGION_BATCH], run->batch, (size_t)batch->bytes);
        lab_phase_run(lab, &run->phase, run->first_kernel, base, SAMPLE_ROWS);
        lab_download(lab, drawn, base[REGION_BATCH] + (uint64_t)batch->sampled, sizeof drawn);
        for (int row = 0; row <= SAMPLE_FIRST_DRAFT; row++) // those behind share its slot
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

static int bench_check(void *state, StepLab *lab) {
    Bench *b = state;
    int bad = 0;
    for (int at = 0; at < ROWS_CASES; at++)
        bad += !rows_check(&b->checks[at], lab);
    // The hardware's 2^x may put a draw on the other side of a border now and then.
    for (int at = 0; at < VOCABULARIES; at++)
        bad += !sample_check(&b->samples[at], lab, vocabularies[at] < 10000 ? 40 : 5, 1);
    bad += !distribution_check(&b->samples[0], lab);
    printf("%d of %d checks failed\n", bad, ROWS_CASES + VOCABULARIES + 1);
    return bad;
}

// ---- times --------------------------------------------------------------------------------------

// Row r stands at position r of sequence 0.
static void time_batch(StepLab *lab, const RowsRun *run, uint64_t to) {
    const BatchLayout *b = &run->plan.batch;
    unsigned char *batch = calloc((size_t)b->bytes, 1);
    assert(batch);
    for (int32_t row = 0; row < run->plan.info.max_num_tokens; row++) {
        int32_t page = row / ROWS_PAGE % (ROWS_TOKENS + 1);
        memcpy(batch + b->positions + row * 4, &row, 4);
        memcpy(batch + b->page_table + row / ROWS_PAGE * 4, &page, 4);
    }
    lab_upload(lab, to, batch, (size_t)b->bytes);
    free(batch);
}

static void time_rows(StepLab *lab, RowsRun *run) {
    Timing t = {.lab = lab,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .ops = BENCH_OPS};
    t.base[REGION_WEIGHTS] = lab_weights(lab, &run->graph, run->weights_bytes);
    t.base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    t.base[REGION_KV] = lab_alloc(lab, (size_t)run->kv_bytes + 256);
    t.base[REGION_BATCH] = lab_alloc(lab, (size_t)run->plan.batch.bytes);
    bench_fill(lab, t.base[REGION_ARENA], run->arena_bytes);
    time_batch(lab, run, t.base[REGION_BATCH]);
    printf("%-20s", run->c->name);
    for (t.tokens = 1; t.tokens <= TIME_ROOM; t.tokens = t.tokens == 1 ? 32 : t.tokens * 64)
        printf(" %4lld rows %7.2f us", (long long)t.tokens, timing_us(&t));
    puts("");
    for (int region = 0; region < REGION_COUNT; region++)
        lab_release(lab, t.base[region]);
}

static void time_sample(StepLab *lab, SampleRun *run) {
    static const SampleParams settings[] = {
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repetition_penalty = 1.1f},
        {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1},
        {.temperature = 3, .top_p = 0.9f, .repetition_penalty = 1},
    };
    static const char *const names[] = {"greedy", "plain", "typical", "top-p", "whole row"};
    const BatchLayout *batch = &run->plan.batch;
    run->logits = ARENA_NEW(&lab->arena, float, SAMPLE_ROWS * run->vocab);
    run->batch = arena_alloc(&lab->arena, (size_t)batch->bytes);
    sample_logits(run, SHAPE_COUNT); // row 0 is SHAPE_MODEL
    sample_batch(run, 1);
    for (int row = 1; row < SAMPLE_ROWS; row++)
        memcpy(run->logits + row * run->vocab, run->logits, (size_t)run->vocab * 4);
    Timing t = {.lab = lab,
                .phase = &run->phase,
                .first_kernel = run->first_kernel,
                .only = -1,
                .ops = BENCH_OPS};
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

static void bench_time(void *state, StepLab *lab) {
    Bench *b = state;
    for (int at = 0; at < TIME_CASES; at++)
        time_rows(lab, &b->timed[at]);
    for (int at = 0; at < VOCABULARIES; at++)
        if (vocabularies[at] == 8192 || vocabularies[at] == 128256)
            time_sample(lab, &b->samples[at]);
}

BENCH_MAIN(Bench, bench_add, bench_check, bench_time)

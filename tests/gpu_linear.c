// The GPU kernels of linears on a GPU: every variant checked against sums in doubles at ragged
// shapes; see gpu_bench.h. gpu_kernels_bench times them.
#include "tests/gpu_bench.h"
#include "tests/linear_formats.h"
#include "tests/linear_run.h"

enum { RUNS_MAX = 4000 };

// clang-format off
static const Case check_cases[] = {
    {"plain4", 4, 128, 512, {304}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
    {"ragged4", 4, 128, 1400, {200, 101}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .f32 = true},
    {"deep4", 4, 128, 14336, {96}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD},
    {"wide4", 4, 64, 320, {9000}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .bias = true},
    {"fine4", 4, 32, 1120, {152}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD, .bias = true},
    {"small4", 4, 128, 384, {384}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD},
    {"normed4", 4, 128, 4096, {144}, ROWS_PLAIN, PROLOGUE_NORM,
     .epilogue = EPILOGUE_STORE},
    {"gate4", 4, 128, 2048, {328, 328}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act = ACT_SILU},
    {"gelu4", 4, 64, 1088, {100, 100}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act = ACT_GELU_TANH, .bias = true},
    {"rope4", 4, 128, 1024, {256, 128, 128}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
     .bias = true, .heads = 4, .kv_heads = 2, .head_dim = 64},
    {"rope4_128", 4, 32, 416, {512, 128, 128}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
     .heads = 4, .kv_heads = 1, .head_dim = 128},
    {"plain8", 8, 128, 1152, {200}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD},
    {"ragged8", 8, 64, 448, {77}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .bias = true},
    {"fine8", 8, 32, 736, {168}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .f32 = true},
    {"gate8", 8, 128, 640, {72, 72}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act = ACT_SILU},
    {"rope8", 8, 64, 256, {192, 64, 64}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
     .heads = 6, .kv_heads = 2, .head_dim = 32},
    {"head16", 16, 0, 2056, {1000}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .f32 = true},
    {"gate16", 16, 0, 328, {60, 60}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
     .act = ACT_SILU},
};
// clang-format on
enum {
    SHAPE_CASES = sizeof check_cases / sizeof *check_cases,
    CHECK_CASES = SHAPE_CASES + FORMAT_COUNT, // shapes, then formats
};

typedef struct Bench {
    Formats formats;
    Lab labs[CHECK_CASES];
    Run *runs; // [RUNS_MAX]
    int run_count;
} Bench;

// ---- variants -----------------------------------------------------------------------------------

static void runs_add_decode(Bench *b, Lab *lab, int64_t max_tokens, DecodeVariant v, Arena *a) {
    assert(b->run_count < RUNS_MAX);
    if (!v.bulk || lab->plan.target->compute_major >= 9)
        b->run_count += run_decode(&b->runs[b->run_count], lab, max_tokens, v, a);
}

static const GemmVariant gemm_variants[] = {
    {128, 2, 0, 1}, {128, 4, 0, 1}, {128, 2, 0, 2}, {64, 1, 0, 2},
    {64, 2, 0, 2},  {32, 2, 0, 2},  {32, 1, 0, 2},  {256, 2, 0, 1},
};
enum { GEMM_VARIANTS = sizeof gemm_variants / sizeof *gemm_variants };

static void runs_add_wgmma(Bench *b, Lab *lab, int64_t max_tokens, Arena *a) {
    static const WgmmaVariant variants[] = {
        {256, 2, 1, 1, 1, 0, 0}, {256, 2, 1, 1, 2, 0, 0}, {256, 1, 1, 2, 2, 0, 0},
        {256, 2, 1, 1, 1, 1, 0}, {128, 2, 1, 1, 1, 0, 0}, {128, 2, 1, 1, 2, 1, 0},
        {128, 3, 1, 2, 1, 0, 0}, {128, 2, 1, 2, 2, 0, 0}, {128, 3, 1, 1, 1, 0, 0},
        {128, 3, 1, 1, 1, 1, 0}, {64, 3, 1, 1, 1, 1, 0},  {16, 2, 2, 1, 1, 0, 0},
        {128, 1, 2, 1, 1, 1, 0}, {128, 1, 2, 2, 1, 0, 0}, {128, 1, 2, 1, 4, 0, 0},
        {128, 1, 2, 2, 2, 0, 0}, {64, 2, 1, 1, 1, 0, 0},  {64, 2, 2, 1, 1, 0, 0},
        {64, 1, 2, 1, 1, 0, 0},  {64, 1, 3, 1, 1, 1, 0},  {64, 1, 2, 2, 1, 0, 0},
        {64, 1, 3, 2, 2, 0, 0},  {64, 4, 1, 1, 2, 0, 0},  {64, 4, 1, 1, 1, 1, 0},
        {32, 1, 4, 1, 1, 0, 0},  {32, 1, 4, 2, 1, 0, 0},  {32, 1, 4, 4, 1, 0, 0},
        {32, 1, 4, 1, 1, 1, 0},  {32, 2, 2, 1, 2, 0, 0},  {16, 1, 4, 1, 1, 0, 0},
        {16, 1, 4, 2, 1, 0, 0},  {16, 1, 4, 1, 2, 0, 0},  {32, 4, 1, 1, 1, 0, 0},
        {32, 3, 1, 1, 1, 1, 0},  {32, 4, 1, 1, 1, 1, 0},  {16, 4, 1, 1, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        assert(b->run_count < RUNS_MAX);
        b->run_count += run_wgmma(&b->runs[b->run_count], lab, max_tokens, variants[i], a);
    }
}

static void runs_add(Bench *b, Lab *lab, Arena *a) {
    static const int64_t buckets[] = {1, 8, 16, 32};
    Problem problem = {.plan = &lab->plan, .op = lab->op, .max_tokens = 8};
    for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++) {
        DecodeVariant v = decode_variant(&problem);
        runs_add_decode(b, lab, buckets[i], v, a);
        v.tiles = 2;
        v.bulk = buckets[i] == 8;
        if (buckets[i] > 1)
            runs_add_decode(b, lab, buckets[i], v, a);
    }
    for (int cluster = 2; cluster <= 4; cluster *= 2) {
        DecodeVariant v = decode_cluster(&problem, cluster);
        runs_add_decode(b, lab, 32, v, a);
        v.tiles = cluster / 2;
        v.bulk = cluster == 4;
        runs_add_decode(b, lab, 8, v, a);
    }
    if (lab->op->linear.prologue == PROLOGUE_NORM) {
        DecodeVariant v = decode_variant(&problem);
        v.apart = true;
        runs_add_decode(b, lab, 16, v, a);
    }
    for (int i = 0; i < GEMM_VARIANTS; i++) {
        assert(b->run_count < RUNS_MAX);
        b->run_count += run_gemm(&b->runs[b->run_count], lab, 256, gemm_variants[i], a);
    }
    runs_add_wgmma(b, lab, 256, a);
}

static void bench_add(void *state, StepLab *s, bool check, bool time) {
    Bench *b = state;
    (void)check;
    (void)time;
    s->may_spill = true;
    b->runs = ARENA_NEW(&s->arena, Run, RUNS_MAX);
    formats_make(&b->formats);
    for (int i = 0; i < CHECK_CASES; i++) {
        const Case *c = i < SHAPE_CASES ? &check_cases[i] : &b->formats.cases[i - SHAPE_CASES];
        lab_make(&b->labs[i], c, s->target, true, &s->arena);
        runs_add(b, &b->labs[i], &s->arena);
    }
    for (int i = 0; i < b->run_count; i++)
        b->runs[i].first_kernel = lab_phase_add(s, &b->runs[i].phase, &b->runs[i].arena_bytes);
    printf("%s: %d variants of linears\n", s->target->name, b->run_count);
}

// ---- all checks ---------------------------------------------------------------------------------

typedef struct Tally {
    int checks, failures;
    double worst;
} Tally;

// Outputs of token 0 by the first run of an order of sums: all others of it have the same bits, whatever
// bucket, variant and number of tokens.
typedef struct First {
    char sums[96];
    unsigned char *bytes;
} First;

enum { ORDERS_MAX = 48 };

static bool first_same(First firsts[ORDERS_MAX], const Run *run, const Result *r, Arena *a) {
    const Value *v = &run->lab->graph.values[run->lab->op->output];
    size_t size = (size_t)(v->width * plan_value_elem(&run->lab->plan, run->lab->op->output));
    const unsigned char *out = result_out(run, r);
    First *first = firsts;
    while (first->bytes && strcmp(first->sums, run->sums) != 0)
        first++;
    assert(first < firsts + ORDERS_MAX - 1);
    if (!first->bytes) {
        first->bytes = arena_alloc(a, size);
        memcpy(first->bytes, out, size);
        memcpy(first->sums, run->sums, sizeof first->sums);
    }
    return memcmp(first->bytes, out, size) == 0;
}

// An even split is another one for each number of blocks of tokens.
static bool keeps_order(const Run *run) {
    return !strstr(run->sums, " EVEN ");
}

static void run_checks(StepLab *s, const Run *run, const Data *d, const LinearMemory *m,
                       First *firsts, Tally *tally, Arena *keep) {
    static const int64_t counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 128, 200};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t tokens = counts[i];
        if (tokens > run->max_tokens || (!run->decode && tokens < 15 && tokens > 1))
            continue;
        Arena a = {0};
        Result r = linear_run(s, run, d, m, tokens, &a);
        bool same = !keeps_order(run) || first_same(firsts, run, &r, keep);
        tally->checks++;
        tally->worst = fmax(tally->worst, r.worst);
        if (r.worst > 1 || !same) {
            tally->failures++;
            printf("FAILED %s, %s %lld: %s, %lld tokens: %.3g of the bound, %s%s\n",
                   run->lab->c->name, run->decode ? "decode up to" : "gemm up to",
                   (long long)run->max_tokens, run->text, (long long)tokens, r.worst, r.where,
                   same ? "" : ", token 0 differs from the first run's of this order");
        }
        arena_free(&a);
    }
}

static void lab_check(const Bench *b, StepLab *s, const Lab *lab, Tally *tally) {
    Arena a = {0};
    Data d;
    data_make(&d, lab, CHECK_TOKENS, &a);
    int64_t arena_bytes = 0;
    for (int i = 0; i < b->run_count; i++)
        if (b->runs[i].lab == lab && b->runs[i].arena_bytes > arena_bytes)
            arena_bytes = b->runs[i].arena_bytes;
    LinearMemory m = linear_memory(s, lab, &d, arena_bytes);
    First firsts[ORDERS_MAX] = {0};
    for (int i = 0; i < b->run_count; i++)
        if (b->runs[i].lab == lab)
            run_checks(s, &b->runs[i], &d, &m, firsts, tally, &a);
    linear_release(s, &m);
    arena_free(&a);
}

static int bench_check(void *state, StepLab *s) {
    const Bench *b = state;
    Tally all = {0};
    for (int i = 0; i < CHECK_CASES; i++) {
        Tally tally = {0};
        lab_check(b, s, &b->labs[i], &tally);
        printf("%-22s %3d checks, %d failed, worst %.3f of its bound\n", b->labs[i].c->name,
               tally.checks, tally.failures, tally.worst);
        all.checks += tally.checks;
        all.failures += tally.failures;
    }
    printf("check: %d of %d passed\n", all.checks - all.failures, all.checks);
    return all.failures;
}

BENCH_MAIN(Bench, bench_add, bench_check, NULL)

// The GPU kernels of linears, checked against sums in doubles at ragged shapes. gpu_kernels_bench
// times them.
//
//   gpu_linear compile [TARGET ...]   compiles every variant, needs no GPU; a spill is an error
//   gpu_linear [check]                worst element of every variant against its bound
#include "tests/gpu.h"
#include "tests/linear_check.h"
#include "tests/linear_formats.h"

#include <inttypes.h>
#include <unistd.h>

enum { RUNS_MAX = 4000, THREADS_MAX = 16 };

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
    Arena arena;
    Gpu gpu;
    const Target *target;
    Formats formats;
    Lab labs[CHECK_CASES];
    Run *runs; // [RUNS_MAX]
    int run_count;
    Plan kernels; // all distinct kernels
    Cubin *cubins;
    GpuFunction **functions; // per kernel; NULL: not loaded
} Bench;

// ---- variants -----------------------------------------------------------------------------------

static void runs_add_decode(Bench *b, Lab *lab, int64_t max_tokens, DecodeVariant v) {
    assert(b->run_count < RUNS_MAX);
    if (v.bulk && b->target->compute_major < 9)
        return;
    b->run_count += run_decode(&b->runs[b->run_count], lab, max_tokens, v, &b->arena);
}

static void runs_add_gemm(Bench *b, Lab *lab, int64_t max_tokens, GemmVariant v) {
    assert(b->run_count < RUNS_MAX);
    b->run_count += run_gemm(&b->runs[b->run_count], lab, max_tokens, v, &b->arena);
}

static const GemmVariant gemm_variants[] = {
    {128, 2, 0, 1}, {128, 4, 0, 1}, {128, 2, 0, 2}, {64, 1, 0, 2}, {64, 2, 0, 2}, {32, 2, 0, 2},
    {32, 1, 0, 2},  {256, 2, 0, 1},
};
enum { GEMM_VARIANTS = sizeof gemm_variants / sizeof *gemm_variants };

static void runs_add_wgmma(Bench *b, Lab *lab, int64_t max_tokens) {
    static const WgmmaVariant variants[] = {
        {256, 2, 1, 1, 1, 0, 0}, {256, 2, 1, 1, 2, 0, 0}, {256, 1, 1, 2, 2, 0, 0},
        {256, 2, 1, 1, 1, 1, 0}, {128, 2, 1, 1, 1, 0, 0}, {128, 2, 1, 1, 2, 1, 0},
        {128, 2, 1, 2, 2, 0, 0}, {128, 3, 1, 1, 1, 0, 0}, {128, 3, 1, 1, 1, 1, 0},
        {64, 3, 1, 1, 1, 1, 0},  {16, 2, 2, 1, 1, 0, 0},
        {128, 1, 2, 1, 1, 1, 0}, {128, 1, 2, 2, 1, 0, 0},
        {128, 1, 2, 1, 4, 0, 0}, {128, 1, 2, 2, 2, 0, 0}, {64, 2, 1, 1, 1, 0, 0},
        {64, 2, 2, 1, 1, 0, 0},  {64, 1, 2, 1, 1, 0, 0},  {64, 1, 3, 1, 1, 1, 0},
        {64, 1, 2, 2, 1, 0, 0},  {64, 1, 3, 2, 2, 0, 0},  {64, 4, 1, 1, 2, 0, 0},
        {64, 4, 1, 1, 1, 1, 0},  {32, 1, 4, 1, 1, 0, 0},  {32, 1, 4, 2, 1, 0, 0},
        {32, 1, 4, 4, 1, 0, 0},  {32, 1, 4, 1, 1, 1, 0},  {32, 2, 2, 1, 2, 0, 0},
        {16, 1, 4, 1, 1, 0, 0},  {16, 1, 4, 2, 1, 0, 0},  {16, 1, 4, 1, 2, 0, 0},
        {32, 4, 1, 1, 1, 0, 0},  {32, 4, 1, 1, 1, 1, 0},  {16, 4, 1, 1, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        assert(b->run_count < RUNS_MAX);
        b->run_count += run_wgmma(&b->runs[b->run_count], lab, max_tokens, variants[i], &b->arena);
    }
}

static void runs_check(Bench *b, Lab *lab) {
    static const int64_t buckets[] = {1, 8, 16, 32};
    Problem problem = {.plan = &lab->plan, .op = lab->op, .max_tokens = 8};
    for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++) {
        DecodeVariant v = decode_variant(&problem);
        runs_add_decode(b, lab, buckets[i], v);
        v.tiles = 2;
        v.bulk = buckets[i] == 8;
        if (buckets[i] > 1)
            runs_add_decode(b, lab, buckets[i], v);
    }
    for (int cluster = 2; cluster <= 4; cluster *= 2) {
        DecodeVariant v = decode_cluster(&problem, cluster);
        runs_add_decode(b, lab, 32, v);
        v.tiles = cluster / 2;
        v.bulk = cluster == 4;
        runs_add_decode(b, lab, 8, v);
    }
    for (int i = 0; i < GEMM_VARIANTS; i++)
        runs_add_gemm(b, lab, 256, gemm_variants[i]);
    runs_add_wgmma(b, lab, 256);
}

// ---- kernels ------------------------------------------------------------------------------------

// Compiles the kernels [first, first + count).
static bool kernels_compile(Bench *b, int first, int count, Cache *cache, CubinStats *stats,
                            Error *err) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    Plan some = b->kernels;
    some.kernels += first;
    some.kernel_count = count;
    return cubins_make(b->cubins + first, &some, cache,
                       cores < THREADS_MAX ? (int)cores : THREADS_MAX, stats, &b->arena, err);
}

// All kernels; after a failure, one by one, to name every variant that fails.
static bool kernels_make(Bench *b, Error *err) {
    int count = 0;
    for (int i = 0; i < b->run_count; i++) {
        b->runs[i].first_kernel = count;
        count += b->runs[i].phase.step_count;
    }
    b->kernels = (Plan){.target = b->target, .arena = &b->arena, .kernel_count = count};
    b->kernels.kernels = ARENA_NEW(&b->arena, Step *, count);
    for (int i = 0; i < b->run_count; i++)
        for (int step = 0; step < b->runs[i].phase.step_count; step++)
            b->kernels.kernels[b->runs[i].first_kernel + step] = &b->runs[i].phase.steps[step];
    b->cubins = ARENA_NEW(&b->arena, Cubin, count);
    b->functions = ARENA_NEW(&b->arena, GpuFunction *, count);
    Cache *cache;
    CubinStats stats = {0};
    TRY(cache_open(&cache, NULL, CACHE_ON, &b->arena, err));
    bool done = kernels_compile(b, 0, count, cache, &stats, err);
    for (int i = 0; !done && i < b->run_count; i++) {
        const Run *run = &b->runs[i];
        Error one;
        if (!kernels_compile(b, run->first_kernel, run->phase.step_count, cache, &stats, &one))
            printf("%s, up to %lld tokens, %s: %s\n", run->lab->c->name, (long long)run->max_tokens,
                   run->text, one.message);
    }
    printf("%s: %d variants, %d kernels compiled, %d cached, %.1f s\n", b->target->name,
           b->run_count, stats.compiled, stats.cached, stats.seconds);
    return done;
}

typedef struct Regions {
    GpuAddress base[REGION_COUNT];
} Regions;

static void step_launch(Bench *b, const Run *run, int step, const Regions *regions,
                        int64_t tokens) {
    const Step *s = &run->phase.steps[step];
    int kernel = run->first_kernel + step;
    if (!b->functions[kernel])
        b->functions[kernel] =
            gpu_function(&b->gpu, b->cubins[kernel].image.data, s->entry, s->shared_bytes);
    uint64_t values[STEP_MAX_OPERANDS];
    void *slots[STEP_MAX_OPERANDS];
    for (int i = 0; i < s->operand_count; i++) {
        const Operand *o = &s->operands[i];
        int64_t offset = o->offset;
        if (o->kind == OPERAND_BUFFER)
            offset += run->phase.buffers[o->buffer].offset;
        if (o->kind == OPERAND_TOKENS)
            offset = tokens;
        bool address = o->kind == OPERAND_ADDRESS || o->kind == OPERAND_BUFFER;
        values[i] = (address ? regions->base[o->region] : 0) + (uint64_t)offset;
        slots[i] = &values[i];
    }
    TensorMap map;
    if (s->map_columns) {
        gpu_expect(tensor_map(b->gpu.tensor_map, &map, values[0], tokens, s->map_columns,
                              s->map_rows),
                   "tensor_map", __FILE__, __LINE__);
        slots[0] = &map;
    }
    unsigned y = s->tokens_per_block ? (unsigned)ceil_div(tokens, s->tokens_per_block)
                                     : (unsigned)s->grid[1];
    const unsigned grid[3] = {(unsigned)s->grid[0], y, 1};
    gpu_launch(&b->gpu, b->functions[kernel], grid, (unsigned)s->block, (unsigned)s->shared_bytes,
               slots);
}

// ---- one check ----------------------------------------------------------------------------------

static void run_upload(Bench *b, const Run *run, const Data *d, const Regions *regions,
                       int64_t tokens) {
    const Gpu *g = &b->gpu;
    const Lab *lab = run->lab;
    const BatchLayout *batch = &lab->plan.batch;
    int64_t k = lab->graph.values[lab->x].width;
    int64_t n = lab->graph.packed[lab->op->linear.weight].out_features;
    const PhasePlan *phase = &run->phase;
    GpuAddress x =
        regions->base[REGION_ARENA] + (uint64_t)phase->buffers[phase->value_buffer[lab->x]].offset;
    GPU_DO(g, fill(regions->base[REGION_ARENA], 0xff, (size_t)run->arena_bytes));
    for (int at = 0; at < phase->buffer_count; at++)
        if (phase->buffers[at].persistent) // counts
            GPU_DO(g, fill(regions->base[REGION_ARENA] + (uint64_t)phase->buffers[at].offset, 0,
                           (size_t)phase->buffers[at].bytes));
    GPU_DO(g, fill(regions->base[REGION_KV], 0xff,
                   (size_t)(LAB_PAGES * lab->plan.info.kv_page_bytes + 256)));
    if (lab->norm)
        GPU_DO(g, upload(x, d->x, (size_t)(tokens * k * 4)));
    else
        GPU_DO(g, upload(x, d->x_half, (size_t)(tokens * k * 2)));
    if (lab->residual >= 0)
        GPU_DO(g, upload(regions->base[REGION_ARENA] +
                             (uint64_t)phase->buffers[phase->value_buffer[lab->residual]].offset,
                         d->residual, (size_t)(tokens * n * 4)));
    GpuAddress batch_base = regions->base[REGION_BATCH];
    GPU_DO(g, upload(batch_base + (uint64_t)batch->positions, d->positions, sizeof d->positions));
    GPU_DO(g, upload(batch_base + (uint64_t)batch->slots, d->slots, sizeof d->slots));
    GPU_DO(g, upload(batch_base + (uint64_t)batch->page_table, d->table, sizeof d->table));
}

static Result run_check(Bench *b, const Run *run, const Data *d, const Regions *regions,
                        int64_t tokens, Arena *a) {
    const Lab *lab = run->lab;
    size_t kv_bytes = (size_t)(LAB_PAGES * lab->plan.info.kv_page_bytes);
    Result r = {.arena = arena_alloc(a, (size_t)run->arena_bytes),
                .kv = arena_alloc(a, kv_bytes + 1)};
    run_upload(b, run, d, regions, tokens);
    for (int step = 0; step < run->phase.step_count; step++)
        step_launch(b, run, step, regions, tokens);
    GPU_DO(&b->gpu, synchronize());
    GPU_DO(&b->gpu, download(r.arena, regions->base[REGION_ARENA], (size_t)run->arena_bytes));
    if (kv_bytes)
        GPU_DO(&b->gpu, download(r.kv, regions->base[REGION_KV], kv_bytes));
    compare_all(run, d, &r, tokens);
    return r;
}

// ---- all checks ---------------------------------------------------------------------------------

typedef struct Tally {
    int checks, failures;
    double worst;
} Tally;

// Outputs of token 0 by the decode kernel, which must not depend on the bucket or its variant.
typedef struct First {
    unsigned char *bytes;
    size_t size;
} First;

static bool first_same(First *first, const Run *run, const Result *r, Arena *a) {
    const Value *v = &run->lab->graph.values[run->lab->op->output];
    size_t size = (size_t)(v->width * plan_value_elem(&run->lab->plan, run->lab->op->output));
    const unsigned char *out = result_out(run, r);
    if (!first->bytes) {
        *first = (First){arena_alloc(a, size), size};
        memcpy(first->bytes, out, size);
    }
    return memcmp(first->bytes, out, size) == 0;
}

static void run_checks(Bench *b, const Run *run, const Data *d, const Regions *regions,
                       First *first, Tally *tally, Arena *keep) {
    static const int64_t counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 128, 200};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t tokens = counts[i];
        if (tokens > run->max_tokens || (!run->decode && tokens < 15 && tokens > 1))
            continue;
        Arena a = {0};
        Result r = run_check(b, run, d, regions, tokens, &a);
        bool same = !run->decode || first_same(first, run, &r, keep);
        tally->checks++;
        tally->worst = fmax(tally->worst, r.worst);
        if (r.worst > 1 || !same) {
            tally->failures++;
            printf("FAILED %s, %s %lld: %s, %lld tokens: %.3g of the bound, %s%s\n",
                   run->lab->c->name, run->decode ? "decode up to" : "gemm up to",
                   (long long)run->max_tokens, run->text, (long long)tokens, r.worst, r.where,
                   same ? "" : ", token 0 differs from the first run's");
        }
        arena_free(&a);
    }
}

static void lab_check(Bench *b, Lab *lab, Tally *tally) {
    Arena a = {0};
    Data d;
    data_make(&d, lab, CHECK_TOKENS, &a);
    int64_t arena_bytes = 0;
    for (int i = 0; i < b->run_count; i++)
        if (b->runs[i].lab == lab && b->runs[i].arena_bytes > arena_bytes)
            arena_bytes = b->runs[i].arena_bytes;
    const Gpu *g = &b->gpu;
    Regions regions;
    regions.base[REGION_WEIGHTS] = gpu_alloc(g, (size_t)lab->weights_bytes);
    regions.base[REGION_ARENA] = gpu_alloc(g, (size_t)arena_bytes);
    regions.base[REGION_KV] =
        gpu_alloc(g, (size_t)(LAB_PAGES * lab->plan.info.kv_page_bytes + 256));
    regions.base[REGION_BATCH] = gpu_alloc(g, (size_t)lab->plan.batch.bytes);
    unsigned char *packed = arena_alloc(&a, (size_t)lab->weights_bytes);
    for (int i = 0; i < lab->graph.packed_count; i++)
        tensor_pack(&lab->graph.packed[i], packed + lab->graph.packed[i].offset);
    GPU_DO(g, upload(regions.base[REGION_WEIGHTS], packed, (size_t)lab->weights_bytes));
    First first = {0};
    for (int i = 0; i < b->run_count; i++)
        if (b->runs[i].lab == lab)
            run_checks(b, &b->runs[i], &d, &regions, &first, tally, &a);
    for (int region = 0; region < REGION_COUNT; region++)
        GPU_DO(g, release(regions.base[region]));
    arena_free(&a);
}

static bool check_all(Bench *b) {
    Tally all = {0};
    for (int i = 0; i < CHECK_CASES; i++) {
        Tally tally = {0};
        lab_check(b, &b->labs[i], &tally);
        printf("%-22s %3d checks, %d failed, worst %.3f of its bound\n", b->labs[i].c->name,
               tally.checks, tally.failures, tally.worst);
        all.checks += tally.checks;
        all.failures += tally.failures;
    }
    printf("check: %d of %d passed\n", all.checks - all.failures, all.checks);
    return all.failures == 0;
}

// ---- main ---------------------------------------------------------------------------------------

static const Target *target_find(const char *name) {
    for (int i = 0; i < target_count; i++)
        if (strcmp(target_table[i].name, name) == 0)
            return &target_table[i];
    return NULL;
}

static const Target *target_of(int compute) {
    for (int i = 0; i < target_count; i++)
        if (target_table[i].device == DEVICE_CUDA &&
            target_table[i].compute_major * 10 + target_table[i].compute_minor == compute)
            return &target_table[i];
    return NULL;
}

static bool bench_make(Bench *b, const Target *target, Error *err) {
    b->target = target;
    b->runs = ARENA_NEW(&b->arena, Run, RUNS_MAX);
    formats_make(&b->formats);
    for (int i = 0; i < CHECK_CASES; i++) {
        const Case *c = i < SHAPE_CASES ? &check_cases[i] : &b->formats.cases[i - SHAPE_CASES];
        lab_make(&b->labs[i], c, target, true, &b->arena);
        runs_check(b, &b->labs[i]);
    }
    return kernels_make(b, err);
}

static int compile_all(int count, char **names) {
    static const char *const all[] = {"sm_80",  "sm_86",   "sm_87",  "sm_89",
                                      "sm_90a", "sm_100a", "sm_120a"};
    int targets = count ? count : (int)(sizeof all / sizeof *all);
    for (int i = 0; i < targets; i++) {
        Bench *b = calloc(1, sizeof *b);
        Error err;
        const char *name = count ? names[i] : all[i];
        const Target *target = target_find(name);
        if (!b || !target || !bench_make(b, target, &err)) {
            fprintf(stderr, "%s: %s\n", name, target ? err.message : "no such target");
            return 1;
        }
        arena_free(&b->arena);
        free(b);
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(word, "compile") == 0)
        return compile_all(argc - 2, argv + 2);
    Bench *b = calloc(1, sizeof *b);
    if (!b || !gpu_open(&b->gpu)) {
        printf("skipped: no CUDA device\n");
        return 0;
    }
    const Target *target = target_of(b->gpu.compute);
    Error err;
    printf("%s, %d multiprocessors\n", b->gpu.device, b->gpu.multiprocessors);
    if (!target || !bench_make(b, target, &err)) {
        fprintf(stderr, "%s\n", target ? err.message : "no target for this GPU");
        return 1;
    }
    return check_all(b) ? 0 : 8;
}

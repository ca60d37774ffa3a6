// The kernel benchmark: every kernel that the compiler may choose for a layer and a number of
// tokens, checked with fresh random data against sums in doubles, then timed beside a plain read of
// the same bytes and a dense product of the same flops, in one run.
//
//   gpu_kernels_bench [OPTIONS]
//     --set LIST      peers,formats,fused,head or all (peers,formats,fused)
//     --layer WORD    only layers whose name contains it
//     --tokens LIST   only these numbers of tokens: 1,4,8,...,4096
//     --kernel WORD   only kernel families whose name contains it
//     --variant TEXT  only candidates whose parameters contain it
//     --own-dense     dense products by our own kernels, even if there is cuBLAS
//     --all           all candidates; else those predicted within three times of the best
//     --chosen        only the candidate that the compiler takes
//     --check         no times
//     --print         a line per candidate
//     --rest MS       before large products are timed (40)
//     --json FILE     everything, for programs
//     --seed N        of the data (the time)
//     --compile       compiles the kernels for sm_90a and lists them in the JSON: needs no GPU
//
// Times are medians of 7 replays of a CUDA graph, divided by its launches, so they hold the gap
// between kernels; more than 320 MB of weights rotate, so nothing of them stays in the second-level
// cache. "read" is a plain read of the same bytes in the same way, "dense" the product with fp16
// weights by cuBLAS, or by our own kernel where there is no cuBLAS. A candidate that is half as slow
// again as the best before it in a short run is not timed further. Products of 512 tokens and more draw
// more power than the chip may for long, and slow down for it by up to a fifth: each has the same rest
// before, as when kernels are timed one by one. --rest 0 shows them one right behind the other.
#include "runtime/read_kernel.h"
#include "tests/bench_dense.h"
#include "tests/bench_lab.h"
#include "tests/bench_report.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
    CANDIDATES_MAX = 12288,
    THREADS_MAX = 32,
    REPLAYS = 7,
    LAUNCHES = 12,
    LAUNCHES_LONG = 4,
    LONG_US = 300, // fewer launches of longer kernels
    REST_TOKENS = 512,
};

typedef struct Bench {
    Arena arena;
    Meter *meter;
    const Target *target;
    Inputs inputs;
    Lab labs[BENCH_LAYERS];         // shapes
    Case dense_cases[BENCH_LAYERS]; // their dense form, without cuBLAS
    Lab dense_labs[BENCH_LAYERS];
    bool chosen[BENCH_LAYERS];
    Candidate *candidates; // [CANDIDATES_MAX]
    int candidate_count;
    Plan kernels; // all distinct kernels
    Cubin *cubins;
    MeterKernel *loaded;
    MeterKernel read;
    Cublas cublas;
    bool has_cublas;
    uint64_t base[REGION_COUNT];
    uint64_t pool, dense_x, dense_out;
    int64_t pool_bytes;
    unsigned char *rows; // outputs of sampled tokens
    int checks, failures;
    Report report;
} Bench;

// ---- candidates ---------------------------------------------------------------------------------

static Candidate *candidate_add(Bench *b, Lab *lab, const Kernel *kernel, const Problem *problem,
                                const Params *params) {
    assert(b->candidate_count < CANDIDATES_MAX);
    Candidate *c = &b->candidates[b->candidate_count++];
    *c = (Candidate){.dense = false};
    c->run = (Run){.lab = lab,
                   .kernel = kernel,
                   .max_tokens = problem->max_tokens,
                   .decode = kernel == &kernel_linear_decode};
    run_lower(&c->run, problem, params, &b->arena);
    c->predicted_us = candidate_cost(kernel, problem, params).us;
    return c;
}

// Every family that takes the layer with so many tokens, every candidate of it that may win: it is
// predicted within `limit` times of the best.
static void cell_add(Bench *b, const Wanted *w, Lab *lab, int layer, int count, double limit) {
    Problem problem = {.plan = &lab->plan,
                       .op = lab->op,
                       .phase = PHASE_PREFILL,
                       .max_tokens = bench_counts[count] < 8 ? 8 : bench_counts[count]};
    int first = b->candidate_count;
    double best = HUGE_VAL;
    for (int at = 0; at < kernel_table_count; at++) {
        const Kernel *kernel = kernel_table[at];
        char reason[REASON_BYTES];
        Params params[KERNEL_MAX_CANDIDATES];
        memset(params, 0, sizeof params);
        if (kernel->device != DEVICE_CUDA || kernel->op != OP_LINEAR ||
            !strstr(kernel->name, w->kernel) || !kernel->accepts(&problem, reason))
            continue;
        int offered = kernel->candidates(&problem, params);
        for (int which = 0; which < offered; which++) {
            Candidate *c = candidate_add(b, lab, kernel, &problem, &params[which]);
            c->layer = layer;
            c->count = count;
            c->dense = lab != &b->labs[layer];
            candidate_text(c->variant, sizeof c->variant, params, offered, which);
            best = fmin(best, c->predicted_us);
        }
    }
    int kept = first;
    for (int at = first; at < b->candidate_count; at++)
        if (b->candidates[at].predicted_us <= limit * best)
            b->candidates[kept++] = b->candidates[at];
    b->candidate_count = kept;
}

static Case dense_case(const Lab *lab) {
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    return (Case){.name = "dense",
                  .bits = 16,
                  .in = t->in_features,
                  .out = {t->out_features},
                  .order = ROWS_PLAIN,
                  .epilogue = EPILOGUE_STORE};
}

static void candidates_make(Bench *b, const Wanted *w) {
    b->candidates = ARENA_NEW(&b->arena, Candidate, CANDIDATES_MAX);
    for (int layer = 0; layer < BENCH_LAYERS; layer++) {
        const BenchLayer *l = &bench_layers[layer];
        b->chosen[layer] = wanted_layer(w, l);
        if (!b->chosen[layer])
            continue;
        lab_make(&b->labs[layer], &l->c, b->target, l->c.act_order, &b->arena);
        b->dense_cases[layer] = dense_case(&b->labs[layer]);
        lab_make(&b->dense_labs[layer], &b->dense_cases[layer], b->target, false, &b->arena);
        for (int count = 0; count < BENCH_COUNTS; count++) {
            if (!w->counts[count])
                continue;
            cell_add(b, w, &b->labs[layer], layer, count, w->chosen ? 1 : w->all ? HUGE_VAL : 3);
            if (!b->has_cublas && !w->compile)
                cell_add(b, w, &b->dense_labs[layer], layer, count, 1);
        }
    }
    b->kernels = (Plan){.target = b->target, .arena = &b->arena};
    for (int at = 0; at < b->candidate_count; at++) {
        Candidate *c = &b->candidates[at];
        for (int step = 0; step < c->run.phase.step_count; step++)
            c->kernels[step] = plan_kernel(&b->kernels, &c->run.phase.steps[step]);
    }
}

static bool kernels_make(Bench *b, Error *err) {
    Cache *cache;
    CubinStats stats = {0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int count = b->kernels.kernel_count;
    b->cubins = ARENA_NEW(&b->arena, Cubin, count + 1);
    b->loaded = ARENA_NEW(&b->arena, MeterKernel, count + 1);
    TRY(cache_open(&cache, NULL, CACHE_ON, &b->arena, err));
    TRY(cubins_make(b->cubins, &b->kernels, cache, cores < THREADS_MAX ? (int)cores : THREADS_MAX,
                    &stats, &b->arena, err));
    printf("%s: %d candidates, %d kernels compiled, %d cached, %.1f s\n", b->target->name,
           b->candidate_count, stats.compiled, stats.cached, stats.seconds);
    if (stats.slow)
        printf("note: %d kernels: %s\n", stats.slow, stats.slow_note);
    return true;
}

static bool candidate_run(Bench *b, const Candidate *c, const uint64_t *base, Error *err) {
    const PhasePlan *phase = &c->run.phase;
    for (int step = 0; step < phase->step_count; step++) {
        const Step *s = &phase->steps[step];
        MeterKernel *kernel = &b->loaded[c->kernels[step]];
        if (!kernel->function)
            TRY(meter_load(b->meter, kernel, b->cubins[c->kernels[step]].image.data, s->entry,
                           s->shared_bytes, err));
        TRY(meter_step(b->meter, kernel, s, phase, base, bench_counts[c->count], err));
    }
    return true;
}

// ---- checks -------------------------------------------------------------------------------------

static bool candidate_check(Bench *b, LayerLab *l, const Candidate *c, Verdict *v, Error *err) {
    int64_t tokens = bench_counts[c->count];
    int count;
    *v = (Verdict){.worst = 0};
    b->base[REGION_WEIGHTS] = l->pool;
    TRY(candidate_prepare(&c->run, &b->inputs, b->meter, b->base, tokens, err));
    TRY(candidate_run(b, c, b->base, err));
    TRY(meter_wait(b->meter, err));
    TRY(sample_download(l, &c->run, b->meter, b->base, tokens, b->rows, &count, err));
    TRY(candidate_compare(v, l, c, b->meter, b->base, b->rows, count, err));
    TRY(guard_check(v, &c->run, b->meter, b->base, tokens, err));
    b->checks++;
    if (v->where[0]) {
        b->failures++;
        printf("FAILED %s, %lld tokens, %s %s: %.3g of the bound, %s\n", l->lab.c->name,
               (long long)tokens, c->run.kernel->name, c->variant, v->worst, v->where);
    }
    return true;
}

// ---- times --------------------------------------------------------------------------------------

typedef struct Timing {
    Bench *b;
    const LayerLab *l;
    const Candidate *c; // NULL: the plain read, or cuBLAS
    int64_t tokens;     // 0: no dense product
    int launches;
} Timing;

static bool read_enqueue(Timing *t, uint64_t from, Error *err) {
    int blocks = meter_multiprocessors(t->b->meter) * READ_BLOCKS;
    uint64_t count = (uint64_t)t->l->copy_bytes / 16;
    const uint64_t arguments[] = {from, count, t->b->base[REGION_KV]};
    return meter_launch(t->b->meter, &t->b->read, (int[]){blocks, 1, 1}, READ_THREADS, arguments,
                        sizeof arguments / sizeof *arguments, err);
}

static bool dense_enqueue(Timing *t, int launch, Error *err) {
    const PackedTensor *w = &t->l->lab.graph.packed[t->l->lab.op->linear.weight];
    int64_t bytes = (int64_t)round_up((uint64_t)(w->in_features * w->out_features * 2), 256);
    int64_t before = t->l->copies * t->l->copy_bytes;
    int64_t copies = (t->b->pool_bytes - before) / bytes;
    uint64_t weights = t->b->pool + (uint64_t)(before + launch % copies * bytes);
    if (t->c) {
        uint64_t base[REGION_COUNT];
        memcpy(base, t->b->base, sizeof base);
        base[REGION_WEIGHTS] = weights;
        return candidate_run(t->b, t->c, base, err);
    }
    return cublas_product(&t->b->cublas, t->b->dense_out, t->b->dense_x, weights,
                          (int64_t[]){t->tokens, w->out_features, w->in_features}, err);
}

static bool timing_enqueue(void *user, Error *err) {
    Timing *t = user;
    uint64_t base[REGION_COUNT];
    memcpy(base, t->b->base, sizeof base);
    for (int at = 0; at < t->launches; at++) {
        base[REGION_WEIGHTS] = t->l->pool + (uint64_t)(at % t->l->copies * t->l->copy_bytes);
        if (t->tokens)
            TRY(dense_enqueue(t, at, err));
        else if (t->c)
            TRY(candidate_run(t->b, t->c, base, err));
        else
            TRY(read_enqueue(t, base[REGION_WEIGHTS], err));
    }
    return true;
}

static int launches_of(const LayerLab *l, double us) {
    int wanted = us > (double)LONG_US ? LAUNCHES_LONG : LAUNCHES;
    return wanted > l->copies ? (int)(ceil_div(wanted, l->copies) * l->copies) : l->copies;
}

static bool timing_us(Timing *t, int replays, double *us, Error *err) {
    TRY(meter_graph(t->b->meter, timing_enqueue, t, replays, us, err));
    *us /= t->launches;
    return true;
}

static void rest(const Bench *b, int count) {
    if (bench_counts[count] >= REST_TOKENS)
        usleep((useconds_t)b->report.wanted->rest_ms * 1000);
}

// A short run first.
static bool candidate_time(Bench *b, const LayerLab *l, Candidate *c, double best, Error *err) {
    Timing t = {.b = b, .l = l, .c = c, .launches = launches_of(l, c->predicted_us)};
    TRY(timing_us(&t, 1, &c->us, err));
    if (c->us >= best * 1.5)
        return true;
    rest(b, c->count);
    return timing_us(&t, REPLAYS, &c->us, err);
}

// The same bits after all replays as in the check before: `first` are the sample's rows then.
static bool candidate_repeats(Bench *b, LayerLab *l, const Candidate *c, unsigned char *first,
                              Error *err) {
    const Value *value = &l->lab.graph.values[l->lab.op->output];
    int64_t bytes = value->width * plan_value_elem(&l->lab.plan, l->lab.op->output);
    int count;
    if (l->lab.c->epilogue == EPILOGUE_ADD)
        return true; // replays add again and again
    TRY(sample_download(l, &c->run, b->meter, b->base, bench_counts[c->count], b->rows, &count,
                        err));
    if (memcmp(first, b->rows, (size_t)(count * bytes)) == 0)
        return true;
    b->failures++;
    printf("FAILED %s, %lld tokens, %s %s: other bits after %d replays\n", l->lab.c->name,
           (long long)bench_counts[c->count], c->run.kernel->name, c->variant, REPLAYS);
    return true;
}

// ---- a layer ------------------------------------------------------------------------------------

static bool dense_us(Bench *b, const LayerLab *l, const Candidate *ours, Cell *cell, Error *err) {
    int64_t tokens = bench_counts[cell->count];
    Timing t = {.b = b, .l = l, .c = ours, .tokens = tokens};
    t.launches = launches_of(l, cell->best->us);
    if (!b->has_cublas && !ours)
        return true;
    if (ours)
        TRY(candidate_prepare(&ours->run, &b->inputs, b->meter, b->base, tokens, err));
    TRY(dense_enqueue(&t, 0, err)); // loads kernels outside of the graph
    rest(b, cell->count);
    return timing_us(&t, REPLAYS, &cell->dense_us, err);
}

static bool cell_run(Bench *b, LayerLab *l, int layer, int count, double read_us, Error *err) {
    const PackedTensor *w = &l->lab.graph.packed[l->lab.op->linear.weight];
    unsigned char *first = arena_alloc(&l->arena, SAMPLE_TOKENS_MAX * (size_t)w->rows * 4);
    const Wanted *wanted = b->report.wanted;
    const Candidate *dense = NULL;
    Cell cell = {.layer = layer, .count = count, .read_us = read_us, .weight = w};
    cell.flops = 2 * (double)bench_counts[count] * (double)w->in_features * (double)w->out_features;
    for (int at = 0; at < b->candidate_count; at++) {
        Candidate *c = &b->candidates[at];
        if (c->layer != layer || c->count != count || !strstr(c->variant, wanted->variant))
            continue;
        if (c->dense) {
            dense = c;
            continue;
        }
        Verdict v;
        TRY(candidate_check(b, l, c, &v, err));
        if (v.where[0] || wanted->check)
            continue;
        memcpy(first, b->rows, SAMPLE_TOKENS_MAX * (size_t)w->rows * 4);
        TRY(candidate_time(b, l, c, cell.best ? cell.best->us : HUGE_VAL, err));
        TRY(candidate_repeats(b, l, c, first, err));
        cell_take(&cell, c, &v);
    }
    if (cell.best)
        TRY(dense_us(b, l, dense, &cell, err));
    if (cell.best)
        report_cell(&b->report, &cell, b->candidates, b->candidate_count);
    return true;
}

static bool layer_run(Bench *b, const Wanted *wanted, int layer, Random *r, Error *err) {
    LayerLab *l = calloc(1, sizeof *l);
    assert(l);
    Timing read = {.b = b, .l = l};
    double read_us;
    lab_make(&l->lab, &bench_layers[layer].c, b->target, true, &l->arena);
    sample_make(&l->sample, &l->lab, &b->inputs, r, &l->arena);
    TRY(layer_upload(l, b->meter, b->pool, b->pool_bytes, err));
    TRY(layer_places(l, b->meter, b->base[REGION_BATCH], err));
    read.launches = launches_of(l, 0);
    TRY(timing_us(&read, REPLAYS, &read_us, err));
    report_layer(&b->report, &bench_layers[layer], &l->lab.graph.packed[l->lab.op->linear.weight],
                 read_us);
    for (int count = 0; count < BENCH_COUNTS; count++)
        if (wanted->counts[count])
            TRY(cell_run(b, l, layer, count, read_us, err));
    for (int at = 0; at < b->candidate_count; at++) // kernels are of one layer
        for (int step = 0; step < b->candidates[at].run.phase.step_count; step++)
            if (b->candidates[at].layer == layer)
                meter_unload(b->meter, &b->loaded[b->candidates[at].kernels[step]]);
    arena_free(&l->arena);
    free(l);
    return true;
}

// ---- the run ------------------------------------------------------------------------------------

// Room for everything: the pool holds the copies of the largest layer and two of its dense form.
static bool memory_make(Bench *b, Error *err) {
    int64_t arena_bytes = 1, kv_bytes = 1 << 20, rows_bytes = 1, batch_bytes = 1, elems = 1;
    for (int at = 0; at < b->candidate_count; at++) {
        const Run *run = &b->candidates[at].run;
        const PackedTensor *w = &run->lab->graph.packed[run->lab->op->linear.weight];
        int64_t kv = LAB_PAGES * run->lab->plan.info.kv_page_bytes + 256;
        int64_t dense = 2 * w->in_features * w->out_features * 2;
        int64_t copy = (int64_t)round_up((uint64_t)run->lab->weights_bytes, 256);
        int64_t copies = ceil_div(ROTATED_BYTES, copy) < 2 ? 2 : ceil_div(ROTATED_BYTES, copy);
        dense = dense < 2 * ROTATED_BYTES ? 2 * ROTATED_BYTES : dense;
        b->pool_bytes =
            copies * copy + dense > b->pool_bytes ? copies * copy + dense : b->pool_bytes;
        arena_bytes = run->arena_bytes > arena_bytes ? run->arena_bytes : arena_bytes;
        kv_bytes = kv > kv_bytes ? kv : kv_bytes;
        rows_bytes = w->rows > rows_bytes ? w->rows : rows_bytes;
        elems = w->in_features > elems ? w->in_features : elems;
        elems = w->out_features > elems ? w->out_features : elems;
        batch_bytes = run->lab->plan.batch.bytes;
    }
    b->rows = arena_alloc(&b->arena, SAMPLE_TOKENS_MAX * (size_t)rows_bytes * 4);
    TRY(meter_alloc(b->meter, &b->pool, b->pool_bytes, err));
    TRY(meter_alloc(b->meter, &b->base[REGION_ARENA], arena_bytes, err));
    TRY(meter_alloc(b->meter, &b->base[REGION_KV], kv_bytes, err));
    TRY(meter_alloc(b->meter, &b->base[REGION_BATCH], batch_bytes, err));
    TRY(meter_alloc(b->meter, &b->dense_x, BENCH_TOKENS * elems * 2, err));
    TRY(meter_alloc(b->meter, &b->dense_out, BENCH_TOKENS * elems * 2, err));
    TRY(inputs_fill(&b->inputs, b->meter, b->pool, b->pool_bytes / 2, 2, false, err));
    return inputs_fill(&b->inputs, b->meter, b->dense_x, BENCH_TOKENS * elems, 2, false, err);
}

static bool bench_run(Bench *b, const Wanted *w, Error *err) {
    double started = clock_seconds();
    Random r = {.state = w->seed};
    TRY(inputs_make(&b->inputs, b->meter, w->seed, &b->arena, err));
    TRY(memory_make(b, err));
    TRY(meter_load(b->meter, &b->read, read_kernel, "read", 0, err));
    for (int layer = 0; layer < BENCH_LAYERS; layer++)
        if (b->chosen[layer])
            TRY(layer_run(b, w, layer, &r, err));
    report_groups(&b->report);
    printf("checks: %d of %d passed; seed %llu; %.1f s\n", b->checks - b->failures, b->checks,
           (unsigned long long)w->seed, clock_seconds() - started);
    return true;
}

// Without a GPU: the candidates and what is predicted of them.
static void bench_list(Bench *b) {
    for (int layer = 0; layer < BENCH_LAYERS; layer++) {
        const Lab *lab = &b->labs[layer];
        for (int count = 0; count < BENCH_COUNTS; count++) {
            Cell cell = {.layer = layer, .count = count};
            for (int at = 0; at < b->candidate_count; at++) {
                const Candidate *c = &b->candidates[at];
                if (c->layer == layer && c->count == count)
                    cell_take(&cell, c, &(Verdict){.worst = 0});
            }
            if (!cell.best)
                continue;
            cell.weight = &lab->graph.packed[lab->op->linear.weight];
            report_cell(&b->report, &cell, b->candidates, b->candidate_count);
        }
    }
}

static const Target *bench_target(const Wanted *w) {
    int major = 9, minor = 0;
    if (!w->compile && !meter_compute_capability(&major, &minor))
        return NULL;
    for (int at = 0; at < target_count; at++)
        if (target_table[at].device == DEVICE_CUDA && target_table[at].compute_major == major &&
            target_table[at].compute_minor == minor)
            return &target_table[at];
    return NULL;
}

int main(int argc, char **argv) {
    Bench *b = calloc(1, sizeof *b);
    Wanted w;
    Error err = {0};
    assert(b);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!wanted_parse(&w, argc, argv))
        return 2;
    b->target = bench_target(&w);
    if (!b->target) {
        puts("skipped: no GPU, or no target for it");
        return 0;
    }
    bool done = w.compile || meter_open(&b->meter, &b->arena, &err);
    b->has_cublas = done && !w.compile && !w.own_dense && cublas_open(&b->cublas, b->meter);
    if (done)
        candidates_make(b, &w);
    report_open(&b->report, &w, b->meter ? meter_device(b->meter) : NULL,
                b->meter ? meter_driver_version(b->meter) : 0,
                b->has_cublas ? b->cublas.name : "our own kernels");
    done = done && kernels_make(b, &err);
    if (done && w.compile)
        bench_list(b);
    else if (done)
        done = bench_run(b, &w, &err);
    Error unwritten;
    if (!report_write(&b->report, w.json, &unwritten)) // also of what was done before a failure
        fprintf(stderr, "%s\n", unwritten.message);
    meter_close(b->meter);
    if (!done)
        fprintf(stderr, "%s\n", err.message);
    return !done ? (int)err.code : b->failures ? 8 : 0;
}

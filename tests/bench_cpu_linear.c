// Speed of the linear kernels of the CPU on this machine, as the compiler would generate them: the
// linear layers of a model of the shape of Llama-3.2-1B with random weights, 4 bits in groups of
// 128 and an fp16 head. For few tokens the rate is compared with a plain read of the same bytes by
// the same threads.
//
//   bench_cpu_linear [threads] [layers]
#include "unit/host_module.h"

#include <time.h>

enum {
    HIDDEN = 2048,
    INNER = 8192,
    VOCAB = 128256,
    HEADS = 32,
    KV_HEADS = 8,
    HEAD_DIM = 64,
    PAGE = 16,
    MAX_TOKENS = 512,
    REPEATS = 5
};

typedef struct Shape {
    const char *name;
    int bits;
    int64_t n, k;
    LinearEpilogue epilogue;
} Shape;

static const Shape shapes[] = {
    {"qkv", 4, (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN, EPILOGUE_ROPE_KV},
    {"o", 4, HIDDEN, HIDDEN, EPILOGUE_ADD},
    {"gate up", 4, 2 * INNER, HIDDEN, EPILOGUE_ACT_MUL},
    {"down", 4, HIDDEN, INNER, EPILOGUE_ADD},
    {"head", 16, VOCAB, HIDDEN, EPILOGUE_STORE},
};

enum { SHAPES = sizeof shapes / sizeof *shapes, PHASE_LAYERS = SHAPES, PHASES };

static const int token_counts[] = {1, 2, 4, 8, 16, 128, 512};

typedef struct Bench {
    Arena arena;
    Graph graph;
    Plan plans[2];
    int values[2][8]; // by shape: input, output
    int layers;
    unsigned char *weights;
    int64_t weights_bytes;
} Bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int value_add(Graph *g, int64_t width) {
    Op *op = graph_op(g, OP_EMBED, -1);
    const int at = (int)(op - g->ops), value = graph_value(g, "value", VALUE_F32, width);
    g->ops[at].output = value;
    return value;
}

static int packed_add(Graph *g, const Shape *s) {
    const int packed = graph_vector(g, s->name, NULL, 0);
    g->packed[packed] = (PackedTensor){.kind = PACKED_LINEAR,
                                       .name = s->name,
                                       .bits = s->bits,
                                       .group = s->bits == 16 ? 0 : 128,
                                       .in_features = s->k,
                                       .out_features = s->n,
                                       .rows = s->n,
                                       .k_padded = s->k};
    return packed;
}

static void linear_add(Bench *b, int shape, int inv_freq, int norm) {
    const Shape *s = &shapes[shape];
    const int packed = packed_add(&b->graph, s);
    Op *op = graph_op(&b->graph, OP_LINEAR, 0);
    const bool normed = s->epilogue != EPILOGUE_ADD;
    op->inputs[0] = b->values[0][shape];
    op->inputs[1] = s->epilogue == EPILOGUE_ADD ? b->values[1][shape] : -1;
    op->output = b->values[1][shape];
    op->linear.weight = packed;
    op->linear.bias = -1;
    op->linear.prologue = normed ? PROLOGUE_NORM : PROLOGUE_NONE;
    op->linear.norm_weight = norm;
    op->linear.eps = 1e-5f;
    op->linear.epilogue = s->epilogue;
    op->linear.heads = HEADS;
    op->linear.kv_heads = KV_HEADS;
    op->linear.head_dim = HEAD_DIM;
    op->linear.inv_freq = inv_freq;
    op->linear.rope_factor = 1;
}

static void graph_build(Bench *b) {
    Graph *g = &b->graph;
    *g = graph_new(&b->arena);
    static const float ones[HIDDEN];
    const int norm = graph_vector(g, "norm", ones, HIDDEN);
    const int inv_freq = graph_vector(g, "inv_freq", ones, HEAD_DIM / 2);
    for (int shape = 0; shape < SHAPES; shape++) {
        const Shape *s = &shapes[shape];
        b->values[0][shape] = value_add(g, s->k);
        b->values[1][shape] = value_add(g, s->epilogue == EPILOGUE_ACT_MUL   ? s->n / 2
                                           : s->epilogue == EPILOGUE_ROPE_KV ? HEADS * HEAD_DIM
                                                                             : s->n);
    }
    for (int layer = 0; layer < b->layers; layer++)
        for (int shape = 0; shape < SHAPES - 1; shape++)
            linear_add(b, shape, inv_freq, norm);
    linear_add(b, SHAPES - 1, inv_freq, norm);
}

static bool op_wanted(const Bench *b, const Op *op, int phase) {
    if (op->kind != OP_LINEAR)
        return false;
    const bool head = op->output == b->values[1][SHAPES - 1];
    return phase == PHASE_LAYERS ? !head : op->output == b->values[1][phase];
}

static void plan_build(Bench *b, Plan *p, const Target *target) {
    *p = (Plan){.target = target, .graph = &b->graph, .arena = &b->arena};
    p->info = (ModelInfo){.vocab_size = VOCAB,
                          .max_seq_len = MAX_TOKENS,
                          .max_batch_size = 1,
                          .max_num_tokens = MAX_TOKENS,
                          .max_head_rows = MAX_TOKENS,
                          .page_tokens = PAGE,
                          .kv_layer_stride = 4 * KV_HEADS * PAGE * HEAD_DIM};
    p->info.kv_page_bytes = p->info.kv_layer_stride;
    p->batch = batch_layout(&p->info);
    p->phases = ARENA_NEW(&b->arena, PhasePlan, PHASES);
    for (int index = 0; index < PHASES; index++) {
        PhasePlan *phase = plan_phase(p, index, index == SHAPES - 1 ? 16 : MAX_TOKENS);
        for (int at = 0; at < b->graph.op_count; at++) {
            const Op *op = &b->graph.ops[at];
            if (!op_wanted(b, op, index))
                continue;
            const Problem problem = {p, op, index, phase->max_tokens};
            Params params[KERNEL_MAX_CANDIDATES];
            kernel_cpu_linear.candidates(&problem, params);
            const Cost cost = kernel_cpu_linear.cost(&problem, params);
            kernel_cpu_linear.lower(&problem, params, &cost, p, phase);
        }
    }
    plan_finish(p);
}

static void *huge_alloc(int64_t bytes) {
    void *p = mmap(NULL, (size_t)bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    if (p == MAP_FAILED)
        exit(1);
    return p;
}

static void weights_fill(Bench *b) {
    b->weights = huge_alloc(b->weights_bytes);
    uint32_t x = 1;
    for (int64_t at = 0; at + 4 <= b->weights_bytes; at += 4) {
        x = x * 1664525 + 1013904223;
        const uint32_t word = (x ^ x >> 15) & 0x3bff3bff; // as halves: below 1
        memcpy(b->weights + at, &word, sizeof word);
    }
}

// ---- a plain read -------------------------------------------------------------------------------

typedef struct Reader {
    const unsigned char *from;
    int64_t bytes;
    uint64_t sum;
} Reader;

__attribute__((target("avx2"))) static void *reader_main(void *argument) {
    Reader *r = argument;
    typedef uint64_t v4 __attribute__((vector_size(32)));
    v4 sums[4] = {{0}};
    for (int64_t at = 0; at + 128 <= r->bytes; at += 128)
        for (int i = 0; i < 4; i++) {
            v4 v;
            memcpy(&v, r->from + at + 32 * i, sizeof v);
            sums[i] += v;
        }
    r->sum = sums[0][0] + sums[1][0] + sums[2][0] + sums[3][0];
    return NULL;
}

// Seconds of the fastest of some reads.
static double read_seconds(const unsigned char *from, int64_t bytes, int threads) {
    double best = 1e9;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        pthread_t ids[16];
        Reader readers[16];
        const double start = now();
        for (int at = 0; at < threads; at++) {
            readers[at] = (Reader){from + bytes * at / threads, bytes / threads, 0};
            pthread_create(&ids[at], NULL, reader_main, &readers[at]);
        }
        for (int at = 0; at < threads; at++)
            pthread_join(ids[at], NULL);
        const double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

// ---- measuring ----------------------------------------------------------------------------------

static void phase_measure(const Bench *b, const Plan *p, const HostModule *m, StepRun *run,
                          int phase) {
    char target[32];
    snprintf(target, sizeof target, "cpu:%s", p->target->cpu_level);
    const StepEntry *entry = host_module_find(m, target, phase);
    double bytes = 0, macs = 0;
    int64_t first = -1;
    for (int at = 0; at < b->graph.op_count; at++) {
        const Op *op = &b->graph.ops[at];
        if (!op_wanted(b, op, phase))
            continue;
        const PackedTensor *t = &b->graph.packed[op->linear.weight];
        bytes += (double)t->bytes;
        macs += (double)t->in_features * (double)t->out_features;
        first = first < 0 ? t->offset : first;
    }
    for (size_t at = 0; at < sizeof token_counts / sizeof *token_counts; at++) {
        run->tokens = token_counts[at];
        if (run->tokens > entry->max_tokens)
            break;
        double best = 1e9;
        for (int repeat = 0; repeat < REPEATS; repeat++) {
            const double start = now();
            host_run(entry, run);
            const double seconds = now() - start;
            best = seconds < best ? seconds : best;
        }
        printf("%-18s %-8s %4d tokens %9.3f ms %7.1f GB/s %7.1f GMAC/s", p->target->cpu_level,
               phase == PHASE_LAYERS ? "layers" : shapes[phase].name, run->tokens, best * 1e3,
               bytes / best * 1e-9, macs * run->tokens / best * 1e-9);
        if (run->tokens == 1) {
            const double plain = read_seconds(b->weights, (int64_t)bytes, run->threads);
            printf("   plain read %5.1f GB/s: %.0f %%", bytes / plain * 1e-9, 100 * plain / best);
        }
        putchar('\n');
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    Bench b = {.layers = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 16};
    StepRun run = {.threads = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : 2};
    graph_build(&b);
    Error err = {0};
    Bytes object;
    if (!weights_layout(&b.graph, &b.weights_bytes, &err))
        return 1;
    const Plan *plans[2];
    int count = 0;
    for (int at = 0; at < target_count && count < 2; at++) {
        if (target_table[at].device != DEVICE_CPU || !level_runs(&target_table[at]))
            continue;
        plan_build(&b, &b.plans[count], &target_table[at]);
        plans[count] = &b.plans[count];
        count++;
    }
    const double start = now();
    HostModule m;
    if (!host_object_make(&object, plans, count, "x86_64-linux-gnu", NULL, &b.arena, &err) ||
        !host_module_open(&m, object)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("host object: %zu bytes in %.2f s\n", object.size, now() - start);
    weights_fill(&b);
    run.base[REGION_WEIGHTS] = b.weights;
    run.base[REGION_ARENA] = huge_alloc(b.plans[0].info.arena_bytes);
    run.base[REGION_KV] = huge_alloc(b.plans[0].info.kv_page_bytes * 2);
    run.base[REGION_BATCH] = huge_alloc(b.plans[0].batch.bytes);
    for (int at = 0; at < count; at++)
        for (int phase = 0; phase < PHASES; phase++)
            phase_measure(&b, plans[at], &m, &run, phase);
    host_module_close(&m);
    arena_free(&b.arena);
    return 0;
}

// One op of experts, lowered by the compiler's families, run on a GPU or emulated (step_lab.h), and
// compared with plain loops in doubles.
#ifndef EXPERTS_LAB_H
#define EXPERTS_LAB_H

#include "tests/linear_lab.h"
#include "tests/step_lab.h"

typedef struct ExpertsCase {
    OpKind op;
    Case linear; // of one expert; `out`: gate and up, or one
    int experts, top_k;
    bool slots; // twice as many routed experts, every other one in this stack
} ExpertsCase;

enum { EXPERTS_TOKENS = 75, EXPERTS_RUNS_MAX = 24 };

typedef struct ExpertsRun {
    bool decode;
    int64_t max_tokens;
    PhasePlan phase;
    int first_kernel;
    int64_t arena_bytes;
} ExpertsRun;

typedef struct ExpertsLab {
    const ExpertsCase *c;
    Lab base; // graph, plan
    int routes;
    int64_t routed;
    int32_t *slots; // [routed]
    ExpertsRun runs[EXPERTS_RUNS_MAX];
    int run_count;
    uint16_t *x;   // [tokens, width]
    float *chosen; // [tokens, 2 * top_k]
    double *y;     // [tokens, out width]
    double *slack; // [tokens, out width]: how much a result moves by an error of 1 in each sum
    double largest;
} ExpertsLab;

// ---- making -------------------------------------------------------------------------------------

static inline int experts_stack(ExpertsLab *e, Random *r, bool with_data, Arena *a) {
    const ExpertsCase *c = e->c;
    int part_count = c->linear.out[1] ? 2 : 1, count = 0;
    const Weight **parts = ARENA_NEW(a, const Weight *, part_count * c->experts);
    for (int expert = 0; expert < c->experts; expert++)
        for (int part = 0; part < part_count; part++) {
            Weight *w = ARENA_NEW(a, Weight, 1);
            *w = *lab_weight(&c->linear, r, c->linear.out[part], with_data, a);
            if (c->linear.act_order)
                random_act_order(w, a, 7 + (uint64_t)expert);
            parts[count++] = w;
        }
    int packed = graph_experts_weight(&e->base.graph, "experts", parts, part_count, c->experts);
    assert(packed >= 0);
    e->base.graph.packed[packed].order = c->linear.order;
    return packed;
}

static inline void experts_op_make(ExpertsLab *e, int packed, Arena *a) {
    const ExpertsCase *c = e->c;
    Graph *g = &e->base.graph;
    const PackedTensor t = g->packed[packed];
    bool up = c->op == OP_EXPERTS_UP;
    int slots = -1, order = -1;
    e->routed = c->slots ? 2 * c->experts : c->experts;
    e->slots = ARENA_NEW(a, int32_t, e->routed);
    for (int64_t at = 0; at < e->routed; at++)
        e->slots[at] = !c->slots ? (int32_t)at : at % 2 ? -1 : (int32_t)(c->experts - 1 - at / 2);
    if (c->slots)
        slots = graph_index(g, "slots", e->slots, e->routed);
    if (up && t.input_order)
        order = graph_index(g, "order", t.input_order, c->experts * t.in_features);
    e->base.x = lab_input(g, "x", VALUE_ACT, up ? c->linear.in : c->top_k * t.in_features);
    e->routes = lab_input(g, "routes", VALUE_F32, 2 * c->top_k);
    int out = up ? graph_value(g, "out", VALUE_ACT, c->top_k * t.out_features / 2)
                 : graph_value(g, "out", VALUE_F32, t.out_features);
    Op *op = graph_op(g, c->op, LAB_LAYER);
    op->inputs[0] = e->base.x;
    op->inputs[1] = e->routes;
    op->output = out;
    op->experts.weight = packed;
    op->experts.slots = slots;
    op->experts.order = order;
    op->experts.top_k = c->top_k;
    op->experts.act = c->linear.act;
    e->base.op = op;
}

static inline void experts_run_add(ExpertsLab *e, const Kernel *kernel, bool decode,
                                   int64_t max_tokens, int candidate, StepLab *lab) {
    Problem problem = {.plan = &e->base.plan, .op = e->base.op, .max_tokens = max_tokens,
                       .phase = decode ? PHASE_DECODE : PHASE_PREFILL};
    char reason[REASON_BYTES];
    Params params[KERNEL_MAX_CANDIDATES];
    memset(params, 0, sizeof params);
    bool accepted = kernel->accepts(&problem, reason);
    assert(accepted);
    (void)accepted;
    int count = kernel->candidates(&problem, params);
    assert(count > 0 && e->run_count < EXPERTS_RUNS_MAX);
    const Params *chosen = &params[candidate < count ? candidate : count - 1];
    ExpertsRun *run = &e->runs[e->run_count++];
    *run = (ExpertsRun){.decode = decode, .max_tokens = max_tokens,
                        .phase = {.phase = problem.phase, .max_tokens = max_tokens}};
    int values = e->base.graph.value_count;
    run->phase.value_buffer = ARENA_NEW(&lab->arena, int, values);
    for (int at = 0; at < values; at++)
        run->phase.value_buffer[at] = -1;
    Cost cost = kernel->cost(&problem, chosen);
    kernel->lower(&problem, chosen, &cost, &e->base.plan, &run->phase);
    run->first_kernel = lab_phase_add(lab, &run->phase, &run->arena_bytes);
}

// ---- the oracle ---------------------------------------------------------------------------------

// W_slot x of one choice, in feature order.
static inline void experts_product(const ExpertsLab *e, int slot, const uint16_t *x, double *y,
                                   Arena *a) {
    const PackedTensor *t = &e->base.graph.packed[e->base.op->experts.weight];
    const int32_t *order = t->input_order ? t->input_order + slot * t->in_features : NULL;
    bool up = e->c->op == OP_EXPERTS_UP;
    float *raw = ARENA_NEW(a, float, t->parts[0]->in_features);
    for (int part = 0; part < t->part_count; part++) {
        const Weight *w = t->parts[slot * t->part_count + part];
        for (int64_t n = 0; n < w->out_features; n++, y++) {
            weight_row(w, n, raw);
            *y = 0;
            for (int64_t k = 0; k < t->in_features; k++) {
                int64_t from = order ? order[k] : k; // of the checkpoint's inputs
                uint16_t bits = from < 0 ? 0 : up ? x[from] : x[k];
                float value = e->c->linear.bf16 ? bfloat_to_float(bits) : half_to_float(bits);
                if (from >= 0)
                    *y += (double)raw[from] * (double)value;
            }
        }
    }
}

static inline double experts_gate(Activation act, double x) {
    if (act == ACT_SILU)
        return x / (1 + exp(-x));
    return 0.5 * x * (1 + (act == ACT_GELU ? erf(x / sqrt(2))
                                           : tanh(sqrt(2 / 3.14159265358979323846) *
                                                  (x + 0.044715 * x * x * x))));
}

static inline void experts_inputs(ExpertsLab *e, Random *r, Arena *a) {
    const ExpertsCase *c = e->c;
    int64_t width = e->base.graph.values[e->base.x].width, top_k = c->top_k;
    e->x = ARENA_NEW(a, uint16_t, EXPERTS_TOKENS * width);
    e->chosen = ARENA_NEW(a, float, EXPERTS_TOKENS * 2 * top_k);
    for (int64_t at = 0; at < EXPERTS_TOKENS * width; at++) {
        float value = random_normal(r);
        e->x[at] = c->linear.bf16 ? bfloat_from_float(value) : half_from_float(value);
    }
    for (int64_t token = 0; token < EXPERTS_TOKENS; token++) {
        float *chosen = e->chosen + token * 2 * top_k;
        int64_t first = random_u32(r) % (uint32_t)e->routed;
        for (int64_t j = 0; j < top_k; j++) { // different ones
            chosen[j] = (float)((first + j * (1 + token % 2)) % e->routed);
            chosen[top_k + j] = random_uniform(r, 0.1f, 0.9f);
        }
    }
}

static inline void experts_oracle(ExpertsLab *e, Arena *a) {
    const PackedTensor *t = &e->base.graph.packed[e->base.op->experts.weight];
    bool up = e->c->op == OP_EXPERTS_UP;
    int64_t n = t->out_features, top_k = e->c->top_k;
    int64_t width = e->base.graph.values[e->base.op->output].width;
    int64_t in = e->base.graph.values[e->base.x].width;
    double *sums = ARENA_NEW(a, double, n);
    e->y = ARENA_NEW(a, double, EXPERTS_TOKENS * width);
    e->slack = ARENA_NEW(a, double, EXPERTS_TOKENS * width);
    for (int64_t choice = 0; choice < EXPERTS_TOKENS * top_k; choice++) {
        int64_t token = choice / top_k, j = choice % top_k;
        const float *chosen = e->chosen + token * 2 * top_k;
        int slot = e->slots[(int)chosen[j]];
        if (slot < 0)
            continue;
        experts_product(e, slot, e->x + token * in + (up ? 0 : j * t->in_features), sums, a);
        double *y = e->y + token * width, *slack = e->slack + token * width;
        for (int64_t i = 0; i < n; i++)
            e->largest = fmax(e->largest, fabs(sums[i]));
        for (int64_t i = 0; up && i < n / 2; i++) {
            y[j * n / 2 + i] = experts_gate(e->c->linear.act, sums[i]) * sums[n / 2 + i];
            slack[j * n / 2 + i] = fabs(sums[i]) + fabs(sums[n / 2 + i]) + 1;
        }
        for (int64_t i = 0; !up && i < n; i++) {
            y[i] += (double)chosen[top_k + j] * sums[i];
            slack[i] += (double)chosen[top_k + j];
        }
    }
}

// The op, not yet lowered. with_data: weights that can be packed; else only their shapes.
static inline void experts_make(ExpertsLab *e, const ExpertsCase *c, Random *r, bool with_data,
                                StepLab *lab) {
    Arena *a = &lab->arena;
    *e = (ExpertsLab){.c = c, .base = {.c = &c->linear, .graph = graph_new(a), .residual = -1}};
    lab_model(&e->base, lab->target, a);
    e->base.graph.dtype = c->linear.bf16 ? DTYPE_BF16 : DTYPE_FP16;
    experts_op_make(e, experts_stack(e, r, with_data, a), a);
    Error err;
    bool laid_out = weights_layout(&e->base.graph, &e->base.weights_bytes, &err);
    assert(laid_out);
    (void)laid_out;
}

// Decode up to 3 and 16 tokens, and two candidates of the GEMM, with what must come out.
static inline void experts_add(ExpertsLab *e, const ExpertsCase *c, StepLab *lab) {
    static const int64_t decodes[] = {3, 16};
    static const int gemms[] = {0, 99};
    Arena *a = &lab->arena;
    Random r = {.state = 77};
    bool up = c->op == OP_EXPERTS_UP;
    experts_make(e, c, &r, true, lab);
    for (int at = 0; at < 2; at++)
        experts_run_add(e, up ? &kernel_experts_up_decode : &kernel_experts_down_decode, true,
                        decodes[at], at, lab);
    for (int at = 0; at < 2; at++)
        experts_run_add(e, up ? &kernel_experts_up_gemm : &kernel_experts_down_gemm, false,
                        EXPERTS_TOKENS, gemms[at], lab);
    experts_inputs(e, &r, a);
    experts_oracle(e, a);
}

// ---- running ------------------------------------------------------------------------------------

static inline uint64_t experts_buffer(const ExpertsRun *run, const uint64_t *base, int value) {
    return base[REGION_ARENA] +
           (uint64_t)run->phase.buffers[run->phase.value_buffer[value]].offset;
}

// The worst error over its bound.
static inline double experts_worst(const ExpertsLab *e, const ExpertsRun *run,
                                   const unsigned char *out, int64_t tokens) {
    bool up = e->c->op == OP_EXPERTS_UP, bf16 = e->c->linear.bf16;
    int64_t count = tokens * e->base.graph.values[e->base.op->output].width;
    double step = bf16 ? 8 : 1, share = run->decode || e->c->linear.bits == 16 ? 3e-5 : 6e-4 * step;
    double worst = 0;
    for (int64_t at = 0; at < count; at++) {
        float value;
        uint16_t bits;
        memcpy(&value, out + (up ? 0 : at * 4), 4);
        memcpy(&bits, out + (up ? at * 2 : 0), 2);
        if (up)
            value = bf16 ? bfloat_to_float(bits) : half_to_float(bits);
        double bound = e->largest * share * e->slack[at] + 1e-6 +
                       (up ? fabs(e->y[at]) * 6e-4 * step : 0);
        double error = fabs((double)value - e->y[at]) / bound;
        worst = isnan(error) ? HUGE_VAL : fmax(worst, error);
    }
    return worst;
}

// Bytes behind the last token's results are still as they were filled.
static inline bool experts_guard_holds(const ExpertsLab *e, const ExpertsRun *run,
                                       const unsigned char *out, int64_t tokens) {
    int output = e->base.op->output;
    const Buffer *b = &run->phase.buffers[run->phase.value_buffer[output]];
    int64_t used = tokens * e->base.graph.values[output].width *
                   plan_value_elem(&e->base.plan, output);
    for (int64_t at = used; at < b->bytes + LAB_GUARD_BYTES; at++)
        if (out[at] != 0xff)
            return false;
    return true;
}

static inline bool experts_run_check(ExpertsLab *e, ExpertsRun *run, StepLab *lab,
                                     const uint64_t *base, int64_t tokens) {
    const Graph *g = &e->base.graph;
    size_t row = (size_t)g->values[e->base.x].width * 2;
    lab_fill(lab, base[REGION_ARENA], 0xff, (size_t)run->arena_bytes);
    lab_upload(lab, experts_buffer(run, base, e->base.x), e->x, (size_t)tokens * row);
    lab_upload(lab, experts_buffer(run, base, e->routes), e->chosen,
               (size_t)(tokens * 2 * e->c->top_k * 4));
    lab_phase_run(lab, &run->phase, run->first_kernel, base, tokens);
    const Buffer *b = &run->phase.buffers[run->phase.value_buffer[e->base.op->output]];
    unsigned char *out = malloc((size_t)b->bytes + LAB_GUARD_BYTES);
    assert(out);
    lab_download(lab, out, experts_buffer(run, base, e->base.op->output),
                 (size_t)b->bytes + LAB_GUARD_BYTES);
    double worst = experts_worst(e, run, out, tokens);
    bool guarded = experts_guard_holds(e, run, out, tokens);
    free(out);
    printf("%-18s %s, up to %lld, %lld tokens: %.3f of its bound%s\n", e->c->linear.name,
           run->decode ? "decode" : "gemm  ", (long long)run->max_tokens, (long long)tokens, worst,
           guarded ? "" : ", writes behind its end");
    return worst <= 1 && guarded;
}

static inline bool experts_check(ExpertsLab *e, StepLab *lab) {
    static const int64_t counts[] = {1, 3, 13, 40, 75};
    const Graph *g = &e->base.graph;
    uint64_t base[REGION_COUNT] = {0};
    unsigned char *packed = malloc((size_t)e->base.weights_bytes);
    bool right = true;
    assert(packed);
    for (int at = 0; at < g->packed_count; at++)
        tensor_pack(&g->packed[at], packed + g->packed[at].offset);
    base[REGION_WEIGHTS] = lab_alloc(lab, (size_t)e->base.weights_bytes);
    lab_upload(lab, base[REGION_WEIGHTS], packed, (size_t)e->base.weights_bytes);
    free(packed);
    for (int at = 0; at < e->run_count; at++) {
        ExpertsRun *run = &e->runs[at];
        base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            if (counts[i] <= run->max_tokens)
                right = experts_run_check(e, run, lab, base, counts[i]) && right;
        lab_release(lab, base[REGION_ARENA]);
    }
    lab_release(lab, base[REGION_WEIGHTS]);
    return right;
}

// clang-format off
static const ExpertsCase experts_cases[] = {
    {OP_EXPERTS_UP,
     {.name = "up 4", .bits = 4, .group_size = 128, .in = 256, .out = {40, 40},
      .order = ROWS_GATE_UP},
     4, 2, false},
    {OP_EXPERTS_DOWN,
     {.name = "down 4", .bits = 4, .group_size = 128, .in = 256, .out = {72}}, 4, 2, false},
    {OP_EXPERTS_UP,
     {.name = "up 4 slots bf16", .bits = 4, .group_size = 32, .in = 320, .out = {24, 24},
      .order = ROWS_GATE_UP, .bf16 = true, .zeros = true, .act = ACT_GELU_TANH},
     3, 4, true},
    {OP_EXPERTS_DOWN,
     {.name = "down 8 slots bf16", .bits = 8, .group_size = 64, .in = 192, .out = {50},
      .bf16 = true, .scale_f32 = true},
     3, 4, true},
    {OP_EXPERTS_UP,
     {.name = "up 4 order", .bits = 4, .group_size = 64, .in = 384, .out = {32, 32},
      .order = ROWS_GATE_UP, .act_order = true, .act = ACT_GELU},
     5, 3, true},
    {OP_EXPERTS_DOWN, {.name = "down 16", .bits = 16, .in = 208, .out = {33}}, 8, 3, false},
};
// clang-format on
enum { EXPERTS_CASES = sizeof experts_cases / sizeof *experts_cases };

#endif

// One linear op in a graph of its own, lowered by the compiler's kernel families with variants that
// the test chooses: what gpu_linear checks and gpu_kernels_bench times.
#ifndef LINEAR_LAB_H
#define LINEAR_LAB_H

#include "compiler/kernel_linear.h"
#include "runtime/step.h"
#include "tests/random_weight.h"

#include <assert.h>
#include <math.h>

typedef struct Case {
    const char *name;
    int bits;
    int64_t group_size, in, out[3]; // out: of the parts, 0: none
    RowOrder order;
    LinearPrologue prologue;
    LinearEpilogue epilogue;
    bool bias, f32;
    Activation act;
    int64_t heads, kv_heads, head_dim;
    bool zeros, scale_f32; // how quantized weights are stored
    bool bf16;             // activations, and weights of 16 bits
    bool act_order;        // inputs in the order of their groups, by the norm where there is one
    float scale, softcap;  // 0: none
} Case;

enum { LAB_LAYERS = 3, LAB_LAYER = 1, LAB_SLOTS = 8, LAB_SEQ = 128, LAB_PAGE = 16,
       LAB_PAGES = LAB_SLOTS * LAB_SEQ / LAB_PAGE + 1, LAB_TOKENS = 4096, LAB_GUARD = 256 };

typedef struct Lab {
    const Case *c;
    Graph graph;
    Plan plan;
    const Op *op;
    int x, residual;
    int64_t weights_bytes;
    float *bias, *norm, *inv_freq; // as in the graph
} Lab;

static inline float *lab_vector(Lab *lab, Arena *a, Random *r, int *index, const char *name,
                                int64_t count, float low, float high) {
    float *values = ARENA_NEW(a, float, count);
    for (int64_t i = 0; i < count; i++)
        values[i] = random_uniform(r, low, high);
    *index = graph_vector(&lab->graph, name, values, count);
    return values;
}

// A value that some op before made.
static inline int lab_input(Graph *g, const char *name, ValueType type, int64_t width) {
    int value = graph_value(g, name, type, width);
    graph_op(g, OP_EMBED, -1)->output = value;
    return value;
}

static inline void lab_model(Lab *lab, const Target *target, Arena *a) {
    ModelInfo *info = &lab->plan.info;
    const Case *c = lab->c;
    *info = (ModelInfo){.vocab_size = 64, .max_seq_len = LAB_SEQ, .max_batch_size = LAB_SLOTS,
                        .max_num_tokens = LAB_TOKENS, .max_head_rows = 8, .page_tokens = LAB_PAGE};
    info->kv_layer_stride = 2 * c->kv_heads * LAB_PAGE * c->head_dim * 2;
    info->kv_page_bytes = LAB_LAYERS * info->kv_layer_stride;
    lab->plan.target = target;
    lab->plan.graph = &lab->graph;
    lab->plan.batch = batch_layout(info);
    lab->plan.arena = a;
}

// ---- weights ------------------------------------------------------------------------------------

static inline void lab_plain_bf16(Weight *w, Random *r, Arena *a) {
    Tensor *plain =
        random_tensor(a, "random.weight", TENSOR_BF16, w->out_features, w->in_features, 2);
    for (int64_t i = 0; i < w->out_features * w->in_features; i++) {
        uint16_t bits = bfloat_from_float(random_normal(r) * 0.02f);
        memcpy((unsigned char *)(uintptr_t)plain->data + 2 * i, &bits, 2);
    }
    w->weight = plain;
}

// with_data: one that can be packed; else only its shape.
static inline const Weight *lab_weight(const Case *c, Random *r, int64_t out, bool with_data,
                                       Arena *a) {
    if (!with_data) {
        Weight *w = ARENA_NEW(a, Weight, 1);
        *w = (Weight){.in_features = c->in, .out_features = out, .bits = c->bits,
                      .group_size = c->group_size, .scales_half = !c->scale_f32,
                      .zero_rule = c->zeros ? ZERO_STORED : ZERO_MIDDLE,
                      .groups = c->group_size ? ceil_div(c->in, c->group_size) : 0};
        return w;
    }
    Weight *w = random_weight(a, r, c->bits, c->group_size, c->in, out, 0.001f, 0.02f);
    if (c->bits == 16 && c->bf16)
        lab_plain_bf16(w, r, a);
    if (c->scale_f32)
        random_scales_f32(w, a, r);
    if (c->zeros)
        random_zeros(w, a, r);
    if (c->act_order)
        random_act_order(w, a, 7);
    return w;
}

// ---- the op -------------------------------------------------------------------------------------

// Width of the op's output.
static inline int64_t lab_out_width(const Case *c, int64_t features) {
    return c->epilogue == EPILOGUE_ACT_MUL   ? features / 2
           : c->epilogue == EPILOGUE_ROPE_KV ? c->heads * c->head_dim
                                             : features;
}

static inline void lab_op(Lab *lab, const Case *c, int weight, int bias, int norm, int inv_freq) {
    Graph *g = &lab->graph;
    const PackedTensor *t = &g->packed[weight];
    bool f32_in = c->prologue == PROLOGUE_NORM, f32_out = c->f32 || c->epilogue == EPILOGUE_ADD;
    int order = -1;
    if (f32_in && t->input_order)
        order = graph_index(g, "order", t->input_order, t->in_features);
    lab->x = lab_input(g, "x", f32_in ? VALUE_F32 : VALUE_ACT, f32_in ? c->in : t->in_features);
    if (c->epilogue == EPILOGUE_ADD)
        lab->residual = lab_input(g, "residual", VALUE_F32, t->out_features);
    int out = graph_value(g, "out", f32_out ? VALUE_F32 : VALUE_ACT,
                          lab_out_width(c, t->out_features));
    Op *op = graph_op(g, OP_LINEAR, LAB_LAYER);
    op->inputs[0] = lab->x;
    op->inputs[1] = lab->residual;
    op->output = out;
    op->linear.weight = weight;
    op->linear.bias = bias;
    op->linear.prologue = c->prologue;
    op->linear.norm_weight = norm;
    op->linear.norm_order = order;
    op->linear.eps = 1e-5f;
    op->linear.scale = c->scale > 0 ? c->scale : 1;
    op->linear.softcap = c->softcap;
    op->linear.epilogue = c->epilogue;
    op->linear.act = c->act;
    op->linear.heads = c->heads;
    op->linear.kv_heads = c->kv_heads;
    op->linear.head_dim = c->head_dim;
    op->linear.inv_freq = inv_freq;
    op->linear.rope_factor = 1.25f;
    lab->op = op;
}

// with_data: weights that can be packed; else only their shapes.
static inline void lab_make(Lab *lab, const Case *c, const Target *target, bool with_data,
                            Arena *a) {
    Random r = {.state = 1000 + (uint64_t)c->in};
    *lab = (Lab){.c = c, .graph = graph_new(a), .residual = -1};
    lab_model(lab, target, a);
    Graph *g = &lab->graph;
    g->dtype = c->bf16 ? DTYPE_BF16 : DTYPE_FP16;
    const Weight *parts[3];
    int count = 0, bias = -1, norm = -1, inv_freq = -1;
    for (; count < 3 && c->out[count]; count++)
        parts[count] = lab_weight(c, &r, c->out[count], with_data, a);
    int weight = graph_linear_weight(g, "w", parts, count);
    g->packed[weight].order = c->order;
    g->packed[weight].head_dim = c->head_dim;
    if (c->bias)
        lab->bias = lab_vector(lab, a, &r, &bias, "bias", g->packed[weight].rows, -1, 1);
    if (c->prologue == PROLOGUE_NORM)
        lab->norm = lab_vector(lab, a, &r, &norm, "norm", g->packed[weight].in_features, 0.5f,
                               1.5f);
    if (c->epilogue == EPILOGUE_ROPE_KV)
        lab->inv_freq = lab_vector(lab, a, &r, &inv_freq, "inv_freq", c->head_dim / 2, 0, 1);
    lab_op(lab, c, weight, bias, norm, inv_freq);
    Error err;
    bool laid_out = weights_layout(g, &lab->weights_bytes, &err);
    assert(laid_out);
    (void)laid_out;
}

// ---- variants -----------------------------------------------------------------------------------

// A lowered variant. Steps: one, or a norm and a GEMM.
typedef struct Run {
    Lab *lab;
    const Kernel *kernel;
    bool decode; // few tokens
    char sums[96]; // sums_text
    int64_t max_tokens;
    char text[80];
    Cost cost;
    PhasePlan phase;
    int64_t arena_bytes;
    int first_kernel; // its steps among all kernels
} Run;

static inline void run_lower(Run *run, const Problem *problem, const Params *params, Arena *a) {
    const Kernel *kernel = run->kernel;
    const Graph *g = &run->lab->graph;
    PhasePlan *phase = &run->phase;
    *phase = (PhasePlan){.phase = problem->phase, .max_tokens = problem->max_tokens};
    phase->value_buffer = ARENA_NEW(a, int, g->value_count);
    for (int i = 0; i < g->value_count; i++)
        phase->value_buffer[i] = -1;
    run->cost = kernel->cost(problem, params);
    sums_text(run->sums, sizeof run->sums, kernel, params, problem->max_tokens);
    kernel->lower(problem, params, &run->cost, &run->lab->plan, phase);
    for (int i = 0; i < phase->buffer_count; i++) {
        phase->buffers[i].offset = run->arena_bytes;
        run->arena_bytes += (int64_t)round_up((uint64_t)phase->buffers[i].bytes, 256) + LAB_GUARD;
    }
}

static inline bool run_decode(Run *run, Lab *lab, int64_t max_tokens, DecodeVariant v, Arena *a) {
    *run = (Run){
        .lab = lab, .kernel = &kernel_linear_decode, .decode = true, .max_tokens = max_tokens};
    Problem problem = {.plan = &lab->plan, .op = lab->op, .phase = PHASE_DECODE,
                       .max_tokens = max_tokens};
    char reason[REASON_BYTES];
    Params params;
    if (!kernel_linear_decode.accepts(&problem, reason) || !decode_params(&problem, v, &params))
        return false;
    snprintf(run->text, sizeof run->text,
             "warps %lld cluster %lld tiles %lld stages %lld phases %lld %s%s ctas %lld",
             (long long)params_get(&params, "WARPS"), (long long)params_get(&params, "CLUSTER"),
             (long long)params_get(&params, "TILES"),
             (long long)params_get(&params, "STAGES"), (long long)params_get(&params, "X_PHASES"),
             v.bulk ? "bulk" : "cp.async", v.apart ? " norm apart" : "",
             (long long)params_get(&params, "CTAS_PER_SM"));
    run_lower(run, &problem, &params, a);
    return true;
}

static inline bool run_gemm(Run *run, Lab *lab, int64_t max_tokens, GemmVariant v, Arena *a) {
    *run = (Run){.lab = lab, .kernel = &kernel_linear_gemm, .max_tokens = max_tokens};
    Problem problem = {.plan = &lab->plan, .op = lab->op, .phase = PHASE_PREFILL,
                       .max_tokens = max_tokens};
    Params params;
    if (!gemm_params(&problem, v, &params))
        return false;
    snprintf(run->text, sizeof run->text, "block %d x %d stages %lld ctas %d", v.warp_tiles * 64,
             v.block_tokens, (long long)params_get(&params, "STAGES"), v.ctas_per_sm);
    run_lower(run, &problem, &params, a);
    return true;
}

static inline bool run_wgmma(Run *run, Lab *lab, int64_t max_tokens, WgmmaVariant v, Arena *a) {
    *run = (Run){.lab = lab, .kernel = &kernel_linear_wgmma, .max_tokens = max_tokens};
    Problem problem = {.plan = &lab->plan, .op = lab->op, .phase = PHASE_PREFILL,
                       .max_tokens = max_tokens};
    char reason[REASON_BYTES];
    Params params;
    if (!kernel_linear_wgmma.accepts(&problem, reason) || !wgmma_params(&problem, v, &params))
        return false;
    snprintf(run->text, sizeof run->text, "wgmma %d x %d k %d cluster %d x %d%s stages %lld",
             v.row_groups * 64, v.block_tokens, v.k_groups, v.cluster, v.spread,
             v.even ? " even" : "",
             (long long)params_get(&params, "STAGES"));
    run_lower(run, &problem, &params, a);
    return true;
}

#endif

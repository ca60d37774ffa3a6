// Linear layers on the CPU: templates/cpu_quantize.c prepares the inputs (norm folded in), then
// templates/cpu_linear.c multiplies and finishes. Layout of the weights: tile16 (pack.c).
#include "kernel_cpu.h"
#include "tile16.h"

static const PackedTensor *weight_of(const Problem *p) {
    return &p->plan->graph->packed[p->op->linear.weight];
}

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (!cpu_weight_accepts(weight_of(p), reason))
        return false;
    if (p->op->linear.epilogue == EPILOGUE_ROPE_KV && p->op->linear.head_dim % TILE_ROWS) {
        snprintf(reason, REASON_BYTES, "head_dim %lld is no multiple of %d",
                 (long long)p->op->linear.head_dim, TILE_ROWS);
        return false;
    }
    return true;
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    const bool rope = op->linear.epilogue == EPILOGUE_ROPE_KV;
    out[0] = (Params){.count = 0};
    cpu_weight_params(&out[0], weight_of(p));
    params_set(&out[0], "N", weight_of(p)->out_features);
    params_set(&out[0], "EPILOGUE", op->linear.epilogue);
    params_set(&out[0], "ACT", op->linear.epilogue == EPILOGUE_ACT_MUL ? op->linear.act : 0);
    params_set(&out[0], "BIAS", op->linear.bias >= 0);
    params_set_float(&out[0], "ROPE_FACTOR", rope ? op->linear.rope_factor : 0);
    params_set_float(&out[0], "OUT_SCALE", op->linear.scale);
    params_set_float(&out[0], "SOFTCAP", op->linear.softcap > 0 ? op->linear.softcap : 0);
    if (rope)
        kv_params(&out[0], p->plan, op->linear.heads, op->linear.kv_heads, op->linear.head_dim);
    else
        kv_params(&out[0], p->plan, 0, 0, TILE_ROWS);
    return 1;
}

static Cost cost(const Problem *p, const Params *params) {
    const PackedTensor *t = weight_of(p);
    (void)params;
    const double tokens = (double)p->max_tokens, k = (double)t->in_features;
    return cpu_cost(p, (double)t->bytes + tokens * 4 * (k + (double)t->out_features),
                    2 * tokens * k * (double)t->out_features);
}

// The buffers that go from one step to the other.
typedef struct Prepared {
    int codes, scales;
} Prepared;

static Prepared quantize_lower(const Problem *p, Plan *plan, PhasePlan *phase) {
    const Op *op = p->op;
    const PackedTensor *t = weight_of(p);
    const int64_t tokens = (int64_t)round_up((uint64_t)p->max_tokens, CPU_TOKENS_TOGETHER);
    const Prepared out = {plan_buffer(plan, phase, "input codes", tokens * cpu_code_bytes(t)),
                          plan_buffer(plan, phase, "input scales", tokens * cpu_scale_bytes(t))};
    const bool normed = op->linear.prologue == PROLOGUE_NORM;
    const bool ordered = normed && op->linear.norm_order >= 0;
    Params params = {.count = 0};
    cpu_weight_params(&params, t);
    params_set(&params, "IN", value_width(p, op->inputs[0]));
    params_set(&params, "NORM", normed);
    params_set(&params, "HAS_ORDER", ordered);
    params_set_float(&params, "EPS", normed ? op->linear.eps : 0);
    Step *s = plan_step(plan, phase, op, "cpu_quantize", "quantize", &params);
    step_value(plan, phase, s, op->inputs[0]);
    step_weights_or_0(s, plan, normed ? op->linear.norm_weight : -1);
    step_weights_or_0(s, plan, ordered ? op->linear.norm_order : -1);
    step_buffer(phase, s, out.codes, 0);
    step_buffer(phase, s, out.scales, 0);
    s->cost = cpu_cost(p, (double)(tokens * t->in_features * 6), 0);
    return out;
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    const Op *op = p->op;
    const Prepared x = quantize_lower(p, plan, phase);
    const bool rope = op->linear.epilogue == EPILOGUE_ROPE_KV;
    Step *s = plan_step(plan, phase, op, "cpu_linear", "linear", params);
    s->cost = *predicted;
    step_weights_ready(s, plan, op->linear.weight);
    step_weights_or_0(s, plan, op->linear.bias);
    step_buffer(phase, s, x.codes, 0);
    step_buffer(phase, s, x.scales, 0);
    step_value(plan, phase, s, op->output);
    if (op->linear.epilogue == EPILOGUE_ADD)
        step_value(plan, phase, s, op->inputs[1]);
    else
        step_int(s, 0);
    if (rope) {
        step_weights(s, plan, op->linear.inv_freq);
        step_kv(s, plan, op->layer);
        step_address(s, REGION_BATCH, plan->batch.slots);
        step_address(s, REGION_BATCH, plan->batch.positions);
        step_address(s, REGION_BATCH, plan->batch.page_table);
    } else {
        for (int at = 0; at < 5; at++)
            step_int(s, 0);
    }
}

const Kernel kernel_cpu_linear = {
    .name = "cpu_linear",
    .device = DEVICE_CPU,
    .op = OP_LINEAR,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = lower,
};

// The linears of a mixture of experts on the CPU, templates/cpu_experts.c: rows sorted by expert,
// their inputs prepared, one product for each expert that has rows; down's results are summed in
// the order of a token's choices.
#include "kernel_cpu.h"

static const PackedTensor *weight_of(const Problem *p) {
    return &p->plan->graph->packed[p->op->experts.weight];
}

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    return cpu_weight_accepts(weight_of(p), reason);
}

static int64_t routed(const Problem *p) {
    const Op *op = p->op;
    return op->experts.slots >= 0 ? p->plan->graph->packed[op->experts.slots].count
                                  : weight_of(p)->experts;
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    const PackedTensor *t = weight_of(p);
    out[0] = (Params){.count = 0};
    cpu_weight_params(&out[0], t);
    params_set(&out[0], "N", t->out_features);
    params_set(&out[0], "IN", value_width(p, op->inputs[0]));
    params_set(&out[0], "EXPERTS", t->experts);
    params_set(&out[0], "ROUTED", routed(p));
    params_set(&out[0], "TOP_K", op->experts.top_k);
    params_set(&out[0], "EXPERT_BYTES", t->expert_bytes);
    params_set(&out[0], "HAS_SLOTS", op->experts.slots >= 0);
    params_set(&out[0], "HAS_ORDER", op->kind == OP_EXPERTS_UP && op->experts.order >= 0);
    params_set(&out[0], "UP", op->kind == OP_EXPERTS_UP);
    params_set(&out[0], "ACT", op->kind == OP_EXPERTS_UP ? op->experts.act : 0);
    return 1;
}

// Every expert is read at most once.
static Cost cost(const Problem *p, const Params *params) {
    const PackedTensor *t = weight_of(p);
    (void)params;
    const double rows = (double)(p->max_tokens * p->op->experts.top_k);
    const double read = rows < t->experts ? rows : t->experts;
    const double k = (double)t->in_features, n = (double)t->out_features;
    return cpu_cost(p, read * (double)t->expert_bytes + rows * 4 * (k + n), 2 * rows * k * n);
}

// Step by step the same operands are named again.
typedef struct Lowering {
    const Problem *problem;
    const Params *params;
    Plan *plan;
    PhasePlan *phase;
    int places, codes, scales; // buffers
} Lowering;

static Step *step_new(const Lowering *l, const char *entry) {
    return plan_step(l->plan, l->phase, l->problem->op, "cpu_experts", entry, l->params);
}

static void routes_add(const Lowering *l, Step *s) {
    step_value(l->plan, l->phase, s, l->problem->op->inputs[1]);
    step_weights_or_0(s, l->plan, l->problem->op->experts.slots);
}

static void inputs_lower(Lowering *l, int64_t rows) {
    const Op *op = l->problem->op;
    const PackedTensor *t = weight_of(l->problem);
    const int64_t segments = t->experts < rows ? t->experts : rows;
    const int64_t stored = rows + (segments + 1) * CPU_TOKENS_TOGETHER;
    l->places = plan_buffer(l->plan, l->phase, "expert rows", // ORDER EXPERT_PLACES
                            (2 * (t->experts + 1) + rows) * (int64_t)sizeof(int32_t));
    l->codes = plan_buffer(l->plan, l->phase, "input codes", stored * cpu_code_bytes(t));
    l->scales = plan_buffer(l->plan, l->phase, "input scales", stored * cpu_scale_bytes(t));
    Step *s = step_new(l, "experts_sort");
    routes_add(l, s);
    step_buffer(l->phase, s, l->places, 0);
    s = step_new(l, "experts_prepare");
    step_value(l->plan, l->phase, s, op->inputs[0]);
    step_weights_or_0(s, l->plan, op->kind == OP_EXPERTS_UP ? op->experts.order : -1);
    step_buffer(l->phase, s, l->places, 0);
    step_buffer(l->phase, s, l->codes, 0);
    step_buffer(l->phase, s, l->scales, 0);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    const Op *op = p->op;
    const bool up = op->kind == OP_EXPERTS_UP;
    const int64_t rows = p->max_tokens * op->experts.top_k;
    Lowering l = {.problem = p, .params = params, .plan = plan, .phase = phase};
    inputs_lower(&l, rows);
    const int partial =
        up ? -1 : plan_buffer(plan, phase, "expert results", rows * weight_of(p)->out_features * 4);
    Step *s = step_new(&l, up ? "experts_up" : "experts_down");
    s->cost = *predicted;
    step_weights_ready(s, plan, op->experts.weight);
    step_buffer(phase, s, l.places, 0);
    step_buffer(phase, s, l.codes, 0);
    step_buffer(phase, s, l.scales, 0);
    if (up) {
        step_value(plan, phase, s, op->output);
        return;
    }
    step_buffer(phase, s, partial, 0);
    s = step_new(&l, "experts_sum");
    routes_add(&l, s);
    step_buffer(phase, s, partial, 0);
    step_value(plan, phase, s, op->output);
}

const Kernel kernel_cpu_experts_up = {
    .name = "cpu_experts_up",
    .device = DEVICE_CPU,
    .op = OP_EXPERTS_UP,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = lower,
};

const Kernel kernel_cpu_experts_down = {
    .name = "cpu_experts_down",
    .device = DEVICE_CPU,
    .op = OP_EXPERTS_DOWN,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = lower,
};

// Ops on elements that no linear took over, on a GPU: kernels/elementwise.cu.
#include "kernel_rows.h"

typedef enum Operation { // ORDER ELEMENTWISE (kernels/elementwise.cu)
    OPERATION_ACT_MUL,
    OPERATION_ADD,
    OPERATION_PERMUTE,
} Operation;

static void params_begin(Params *out, const Problem *p, Operation operation) {
    int64_t width = value_width(p, p->op->output);
    *out = (Params){0};
    params_set(out, "OPERATION", operation);
    params_set(out, "WIDTH", width);
    params_set(out, "VECTOR", vector_of(width, 0));
}

static int act_mul_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    params_begin(&out[0], p, OPERATION_ACT_MUL);
    params_set(&out[0], "ACT", p->op->act_mul.act);
    return 1;
}

static int add_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    params_begin(&out[0], p, OPERATION_ADD);
    params_set(&out[0], "B_F32", value_is_f32(p, p->op->inputs[1]));
    params_set_float(&out[0], "SCALE_BITS", p->op->add.scale);
    return 1;
}

static int permute_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    params_begin(&out[0], p, OPERATION_PERMUTE);
    params_set(&out[0], "IN_WIDTH", value_width(p, p->op->inputs[0]));
    return 1;
}

static void elementwise_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                              PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    Step *s = rows_step(&l, "kernels/elementwise.cu", "elementwise",
                        params_get(params, "WIDTH") / params_get(params, "VECTOR"));
    rows_value(&l, s, p->op->inputs[0]);
    if (p->op->kind == OP_PERMUTE)
        step_weights(s, plan, p->op->permute.order);
    else
        rows_value(&l, s, p->op->inputs[1]);
    rows_value(&l, s, p->op->output);
    step_tokens(s);
}

const Kernel kernel_act_mul = {
    .name = "act_mul",
    .device = DEVICE_CUDA,
    .op = OP_ACT_MUL,
    .accepts = rows_accepts,
    .candidates = act_mul_candidates,
    .cost = rows_cost,
    .lower = elementwise_lower,
};

const Kernel kernel_add = {
    .name = "add",
    .device = DEVICE_CUDA,
    .op = OP_ADD,
    .accepts = rows_accepts,
    .candidates = add_candidates,
    .cost = rows_cost,
    .lower = elementwise_lower,
};

const Kernel kernel_permute = {
    .name = "permute",
    .device = DEVICE_CUDA,
    .op = OP_PERMUTE,
    .accepts = rows_accepts,
    .candidates = permute_candidates,
    .cost = rows_cost,
    .lower = elementwise_lower,
};

// What the CUDA families of linears share. The twins of these names are kernels/dequant.cuh and
// kernels/epilogue.cuh.
#include "kernel_linear.h"
#include "../runtime/step.h"

#include <inttypes.h>
#include <string.h>

const PackedTensor *linear_weight(const Problem *p) {
    return &p->plan->graph->packed[p->op->linear.weight];
}

bool linear_supported(const Problem *p, char reason[REASON_BYTES]) {
    const PackedTensor *t = linear_weight(p);
    if (t->bits != 4 && t->bits != 8 && t->bits != 16) {
        snprintf(reason, REASON_BYTES, "%d bits, takes 4, 8 and 16", t->bits);
        return false;
    }
    if (t->bits != 16 && t->group != 16 && t->group != 32 && t->group != 64 && t->group != 128) {
        snprintf(reason, REASON_BYTES, "groups of %d, takes 16, 32, 64 and 128", t->group);
        return false;
    }
    if (t->bits == 16 && t->bf16 != (p->plan->graph->dtype == DTYPE_BF16)) {
        snprintf(reason, REASON_BYTES, "16-bit weights of another dtype than activations");
        return false;
    }
    if (t->in_features % 8 != 0) {
        snprintf(reason, REASON_BYTES, "%" PRId64 " inputs are no multiple of 8", t->in_features);
        return false;
    }
    if (t->k_padded > INT32_MAX / 64 || t->rows > INT32_MAX / 64) {
        snprintf(reason, REASON_BYTES, "[%" PRId64 ", %" PRId64 "] is too large for 32-bit indices",
                 t->out_features, t->in_features);
        return false;
    }
    return true;
}

bool linear_is_lean(const Problem *p) {
    const PackedTensor *t = linear_weight(p);
    bool bf16 = p->plan->graph->dtype == DTYPE_BF16;
    return t->bits == 16 || (!bf16 && !t->zeros && !t->scale_f32 && t->group != 16);
}

static bool output_is_f32(const Problem *p) {
    return p->plan->graph->values[p->op->output].type == VALUE_F32;
}

int64_t linear_token_bytes(const Problem *p) {
    const PackedTensor *t = linear_weight(p);
    int64_t in = p->op->linear.prologue == PROLOGUE_NORM ? 4 : 2; // bytes of an element
    int64_t out = p->op->linear.epilogue == EPILOGUE_ADD ? 8 : output_is_f32(p) ? 4 : 2;
    int64_t features =
        p->op->linear.epilogue == EPILOGUE_ACT_MUL ? t->out_features / 2 : t->out_features;
    return t->in_features * in + features * out;
}

void linear_params(Params *params, const Problem *p) {
    const PackedTensor *t = linear_weight(p);
    const Op *op = p->op;
    params_set(params, "BITS", t->bits);
    params_set(params, "GROUP", t->group);
    params_set(params, "ZEROS", t->zeros);
    params_set(params, "SCALE_F32", t->scale_f32);
    params_set(params, "WEIGHT_BF16", t->bf16);
    params_set(params, "IN_FEATURES", t->in_features);
    params_set(params, "OUT_FEATURES", t->out_features);
    params_set(params, "ROWS", t->rows);
    params_set(params, "EPILOGUE", op->linear.epilogue);
    params_set(params, "HAS_BIAS", op->linear.bias >= 0);
    params_set(params, "OUT_F32", op->linear.epilogue == EPILOGUE_STORE && output_is_f32(p));
    params_set(params, "ACT", op->linear.epilogue == EPILOGUE_ACT_MUL ? op->linear.act : 0);
    params_set_float(params, "OUT_SCALE_BITS", op->linear.scale);
    params_set_float(params, "SOFTCAP_BITS", op->linear.softcap);
    params_set(params, "EXPERTS", op->kind == OP_LINEAR ? 0 : t->experts);
    if (op->linear.epilogue != EPILOGUE_ROPE_KV)
        return;
    params_set(params, "HEADS", op->linear.heads);
    params_set(params, "KV_HEADS", op->linear.kv_heads);
    params_set(params, "HEAD_DIM", op->linear.head_dim);
    params_kv(params, p->plan);
    params_set_float(params, "ROPE_FACTOR_BITS", op->linear.rope_factor);
}

void linear_operands(Step *s, const Problem *p, Plan *plan, PhasePlan *phase) {
    const Op *op = p->op;
    step_weights_or_0(s, plan, op->linear.bias);
    step_value(plan, phase, s, op->output);
    if (op->linear.epilogue == EPILOGUE_ROPE_KV) {
        step_kv(s, plan, op->layer);
        step_weights(s, plan, op->linear.inv_freq);
        step_address(s, REGION_BATCH, plan->batch.positions);
        step_address(s, REGION_BATCH, plan->batch.slots);
        step_address(s, REGION_BATCH, plan->batch.page_table);
    } else {
        for (int i = 0; i < 5; i++)
            step_int(s, 0);
    }
    step_tokens(s);
}

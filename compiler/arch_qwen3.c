// Qwen3ForCausalLM and Qwen3MoeForCausalLM: a norm over each head of q and k before rope; the second
// with experts on most layers.
//
// Source: transformers models/qwen3/modeling_qwen3.py, models/qwen3_moe/modeling_qwen3_moe.py.
#include "decoder.h"

#include <cjson/cJSON.h>

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    TRY(decoder_llama(d, c, a, err));
    d->q_norm = "self_attn.q_norm";
    d->k_norm = "self_attn.k_norm";
    return decoder_qwen_windows(d, c, err);
}

// Is `layer` named in mlp_only_layers?
static bool mlp_only(const Config *c, int layer) {
    const cJSON *list = json_get(c->json, "mlp_only_layers");
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
        if (cJSON_IsNumber(item) && item->valuedouble == layer)
            return true;
    return false;
}

static bool describe_moe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                         Error *err) {
    int64_t step = 1;
    TRY(describe(d, c, checkpoint, a, err));
    d->router = "mlp.gate";
    d->expert = "mlp.experts";
    d->expert_linears[0] = "gate_proj";
    d->expert_linears[1] = "up_proj";
    d->expert_linears[2] = "down_proj";
    d->experts = 128;
    d->top_k = 8;
    d->expert_size = 768;
    TRY(decoder_int(c, "num_local_experts", &d->experts, err)); // transformers 5
    TRY(decoder_int(c, "num_experts", &d->experts, err));
    TRY(decoder_int(c, "num_experts_per_tok", &d->top_k, err));
    TRY(decoder_int(c, "moe_intermediate_size", &d->expert_size, err));
    TRY(decoder_bool(c, "norm_topk_prob", &d->normalize_routes, err));
    TRY(decoder_int(c, "decoder_sparse_step", &step, err));
    for (int layer = 0; layer < c->num_hidden_layers; layer++)
        d->layers[layer].moe = step > 0 && (layer + 1) % step == 0 && !mlp_only(c, layer);
    return true;
}

static const ConfigDefault DEFAULTS[] = {{"head_dim", 128}, {0}};

const Arch arch_qwen3 = {
    .architecture = "Qwen3ForCausalLM", .defaults = DEFAULTS, .describe = describe};
const Arch arch_qwen3_moe = {.architecture = "Qwen3MoeForCausalLM", .describe = describe_moe};

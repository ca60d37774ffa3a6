// MixtralForCausalLM: a Mistral whose MLPs are experts. Newer GPTQModel writes the names of Qwen 3;
// the tensors decide.
//
// Source: transformers models/mixtral/modeling_mixtral.py.
#include "decoder.h"

static void names(Decoder *d, const Checkpoint *c) {
    bool newer = checkpoint_find(c, "model.layers.0.mlp.gate.weight") ||
                 checkpoint_find(c, "model.layers.0.mlp.gate.qweight");
    d->router = newer ? "mlp.gate" : "block_sparse_moe.gate";
    d->expert = newer ? "mlp.experts" : "block_sparse_moe.experts";
    d->expert_linears[0] = newer ? "gate_proj" : "w1";
    d->expert_linears[1] = newer ? "up_proj" : "w3";
    d->expert_linears[2] = newer ? "down_proj" : "w2";
}

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    int64_t window = 0;
    TRY(decoder_llama(d, c, a, err));
    names(d, checkpoint);
    d->experts = 8;
    d->top_k = 2;
    d->expert_size = c->intermediate_size;
    d->normalize_routes = true;
    TRY(decoder_int(c, "num_local_experts", &d->experts, err));
    TRY(decoder_int(c, "num_experts_per_tok", &d->top_k, err));
    TRY(decoder_int(c, "sliding_window", &window, err));
    TRY(decoder_windows(d, c, window, NULL, err));
    for (int layer = 0; layer < c->num_hidden_layers; layer++)
        d->layers[layer].moe = true;
    return true;
}

static const ConfigDefault DEFAULTS[] = {{"num_key_value_heads", 8}, {0}};

const Arch arch_mixtral = {
    .architecture = "MixtralForCausalLM", .defaults = DEFAULTS, .describe = describe};

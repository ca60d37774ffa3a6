// What the model families have in common: a decoder of pre- or sandwich-normed layers, described by
// a table that each arch_*.c fills from its configuration. decoder.c builds the graph from it.
#ifndef DECODER_H
#define DECODER_H

#include "compile.h"

enum { DECODER_MAX_ROPES = 2 };

// How one layer differs from the others.
typedef struct LayerSpec {
    int64_t window; // > 0: attention to that many positions; 0: to all
    int rope;       // which of ropes; -1: none
    bool moe;       // experts instead of the dense MLP
} LayerSpec;

// Names are behind "model.layers.N."; NULL: the family has no such thing. Numbers that are 0 or
// false mean "as Llama".
typedef struct Decoder {
    // x = norm(h); h += post_norm(attention(x)); m = norm(h); h += post_norm(mlp(m))
    const char *attn_norm, *attn_post_norm, *mlp_norm, *mlp_post_norm;
    bool norm_adds_one; // (1 + w) * x, as Gemma does
    // attention
    const char *qkv;             // one module on disk, q, k, v along its outputs
    const char *q_norm, *k_norm; // over each head, before rope
    bool qkv_bias, o_bias, mlp_bias;
    float attention_scale, attention_softcap;
    // MLP
    const char *gate_up; // one module on disk, where gate_proj does not exist
    Activation act;
    // experts of layers with moe
    const char *router;
    const char *expert;                  // "mlp.experts.%d.%s"
    const char *expert_linears[3];       // gate, up, down
    int64_t experts, top_k, expert_size; // expert_size: features of one expert
    bool normalize_routes;
    // scales; 0: none
    float embed_scale, residual_scale, logits_scale, logits_softcap;
    // rope: what layers choose from
    RopeConfig ropes[DECODER_MAX_ROPES];
    int rope_count;
    LayerSpec *layers; // [num_hidden_layers]
    // found in the checkpoint
    const char *prefix; // "model." or "language_model.model."
} Decoder;

// Reading the keys of one family; a key that is absent or null leaves *value alone.
bool decoder_int(const Config *c, const char *key, int64_t *value, Error *err);
bool decoder_number(const Config *c, const char *key, float *value, Error *err);
bool decoder_bool(const Config *c, const char *key, bool *value, Error *err);

// The description of a Llama, which families then change: names, rope, activation, scale.
bool decoder_llama(Decoder *d, const Config *c, Arena *a, Error *err);
// Windows of `size` positions on layers whose entry of layer_types is "sliding_attention"; without
// that list on those for which `pattern` says so, NULL: on all.
bool decoder_windows(Decoder *d, const Config *c, int64_t size,
                     bool (*pattern)(const Config *c, int layer), Error *err);

// The windows of all Qwen models.
bool decoder_qwen_windows(Decoder *d, const Config *c, Error *err);

#endif

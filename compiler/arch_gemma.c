// Gemma2ForCausalLM, Gemma3ForCausalLM and the language model of Gemma3ForConditionalGeneration:
// norms before and behind attention and MLP, (1 + w), scaled embeddings, windows on most layers,
// softcaps (2) or norms of q and k and a rope of its own for windows (3).
//
// Source: transformers models/gemma2/modeling_gemma2.py, models/gemma3/modeling_gemma3.py.
#include "decoder.h"

#include <math.h>
#include <string.h>

// sqrt(hidden_size), in bf16 checkpoints rounded to bf16, with which the model was trained.
static float embed_scale(const Config *c) {
    float scale = sqrtf((float)c->hidden_size);
    uint32_t bits;
    if (c->dtype != DTYPE_BF16)
        return scale;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u; // to the nearest even bf16
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static bool gemma(Decoder *d, const Config *c, Arena *a, Error *err) {
    float scalar = 256;
    TRY(decoder_llama(d, c, a, err));
    d->attn_post_norm = "post_attention_layernorm";
    d->mlp_norm = "pre_feedforward_layernorm";
    d->mlp_post_norm = "post_feedforward_layernorm";
    d->norm_adds_one = true;
    d->embed_scale = embed_scale(c);
    if (d->act == ACT_GELU)
        d->act = ACT_GELU_TANH; // old files say gelu and mean this
    TRY(decoder_number(c, "query_pre_attn_scalar", &scalar, err));
    if (!(scalar > 0))
        return fail(err, ERR_CORRUPT, 364, "%s: query_pre_attn_scalar is %g, expected more than 0",
                    c->file, (double)scalar);
    d->attention_scale = 1 / sqrtf(scalar);
    TRY(decoder_number(c, "attn_logit_softcapping", &d->attention_softcap, err));
    return decoder_number(c, "final_logit_softcapping", &d->logits_softcap, err);
}

static bool even_layers(const Config *c, int layer) {
    (void)c;
    return layer % 2 == 0;
}

static bool describe_2(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                       Error *err) {
    (void)checkpoint;
    int64_t window = 4096;
    TRY(gemma(d, c, a, err));
    TRY(decoder_int(c, "sliding_window", &window, err));
    return decoder_windows(d, c, window, even_layers, err);
}

static bool all_but_every_sixth(const Config *c, int layer) {
    int64_t pattern = 6;
    Error ignored;
    bool read = decoder_int(c, "sliding_window_pattern", &pattern, &ignored);
    return !read || pattern < 1 || (layer + 1) % pattern != 0;
}

static bool describe_3(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                       Error *err) {
    (void)checkpoint;
    int64_t window = 4096;
    TRY(gemma(d, c, a, err));
    d->q_norm = "self_attn.q_norm";
    d->k_norm = "self_attn.k_norm";
    TRY(decoder_int(c, "sliding_window", &window, err));
    return decoder_windows(d, c, window, all_but_every_sixth, err);
}

static const ConfigDefault DEFAULTS_2[] = {
    {"head_dim", 256}, {"num_key_value_heads", 4}, {"max_position_embeddings", 8192}, {0}};
static const ConfigDefault DEFAULTS_3[] = {{"vocab_size", 262208},
                                           {"hidden_size", 2304},
                                           {"intermediate_size", 9216},
                                           {"num_hidden_layers", 26},
                                           {"num_attention_heads", 8},
                                           {"num_key_value_heads", 4},
                                           {"head_dim", 256},
                                           {"max_position_embeddings", 131072},
                                           {"rope_theta", 1000000},
                                           {"rope_local_base_freq", 10000},
                                           {0}};

const Arch arch_gemma2 = {
    .architecture = "Gemma2ForCausalLM", .defaults = DEFAULTS_2, .describe = describe_2};
const Arch arch_gemma3 = {
    .architecture = "Gemma3ForCausalLM", .defaults = DEFAULTS_3, .describe = describe_3};
const Arch arch_gemma3_multimodal = {.architecture = "Gemma3ForConditionalGeneration",
                                     .defaults = DEFAULTS_3,
                                     .describe = describe_3};

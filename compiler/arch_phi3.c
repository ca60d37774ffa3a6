// Phi3ForCausalLM: Phi-3, 3.5, 4-mini: q, k, v in one module and gate, up in another, part of each
// head rotates, longrope. Newer GPTQModel splits gate and up; the tensors decide.
//
// Source: transformers models/phi3/modeling_phi3.py.
#include "decoder.h"

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    int64_t window = 0;
    TRY(decoder_llama(d, c, a, err));
    d->qkv_bias = d->o_bias = d->mlp_bias = false;
    d->qkv = "self_attn.qkv_proj";
    d->gate_up = "mlp.gate_up_proj";
    TRY(decoder_int(c, "sliding_window", &window, err));
    return decoder_windows(d, c, window, NULL, err);
}

const Arch arch_phi3 = {.architecture = "Phi3ForCausalLM", .describe = describe};

// MistralForCausalLM: a Llama, in its first version with a window on all layers.
//
// Source: transformers models/mistral/modeling_mistral.py.
#include "decoder.h"

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    int64_t window = 0;
    TRY(decoder_llama(d, c, a, err));
    TRY(decoder_int(c, "sliding_window", &window, err));
    return decoder_windows(d, c, window, NULL, err);
}

static const ConfigDefault DEFAULTS[] = {{"num_key_value_heads", 8}, {0}};

const Arch arch_mistral = {
    .architecture = "MistralForCausalLM", .defaults = DEFAULTS, .describe = describe};

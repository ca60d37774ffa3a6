// Qwen2ForCausalLM: Qwen 1.5 (dense), 2, 2.5, QwQ, the R1 distills: q, k and v always have a bias.
//
// Source: transformers models/qwen2/modeling_qwen2.py.
#include "decoder.h"

// Layers from max_window_layers on, if use_sliding_window says so.
static bool upper_layers(const Config *c, int layer) {
    int64_t first = 28;
    Error ignored;
    return decoder_int(c, "max_window_layers", &first, &ignored) && layer >= first;
}

bool decoder_qwen_windows(Decoder *d, const Config *c, Error *err) {
    bool use = false;
    int64_t window = 4096;
    TRY(decoder_bool(c, "use_sliding_window", &use, err));
    TRY(decoder_int(c, "sliding_window", &window, err));
    return !use || decoder_windows(d, c, window, upper_layers, err);
}

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    TRY(decoder_llama(d, c, a, err));
    d->qkv_bias = true;
    d->o_bias = false;
    return decoder_qwen_windows(d, c, err);
}

const Arch arch_qwen2 = {.architecture = "Qwen2ForCausalLM", .describe = describe};

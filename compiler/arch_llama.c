// LlamaForCausalLM: Llama 1, 2, 3, 3.1, 3.2, TinyLlama, the R1 distills, and everything that says it
// is one.
//
// Source: transformers models/llama/modeling_llama.py.
#include "decoder.h"

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    return decoder_llama(d, c, a, err);
}

const Arch arch_llama = {.architecture = "LlamaForCausalLM", .describe = describe};

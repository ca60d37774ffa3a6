// GraniteForCausalLM: a Llama with factors on embeddings, residuals, attention and logits.
//
// Source: transformers models/granite/modeling_granite.py.
#include "decoder.h"

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    float divisor = 1;
    TRY(decoder_llama(d, c, a, err));
    TRY(decoder_number(c, "embedding_multiplier", &d->embed_scale, err));
    TRY(decoder_number(c, "residual_multiplier", &d->residual_scale, err));
    TRY(decoder_number(c, "attention_multiplier", &d->attention_scale, err));
    TRY(decoder_number(c, "logits_scaling", &divisor, err));
    if (!(divisor > 0) || !(d->attention_scale > 0))
        return fail(err, ERR_CORRUPT, 365,
                    "%s: logits_scaling %g and attention_multiplier %g must be more than 0",
                    c->file, (double)divisor, (double)d->attention_scale);
    d->logits_scale = 1 / divisor;
    return true;
}

const Arch arch_granite = {.architecture = "GraniteForCausalLM", .describe = describe};

// SmolLM3ForCausalLM: a Llama where every fourth layer does not rotate.
//
// Source: transformers models/smollm3/modeling_smollm3.py.
#include "decoder.h"

#include <cjson/cJSON.h>

static bool describe(Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err) {
    (void)checkpoint;
    int64_t interval = 4, window = 0;
    bool use = false;
    TRY(decoder_llama(d, c, a, err));
    TRY(decoder_bool(c, "use_sliding_window", &use, err));
    TRY(decoder_int(c, "sliding_window", &window, err));
    TRY(decoder_int(c, "no_rope_layer_interval", &interval, err));
    const cJSON *list = json_get(c->json, "no_rope_layers"); // 1: rotates
    const cJSON *item = cJSON_IsArray(list) ? list->child : NULL;
    for (int layer = 0; layer < c->num_hidden_layers; layer++) {
        bool rotates = item ? cJSON_IsNumber(item) && item->valuedouble != 0
                            : interval < 1 || (layer + 1) % interval != 0;
        d->layers[layer].rope = rotates ? 0 : -1;
        d->layers[layer].window = use && rotates ? window : 0;
        item = item ? item->next : NULL;
    }
    return true;
}

static const ConfigDefault DEFAULTS[] = {{"num_key_value_heads", 4}, {0}};

const Arch arch_smollm3 = {
    .architecture = "SmolLM3ForCausalLM", .defaults = DEFAULTS, .describe = describe};

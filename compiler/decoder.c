// The description of a decoder (decoder.h): what families share when they fill it, and the list of
// linear modules that follows from it.
//
// Idea: a module's name, shape and bias come from one function, module_spec, for the builder and for
// `check` alike.
//
// Source: transformers models/*/modeling_*.py, whose tensor names and keys these are.
#include "decoder_model.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

// ---- keys of one family -------------------------------------------------------------------------

bool decoder_int(const Config *c, const char *key, int64_t *value, Error *err) {
    return json_int(c->json, key, value, c->file, err);
}

bool decoder_bool(const Config *c, const char *key, bool *value, Error *err) {
    return json_bool(c->json, key, value, c->file, err);
}

bool decoder_number(const Config *c, const char *key, float *value, Error *err) {
    double number = (double)*value;
    TRY(json_number(c->json, key, &number, c->file, err));
    if (!isfinite(number) || fabs(number) > 1e9)
        return fail(err, ERR_CORRUPT, 354, "%s: key \"%s\" is %g, out of its range", c->file, key,
                    number);
    *value = (float)number;
    return true;
}

static bool activation_find(Decoder *d, const Config *c, Error *err) {
    static const struct {
        const char *name;
        Activation act;
    } ACTS[] = {
        {"silu", ACT_SILU},          {"swish", ACT_SILU}, {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"gelu_new", ACT_GELU_TANH}, {"gelu", ACT_GELU},
    };
    for (size_t at = 0; at < sizeof ACTS / sizeof ACTS[0]; at++) {
        if (strcmp(ACTS[at].name, c->hidden_act) != 0)
            continue;
        d->act = ACTS[at].act;
        return true;
    }
    char text[40];
    return fail(err, ERR_UNSUPPORTED, 355,
                "%s: hidden_act \"%s\" is not supported; supported: silu, gelu, gelu_pytorch_tanh",
                c->file, text_escape(text, sizeof text, c->hidden_act, strlen(c->hidden_act)));
}

bool decoder_llama(Decoder *d, const Config *c, Arena *a, Error *err) {
    *d = (Decoder){
        .attn_norm = "input_layernorm",
        .mlp_norm = "post_attention_layernorm",
        .qkv_bias = c->attention_bias,
        .o_bias = c->attention_bias,
        .mlp_bias = c->mlp_bias,
        .attention_scale = 1 / sqrtf((float)c->head_dim),
        .ropes = {c->rope},
        .rope_count = 1,
        .layers = ARENA_NEW(a, LayerSpec, c->num_hidden_layers),
    };
    return activation_find(d, c, err);
}

// layer_types, if the file has one: *found, and *sliding of `layer`.
static bool layer_type(const Config *c, int layer, bool *found, bool *sliding, Error *err) {
    const cJSON *list = json_get(c->json, "layer_types");
    *found = cJSON_IsArray(list);
    if (!*found)
        return true;
    const cJSON *item = cJSON_GetArrayItem(list, layer);
    const char *name = cJSON_IsString(item) ? item->valuestring : "";
    *sliding = strcmp(name, "sliding_attention") == 0;
    if (*sliding || strcmp(name, "full_attention") == 0)
        return true;
    char text[40];
    return fail(err, ERR_UNSUPPORTED, 357,
                "%s: layer_types[%d] is \"%s\"; supported: full_attention, sliding_attention",
                c->file, layer, text_escape(text, sizeof text, name, strlen(name)));
}

bool decoder_windows(Decoder *d, const Config *c, int64_t size,
                     bool (*pattern)(const Config *c, int layer), Error *err) {
    if (size < 0 || size > 1 << 30)
        return fail(err, ERR_CORRUPT, 358, "%s: sliding_window is %lld, expected 1 to 2^30",
                    c->file, (long long)size);
    bool local = c->local_rope.rope_theta > 0;
    if (local) {
        d->ropes[1] = c->local_rope;
        d->rope_count = 2;
    }
    for (int layer = 0; layer < c->num_hidden_layers; layer++) {
        bool found, sliding = false;
        TRY(layer_type(c, layer, &found, &sliding, err));
        if (!found)
            sliding = !pattern || pattern(c, layer);
        d->layers[layer].window = sliding ? size : 0;
        d->layers[layer].rope = sliding && local ? 1 : 0;
    }
    return true;
}

// ---- modules ------------------------------------------------------------------------------------

bool model_has(const Model *m, const char *module) {
    return checkpoint_find(m->checkpoint, arena_printf(m->arena, "%s.qweight", module)) ||
           checkpoint_find(m->checkpoint, arena_printf(m->arena, "%s.weight", module));
}

static int64_t width_of(const Model *m, Width width) {
    const Config *c = m->config;
    int64_t queries = c->num_attention_heads * c->head_dim;
    int64_t keys = c->num_key_value_heads * c->head_dim;
    const int64_t widths[WIDTH_COUNT] = {
        [WIDTH_HIDDEN] = c->hidden_size,
        [WIDTH_QUERIES] = queries,
        [WIDTH_KEYS] = keys,
        [WIDTH_QKV] = queries + 2 * keys,
        [WIDTH_INTERMEDIATE] = c->intermediate_size,
        [WIDTH_GATE_UP] = 2 * c->intermediate_size,
        [WIDTH_EXPERTS] = m->d.experts,
        [WIDTH_EXPERT] = m->d.expert_size,
    };
    return widths[width];
}

LinearSpec module_spec(const Model *m, int layer, ModuleRole role, int expert) {
    const Decoder *d = &m->d;
    const struct {
        const char *name;
        Width in, out;
        bool bias;
    } MODULES[ROLE_COUNT] = {
        [ROLE_Q] = {"self_attn.q_proj", WIDTH_HIDDEN, WIDTH_QUERIES, d->qkv_bias},
        [ROLE_K] = {"self_attn.k_proj", WIDTH_HIDDEN, WIDTH_KEYS, d->qkv_bias},
        [ROLE_V] = {"self_attn.v_proj", WIDTH_HIDDEN, WIDTH_KEYS, d->qkv_bias},
        [ROLE_QKV] = {d->qkv, WIDTH_HIDDEN, WIDTH_QKV, d->qkv_bias},
        [ROLE_O] = {"self_attn.o_proj", WIDTH_QUERIES, WIDTH_HIDDEN, d->o_bias},
        [ROLE_GATE] = {"mlp.gate_proj", WIDTH_HIDDEN, WIDTH_INTERMEDIATE, d->mlp_bias},
        [ROLE_UP] = {"mlp.up_proj", WIDTH_HIDDEN, WIDTH_INTERMEDIATE, d->mlp_bias},
        [ROLE_GATE_UP] = {d->gate_up, WIDTH_HIDDEN, WIDTH_GATE_UP, d->mlp_bias},
        [ROLE_DOWN] = {"mlp.down_proj", WIDTH_INTERMEDIATE, WIDTH_HIDDEN, d->mlp_bias},
        [ROLE_ROUTER] = {d->router, WIDTH_HIDDEN, WIDTH_EXPERTS, false},
        [ROLE_EXPERT_GATE] = {d->expert_linears[0], WIDTH_HIDDEN, WIDTH_EXPERT, false},
        [ROLE_EXPERT_UP] = {d->expert_linears[1], WIDTH_HIDDEN, WIDTH_EXPERT, false},
        [ROLE_EXPERT_DOWN] = {d->expert_linears[2], WIDTH_EXPERT, WIDTH_HIDDEN, false},
    };
    const char *module;
    if (role >= ROLE_EXPERT_GATE)
        module = arena_printf(m->arena, "%slayers.%d.%s.%d.%s", d->prefix, layer, d->expert, expert,
                              MODULES[role].name);
    else
        module = arena_printf(m->arena, "%slayers.%d.%s", d->prefix, layer, MODULES[role].name);
    return (LinearSpec){module, width_of(m, MODULES[role].in), width_of(m, MODULES[role].out),
                        MODULES[role].bias};
}

bool model_fused(const Model *m, int layer, ModuleRole role) {
    const char *name = role == ROLE_QKV ? m->d.qkv : m->d.gate_up;
    return name && model_has(m, module_spec(m, layer, role, 0).module);
}

LinearSpec embed_spec(const Model *m) {
    return (LinearSpec){arena_printf(m->arena, "%sembed_tokens", m->d.prefix),
                        m->config->hidden_size, m->config->vocab_size, false};
}

// The head has its own weights unless it is tied. A file may hold a head although it says tied;
// then the tensors decide (head_weight in decoder_graph.c).
bool head_spec(const Model *m, LinearSpec *out) {
    static const char *const NAMES[] = {"lm_head", "language_model.lm_head"};
    const Config *c = m->config;
    *out = embed_spec(m);
    for (size_t at = 0; at < sizeof NAMES / sizeof NAMES[0]; at++)
        if (model_has(m, NAMES[at])) {
            out->module = NAMES[at];
            return true;
        }
    out->module = NAMES[0];
    return c->tie_present && !c->tie_word_embeddings;
}

// ---- opening ------------------------------------------------------------------------------------

static bool prefix_find(Model *m, Error *err) {
    static const char *const PREFIXES[] = {"model.", "language_model.model.",
                                           "model.language_model.", ""};
    for (size_t at = 0; at < sizeof PREFIXES / sizeof PREFIXES[0]; at++) {
        m->d.prefix = PREFIXES[at];
        if (model_has(m, embed_spec(m).module))
            return true;
    }
    m->d.prefix = PREFIXES[0];
    return fail(err, ERR_CORRUPT, 359, "%s: tensor model.embed_tokens.weight is missing",
                m->checkpoint->dir);
}

static bool experts_check(const Model *m, Error *err) {
    const Decoder *d = &m->d;
    bool any = false;
    for (int layer = 0; layer < m->config->num_hidden_layers; layer++)
        any = any || d->layers[layer].moe;
    if (!any)
        return true;
    if (d->experts < 1 || d->experts > 4096 || d->top_k < 1 || d->top_k > d->experts ||
        d->expert_size < 1 || d->expert_size > 1 << 22)
        return fail(err, ERR_CORRUPT, 360,
                    "%s: %lld experts of %lld features, %lld of them for a token; out of range",
                    m->config->file, (long long)d->experts, (long long)d->expert_size,
                    (long long)d->top_k);
    return true;
}

bool model_open(Model *m, const Arch *arch, const Config *c, const Checkpoint *checkpoint, Arena *a,
                Error *err) {
    *m = (Model){.config = c, .checkpoint = checkpoint, .arena = a};
    TRY(arch->describe(&m->d, c, checkpoint, a, err));
    TRY(experts_check(m, err));
    return prefix_find(m, err);
}

// ---- the list for `check` -----------------------------------------------------------------------

typedef struct List {
    LinearSpec *items;
    int count;
} List;

static void list_add(List *list, LinearSpec spec) {
    list->items[list->count++] = spec;
}

static void layer_list(const Model *m, int layer, List *list) {
    static const ModuleRole split[] = {ROLE_Q, ROLE_K, ROLE_V};
    if (model_fused(m, layer, ROLE_QKV))
        list_add(list, module_spec(m, layer, ROLE_QKV, 0));
    else
        for (int at = 0; at < 3; at++)
            list_add(list, module_spec(m, layer, split[at], 0));
    list_add(list, module_spec(m, layer, ROLE_O, 0));
    if (m->d.layers[layer].moe) {
        list_add(list, module_spec(m, layer, ROLE_ROUTER, 0));
        for (int expert = 0; expert < m->d.experts; expert++)
            for (ModuleRole role = ROLE_EXPERT_GATE; role <= ROLE_EXPERT_DOWN; role++)
                list_add(list, module_spec(m, layer, role, expert));
        return;
    }
    if (model_fused(m, layer, ROLE_GATE_UP)) {
        list_add(list, module_spec(m, layer, ROLE_GATE_UP, 0));
    } else {
        list_add(list, module_spec(m, layer, ROLE_GATE, 0));
        list_add(list, module_spec(m, layer, ROLE_UP, 0));
    }
    list_add(list, module_spec(m, layer, ROLE_DOWN, 0));
}

bool arch_linears(const Arch *arch, const Config *c, const Checkpoint *checkpoint, Arena *a,
                  LinearSpec **out, int *count, Error *err) {
    Model m;
    TRY(model_open(&m, arch, c, checkpoint, a, err));
    int64_t per_layer = ROLE_COUNT + 3 * m.d.experts;
    List list = {ARENA_NEW(a, LinearSpec, c->num_hidden_layers * per_layer + 2), 0};
    list_add(&list, embed_spec(&m));
    for (int layer = 0; layer < c->num_hidden_layers; layer++)
        layer_list(&m, layer, &list);
    LinearSpec head;
    if (head_spec(&m, &head))
        list_add(&list, head);
    *out = list.items;
    *count = list.count;
    return true;
}

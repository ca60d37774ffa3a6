// config.json and generation_config.json as typed structs.
//
// Idea: tables of keys with offset and range, so that a hostile number never reaches arithmetic.
// Multimodal checkpoints nest the language model in `text_config`; both spellings of transformers 4
// and 5 are read. A key of another type is an error, a missing one has the default of its class.
//
// Source: transformers configuration_*.py. Non-goals: keys that only training needs.
#include "compile.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 80 };

// What is being read, and for messages.
typedef struct Reader {
    const cJSON *json;
    const char *file;
    Arena *arena;
    Error *err;
} Reader;

static char *text_copy(const Reader *r, const char *text) {
    return arena_strndup(r->arena, text, strlen(text));
}

// ---- sizes --------------------------------------------------------------------------------------

static const struct {
    const char *key;
    size_t offset;
    int64_t fallback; // 0: required; -1: set later
    int64_t max;      // larger than any model, small enough that products of three fit
} SIZES[] = {
    {"hidden_size", offsetof(Config, hidden_size), 0, 1 << 20},
    {"num_hidden_layers", offsetof(Config, num_hidden_layers), 0, 1 << 12},
    {"num_attention_heads", offsetof(Config, num_attention_heads), 0, 1 << 12},
    {"vocab_size", offsetof(Config, vocab_size), 0, 1 << 24},
    {"intermediate_size", offsetof(Config, intermediate_size), 0, 1 << 22},
    {"num_key_value_heads", offsetof(Config, num_key_value_heads), -1, 1 << 12},
    {"head_dim", offsetof(Config, head_dim), -1, 1 << 12},
    {"max_position_embeddings", offsetof(Config, max_position_embeddings), 2048, 1 << 28},
};

// What the family's class says where the file says nothing; 0: nothing either.
static int64_t family_default(const Config *c, const char *key) {
    const Arch *arch = arch_find(c->architecture);
    for (const ConfigDefault *d = arch ? arch->defaults : NULL; d && d->key; d++)
        if (strcmp(d->key, key) == 0)
            return d->value;
    return 0;
}

static bool sizes_read(Config *c, const Reader *r) {
    for (size_t at = 0; at < sizeof SIZES / sizeof SIZES[0]; at++) {
        int64_t *value = (int64_t *)((char *)c + SIZES[at].offset);
        int64_t family = family_default(c, SIZES[at].key);
        *value = family ? family : SIZES[at].fallback;
        TRY(json_int(r->json, SIZES[at].key, value, r->file, r->err));
        if (*value == 0 && !json_get(r->json, SIZES[at].key))
            return fail(r->err, ERR_CORRUPT, 250, "%s: key \"%s\" is missing", r->file,
                        SIZES[at].key);
        bool later = *value < 0 && !json_get(r->json, SIZES[at].key);
        if (!later && (*value < 1 || *value > SIZES[at].max))
            return fail(r->err, ERR_CORRUPT, 251, "%s: key \"%s\" is %lld, expected 1 to %lld",
                        r->file, SIZES[at].key, (long long)*value, (long long)SIZES[at].max);
    }
    if (c->num_key_value_heads < 0)
        c->num_key_value_heads = c->num_attention_heads;
    if (c->head_dim < 0)
        c->head_dim = c->hidden_size / c->num_attention_heads;
    if (c->num_attention_heads % c->num_key_value_heads)
        return fail(r->err, ERR_CORRUPT, 252,
                    "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                    r->file, (long long)c->num_attention_heads, (long long)c->num_key_value_heads);
    if (c->head_dim % 2 || c->head_dim < 2)
        return fail(r->err, ERR_UNSUPPORTED, 253, "%s: head_dim is %lld, an even number is needed",
                    r->file, (long long)c->head_dim);
    return true;
}

// ---- the rest of config.json --------------------------------------------------------------------

static bool dtype_read(Config *c, const Reader *r) {
    static const struct {
        const char *name;
        ModelDType dtype;
    } NAMES[] = {
        {"float16", DTYPE_FP16}, {"bfloat16", DTYPE_BF16}, {"float32", DTYPE_FP32},
        {"half", DTYPE_FP16},    {"float", DTYPE_FP32},
    };
    const char *name = "float16";
    TRY(json_text(r->json, "torch_dtype", &name, r->file, r->err));
    TRY(json_text(r->json, "dtype", &name, r->file, r->err));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (size_t at = 0; at < sizeof NAMES / sizeof NAMES[0]; at++) {
        if (strcmp(NAMES[at].name, name) != 0)
            continue;
        c->dtype = NAMES[at].dtype;
        return true;
    }
    char text[TEXT_BYTES];
    return fail(r->err, ERR_UNSUPPORTED, 254,
                "%s: dtype \"%s\" is not supported; supported: float16, bfloat16, float32", r->file,
                text_escape(text, sizeof text, name, strlen(name)));
}

static bool settings_read(Config *c, const Reader *r) {
    const char *act = "silu", *type = "";
    c->rms_norm_eps = 1e-6;
    TRY(json_number(r->json, "rms_norm_eps", &c->rms_norm_eps, r->file, r->err));
    if (!(c->rms_norm_eps > 0 && c->rms_norm_eps < 1))
        return fail(r->err, ERR_CORRUPT, 255,
                    "%s: rms_norm_eps is %g, expected a number between 0 and 1", r->file,
                    c->rms_norm_eps);
    TRY(json_text(r->json, "hidden_act", &act, r->file, r->err));
    TRY(json_text(r->json, "hidden_activation", &act, r->file, r->err));
    TRY(json_text(r->json, "model_type", &type, r->file, r->err));
    c->hidden_act = text_copy(r, act);
    c->model_type = text_copy(r, type);
    TRY(json_bool(r->json, "attention_bias", &c->attention_bias, r->file, r->err));
    TRY(json_bool(r->json, "mlp_bias", &c->mlp_bias, r->file, r->err));
    c->tie_present = json_get(r->json, "tie_word_embeddings") != NULL;
    TRY(json_bool(r->json, "tie_word_embeddings", &c->tie_word_embeddings, r->file, r->err));
    return dtype_read(c, r);
}

static bool architecture_read(Config *c, const Reader *root) {
    const cJSON *list = json_get(root->json, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(first))
        return fail(root->err, ERR_CORRUPT, 256,
                    "%s: key \"architectures\" is missing; not the config.json of a model",
                    root->file);
    c->architecture = text_copy(root, first->valuestring);
    if (arch_find(c->architecture))
        return true;
    char text[TEXT_BYTES];
    return fail(root->err, ERR_UNSUPPORTED, 257,
                "%s: architecture \"%s\" is not supported; supported: %s", root->file,
                text_escape(text, sizeof text, c->architecture, strlen(c->architecture)),
                arch_names(root->arena));
}

// ---- tokens that start and stop -----------------------------------------------------------------

static bool stop_add(Config *c, const Reader *r, const cJSON *item) {
    double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(id >= 0 && id < (double)c->vocab_size) || id != (double)(int32_t)id)
        return fail(r->err, ERR_CORRUPT, 258,
                    "%s: eos_token_id holds something else than ids below vocab_size %lld", r->file,
                    (long long)c->vocab_size);
    for (int at = 0; at < c->stop_count; at++)
        if (c->stop_ids[at] == (int32_t)id)
            return true;
    if (c->stop_count == PAYLOAD_MAX_STOP_IDS)
        return fail(r->err, ERR_UNSUPPORTED, 259, "%s: more than %d eos_token_id", r->file,
                    PAYLOAD_MAX_STOP_IDS);
    c->stop_ids[c->stop_count++] = (int32_t)id;
    return true;
}

// eos_token_id: an id or a list; bos_token_id: an id, the first file that has one wins.
static bool tokens_read(Config *c, const Reader *r) {
    const cJSON *eos = json_get(r->json, "eos_token_id");
    if (cJSON_IsArray(eos)) {
        for (const cJSON *item = eos->child; item; item = item->next)
            TRY(stop_add(c, r, item));
    } else if (eos) {
        TRY(stop_add(c, r, eos));
    }
    int64_t bos = -1;
    if (cJSON_IsArray(json_get(r->json, "bos_token_id")))
        return true;
    TRY(json_int(r->json, "bos_token_id", &bos, r->file, r->err));
    if (bos < -1 || bos >= c->vocab_size)
        return fail(r->err, ERR_CORRUPT, 260, "%s: bos_token_id %lld, vocab_size is %lld", r->file,
                    (long long)bos, (long long)c->vocab_size);
    if (c->bos_token_id < 0)
        c->bos_token_id = (int32_t)bos;
    return true;
}

// The id of an added token by its text, -1: none.
static int64_t added_token_id(const cJSON *tokenizer, const char *content) {
    const cJSON *list = json_get(tokenizer, "added_tokens");
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next) {
        const cJSON *text = json_get(item, "content"), *id = json_get(item, "id");
        if (cJSON_IsString(text) && cJSON_IsNumber(id) && strcmp(text->valuestring, content) == 0)
            return (int64_t)id->valuedouble;
    }
    return -1;
}

// The tokenizer's own eos, where generation_config.json is missing (many GPTQ repositories).
static bool tokenizer_eos_read(Config *c, const char *dir, Arena *a, Error *err) {
    cJSON *json = NULL, *tokenizer = NULL;
    const char *path = arena_printf(a, "%s/tokenizer_config.json", dir);
    bool found;
    TRY(json_read(&json, &found, path, err));
    const cJSON *eos = json_get(json, "eos_token");
    if (cJSON_IsObject(eos)) // an added token with its flags
        eos = json_get(eos, "content");
    Reader r = {NULL, arena_printf(a, "%s/tokenizer.json", dir), a, err};
    bool done = true;
    if (cJSON_IsString(eos)) {
        done = json_read(&tokenizer, &found, r.file, err);
        int64_t id = done ? added_token_id(tokenizer, eos->valuestring) : -1;
        cJSON number = {.type = cJSON_Number, .valuedouble = (double)id};
        if (id >= 0)
            done = stop_add(c, &r, &number);
    }
    cJSON_Delete(tokenizer);
    cJSON_Delete(json);
    return done;
}

// ---- generation_config.json ---------------------------------------------------------------------

static bool sampling_read(Config *c, const Reader *r) {
    TRY(json_bool(r->json, "do_sample", &c->do_sample, r->file, r->err));
    TRY(json_number(r->json, "temperature", &c->temperature, r->file, r->err));
    TRY(json_number(r->json, "top_p", &c->top_p, r->file, r->err));
    TRY(json_number(r->json, "min_p", &c->min_p, r->file, r->err));
    TRY(json_number(r->json, "repetition_penalty", &c->repetition_penalty, r->file, r->err));
    TRY(json_int(r->json, "top_k", &c->top_k, r->file, r->err));
    const struct {
        const char *key;
        double value;
        bool good;
    } ranges[] = {
        {"temperature", c->temperature, c->temperature >= 0 && c->temperature <= 100},
        {"top_p", c->top_p, c->top_p > 0 && c->top_p <= 1},
        {"min_p", c->min_p, c->min_p >= 0 && c->min_p <= 1},
        {"repetition_penalty", c->repetition_penalty,
         c->repetition_penalty > 0 && c->repetition_penalty <= 100},
        {"top_k", (double)c->top_k, c->top_k >= 0 && c->top_k <= 1 << 24},
    };
    for (size_t at = 0; at < sizeof ranges / sizeof ranges[0]; at++)
        if (!ranges[at].good)
            return fail(r->err, ERR_CORRUPT, 261, "%s: key \"%s\" is %g, out of its range", r->file,
                        ranges[at].key, ranges[at].value);
    return true;
}

static bool generation_read(Config *c, const char *dir, Arena *a, Error *err) {
    cJSON *json;
    bool found;
    Reader r = {NULL, arena_printf(a, "%s/generation_config.json", dir), a, err};
    TRY(json_read(&json, &found, r.file, err));
    r.json = json;
    bool done = tokens_read(c, &r) && sampling_read(c, &r);
    cJSON_Delete(json);
    return done;
}

// ---- all of it ----------------------------------------------------------------------------------

// The last folder of a path, "." resolved.
static const char *folder_name(const char *dir, Arena *a) {
    char *full = realpath(dir, NULL);
    const char *path = full ? full : dir;
    const char *slash = strrchr(path, '/');
    const char *last = slash && slash[1] ? slash + 1 : path;
    char *name = arena_strndup(a, last, strlen(last));
    free(full);
    return name;
}

static bool root_read(Config *c, const cJSON *json, const char *file, Arena *a, Error *err) {
    Reader root = {json, file, a, err};
    TRY(architecture_read(c, &root));
    const cJSON *text = json_get(json, "text_config");
    Reader r = root;
    if (cJSON_IsObject(text) && !json_get(json, "hidden_size"))
        r.json = text;
    c->json = json_keep(r.json, a);
    c->file = file;
    TRY(sizes_read(c, &r));
    TRY(settings_read(c, &r));
    TRY(rope_read(c, r.json, file, a, err));
    TRY(tokens_read(c, &root));
    return r.json == json || tokens_read(c, &r);
}

bool config_read(Config *out, const char *dir, Arena *a, Error *err) {
    *out = (Config){
        .dir = dir,
        .name = folder_name(dir, a),
        .bos_token_id = -1,
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
    };
    const char *file = arena_printf(a, "%s/config.json", dir);
    cJSON *json;
    bool found;
    TRY(json_read(&json, &found, file, err));
    if (!found)
        return fail(err, ERR_CORRUPT, 262,
                    "%s: no such file; expected the folder of a Hugging Face checkpoint", file);
    bool done = quant_config_read(&out->quant, json, dir, &out->notes, a, err) &&
                root_read(out, json, file, a, err);
    cJSON_Delete(json);
    TRY(done);
    TRY(generation_read(out, dir, a, err));
    return tokenizer_eos_read(out, dir, a, err);
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena arena = {0};
    Config config = {.bos_token_id = -1};
    Error err;
    cJSON *json;
    if (json_parse(&json, (Bytes){data, size}, "fuzz", &err)) {
        Reader r = {json, "fuzz", &arena, &err};
        float inv_freq[1 << 11], factor;
        if (root_read(&config, json, "fuzz", &arena, &err) && sampling_read(&config, &r))
            rope_frequencies(&config, &config.rope, config.max_position_embeddings, inv_freq,
                             &factor);
        cJSON_Delete(json);
    }
    arena_free(&arena);
    return 0;
}
#endif

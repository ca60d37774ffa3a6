// The quantization configuration: which file holds it, its many spellings, what it may say.
//
// Idea: every file is normalized to one QuantConfig. config.json wins over quantize_config.json;
// a file that contradicts the winner is kept as `other`, because the tensors decide in the end
// (gptq.c). Whatever is another format under a similar name is refused here by name.
//
// Source: gptqmodel/quantization/config.py, transformers utils/quantization_config.py.
// Non-goals: keys that matter only while quantizing; they are listed so that unknown ones show up.
#include "compile.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 80 };

static const char *const FORMATS[QUANT_FORMAT_COUNT] = {
    // ORDER QUANT_FORMATS
    "gptq",
    "gptq_v2",
    "gptq_p",
};

// Everything that this file reads, then what only the quantizer or another reader needs.
static const char *const KNOWN_KEYS[] = {
    "bits", "w_bit", "wbits", "group_size", "q_group_size", "sym", "zero_point", "desc_act",
    "quant_method", "method", "format", "checkpoint_format", "version", "is_marlin_format",
    "lm_head", "dynamic", "pack_dtype", "meta", "rotation", "adapter", "packing_format", "backend",
    "model_file_base_name",
    // clang-format off
    "static_groups", "act_group_aware", "true_sequential", "damp_percent", "damp_auto_increment",
    "mse", "fallback", "gptaq", "foem", "v2", "v2_alpha", "hessian", "offload_to_disk",
    "offload_to_disk_path", "preprocessors", "model_name_or_path", "modules_in_block_to_quantize",
    "block_name_to_quantize", "module_name_preceding_first_block", "cache_block_outputs",
    "batch_size", "pad_token_id", "model_seqlen", "max_input_length", "dataset", "tokenizer",
    "use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config", "modules_to_not_convert",
    "autoround_version", "data_type", "iters", "lr", "nsamples", "seqlen", "low_gpu_mem_usage",
    "scale_dtype", "extra_config", "enable_minmax_tuning", "enable_norm_bias_tuning",
    "enable_quanted_input", "gradient_accumulate_steps", "minmax_lr", "quant_block_list",
    "to_quant_block_names", "supported_types", "amp", "act_bits", "act_dynamic", "act_group_size",
    "act_sym", "act_data_type", "super_bits", "super_group_size", "export_format",
    // clang-format on
};

// One configuration that is being read.
typedef struct Source {
    cJSON *json;
    const char *file; // for messages
    Notes *notes;
    Arena *arena;
    Error *err;
} Source;

// ---- helpers ------------------------------------------------------------------------------------

// Keys are compared in lower case by every writer and reader.
static void keys_lower(cJSON *object) {
    for (cJSON *item = object->child; item; item = item->next)
        for (char *c = item->string; *c; c++)
            *c = (char)tolower((unsigned char)*c);
}

static void text_lower(char *out, size_t size, const char *text) {
    size_t at = 0;
    for (; text[at] && at + 1 < size; at++)
        out[at] = (char)tolower((unsigned char)text[at]);
    out[at] = 0;
}

static bool refuse(const Source *s, int id, const char *key, const char *found,
                   const char *expected) {
    char text[TEXT_BYTES];
    text_escape(text, sizeof text, found, strlen(found));
    return fail(s->err, ERR_UNSUPPORTED, id, "%s: %s \"%s\" is not supported; %s", s->file, key,
                text, expected);
}

// The first of the keys that is there, else keys[0].
static const char *alias(const Source *s, const char *const keys[3]) {
    for (int at = 0; at < 3 && keys[at]; at++)
        if (json_get(s->json, keys[at]))
            return keys[at];
    return keys[0];
}

// ---- the parts ----------------------------------------------------------------------------------

// Sets *format to the text that names the layout ("" if none) by method.
static bool method_read(const Source *s, const char **format) {
    static const char *const KEYS[3] = {"quant_method", "method", NULL};
    const char *method = "gptq", *packing = "";
    char lower[TEXT_BYTES];
    TRY(json_text(s->json, alias(s, KEYS), &method, s->file, s->err));
    text_lower(lower, sizeof lower, method);
    if (strcmp(lower, "gptq") == 0 || strcmp(lower, "gptqmodel") == 0)
        return true;
    if (strcmp(lower, "marlin") == 0) {
        *format = "marlin";
        return true;
    }
    if (strcmp(lower, "auto-round") != 0 && strcmp(lower, "intel/auto-round") != 0)
        return refuse(s, 230, "quant_method", method,
                      "expected gptq (or auto-round in its GPTQ layout); this is another format "
                      "than GPTQ, whatever the model is called");
    TRY(json_text(s->json, "backend", &packing, s->file, s->err));
    TRY(json_text(s->json, "packing_format", &packing, s->file, s->err));
    text_lower(lower, sizeof lower, packing);
    if (strstr(lower, "awq"))
        return refuse(s, 231, "packing_format", packing, "export it again as auto_gptq");
    if (strstr(lower, "gptqmodel"))
        *format = FORMATS[QUANT_GPTQ_V2]; // made for asymmetric use: zeros are stored as they are
    return true;
}

static bool format_read(QuantConfig *q, const Source *s) {
    static const char *const KEYS[3] = {"format", "checkpoint_format", "version"};
    const char *format = FORMATS[QUANT_GPTQ];
    bool marlin = false;
    char lower[TEXT_BYTES];
    TRY(method_read(s, &format));
    TRY(json_text(s->json, alias(s, KEYS), &format, s->file, s->err));
    TRY(json_bool(s->json, "is_marlin_format", &marlin, s->file, s->err));
    text_lower(lower, sizeof lower, marlin ? "marlin" : format);
    for (int at = 0; at < QUANT_FORMAT_COUNT; at++) {
        if (strcmp(lower, FORMATS[at]) != 0)
            continue;
        q->format = (QuantFormat)at;
        return true;
    }
    return refuse(s, 232, "checkpoint_format", lower, "supported: gptq, gptq_v2, gptq_p");
}

static bool numbers_read(QuantConfig *q, const Source *s) {
    static const char *const BITS[3] = {"bits", "w_bit", "wbits"};
    static const char *const GROUP[3] = {"group_size", "q_group_size", NULL};
    int64_t bits = 4;
    bool asym = false;
    const char *pack = "int32";
    TRY(json_int(s->json, alias(s, BITS), &bits, s->file, s->err));
    TRY(json_int(s->json, alias(s, GROUP), &q->group_size, s->file, s->err));
    if (bits < 2 || bits > 8)
        return fail(s->err, ERR_UNSUPPORTED, 233, "%s: bits %lld; GPTQ has 2 to 8", s->file,
                    (long long)bits);
    if (q->group_size != -1 && (q->group_size < 1 || q->group_size > 1 << 24))
        return fail(s->err, ERR_CORRUPT, 234, "%s: group_size %lld; expected -1 or more than 0",
                    s->file, (long long)q->group_size);
    q->bits = (int)bits;
    TRY(json_bool(s->json, "zero_point", &asym, s->file, s->err));
    q->sym = !asym;
    TRY(json_bool(s->json, "sym", &q->sym, s->file, s->err));
    TRY(json_bool(s->json, "desc_act", &q->desc_act, s->file, s->err));
    TRY(json_text(s->json, "pack_dtype", &pack, s->file, s->err));
    if (strcasecmp(pack, "int32") != 0)
        return refuse(s, 235, "pack_dtype", pack, "supported: int32");
    return true;
}

// Settings under which the tensors alone are not the model.
static bool extras_refuse(const Source *s) {
    static const struct {
        const char *key, *why;
        int id;
    } EXTRAS[] = {
        {"rotation", "the model needs an online Hadamard transform, which is not supported", 236},
        {"adapter", "the model needs the deltas of an adapter, which are not supported", 237},
    };
    for (size_t at = 0; at < sizeof EXTRAS / sizeof EXTRAS[0]; at++) {
        const cJSON *item = json_get(s->json, EXTRAS[at].key);
        bool empty = !item || cJSON_IsFalse(item) || (cJSON_IsObject(item) && !item->child) ||
                     (cJSON_IsString(item) && !*item->valuestring);
        if (!empty)
            return fail(s->err, ERR_UNSUPPORTED, EXTRAS[at].id, "%s: \"%s\" is set: %s", s->file,
                        EXTRAS[at].key, EXTRAS[at].why);
    }
    return true;
}

static void quantizer_read(QuantConfig *q, const Source *s) {
    const cJSON *quantizer = json_get(json_get(s->json, "meta"), "quantizer");
    q->quantizer = "";
    if (cJSON_IsString(quantizer))
        q->quantizer = arena_printf(s->arena, "%s", quantizer->valuestring);
    for (const cJSON *item = cJSON_IsArray(quantizer) ? quantizer->child : NULL; item;
         item = item->next)
        if (cJSON_IsString(item) && strlen(q->quantizer) < TEXT_BYTES)
            q->quantizer = arena_printf(s->arena, "%s%s%s", q->quantizer, *q->quantizer ? ", " : "",
                                        item->valuestring);
}

// ---- dynamic ------------------------------------------------------------------------------------

static bool rule_read(QuantRule *rule, const cJSON *item, const Source *s) {
    int64_t bits = 0;
    bool flag;
    const struct {
        const char *key;
        int *value;
    } flags[] = {{"sym", &rule->sym}, {"desc_act", &rule->desc_act}};
    TRY(json_int(item, "bits", &bits, s->file, s->err));
    TRY(json_int(item, "group_size", &rule->group_size, s->file, s->err));
    if (bits < 0 || bits > 8 || rule->group_size < -1 || rule->group_size > 1 << 24)
        return fail(s->err, ERR_CORRUPT, 238,
                    "%s: a rule of \"dynamic\" has bits %lld, "
                    "group_size %lld",
                    s->file, (long long)bits, (long long)rule->group_size);
    rule->bits = (int)bits;
    for (size_t at = 0; at < sizeof flags / sizeof flags[0]; at++) {
        if (!json_get(item, flags[at].key))
            continue;
        TRY(json_bool(item, flags[at].key, &flag, s->file, s->err));
        *flags[at].value = flag;
    }
    return true;
}

// GPTQModel tries negative rules first, then the others, each in the order of the file.
static bool rules_read(QuantConfig *q, const Source *s) {
    const cJSON *dynamic = json_get(s->json, "dynamic");
    if (!dynamic)
        return true;
    if (!cJSON_IsObject(dynamic))
        return fail(s->err, ERR_CORRUPT, 239, "%s: \"dynamic\" must map patterns to settings",
                    s->file);
    q->rules = ARENA_NEW(s->arena, QuantRule, cJSON_GetArraySize(dynamic));
    for (int negative = 1; negative >= 0; negative--) {
        int place = 0;
        for (const cJSON *item = dynamic->child; item; item = item->next, place++) {
            const char *pattern = item->string;
            if (negative != (pattern[0] == '-'))
                continue;
            if ((pattern[0] == '-' || pattern[0] == '+') && pattern[1] == ':')
                pattern += 2;
            QuantRule *rule = &q->rules[q->rule_count++];
            *rule = (QuantRule){.negative = negative, .sym = -1, .desc_act = -1, .place = place};
            rule->pattern = arena_strndup(s->arena, pattern, strlen(pattern));
            if (!negative)
                TRY(rule_read(rule, item, s));
        }
    }
    return true;
}

// AutoRound's settings of single modules, by their whole names or patterns: rules of their own.
static bool extra_config_read(QuantConfig *q, const Source *s) {
    const cJSON *extra = json_get(s->json, "extra_config");
    if (!cJSON_IsObject(extra) || q->rule_count)
        return true;
    q->rules = ARENA_NEW(s->arena, QuantRule, cJSON_GetArraySize(extra));
    for (const cJSON *item = extra->child; item; item = item->next) {
        QuantRule *rule = &q->rules[q->rule_count];
        int64_t bits = 0;
        *rule = (QuantRule){.sym = -1, .desc_act = -1, .place = q->rule_count++};
        rule->pattern = arena_printf(s->arena, "(?:%s)$", item->string);
        TRY(json_int(item, "bits", &bits, s->file, s->err));
        rule->negative = bits > 8;
        if (!rule->negative)
            TRY(rule_read(rule, item, s));
    }
    return true;
}

// ---- one file, all files ------------------------------------------------------------------------

static void unknown_note(const Source *s) {
    for (const cJSON *item = s->json->child; item; item = item->next) {
        bool known = false;
        for (size_t at = 0; !known && at < sizeof KNOWN_KEYS / sizeof KNOWN_KEYS[0]; at++)
            known = strcmp(KNOWN_KEYS[at], item->string) == 0;
        char text[TEXT_BYTES];
        if (!known)
            note(s->notes, s->arena, "%s: unknown quantization key \"%s\" is ignored", s->file,
                 text_escape(text, sizeof text, item->string, strlen(item->string)));
    }
}

static bool source_read(QuantConfig *q, const Source *s) {
    *q = (QuantConfig){.present = true,
                       .bits = 4,
                       .group_size = 128,
                       .sym = true,
                       .source = s->file,
                       .quantizer = ""};
    if (!cJSON_IsObject(s->json))
        return fail(s->err, ERR_CORRUPT, 240, "%s: the quantization configuration is no object",
                    s->file);
    keys_lower(s->json);
    TRY(format_read(q, s));
    TRY(numbers_read(q, s));
    TRY(extras_refuse(s));
    TRY(rules_read(q, s));
    TRY(extra_config_read(q, s));
    quantizer_read(q, s);
    unknown_note(s);
    return true;
}

static bool agrees(const QuantConfig *a, const QuantConfig *b) {
    return a->bits == b->bits && a->group_size == b->group_size && a->sym == b->sym &&
           a->format == b->format;
}

// Takes one more configuration: the first one wins, the first that contradicts it is kept.
static bool source_add(QuantConfig *out, const Source *s) {
    QuantConfig *q = ARENA_NEW(s->arena, QuantConfig, 1);
    TRY(source_read(q, s));
    if (!out->present) {
        *out = *q;
        return true;
    }
    if (agrees(out, q))
        return true;
    note(s->notes, s->arena,
         "%s says bits %d, group_size %lld, sym %s, format %s; %s says %d, %lld, %s, %s and is "
         "believed unless the tensors refute it",
         s->file, q->bits, (long long)q->group_size, q->sym ? "true" : "false", FORMATS[q->format],
         out->source, out->bits, (long long)out->group_size, out->sym ? "true" : "false",
         FORMATS[out->format]);
    if (!out->other)
        out->other = q;
    return true;
}

// A copy that may be changed, of the member of config.json.
static cJSON *config_member(const cJSON *config_json) {
    const cJSON *item = json_get(config_json, "quantization_config");
    if (!item)
        item = json_get(json_get(config_json, "text_config"), "quantization_config");
    if (!item)
        item = json_get(config_json, "compression_config");
    return item ? cJSON_Duplicate(item, true) : NULL;
}

bool quant_config_read(QuantConfig *out, const cJSON *config_json, const char *dir, Notes *notes,
                       Arena *a, Error *err) {
    static const char *const FILES[] = {"quantize_config.json", "quant_config.json",
                                        "quantization_config.json"};
    *out = (QuantConfig){.quantizer = "", .source = arena_printf(a, "%s/config.json", dir)};
    Source s = {config_member(config_json), out->source, notes, a, err};
    bool done = !s.json || source_add(out, &s);
    cJSON_Delete(s.json);
    for (size_t at = 0; done && at < sizeof FILES / sizeof FILES[0]; at++) {
        bool found;
        s.file = arena_printf(a, "%s/%s", dir, FILES[at]);
        done = json_read(&s.json, &found, s.file, err) && (!found || source_add(out, &s));
        cJSON_Delete(s.json);
    }
    return done;
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena arena = {0};
    Notes notes = {0};
    QuantConfig q = {0};
    Error err;
    Source s = {NULL, "fuzz", &notes, &arena, &err};
    if (json_parse(&s.json, (Bytes){data, size}, "fuzz", &err)) {
        if (source_add(&q, &s))
            source_add(&q, &s);
        cJSON_Delete(s.json);
    }
    arena_free(&arena);
    return 0;
}
#endif

// JSON reading, config.json, quantization configurations and rope: both spellings, defaults, every
// refusal, and the frequencies that others computed.
#include "../../compiler/compile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

#define LLAMA                                                                                 \
    "\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":256,\"intermediate_size\":512," \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":1000"

// A folder with these files; NULL: not there.
typedef struct Files {
    const char *config, *quantize, *generation, *tokenizer_config, *tokenizer;
} Files;

static void files_write(const char *dir, const Files *f) {
    const struct {
        const char *name, *text;
    } files[] = {
        {"config.json", f->config},
        {"quantize_config.json", f->quantize},
        {"generation_config.json", f->generation},
        {"tokenizer_config.json", f->tokenizer_config},
        {"tokenizer.json", f->tokenizer},
    };
    for (size_t at = 0; at < sizeof files / sizeof files[0]; at++)
        if (files[at].text)
            text_write(dir, files[at].name, files[at].text);
}

static Config read_good(const Files *f, Arena *a) {
    char dir[FOLDER_BYTES];
    Error err = {0};
    Config c;
    folder_make(dir);
    files_write(dir, f);
    bool done = config_read(&c, arena_strndup(a, dir, strlen(dir)), a, &err);
    folder_remove(dir);
    if (!done)
        print_message("GQC-%04d %s\n", err.id, err.message);
    assert_true(done);
    return c;
}

// ---- refusals -----------------------------------------------------------------------------------

typedef struct Refusal {
    int id;
    ErrorCode code;
    Files files;
} Refusal;

#define CONFIG(more)     {.config = "{" LLAMA more "}"}
#define QUANT(dict)      {.config = "{" LLAMA ",\"quantization_config\":" dict "}"}
#define ROPE(dict)       {.config = "{" LLAMA ",\"rope_scaling\":" dict "}"}
#define GENERATION(text) {.config = "{" LLAMA "}", .generation = text}

static const Refusal REFUSALS[] = {
    // JSON
    {202, ERR_CORRUPT, {.config = "{" LLAMA "}", .generation = NULL}}, // made below: a folder
    {204, ERR_CORRUPT, {.config = "{\x01"}},                           // made below: a zero byte
    {205, ERR_CORRUPT, {.config = "{\"a\":\"\\u0000\"}"}},
    {206, ERR_CORRUPT, {.config = "{\"a"}},
    {207, ERR_CORRUPT, {.config = "{\"\xff\":1}"}},
    {208,
     ERR_CORRUPT,
     {.config = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}},
    {211, ERR_CORRUPT, {.config = "{\n \"a\": nonsense}"}},
    {211, ERR_CORRUPT, {.config = ""}},
    {212, ERR_CORRUPT, {.config = "{} {}"}},
    {213, ERR_CORRUPT, CONFIG(",\"head_dim\":\"x\\n\"")},
    {213, ERR_CORRUPT, CONFIG(",\"head_dim\":64.5")},
    {213, ERR_CORRUPT, CONFIG(",\"head_dim\":1e300")},
    {214, ERR_CORRUPT, CONFIG(",\"rms_norm_eps\":[]")},
    {214, ERR_CORRUPT, CONFIG(",\"rms_norm_eps\":1e999")},
    {215, ERR_CORRUPT, CONFIG(",\"attention_bias\":2")},
    {216, ERR_CORRUPT, CONFIG(",\"hidden_act\":7")},
    // rope
    {221, ERR_UNSUPPORTED, ROPE("{\"rope_type\":\"ntk\\u001b\"}")},
    {222, ERR_CORRUPT, ROPE("{\"type\":\"su\",\"short_factor\":[1,2]}")},
    {222, ERR_CORRUPT, ROPE("{\"type\":\"longrope\"}")},
    {223, ERR_CORRUPT, ROPE("{\"type\":\"linear\",\"factor\":0}")},
    {223, ERR_CORRUPT, ROPE("{\"type\":\"llama3\",\"low_freq_factor\":4,\"high_freq_factor\":4}")},
    {223, ERR_CORRUPT, CONFIG(",\"rope_theta\":1")},
    {224, ERR_UNSUPPORTED, CONFIG(",\"partial_rotary_factor\":0.02")},
    // quantization
    {230, ERR_UNSUPPORTED, QUANT("{\"quant_method\":\"awq\"}")},
    {230, ERR_UNSUPPORTED, QUANT("{\"quant_method\":\"compressed-tensors\"}")},
    {230, ERR_UNSUPPORTED, QUANT("{\"quant_method\":\"bitsandbytes\"}")},
    {230, ERR_UNSUPPORTED, QUANT("{\"quant_method\":\"fp8\"}")},
    {230, ERR_UNSUPPORTED, QUANT("{\"METHOD\":\"qqq\"}")},
    {231, ERR_UNSUPPORTED,
     QUANT("{\"quant_method\":\"auto-round\",\"packing_format\":\"auto_round:auto_awq\"}")},
    {232, ERR_UNSUPPORTED, QUANT("{\"checkpoint_format\":\"marlin\"}")},
    {232, ERR_UNSUPPORTED, QUANT("{\"quant_method\":\"marlin\"}")},
    {232, ERR_UNSUPPORTED, QUANT("{\"is_marlin_format\":true}")},
    {232, ERR_UNSUPPORTED, QUANT("{\"format\":\"bitblas\",\"checkpoint_format\":\"gptq\"}")},
    {232, ERR_UNSUPPORTED, QUANT("{\"version\":\"GEMM\"}")},
    {233, ERR_UNSUPPORTED, QUANT("{\"bits\":1}")},
    {233, ERR_UNSUPPORTED, QUANT("{\"bits\":16}")},
    {234, ERR_CORRUPT, QUANT("{\"group_size\":0}")},
    {234, ERR_CORRUPT, QUANT("{\"group_size\":-2}")},
    {235, ERR_UNSUPPORTED, QUANT("{\"pack_dtype\":\"int16\"}")},
    {236, ERR_UNSUPPORTED, QUANT("{\"rotation\":\"hadamard\"}")},
    {237, ERR_UNSUPPORTED, QUANT("{\"adapter\":{\"name\":\"lora\"}}")},
    {238, ERR_CORRUPT, QUANT("{\"dynamic\":{\"x\":{\"bits\":99}}}")},
    {239, ERR_CORRUPT, QUANT("{\"dynamic\":[]}")},
    {240, ERR_CORRUPT, QUANT("[]")},
    // config.json
    {250,
     ERR_CORRUPT,
     {.config = "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":null}"}},
    {251, ERR_CORRUPT, CONFIG(",\"num_hidden_layers\":-1")},
    {251, ERR_CORRUPT, CONFIG(",\"num_key_value_heads\":0")},
    {251, ERR_CORRUPT, CONFIG(",\"num_key_value_heads\":-1")},
    {251, ERR_CORRUPT, CONFIG(",\"vocab_size\":99999999999")},
    {252, ERR_CORRUPT, CONFIG(",\"num_key_value_heads\":3")},
    {253, ERR_UNSUPPORTED, CONFIG(",\"head_dim\":63")},
    {254, ERR_UNSUPPORTED, CONFIG(",\"dtype\":\"float8\"")},
    {255, ERR_CORRUPT, CONFIG(",\"rms_norm_eps\":-1")},
    {256, ERR_CORRUPT, {.config = "{\"hidden_size\":1}"}},
    {256, ERR_CORRUPT, {.config = "[]"}},
    {257, ERR_UNSUPPORTED, {.config = "{\"architectures\":[\"GPT2LMHeadModel\"]}"}},
    {258, ERR_CORRUPT, CONFIG(",\"eos_token_id\":1000")},
    {258, ERR_CORRUPT, CONFIG(",\"eos_token_id\":[1,\"2\"]")},
    {258, ERR_CORRUPT, CONFIG(",\"eos_token_id\":1.5")},
    {259, ERR_UNSUPPORTED, CONFIG(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]")},
    {260, ERR_CORRUPT, CONFIG(",\"bos_token_id\":-5")},
    {261, ERR_CORRUPT, GENERATION("{\"top_p\":0}")},
    {261, ERR_CORRUPT, GENERATION("{\"temperature\":-1}")},
    {262, ERR_CORRUPT, {.generation = "{}"}},
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof REFUSALS / sizeof REFUSALS[0]; at++) {
        const Refusal *r = &REFUSALS[at];
        char dir[FOLDER_BYTES], path[FILES_PATH_BYTES];
        Arena a = {0};
        Error err = {0};
        Config c;
        folder_make(dir);
        files_write(dir, &r->files);
        snprintf(path, sizeof path, "%s/generation_config.json", dir);
        if (r->id == 202)
            assert_int_equal(mkdir(path, 0755), 0);
        if (r->id == 204)
            file_write(dir, "config.json", "{\0}", 3);
        assert_false(config_read(&c, dir, &a, &err));
        if (err.id != r->id)
            print_message("%s: GQC-%04d %s\n", r->files.config, err.id, err.message);
        assert_int_equal(err.id, r->id);
        assert_int_equal(err.code, r->code);
        for (const char *letter = err.message; *letter; letter++)
            assert_true(*letter >= ' ' && *letter < 0x7f);
        if (r->id == 202)
            rmdir(path);
        folder_remove(dir);
        arena_free(&a);
    }
}

static void test_json_place(void **state) {
    (void)state;
    Error err = {0};
    cJSON *json;
    static const char text[] = "{\n  \"a\": 1,\n  \"b\": x\n}";
    assert_false(
        json_parse(&json, (Bytes){(const unsigned char *)text, sizeof text - 1}, "f", &err));
    assert_string_equal(err.message, "f:3:8: not valid JSON: unexpected text");
}

// 16 million commas would become a gigabyte of nodes.
static void test_json_limits(void **state) {
    (void)state;
    enum { SIZE = (1 << 24) + 2 };
    Arena a = {0};
    Error err = {0};
    Bytes text;
    cJSON *json;
    unsigned char *commas = malloc(SIZE);
    assert_non_null(commas);
    memset(commas, ',', SIZE);
    commas[0] = '[';
    assert_false(json_parse(&json, (Bytes){commas, SIZE}, "f", &err));
    assert_int_equal(err.id, 209);
    assert_null(json);
    assert_false(file_read(&text, "build/tests/no-such-file", 1, &a, &err));
    assert_int_equal(err.id, 201);
    free(commas);
    arena_free(&a);
}

static void test_json_tolerance(void **state) {
    (void)state;
    Error err = {0};
    cJSON *json;
    static const char text[] =
        "{\"bits\": \"4\", \"list\": [1, 2 , ], \"text\": \",]\\\",}\", \"twice\": 1, "
        "\"twice\": 2, \"yes\": \"True\", \"none\": null,\n}";
    assert_true(
        json_parse(&json, (Bytes){(const unsigned char *)text, sizeof text - 1}, "f", &err));
    int64_t bits = 0, twice = 0, none = 7;
    bool yes = false;
    const char *string = NULL;
    assert_true(json_int(json, "bits", &bits, "f", &err) && bits == 4);
    assert_true(json_int(json, "twice", &twice, "f", &err) && twice == 2);
    assert_true(json_int(json, "none", &none, "f", &err) && none == 7);
    assert_true(json_bool(json, "yes", &yes, "f", &err) && yes);
    assert_true(json_text(json, "text", &string, "f", &err));
    assert_string_equal(string, ",]\",}");
    assert_int_equal(cJSON_GetArraySize(json_get(json, "list")), 2);
    assert_null(json_get(json, "none"));
    cJSON_Delete(json);
}

// ---- what is read -------------------------------------------------------------------------------

static void test_defaults(void **state) {
    (void)state;
    Arena a = {0};
    Config c =
        read_good(&(Files){.config = "{" LLAMA ",\"head_dim\":null,\"rope_scaling\":null}"}, &a);
    assert_string_equal(c.architecture, "LlamaForCausalLM");
    assert_int_equal(c.num_key_value_heads, 4);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.max_position_embeddings, 2048);
    assert_string_equal(c.hidden_act, "silu");
    assert_true(c.rms_norm_eps == 1e-6 && c.rope.rope_theta == 10000);
    assert_false(c.tie_word_embeddings || c.tie_present || c.attention_bias || c.quant.present);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.stop_count, 0);
    assert_true(c.temperature == 1 && c.top_p == 1 && c.top_k == 0 && c.repetition_penalty == 1);
    arena_free(&a);
}

static void test_new_spelling(void **state) {
    (void)state;
    Arena a = {0};
    Config c = read_good(
        &(Files){.config = "{" LLAMA ",\"dtype\":\"bfloat16\",\"head_dim\":128,"
                           "\"tie_word_embeddings\":true,\"num_key_value_heads\":2,"
                           "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"linear\","
                           "\"factor\":4.0}}"},
        &a);
    assert_int_equal(c.dtype, DTYPE_BF16);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.rope.type, ROPE_LINEAR);
    assert_true(c.rope.rope_theta == 5e5 && c.rope.factor == 4);
    assert_true(c.tie_word_embeddings && c.tie_present);
    arena_free(&a);
}

static void test_nested(void **state) {
    (void)state;
    Arena a = {0};
    Config c = read_good(
        &(Files){.config = "{\"architectures\":[\"LlamaForCausalLM\"],\"eos_token_id\":1,"
                           "\"quantization_config\":{\"bits\":8},"
                           "\"text_config\":{\"hidden_size\":64,\"intermediate_size\":64,"
                           "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"vocab_size\":10,"
                           "\"eos_token_id\":[2,1]}}"},
        &a);
    assert_int_equal(c.hidden_size, 64);
    assert_int_equal(c.quant.bits, 8);
    assert_int_equal(c.stop_count, 2);
    arena_free(&a);
}

// Union of config.json, generation_config.json and the tokenizer's own.
static void test_stop_tokens(void **state) {
    (void)state;
    Arena a = {0};
    Config c = read_good(
        &(Files){.config = "{" LLAMA ",\"eos_token_id\":9,\"bos_token_id\":null}",
                 .generation = "{\"eos_token_id\":[8,9],\"bos_token_id\":3,\"do_sample\":true,"
                               "\"temperature\":0.6,\"top_p\":\"0.9\",\"top_k\":40}",
                 .tokenizer_config = "{\"eos_token\":{\"content\":\"<end>\"}}",
                 .tokenizer = "{\"added_tokens\":[{\"id\":5,\"content\":\"<x>\"},"
                              "{\"id\":7,\"content\":\"<end>\"}]}"},
        &a);
    assert_int_equal(c.stop_count, 3);
    assert_int_equal(c.stop_ids[0], 9);
    assert_int_equal(c.stop_ids[1], 8);
    assert_int_equal(c.stop_ids[2], 7);
    assert_int_equal(c.bos_token_id, 3);
    assert_true(c.do_sample && c.temperature == 0.6 && c.top_p == 0.9 && c.top_k == 40);
    arena_free(&a);
}

// ---- quantization -------------------------------------------------------------------------------

typedef struct QuantCase {
    const char *dict;
    int bits;
    int64_t group_size;
    bool sym, desc_act;
    QuantFormat format;
    int notes;
} QuantCase;

static const QuantCase QUANTS[] = {
    {"{}", 4, 128, true, false, QUANT_GPTQ, 0},
    {"{\"bits\":\"8\",\"group_size\":-1,\"desc_act\":true}", 8, -1, true, true, QUANT_GPTQ, 0},
    {"{\"w_bit\":3,\"q_group_size\":64,\"zero_point\":true}", 3, 64, false, false, QUANT_GPTQ, 0},
    {"{\"wbits\":2,\"Sym\":false,\"checkpoint_format\":\"GPTQ_V2\"}", 2, 128, false, false,
     QUANT_GPTQ_V2, 0},
    {"{\"format\":\"gptq_v2\",\"checkpoint_format\":\"gptq\"}", 4, 128, true, false, QUANT_GPTQ_V2,
     0},
    {"{\"bits\":5,\"format\":\"gptq_p\"}", 5, 128, true, false, QUANT_GPTQ_P, 0},
    {"{\"is_marlin_format\":false,\"rotation\":null,\"adapter\":null,\"dynamic\":null}", 4, 128,
     true, false, QUANT_GPTQ, 0},
    {"{\"quant_method\":\"intel/auto-round\",\"packing_format\":\"auto_round:auto_gptq\"}", 4, 128,
     true, false, QUANT_GPTQ, 0},
    {"{\"quant_method\":\"auto-round\",\"backend\":\"auto_round:gptqmodel\"}", 4, 128, true, false,
     QUANT_GPTQ_V2, 0},
    {"{\"v2\":false,\"damp_percent\":0.01,\"surprise\":1}", 4, 128, true, false, QUANT_GPTQ, 1},
};

static void test_quant(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof QUANTS / sizeof QUANTS[0]; at++) {
        Arena a = {0};
        const QuantCase *q = &QUANTS[at];
        const char *text = arena_printf(&a, "{" LLAMA ",\"quantization_config\":%s}", q->dict);
        Config c = read_good(&(Files){.config = text}, &a);
        assert_true(c.quant.present);
        assert_int_equal(c.quant.bits, q->bits);
        assert_int_equal(c.quant.group_size, q->group_size);
        assert_int_equal(c.quant.sym, q->sym);
        assert_int_equal(c.quant.desc_act, q->desc_act);
        assert_int_equal(c.quant.format, q->format);
        assert_int_equal(c.notes.count, q->notes);
        assert_int_equal(c.quant.rule_count, 0);
        arena_free(&a);
    }
}

static void test_quant_files(void **state) {
    (void)state;
    Arena a = {0};
    Config c = read_good(&(Files){.config = "{" LLAMA "}", .quantize = "{\"bits\":8,}"}, &a);
    assert_int_equal(c.quant.bits, 8);
    assert_non_null(strstr(c.quant.source, "quantize_config.json"));
    c = read_good(&(Files){.config = "{" LLAMA ",\"quantization_config\":{\"bits\":8}}",
                           .quantize = "{\"bits\":8,\"group_size\":128,\"desc_act\":true}"},
                  &a);
    assert_null(c.quant.other);
    assert_int_equal(c.notes.count, 0);
    c = read_good(&(Files){.config = "{" LLAMA ",\"quantization_config\":{\"bits\":8}}",
                           .quantize = "{\"bits\":4,\"group_size\":32}"},
                  &a);
    assert_int_equal(c.quant.bits, 8);
    assert_non_null(c.quant.other);
    assert_int_equal(c.quant.other->bits, 4);
    assert_int_equal(c.notes.count, 1);
    arena_free(&a);
}

static void test_dynamic_rules(void **state) {
    (void)state;
    Arena a = {0};
    Config c = read_good(
        &(Files)QUANT("{\"dynamic\":{\"+:.*\\\\.mlp\\\\..*\":{\"bits\":8,\"group_size\":32},"
                      "\"-:.*\\\\.down_proj\":{},\"lm_head\":{\"sym\":false},\"-:x\":false}}"),
        &a);
    const QuantRule *r = c.quant.rules;
    assert_int_equal(c.quant.rule_count, 4);
    assert_string_equal(r[0].pattern, ".*\\.down_proj");
    assert_string_equal(r[1].pattern, "x");
    assert_true(r[0].negative && r[1].negative && !r[2].negative);
    assert_string_equal(r[2].pattern, ".*\\.mlp\\..*");
    assert_int_equal(r[2].bits, 8);
    assert_int_equal(r[2].group_size, 32);
    assert_int_equal(r[2].sym, -1);
    assert_string_equal(r[3].pattern, "lm_head");
    assert_int_equal(r[3].sym, 0);
    QuantEffective q;
    Error err = {0};
    assert_true(quant_effective(&q, &c.quant, "lm_head", &err));
    assert_false(q.sym);
    assert_false(q.negative);
    arena_free(&a);
}

// ---- rope ---------------------------------------------------------------------------------------

typedef struct Frequency {
    int index;
    double value; // with 9 digits
} Frequency;

typedef struct RopeCase {
    const char *what, *settings;
    int64_t head_dim, max_position, max_seq_len;
    double factor; // on cos and sin
    Frequency expected[8];
} RopeCase;

static const RopeCase ROPES[] = {
    {"Llama 3.1",
     "\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
     "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
     "\"original_max_position_embeddings\":8192}",
     128,
     131072,
     131072,
     1,
     {{28, 3.21144599e-3},
      {29, 2.16657076e-3},
      {34, 1.78507813e-4},
      {35, 9.55621235e-5},
      {63, 3.06892599e-7}}},
    {"Llama 3.2 1B",
     "\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\","
     "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
     "\"original_max_position_embeddings\":8192}",
     64,
     131072,
     4096,
     1,
     {{15, 1.29054793e-3}, {17, 9.7082878e-5}, {18, 1.94616382e-5}, {31, 9.41830673e-8}}},
    {"Qwen2.5 yarn",
     "\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
     "\"original_max_position_embeddings\":32768}",
     128,
     32768,
     131072,
     1.138629436,
     {{24, 5.37532149e-3}, {30, 1.06436098e-3}, {40, 4.44569853e-5}, {63, 3.1023444e-7}}},
    // theta rises to 30527.7367; inv_freq[i] = theta^(-2i / 128)
    {"dynamic",
     "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}",
     128,
     4096,
     8192,
     1,
     {{0, 1}, {32, 5.72338151e-3}, {63, 3.84927328e-5}}},
    {"dynamic, short",
     "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}",
     128,
     4096,
     4096,
     1,
     {{0, 1}, {32, 0.01}}},
    {"linear",
     "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}",
     128,
     4096,
     4096,
     1,
     {{0, 0.25}, {32, 0.0025}}},
    {"default", "\"rope_scaling\":{\"type\":\"mrope\"}", 128, 4096, 4096, 1, {{0, 1}, {32, 0.01}}},
    {"longrope, short",
     "\"original_max_position_embeddings\":4096,\"rope_scaling\":{\"type\":\"su\","
     "\"short_factor\":[1,1],\"long_factor\":[4,2]}",
     4,
     131072,
     4096,
     1.190238071,
     {{0, 1}, {1, 0.01}}},
    {"longrope, long",
     "\"original_max_position_embeddings\":4096,\"rope_scaling\":{\"type\":"
     "\"yarn\",\"short_factor\":[1,1],\"long_factor\":[4,2]}",
     4,
     131072,
     4097,
     1.190238071,
     {{0, 0.25}, {1, 0.005}}},
    {"yarn, mscale",
     "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":40,\"mscale\":1.0,"
     "\"mscale_all_dim\":1.0}",
     128,
     4096,
     4096,
     1,
     {{0, 1}}},
    {"yarn, given",
     "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":40,"
     "\"attention_factor\":1.5}",
     128,
     4096,
     4096,
     1.5,
     {{0, 1}}},
};

static void test_rope(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof ROPES / sizeof ROPES[0]; at++) {
        const RopeCase *r = &ROPES[at];
        Arena a = {0};
        const char *text =
            arena_printf(&a, "{" LLAMA ",\"head_dim\":%lld,\"max_position_embeddings\":%lld,%s}",
                         (long long)r->head_dim, (long long)r->max_position, r->settings);
        Config c = read_good(&(Files){.config = text}, &a);
        float inv_freq[64], factor;
        assert_int_equal(rope_frequencies(&c, &c.rope, r->max_seq_len, inv_freq, &factor), r->head_dim);
        if (fabs((double)factor - r->factor) > 1e-6)
            print_message("%s: factor %.9g, expected %.9g\n", r->what, (double)factor, r->factor);
        assert_true(fabs((double)factor - r->factor) <= 1e-6);
        for (size_t i = 0; i < 8 && r->expected[i].value > 0; i++) {
            double found = (double)inv_freq[r->expected[i].index];
            double error = fabs(found / r->expected[i].value - 1);
            if (error > 2e-7)
                print_message("%s: inv_freq[%d] = %.9g, expected %.9g\n", r->what,
                              r->expected[i].index, found, r->expected[i].value);
            assert_true(error <= 2e-7);
        }
        arena_free(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_json_place),
        cmocka_unit_test(test_json_tolerance), cmocka_unit_test(test_json_limits),
        cmocka_unit_test(test_defaults),       cmocka_unit_test(test_new_spelling),
        cmocka_unit_test(test_nested),         cmocka_unit_test(test_stop_tokens),
        cmocka_unit_test(test_quant),          cmocka_unit_test(test_quant_files),
        cmocka_unit_test(test_dynamic_rules),  cmocka_unit_test(test_rope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// A Llama checkpoint to a graph, and `check` on it: biases, heads, norms, what is missing, what is
// not used. The graph's numbers are the business of the oracle's test.
#include "../../compiler/compile.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

enum { HIDDEN = 32, INTER = 64, HEADS = 2, DIM = 16, VOCAB = 48, MAX_TENSORS = 64 };

#define CONFIG                                                                               \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":32,\"intermediate_size\":64," \
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"           \
    "\"vocab_size\":48,\"max_position_embeddings\":64,\"quantization_config\":{\"bits\":4,"  \
    "\"group_size\":32}"

// Another family: of a key that is there twice the last one counts.
#define FAMILY(name) ",\"architectures\":[\"" name "ForCausalLM\"]"

typedef struct Model {
    const char *config; // behind CONFIG, without the last brace
    const char *removed;
    FileTensor added[2]; // replace those of the same name
} Model;

static const struct {
    const char *name;
    int64_t k, n;
} LINEARS[] = {
    {"self_attn.q_proj", HIDDEN, HEADS *DIM}, {"self_attn.k_proj", HIDDEN, DIM},
    {"self_attn.v_proj", HIDDEN, DIM},        {"self_attn.o_proj", HEADS *DIM, HIDDEN},
    {"mlp.gate_proj", HIDDEN, INTER},         {"mlp.up_proj", HIDDEN, INTER},
    {"mlp.down_proj", INTER, HIDDEN},
};

static uint32_t words[INTER * INTER];
static uint16_t ones[VOCAB * HIDDEN], embed[VOCAB * HIDDEN], nan_norm[HIDDEN];
static uint16_t bias_values[INTER];

static void add(FileTensor *tensors, int *count, const Model *m, FileTensor t) {
    bool gone = m->removed && strcmp(m->removed, t.name) == 0;
    for (int at = 0; at < 2; at++)
        gone = gone || (m->added[at].name && strcmp(m->added[at].name, t.name) == 0);
    if (!gone)
        tensors[(*count)++] = t;
}

static void model_write(const char *dir, const Model *m, Arena *a) {
    FileTensor tensors[MAX_TENSORS];
    int count = 0;
    for (int at = 0; at < VOCAB * HIDDEN; at++) {
        embed[at] = (uint16_t)(0x3000 + at);
        ones[at] = 0x3c00;
    }
    memset(words, 0x77, sizeof words);
    memcpy(nan_norm, ones, sizeof nan_norm);
    nan_norm[5] = 0xfe00;
    for (size_t at = 0; at < sizeof LINEARS / sizeof LINEARS[0]; at++) {
        int64_t k = LINEARS[at].k, n = LINEARS[at].n;
        const char *name = arena_printf(a, "model.layers.0.%s", LINEARS[at].name);
        const FileTensor parts[] = {
            {arena_printf(a, "%s.qweight", name), "I32", 2, {k / 8, n}, words, (size_t)(k * n / 2)},
            {arena_printf(a, "%s.qzeros", name),
             "I32",
             2,
             {k / 32, n / 8},
             words,
             (size_t)(k * n / 64)},
            {arena_printf(a, "%s.scales", name), "F16", 2, {k / 32, n}, ones, (size_t)(k * n / 16)},
        };
        for (int part = 0; part < 3; part++)
            add(tensors, &count, m, parts[part]);
    }
    const char *const norms[] = {"model.layers.0.input_layernorm.weight",
                                 "model.layers.0.post_attention_layernorm.weight",
                                 "model.norm.weight"};
    for (int at = 0; at < 3; at++)
        add(tensors, &count, m, (FileTensor){norms[at], "F16", 1, {HIDDEN}, ones, HIDDEN * 2});
    add(tensors, &count, m,
        (FileTensor){"model.embed_tokens.weight", "F16", 2, {VOCAB, HIDDEN}, embed, sizeof embed});
    for (int at = 0; at < 2; at++)
        if (m->added[at].name)
            tensors[count++] = m->added[at];
    tensors_write(dir, "model.safetensors", tensors, count);
    text_write(dir, "config.json", arena_printf(a, CONFIG "%s}", m->config ? m->config : ""));
}

typedef struct Box {
    char dir[FOLDER_BYTES];
    Arena arena;
    Error err;
    Checkpoint checkpoint;
    Config config;
    Graph g;
} Box;

static bool box_build(Box *b, const Model *m) {
    memset(b, 0, sizeof *b);
    folder_make(b->dir);
    model_write(b->dir, m, &b->arena);
    b->g = graph_new(&b->arena);
    if (!checkpoint_open(&b->checkpoint, b->dir, &b->arena, &b->err) ||
        !config_read(&b->config, b->dir, &b->arena, &b->err))
        fail_msg("%s", b->err.message);
    const Arch *arch = arch_find(b->config.architecture);
    return arch_build(arch, &b->g, &b->config, &b->checkpoint, 64, &b->arena, &b->err) &&
           graph_verify(&b->g, &b->err);
}

static void box_close(Box *b) {
    folder_remove(b->dir);
    arena_free(&b->arena);
}

static Box build_good(const Model *m) {
    Box b;
    bool done = box_build(&b, m);
    if (!done)
        print_message("GQC-%04d %s\n", b.err.id, b.err.message);
    assert_true(done);
    return b;
}

static const PackedTensor *packed_find(const Graph *g, const char *name) {
    for (int at = 0; at < g->packed_count; at++)
        if (strcmp(g->packed[at].name, name) == 0)
            return &g->packed[at];
    return NULL;
}

static const Op *last_op(const Graph *g) {
    return &g->ops[g->op_count - 1];
}

static void test_graph(void **state) {
    (void)state;
    static const OpKind expected[] = {
        OP_EMBED,     OP_NORM,      OP_LINEAR, OP_LINEAR, OP_LINEAR, OP_ROPE,   OP_ROPE,
        OP_KV_APPEND, OP_ATTENTION, OP_LINEAR, OP_ADD,    OP_NORM,   OP_LINEAR, OP_LINEAR,
        OP_ACT_MUL,   OP_LINEAR,    OP_ADD,    OP_GATHER, OP_NORM,   OP_LINEAR,
    };
    enum { COUNT = sizeof expected / sizeof expected[0] };
    Box b = build_good(&(Model){.config = NULL});
    assert_int_equal(b.g.op_count, COUNT);
    for (int at = 0; at < COUNT; at++)
        assert_int_equal(b.g.ops[at].kind, expected[at]);
    assert_int_equal(b.g.ops[b.g.head_first].kind, OP_GATHER);
    assert_int_equal(b.g.ops[b.g.head_first].inputs[0], b.g.hidden);
    assert_int_equal(last_op(&b.g)->output, b.g.logits);
    assert_int_equal(last_op(&b.g)->linear.weight, b.g.ops[0].embed.table); // tied by absence
    assert_int_equal(b.g.values[b.g.logits].type, VALUE_F32);
    assert_int_equal(b.g.values[b.g.logits].width, VOCAB);
    box_close(&b);
}

static const char TIED[] = ",\"tie_word_embeddings\":true";

static void test_heads(void **state) {
    (void)state;
    const FileTensor same = {"lm_head.weight", "F16", 2, {VOCAB, HIDDEN}, embed, sizeof embed};
    const FileTensor differs = {"lm_head.weight", "F16", 2, {VOCAB, HIDDEN}, ones, sizeof ones};
    const FileTensor quantized[] = {
        {"lm_head.qweight", "I32", 2, {HIDDEN / 8, VOCAB}, words, HIDDEN / 8 * VOCAB * 4},
        {"lm_head.scales", "F16", 2, {1, VOCAB}, ones, VOCAB * 2},
    };
    const struct {
        Model model;
        bool own; // storage
        int bits;
    } cases[] = {
        {{.config = TIED}, false, 16},
        {{.config = TIED, .added = {same}}, false, 16},
        {{.config = TIED, .added = {differs}}, true, 16},
        {{.config = ",\"tie_word_embeddings\":false", .added = {differs}}, true, 16},
        {{.config = NULL, .added = {differs}}, true, 16},
        {{.config = TIED, .added = {quantized[0], quantized[1]}}, true, 4},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        Box b = build_good(&cases[at].model);
        int head = last_op(&b.g)->linear.weight;
        assert_int_equal(head != b.g.ops[0].embed.table, cases[at].own);
        assert_int_equal(packed_find(&b.g, "lm_head") != NULL, cases[at].own);
        assert_int_equal(b.g.packed[head].bits, cases[at].bits);
        box_close(&b);
    }
}

static void test_bias(void **state) {
    (void)state;
    for (int at = 0; at < INTER; at++)
        bias_values[at] = 0x4000; // 2
    Box b = build_good(&(Model){
        .added = {{"model.layers.0.mlp.up_proj.bias", "F16", 1, {INTER}, bias_values, INTER * 2}}});
    const PackedTensor *bias = packed_find(&b.g, "model.layers.0.mlp.up_proj.bias");
    assert_non_null(bias);
    assert_int_equal(bias->count, INTER);
    assert_true(bias->values[0] == 2 && bias->values[INTER - 1] == 2);
    box_close(&b);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        int id;
        ErrorCode code;
        Model model;
    } cases[] = {
        {311, ERR_CORRUPT, {.config = ",\"attention_bias\":true"}},
        {311, ERR_CORRUPT, {.config = ",\"mlp_bias\":true"}},
        {359, ERR_CORRUPT, {.removed = "model.embed_tokens.weight"}},
        {322, ERR_CORRUPT, {.config = ",\"tie_word_embeddings\":false"}},
        {322, ERR_CORRUPT, {.removed = "model.layers.0.mlp.up_proj.qweight"}},
        {301, ERR_CORRUPT, {.config = ",\"hidden_size\":64"}},
        {350, ERR_CORRUPT, {.removed = "model.norm.weight"}},
        {351, ERR_CORRUPT, {.added = {{"model.norm.weight", "I16", 1, {HIDDEN}, ones, 64}}}},
        {352, ERR_CORRUPT, {.added = {{"model.norm.weight", "F16", 2, {1, HIDDEN}, ones, 64}}}},
        {353, ERR_CORRUPT, {.added = {{"model.norm.weight", "F16", 1, {HIDDEN}, nan_norm, 64}}}},
        {354, ERR_CORRUPT, {.config = FAMILY("Granite") ",\"residual_multiplier\":1e300"}},
        {357, ERR_UNSUPPORTED, {.config = FAMILY("Mistral") ",\"layer_types\":[\"linear\"]"}},
        {358, ERR_CORRUPT, {.config = FAMILY("Mistral") ",\"sliding_window\":-1"}},
        {360, ERR_CORRUPT, {.config = FAMILY("Mixtral") ",\"num_local_experts\":0"}},
        {364, ERR_CORRUPT, {.config = FAMILY("Gemma2") ",\"query_pre_attn_scalar\":0"}},
        {365, ERR_CORRUPT, {.config = FAMILY("Granite") ",\"logits_scaling\":0"}},
        {355, ERR_UNSUPPORTED, {.config = ",\"hidden_act\":\"relu\\u0007\""}},
        {356,
         ERR_UNSUPPORTED,
         {.removed = "model.embed_tokens.weight",
          .added = {{"model.embed_tokens.qweight", "I32", 2, {HIDDEN / 8, VOCAB}, words, 768},
                    {"model.embed_tokens.scales", "F16", 2, {1, VOCAB}, ones, 96}}}},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        Box b;
        bool done = box_build(&b, &cases[at].model);
        if (done || b.err.id != cases[at].id)
            print_message("expected %d: GQC-%04d %s\n", cases[at].id, b.err.id, b.err.message);
        assert_false(done);
        assert_int_equal(b.err.id, cases[at].id);
        assert_int_equal(b.err.code, cases[at].code);
        box_close(&b);
    }
}

// ---- check --------------------------------------------------------------------------------------

// What `check` prints and returns.
static int check_text(const Model *m, char *out, size_t size) {
    char dir[FOLDER_BYTES], path[FILES_PATH_BYTES];
    char name[] = "gptq-compile", command[] = "check";
    Arena a = {0};
    folder_make(dir);
    model_write(dir, m, &a);
    snprintf(path, sizeof path, "%s.txt", dir);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    char *argv[] = {name, command, dir, NULL};
    int code = check_command(3, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    rewind(file);
    out[fread(out, 1, size - 1, file)] = 0;
    fclose(file);
    unlink(path);
    folder_remove(dir);
    arena_free(&a);
    return code;
}

static void test_check(void **state) {
    (void)state;
    static uint16_t zeros[INTER];
    static const struct {
        int code;
        Model model;
        const char *lines[3];
    } cases[] = {
        {0, {.config = NULL}, {"model.layers.0.mlp.down_proj", "can be compiled", "v1"}},
        {0,
         {.added = {{"model.layers.0.mlp.up_proj.bias", "F16", 1, {INTER}, zeros, INTER * 2},
                    {"model.\x1b"
                     "extra",
                     "F16",
                     1,
                     {1},
                     ones,
                     2}}},
         {"up_proj.bias is all zero",
          "model.\\x1b"
          "extra is not used",
          "can be compiled"}},
        {0,
         {.config = ",\"quantization_config\":{\"group_size\":32,\"odd\":1}"},
         {"\"odd\" is ignored", "can be compiled", ""}},
        {3,
         {.config = ",\"quantization_config\":{\"group_size\":32,\"dynamic\":{\"a(\":{}}}"},
         {"GQC-0320", "and 4 more of this kind", "error GQC-0320"}},
        {4, {.removed = "model.norm.weight"}, {"model.norm.weight is missing", "ok", ""}},
        {4,
         {.removed = "model.layers.0.mlp.up_proj.scales"},
         {"GQC-0305", "has no model.layers.0.mlp.up_proj.scales", ""}},
    };
    static char text[1 << 14];
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        int code = check_text(&cases[at].model, text, sizeof text);
        bool good = code == cases[at].code;
        for (int line = 0; line < 3; line++)
            good = good && strstr(text, cases[at].lines[line]);
        if (!good)
            print_message("case %zu: code %d\n%s\n", at, code, text);
        assert_true(good);
        assert_int_equal(strstr(text, "can be compiled") != NULL, code == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph),    cmocka_unit_test(test_heads), cmocka_unit_test(test_bias),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

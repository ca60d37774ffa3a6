// `dynamic` rules as GPTQModel applies them: the worked examples of its semantics (anchored at the
// start, negative rules first, the first match counts), and patterns that must end soon.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <string.h>

#include "../../compiler/compile.h"

enum { MAX_RULES = 3 };

typedef struct Example {
    const char *what, *module;
    QuantRule rules[MAX_RULES]; // in the order in which they are tried
    int rule_count;
    int bits; // expected, 0: not quantized
    int64_t group_size;
} Example;

#define RULE(text, b, g) {.pattern = text, .bits = b, .group_size = g, .sym = -1, .desc_act = -1}
#define NEVER(text)      {.pattern = text, .negative = true, .sym = -1, .desc_act = -1}

static const Example examples[] = {
    {"in the middle",
     "model.layers.18.mlp.gate_proj",
     {RULE(".*\\.18\\..*gate.*", 8, 0)},
     1,
     8,
     128},
    {"no search", "model.layers.0.self_attn.q_proj", {RULE("layers\\.0", 8, 0)}, 1, 4, 128},
    {"prefix", "model.layers.1.mlp.down_proj", {RULE("model\\.layers\\.1", 8, 0)}, 1, 8, 128},
    {"prefix hits 10",
     "model.layers.10.mlp.down_proj",
     {RULE("model\\.layers\\.1", 8, 0)},
     1,
     8,
     128},
    {"prefix hits 18",
     "model.layers.18.mlp.down_proj",
     {RULE("model\\.layers\\.1", 8, 0)},
     1,
     8,
     128},
    {"negative first",
     "model.layers.1.mlp.down_proj",
     {NEVER(".*\\.down_proj"), RULE(".*\\.mlp\\..*", 8, 32)},
     2,
     0,
     128},
    {"split names",
     "model.layers.0.self_attn.q_proj",
     {RULE(".*self_attn\\.(q|k|v)_proj$", 8, 0)},
     1,
     8,
     128},
    {"an end that is anchored",
     "model.layers.0.self_attn.q_proj.x",
     {RULE(".*self_attn\\.(q|k|v)_proj$", 8, 0)},
     1,
     4,
     128},
    {"portable names",
     "model.layers.0.self_attn.q_proj",
     {RULE(".*\\.(q_proj|k_proj|v_proj|qkv_proj)$", 8, 0)},
     1,
     8,
     128},
    {"first match wins",
     "model.layers.1.mlp.down_proj",
     {RULE(".*down_proj", 8, 0), RULE(".*layers\\.1\\..*", 3, 64)},
     2,
     8,
     128},
    {"head", "lm_head", {RULE("lm_head", 8, 32)}, 1, 8, 32},
    {"lookahead", "model.layers.3.mlp.up_proj", {RULE("(?!.*down).*mlp", 8, 0)}, 1, 8, 128},
};

static QuantConfig config_of(const QuantRule *rules, int count) {
    return (QuantConfig){.present = true,
                         .bits = 4,
                         .group_size = 128,
                         .sym = true,
                         .rules = (QuantRule *)(uintptr_t)rules,
                         .rule_count = count,
                         .source = "quantize_config.json"};
}

static void test_examples(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof examples / sizeof *examples; at++) {
        const Example *e = &examples[at];
        QuantConfig q = config_of(e->rules, e->rule_count);
        QuantEffective found;
        Error err = {0};
        bool done = quant_effective(&found, &q, e->module, &err);
        if (!done || (found.negative ? 0 : found.bits) != e->bits)
            print_message("%s: bits %d %s\n", e->what, found.bits, err.message);
        assert_true(done);
        assert_int_equal(found.negative ? 0 : found.bits, e->bits);
        assert_int_equal(found.group_size, e->group_size);
        assert_true(found.sym);
    }
}

// Patterns that do not compile, or whose matching would take longer than anybody waits.
static void test_hostile(void **state) {
    (void)state;
    static char long_pattern[6000];
    memset(long_pattern, 'a', sizeof long_pattern - 1);
    static const char *const patterns[] = {
        "(", "[a", "a{2,1}", "(?P<x", "(a+)+$", "(a|aa)+$", "\x1b(", long_pattern,
    };
    char module[200];
    memset(module, 'a', sizeof module);
    module[sizeof module - 2] = '!';
    module[sizeof module - 1] = 0;
    for (size_t at = 0; at < sizeof patterns / sizeof *patterns; at++) {
        const QuantRule rule = {.pattern = patterns[at], .bits = 8};
        QuantConfig q = config_of(&rule, 1);
        QuantEffective found;
        Error err = {0};
        assert_false(quant_effective(&found, &q, module, &err));
        assert_int_equal(err.id, 320);
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "quantize_config.json"));
        for (const char *letter = err.message; *letter; letter++)
            assert_true(*letter >= ' ' && *letter < 0x7f);
    }
}

// The same rules as vLLM reads them: under its names, in the order of the file.
static void test_vllm(void **state) {
    (void)state;
    static const struct {
        const char *module, *name;
        QuantRule rules[2]; // in the order in which we try them
        int rule_count, bits;
        bool negative;
    } cases[] = {
        {"model.layers.18.mlp.gate_proj",
         "model.layers.18.mlp.gate_up_proj",
         {RULE(".*\\.18\\..*gate.*", 8, 0)},
         1,
         8,
         false},
        {"model.layers.0.self_attn.q_proj",
         "model.layers.0.self_attn.qkv_proj",
         {RULE(".*self_attn\\.(q|k|v)_proj$", 8, 0)},
         1,
         4,
         false},
        {"model.layers.0.self_attn.k_proj",
         "model.layers.0.self_attn.qkv_proj",
         {RULE(".*\\.(q_proj|k_proj|v_proj|qkv_proj)$", 8, 0)},
         1,
         8,
         false},
        {"model.layers.1.mlp.experts.7.up_proj",
         "model.layers.1.mlp.experts",
         {RULE(".*up_proj", 8, 0)},
         1,
         4,
         false},
        {"lm_head", "lm_head", {RULE("lm_head", 8, 32)}, 1, 8, false},
        {"model.layers.1.mlp.down_proj",
         "model.layers.1.mlp.down_proj",
         {{.pattern = ".*\\.down_proj", .negative = true, .sym = -1, .desc_act = -1, .place = 1},
          {.pattern = ".*\\.mlp\\..*", .bits = 8, .sym = -1, .desc_act = -1, .place = 0}},
         2,
         8,
         false},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        Arena a = {0};
        Error err;
        QuantRule rules[2];
        memcpy(rules, cases[at].rules, sizeof rules);
        QuantConfig q = {.present = true,
                         .bits = 4,
                         .group_size = 128,
                         .sym = true,
                         .rules = rules,
                         .rule_count = cases[at].rule_count,
                         .source = "config.json"};
        QuantEffective found;
        const char *name;
        assert_true(quant_effective_vllm(&found, &q, cases[at].module, &name, &a, &err));
        assert_string_equal(name, cases[at].name);
        assert_int_equal(found.bits, cases[at].bits);
        assert_int_equal(found.negative, cases[at].negative);
        arena_free(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vllm),
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

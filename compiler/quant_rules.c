// The `dynamic` rules of a quantization configuration, applied to one module as GPTQModel does.
//
// A pattern must match from the start of the module's path and may end before its end; negative
// rules come first (quant_config.c sorts them), the first rule that matches is the only one that
// counts, and what it leaves out is inherited.
//
// Source: gptqmodel/quantization/config.py, dynamic_get; vllm/model_executor/layers/quantization/
// utils/gptq_utils.py for what vLLM reads into the same rules. A pattern is hostile input: its length and
// the work of a match are bounded.
#include "compile.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

enum { PATTERN_MAX = 4096, MATCH_WORK = 1000000, MATCH_DEPTH = 1000, MATCH_KB = 4096 };

static bool rule_fail(const QuantConfig *q, const QuantRule *rule, int code, size_t offset,
                      Error *err) {
    char reason[120], pattern[80];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return fail(err, ERR_UNSUPPORTED, 320,
                "%s: \"dynamic\" pattern \"%s\" cannot be used: %s (at byte %zu)", q->source,
                text_escape(pattern, sizeof pattern, rule->pattern, strlen(rule->pattern)), reason,
                offset);
}

static bool pattern_match(const QuantConfig *q, const QuantRule *rule, const pcre2_code *code,
                          const char *module, bool *matches, Error *err) {
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    bool done = limits && data;
    if (!done) {
        fail(err, ERR_RESOURCE, 324, "no memory to match a pattern");
    } else {
        pcre2_set_match_limit(limits, MATCH_WORK);
        pcre2_set_depth_limit(limits, MATCH_DEPTH);
        pcre2_set_heap_limit(limits, MATCH_KB);
        int found = pcre2_match(code, (PCRE2_SPTR)module, strlen(module), 0, 0, data, limits);
        *matches = found >= 0;
        if (found < 0 && found != PCRE2_ERROR_NOMATCH)
            done = rule_fail(q, rule, found, 0, err);
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    return done;
}

bool quant_rule_matches(const QuantConfig *q, const QuantRule *rule, const char *module,
                        bool *matches, Error *err) {
    int code = PCRE2_ERROR_BADDATA;
    size_t offset = 0;
    if (strlen(rule->pattern) > PATTERN_MAX)
        return rule_fail(q, rule, code, PATTERN_MAX, err);
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)rule->pattern, PCRE2_ZERO_TERMINATED,
                                         PCRE2_ANCHORED, &code, &offset, NULL);
    if (!compiled)
        return rule_fail(q, rule, code, offset, err);
    bool done = pattern_match(q, rule, compiled, module, matches, err);
    pcre2_code_free(compiled);
    return done;
}

static QuantEffective inherited(const QuantConfig *q) {
    return (QuantEffective){.bits = q->bits,
                            .group_size = q->group_size,
                            .sym = q->sym,
                            .desc_act = q->desc_act,
                            .format = q->format};
}

static void rule_apply(QuantEffective *out, const QuantRule *rule) {
    out->by_rule = true;
    out->negative = rule->negative;
    out->bits = rule->bits ? rule->bits : out->bits;
    out->group_size = rule->group_size ? rule->group_size : out->group_size;
    out->sym = rule->sym >= 0 ? rule->sym : out->sym;
    out->desc_act = rule->desc_act >= 0 ? rule->desc_act : out->desc_act;
}

bool quant_effective(QuantEffective *out, const QuantConfig *q, const char *module, Error *err) {
    *out = inherited(q);
    for (int at = 0; at < q->rule_count && !out->by_rule; at++) {
        bool matches;
        TRY(quant_rule_matches(q, &q->rules[at], module, &matches, err));
        if (matches)
            rule_apply(out, &q->rules[at]);
    }
    return true;
}

// ---- vLLM ---------------------------------------------------------------------------------------

// vLLM's name of the layer that holds the module.
static const char *fused_name(const char *module, Arena *a) {
    static const struct {
        const char *part, *whole;
    } fused[] = {
        {"q_proj", "qkv_proj"},        {"k_proj", "qkv_proj"},      {"v_proj", "qkv_proj"},
        {"gate_proj", "gate_up_proj"}, {"up_proj", "gate_up_proj"},
    };
    static const char experts[] = ".experts.";
    const char *stack = strstr(module, experts), *last = strrchr(module, '.');
    if (stack)
        return arena_strndup(a, module, (size_t)(stack - module) + sizeof experts - 2);
    for (size_t at = 0; last && at < sizeof fused / sizeof *fused; at++)
        if (strcmp(last + 1, fused[at].part) == 0)
            return arena_printf(a, "%.*s.%s", (int)(last - module), module, fused[at].whole);
    return module;
}

bool quant_effective_vllm(QuantEffective *out, const QuantConfig *q, const char *module,
                          const char **name, Arena *a, Error *err) {
    *out = inherited(q);
    *name = fused_name(module, a);
    for (int place = 0; place < q->rule_count && !out->by_rule; place++)
        for (int at = 0; at < q->rule_count; at++) {
            bool matches = false;
            if (q->rules[at].place == place)
                TRY(quant_rule_matches(q, &q->rules[at], *name, &matches, err));
            if (matches)
                rule_apply(out, &q->rules[at]);
        }
    return true;
}

// One linear module of a checkpoint: finding its tensors and checking them. gptq_codes.c reads what
// they hold.
//
//   qweight  int32 [ceil(K * bits / 32), N]
//   qzeros   int32 [G, ceil(N * bits / 32)]
//   scales   fp16, bf16 or fp32 [G, N]
//   g_idx    int32 [K]     group of each input; absent means k / group_size
//
// Idea: tensor names and shapes decide, the configuration is compared with them.
//
// Source: gptqmodel/nn_modules/qlinear/__init__.py, gptqmodel/utils/model.py.
// Non-goals: quantizing, and repairing files whose label and tensors disagree.
#include "gptq_words.h"

#include <stdlib.h>
#include <string.h>

enum { WORD_BITS = 32, PLAIN_BITS = 16, MAX_PERIOD = 7, LARGE_BYTES = 1 << 24 };
// gptqmodel/looper/module_looper.py: a quantized head without a rule
enum { HEAD_BITS = 8, HEAD_GROUP = 32 };

// ---- zero points --------------------------------------------------------------------------------

// What a whole row of qzeros looks like when every zero point is 2^(bits - 1): the stored value is
// z - 1 in version 1 of the format and z in version 2. 3-bit codes repeat every three words, codes in
// planes every `bits` words; of 3 bits both exist.
typedef struct ZeroWords {
    int bits;
    const char *label;
    int period;
    uint32_t words[MAX_PERIOD];
} ZeroWords;

static const ZeroWords ZERO_WORDS[] = {
    {2, "v1", 1, {0x55555555}},
    {2, "v2", 1, {0xaaaaaaaa}},
    {3, "v1", 3, {0xdb6db6db, 0xb6db6db6, 0x6db6db6d}},
    {3, "v2", 3, {0x24924924, 0x49249249, 0x92492492}},
    {3, "v1 (old)", 3, {0x00000000, 0xb6db6db7, 0x49249249}}, // GPTQModel before 7.0
    {4, "v1", 1, {0x77777777}},
    {4, "v2", 1, {0x88888888}},
    {8, "v1", 1, {0x7f7f7f7f}},
    {8, "v2", 1, {0x80808080}},
    {5, "v2", 5, {0, 0, 0, 0, 0xffffffff}},
    {6, "v2", 6, {0, 0, 0, 0, 0xaaaaaaaa, 0xaaaaaaaa}},
    {7, "v2", 7, {0, 0, 0, 0, 0, 0, 0xffffffff}},
};
static const ZeroWords PLANAR_3_BIT = {3, "v2", 3, {0, 0, 0xffffffff}};

// Whether all rows of qzeros are the pattern; behind the last of N fields anything may stand.
static bool zeros_match(const Weight *w, const ZeroWords *pattern) {
    int64_t columns = w->qzeros->shape[1];
    int64_t spare = columns * WORD_BITS - w->out_features * w->bits;
    uint32_t last_mask = UINT32_MAX >> spare;
    for (int64_t row = 0; row < w->groups; row++) {
        const unsigned char *data = w->qzeros->data + row * columns * 4;
        for (int64_t column = 0; column < columns; column++) {
            uint32_t mask = column == columns - 1 ? last_mask : UINT32_MAX;
            if ((word_at(data, column) ^ pattern->words[column % pattern->period]) & mask)
                return false;
        }
    }
    return true;
}

// Names what qzeros holds.
static const char *zeros_label(const Weight *w) {
    if (w->bits == 3 && w->format == QUANT_GPTQ_P)
        return zeros_match(w, &PLANAR_3_BIT) ? PLANAR_3_BIT.label : "asymmetric";
    for (size_t at = 0; at < sizeof ZERO_WORDS / sizeof ZERO_WORDS[0]; at++)
        if (ZERO_WORDS[at].bits == w->bits && zeros_match(w, &ZERO_WORDS[at]))
            return ZERO_WORDS[at].label;
    return "asymmetric";
}

// ---- tensors and their shapes -------------------------------------------------------------------

// What the checks of one module need.
typedef struct Module {
    Weight *w;
    const Checkpoint *checkpoint;
    QuantEffective quant;
    const char *source; // file of the quantization configuration
    const char *quantizer;
    Arena *arena;
    Error *err;
} Module;

static const Tensor *module_tensor(const Module *m, const char *suffix) {
    return checkpoint_find(m->checkpoint, arena_printf(m->arena, "%s.%s", m->w->module, suffix));
}

static bool is_float(const Tensor *t) {
    return t->type == TENSOR_F16 || t->type == TENSOR_BF16 || t->type == TENSOR_F32;
}

// Expects [first] or [first, second] (second 0: one dimension).
static bool shape_check(const Module *m, const Tensor *t, int64_t first, int64_t second) {
    int rank = second ? 2 : 1;
    int64_t expected[2] = {first, second};
    if (t->rank == rank && t->shape[0] == first && (!second || t->shape[1] == second))
        return true;
    char found[160], wanted[64];
    return fail(m->err, ERR_CORRUPT, 301,
                "%s: %s is %s, expected %s (in_features %lld, out_features %lld from config.json)",
                t->file, t->name, shape_text(found, sizeof found, t->shape, t->rank),
                shape_text(wanted, sizeof wanted, expected, rank), (long long)m->w->in_features,
                (long long)m->w->out_features);
}

static bool type_check(const Module *m, const Tensor *t, bool good, const char *expected) {
    if (good)
        return true;
    return fail(m->err, ERR_CORRUPT, 302, "%s: %s has dtype %s, expected %s", t->file, t->name,
                tensor_type_name(t->type), expected);
}

// Whether `count` elements hold NaN or infinity. Branch-free, so that the compiler vectorizes it:
// embeddings have half a billion elements.
static bool nonfinite(const unsigned char *data, size_t count, TensorType type) {
    uint32_t found = 0;
    if (type == TENSOR_F32) {
        for (size_t at = 0; at < count; at++) {
            uint32_t bits;
            memcpy(&bits, data + at * 4, sizeof bits);
            found |= (bits & 0x7f800000) == 0x7f800000;
        }
        return found;
    }
    const uint16_t exponent = type == TENSOR_F16 ? 0x7c00 : 0x7f80;
    for (size_t at = 0; at < count; at++) {
        uint16_t bits;
        memcpy(&bits, data + at * 2, sizeof bits);
        found |= (bits & exponent) == exponent;
    }
    return found;
}

static bool finite_check(const Module *m, const Tensor *t) {
    size_t elem_bytes = t->type == TENSOR_F32 ? 4 : 2, count = t->bytes / elem_bytes, at = 0;
    bool finite = !nonfinite(t->data, count, t->type);
    if (finite && t->bytes > LARGE_BYTES)
        tensor_release(t); // embeddings, which are packed much later
    if (finite)
        return true;
    while (!nonfinite(t->data + at * elem_bytes, 1, t->type))
        at++;
    return fail(m->err, ERR_CORRUPT, 303,
                "%s: %s holds NaN or infinity at element %zu; the file is damaged or its "
                "quantization failed",
                t->file, t->name, at);
}

static bool qweight_check(Module *m) {
    Weight *w = m->w;
    const Tensor *t = w->qweight;
    TRY(type_check(m, t, t->type == TENSOR_I32 || t->type == TENSOR_U32, "I32"));
    if (t->rank != 2 || t->shape[1] != w->out_features)
        return shape_check(m, t, ceil_div(w->in_features * m->quant.bits, WORD_BITS),
                           w->out_features);
    if (t->shape[0] == ceil_div(w->in_features * m->quant.bits, WORD_BITS)) {
        w->bits = m->quant.bits;
        return true;
    }
    char found[160];
    return fail(m->err, ERR_CORRUPT, 304,
                "%s: %s is %s, which is %.4g bits for in_features %lld; %s says bits %d", t->file,
                t->name, shape_text(found, sizeof found, t->shape, t->rank),
                (double)(t->shape[0] * WORD_BITS) / (double)w->in_features,
                (long long)w->in_features, m->source, m->quant.bits);
}

// Is every scale exactly an fp16 number?
static bool scales_are_half(const Tensor *t) {
    enum { CHUNK = 512 };
    float values[CHUNK];
    int64_t count = t->shape[0] * t->shape[1];
    for (int64_t first = 0; t->type != TENSOR_F16 && first < count; first += CHUNK) {
        int64_t some = count - first < CHUNK ? count - first : CHUNK;
        tensor_read_f32(t, first, some, values);
        for (int64_t at = 0; at < some; at++)
            if (half_to_float(half_from_float(values[at])) != values[at])
                return false;
    }
    return true;
}

// Groups: one row of scales is one group whatever the label says; else the label must fit, or K
// must fall into equal groups.
static bool scales_check(Module *m) {
    Weight *w = m->w;
    const Tensor *t = w->scales;
    if (!t)
        return fail(m->err, ERR_CORRUPT, 305, "%s: %s has no %s.scales", w->qweight->file,
                    w->qweight->name, w->module);
    TRY(type_check(m, t, is_float(t), "F16"));
    int64_t size = m->quant.group_size;
    int64_t expected = size == -1 ? 1 : ceil_div(w->in_features, size);
    if (t->rank != 2 || t->shape[1] != w->out_features || t->shape[0] < 1)
        return shape_check(m, t, expected, w->out_features);
    w->groups = t->shape[0];
    w->group_size = w->groups == 1 ? w->in_features : size;
    if (w->groups != expected) {
        if (w->in_features % w->groups)
            return fail(m->err, ERR_CORRUPT, 306,
                        "%s: %s has %lld groups, %s says group_size %lld, which is %lld groups for "
                        "in_features %lld",
                        t->file, t->name, (long long)w->groups, m->source, (long long)size,
                        (long long)expected, (long long)w->in_features);
        w->group_size = w->in_features / w->groups;
        note(&w->notes, m->arena, "%s: %s has %lld groups: group_size %lld, not %lld as in %s",
             t->file, t->name, (long long)w->groups, (long long)w->group_size, (long long)size,
             m->source);
    }
    w->scales_half = scales_are_half(t);
    return finite_check(m, t);
}

// The first number behind "gptqmodel:" in the names of who wrote the file; -1: somebody else.
static int gptqmodel_major(const char *quantizer) {
    const char *name = strstr(quantizer, "gptqmodel:");
    return name ? (int)strtol(name + sizeof "gptqmodel:" - 1, NULL, 10) : -1;
}

// Version 1 of the format stores zero points less 1: GPTQModel subtracts from whole words (but for 3
// bits since 7.0), everybody else from fields.
static void zero_rule_choose(Module *m) {
    Weight *w = m->w;
    int major = gptqmodel_major(m->quantizer);
    bool stored = w->format != QUANT_GPTQ || (w->bits >= 5 && w->bits <= 7);
    bool words = major >= 0 && (w->bits != 3 || major < 7);
    bool same = strcmp(w->zeros, stored ? "v2" : "v1") == 0;
    w->zeros_default = w->sym || same;
    w->zero_rule = w->zeros_default ? ZERO_MIDDLE
                   : stored         ? ZERO_STORED
                   : words          ? ZERO_WORD_LESS_ONE
                                    : ZERO_FIELD_LESS_ONE;
}

static bool zeros_check(Module *m) {
    Weight *w = m->w;
    const Tensor *t = w->qzeros;
    if (!t && !w->sym)
        return fail(m->err, ERR_CORRUPT, 307, "%s: %s is asymmetric but has no %s.qzeros",
                    w->qweight->file, w->qweight->name, w->module);
    w->zeros_default = true;
    if (!t)
        return true;
    TRY(type_check(m, t, t->type == TENSOR_I32 || t->type == TENSOR_U32, "I32"));
    TRY(shape_check(m, t, w->groups, ceil_div(w->out_features * w->bits, WORD_BITS)));
    w->zeros = zeros_label(w);
    zero_rule_choose(m);
    if (strcmp(w->zeros, "asymmetric") == 0) {
        if (w->sym)
            return fail(m->err, ERR_CORRUPT, 308,
                        "%s: %s holds zero points other than %d, but %s says sym true; the label "
                        "is wrong or the file is damaged",
                        t->file, t->name, 1 << (w->bits - 1), m->source);
        return true;
    }
    // The words show the label of a symmetric file, and an asymmetric one that happens to be so.
    bool stores_z = strcmp(w->zeros, "v2") == 0;
    if (w->sym && stores_z != (w->format != QUANT_GPTQ))
        note(&w->notes, m->arena, "%s: %s holds zero points of the other version (%s); not used",
             t->file, t->name, w->zeros);
    return true;
}

// Sets act_order from what g_idx holds. Negative entries count from the end, as Python's do.
static bool g_idx_check(Module *m) {
    Weight *w = m->w;
    const Tensor *t = w->g_idx;
    if (!t)
        return true;
    TRY(type_check(m, t, t->type == TENSOR_I32 || t->type == TENSOR_I64, "I32"));
    TRY(shape_check(m, t, w->in_features, 0));
    if (w->groups == 1)
        return true;
    bool all_zero = true;
    for (int64_t k = 0; k < w->in_features; k++) {
        int64_t group = g_idx_at(t, k);
        if (group < -w->groups || group >= w->groups)
            return fail(m->err, ERR_CORRUPT, 309, "%s: %s[%lld] is %lld, there are %lld groups",
                        t->file, t->name, (long long)k, (long long)group, (long long)w->groups);
        group += group < 0 ? w->groups : 0;
        all_zero = all_zero && group == 0;
        w->act_order = w->act_order || group != k / w->group_size;
    }
    if (all_zero && m->quant.desc_act)
        return fail(m->err, ERR_CORRUPT, 310,
                    "%s: %s is all zero, but there are %lld groups and %s says desc_act true",
                    t->file, t->name, (long long)w->groups, m->source);
    if (all_zero)
        w->act_order = false; // exllama's way to say that there is none
    return true;
}

static bool all_zero(const Tensor *t) {
    for (size_t at = 0; at < t->bytes; at++) {
        // the sign bit of -0.0 is the top bit of an element's last byte
        bool top = at % (t->type == TENSOR_F32 ? 4 : 2) == (t->type == TENSOR_F32 ? 3 : 1);
        if (t->data[at] & (top ? 0x7f : 0xff))
            return false;
    }
    return true;
}

// AutoGPTQ wrote an all-zero bias for every module in some versions.
static bool bias_check(Module *m, bool wants_bias) {
    Weight *w = m->w;
    const Tensor *t = module_tensor(m, "bias");
    if (!t && wants_bias)
        return fail(m->err, ERR_CORRUPT, 311, "%s: %s.bias is missing, the architecture has one",
                    m->checkpoint->dir, w->module);
    if (!t)
        return true;
    TRY(type_check(m, t, is_float(t), "F16, BF16 or F32"));
    TRY(shape_check(m, t, w->out_features, 0));
    TRY(finite_check(m, t));
    if (!wants_bias && all_zero(t)) {
        w->spurious_bias = t;
        return true;
    }
    if (!wants_bias)
        note(&w->notes, m->arena, "%s: %s is not zero although the architecture has no bias; used",
             t->file, t->name);
    w->bias = t;
    return true;
}

// ---- the module ---------------------------------------------------------------------------------

static bool quantized_read(Module *m, bool wants_bias) {
    Weight *w = m->w;
    w->sym = m->quant.sym;
    w->format = m->quant.format;
    w->scales = module_tensor(m, "scales");
    w->qzeros = module_tensor(m, "qzeros");
    w->g_idx = module_tensor(m, "g_idx");
    TRY(qweight_check(m));
    TRY(scales_check(m));
    TRY(zeros_check(m));
    TRY(g_idx_check(m));
    return bias_check(m, wants_bias);
}

static bool plain_read(Module *m, bool wants_bias) {
    Weight *w = m->w;
    const Tensor *t = w->weight;
    TRY(type_check(m, t, is_float(t), "F16, BF16 or F32"));
    TRY(shape_check(m, t, w->out_features, w->in_features));
    TRY(finite_check(m, t));
    w->bits = PLAIN_BITS;
    w->group_size = w->in_features;
    w->groups = 1;
    return bias_check(m, wants_bias);
}

static bool absent(const Module *m) {
    static const struct {
        const char *suffix, *format;
    } FOREIGN[] = {{"weight_packed", "compressed-tensors"}, {"B", "marlin"}};
    for (size_t at = 0; at < sizeof FOREIGN / sizeof FOREIGN[0]; at++)
        if (module_tensor(m, FOREIGN[at].suffix))
            return fail(m->err, ERR_UNSUPPORTED, 321,
                        "%s: %s.%s is a tensor of the format %s, which is not supported; expected "
                        "qweight",
                        m->checkpoint->dir, m->w->module, FOREIGN[at].suffix, FOREIGN[at].format);
    return fail(m->err, ERR_CORRUPT, 322, "%s: neither %s.qweight nor %s.weight is there",
                m->checkpoint->dir, m->w->module, m->w->module);
}

static bool bits_fit(const Module *m, int bits) {
    return m->w->qweight->shape[0] == ceil_div(m->w->in_features * bits, WORD_BITS);
}

// The rule of the module. Where none matches and the tensors deny the general setting: a rule that
// somebody wrote for vLLM's names, then GPTQModel's own setting of a head.
static bool effective_find(Module *m, const QuantConfig *q) {
    const Weight *w = m->w;
    TRY(quant_effective(&m->quant, q, w->module, m->err));
    if (m->quant.by_rule || w->qweight->rank != 2 || bits_fit(m, m->quant.bits))
        return true;
    QuantEffective other;
    const char *name;
    TRY(quant_effective_vllm(&other, q, w->module, &name, m->arena, m->err));
    if (other.by_rule && bits_fit(m, other.bits)) {
        note(&m->w->notes, m->arena, "%s: a rule of \"dynamic\" names it %s, as vLLM does",
             w->module, name);
        m->quant = other;
    } else if (strcmp(w->module, "lm_head") == 0 && bits_fit(m, HEAD_BITS)) {
        m->quant.bits = HEAD_BITS;
        m->quant.group_size = HEAD_GROUP;
        m->quant.sym = true;
    }
    return true;
}

static bool module_read(Module *m, const QuantConfig *q, bool wants_bias) {
    Weight *w = m->w;
    w->qweight = module_tensor(m, "qweight");
    if (!w->qweight) {
        w->weight = module_tensor(m, "weight");
        return w->weight ? plain_read(m, wants_bias) : absent(m);
    }
    if (!q->present)
        return fail(m->err, ERR_CORRUPT, 323,
                    "%s: no quantization_config, but %s is there; expected quantize_config.json",
                    q->source, w->qweight->name);
    TRY(effective_find(m, q));
    m->source = q->source;
    m->quantizer = q->quantizer ? q->quantizer : "";
    return quantized_read(m, wants_bias);
}

bool weight_open(Weight *out, const Checkpoint *c, const QuantConfig *q, const char *module,
                 int64_t in_features, int64_t out_features, bool wants_bias, Arena *a, Error *err) {
    const Weight blank = {
        .module = arena_strndup(a, module, strlen(module)),
        .in_features = in_features,
        .out_features = out_features,
        .zeros = "-",
    };
    *out = blank;
    Module m = {.w = out, .checkpoint = c, .arena = a, .err = err};
    if (module_read(&m, q, wants_bias))
        return true;
    if (!q->other || !out->qweight)
        return false;
    Error second = *err;
    m.err = &second;
    *out = blank;
    if (!module_read(&m, q->other, wants_bias))
        return false; // the message about the configuration that should win stays
    note(&out->notes, a, "%s: the tensors fit %s, not %s", module, q->other->source, q->source);
    return true;
}

bool quant_require(const Checkpoint *c, const QuantConfig *q, Error *err) {
    static const char SUFFIX[] = ".qweight";
    for (int at = 0; at < c->count; at++) {
        size_t size = strlen(c->tensors[at].name), suffix = sizeof SUFFIX - 1;
        if (size > suffix && strcmp(c->tensors[at].name + size - suffix, SUFFIX) == 0)
            return true;
    }
    return fail(err, ERR_UNSUPPORTED, 337, "%s: not a GPTQ model: no tensor is named *.qweight%s",
                c->dir, q->present ? "" : " and there is no quantization_config");
}

#ifdef FUZZ
// The first bytes choose sizes and configuration, the rest is a safetensors file.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 5)
        return 0;
    Arena arena = {0};
    Error err;
    Checkpoint c = {.dir = "fuzz"};
    QuantConfig q = {
        .present = true, .bits = 2 + data[0] % 7, .sym = data[1] & 1, .source = "fuzz"};
    q.group_size = data[2] ? data[2] : -1;
    q.desc_act = data[1] & 2;
    int64_t k = 1 + data[3], n = 1 + data[4];
    Weight w;
    Bytes file = {data + 5, size - 5};
    if (safetensors_parse(&c.tensors, &c.count, file, "fuzz", &arena, &err) &&
        weight_open(&w, &c, &q, "m", k, n, data[1] & 4, &arena, &err)) {
        float row[256];
        uint8_t codes[4 * 256];
        for (int64_t column = 0; column < n; column++)
            weight_row(&w, column, row);
        if (w.qweight)
            weight_code_block(&w, 0, n < 4 ? n : 4, 0, k, codes);
    }
    arena_free(&arena);
    return 0;
}
#endif

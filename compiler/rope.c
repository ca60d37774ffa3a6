// Rotary position embedding: reading its settings, computing its frequencies.
//
// Idea: everything that scales rope ends in one vector inv_freq[r / 2] and one factor on cos and
// sin, both fixed when the model is compiled for its longest sequence. `dynamic` and `longrope`,
// which change with the length at run time elsewhere, are fixed at that length.
//
// Source: transformers modeling_rope_utils.py; the papers behind it: arXiv 2306.15595 (linear),
// 2309.00071 (yarn), 2402.13753 (longrope).
#include "compile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

static const double TAU = 6.283185307179586;

static const struct {
    const char *name;
    RopeType type;
} NAMES[] = {
    // ORDER ROPE_TYPES, then older names
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR}, {"dynamic", ROPE_DYNAMIC},
    {"llama3", ROPE_LLAMA3},   {"yarn", ROPE_YARN},     {"longrope", ROPE_LONGROPE},
    {"su", ROPE_LONGROPE},     {"mrope", ROPE_DEFAULT}, // for text all three positions are equal
};

// ---- settings -----------------------------------------------------------------------------------

static bool type_read(RopeConfig *r, const cJSON *json, const char *file, Error *err) {
    const char *name = "default";
    char text[40];
    TRY(json_text(json, "type", &name, file, err)); // the old key
    TRY(json_text(json, "rope_type", &name, file, err));
    for (size_t at = 0; at < sizeof NAMES / sizeof NAMES[0]; at++) {
        if (strcmp(NAMES[at].name, name) != 0)
            continue;
        r->type = NAMES[at].type;
        if (r->type == ROPE_YARN && json_get(json, "long_factor"))
            r->type = ROPE_LONGROPE; // the first name of Phi-3's
        return true;
    }
    return fail(err, ERR_UNSUPPORTED, 221,
                "%s: rope_type \"%s\" is not supported; supported: default, linear, dynamic, "
                "llama3, yarn, longrope",
                file, text_escape(text, sizeof text, name, strlen(name)));
}

static bool factors_read(const double **out, const cJSON *json, const char *key, int64_t count,
                         const char *file, Arena *a, Error *err) {
    const cJSON *list = json_get(json, key);
    int64_t found = 0;
    double *factors = ARENA_NEW(a, double, count);
    bool numbers = cJSON_IsArray(list);
    for (const cJSON *item = numbers ? list->child : NULL; item; item = item->next, found++) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
            numbers = false;
        else if (found < count)
            factors[found] = item->valuedouble;
    }
    if (!numbers || found != count)
        return fail(err, ERR_CORRUPT, 222, "%s: key \"%s\" must be a list of %lld positive numbers",
                    file, key, (long long)count);
    *out = factors;
    return true;
}

// m(x) of yarn: the factor on attention for a scale of `factor`.
static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static bool numbers_read(RopeConfig *r, const cJSON *json, const char *file, Error *err) {
    double mscale = 0, mscale_all_dim = 0;
    const struct {
        const char *key;
        double *value;
    } keys[] = {
        {"rope_theta", &r->rope_theta},
        {"factor", &r->factor},
        {"low_freq_factor", &r->low_freq_factor},
        {"high_freq_factor", &r->high_freq_factor},
        {"beta_fast", &r->beta_fast},
        {"beta_slow", &r->beta_slow},
        {"attention_factor", &r->attention_factor},
        {"partial_rotary_factor", &r->partial_rotary_factor},
        {"mscale", &mscale},
        {"mscale_all_dim", &mscale_all_dim},
    };
    for (size_t at = 0; at < sizeof keys / sizeof keys[0]; at++)
        TRY(json_number(json, keys[at].key, keys[at].value, file, err));
    if (r->type == ROPE_YARN && r->attention_factor <= 0 && mscale > 0 && mscale_all_dim > 0)
        r->attention_factor =
            yarn_mscale(r->factor, mscale) / yarn_mscale(r->factor, mscale_all_dim);
    TRY(json_bool(json, "truncate", &r->truncate, file, err));
    return json_int(json, "original_max_position_embeddings", &r->original_max_position_embeddings,
                    file, err);
}

// Settings that would make a frequency infinite, negative or not a number.
static bool settings_check(const RopeConfig *r, int64_t head_dim, const char *file, Error *err) {
    const struct {
        const char *key;
        bool good;
        double value;
    } rules[] = {
        {"rope_theta", r->rope_theta > 1 && r->rope_theta < 1e18, r->rope_theta},
        {"factor", r->factor >= 1 && r->factor < 1e6, r->factor},
        {"low_freq_factor", r->low_freq_factor > 0, r->low_freq_factor},
        {"high_freq_factor", r->high_freq_factor > r->low_freq_factor, r->high_freq_factor},
        {"beta_fast", r->beta_fast > 0, r->beta_fast},
        {"beta_slow", r->beta_slow > 0, r->beta_slow},
        {"attention_factor", r->attention_factor >= 0, r->attention_factor},
        {"partial_rotary_factor", r->partial_rotary_factor > 0 && r->partial_rotary_factor <= 1,
         r->partial_rotary_factor},
        {"original_max_position_embeddings",
         r->original_max_position_embeddings > 1 && r->original_max_position_embeddings < 1 << 30,
         (double)r->original_max_position_embeddings},
    };
    for (size_t at = 0; at < sizeof rules / sizeof rules[0]; at++)
        if (!rules[at].good)
            return fail(err, ERR_CORRUPT, 223, "%s: rope setting \"%s\" is %g, out of its range",
                        file, rules[at].key, rules[at].value);
    int64_t rotary = (int64_t)((double)head_dim * r->partial_rotary_factor);
    if (rotary < 4 || rotary % 2)
        return fail(err, ERR_UNSUPPORTED, 224,
                    "%s: %lld rotary dimensions of head_dim %lld; an even number from 4 is needed",
                    file, (long long)rotary, (long long)head_dim);
    return true;
}

// One set of settings: `outer` has theta and the like, `inner` the scaling, NULL: none.
static bool settings_read(Config *c, RopeConfig *r, const cJSON *outer, const cJSON *inner,
                          const char *file, Arena *a, Error *err) {
    *r = (RopeConfig){
        .rope_theta = 10000,
        .factor = 1,
        .low_freq_factor = 1,
        .high_freq_factor = 4,
        .beta_fast = 32,
        .beta_slow = 1,
        .partial_rotary_factor = 1,
        .original_max_position_embeddings = c->max_position_embeddings,
        .truncate = true,
    };
    TRY(numbers_read(r, outer, file, err)); // top level: theta, partial rotary, original length
    r->factor = 1;
    r->attention_factor = 0;
    TRY(type_read(r, inner, file, err));
    TRY(numbers_read(r, inner, file, err));
    TRY(settings_check(r, c->head_dim, file, err));
    if (r->type != ROPE_LONGROPE)
        return true;
    int64_t rotary = (int64_t)((double)c->head_dim * r->partial_rotary_factor);
    TRY(factors_read(&r->short_factor, inner, "short_factor", rotary / 2, file, a, err));
    return factors_read(&r->long_factor, inner, "long_factor", rotary / 2, file, a, err);
}

// Gemma 3: layers with a window have a theta of their own and no scaling.
static bool local_read(Config *c, const cJSON *json, const cJSON *inner, const char *file,
                       Arena *a, Error *err) {
    double theta = 0;
    TRY(json_number(json, "rope_local_base_freq", &theta, file, err));
    if (!inner && theta <= 0)
        return true;
    TRY(settings_read(c, &c->local_rope, inner ? json : NULL, inner, file, a, err));
    if (!inner)
        c->local_rope.rope_theta = theta;
    return settings_check(&c->local_rope, c->head_dim, file, err);
}

bool rope_read(Config *out, const cJSON *json, const char *file, Arena *a, Error *err) {
    const cJSON *inner = json_get(json, "rope_parameters"), *local = NULL;
    if (!inner)
        inner = json_get(json, "rope_scaling");
    if (json_get(inner, "full_attention") || json_get(inner, "sliding_attention")) {
        local = json_get(inner, "sliding_attention");
        inner = json_get(inner, "full_attention");
    }
    TRY(settings_read(out, &out->rope, json, inner, file, a, err));
    return local_read(out, json, local, file, a, err);
}

int64_t rope_short_limit(const Config *c) {
    int64_t limit = c->max_position_embeddings;
    int64_t original = c->rope.original_max_position_embeddings;
    return c->rope.type == ROPE_LONGROPE && original < limit ? original : limit;
}

// ---- frequencies --------------------------------------------------------------------------------

static double llama3_frequency(const RopeConfig *r, double inv) {
    double original = (double)r->original_max_position_embeddings;
    double wavelength = TAU / inv;
    if (wavelength > original / r->low_freq_factor)
        return inv / r->factor;
    if (wavelength < original / r->high_freq_factor)
        return inv;
    double smooth =
        (original / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1 - smooth) * inv / r->factor + smooth * inv;
}

// The dimension whose wave turns `turns` times within the original context.
static double yarn_dimension(const RopeConfig *r, int64_t rotary, double turns) {
    double original = (double)r->original_max_position_embeddings;
    return (double)rotary * log(original / (turns * TAU)) / (2 * log(r->rope_theta));
}

static double yarn_frequency(const RopeConfig *r, int64_t rotary, double inv, int64_t index) {
    double low = yarn_dimension(r, rotary, r->beta_fast);
    double high = yarn_dimension(r, rotary, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(rotary - 1));
    if (low >= high)
        high = low + 0.001; // as transformers does, against a division by zero
    double ramp = fmin(fmax(((double)index - low) / (high - low), 0), 1);
    return inv * (1 - ramp) + inv / r->factor * ramp;
}

// theta of `dynamic` for sequences of max_seq_len tokens.
static double dynamic_theta(const Config *c, const RopeConfig *r, int64_t rotary,
                            int64_t max_seq_len) {
    double length = (double)max_seq_len, limit = (double)c->max_position_embeddings;
    if (length <= limit)
        return r->rope_theta;
    double base = r->factor * length / limit - (r->factor - 1);
    return r->rope_theta * pow(base, (double)rotary / (double)(rotary - 2));
}

static double attention_factor(const Config *c, const RopeConfig *r) {
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->type == ROPE_YARN)
        return yarn_mscale(r->factor, 1);
    if (r->type != ROPE_LONGROPE)
        return 1;
    double original = (double)r->original_max_position_embeddings;
    double factor = (double)c->max_position_embeddings / original;
    return factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
}

int64_t rope_frequencies(const Config *c, const RopeConfig *r, int64_t max_seq_len, float *inv_freq,
                         float *factor) {
    int64_t rotary = (int64_t)((double)c->head_dim * r->partial_rotary_factor);
    double theta = r->type == ROPE_DYNAMIC ? dynamic_theta(c, r, rotary, max_seq_len) : r->rope_theta;
    const double *extension =
        max_seq_len > r->original_max_position_embeddings ? r->long_factor : r->short_factor;
    for (int64_t i = 0; i < rotary / 2; i++) {
        double inv = pow(theta, -2 * (double)i / (double)rotary);
        if (r->type == ROPE_LINEAR)
            inv /= r->factor;
        else if (r->type == ROPE_LLAMA3)
            inv = llama3_frequency(r, inv);
        else if (r->type == ROPE_YARN)
            inv = yarn_frequency(r, rotary, inv, i);
        else if (r->type == ROPE_LONGROPE)
            inv /= extension[i];
        inv_freq[i] = (float)inv;
    }
    *factor = (float)attention_factor(c, r);
    return rotary;
}

// How a weight is stored: which coding of the same numbers the kernels read.
//
//   2, 3 bits          -> 4 bits: code - zero + 8 is 1 to 15 whatever the zero point
//   5, 6, 7 bits       -> 8 bits: code - zero + 128
//   4, 8 bits          -> as they are, with zero points where one is not 2^(bits - 1)
//   groups of m * p    -> groups of p = 16, 32, 64 or 128 with the scale repeated
//   act-order, others  -> inputs sorted by group, each group filled up to a multiple of p
//
// All of it is exact. Kernels therefore know three widths, four groups and no index of groups.
#include "tile16.h"

#include <string.h>

enum { PLAIN_BITS = 16, LEAST_GROUP = 16, INPUTS_TOGETHER = 8 };

static const int GROUPS[] = {128, 64, 32, 16};
enum { GROUP_COUNT = sizeof GROUPS / sizeof *GROUPS };

static int stored_bits(const Weight *w) {
    return w->bits == PLAIN_BITS ? PLAIN_BITS : w->bits <= 4 ? 4 : 8;
}

// ---- groups -------------------------------------------------------------------------------------

// Must the inputs be put in another order, or filled up?
static bool needs_order(const Weight *w) {
    if (w->in_features % INPUTS_TOGETHER)
        return true;
    if (w->bits == PLAIN_BITS || w->groups == 1)
        return false;
    return w->act_order || w->group_size % LEAST_GROUP != 0;
}

// How many inputs each group has. [groups]
static int64_t *group_sizes(const Weight *w, Arena *a) {
    int64_t *sizes = ARENA_NEW(a, int64_t, w->groups);
    for (int64_t k = 0; k < w->in_features; k++)
        sizes[weight_group(w, k)]++;
    return sizes;
}

// Inputs when every group is filled up to a multiple of `stored`.
static int64_t filled_inputs(const int64_t *sizes, int64_t groups, int stored) {
    int64_t sum = 0;
    for (int64_t group = 0; group < groups; group++)
        sum += ceil_div(sizes[group], stored) * stored;
    return sum;
}

// The largest group whose filling costs less than a twentieth.
static int ordered_group(const Weight *w) {
    Arena scratch = {0};
    const int64_t *sizes = group_sizes(w, &scratch);
    int best = LEAST_GROUP;
    for (int at = GROUP_COUNT - 1; at >= 0; at--)
        if (filled_inputs(sizes, w->groups, GROUPS[at]) * 20 < w->in_features * 21)
            best = GROUPS[at];
    arena_free(&scratch);
    return best;
}

static int natural_group(const Weight *w) {
    if (w->groups == 1)
        return GROUPS[0];
    int at = 0;
    while (w->group_size % GROUPS[at])
        at++;
    return GROUPS[at];
}

static int stored_group(const Weight *w) {
    if (w->bits == PLAIN_BITS)
        return 0;
    return needs_order(w) && w->groups > 1 ? ordered_group(w) : natural_group(w);
}

// ---- the order of the inputs --------------------------------------------------------------------

static int64_t order_length(const Weight *w, int stored) {
    if (w->bits == PLAIN_BITS || w->groups == 1)
        return (int64_t)round_up((uint64_t)w->in_features, LEAST_GROUP);
    Arena scratch = {0};
    int64_t length = filled_inputs(group_sizes(w, &scratch), w->groups, stored);
    arena_free(&scratch);
    return length;
}

// order[length]: the inputs by group, in their own order within each, -1 where a group is filled up.
static void order_make(const Weight *w, int stored, int32_t *order, int64_t length) {
    for (int64_t at = 0; at < length; at++)
        order[at] = -1;
    if (w->bits == PLAIN_BITS || w->groups == 1) {
        for (int64_t k = 0; k < w->in_features; k++)
            order[k] = (int32_t)k;
        return;
    }
    Arena scratch = {0};
    const int64_t *sizes = group_sizes(w, &scratch);
    int64_t *next = ARENA_NEW(&scratch, int64_t, w->groups), at = 0;
    for (int64_t group = 0; group < w->groups; group++) {
        next[group] = at;
        at += ceil_div(sizes[group], stored) * stored;
    }
    for (int64_t k = 0; k < w->in_features; k++)
        order[next[weight_group(w, k)]++] = (int32_t)k;
    arena_free(&scratch);
}

// Do all parts of all experts see their inputs in an order of one length, and the parts of each
// expert in the same one? Then t->input_order and t->in_features are set.
static bool orders_choose(PackedTensor *t, Arena *a) {
    int count = t->part_count * t->experts;
    bool any = false;
    for (int at = 0; at < count; at++)
        any = any || needs_order(t->parts[at]);
    t->in_features = t->parts[0]->in_features;
    if (!any)
        return true;
    t->in_features = order_length(t->parts[0], t->group);
    int32_t *orders = ARENA_NEW(a, int32_t, t->experts * t->in_features);
    int32_t *other = ARENA_NEW(a, int32_t, t->in_features);
    for (int at = 0; at < count; at++) {
        const Weight *w = t->parts[at];
        int32_t *order = orders + at / t->part_count * t->in_features;
        if (order_length(w, t->group) != t->in_features)
            return false;
        order_make(w, t->group, at % t->part_count ? other : order, t->in_features);
        if (at % t->part_count &&
            memcmp(order, other, (size_t)t->in_features * sizeof *order) != 0)
            return false;
    }
    t->input_order = orders;
    return true;
}

// ---- the choice ---------------------------------------------------------------------------------

bool packed_choose(PackedTensor *t, ModelDType dtype, Arena *a) {
    const Weight *first = t->parts[0];
    t->bits = stored_bits(first);
    t->group = stored_group(first);
    t->bf16 = t->bits == PLAIN_BITS && dtype == DTYPE_BF16;
    for (int at = 0; at < t->part_count * t->experts; at++) {
        const Weight *w = t->parts[at];
        if (stored_bits(w) != t->bits || w->in_features != first->in_features)
            return false;
        int group = stored_group(w);
        t->group = group < t->group ? group : t->group;
        t->zeros = t->zeros || (w->bits == t->bits && w->zero_rule != ZERO_MIDDLE);
        t->scale_f32 = t->scale_f32 || (w->bits != PLAIN_BITS && !w->scales_half);
    }
    if (!orders_choose(t, a))
        return false;
    t->rows = (int64_t)round_up((uint64_t)t->out_features, TILE_ROWS);
    Record r = record_geometry(t);
    t->k_padded = ceil_div(t->in_features, r.k) * r.k;
    return true;
}

int64_t packed_source_bytes(const PackedTensor *t) {
    int64_t bits = 0;
    for (int part = 0; part < t->part_count * t->experts; part++) {
        const Weight *w = t->parts[part];
        int64_t per_group = w->bits == PLAIN_BITS ? 0 : 16 + w->bits;
        bits += w->out_features * (w->in_features * w->bits + w->groups * per_group);
    }
    return bits / 8;
}

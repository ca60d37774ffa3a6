// What: what a block of sample.cu knows about its row; scores, keys and weights of the row's tokens.
// Idea: part (1) of sample.cu in code. Scores are stored nowhere: whoever needs them makes them from the
//     logits, which the second-level cache holds.
// Parameters: VOCAB, SEEN_WORDS, MAX_BIAS; the constants of sample.cu, behind which it is included.
#ifndef SAMPLE_ROW_CUH
#define SAMPLE_ROW_CUH

// Where all rows find theirs.
struct Slots {
    const float *logits;
    const SampleParams *sample;
    const s32 *head_slots;
    const u32 *seen, *mask, *biased;
    const LogitBias *bias;
    const u16 *counts;
};

struct Row {
    const float *logits;
    const u32 *seen, *mask, *biased;
    const LogitBias *bias;
    const u16 *counts;
    SampleParams p;
    s32 slot;
    int tokens; // that may be drawn
    float max;   // set once it is known
    float scale; // c of (1)
    float inverse_penalty;
    u64 min_weight;
    bool penalty, counted, greedy, thresholds;
};

__device__ __forceinline__ u64 floor_weight(float x) {
    return (u64)(x * ONE_WEIGHT);
}

// False: nothing to do for this row.
__device__ __forceinline__ bool row_open(Row &row, s64 at, const Slots &slots) {
    row.slot = slots.head_slots[at];
    if (row.slot < 0) {
        return false;
    }
    s64 words      = (s64)row.slot * SEEN_WORDS;
    row.p          = slots.sample[row.slot];
    row.logits     = slots.logits + at * VOCAB;
    row.seen       = slots.seen + words;
    row.mask       = slots.mask + words;
    row.biased     = slots.biased + words;
    row.bias       = slots.bias + (s64)row.slot * MAX_BIAS;
    row.counts     = slots.counts + (s64)row.slot * VOCAB;
    row.p.step += row.p.first_row > 0 ? (int)at + 1 - row.p.first_row : 0;
    row.tokens     = row.p.token_count > 0 ? min(row.p.token_count, VOCAB) : VOCAB;
    row.penalty    = row.p.repetition_penalty > 0.0f && row.p.repetition_penalty != 1.0f;
    row.counted    = row.p.presence_penalty != 0.0f || row.p.frequency_penalty != 0.0f;
    row.greedy     = !(row.p.temperature > 0.0f);
    row.thresholds = (row.p.top_k > 0 && row.p.top_k < VOCAB) || row.p.top_p < 1.0f;
    row.scale      = fminf(1.44269504f / row.p.temperature, 1e30f); // 0 * inf is no number
    row.max        = 0.0f;
    row.inverse_penalty = 1.0f / row.p.repetition_penalty;
    u64 least      = floor_weight(fminf(fmaxf(row.p.min_p, 0.0f), 1.0f));
    row.min_weight = least > 1 ? least : 1;
    return true;
}

__device__ __forceinline__ bool has_bit(const u32 *bits, int id) {
    return bits[id / 32] >> (id % 32) & 1;
}

// NaN counts as the smallest; -0 becomes +0.
__device__ __forceinline__ float cleaned(float s) {
    s = s >= -LARGEST ? s : -LARGEST;
    return fminf(s, LARGEST) + 0.0f;
}

__device__ __forceinline__ float never() { // the score of an excluded token: -infinity
    return __uint_as_float(0xff800000u);
}

// Of an id that biased[slot] has. At most 300 tokens of a row come here.
__device__ __forceinline__ float bias_of(const Row &row, int id) {
    int low = 0, high = row.p.bias_count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (row.bias[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return row.bias[low].bias;
}

__device__ __forceinline__ float score(const Row &row, int id) {
    float s = ld_global_f32(row.logits + id);
    if (row.penalty && has_bit(row.seen, id)) {
        s = s * (s > 0.0f ? row.inverse_penalty : row.p.repetition_penalty);
    }
    if (row.counted && row.counts[id]) {
        s -= row.p.presence_penalty + row.p.frequency_penalty * (float)row.counts[id];
    }
    if (row.p.bias_count > 0 && has_bit(row.biased, id)) {
        s += bias_of(row, id);
    }
    bool excluded = id >= row.tokens || (row.p.masked && !has_bit(row.mask, id));
    return excluded ? never() : cleaned(s);
}

__device__ __forceinline__ u32 key_of(float s) {
    u32 bits = __float_as_uint(s);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ u64 weight(const Row &row, float s) {
    float x = (s - row.max) * row.scale;
    return x <= -40.0f ? 0 : floor_weight(ex2_approx(x));
}

#endif

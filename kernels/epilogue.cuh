// What: what a linear does with its results, the same for every linear kernel.
// Idea: a lane of an mma holds the packed rows r and r + 8 of a tile of 16 for one token, and row
//     orders (compiler/compile.h, RowOrder) are chosen so that these two belong together: gate and
//     up of one feature, or the two halves of a rotated pair. An epilogue is two calls, so that its
//     loads can be under way while the sums are still being made: pair_bias and pair_before, then
//     pair_store.
// Parameters: EPILOGUE, HAS_BIAS, OUT_F32, ACT, ROWS, OUT_FEATURES, OUT_SCALE_BITS (fp32) that sum
//     and bias are multiplied with; for EPILOGUE_STORE SOFTCAP_BITS (fp32, 0 for none); for
//     EPILOGUE_ROPE_KV HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS, PAGES_PER_SEQ, KV_PAGE_BYTES,
//     KV_VALUES_AT and ROPE_FACTOR_BITS (fp32).
#ifndef EPILOGUE_CUH
#define EPILOGUE_CUH

#include "activation.cuh"
#include "rope.cuh"

#define EPILOGUE_STORE 0 // ORDER EPILOGUES (compiler/compile.h)
#define EPILOGUE_ADD 1
#define EPILOGUE_ACT_MUL 2
#define EPILOGUE_ROPE_KV 3
#if EPILOGUE == EPILOGUE_ROPE_KV
#include "kv_layout.cuh"
#endif

static_assert(EPILOGUE >= EPILOGUE_STORE && EPILOGUE <= EPILOGUE_ROPE_KV, "EPILOGUE");
static_assert(ROWS % 16 == 0 && OUT_FEATURES <= ROWS, "ROWS");
static_assert(SOFTCAP_BITS == 0 || EPILOGUE == EPILOGUE_STORE, "SOFTCAP_BITS");

// Where results go and what they are combined with; unused ones are null.
struct EpilogueOperands {
    const float *bias;     // fp32 [ROWS], packed order
    void *out;             // STORE: act or fp32 [tokens, N]; ADD: fp32 [tokens, N], the residual;
                           // ACT_MUL: act [tokens, N / 2]; ROPE_KV: act [tokens, HEADS * HEAD_DIM]
    u8 *kv;                // KV pages, at this layer
    const float *inv_freq; // fp32 [HEAD_DIM / 2]
    const s32 *positions;  // [tokens]
    const s32 *slots;      // [tokens]; -1: an empty row, written to page 0
    const s32 *page_table; // [slots, PAGES_PER_SEQ]
};

// Where a token stands: the same for all rows.
struct TokenPlace {
    int position;
    u8 *page; // of this layer: keys, then values; already at the token's row of head 0, its chunk 0
};

__device__ __forceinline__ TokenPlace token_place(const EpilogueOperands &o, int token) {
    TokenPlace place = {0, nullptr};
#if EPILOGUE == EPILOGUE_ROPE_KV
    place.position = (int)ld_global_u32(o.positions + token);
    int slot = (int)ld_global_u32(o.slots + token);
    u32 position = (u32)place.position;
    u32 page = 0;
    if (slot >= 0) {
        page = ld_global_u32(o.page_table + (s64)slot * PAGES_PER_SEQ + position / PAGE_TOKENS);
    }
    place.page = o.kv + (s64)page * KV_PAGE_BYTES +
                 (s64)(position % PAGE_TOKENS) * HEAD_DIM * (s64)sizeof(act_t) +
                 kv_chunk(place.position, 0) * 16;
#endif
    return place;
}

// Kernels of many tokens let the memory add to the residual: one addition for each element, so the
// result is the same, and nobody waits for a load.
#ifndef ADDS_IN_MEMORY
#define ADDS_IN_MEMORY 0
#endif

// What a pair of rows needs besides its sums.
struct PairBefore {
    float low, high; // ADD: the residual; ROPE_KV: cos and sin
};
struct PairBias { // the same for all tokens
    float low, high;
};

#if EPILOGUE == EPILOGUE_ROPE_KV
constexpr int HEAD_TILES = HEAD_DIM / 16;
constexpr int Q_TILES = HEADS * HEAD_TILES;
constexpr int K_TILES = KV_HEADS * HEAD_TILES;
static_assert(HEAD_DIM % 16 == 0 && ROWS == (HEADS + 2 * KV_HEADS) * HEAD_DIM, "heads");
#endif

// What the model does to y = sum + bias before anything else sees it.
__device__ __forceinline__ float scaled(float y) {
    constexpr u32 ONE = 0x3f800000;
    return OUT_SCALE_BITS == ONE ? y : y * __uint_as_float(OUT_SCALE_BITS);
}

// cap * tanh(y / cap), by 1 - 2 / (e^2x + 1): an error of 2^-22 of the cap.
__device__ __forceinline__ float softcapped(float y) {
    if (SOFTCAP_BITS == 0) {
        return y;
    }
    constexpr float TWO_LOG2_E = 2.8853900818f;
    const float cap = __uint_as_float(SOFTCAP_BITS);
    float power = ex2_approx(y * (TWO_LOG2_E / cap));
    return cap - 2.0f * cap * rcp_approx(power + 1.0f);
}

// The rows 16 * tile + r and + 8, r = 0..7.
__device__ __forceinline__ PairBias pair_bias(const EpilogueOperands &o, int tile, int r) {
    PairBias bias = {0.0f, 0.0f};
    if (HAS_BIAS) {
        bias.low = ld_global_f32(o.bias + tile * 16 + r);
        bias.high = ld_global_f32(o.bias + tile * 16 + r + 8);
    }
    return bias;
}

// The same rows of one token.
__device__ __forceinline__ PairBefore pair_before(const EpilogueOperands &o,
                                                  const TokenPlace &place, int tile, int r,
                                                  int token) {
    PairBefore before = {0.0f, 0.0f};
#if EPILOGUE == EPILOGUE_ADD && !ADDS_IN_MEMORY
    int row = tile * 16 + r;
    const float *residual = (const float *)o.out + (s64)token * OUT_FEATURES + row;
    before.low = row < OUT_FEATURES ? ld_global_f32(residual) : 0.0f;
    before.high = row + 8 < OUT_FEATURES ? ld_global_f32(residual + 8) : 0.0f;
#elif EPILOGUE == EPILOGUE_ROPE_KV
    if (tile < Q_TILES + K_TILES) {
        float inv_freq = ld_global_f32(o.inv_freq + tile % HEAD_TILES * 8 + r);
        rope_cos_sin(&before.low, &before.high, place.position, inv_freq,
                     __uint_as_float(ROPE_FACTOR_BITS));
    }
#endif
    return before;
}

// What is stored of a pair of rows; with EPILOGUE_ACT_MUL it is one value, in *low.
__device__ __forceinline__ void pair_values(float *low, float *high, const PairBefore &before,
                                            const PairBias &bias, int tile) {
    *low = softcapped(scaled(HAS_BIAS ? *low + bias.low : *low));
    *high = softcapped(scaled(HAS_BIAS ? *high + bias.high : *high));
#if EPILOGUE == EPILOGUE_ACT_MUL
    *low = activation(*low) * *high;
#elif EPILOGUE == EPILOGUE_ROPE_KV
    if (tile < Q_TILES + K_TILES) {
        float x = *low, y = *high;
        *low = x * before.low - y * before.high;
        *high = y * before.low + x * before.high;
    }
#endif
}

// A token's results of the rows 8 * part .. 8 * part + 7 of a tile stand side by side; where, if
// they are of the activations' type. With EPILOGUE_ACT_MUL there is only part 0. NULL: nowhere, they
// are padding; it takes OUT_FEATURES (ACT_MUL: half of it) to be a multiple of 8 to say so of all
// eight.
__device__ __forceinline__ act_t *part_address(const EpilogueOperands &o, const TokenPlace &place,
                                               int tile, int part, int token) {
#if EPILOGUE == EPILOGUE_ROPE_KV
    int head_tile = tile % HEAD_TILES, head = tile / HEAD_TILES;
    if (tile < Q_TILES) {
        return (act_t *)o.out + ((s64)token * HEADS + head) * HEAD_DIM + head_tile * 8 +
               part * (HEAD_DIM / 2);
    }
    bool is_key = tile < Q_TILES + K_TILES;
    head = (tile - Q_TILES - (is_key ? 0 : K_TILES)) / HEAD_TILES;
    u32 chunk = (u32)(is_key ? head_tile + part * (HEAD_DIM / 16) : head_tile * 2 + part);
    u32 row   = (u32)head * (PAGE_TOKENS * HEAD_DIM * 2) + (is_key ? 0 : (u32)KV_VALUES_AT);
    return (act_t *)kv_chunk_at(place.page, row, chunk);
#else
    constexpr int FEATURES = EPILOGUE == EPILOGUE_ACT_MUL ? OUT_FEATURES / 2 : OUT_FEATURES;
    int feature = EPILOGUE == EPILOGUE_ACT_MUL ? tile * 8 : tile * 16 + part * 8;
    return feature < FEATURES ? (act_t *)o.out + (s64)token * FEATURES + feature : nullptr;
#endif
}

__device__ __forceinline__ void pair_store(const EpilogueOperands &o, const TokenPlace &place,
                                           const PairBefore &before, const PairBias &bias,
                                           int tile, int r, int token, float low, float high) {
    pair_values(&low, &high, before, bias, tile);
#if EPILOGUE == EPILOGUE_STORE || EPILOGUE == EPILOGUE_ADD
    int row = tile * 16 + r;
    s64 at = (s64)token * OUT_FEATURES + row;
    if (EPILOGUE == EPILOGUE_ADD && ADDS_IN_MEMORY) {
        float *out = (float *)o.out + at;
        if (row < OUT_FEATURES) {
            red_global_add_f32(out, low);
        }
        if (row + 8 < OUT_FEATURES) {
            red_global_add_f32(out + 8, high);
        }
    } else if (EPILOGUE == EPILOGUE_ADD || OUT_F32) {
        float *out = (float *)o.out + at;
        if (row < OUT_FEATURES) {
            st_global_f32(out, low + before.low);
        }
        if (row + 8 < OUT_FEATURES) {
            st_global_f32(out + 8, high + before.high);
        }
    } else {
        act_t *out = (act_t *)o.out + at;
        if (row < OUT_FEATURES) {
            st_global_u16(out, act_from_f32(low));
        }
        if (row + 8 < OUT_FEATURES) {
            st_global_u16(out + 8, act_from_f32(high));
        }
    }
#elif EPILOGUE == EPILOGUE_ACT_MUL
    if (tile * 8 + r < OUT_FEATURES / 2) {
        st_global_u16(part_address(o, place, tile, 0, token) + r, act_from_f32(low));
    }
#else
    st_global_u16(part_address(o, place, tile, 0, token) + r, act_from_f32(low));
    st_global_u16(part_address(o, place, tile, 1, token) + r, act_from_f32(high));
#endif
}

#endif

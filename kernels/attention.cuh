// What: the paged KV cache as attention reads it, and what the two kernels have in common.
// Idea: layout in runtime/payload.h: page p of a layer holds keys, then values, each [kv_head]
//     [PAGE_TOKENS][HEAD_DIM] of act, rows as in kv_layout.cuh; a sequence's pages are a row of the
//     page table.
// Parameters: HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS, PAGES_PER_SEQ, KV_PAGE_BYTES, KV_VALUES_AT
//     (bytes from a page's keys to its values); SCALE_BITS, the factor on q k^T (fp32); WINDOW: a
//     token sees keys at positions > its own - WINDOW, 0: all before it; SOFTCAP_BITS (fp32): c > 0
//     makes scores c tanh(score / c), 0: none; HAS_PLACES: element e of a row of out is stored at
//     places[e].
#ifndef ATTENTION_CUH
#define ATTENTION_CUH

#include "kv_layout.cuh"

static_assert(HEADS > 0 && KV_HEADS > 0 && HEADS % KV_HEADS == 0, "heads");
static_assert(HEAD_DIM % 8 == 0 && HEAD_DIM >= 8 && HEAD_DIM <= 256, "HEAD_DIM");
static_assert(WINDOW >= 0, "WINDOW");
static_assert(PAGE_TOKENS % 16 == 0 && PAGES_PER_SEQ > 0, "pages");
static_assert(KV_PAGE_BYTES % 16 == 0 && KV_VALUES_AT % 16 == 0, "rows are read in 16 bytes");

constexpr int GROUP_HEADS  = HEADS / KV_HEADS; // query heads of one KV head
constexpr int ROW_BYTES    = HEAD_DIM * 2;     // of one token and KV head
constexpr s64 HEAD_BYTES   = (s64)PAGE_TOKENS * ROW_BYTES;
constexpr float LOG2_E     = 1.4426950408889634f;
constexpr float NO_SCORE   = -1e30f; // below every score, and no infinity: differences stay numbers

// The factor that brings q k^T to the exponent of 2; with a cap, `capped` has done that.
__device__ __forceinline__ float score_scale() {
    return SOFTCAP_BITS ? 1.0f : __uint_as_float(SCALE_BITS) * LOG2_E;
}

// The capped score in the exponent of 2: tanh(x) = 1 - 2 / (2^(2 x log2 e) + 1).
__device__ __forceinline__ float capped(float score) {
    const float cap = __uint_as_float(SOFTCAP_BITS);
    const float to  = __uint_as_float(SCALE_BITS) / cap * (2.0f * LOG2_E);
    return cap * LOG2_E * (1.0f - 2.0f * rcp_approx(ex2_approx(score * to) + 1.0f));
}

// The first key that the token at `position` sees.
__device__ __forceinline__ int first_key(int position) {
    return WINDOW ? max(position - (int)WINDOW + 1, 0) : 0;
}

// Elements `at` and `at` + 1 of a token's row of out; `at` is even.
__device__ __forceinline__ void store_pair(act_t *row, const s32 *places, int at, float x,
                                           float y) {
    if (HAS_PLACES) {
        uint2 to = ld_global_v2(places + at);
        st_global_u16(row + to.x, act_from_f32(x));
        st_global_u16(row + to.y, act_from_f32(y));
    } else {
        st_global_u32(row + at, act2_from_f32(x, y));
    }
}

// Behind the last token of a run, that of slot slots[first]: from `first` on, at most `last`.
__device__ __forceinline__ int run_end(const s32 *slots, int first, int last) {
    int slot = slots[first], end = first + 1;
    if (slots[last - 1] == slot) {
        return last; // a sequence has one run
    }
    while (slots[end] == slot) {
        end++;
    }
    return end;
}

// One KV head of one sequence.
struct KvHead {
    const u8 *keys;   // of page 0
    const s32 *pages; // the sequence's row of the page table
};

__device__ __forceinline__ KvHead kv_head(const u8 *kv, const s32 *page_table, int slot, int head) {
    return {kv + head * HEAD_BYTES, page_table + (s64)slot * PAGES_PER_SEQ};
}

__device__ __forceinline__ s32 kv_page(const KvHead &h, int position) {
    return (s32)ld_global_u32(h.pages + position / PAGE_TOKENS);
}

// The key row of `position`, whose page is known; the value row is KV_VALUES_AT further.
__device__ __forceinline__ const u8 *kv_row(const KvHead &h, s32 page, int position) {
    return h.keys + page * (s64)KV_PAGE_BYTES + position % PAGE_TOKENS * ROW_BYTES;
}

#endif

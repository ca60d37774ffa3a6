// What: the paged KV cache as attention reads it.
// Idea: layout in runtime/payload.h: page p of a layer holds keys, then values, each [kv_head]
//     [PAGE_TOKENS][HEAD_DIM] in fp16; a sequence's pages are a row of the page table.
// Parameters: HEADS, KV_HEADS, HEAD_DIM, PAGE_TOKENS, PAGES_PER_SEQ, KV_PAGE_BYTES, KV_VALUES_AT
//     (bytes from a page's keys to its values) and SCALE_BITS, the factor on q k^T (fp32).
#ifndef ATTENTION_CUH
#define ATTENTION_CUH

static_assert(HEADS > 0 && KV_HEADS > 0 && HEADS % KV_HEADS == 0, "heads");
static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM >= 16 && HEAD_DIM <= 256, "HEAD_DIM");
static_assert(PAGE_TOKENS % 16 == 0 && PAGES_PER_SEQ > 0, "pages");
static_assert(KV_PAGE_BYTES % 16 == 0 && KV_VALUES_AT % 16 == 0, "rows are read in 16 bytes");

constexpr int GROUP_HEADS  = HEADS / KV_HEADS; // query heads of one KV head
constexpr int ROW_BYTES    = HEAD_DIM * 2;     // of one token and KV head
constexpr s64 HEAD_BYTES   = (s64)PAGE_TOKENS * ROW_BYTES;
constexpr float LOG2_E     = 1.4426950408889634f;
constexpr float NO_SCORE   = -1e30f; // below every score, and no infinity: differences stay numbers

// The factor that brings q k^T to the exponent of 2.
__device__ __forceinline__ float score_scale() {
    return __uint_as_float(SCALE_BITS) * LOG2_E;
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

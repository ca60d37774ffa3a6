// (1) Rows k and v of each token go into the pages of the KV cache, at positions[t] of slots[t].
//
// (2) operand     dtype  shape                          notes
//     k, v        act    [tokens, KV_HEADS, HEAD_DIM]
//     kv          act    pages, see runtime/payload.h   of this layer
//     positions   int32  [tokens]
//     slots       int32  [tokens]                       -1: an empty row, written to page 0
//     page_table  int32  [slots, PAGES_PER_SEQ]
//     tokens      int64
//
// (3) Layouts: k and v plain row-major; a page holds [KV_HEADS][PAGE_TOKENS][HEAD_DIM] keys, and
//     values KV_VALUES_AT bytes further.
//
// (4) Bytes: tokens * KV_HEADS * HEAD_DIM * 8. One token: launch and two round trips to L2, about 2
//     us. Times: docs/performance.md.
//
// (5) KV_HEADS, HEAD_DIM (multiple of 8), PAGE_TOKENS, PAGES_PER_SEQ, KV_PAGE_BYTES, KV_VALUES_AT
//
// (6) Grid {ceil(items of a token / 256), tokens, 1}, 256 threads; an item is 16 bytes, first those
//     of k.
//
// (7) Read: the entry.
#include "ptx.cuh"
#include "kv_layout.cuh"

constexpr int THREADS    = 256;
constexpr int ELEMS      = 8; // of an item
constexpr int HEAD_ITEMS = HEAD_DIM / ELEMS;
constexpr int HALF_ITEMS = KV_HEADS * HEAD_ITEMS; // of k, as many of v
static_assert(KV_HEADS > 0 && HEAD_DIM > 0 && HEAD_DIM % ELEMS == 0, "heads");
static_assert(PAGE_TOKENS > 0 && KV_PAGE_BYTES % 16 == 0 && KV_VALUES_AT % 16 == 0, "pages");

extern "C" __global__ void __launch_bounds__(THREADS)
    kv_append(const act_t *k, const act_t *v, u8 *kv, const s32 *positions, const s32 *slots,
              const s32 *page_table, s64 tokens) {
    s64 token = blockIdx.y;
    int item  = (int)(blockIdx.x * THREADS + threadIdx.x);
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token >= tokens || item >= 2 * HALF_ITEMS) {
        return;
    }
    u32 position = ld_global_u32(positions + token), page = 0;
    s64 slot     = (s32)ld_global_u32(slots + token);
    if (slot >= 0) {
        page = ld_global_u32(page_table + slot * PAGES_PER_SEQ + position / PAGE_TOKENS);
    }
    bool is_key = item < HALF_ITEMS;
    int at      = is_key ? item : item - HALF_ITEMS, head = at / HEAD_ITEMS;
    uint4 elems = ld_global_v4((is_key ? k : v) + (token * HALF_ITEMS + at) * ELEMS);
    s64 row     = (s64)head * PAGE_TOKENS + position % PAGE_TOKENS;
    st_global_v4(kv + page * (s64)KV_PAGE_BYTES + (is_key ? 0 : (s64)KV_VALUES_AT) +
                     (row * HEAD_ITEMS + kv_chunk((int)position, at % HEAD_ITEMS)) * 16,
                 elems);
}

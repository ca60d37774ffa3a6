// (1) The choices of experts by expert, and cut into tiles of up to BLOCK_TOKENS for experts_gemm
//     (linear_gemm.cu). Choice c = token * TOP_K + j is the j-th expert of a token.
//
// (2) operand  dtype  shape                    notes
//     routes   fp32   [tokens, 2 * TOP_K]      numbers of experts, then their weights
//     slots    int32  [routed experts]         HAS_SLOTS: linear of the stack, -1: none; else null
//     choices  int32  [tokens * TOP_K]         out: by linear of the stack, those without one last
//     tiles    int32  [1 + tiles, 4]           out: {count, 0, 0, 0}, then {linear or -1, first in
//                                              choices, how many, 0}
//     tokens   int64
//
// (3) Layouts: plain row-major.
//
// (4) Bytes: tokens * TOP_K * 12; two rounds of latency per 1024 choices, about 10 us for 16384.
//
// (5) EXPERTS       linears of the stack, up to 1024
//     TOP_K, HAS_SLOTS
//     BLOCK_TOKENS  choices of a tile
//
// (6) One block. Counts and places are shared atomics: the order of the choices of one expert may
//     differ from run to run, which no result depends on.
//
// (7) Read: bucket_of, buckets_scan, tiles_write, then the entry.
#include "ptx.cuh"
#include "reduce.cuh"

constexpr int THREADS = 1024;
constexpr int BUCKETS = EXPERTS + 1; // the last: experts of other stacks
static_assert(EXPERTS > 0 && EXPERTS <= 1024 && TOP_K > 0 && BLOCK_TOKENS > 0, "experts");

__device__ __forceinline__ int bucket_of(const float *routes, const s32 *slots, int choice) {
    int at = choice / TOP_K * 2 * TOP_K + choice % TOP_K;
    int slot = (int)ld_global_f32(routes + at);
    if (HAS_SLOTS) {
        slot = (s32)ld_global_u32(slots + slot);
    }
    return slot < 0 ? EXPERTS : slot;
}

__device__ __forceinline__ u32 tiles_of(u32 count) {
    return (count + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

// first[b]: where bucket b starts in choices; tile[b]: its first tile. One warp; returns the number
// of tiles.
__device__ __forceinline__ u32 buckets_scan(const u32 *counts, u32 *first, u32 *tile) {
    u32 choices = 0, tiles = 0;
    for (int start = 0; start < BUCKETS; start += WARP_LANES) {
        int bucket = start + (int)threadIdx.x % WARP_LANES;
        u32 count = bucket < BUCKETS ? counts[bucket] : 0;
        u32 last_choice = warp_scan(count), last_tile = warp_scan(tiles_of(count));
        if (bucket < BUCKETS) {
            first[bucket] = choices + last_choice - count;
            tile[bucket] = tiles + last_tile - tiles_of(count);
        }
        choices += __shfl_sync(FULL_MASK, last_choice, WARP_LANES - 1);
        tiles += __shfl_sync(FULL_MASK, last_tile, WARP_LANES - 1);
    }
    return tiles;
}

__device__ __forceinline__ void tiles_write(uint4 *tiles, int bucket, u32 count, u32 first,
                                            u32 tile) {
    u32 linear = bucket < EXPERTS ? (u32)bucket : (u32)-1;
    for (u32 at = 0; at < count; at += BLOCK_TOKENS) {
        u32 some = count - at < BLOCK_TOKENS ? count - at : BLOCK_TOKENS;
        st_global_v4(tiles + 1 + tile + at / BLOCK_TOKENS, make_uint4(linear, first + at, some, 0));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    experts_sort(const float *routes, const s32 *slots, s32 *choices, uint4 *tiles, s64 tokens) {
    __shared__ u32 counts[BUCKETS], first[BUCKETS], tile[BUCKETS];
    int total = (int)tokens * TOP_K;
    griddepcontrol_launch_dependents();
    for (int bucket = threadIdx.x; bucket < BUCKETS; bucket += THREADS) {
        counts[bucket] = 0;
    }
    __syncthreads();
    griddepcontrol_wait();
    for (int choice = threadIdx.x; choice < total; choice += THREADS) {
        atom_shared_add_u32(shared_address(&counts[bucket_of(routes, slots, choice)]), 1);
    }
    __syncthreads();
    if (threadIdx.x < WARP_LANES) {
        u32 count = buckets_scan(counts, first, tile);
        if (threadIdx.x == 0) {
            st_global_v4(tiles, make_uint4(count, 0, 0, 0));
        }
    }
    __syncthreads();
    for (int bucket = threadIdx.x; bucket < BUCKETS; bucket += THREADS) {
        tiles_write(tiles, bucket, counts[bucket], first[bucket], tile[bucket]);
    }
    __syncthreads(); // first counts on from here
    for (int choice = threadIdx.x; choice < total; choice += THREADS) {
        u32 place =
            atom_shared_add_u32(shared_address(&first[bucket_of(routes, slots, choice)]), 1);
        st_global_u32(choices + place, (u32)choice);
    }
}

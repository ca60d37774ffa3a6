// What: where the 16 bytes of eight elements lie in a row of the paged KV cache (a token's key or
//     value of one head; rows and pages: runtime/payload.h).
// Idea: rows are exchanged bitwise, chunk against row, so that eight chunks of one column lie in eight
//     different groups of banks when a piece of a page is copied to shared memory as it is: ldmatrix
//     then reads without conflicts, and rows need no padding.
//
//         HEAD_DIM 64: chunk c of row r at c ^ r      r = 0:  0 1 2 3 4 5 6 7
//                                                     r = 1:  1 0 3 2 5 4 7 6
//                                                     r = 2:  2 3 0 1 6 7 4 5    ...
//
//     A row of an odd number of chunks does that by itself; of 2, 4, 8 times an odd number, every
//     fourth, second, each row begins a new exchange.
// Parameters: HEAD_DIM, a multiple of 8.
#ifndef KV_LAYOUT_CUH
#define KV_LAYOUT_CUH

constexpr int KV_CHUNKS = HEAD_DIM / 8;
constexpr int KV_SPREAD = KV_CHUNKS % 8 == 0   ? 8
                          : KV_CHUNKS % 4 == 0 ? 4
                          : KV_CHUNKS % 2 == 0 ? 2
                                               : 1;

// Where chunk `chunk` of the row of `position` lies in it; also the other way round.
__device__ __forceinline__ int kv_chunk(int position, int chunk) {
    return chunk ^ (int)((u32)position / (8 / KV_SPREAD) % KV_SPREAD);
}
// Chunk `chunk` of the row `bytes` behind the one whose chunk 0 is `first`: rows are aligned to
// KV_SPREAD chunks.
__device__ __forceinline__ u8 *kv_chunk_at(u8 *first, u32 bytes, u32 chunk) {
    return (u8 *)((u64)first ^ chunk % KV_SPREAD * 16) +
           (bytes + chunk / KV_SPREAD * (KV_SPREAD * 16));
}

#endif

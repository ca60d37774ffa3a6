// (1) out[t][k] = scale * table[token_ids[t]][k]; a token outside of [0, VOCAB) gives zeros.
//
// (2) operand    dtype  shape            notes
//     table      act    tile16, 16 bits  VOCAB rows of WIDTH, see (3)
//     token_ids  int32  [tokens]
//     out        fp32   [tokens, WIDTH]  the residual stream
//     tokens     int64
//
// (3) The table is a packed linear of 16 bits, so that a tied head is the same tensor: row tiles of
//     16 tokens; in a row tile, tiles of 16 tokens x 16 k (512 bytes) follow each other along
//     K_PADDED. In a tile, token % 16 = r + 8 h (r < 8), lane 4 r + c owns 16 bytes:
//
//       bytes   0..3           4..7           8..11          12..15
//       word    0              1              2              3
//       row     r              r + 8          r              r + 8
//       k       2c, 2c+1       2c, 2c+1       2c+8, 2c+9     2c+8, 2c+9
//
//     so one token takes words h and 2 + h of lanes 4 r .. 4 r + 3: half of 64 bytes in each tile.
//
// (4) Bytes: tokens * WIDTH * (4 + 4): half of each table sector belongs to the other token. 2048 x
//     4096: 67 MB, 16 us at 4.1 TB/s on an H200; one token: about 2 us of launch and latency.
//
// (5) WIDTH       k of a token, even (recode.c makes it a multiple of 8)
//     K_PADDED    k stored, multiple of 64
//     VOCAB       tokens of the table
//     SCALE_BITS  scale as the bits of a float
//
// (6) One block of 256 threads per token, grid {1, tokens, 1}. Thread i takes lane i % 4 of tile
//     i / 4, i / 4 + 64, ...
//
// (7) Read: embed_token, then the entry.
#include "ptx.cuh"

constexpr int THREADS        = 256;
constexpr int TILE_K         = 16;
constexpr int TILE_BYTES     = 512;
constexpr int TILES          = (WIDTH + TILE_K - 1) / TILE_K;
constexpr s64 ROW_TILE_BYTES = (s64)K_PADDED / TILE_K * TILE_BYTES;
static_assert(WIDTH > 0 && WIDTH % 2 == 0 && K_PADDED % 64 == 0 && K_PADDED >= WIDTH, "table");
static_assert(VOCAB > 0, "VOCAB");

__device__ __forceinline__ void store_pair(float *out, u32 pair) {
    const float scale = __uint_as_float(SCALE_BITS);
    *(float2 *)out    = make_float2(act2_low(pair) * scale, act2_high(pair) * scale);
}

// One token by the whole block.
__device__ __forceinline__ void embed_token(const u8 *table, s32 token, float *out) {
    bool known  = token >= 0 && token < VOCAB;
    int row     = known ? token % 16 : 0;
    const u8 *p = table + (s64)(known ? token / 16 : 0) * ROW_TILE_BYTES + row % 8 * 64;
    for (int at = (int)threadIdx.x; at < TILES * 4; at += THREADS) {
        int tile = at / 4, column = at % 4, k = tile * TILE_K + 2 * column;
        uint4 words = ld_nc_v4(p + (s64)tile * TILE_BYTES + column * 16);
        u32 low     = row < 8 ? words.x : words.y;
        u32 high    = row < 8 ? words.z : words.w;
        if (k < WIDTH) {
            store_pair(out + k, known ? low : 0);
        }
        if (k + 8 < WIDTH) {
            store_pair(out + k + 8, known ? high : 0);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    embed(const u8 *table, const s32 *token_ids, float *out, s64 tokens) {
    s64 at = blockIdx.y;
    // In this order: behind a step's first kernel nothing of the step before is left, so the others
    // may read before they wait what only steps before have written (attention_decode.cu).
    griddepcontrol_wait();
    griddepcontrol_launch_dependents();
    if (at < tokens) {
        embed_token(table, token_ids[at], out + at * WIDTH);
    }
}

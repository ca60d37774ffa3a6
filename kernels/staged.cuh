// What: 16-bit results of a block through shared memory, so that a token's rows are stored side by
//     side. From the fragments of an mma they would go out in pieces of two bytes, eight of which
//     stand together.
// Idea: stmatrix turns a fragment's rows (outputs) and columns (tokens) around: a token's results of
//     eight rows become one chunk of 16 bytes.
//
//         staged  [STAGED_TOKENS][STAGED_STRIDE]   act; of a token the chunks of all row tiles
//
// Source: PTX ISA, stmatrix. Parameters: those of gemm.cuh, behind which it is included; STAGED_ROOM,
//     bytes that there are for as many tokens at a time.
#ifndef STAGED_CUH
#define STAGED_CUH

constexpr int TILE_PARTS    = EPILOGUE == EPILOGUE_ACT_MUL ? 1 : 2; // chunks of a row tile
constexpr int STAGED_CHUNKS = BLOCK_TILES * TILE_PARTS;             // of a token
constexpr int STAGED_STRIDE = STAGED_CHUNKS * 16 + 16; // 8 tokens' chunks are in different banks
constexpr int STAGED_PLACE  = EPILOGUE == EPILOGUE_ROPE_KV ? PLACE_BYTES : 0; // of a token, too
constexpr int staged_tokens(int tokens) {
    return tokens * (STAGED_STRIDE + STAGED_PLACE) <= STAGED_ROOM ? tokens
                                                                  : staged_tokens(tokens / 2);
}
constexpr int STAGED_TOKENS = staged_tokens(BLOCK_TOKENS);
constexpr int STAGED_BYTES  = STAGED_TOKENS * STAGED_STRIDE;
// Results of another type, or whose chunks are cut by the end of the rows, are not staged.
constexpr bool CAN_BE_STAGED =
    EPILOGUE == EPILOGUE_ROPE_KV || (EPILOGUE == EPILOGUE_STORE && !OUT_F32 && OUT_FEATURES % 8 == 0) ||
    (EPILOGUE == EPILOGUE_ACT_MUL && OUT_FEATURES % 16 == 0);

// Two tokens' results of the pair of rows r, r + 8 of a tile, as act; high: not with ACT_MUL.
__device__ __forceinline__ void staged_pair(u32 *low, u32 *high, const Operands &o, WorkBlock b,
                                            u32 places, const float sums[4], const PairBias &bias,
                                            int tile, int token) {
    int r = threadIdx.x % WARP_LANES / 4;
    float lows[2] = {sums[0], sums[1]}, highs[2] = {sums[2], sums[3]};
#pragma unroll // lows stay in registers
    for (int i = 0; i < 2; i++) {
        // places behind the last token are not set, and nobody stores what comes of them
        TokenPlace place = place_load(places, token + i);
        PairBefore before = {0.0f, 0.0f};
        if (EPILOGUE == EPILOGUE_ROPE_KV) {
            before = pair_before(o.epilogue, place, tile, r, b.token + token + i);
        }
        pair_values(&lows[i], &highs[i], before, bias, tile);
    }
    *low = act2_from_f32(lows[0], lows[1]);
    *high = act2_from_f32(highs[0], highs[1]);
}

// The sums of one row tile, number `tile` of all and `block_tile` of the block, to `staged`: those of
// the tokens from b.token on.
__device__ __forceinline__ void staged_write(const Operands &o, WorkBlock b, u32 staged, u32 places,
                                             const float (*sums)[4], int tile, int block_tile) {
    constexpr int TOGETHER = 4 / TILE_PARTS; // n8 tiles of tokens in one store
    int lane = threadIdx.x % WARP_LANES, matrix = lane / 8;
    PairBias bias = pair_bias(o.epilogue, tile < ROW_TILES ? tile : 0, lane / 4);
    int row = matrix / TILE_PARTS * 8 + lane % 8;
    u32 to = staged + row * STAGED_STRIDE + (block_tile * TILE_PARTS + matrix % TILE_PARTS) * 16;
#pragma unroll // sums stay in registers
    for (int first = 0; first < STAGED_TOKENS / 8; first += TOGETHER) {
        u32 results[4], unused;
#pragma unroll // results stay in registers
        for (int i = 0; i < TOGETHER; i++) {
            int token = (first + i) * 8 + lane % 4 * 2;
            staged_pair(&results[i * TILE_PARTS], TILE_PARTS == 2 ? &results[i * 2 + 1] : &unused,
                        o, b, places, sums[first + i], bias, tile, token);
        }
        stmatrix_x4_trans(to + first * 8 * STAGED_STRIDE, results);
    }
}

// All of it to memory, by `threads` threads.
__device__ __forceinline__ void staged_store(const Operands &o, WorkBlock b, u32 staged, u32 places,
                                             int thread, int threads) {
#pragma unroll 4 // loads under way
    for (int i = thread; i < STAGED_TOKENS * STAGED_CHUNKS; i += threads) {
        int row = i / STAGED_CHUNKS, chunk = i % STAGED_CHUNKS, token = b.token + row;
        int tile = b.row_tile + chunk / TILE_PARTS;
        if (token < o.tokens && tile < ROW_TILES) {
            TokenPlace place = place_load(places, row);
            act_t *to = part_address(o.epilogue, place, tile, chunk % TILE_PARTS, token);
            if (to != nullptr) {
                st_global_v4(to, ld_shared_v4(staged + row * STAGED_STRIDE + chunk * 16));
            }
        }
    }
}

#endif

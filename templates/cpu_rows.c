// Operators that do one thing to each row: embedding, norm, gather. Work is split by rows, and
// within a row by pieces of 16, so that one token keeps all threads busy.
#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_WIDTH; // elements of a row
extern const int64_t HOLE_ROWS;  // rows of the embedding table
extern const int64_t HOLE_EPS;   // bits of the float

void embed(const StepRun *run, int32_t thread, const int32_t *token_ids, const uint8_t *table,
           float *out);
void norm(const StepRun *run, int32_t thread, const float *in, const float *weight, float *out);
void gather(const StepRun *run, int32_t thread, const float *in, const int32_t *head_rows,
            float *out);

enum { PIECE = 16, TILE_BYTES = 512 };

typedef struct Pieces {
    int64_t per_row, first, last;
} Pieces;

INLINE Pieces pieces_of(const StepRun *run, int32_t thread) {
    const int64_t per_row = (HOLE_WIDTH + PIECE - 1) / PIECE, all = per_row * run->tokens;
    return (Pieces){per_row, all * thread / run->threads, all * (thread + 1) / run->threads};
}

INLINE int64_t piece_elems(int64_t at) {
    return HOLE_WIDTH - at < PIECE ? HOLE_WIDTH - at : PIECE;
}

// out[row] = table[token_ids[row]]; the table is packed like a linear of 16 bits (docs/kernels.md):
// row r + 8 h of a row tile has its inputs k, k + 1 (k = 8 i + 2 c) in word 2 i + h of lane
// 4 r + c.
void embed(const StepRun *run, int32_t thread, const int32_t *token_ids, const uint8_t *table,
           float *out) {
    const Pieces pieces = pieces_of(run, thread);
    const int64_t tiles = (HOLE_WIDTH + 63) / 64 * 4; // of a row tile
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, tile = at % pieces.per_row;
        int64_t token = token_ids[row];
        if (token < 0 || token >= HOLE_ROWS) // a row that stands for no sequence
            token = 0;
        const uint8_t *from =
            table + (token / 16 * tiles + tile) * TILE_BYTES + token % 8 * 64 + token % 16 / 8 * 4;
        uint16_t halves[PIECE];
        UNROLL
        for (int i = 0; i < 2; i++) {
            UNROLL
            for (int c = 0; c < 4; c++)
                memcpy(halves + 8 * i + 2 * c, from + 16 * c + 8 * i, 4);
        }
        float values[PIECE];
        UNROLL
        for (int i = 0; i < PIECE; i += LANES)
            vf_store(values + i, vf_half(halves + i));
        memcpy(out + row * HOLE_WIDTH + tile * PIECE, values,
               (size_t)piece_elems(tile * PIECE) * sizeof *out);
    }
}

// out = in * rsqrt(mean(in^2) + eps) * weight
void norm(const StepRun *run, int32_t thread, const float *in, const float *weight, float *out) {
    const Pieces pieces = pieces_of(run, thread);
    int64_t known = -1;
    float factor = 0;
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, first = at % pieces.per_row * PIECE;
        if (row != known)
            factor = 1.0f / __builtin_sqrtf(mean_square(in + row * HOLE_WIDTH, HOLE_WIDTH) +
                                            float_bits(HOLE_EPS));
        known = row;
        for (int64_t i = first; i < first + piece_elems(first); i++)
            out[row * HOLE_WIDTH + i] = in[row * HOLE_WIDTH + i] * factor * weight[i];
    }
}

// out[row] = in[head_rows[row]]
void gather(const StepRun *run, int32_t thread, const float *in, const int32_t *head_rows,
            float *out) {
    const Pieces pieces = pieces_of(run, thread);
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, first = at % pieces.per_row * PIECE;
        const int64_t from = head_rows[row] < 0 ? 0 : head_rows[row];
        memcpy(out + row * HOLE_WIDTH + first, in + from * HOLE_WIDTH + first,
               (size_t)piece_elems(first) * sizeof *out);
    }
}

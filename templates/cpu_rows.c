// Operators that do one thing to each row of numbers, one function for each. Work is split into
// pieces of 16 outputs, so that one token keeps all threads busy; a piece is computed in the same
// way by whoever has it. An output may lie over an input of the same place.
//
//   embed    out[row] = scale * table[token_ids[row]]
//   norm     out[row] = in[row] * rsqrt(mean(in[row]^2) + eps) * weight, GROUPS rows of each token
//   permute  out[row][k] = in[row][order[k]], 0 where order[k] is -1
//   act_mul  out[row] = act(gate[row]) * up[row]
//   add      out[row] = a[row] + scale * b[row]
//   gather   out[row] = in[head_rows[row]]
//   route    the experts of a token, by rows of logits
//
// Not here: what knows heads, cpu_heads.c.
#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_WIDTH;       // elements of a row of the output
extern const int64_t HOLE_IN;          // norm, permute, route: of the input
extern const int64_t HOLE_GROUPS;      // norm: rows of a token
extern const int64_t HOLE_HAS_ORDER;   // norm: 1: out[k] is of in[order[k]]
extern const int64_t HOLE_EPS;         // bits of the float
extern const int64_t HOLE_ROWS;        // rows of the embedding table
extern const int64_t HOLE_WEIGHT_BF16; // 1: the embedding table is bf16, 0: fp16
extern const int64_t HOLE_SCALE;       // bits of the float
extern const int64_t HOLE_ACT;         // ORDER ACTIVATIONS
extern const int64_t HOLE_TOP_K;       // experts of a token
extern const int64_t HOLE_NORMALIZE;   // 1: the weights of the chosen experts add up to 1

void embed(const StepRun *run, int32_t thread, const int32_t *token_ids, const uint8_t *table,
           float *out);
void norm(const StepRun *run, int32_t thread, const float *in, const float *weight,
          const int32_t *order, float *out);
void permute(const StepRun *run, int32_t thread, const float *in, const int32_t *order, float *out);
void act_mul(const StepRun *run, int32_t thread, const float *gate, const float *up, float *out);
void add(const StepRun *run, int32_t thread, const float *a, const float *b, float *out);
void gather(const StepRun *run, int32_t thread, const float *in, const int32_t *head_rows,
            float *out);
void route(const StepRun *run, int32_t thread, const float *logits, float *out);

enum { PIECE = 16, TILE_BYTES = 512 };

// The pieces of a thread: [first, last) of all rows one behind the other.
typedef struct Pieces {
    int64_t per_row, first, last;
} Pieces;

INLINE Pieces pieces_of(const StepRun *run, int32_t thread, int64_t rows) {
    const int64_t per_row = (HOLE_WIDTH + PIECE - 1) / PIECE, all = per_row * rows;
    return (Pieces){per_row, all * thread / run->threads, all * (thread + 1) / run->threads};
}

INLINE int64_t piece_elems(int64_t at) {
    return HOLE_WIDTH - at < PIECE ? HOLE_WIDTH - at : PIECE;
}

// The table is packed like a linear of 16 bits (docs/kernels.md): row r + 8 h of a row tile has its
// inputs k, k + 1 (k = 8 i + 2 c) in word 2 i + h of lane 4 r + c.
void embed(const StepRun *run, int32_t thread, const int32_t *token_ids, const uint8_t *table,
           float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens);
    const int64_t tiles = (HOLE_WIDTH + 63) / 64 * 4; // of a row tile
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, tile = at % pieces.per_row;
        int64_t token = token_ids[row];
        if (token < 0 || token >= HOLE_ROWS) // a row that stands for no sequence
            token = 0;
        const uint8_t *rows = table + token / 16 * tiles * TILE_BYTES;
        if (run->ready && (at == pieces.first || tile == 0))
            run->ready(run, rows, tiles * TILE_BYTES, tiles * TILE_BYTES);
        const uint8_t *from = rows + tile * TILE_BYTES + token % 8 * 64 + token % 16 / 8 * 4;
        uint16_t halves[PIECE];
        UNROLL
        for (int i = 0; i < 2; i++) {
            UNROLL
            for (int c = 0; c < 4; c++)
                memcpy(halves + 8 * i + 2 * c, from + 16 * c + 8 * i, 4);
        }
        float values[PIECE];
        UNROLL
        for (int i = 0; i < PIECE; i += LANES) {
            const vf x = HOLE_WEIGHT_BF16 ? vf_bf16(halves + i) : vf_half(halves + i);
            vf_store(values + i, x * float_bits(HOLE_SCALE));
        }
        memcpy(out + row * HOLE_WIDTH + tile * PIECE, values,
               (size_t)piece_elems(tile * PIECE) * sizeof *out);
    }
}

void norm(const StepRun *run, int32_t thread, const float *in, const float *weight,
          const int32_t *order, float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens * HOLE_GROUPS);
    int64_t known = -1;
    float factor = 0;
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, first = at % pieces.per_row * PIECE;
        const float *from = in + row * HOLE_IN;
        if (row != known)
            factor = 1.0f / __builtin_sqrtf(mean_square(from, HOLE_IN) + float_bits(HOLE_EPS));
        known = row;
        for (int64_t i = first; i < first + piece_elems(first); i++) {
            const int64_t k = HOLE_HAS_ORDER ? order[i] : i;
            out[row * HOLE_WIDTH + i] = k < 0 ? 0.0f : from[k] * factor * weight[i];
        }
    }
}

void permute(const StepRun *run, int32_t thread, const float *in, const int32_t *order,
             float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens);
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, first = at % pieces.per_row * PIECE;
        for (int64_t k = first; k < first + piece_elems(first); k++)
            out[row * HOLE_WIDTH + k] = order[k] < 0 ? 0.0f : in[row * HOLE_IN + order[k]];
    }
}

void act_mul(const StepRun *run, int32_t thread, const float *gate, const float *up, float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens);
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t first = at % pieces.per_row * PIECE;
        const int64_t place = at / pieces.per_row * HOLE_WIDTH + first, count = piece_elems(first);
        for (int64_t i = 0; i < count; i += 8) {
            const f8 x = f8_load_some(gate + place + i, count - i);
            const f8 y = activate(x, HOLE_ACT) * f8_load_some(up + place + i, count - i);
            f8_store_some(out + place + i, y, count - i);
        }
    }
}

void add(const StepRun *run, int32_t thread, const float *a, const float *b, float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens);
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t first = at % pieces.per_row * PIECE;
        const int64_t place = at / pieces.per_row * HOLE_WIDTH + first, count = piece_elems(first);
        for (int64_t i = 0; i < count; i += 8) {
            const f8 x = f8_load_some(a + place + i, count - i);
            const f8 y = f8_load_some(b + place + i, count - i) * float_bits(HOLE_SCALE);
            f8_store_some(out + place + i, x + y, count - i);
        }
    }
}

void gather(const StepRun *run, int32_t thread, const float *in, const int32_t *head_rows,
            float *out) {
    const Pieces pieces = pieces_of(run, thread, run->tokens);
    for (int64_t at = pieces.first; at < pieces.last; at++) {
        const int64_t row = at / pieces.per_row, first = at % pieces.per_row * PIECE;
        const int64_t from = head_rows[row] < 0 ? 0 : head_rows[row];
        memcpy(out + row * HOLE_WIDTH + first, in + from * HOLE_WIDTH + first,
               (size_t)piece_elems(first) * sizeof *out);
    }
}

// ---- route --------------------------------------------------------------------------------------

// What is no number (damaged weights) counts as the smallest, so that all experts have an order.
INLINE float order_of(float logit) {
    return logit >= -__builtin_inff() ? logit : -__builtin_inff();
}

// Of the experts behind `before` (-1: of all) in the order of falling logits, the first one; equal
// logits stand in the order of their numbers.
INLINE int64_t next_expert(const float *logits, int64_t before) {
    const float limit = before < 0 ? 0 : order_of(logits[before]);
    int64_t best = -1;
    float most = 0;
    for (int64_t e = 0; e < HOLE_IN; e++) {
        const float mine = order_of(logits[e]);
        const int behind = before < 0 || mine < limit || (mine == limit && e > before);
        if (behind && (best < 0 || mine > most)) {
            best = e;
            most = mine;
        }
    }
    return best;
}

// out[row] = numbers of the TOP_K experts with the largest logits, then their weights: the softmax
// over all experts, divided by the sum over the chosen ones with NORMALIZE. Numbers are valid and
// different whatever the logits are; weights are no numbers then.
void route(const StepRun *run, int32_t thread, const float *logits, float *out) {
    for (int64_t row = thread; row < run->tokens; row += run->threads) {
        const float *from = logits + row * HOLE_IN;
        float *numbers = out + row * 2 * HOLE_TOP_K, *weights = numbers + HOLE_TOP_K;
        double total = 0, chosen = 0;
        int64_t expert = -1;
        for (int64_t j = 0; j < HOLE_TOP_K; j++) {
            expert = next_expert(from, expert);
            numbers[j] = (float)expert;
        }
        const float largest = from[(int64_t)numbers[0]];
        for (int64_t e = 0; e < HOLE_IN; e += 8) {
            const f8 power = f8_exp(f8_load_some(from + e, HOLE_IN - e) - largest);
            for (int64_t i = 0; i < 8 && e + i < HOLE_IN; i++)
                total += (double)power[i];
        }
        for (int64_t j = 0; j < HOLE_TOP_K; j++) {
            weights[j] = f8_exp(from[(int64_t)numbers[j]] - largest - (f8){0})[0];
            chosen += (double)weights[j];
        }
        for (int64_t j = 0; j < HOLE_TOP_K; j++)
            weights[j] = (float)((double)weights[j] / (HOLE_NORMALIZE ? chosen : total));
    }
}

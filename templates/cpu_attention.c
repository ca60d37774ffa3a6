// Causal attention of new tokens over the paged KV cache, which already holds their own keys and
// values:
//
//   out[row][head] = softmax over positions p <= positions[row] of (scale * q . k[p])  times  v[p]
//
// One kernel for decode and prefill. A run of rows of one sequence and the query heads of one
// key/value head make up to LINES lines, which share the keys and values of a block of positions
// after they were converted to float once: keys turned round (one position in each lane), values as
// they lie. Both products then are 4 lines x 2 vectors of sums in registers.
//
// Softmax runs over blocks of BLOCK positions counted from the start of the sequence, with the
// largest score so far (FlashAttention, arXiv 2205.14135, algorithm 1); the steps of a line depend
// on its own position only, so the bits do not depend on what else is in the batch.
//
// Work is dealt out to threads by (rows, key/value head). Non-goals: splitting one sequence's
// positions over threads.
#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_SCALE; // bits of the float

void attention(const StepRun *run, int32_t thread, const float *q, uint8_t *kv,
               const int32_t *slots, const int32_t *positions, const int32_t *page_table,
               float *out);

enum {
    BLOCK = 32, // positions; a page holds a multiple of 4
    LINES = 32,
    MAX_HEAD_DIM = 256,
    STRIPE = 2 * LANES, // positions or elements whose sums are in registers at a time
};

typedef struct Lines {
    int64_t count;                      // of them, filled up to a multiple of 4
    int32_t position[LINES];            // -1 in lines that fill up
    float largest[LINES];               // score so far
    vf total[LINES];                    // of the weights, in each lane
    float q[LINES * MAX_HEAD_DIM];      // times scale
    float sum[LINES * MAX_HEAD_DIM];    // of weight * value
    float weight[LINES * BLOCK];        // scores, then e^(score - largest)
    float rescale[LINES];               // of what was summed before this block
    float keys[MAX_HEAD_DIM * BLOCK];   // [element][position]
    float values[BLOCK * MAX_HEAD_DIM]; // [position][element]
} Lines;

INLINE vf vf_where(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

// Keys of 4 positions from row `from`, of which `valid` exist, into lanes [at, at + 4).
INLINE void keys_turn(float *keys, const uint8_t *from, int64_t valid, int64_t at) {
    for (int64_t pair = 0; pair < HOLE_HEAD_DIM / 2; pair += 4) {
        u4 row[4] = {{0}};
        for (int64_t i = 0; i < 4 && i < valid; i++)
            memcpy(&row[i], from + i * HOLE_HEAD_DIM * 2 + pair * 4, 16);
        const u4 a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
        const u4 b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
        const u4 c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
        const u4 d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
        const u4 column[4] = {
            __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
            __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
        UNROLL
        for (int i = 0; i < 4; i++)
            memcpy(keys + (pair + i) * BLOCK + at, &column[i], 16);
    }
}

// Pairs of halves, [pair][position], to floats [element][position] in place, last pair first.
INLINE void keys_convert(float *keys) {
    for (int64_t pair = HOLE_HEAD_DIM / 2 - 1; pair >= 0; pair--) {
        vi both[BLOCK / LANES];
        UNROLL
        for (int v = 0; v < BLOCK / LANES; v++)
            both[v] = vi_load(keys + pair * BLOCK + v * LANES);
        UNROLL
        for (int v = 0; v < BLOCK / LANES; v++) {
            vf low, high;
            vf_half_pairs(both[v], &low, &high);
            vf_store(keys + 2 * pair * BLOCK + v * LANES, low);
            vf_store(keys + (2 * pair + 1) * BLOCK + v * LANES, high);
        }
    }
}

// Keys and values of positions [first, first + BLOCK), zero from `end` on.
static void block_load(Lines *l, const KvCache *kv, int32_t slot, int64_t head, int32_t first,
                       int32_t end) {
    for (int32_t at = 0; at < BLOCK; at += 4) {
        const int64_t valid = end - first - at;
        const uint8_t *keys = NULL, *values = NULL;
        if (valid > 0) {
            keys = kv_row(kv, 0, slot, first + at, head);
            values = kv_row(kv, 1, slot, first + at, head);
        }
        if (valid >= 4)
            keys_turn(l->keys, keys, 4, at);
        else
            keys_turn(l->keys, keys, valid, at);
        for (int64_t i = 0; i < 4; i++) {
            float *to = l->values + (at + i) * HOLE_HEAD_DIM;
            if (i < valid)
                for (int64_t e = 0; e < HOLE_HEAD_DIM; e += LANES)
                    vf_store(to + e, vf_half(values + (i * HOLE_HEAD_DIM + e) * 2));
            else
                memset(to, 0, (size_t)HOLE_HEAD_DIM * sizeof *to);
        }
    }
    keys_convert(l->keys);
}

// Four rows of a product: out[line][0 .. STRIPE) = sum over n of a[line][n] * b[n][0 .. STRIPE),
// added to out * rescale[line] unless rescale is NULL.
INLINE void product(float *out, int64_t out_stride, const float *a, int64_t a_stride,
                    const float *b, int64_t b_stride, int64_t count, const float *rescale) {
    vf acc[4][2];
    UNROLL
    for (int line = 0; line < 4; line++) {
        UNROLL
        for (int v = 0; v < 2; v++)
            acc[line][v] =
                rescale ? vf_load(out + line * out_stride + v * LANES) * rescale[line] : vf_zero();
    }
    for (int64_t n = 0; n < count; n++) {
        const vf b0 = vf_load(b + n * b_stride), b1 = vf_load(b + n * b_stride + LANES);
        UNROLL
        for (int line = 0; line < 4; line++) {
            const vf both = vf_set(a[line * a_stride + n]);
            acc[line][0] = vf_fma(both, b0, acc[line][0]);
            acc[line][1] = vf_fma(both, b1, acc[line][1]);
        }
    }
    UNROLL
    for (int line = 0; line < 4; line++) {
        UNROLL
        for (int v = 0; v < 2; v++)
            vf_store(out + line * out_stride + v * LANES, acc[line][v]);
    }
}

// Scores of a line to weights; positions behind the line's own get none.
INLINE void line_softmax(Lines *l, int64_t line, int32_t first) {
    enum { VECTORS = BLOCK / LANES };
    const float none = -__builtin_inff();
    vi lane;
    UNROLL
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    float *weight = l->weight + line * BLOCK;
    vf score[VECTORS], largest = vf_set(l->largest[line]);
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const vi visible = lane + (first + v * LANES) <= l->position[line];
        score[v] = vf_where(visible, vf_load(weight + v * LANES), vf_set(none));
        largest = vf_max(largest, score[v]);
    }
    const float now = vf_largest(largest);
    const vf before = vf_exp(vf_set(l->largest[line] - now));
    vf total = l->total[line] * before;
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const vf w = vf_exp(score[v] - now);
        vf_store(weight + v * LANES, w);
        total += w;
    }
    l->total[line] = total;
    l->largest[line] = now;
    l->rescale[line] = before[0];
}

static void block_attend(Lines *l, int32_t first) {
    for (int64_t line = 0; line < l->count; line += 4)
        for (int64_t at = 0; at < BLOCK; at += STRIPE)
            product(l->weight + line * BLOCK + at, BLOCK, l->q + line * HOLE_HEAD_DIM,
                    HOLE_HEAD_DIM, l->keys + at, BLOCK, HOLE_HEAD_DIM, NULL);
    for (int64_t line = 0; line < l->count; line++)
        line_softmax(l, line, first);
    for (int64_t line = 0; line < l->count; line += 4)
        for (int64_t at = 0; at < HOLE_HEAD_DIM; at += STRIPE)
            product(l->sum + line * HOLE_HEAD_DIM + at, HOLE_HEAD_DIM, l->weight + line * BLOCK,
                    BLOCK, l->values + at, HOLE_HEAD_DIM, BLOCK, l->rescale + line);
}

// Rows [row, row + rows) of one slot, `heads` query heads from `head` on.
static void run_attend(const KvCache *kv, const float *q, const int32_t *slots,
                       const int32_t *positions, float *out, const int64_t part[4]) {
    const int64_t row = part[0], rows = part[1], head = part[2], heads = part[3];
    Lines l;
    l.count = (rows * heads + 3) / 4 * 4;
    int32_t end = 0;
    for (int64_t line = 0; line < l.count; line++) {
        const int64_t from = row + line / heads;
        const int32_t position = from < row + rows ? positions[from] : 0;
        const float *query = q + (from * HOLE_HEADS + head + line % heads) * HOLE_HEAD_DIM;
        for (int64_t e = 0; e < HOLE_HEAD_DIM; e++) {
            l.q[line * HOLE_HEAD_DIM + e] =
                from < row + rows ? query[e] * float_bits(HOLE_SCALE) : 0.0f;
            l.sum[line * HOLE_HEAD_DIM + e] = 0;
        }
        l.position[line] = position;
        l.largest[line] = -3e38f;
        l.total[line] = vf_zero();
        end = position + 1 > end ? position + 1 : end;
    }
    const int64_t kv_head = head / (HOLE_HEADS / HOLE_KV_HEADS);
    for (int32_t first = 0; first < end; first += BLOCK) {
        block_load(&l, kv, slots[row], kv_head, first, end);
        block_attend(&l, first);
    }
    for (int64_t line = 0; line < rows * heads; line++) {
        float *to = out + ((row + line / heads) * HOLE_HEADS + head + line % heads) * HOLE_HEAD_DIM;
        const float inverse = 1.0f / vf_sum(l.total[line]);
        for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
            to[e] = l.sum[line * HOLE_HEAD_DIM + e] * inverse;
    }
}

void attention(const StepRun *run, int32_t thread, const float *q, uint8_t *kv,
               const int32_t *slots, const int32_t *positions, const int32_t *page_table,
               float *out) {
    const KvCache cache = {kv, page_table};
    const int64_t group = HOLE_HEADS / HOLE_KV_HEADS;
    const int64_t heads = group < LINES ? group : LINES, rows = LINES / heads;
    const int64_t chunks = (group + heads - 1) / heads; // of the query heads of one kv head
    const int64_t per_block = HOLE_KV_HEADS * chunks;
    const int64_t items = (run->tokens + rows - 1) / rows * per_block;
    for (int64_t item = thread; item < items; item += run->threads) {
        const int64_t first = item / per_block * rows, at = item % per_block;
        const int64_t last = first + rows < run->tokens ? first + rows : run->tokens;
        const int64_t head = at / chunks * group + at % chunks * heads;
        const int64_t left = group - at % chunks * heads, count = left < heads ? left : heads;
        for (int64_t row = first; row < last;) {
            int64_t end = row + 1;
            while (end < last && slots[end] == slots[row])
                end++;
            if (slots[row] < 0)
                for (int64_t r = row; r < end; r++)
                    memset(out + (r * HOLE_HEADS + head) * HOLE_HEAD_DIM, 0,
                           (size_t)(count * HOLE_HEAD_DIM) * sizeof *out);
            else
                run_attend(&cache, q, slots, positions, out,
                           (const int64_t[4]){row, end - row, head, count});
            row = end;
        }
    }
}

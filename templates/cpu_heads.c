// Operators on the heads of a row: rotary embedding, and appending keys and values to the paged KV
// cache (layout: runtime/payload.h).
//
//   rope       (low, high) = (low cos - high sin, high cos + low sin) for the elements i and
//              i + PAIRS of a head, i < PAIRS, at the angle positions[row] * inv_freq[i]; elements
//              from 2 PAIRS on are copied
//   kv_append  keys and values of a row into the cache, rounded to its elements
//
// Work is split by (row, 8 pairs of all heads) and by (row, head).
#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_PAIRS;       // of a head; 2 * PAIRS <= HEAD_DIM
extern const int64_t HOLE_ROPE_FACTOR; // bits of the float: on cos and sin

void rope(const StepRun *run, int32_t thread, const float *in, const float *inv_freq,
          const int32_t *positions, float *out);
void kv_append(const StepRun *run, int32_t thread, const float *keys, const float *values,
               uint8_t *kv, const int32_t *slots, const int32_t *positions,
               const int32_t *page_table);

// Pairs [first, first + count) of all heads of a row.
INLINE void row_rotate(const float *in, float *out, int64_t first, int64_t count, f8 cosine,
                       f8 sine) {
    for (int64_t head = 0; head < HOLE_HEADS; head++) {
        const int64_t at = head * HOLE_HEAD_DIM + first;
        const f8 low = f8_load_some(in + at, count);
        const f8 high = f8_load_some(in + at + HOLE_PAIRS, count);
        f8_store_some(out + at, low * cosine - high * sine, count);
        f8_store_some(out + at + HOLE_PAIRS, high * cosine + low * sine, count);
    }
}

// What does not rotate.
INLINE void row_copy(const float *in, float *out) {
    for (int64_t head = 0; head < HOLE_HEADS; head++)
        for (int64_t e = 2 * HOLE_PAIRS; e < HOLE_HEAD_DIM; e++)
            out[head * HOLE_HEAD_DIM + e] = in[head * HOLE_HEAD_DIM + e];
}

void rope(const StepRun *run, int32_t thread, const float *in, const float *inv_freq,
          const int32_t *positions, float *out) {
    const int64_t turns = (HOLE_PAIRS + 7) / 8, per_row = turns + (2 * HOLE_PAIRS < HOLE_HEAD_DIM);
    const int64_t items = run->tokens * per_row, end = items * (thread + 1) / run->threads;
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t row = item / per_row, first = item % per_row * 8;
        const int64_t start = row * HOLE_HEADS * HOLE_HEAD_DIM;
        if (item % per_row == turns) {
            row_copy(in + start, out + start);
            continue;
        }
        const int64_t left = HOLE_PAIRS - first, count = left < 8 ? left : 8;
        f8 cosine, sine;
        rotation_some(positions[row], f8_load_some(inv_freq + first, count),
                      float_bits(HOLE_ROPE_FACTOR), &cosine, &sine);
        row_rotate(in + start, out + start, first, count, cosine, sine);
    }
}

void kv_append(const StepRun *run, int32_t thread, const float *keys, const float *values,
               uint8_t *kv, const int32_t *slots, const int32_t *positions,
               const int32_t *page_table) {
    const KvCache cache = {kv, page_table};
    const int64_t per_row = 2 * HOLE_KV_HEADS, items = run->tokens * per_row;
    const int64_t end = items * (thread + 1) / run->threads;
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t row = item / per_row, head = item % HOLE_KV_HEADS;
        const int which = item % per_row >= HOLE_KV_HEADS;
        const float *from = (which ? values : keys) + (row * HOLE_KV_HEADS + head) * HOLE_HEAD_DIM;
        uint8_t *to = kv_row(&cache, which, slots[row], positions[row], head);
        for (int64_t e = 0; e < HOLE_HEAD_DIM; e += 8)
            kv_store(to + 2 * e, f8_load(from + e));
    }
}

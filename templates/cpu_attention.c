// Causal attention of new tokens over the paged KV cache, which already holds their own keys and
// values:
//
//   out[row][head] = softmax over positions p <= positions[row] of cap(scale * q . k[p]) times v[p]
//
// cap(x) = softcap * tanh(x / softcap), or x. With a window only positions p > positions[row] -
// window count; blocks that no line sees are not read. Element e of a row may be stored elsewhere:
// at places[e].
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
// Positions are cut into parts at multiples of SPLIT, and what the parts give is added in order. What
// is cut where depends on a line's position only. Work is dealt out to threads by (rows, key/value
// head), and in decode by part too (APART): a row of several parts leaves their sums in memory, and a
// second step, attention_merge, adds them. Prefill adds them as it goes. So neither the number of
// threads nor the phase changes a bit: a sequence that is prefilled again goes on as it would have.
#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_SCALE;   // bits of the float
extern const int64_t HOLE_SOFTCAP; // bits of the float; 0: none
extern const int64_t HOLE_WINDOW;  // positions; 0: all
extern const int64_t HOLE_PLACES;  // 1: there are places
extern const int64_t HOLE_SPLIT;   // positions of a part, a multiple of BLOCK; 0: one part
extern const int64_t HOLE_PARTS;   // of a row at most
extern const int64_t HOLE_APART;   // 1: parts are dealt out to threads

void attention(const StepRun *run, int32_t thread, const float *q, uint8_t *kv,
               const int32_t *slots, const int32_t *positions, const int32_t *page_table,
               const int32_t *places, float *parts, float *out);
void attention_merge(const StepRun *run, int32_t thread, float *parts, const int32_t *slots,
                     const int32_t *positions, const int32_t *places, float *out);

enum {
    BLOCK = 32, // positions; a page holds a multiple of 4
    LINES = 32,
    MAX_HEAD_DIM = 256,
    STRIPE = 2 * LANES, // positions or elements whose sums are in registers at a time
};

typedef struct Batch {
    KvCache kv;
    const float *q;
    const int32_t *slots, *positions;
    const int32_t *places; // NULL: none
    float *parts;          // [row][PARTS][head][HEAD_DIM + 2], see part_place; NULL: none
    float *out;
} Batch;

typedef struct Lines {
    int64_t count;                      // of them, filled up to a multiple of 4
    int32_t position[LINES];            // -1 in lines that fill up
    float largest[LINES];               // score so far
    vf total[LINES][SUM_VECTORS];       // of the weights, in SUMS sums
    float q[LINES * MAX_HEAD_DIM];      // [line][HEAD_DIM], times scale
    float sum[LINES * MAX_HEAD_DIM];    // [line][padded_dim()] of weight * value
    float weight[LINES * BLOCK];        // scores, then e^(score - largest)
    float rescale[LINES];               // of what was summed before this block
    float keys[MAX_HEAD_DIM * BLOCK];   // [element][position]
    float values[BLOCK * MAX_HEAD_DIM]; // [position][padded_dim()]
} Lines;

// The sum over the parts of a line so far.
typedef struct Merged {
    float largest, total, sum[MAX_HEAD_DIM];
} Merged;

// Heads are filled up with zeros to whole stripes.
INLINE int64_t padded_dim(void) {
    return (HOLE_HEAD_DIM + STRIPE - 1) / STRIPE * STRIPE;
}

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

// Pairs of elements, [pair][position], to floats [element][position] in place, last pair first.
INLINE void keys_convert(float *keys) {
    for (int64_t pair = HOLE_HEAD_DIM / 2 - 1; pair >= 0; pair--) {
        vi both[BLOCK / LANES];
        UNROLL
        for (int v = 0; v < BLOCK / LANES; v++)
            both[v] = vi_load(keys + pair * BLOCK + v * LANES);
        UNROLL
        for (int v = 0; v < BLOCK / LANES; v++) {
            vf low, high;
            kv_pairs(both[v], &low, &high);
            vf_store(keys + 2 * pair * BLOCK + v * LANES, low);
            vf_store(keys + (2 * pair + 1) * BLOCK + v * LANES, high);
        }
    }
}

// One position's values as floats, filled up with zeros; nothing behind them is read.
INLINE void values_convert(float *to, const uint8_t *from) {
    for (int64_t e = 0; e < padded_dim(); e += LANES) {
        uint16_t some[LANES] = {0};
        if (e + LANES <= HOLE_HEAD_DIM)
            memcpy(some, from + 2 * e, sizeof some);
        else if (e < HOLE_HEAD_DIM)
            memcpy(some, from + 2 * e, (size_t)(HOLE_HEAD_DIM - e) * 2);
        vf_store(to + e, kv_load(some));
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
            float *to = l->values + (at + i) * padded_dim();
            if (i < valid)
                values_convert(to, values + i * HOLE_HEAD_DIM * 2);
            else
                memset(to, 0, (size_t)padded_dim() * sizeof *to);
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

// Scores of a line to weights; positions behind the line's own or before its window get none.
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
        const vi position = lane + (first + v * LANES);
        vi visible = position <= l->position[line];
        if (HOLE_WINDOW)
            visible &= position > l->position[line] - (int32_t)HOLE_WINDOW;
        score[v] = vf_load(weight + v * LANES);
        if (HOLE_SOFTCAP)
            score[v] = vf_softcap(score[v], float_bits(HOLE_SOFTCAP));
        score[v] = vf_where(visible, score[v], vf_set(none));
        largest = vf_max(largest, score[v]);
    }
    const float now = vf_largest(largest);
    const vf before = vf_exp(vf_set(l->largest[line] - now));
    UNROLL
    for (int i = 0; i < SUM_VECTORS; i++)
        l->total[line][i] *= before;
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const vf w = vf_exp(score[v] - now);
        vf_store(weight + v * LANES, w);
        l->total[line][v % SUM_VECTORS] += w;
    }
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
        for (int64_t at = 0; at < padded_dim(); at += STRIPE)
            product(l->sum + line * padded_dim() + at, padded_dim(), l->weight + line * BLOCK,
                    BLOCK, l->values + at, padded_dim(), BLOCK, l->rescale + line);
}

// Rows [row, row + rows) of one slot, `heads` query heads from `head` on, keys from position
// `first` on and before `end`.
typedef struct Part {
    int64_t row, rows, head, heads;
    int32_t first, end;
} Part;

INLINE void merged_start(Merged *m) {
    m->largest = -3e38f;
    m->total = 0;
    for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
        m->sum[e] = 0;
}

// A part without a key that the line sees has largest -3e38 and zeros: it changes nothing.
INLINE void merged_add(Merged *m, float largest, float total, const float *sum) {
    const float now = largest > m->largest ? largest : m->largest;
    const float before = f8_exp(m->largest - now - (f8){0})[0];
    const float weight = f8_exp(largest - now - (f8){0})[0];
    m->largest = now;
    m->total = m->total * before + total * weight;
    for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
        m->sum[e] = m->sum[e] * before + sum[e] * weight;
}

INLINE void sums_start(Lines *l) {
    for (int64_t line = 0; line < l->count; line++) {
        memset(l->sum + line * padded_dim(), 0, (size_t)padded_dim() * sizeof *l->sum);
        l->largest[line] = -3e38f;
        memset(l->total[line], 0, sizeof l->total[line]);
    }
}

static void lines_start(Lines *l, const Batch *b, const Part *p) {
    l->count = (p->rows * p->heads + 3) / 4 * 4;
    for (int64_t line = 0; line < l->count; line++) {
        const int64_t row = p->row + line / p->heads, head = p->head + line % p->heads;
        const int real = line < p->rows * p->heads;
        const float *query = b->q + (row * HOLE_HEADS + head) * HOLE_HEAD_DIM;
        for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
            l->q[line * HOLE_HEAD_DIM + e] = real ? query[e] * float_bits(HOLE_SCALE) : 0.0f;
        l->position[line] = real ? b->positions[row] : 0;
    }
}

static void part_attend(Lines *l, const Batch *b, const Part *p) {
    sums_start(l);
    const int64_t kv_head = p->head / (HOLE_HEADS / HOLE_KV_HEADS);
    for (int32_t first = p->first / BLOCK * BLOCK; first < p->end; first += BLOCK) {
        block_load(l, &b->kv, b->slots[p->row], kv_head, first, p->end);
        block_attend(l, first);
    }
}

// ---- results ------------------------------------------------------------------------------------

// Where an element of a row goes.
INLINE float *place(const Batch *b, int64_t row, int64_t at) {
    return b->out + row * HOLE_HEADS * HOLE_HEAD_DIM + (HOLE_PLACES ? b->places[at] : at);
}

static void part_store(const Lines *l, const Batch *b, const Part *p) {
    for (int64_t line = 0; line < p->rows * p->heads; line++) {
        const float inverse = 1.0f / vf_sum(l->total[line]);
        const int64_t at = (p->head + line % p->heads) * HOLE_HEAD_DIM;
        for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
            *place(b, p->row + line / p->heads, at + e) = l->sum[line * padded_dim() + e] * inverse;
    }
}

static void merged_store(const Merged *m, const Batch *b, int64_t row, int64_t head) {
    const float inverse = 1.0f / m->total;
    for (int64_t e = 0; e < HOLE_HEAD_DIM; e++)
        *place(b, row, head * HOLE_HEAD_DIM + e) = m->sum[e] * inverse;
}

// Rows that stand for no sequence.
static void part_clear(const Batch *b, const Part *p) {
    for (int64_t row = p->row; row < p->row + p->rows; row++)
        for (int64_t at = 0; at < p->heads * HOLE_HEAD_DIM; at++)
            *place(b, row, p->head * HOLE_HEAD_DIM + at) = 0;
}

// ---- one part for each row ----------------------------------------------------------------------

INLINE int32_t window_start(int32_t position) {
    return HOLE_WINDOW && position >= HOLE_WINDOW ? position - (int32_t)HOLE_WINDOW + 1 : 0;
}

// The query heads that share keys: `count` chunks of at most `heads` for each key/value head.
typedef struct Chunks {
    int64_t group, heads, count, all;
} Chunks;

INLINE Chunks chunks_of(void) {
    const int64_t group = HOLE_HEADS / HOLE_KV_HEADS, heads = group < LINES ? group : LINES;
    const int64_t count = (group + heads - 1) / heads;
    return (Chunks){group, heads, count, count * HOLE_KV_HEADS};
}

INLINE Part chunk_part(const Chunks *c, int64_t chunk) {
    const int64_t first = chunk % c->count * c->heads, left = c->group - first;
    return (Part){.head = chunk / c->count * c->group + first,
                  .heads = left < c->heads ? left : c->heads};
}

// Part by part, at multiples of SPLIT.
static void parts_attend(Lines *l, const Batch *b, const Part *whole) {
    Merged merged[LINES];
    Part part = *whole;
    for (int64_t line = 0; line < l->count; line++)
        merged_start(&merged[line]);
    for (; part.first < whole->end; part.first = part.end) {
        const int32_t cut = (part.first / (int32_t)HOLE_SPLIT + 1) * (int32_t)HOLE_SPLIT;
        part.end = cut < whole->end ? cut : whole->end;
        part_attend(l, b, &part);
        for (int64_t line = 0; line < part.rows * part.heads; line++)
            merged_add(&merged[line], l->largest[line], vf_sum(l->total[line]),
                       l->sum + line * padded_dim());
    }
    for (int64_t line = 0; line < part.rows * part.heads; line++)
        merged_store(&merged[line], b, part.row + line / part.heads,
                     part.head + line % part.heads);
}

static void rows_attend(const Batch *b, Part part, int64_t last) {
    Lines l;
    while (part.row < last) {
        int64_t end = part.row + 1;
        while (end < last && b->slots[end] == b->slots[part.row])
            end++;
        part.rows = end - part.row;
        part.first = INT32_MAX;
        part.end = 0;
        for (int64_t row = part.row; row < end; row++) {
            const int32_t position = b->positions[row], start = window_start(position);
            part.first = start < part.first ? start : part.first;
            part.end = position + 1 > part.end ? position + 1 : part.end;
        }
        if (b->slots[part.row] < 0) {
            part_clear(b, &part);
        } else {
            lines_start(&l, b, &part);
            if (HOLE_SPLIT && (part.end - 1) / HOLE_SPLIT > part.first / HOLE_SPLIT) {
                parts_attend(&l, b, &part);
            } else {
                part_attend(&l, b, &part);
                part_store(&l, b, &part);
            }
        }
        part.row = end;
    }
}

// ---- several parts for each row -----------------------------------------------------------------

// The parts of a row with the last key at `position`: multiples first, first + 1, ... of SPLIT.
typedef struct Cuts {
    int32_t first, count;
} Cuts;

INLINE Cuts cuts_of(int32_t position) {
    const int32_t first = window_start(position) / (int32_t)HOLE_SPLIT;
    return (Cuts){first, position / (int32_t)HOLE_SPLIT - first + 1};
}

// largest, total, sum[HEAD_DIM]
INLINE int64_t part_place(int64_t row, int64_t part, int64_t head) {
    return ((row * HOLE_PARTS + part) * HOLE_HEADS + head) * (HOLE_HEAD_DIM + 2);
}

static void row_attend(const Batch *b, Part p, int32_t at) {
    const int32_t position = b->positions[p.row], start = window_start(position);
    const Cuts cuts = cuts_of(position);
    const int32_t from = (cuts.first + at) * (int32_t)HOLE_SPLIT, to = from + (int32_t)HOLE_SPLIT;
    p.rows = 1;
    p.first = from < start ? start : from;
    p.end = to < position + 1 ? to : position + 1;
    Lines l;
    lines_start(&l, b, &p);
    part_attend(&l, b, &p);
    if (cuts.count == 1) {
        part_store(&l, b, &p);
        return;
    }
    for (int64_t line = 0; line < p.heads; line++) {
        float *sums = b->parts + part_place(p.row, at, p.head + line);
        sums[0] = l.largest[line];
        sums[1] = vf_sum(l.total[line]);
        memcpy(sums + 2, l.sum + line * padded_dim(), (size_t)HOLE_HEAD_DIM * sizeof *sums);
    }
}

// Every row's parts, dealt out as one sequence.
static void cut_rows_attend(const StepRun *run, int32_t thread, const Batch *b) {
    const Chunks chunks = chunks_of();
    int64_t next = thread; // of the items from this row on
    for (int64_t row = 0; row < run->tokens; row++) {
        const int idle = b->slots[row] < 0;
        const int64_t items = chunks.all * (idle ? 1 : cuts_of(b->positions[row]).count);
        for (; next < items; next += run->threads) {
            Part part = chunk_part(&chunks, next % chunks.all);
            part.row = row;
            part.rows = 1;
            if (idle)
                part_clear(b, &part);
            else
                row_attend(b, part, (int32_t)(next / chunks.all));
        }
        next -= items;
    }
}

static void head_merge(const Batch *b, int64_t row, int64_t head, int32_t parts) {
    Merged merged;
    merged_start(&merged);
    for (int32_t at = 0; at < parts; at++) {
        const float *from = b->parts + part_place(row, at, head);
        merged_add(&merged, from[0], from[1], from + 2);
    }
    merged_store(&merged, b, row, head);
}

// ---- the steps ----------------------------------------------------------------------------------

void attention(const StepRun *run, int32_t thread, const float *q, uint8_t *kv,
               const int32_t *slots, const int32_t *positions, const int32_t *page_table,
               const int32_t *places, float *parts, float *out) {
    const Batch batch = {{kv, page_table}, q, slots, positions, places, parts, out};
    if (HOLE_APART) {
        cut_rows_attend(run, thread, &batch);
        return;
    }
    const Chunks chunks = chunks_of();
    const int64_t rows = LINES / chunks.heads;
    const int64_t items = (run->tokens + rows - 1) / rows * chunks.all;
    for (int64_t item = thread; item < items; item += run->threads) {
        Part part = chunk_part(&chunks, item % chunks.all);
        part.row = item / chunks.all * rows;
        rows_attend(&batch, part, part.row + rows < run->tokens ? part.row + rows : run->tokens);
    }
}

void attention_merge(const StepRun *run, int32_t thread, float *parts, const int32_t *slots,
                     const int32_t *positions, const int32_t *places, float *out) {
    const Batch batch = {
        .slots = slots, .positions = positions, .places = places, .parts = parts, .out = out};
    for (int64_t item = thread; item < run->tokens * HOLE_HEADS; item += run->threads) {
        const int64_t row = item / HOLE_HEADS;
        const int32_t count = slots[row] < 0 ? 1 : cuts_of(positions[row]).count;
        if (count > 1)
            head_merge(&batch, row, item % HOLE_HEADS, count);
    }
}

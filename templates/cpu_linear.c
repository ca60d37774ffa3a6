// y = scale * (W x + bias) with packed weights and prepared activations (product.h), then one
// epilogue. Work is split by row tiles.
#include "product.h"
#include "rows.h"

extern const int64_t HOLE_N;           // outputs
extern const int64_t HOLE_EPILOGUE;    // ORDER EPILOGUES
extern const int64_t HOLE_ACT;         // ORDER ACTIVATIONS
extern const int64_t HOLE_BIAS;        // 1: there is one
extern const int64_t HOLE_ROPE_FACTOR; // bits of the float
extern const int64_t HOLE_OUT_SCALE;   // bits of the float
extern const int64_t HOLE_SOFTCAP;     // bits of the float; 0: none

void linear(const StepRun *run, int32_t thread, const uint8_t *weights, const float *bias,
            const uint8_t *x, const BlockScale *x_scales, float *out, const float *residual,
            const float *inv_freq, uint8_t *kv, const int32_t *slots, const int32_t *positions,
            const int32_t *page_table);

enum { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_ACT_MUL, EPILOGUE_ROPE_KV };

struct Finish {
    const float *bias;     // packed row order
    float *out;            // [tokens, width of the output]
    const float *residual; // [tokens, N]
    const float *inv_freq; // [head_dim / 2]
    KvCache kv;
    const int32_t *slots, *positions;
};

// ---- epilogues: `low` are the rows 0 to 7 of the tile, `high` 8 to 15 ---------------------------

static void finish_store(const Finish *f, int64_t tile, int64_t token, f8 low, f8 high) {
    const int64_t at = token * HOLE_N + tile * ROWS;
    if (HOLE_EPILOGUE == EPILOGUE_ADD) {
        low += f8_load_some(f->residual + at, HOLE_N - tile * ROWS);
        high += f8_load_some(f->residual + at + 8, HOLE_N - tile * ROWS - 8);
    } else if (HOLE_SOFTCAP) {
        low = f8_softcap(low, float_bits(HOLE_SOFTCAP));
        high = f8_softcap(high, float_bits(HOLE_SOFTCAP));
    }
    f8_store_some(f->out + at, low, HOLE_N - tile * ROWS);
    f8_store_some(f->out + at + 8, high, HOLE_N - tile * ROWS - 8);
}

static void finish_act_mul(const Finish *f, int64_t tile, int64_t token, f8 gate, f8 up) {
    const int64_t width = HOLE_N / 2;
    const f8 value = activate(gate, HOLE_ACT) * up;
    f8_store_some(f->out + token * width + tile * 8, value, width - tile * 8);
}

static void finish_rope_kv(const Finish *f, int64_t tile, int64_t token, f8 low, f8 high) {
    const int64_t tiles_of_head = HOLE_HEAD_DIM / ROWS, head = tile / tiles_of_head;
    const int64_t at = tile % tiles_of_head;
    if (head >= HOLE_HEADS + 2 * HOLE_KV_HEADS) // padding
        return;
    if (head >= HOLE_HEADS + HOLE_KV_HEADS) {
        uint8_t *to = kv_row(&f->kv, 1, f->slots[token], f->positions[token],
                             head - HOLE_HEADS - HOLE_KV_HEADS);
        kv_store(to + 2 * at * ROWS, low);
        kv_store(to + 2 * (at * ROWS + 8), high);
        return;
    }
    f8 cosine, sine;
    rotation(f->positions[token], f->inv_freq + 8 * at, float_bits(HOLE_ROPE_FACTOR), &cosine,
             &sine);
    const f8 first = low * cosine - high * sine, second = high * cosine + low * sine;
    if (head < HOLE_HEADS) {
        float *to = f->out + (token * HOLE_HEADS + head) * HOLE_HEAD_DIM + 8 * at;
        f8_store(to, first);
        f8_store(to + HOLE_HEAD_DIM / 2, second);
    } else {
        uint8_t *to = kv_row(&f->kv, 0, f->slots[token], f->positions[token], head - HOLE_HEADS);
        kv_store(to + 2 * 8 * at, first);
        kv_store(to + 2 * (8 * at + HOLE_HEAD_DIM / 2), second);
    }
}

INLINE void finish(const Finish *f, int64_t tile, int64_t token, const vf y[PIECES]) {
    f8 low, high;
    vf_split(y, &low, &high);
    if (HOLE_BIAS) {
        low += f8_load(f->bias + tile * ROWS);
        high += f8_load(f->bias + tile * ROWS + 8);
    }
    low *= float_bits(HOLE_OUT_SCALE); // times 1 is dropped by the specializer
    high *= float_bits(HOLE_OUT_SCALE);
    if (HOLE_EPILOGUE == EPILOGUE_ROPE_KV)
        finish_rope_kv(f, tile, token, low, high);
    else if (HOLE_EPILOGUE == EPILOGUE_ACT_MUL)
        finish_act_mul(f, tile, token, low, high);
    else
        finish_store(f, tile, token, low, high);
}

void linear(const StepRun *run, int32_t thread, const uint8_t *weights, const float *bias,
            const uint8_t *x, const BlockScale *x_scales, float *out, const float *residual,
            const float *inv_freq, uint8_t *kv, const int32_t *slots, const int32_t *positions,
            const int32_t *page_table) {
    const Product p = {weights, x, x_scales, run->tokens};
    const Finish f = {bias, out, residual, inv_freq, {kv, page_table}, slots, positions};
    const int64_t tiles = (HOLE_N + ROWS - 1) / ROWS;
    product(run, &p, &f, tiles * thread / run->threads, tiles * (thread + 1) / run->threads);
}

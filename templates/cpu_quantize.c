// Prepares the inputs of a linear (layout in tile16.h), with the norm before it folded in:
//
//   x = in                                          prologue NONE
//   x = in * rsqrt(mean(in^2) + eps) * norm_weight  prologue NORM
//   scale = max |x| of the group / 32767, code = round(x / scale)
//
// 16-bit codes keep the error of a linear below 5e-5 of its exact result.
// Work is split by (token, record); each thread that has a part of a token sums its squares.
#include "tile16.h"

#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_NORM; // 1: prologue NORM
extern const int64_t HOLE_EPS;  // bits of the float

void quantize(const StepRun *run, int32_t thread, const float *in, const float *norm_weight,
              uint8_t *out, BlockScale *scales);

// One record's inputs as floats, normed, zero behind K.
INLINE void record_read(float x[128], const float *in, const float *norm_weight, float factor,
                        int64_t k0) {
    const int64_t left = HOLE_K - k0, count = left < record_k() ? left : record_k();
    for (int64_t k = 0; k < count; k++)
        x[k] = HOLE_NORM ? in[k0 + k] * factor * norm_weight[k0 + k] : in[k0 + k];
    for (int64_t k = count; k < record_k(); k++)
        x[k] = 0;
}

// out[tile] is `stride` bytes apart.
static void record_quantize(const float x[128], uint8_t *out, int64_t stride, BlockScale *scales,
                            int64_t scale_stride) {
    int32_t codes[128] __attribute__((aligned(64)));
    for (int64_t group = 0; group < record_groups(); group++) {
        const float *from = x + group * HOLE_GROUP;
        vf largest = vf_zero();
        for (int64_t k = 0; k < HOLE_GROUP; k += LANES) {
            const vf v = vf_load(from + k);
            largest = vf_max(largest, vf_max(v, -v));
        }
        const float max = vf_largest(largest);
        const float inverse = max > 0 ? 32767.0f / max : 0;
        vi sum = vi_zero();
        for (int64_t k = 0; k < HOLE_GROUP; k += LANES) {
            const vi code = vi_round(vf_load(from + k) * inverse);
            sum += code;
            vi_store(codes + group * HOLE_GROUP + k, code);
        }
        int32_t total = 0;
        for (int lane = 0; lane < LANES; lane++)
            total += sum[lane];
        scales[group * scale_stride] = (BlockScale){max / 32767.0f, total * zero_code()};
    }
    const int64_t steps = tile_k() / 16;
    for (int64_t tile = 0; tile < record_tiles(); tile++) {
        int16_t *to = (int16_t *)(void *)(out + tile * stride);
        const int32_t *from = codes + tile * tile_k();
        for (int64_t h = 0; h < 2; h++)
            for (int64_t c = 0; c < 4; c++)
                for (int64_t j = 0; j < steps; j++, to += 2) {
                    to[0] = (int16_t)from[16 * j + 8 * h + 2 * c];
                    to[1] = (int16_t)from[16 * j + 8 * h + 2 * c + 1];
                }
    }
}

static void record_permute(const float x[128], float *out) {
    for (int64_t k16 = 0; k16 < record_k(); k16 += 16)
        for (int64_t c = 0; c < 4; c++)
            for (int64_t h = 0; h < 2; h++, out += 2) {
                out[0] = x[k16 + 8 * h + 2 * c];
                out[1] = x[k16 + 8 * h + 2 * c + 1];
            }
}

void quantize(const StepRun *run, int32_t thread, const float *in, const float *norm_weight,
              uint8_t *out, BlockScale *scales) {
    const int64_t stored_of_last = tokens_stored(run->tokens % TOKEN_BLOCK);
    const int64_t all =
        HOLE_BITS == 16 ? run->tokens : run->tokens / TOKEN_BLOCK * TOKEN_BLOCK + stored_of_last;
    const int64_t items = all * records();
    const int64_t end = items * (thread + 1) / run->threads;
    int64_t known = -1;
    float factor = 0;
    float x[128] __attribute__((aligned(64)));
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t token = item / records(), record = item % records();
        const float *row = in + token * HOLE_K;
        if (token >= run->tokens) {
            memset(x, 0, sizeof x); // fills up the last block
        } else {
            if (HOLE_NORM && token != known)
                factor = 1.0f / __builtin_sqrtf(mean_square(row, HOLE_K) + float_bits(HOLE_EPS));
            known = token;
            record_read(x, row, norm_weight, factor, record * record_k());
        }
        if (HOLE_BITS == 16) {
            record_permute(x, (float *)(void *)out + token * k_padded() + record * record_k());
            continue;
        }
        const int64_t token0 = token / TOKEN_BLOCK * TOKEN_BLOCK;
        const int64_t stored = all - token0 < TOKEN_BLOCK ? all - token0 : TOKEN_BLOCK;
        record_quantize(x,
                        out + token0 * k_padded() * 2 +
                            (record * record_k() * stored + (token - token0) * tile_k()) * 2,
                        stored * tile_k() * 2,
                        scales + token0 * groups() + record * record_groups() * stored +
                            (token - token0),
                        stored);
    }
}

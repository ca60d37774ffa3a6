// The CPU templates as plain C: the branch of simd.h for machines without a vector unit that we
// know, compiled right into this test. Its holes are variables here, so that one program runs all
// layouts; test_cpu_linear.c tests the specialized levels more widely. Rows and attention:
// test_cpu_rows_generic.c.
#include "templates/cpu_linear.c"
#include "templates/cpu_quantize.c"

#include "runtime/base.h"
#include "tests/unit/holes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

HOLE(K);
HOLE(N);
HOLE(BITS);
HOLE(GROUP);
HOLE(ZEROS);
HOLE(SCALE_F32);
HOLE(WEIGHT_BF16);
HOLE(OUT_SCALE);
HOLE(SOFTCAP);
HOLE(IN);
HOLE(HAS_ORDER);
HOLE(EPILOGUE);
HOLE(ACT);
HOLE(BIAS);
HOLE(ROPE_FACTOR);
HOLE(NORM);
HOLE(EPS);
HOLE(HEADS);
HOLE(KV_HEADS);
HOLE(HEAD_DIM);
HOLE(PAGE_TOKENS);
HOLE(PAGES_PER_SEQ);
HOLE(KV_PAGE_BYTES);
HOLE(KV_LAYER_STRIDE);
HOLE(KV_BF16);

enum { TOKENS = 131, K = 200, N = 41, PADDED = 256, PADDED_ROWS = 48 };

static double half_at(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return (double)half_to_float(half);
}

// (row, k) of the packed weights, from the drawing in docs/kernels.md.
static double weight_at(const uint8_t *w, int64_t row, int64_t k) {
    const uint8_t *record = w + (row / 16 * records() + k / record_k()) * record_bytes();
    const int64_t inside = k % record_k(), r = row % 8, h = row % 16 / 8, q = inside % 16;
    const int64_t step = inside % tile_k() / 16, high = q / 8, odd = q % 2;
    const int64_t scales = hole_SCALE_F32 ? 64 : 32, zeros = hole_ZEROS ? 32 : 0;
    const uint8_t *lane = record + record_groups() * (scales + zeros) +
                          inside / tile_k() * TILE_BYTES + (4 * r + q % 8 / 2) * 16;
    if (hole_BITS == 16) {
        uint16_t bits;
        memcpy(&bits, lane + 4 * (2 * high + h) + 2 * odd, sizeof bits);
        return (double)(hole_WEIGHT_BF16 ? bfloat_to_float(bits) : half_to_float(bits));
    }
    uint32_t word;
    memcpy(&word, lane + 4 * (hole_BITS == 4 ? step : 2 * step + h), sizeof word);
    const double code = hole_BITS == 4 ? word >> (16 * odd + 8 * high + 4 * h) & 15
                                       : word >> (16 * odd + 8 * high) & 255;
    const int64_t group = inside / hole_GROUP;
    const uint8_t *scale = record + group * scales + scales / 16 * (2 * r + h);
    const uint8_t *zero = record + record_groups() * scales + group * zeros + 2 * (2 * r + h);
    float value;
    memcpy(&value, scale, sizeof value);
    return (code - (hole_ZEROS ? half_at(zero) : (double)zero_code())) *
           (hole_SCALE_F32 ? (double)value : half_at(scale));
}

typedef struct Memory {
    uint8_t weights[PADDED_ROWS * PADDED * 8];
    float in[TOKENS * K], out[TOKENS * N];
    uint8_t x[(TOKENS + 4) * PADDED * 4];
    BlockScale scales[(TOKENS + 4) * PADDED / 16];
} Memory;

// Random codes; scales below 1 and zero points up to 2^BITS where the layout has them.
static void memory_fill(Memory *m) {
    const int64_t scales = hole_SCALE_F32 ? 64 : 32;
    for (size_t at = 0; at + 2 <= sizeof m->weights; at += 2) { // as halves: below 1
        const uint16_t word = (uint16_t)(random_mix(1, (uint32_t)at) >> 8 & 0xbbff);
        memcpy(m->weights + at, &word, sizeof word);
    }
    for (int64_t record = 0; hole_BITS != 16 && record < PADDED_ROWS / 16 * records(); record++) {
        uint8_t *at = m->weights + record * record_bytes();
        for (int64_t i = 0; i < 16 * record_groups(); i++) {
            const float scale = random_float(3, (uint32_t)(record * 64 + i));
            const uint16_t zero = half_from_float(
                (float)(random_mix(4, (uint32_t)(record * 64 + i)) % (1 + (1u << hole_BITS))));
            if (hole_SCALE_F32)
                memcpy(at + 4 * i, &scale, sizeof scale);
            if (hole_ZEROS)
                memcpy(at + record_groups() * scales + 2 * i, &zero, sizeof zero);
        }
    }
    for (int at = 0; at < TOKENS * K; at++)
        m->in[at] = random_float(2, (uint32_t)at);
}

__attribute__((noinline)) static void linear_run(Memory *m, int32_t tokens) {
    for (int32_t thread = 0; thread < 3; thread++) {
        const StepRun run = {.tokens = tokens, .threads = 3};
        quantize(&run, thread, m->in, NULL, NULL, m->x, m->scales);
    }
    for (int32_t thread = 0; thread < 2; thread++) {
        const StepRun run = {.tokens = tokens, .threads = 2};
        linear(&run, thread, m->weights, NULL, m->x, m->scales, m->out, NULL, NULL, NULL, NULL,
               NULL, NULL);
    }
}

__attribute__((noinline)) static void linear_check(const Memory *m, int32_t tokens) {
    for (int32_t token = 0; token < tokens; token += 13)
        for (int64_t row = 0; row < N; row++) {
            double y = 0, size = 0;
            for (int64_t k = 0; k < K; k++) {
                const double w = weight_at(m->weights, row, k);
                y += w * (double)m->in[token * K + k];
                size += fabs(w); // an input is off by at most 1 / 65534
            }
            const double found = (double)m->out[token * N + row];
            if (!(fabs(found - y) <= 2e-5 * size))
                fail_msg("%d bits, groups of %d, %d tokens: token %d, row %d: %g, expected %g",
                         (int)hole_BITS, (int)hole_GROUP, tokens, token, (int)row, found, y);
        }
}

typedef struct Layout {
    int bits, group, zeros, scale_f32, bf16;
} Layout;

static void test_linear(void **state) {
    static const Layout layouts[] = {
        {4, 128, 0, 0, 0}, {4, 64, 0, 0, 0},  {4, 32, 0, 0, 0}, {8, 128, 0, 0, 0}, {8, 64, 0, 0, 0},
        {8, 32, 0, 0, 0},  {16, 0, 0, 0, 0},  {4, 16, 1, 0, 0}, {4, 32, 1, 1, 0},  {4, 64, 1, 0, 0},
        {8, 16, 1, 1, 0},  {8, 128, 1, 0, 0}, {16, 0, 0, 0, 1},
    };
    static const int32_t tokens[] = {1, 2, 3, 9, TOKENS};
    const float one = 1;
    (void)state;
    Memory *m = calloc(1, sizeof *m);
    hole_K = hole_IN = K;
    hole_N = N;
    memcpy(&hole_OUT_SCALE, &one, sizeof one);
    for (size_t layout = 0; layout < sizeof layouts / sizeof *layouts; layout++) {
        hole_BITS = layouts[layout].bits;
        hole_GROUP = layouts[layout].group;
        hole_ZEROS = layouts[layout].zeros;
        hole_SCALE_F32 = layouts[layout].scale_f32;
        hole_WEIGHT_BF16 = layouts[layout].bf16;
        memory_fill(m);
        for (size_t at = 0; at < sizeof tokens / sizeof *tokens; at++) {
            linear_run(m, tokens[at]);
            linear_check(m, tokens[at]);
        }
    }
    free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

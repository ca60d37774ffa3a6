// The CPU templates as plain C: the branch of simd.h for machines without a vector unit that we
// know, compiled right into this test. Its holes are variables here, so that one program runs all
// layouts; test_cpu_linear.c tests the specialized levels more widely. Rows and attention:
// test_cpu_rows_generic.c.
#include "templates/cpu_linear.c"
#include "templates/cpu_quantize.c"

#include "runtime/base.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

// Definitions of the holes under C names that may be assigned to.
#define HOLE(name) int64_t hole_##name __asm__("HOLE_" #name)
HOLE(K);
HOLE(N);
HOLE(BITS);
HOLE(GROUP);
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

static uint32_t mix(uint32_t a, uint32_t b) {
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca77u;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    return x ^ x >> 12;
}

static float random_float(uint32_t a, uint32_t b) {
    return (float)(int32_t)mix(a, b) / 2147483648.0f;
}

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
    const uint8_t *lane =
        record + record_groups() * 32 + inside / tile_k() * TILE_BYTES + (4 * r + q % 8 / 2) * 16;
    if (hole_BITS == 16)
        return half_at(lane + 4 * (2 * high + h) + 2 * odd);
    uint32_t word;
    memcpy(&word, lane + 4 * (hole_BITS == 4 ? step : 2 * step + h), sizeof word);
    const int64_t code = hole_BITS == 4 ? word >> (16 * odd + 8 * high + 4 * h) & 15
                                        : word >> (16 * odd + 8 * high) & 255;
    return (double)(code - zero_code()) *
           half_at(record + inside / hole_GROUP * 32 + 2 * (2 * r + h));
}

typedef struct Memory {
    uint8_t weights[PADDED_ROWS * PADDED * 3];
    float in[TOKENS * K], out[TOKENS * N];
    uint8_t x[(TOKENS + 4) * PADDED * 4];
    BlockScale scales[(TOKENS + 4) * PADDED / 32];
} Memory;

static void memory_fill(Memory *m) {
    for (size_t at = 0; at + 2 <= sizeof m->weights; at += 2) { // as halves: below 1
        const uint16_t word = (uint16_t)(mix(1, (uint32_t)at) >> 8 & 0xbbff);
        memcpy(m->weights + at, &word, sizeof word);
    }
    for (int at = 0; at < TOKENS * K; at++)
        m->in[at] = random_float(2, (uint32_t)at);
}

__attribute__((noinline)) static void linear_run(Memory *m, int32_t tokens) {
    for (int32_t thread = 0; thread < 3; thread++) {
        const StepRun run = {.tokens = tokens, .threads = 3};
        quantize(&run, thread, m->in, NULL, m->x, m->scales);
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
                size += fabs(w);
            }
            const double found = (double)m->out[token * N + row];
            if (!(fabs(found - y) <= 2e-5 * size))
                fail_msg("%d bits, groups of %d, %d tokens: token %d, row %d: %g, expected %g",
                         (int)hole_BITS, (int)hole_GROUP, tokens, token, (int)row, found, y);
        }
}

static void test_linear(void **state) {
    static const int layouts[][2] = {{4, 128}, {4, 64}, {4, 32}, {8, 128},
                                     {8, 64},  {8, 32}, {16, 0}};
    static const int32_t tokens[] = {1, 2, 3, 9, TOKENS};
    (void)state;
    Memory *m = calloc(1, sizeof *m);
    memory_fill(m);
    hole_K = K;
    hole_N = N;
    for (size_t layout = 0; layout < sizeof layouts / sizeof *layouts; layout++)
        for (size_t at = 0; at < sizeof tokens / sizeof *tokens; at++) {
            hole_BITS = layouts[layout][0];
            hole_GROUP = layouts[layout][1];
            linear_run(m, tokens[at]);
            linear_check(m, tokens[at]);
        }
    free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

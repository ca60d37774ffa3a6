// The CPU templates for rows, heads and attention as plain C: the branch of simd.h for machines
// without a vector unit that we know, compiled right into this test. Holes are variables here, so
// that one program runs many shapes, and attention is cut at short distances.
// test_cpu_rows.c and test_cpu_attention.c test the specialized levels.
#include "templates/cpu_attention.c"
#include "templates/cpu_heads.c"
#include "templates/cpu_rows.c"

#include "runtime/base.h"
#include "tests/unit/holes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

HOLE(IN);
HOLE(WIDTH);
HOLE(GROUPS);
HOLE(HAS_ORDER);
HOLE(EPS);
HOLE(ROWS);
HOLE(WEIGHT_BF16);
HOLE(ACT);
HOLE(TOP_K);
HOLE(NORMALIZE);
HOLE(PAIRS);
HOLE(ROPE_FACTOR);
HOLE(HEADS);
HOLE(KV_HEADS);
HOLE(HEAD_DIM);
HOLE(PAGE_TOKENS);
HOLE(PAGES_PER_SEQ);
HOLE(KV_PAGE_BYTES);
HOLE(KV_LAYER_STRIDE);
HOLE(KV_BF16);
HOLE(SCALE);
HOLE(SOFTCAP);
HOLE(WINDOW);
HOLE(PLACES);
HOLE(APART);
HOLE(SPLIT);
HOLE(PARTS);

enum { TOKENS = 5, WIDTH = 77, LENGTH = 150, PAGE = 16, PAGES = 10, MAX_WIDTH = 1024 };

static int64_t float_hole(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void random_fill(float *to, int64_t count, uint32_t seed, float size) {
    for (int64_t at = 0; at < count; at++)
        to[at] = size * random_float(seed, (uint32_t)at);
}

#define ASSERT_NEAR(found, expected, bound)                            \
    do {                                                               \
        const double found_ = (double)(found), expected_ = (expected); \
        if (!(fabs(found_ - expected_) <= (bound)))                    \
            fail_msg("%.9g, expected %.9g", found_, expected_);        \
    } while (0)

// ---- rows ---------------------------------------------------------------------------------------

static void test_16_bits(void **state) {
    (void)state;
    for (uint32_t seed = 0; seed < 2000; seed++) {
        f8 v;
        uint16_t half[8], bfloat[8];
        for (uint32_t i = 0; i < 8; i++)
            v[i] = ldexpf(random_float(seed, i), (int)(seed % 60) - 40);
        f8_half_store(half, v);
        f8_bf16_store(bfloat, v);
        for (int i = 0; i < 8; i++) {
            assert_int_equal(half[i], half_from_float(v[i]));
            assert_int_equal(bfloat[i], bfloat_from_float(v[i]));
        }
        const vf wide = vf_bf16(bfloat), narrow = vf_half(half);
        for (int i = 0; i < LANES; i++) {
            assert_true(wide[i] == bfloat_to_float(bfloat[i]));
            assert_true(narrow[i] == half_to_float(half[i]));
        }
    }
    f8 nan = {0};
    uint16_t out[8];
    nan[3] = __builtin_nanf("");
    f8_bf16_store(out, nan);
    assert_true(isnan(bfloat_to_float(out[3])) && out[2] == 0);
}

static void test_activations(void **state) {
    (void)state;
    for (int at = -14000; at < 14000; at += 8) {
        f8 x;
        for (int i = 0; i < 8; i++)
            x[i] = (float)(at + i) / 1000;
        const f8 silu = activate(x, ACT_SILU), by_tanh = activate(x, ACT_GELU_TANH);
        const f8 gelu_of = activate(x, ACT_GELU), capped = f8_softcap(x, 3);
        for (int i = 0; i < 8; i++) {
            const double v = (double)x[i];
            const double u = sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v);
            const double size = fabs(v) + 1e-30;
            ASSERT_NEAR(silu[i], v / (1 + exp(-v)), 3e-7 * fabs(v / (1 + exp(-v))));
            ASSERT_NEAR(by_tanh[i], v / (1 + exp(-2 * u)), 2e-7 * size);
            ASSERT_NEAR(gelu_of[i], 0.5 * v * erfc(-v / sqrt(2)),
                        6e-7 * fabs(0.5 * v * erfc(-v / sqrt(2))) + 1e-30);
            ASSERT_NEAR(capped[i], 3 * tanh(v / 3), 4e-7 * fabs(3 * tanh(v / 3)));
        }
    }
}

// x, y: [TOKENS, WIDTH]
static void rows_check(const float *x, const float *y, const StepRun *run) {
    float out[TOKENS * WIDTH];
    hole_SCALE = float_hole(0.5f);
    hole_ACT = ACT_GELU;
    for (int32_t thread = 0; thread < run->threads; thread++)
        add(run, thread, x, y, out);
    for (int at = 0; at < TOKENS * WIDTH; at++)
        ASSERT_NEAR(out[at], (double)x[at] + (double)y[at] / 2, 1e-6);
    for (int32_t thread = 0; thread < run->threads; thread++)
        act_mul(run, thread, x, y, out);
    for (int at = 0; at < TOKENS * WIDTH; at++)
        ASSERT_NEAR(out[at], 0.5 * (double)x[at] * erfc(-(double)x[at] / sqrt(2)) * (double)y[at],
                    4e-6);
    hole_WIDTH = hole_IN = WIDTH / 7;
    hole_GROUPS = 7;
    hole_EPS = float_hole(1e-5f);
    for (int32_t thread = 0; thread < run->threads; thread++)
        norm(run, thread, x, y, NULL, out);
    for (int at = 0; at < TOKENS * WIDTH; at++) {
        double square = 0;
        for (int k = at / 11 * 11; k < at / 11 * 11 + 11; k++)
            square += (double)x[k] * (double)x[k];
        ASSERT_NEAR(out[at], (double)x[at] / sqrt(square / 11 + 1e-5) * (double)y[at % 11], 4e-6);
    }
}

static void test_rows(void **state) {
    float x[TOKENS * WIDTH], y[TOKENS * WIDTH], out[TOKENS * WIDTH];
    int32_t order[WIDTH];
    (void)state;
    random_fill(x, TOKENS * WIDTH, 1, 4);
    random_fill(y, TOKENS * WIDTH, 2, 4);
    for (int32_t k = 0; k < WIDTH; k++)
        order[k] = k % 9 == 4 ? -1 : k * 10 % WIDTH;
    for (int32_t threads = 1; threads <= 4; threads++) {
        const StepRun run = {.tokens = TOKENS, .threads = threads};
        hole_WIDTH = hole_IN = WIDTH;
        rows_check(x, y, &run);
        hole_WIDTH = hole_IN = WIDTH;
        for (int32_t thread = 0; thread < threads; thread++)
            permute(&run, thread, x, order, out);
        for (int at = 0; at < TOKENS * WIDTH; at++) {
            const int32_t k = order[at % WIDTH];
            assert_true(out[at] == (k < 0 ? 0 : x[at / WIDTH * WIDTH + k]));
        }
        hole_TOP_K = 3;
        hole_NORMALIZE = 1;
        for (int32_t thread = 0; thread < threads; thread++)
            route(&run, thread, x, out);
        for (int row = 0; row < TOKENS; row++) {
            const float *routes = out + row * 6, *from = x + row * WIDTH;
            assert_true(from[(int)routes[0]] >= from[(int)routes[1]] &&
                        from[(int)routes[1]] >= from[(int)routes[2]]);
            ASSERT_NEAR(routes[3] + routes[4] + routes[5], 1, 1e-6);
            ASSERT_NEAR(routes[4] / routes[3],
                        exp((double)from[(int)routes[1]] - (double)from[(int)routes[0]]), 1e-6);
        }
    }
}

// Whatever the logits are, experts are valid and different.
static void test_route_bad_logits(void **state) {
    enum { KINDS = 5, BAD_EXPERTS = 11, CHOSEN = 7 };
    static const float kinds[KINDS] = {NAN, -INFINITY, INFINITY, 1, -2};
    const StepRun run = {.tokens = 1, .threads = 1};
    float x[BAD_EXPERTS], out[2 * CHOSEN];
    (void)state;
    hole_IN = BAD_EXPERTS;
    hole_TOP_K = CHOSEN;
    for (uint32_t seed = 0; seed < 2000; seed++) {
        for (uint32_t e = 0; e < BAD_EXPERTS; e++) // few kinds, at first one
            x[e] = kinds[(int)(fabsf(random_float(seed, e)) * 7919) % (int)(1 + seed % KINDS)];
        hole_NORMALIZE = seed % 2;
        route(&run, 0, x, out);
        bool taken[BAD_EXPERTS] = {false};
        for (int j = 0; j < CHOSEN; j++) {
            assert_true(out[j] >= 0 && out[j] < (float)BAD_EXPERTS && !taken[(int)out[j]]);
            taken[(int)out[j]] = true;
        }
    }
}

// ---- heads and attention ------------------------------------------------------------------------

typedef struct HeadsCase {
    int64_t heads, kv_heads, head_dim, window, split, bf16;
    float softcap;
    int64_t places;
} HeadsCase;

static const HeadsCase heads_cases[] = {
    {1, 1, 32, 0, 0, 0, 0, 0},   {4, 2, 40, 0, 32, 1, 2, 1},   {6, 2, 8, 50, 32, 0, 0, 1},
    {3, 1, 80, 33, 64, 1, 0, 0}, {5, 5, 24, 1, 32, 0, 5, 0},   {2, 1, 112, 64, 0, 0, 1, 1},
    {40, 1, 8, 0, 96, 0, 0, 0},  {2, 2, 256, 97, 32, 1, 0, 0},
};

typedef struct Memory {
    float q[LENGTH * MAX_WIDTH], k[LENGTH * MAX_WIDTH], v[LENGTH * MAX_WIDTH];
    float rotated[LENGTH * MAX_WIDTH];
    float out[LENGTH * MAX_WIDTH], first[LENGTH * MAX_WIDTH];
    uint16_t kv[PAGE * PAGES * 2 * MAX_WIDTH];
    float parts[LENGTH * 8 * (MAX_WIDTH + 2 * 64)];
    int32_t slots[LENGTH], positions[LENGTH], page_table[PAGES], places[MAX_WIDTH];
} Memory;

static void holes_set(const HeadsCase *c) {
    hole_HEADS = c->heads;
    hole_KV_HEADS = c->kv_heads;
    hole_HEAD_DIM = c->head_dim;
    hole_PAGE_TOKENS = PAGE;
    hole_PAGES_PER_SEQ = PAGES;
    hole_KV_LAYER_STRIDE = hole_KV_PAGE_BYTES = 2 * PAGE * c->kv_heads * c->head_dim * 2;
    hole_KV_BF16 = c->bf16;
    hole_SCALE = float_hole(0.4f);
    hole_SOFTCAP = float_hole(c->softcap);
    hole_WINDOW = c->window;
    hole_PLACES = c->places;
    hole_SPLIT = c->split;
    hole_PARTS = 6;
}

static void memory_fill(Memory *m, const HeadsCase *c) {
    const int64_t width = c->heads * c->head_dim;
    random_fill(m->q, LENGTH * width, 3, 2);
    random_fill(m->k, LENGTH * c->kv_heads * c->head_dim, 4, 2);
    random_fill(m->v, LENGTH * c->kv_heads * c->head_dim, 5, 2);
    memset(m->kv, 0xff, sizeof m->kv); // NaN
    for (int32_t at = 0; at < LENGTH; at++) {
        m->slots[at] = 0;
        m->positions[at] = at;
    }
    for (int32_t at = 0; at < PAGES; at++)
        m->page_table[at] = (at * 3 + 1) % PAGES;
    for (int64_t at = 0; at < width; at++)
        m->places[at] = (int32_t)(width - 1 - at);
}

// Rows [first, first + tokens) as one step of a few threads.
static void steps_run(Memory *m, int32_t first, int32_t tokens, int32_t threads) {
    const int64_t at = first * hole_HEADS * hole_HEAD_DIM;
    const StepRun run = {.tokens = tokens, .threads = threads};
    for (int32_t thread = 0; thread < threads; thread++)
        attention(&run, thread, m->q + at, (uint8_t *)m->kv, m->slots + first, m->positions + first,
                  m->page_table, m->places, m->parts, m->out + at);
    for (int32_t thread = 0; hole_APART && thread < threads; thread++)
        attention_merge(&run, thread, m->parts, m->slots + first, m->positions + first, m->places,
                        m->out + at);
}

static double rounded(const HeadsCase *c, float x) {
    return (double)(c->bf16 ? bfloat_to_float(bfloat_from_float(x))
                            : half_to_float(half_from_float(x)));
}

static void head_check(const Memory *m, const HeadsCase *c, int32_t row, int64_t head) {
    const int64_t kv_width = c->kv_heads * c->head_dim, at = head * c->head_dim;
    const int64_t kv_at = head / (c->heads / c->kv_heads) * c->head_dim;
    const int64_t width = c->heads * c->head_dim;
    const int32_t first = c->window && row >= c->window ? row - (int32_t)c->window + 1 : 0;
    double weight[LENGTH], total = 0;
    for (int32_t p = first; p <= row; p++) {
        double score = 0;
        for (int64_t e = 0; e < c->head_dim; e++)
            score += (double)m->q[row * width + at + e] *
                     rounded(c, m->k[p * kv_width + kv_at + e]) * 0.4;
        if (c->softcap > 0)
            score = (double)c->softcap * tanh(score / (double)c->softcap);
        total += weight[p] = exp(score);
    }
    for (int64_t e = 0; e < c->head_dim; e++) {
        double y = 0;
        for (int32_t p = first; p <= row; p++)
            y += weight[p] / total * rounded(c, m->v[p * kv_width + kv_at + e]);
        const int64_t place_of = c->places ? width - 1 - (at + e) : at + e;
        ASSERT_NEAR(m->out[row * width + place_of], y, 4e-5); // sums of 256 products in float
    }
}

static void test_attention(void **state) {
    (void)state;
    Memory *m = malloc(sizeof *m);
    for (size_t at = 0; at < sizeof heads_cases / sizeof *heads_cases; at++) {
        const HeadsCase *c = &heads_cases[at];
        const size_t bytes = (size_t)(LENGTH * c->heads * c->head_dim) * sizeof(float);
        holes_set(c);
        memory_fill(m, c);
        const StepRun append = {.tokens = LENGTH, .threads = 3};
        for (int32_t thread = 0; thread < 3; thread++)
            kv_append(&append, thread, m->k, m->v, (uint8_t *)m->kv, m->slots, m->positions,
                      m->page_table);
        for (int32_t threads = 1; threads <= 4; threads++) {
            hole_APART = c->split > 0 && threads % 2; // the same bits, as in decode and prefill
            steps_run(m, 0, LENGTH, threads);
            if (threads == 1)
                memcpy(m->first, m->out, bytes);
            assert_memory_equal(m->out, m->first, bytes);
        }
        for (int32_t row = 0; row < LENGTH; row += 7)
            for (int64_t head = 0; head < c->heads; head++)
                head_check(m, c, row, head);
        for (int32_t row = 0; row < LENGTH; row += 11) { // alone
            hole_APART = c->split > 0 && row % 2;
            steps_run(m, row, 1, 2);
        }
        assert_memory_equal(m->out, m->first, bytes);
    }
    free(m);
}

static void test_rope(void **state) {
    (void)state;
    enum { HEADS = 3, DIM = 24, PAIRS = 9 };
    float in[TOKENS * HEADS * DIM], out[TOKENS * HEADS * DIM], inv_freq[PAIRS];
    int32_t positions[TOKENS];
    random_fill(in, TOKENS * HEADS * DIM, 7, 2);
    random_fill(inv_freq, PAIRS, 8, 1);
    hole_HEADS = HEADS;
    hole_HEAD_DIM = DIM;
    hole_PAIRS = PAIRS;
    hole_ROPE_FACTOR = float_hole(1);
    for (int32_t at = 0; at < TOKENS; at++)
        positions[at] = at * 30011;
    const StepRun run = {.tokens = TOKENS, .threads = 2};
    for (int32_t thread = 0; thread < 2; thread++)
        rope(&run, thread, in, inv_freq, positions, out);
    for (int at = 0; at < TOKENS * HEADS * DIM; at++) {
        const int e = at % DIM, i = e % PAIRS, other = e < PAIRS ? at + PAIRS : at - PAIRS;
        if (e >= 2 * PAIRS) {
            assert_true(out[at] == in[at]);
            continue;
        }
        const double angle = (double)((float)positions[at / DIM / HEADS] * inv_freq[i]);
        const double side = e < PAIRS ? -1 : 1;
        ASSERT_NEAR(out[at], (double)in[at] * cos(angle) + side * (double)in[other] * sin(angle),
                    6e-7);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_16_bits), cmocka_unit_test(test_activations),
        cmocka_unit_test(test_rows),    cmocka_unit_test(test_route_bad_logits),
        cmocka_unit_test(test_rope),    cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

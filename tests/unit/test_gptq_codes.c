// The numbers of a quantized module: the worked examples of the formats hex for hex, through real
// files. Sources: gptqmodel's and AutoGPTQ's packers, as each example says.
#include "gptq_box.h"

// ---- codes --------------------------------------------------------------------------------------

// One column, 32 inputs, code k = (3k + 5) mod 2^bits.
static const struct {
    int bits, words;
    QuantFormat format;
    uint32_t word[8];
} COLUMNS[] = {
    {2, 2, QUANT_GPTQ, {0xb1b1b1b1, 0xb1b1b1b1}},
    {3, 3, QUANT_GPTQ, {0xc55e1cc5, 0x1cc55e1c, 0x5e1cc55e}},
    {4, 4, QUANT_GPTQ, {0xa741eb85, 0x2fc9630d, 0xa741eb85, 0x2fc9630d}},
    {3, 3, QUANT_GPTQ_P, {0xb1b1b1b1, 0xb1b1b1b1, 0x69696969}},
    {5, 5, QUANT_GPTQ_P, {0xa741eb85, 0x2fc9630d, 0xa741eb85, 0x2fc9630d, 0x7e0f81f0}},
    {6, 6, QUANT_GPTQ_P, {0xa741eb85, 0x2fc9630d, 0xa741eb85, 0x2fc9630d, 0xeaa95500, 0x955400ff}},
    {7,
     7,
     QUANT_GPTQ_P,
     {0xa741eb85, 0x2fc9630d, 0xa741eb85, 0x2fc9630d, 0xeaa95500, 0x955400ff, 0xfff00000}},
    {8,
     8,
     QUANT_GPTQ,
     {0x0e0b0805, 0x1a171411, 0x2623201d, 0x322f2c29, 0x3e3b3835, 0x4a474441, 0x5653504d,
      0x625f5c59}},
};

static void test_columns(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof COLUMNS / sizeof COLUMNS[0]; at++) {
        static const uint16_t one = 0x3c00;
        int bits = COLUMNS[at].bits;
        const FileTensor tensors[] = {
            {"m.qweight",
             "I32",
             2,
             {COLUMNS[at].words, 1},
             COLUMNS[at].word,
             (size_t)COLUMNS[at].words * 4},
            {"m.scales", "F16", 2, {1, 1}, &one, 2},
        };
        QuantConfig q = quant(bits, -1);
        q.format = COLUMNS[at].format;
        Box b;
        box_open(&b, tensors, 2);
        assert_true(box_read(&b, &q, 32, 1, false));
        uint8_t codes[32], block[32];
        weight_codes(&b.w, 0, 0, 32, codes);
        weight_code_block(&b.w, 0, 1, 0, 32, block);
        for (int k = 0; k < 32; k++) {
            assert_int_equal(codes[k], (3 * k + 5) % (1 << bits));
            assert_int_equal(block[k], codes[k]);
        }
        weight_codes(&b.w, 0, 9, 4, codes); // in 3 bits codes 10 and 21 cross words
        assert_int_equal(codes[1], (3 * 10 + 5) % (1 << bits));
        assert_int_equal(weight_zero(&b.w, 0, 0), 1 << (bits - 1));
        box_close(&b);
    }
}

// The fast block against the plain reader, at ragged places.
static void test_code_block(void **state) {
    (void)state;
    enum { K = 96, N = 37 };
    static const int bits_of[] = {2, 3, 4, 8, 5, 6, 7, 3}; // the last four in planes
    static const struct {
        int64_t n0, columns, k0, count;
    } places[] = {{0, 37, 0, 96}, {5, 16, 32, 64}, {36, 1, 8, 8}, {3, 8, 7, 13}, {0, 2, 95, 1}};
    uint32_t *words = malloc(K * N);
    enum { PLANAR_FROM = 4 };
    uint16_t scales[N] = {0};
    uint64_t random = 1;
    for (size_t at = 0; at < K * N / 4; at++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        words[at] = (uint32_t)(random >> 32);
    }
    for (size_t b = 0; b < sizeof bits_of / sizeof bits_of[0]; b++) {
        int64_t rows = K * bits_of[b] / 32;
        const FileTensor tensors[] = {
            {"m.qweight", "I32", 2, {rows, N}, words, (size_t)(rows * N) * 4},
            {"m.scales", "F16", 2, {1, N}, scales, sizeof scales},
        };
        QuantConfig q = quant(bits_of[b], -1);
        q.format = b < PLANAR_FROM ? QUANT_GPTQ : QUANT_GPTQ_P;
        Box box;
        box_open(&box, tensors, 2);
        assert_true(box_read(&box, &q, K, N, false));
        for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
            uint8_t block[K * N + 1], row[K];
            int64_t columns = places[p].columns, count = places[p].count;
            block[columns * count] = 0xee;
            weight_code_block(&box.w, places[p].n0, columns, places[p].k0, count, block);
            for (int64_t column = 0; column < columns; column++) {
                weight_codes(&box.w, places[p].n0 + column, places[p].k0, count, row);
                assert_memory_equal(block + column * count, row, (size_t)count);
            }
            assert_int_equal(block[columns * count], 0xee);
        }
        box_close(&box);
    }
    free(words);
}

// ---- vectors A, C, D ----------------------------------------------------------------------------

static const uint32_t A_QWEIGHT[4][8] = {
    {0x52fc9630, 0xa741eb85, 0xfc9630da, 0x41eb852f, 0x9630da74, 0xeb852fc9, 0x30da741e,
     0x852fc963},
    {0xda741eb8, 0x2fc9630d, 0x741eb852, 0xc9630da7, 0x1eb852fc, 0x630da741, 0xb852fc96,
     0x0da741eb},
    {0x52fc9630, 0xa741eb85, 0xfc9630da, 0x41eb852f, 0x9630da74, 0xeb852fc9, 0x30da741e,
     0x852fc963},
    {0xda741eb8, 0x2fc9630d, 0x741eb852, 0xc9630da7, 0x1eb852fc, 0x630da741, 0xb852fc96,
     0x0da741eb},
};
static const uint16_t A_SCALES[2][8] = {
    {0x2400, 0x2800, 0x2a00, 0x2c00, 0x2d00, 0x2e00, 0x2f00, 0x3000},
    {0x2000, 0x2400, 0x2600, 0x2800, 0x2900, 0x2a00, 0x2b00, 0x2c00},
};

static const struct {
    int k;
    float row[8];
} A_ROWS[] = {
    {0, {-.125f, -.09375f, .09375f, .4375f, -.3125f, .09375f, .65625f, -.625f}},
    {17, {-.0390625f, 0, .1171875f, -.1875f, -.0390625f, .1875f, -.3828125f, -.125f}},
    {31, {.0390625f, -.09375f, -.0234375f, .125f, -.2734375f, -.09375f, .1640625f, -.5f}},
};
static const float A_Y[8] = {-.25f, -4.625f, -9.75f, -12.25f, -8.75f, -31.875f, -12.25f, -24.5f};

// Row n of [8, 32]: its product with 1, 2, ... 32, and its sum.
static float row_product(const Weight *w, int n, float row[32], float *sum) {
    float y = 0;
    weight_row(w, n, row);
    for (int k = 0; k < 32; k++) {
        *sum += row[k];
        y += row[k] * (float)(k + 1);
    }
    return y;
}

static void vector_a_check(const Weight *w) {
    float sum = 0;
    for (int n = 0; n < 8; n++) {
        float row[32];
        assert_true(row_product(w, n, row, &sum) == A_Y[n]);
        for (size_t at = 0; at < sizeof A_ROWS / sizeof A_ROWS[0]; at++)
            assert_true(row[A_ROWS[at].k] == A_ROWS[at].row[n]);
        for (int group = 0; group < 2; group++)
            assert_int_equal(half_from_float(weight_scale(w, group, n)), A_SCALES[group][n]);
    }
    assert_true(sum == -6.75f);
}

static void test_vector_a(void **state) {
    (void)state;
    static const struct {
        uint32_t zeros[2];
        QuantFormat format;
        const char *label;
        int notes;
    } variants[] = {
        {{0x77777777, 0x77777777}, QUANT_GPTQ, "v1", 0},
        {{0x88888888, 0x88888888}, QUANT_GPTQ_V2, "v2", 0},
        {{0x88888888, 0x88888888}, QUANT_GPTQ, "v2", 1}, // files of this kind are in use
    };
    for (size_t at = 0; at < sizeof variants / sizeof variants[0]; at++) {
        const FileTensor tensors[] = {
            {"m.qweight", "I32", 2, {4, 8}, A_QWEIGHT, sizeof A_QWEIGHT},
            {"m.qzeros", "I32", 2, {2, 1}, variants[at].zeros, 8},
            {"m.scales", "F16", 2, {2, 8}, A_SCALES, sizeof A_SCALES},
        };
        QuantConfig q = quant(4, 16);
        q.format = variants[at].format;
        Box b;
        box_open(&b, tensors, 3);
        assert_true(box_read(&b, &q, 32, 8, false));
        assert_string_equal(b.w.zeros, variants[at].label);
        assert_int_equal(b.w.notes.count, variants[at].notes);
        vector_a_check(&b.w);
        box_close(&b);
    }
}

// Zero points 5 + (n + 3 g) mod 8.
static void test_vector_a_asymmetric(void **state) {
    (void)state;
    static const struct {
        uint32_t zeros[2][1];
        QuantFormat format;
    } variants[] = {
        {{{0xba987654}, {0x654ba987}}, QUANT_GPTQ},
        {{{0xcba98765}, {0x765cba98}}, QUANT_GPTQ_V2},
    };
    static const struct {
        int k;
        float row[8];
    } rows[] = {
        {0, {-.078125f, -.03125f, .140625f, .4375f, -.390625f, -.09375f, .328125f, -1.125f}},
        {17,
         {-.0390625f, -.015625f, .0703125f, -.28125f, -.1953125f, .328125f, -.2734375f, -.0625f}},
        {31, {.0390625f, -.109375f, -.0703125f, .03125f, -.4296875f, .046875f, .2734375f, -.4375f}},
    };
    static const float products[8] = {6.125f, -2.25f, -21.75f, -49, -80.625f, -2.25f, -14, -68};
    for (size_t at = 0; at < sizeof variants / sizeof variants[0]; at++) {
        const FileTensor tensors[] = {
            {"m.qweight", "I32", 2, {4, 8}, A_QWEIGHT, sizeof A_QWEIGHT},
            {"m.qzeros", "I32", 2, {2, 1}, variants[at].zeros, 8},
            {"m.scales", "F16", 2, {2, 8}, A_SCALES, sizeof A_SCALES},
        };
        QuantConfig q = quant(4, 16);
        q.format = variants[at].format;
        q.sym = false;
        Box b;
        float sum = 0;
        box_open(&b, tensors, 3);
        assert_true(box_read(&b, &q, 32, 8, false));
        for (int n = 0; n < 8; n++) {
            float row[32];
            assert_true(row_product(&b.w, n, row, &sum) == products[n]);
            for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
                assert_true(row[rows[i].k] == rows[i].row[n]);
            for (int group = 0; group < 2; group++)
                assert_int_equal(weight_zero(&b.w, group, n), 5 + (n + 3 * group) % 8);
        }
        assert_true(sum == -21.75f);
        box_close(&b);
    }
}

// Act-order: input k belongs to group k mod 2.
static void test_vector_b(void **state) {
    (void)state;
    static const float row1[8] = {-.0390625f, 0,      .1171875f,  -.1875f,
                                  -.0390625f, .1875f, -.3828125f, -.125f};
    static const float products[8] = {-1.375f,  -1.5f,  -12.375f, -12,
                                      -11.875f, -28.5f, -28.875f, -16};
    int32_t groups[32];
    for (int k = 0; k < 32; k++)
        groups[k] = k % 2;
    const FileTensor tensors[] = {
        {"m.qweight", "I32", 2, {4, 8}, A_QWEIGHT, sizeof A_QWEIGHT},
        {"m.scales", "F16", 2, {2, 8}, A_SCALES, sizeof A_SCALES},
        {"m.g_idx", "I32", 1, {32}, groups, sizeof groups},
    };
    QuantConfig q = quant(4, 16);
    q.desc_act = true;
    Box b;
    float sum = 0;
    box_open(&b, tensors, 3);
    assert_true(box_read(&b, &q, 32, 8, false));
    assert_true(b.w.act_order);
    for (int n = 0; n < 8; n++) {
        float row[32], y = 0;
        weight_row(&b.w, n, row);
        assert_true(row[1] == row1[n]);
        for (int k = 0; k < 32; k++) {
            sum += row[k];
            y += row[k] * (float)(k + 1);
        }
        assert_true(y == products[n]);
    }
    assert_true(sum == -6.5f);
    box_close(&b);
}

static void test_vector_c(void **state) {
    (void)state;
    const FileTensor tensors[] = {
        {"m.qweight", "I32", 2, {4, 8}, A_QWEIGHT, sizeof A_QWEIGHT},
        {"m.scales", "F16", 2, {1, 8}, A_SCALES, sizeof A_SCALES / 2},
    };
    QuantConfig q = quant(4, -1);
    Box b;
    box_open(&b, tensors, 2);
    assert_true(weight_open(&b.w, &b.checkpoint, &q, "m", 32, 8, false, &b.arena, &b.err));
    assert_int_equal(b.w.groups, 1);
    assert_int_equal(b.w.group_size, 32);
    float sum = 0;
    for (int n = 0; n < 8; n++) {
        float row[32];
        weight_row(&b.w, n, row);
        for (int k = 0; k < 32; k++)
            sum += row[k];
    }
    assert_true(sum == -9.0f);
    box_close(&b);
}

static void test_vector_d(void **state) {
    (void)state;
    static const uint32_t words[2] = {0x7a55300b, 0x0ee9c49f}, zeros = 0x7f7f7f7f;
    static const uint16_t scale = 0x2000; // 1/128
    static const uint8_t codes[8] = {11, 48, 85, 122, 159, 196, 233, 14};
    static const float values[8] = {-.9140625f, -.625f,  -.3359375f, -.046875f,
                                    .2421875f,  .53125f, .8203125f,  -.890625f};
    const FileTensor tensors[] = {
        {"m.qweight", "I32", 2, {2, 1}, words, sizeof words},
        {"m.qzeros", "I32", 2, {1, 1}, &zeros, 4},
        {"m.scales", "F16", 2, {1, 1}, &scale, 2},
    };
    QuantConfig q = quant(8, 128);
    Box b;
    box_open(&b, tensors, 3);
    assert_true(weight_open(&b.w, &b.checkpoint, &q, "m", 8, 1, false, &b.arena, &b.err));
    uint8_t found[8];
    float row[8];
    weight_codes(&b.w, 0, 0, 8, found);
    weight_row(&b.w, 0, row);
    assert_memory_equal(found, codes, 8);
    for (int k = 0; k < 8; k++)
        assert_true(row[k] == values[k]);
    box_close(&b);
}

// Words of a full row of zero points 2^(bits - 1), N = 32, then of a ragged N.
static void test_zero_words(void **state) {
    (void)state;
    static const struct {
        int bits;
        const char *label;
        uint32_t words[8];
    } rows[] = {
        {3, "v2", {0, 0, 0xffffffff}}, // in planes, and so are 5 to 7 bits
        {5, "v2", {0, 0, 0, 0, 0xffffffff}},
        {6, "v2", {0, 0, 0, 0, 0xaaaaaaaa, 0xaaaaaaaa}},
        {7, "v2", {0, 0, 0, 0, 0, 0, 0xffffffff}},
        {2, "v1", {0x55555555, 0x55555555}},
        {2, "v2", {0xaaaaaaaa, 0xaaaaaaaa}},
        {3, "v1", {0xdb6db6db, 0xb6db6db6, 0x6db6db6d}},
        {3, "v2", {0x24924924, 0x49249249, 0x92492492}},
        {3, "v1 (old)", {0x00000000, 0xb6db6db7, 0x49249249}},
        {4, "v1", {2004318071, 2004318071, 2004318071, 2004318071}},
        {4, "v2", {0x88888888, 0x88888888, 0x88888888, 0x88888888}},
        {8,
         "v1",
         {2139062143, 2139062143, 2139062143, 2139062143, 2139062143, 2139062143, 2139062143,
          2139062143}},
    };
    enum { PLANAR_ROWS = 4 };
    static const uint32_t codes[8 * 32] = {0};
    static const uint16_t scales[32] = {0};
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        for (int64_t n = 31; n <= 32; n++) {
            int bits = rows[at].bits;
            bool planar = at < PLANAR_ROWS;
            if (planar && n % 32) // planes hold 32 at a time
                continue;
            int64_t words = (n * bits + 31) / 32;
            uint32_t zeros[8];
            memcpy(zeros, rows[at].words, sizeof zeros);
            if (n == 31) // behind the last field anything may stand
                zeros[words - 1] ^= 0x80000000;
            const FileTensor tensors[] = {
                {"m.qweight", "I32", 2, {bits, n}, codes, (size_t)(bits * n) * 4},
                {"m.qzeros", "I32", 2, {1, words}, zeros, (size_t)words * 4},
                {"m.scales", "F16", 2, {1, n}, scales, (size_t)n * 2},
            };
            QuantConfig q = quant(bits, -1);
            q.format = planar ? QUANT_GPTQ_P : QUANT_GPTQ;
            Box b;
            box_open(&b, tensors, 3);
            assert_true(box_read(&b, &q, 32, n, false));
            assert_string_equal(b.w.zeros, rows[at].label);
            box_close(&b);
        }
    }
}

// Zero points with a 0 among them: what stands in the file depends on who wrote it.
static void test_zero_rules(void **state) {
    (void)state;
    static const char *const gptqmodel = "gptqmodel:5.0.0", *const autogptq = "auto_gptq:0.7.1";
    const struct {
        int bits, count;
        QuantFormat format;
        const char *quantizer;
        uint32_t words[3];
        uint8_t zeros[32];
    } cases[] = {
        {4, 8, QUANT_GPTQ_V2, "", {0x85a86987}, {7, 8, 9, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ, gptqmodel, {0x74975876}, {7, 8, 9, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ, autogptq, {0x74975876}, {7, 8, 9, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ_V2, "", {0x85a86087}, {7, 8, 0, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ, gptqmodel, {0x74974f76}, {7, 8, 0, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ, autogptq, {0x74975f76}, {7, 8, 0, 6, 8, 10, 5, 8}},
        {4, 8, QUANT_GPTQ_V2, "", {0x088800f8}, {8, 15, 0, 0, 8, 8, 8, 0}},
        {4, 8, QUANT_GPTQ, gptqmodel, {0xf776efe7}, {8, 15, 0, 0, 8, 8, 8, 0}},
        {4, 8, QUANT_GPTQ, autogptq, {0xf777ffe7}, {8, 15, 0, 0, 8, 8, 8, 0}},
        // AutoGPTQ's own zero erases the fields above it
        {4, 8, QUANT_GPTQ, autogptq, {0xffffff76}, {7, 8, 0, 0, 0, 0, 0, 0}},
        {8, 4, QUANT_GPTQ_V2, "", {0xff800064}, {100, 0, 128, 255}},
        {8, 4, QUANT_GPTQ, gptqmodel, {0xfe7eff63}, {100, 0, 128, 255}},
        {8, 4, QUANT_GPTQ, autogptq, {0xfe7fff63}, {100, 0, 128, 255}},
        {2, 16, QUANT_GPTQ_V2, "", {0xaa398ad2}, {2, 0, 1, 3, 2, 2, 0, 2, 1, 2, 3, 0, 2, 2, 2, 2}},
        {2,
         16,
         QUANT_GPTQ,
         gptqmodel,
         {0x54e4357d},
         {2, 0, 1, 3, 2, 2, 0, 2, 1, 2, 3, 0, 2, 2, 2, 2}},
        // zero points k mod 7 + 1
        {3, 32, QUANT_GPTQ_V2, "", {0x1a3f58d1, 0xfd6347eb, 0x8d1fac68}, {0}},
        {3, 32, QUANT_GPTQ, gptqmodel, {0xf5ad0fad, 0x6b1a2359, 0x43fb1a1f}, {0}},
        {3, 32, QUANT_GPTQ, "gptqmodel:7.0.0", {0xd11ac688, 0x6b1a2358, 0x688d6344}, {0}},
        {3, 32, QUANT_GPTQ, autogptq, {0xd11ac688, 0x6b1a2358, 0x688d6344}, {0}},
    };
    static const uint32_t codes[8 * 32] = {0};
    static const uint16_t scales[32] = {0};
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        int bits = cases[at].bits, count = cases[at].count;
        int64_t words = count * bits / 32;
        const FileTensor tensors[] = {
            {"m.qweight", "I32", 2, {bits, count}, codes, (size_t)(bits * count) * 4},
            {"m.qzeros", "I32", 2, {1, words}, cases[at].words, (size_t)words * 4},
            {"m.scales", "F16", 2, {1, count}, scales, (size_t)count * 2},
        };
        QuantConfig q = quant(bits, -1);
        q.sym = false;
        q.format = cases[at].format;
        q.quantizer = cases[at].quantizer;
        Box b;
        box_open(&b, tensors, 3);
        if (!box_read(&b, &q, 32, count, false))
            fail_msg("%s", b.err.message);
        for (int n = 0; n < count; n++)
            assert_int_equal(weight_zero(&b.w, 0, n), bits == 3 ? n % 7 + 1 : cases[at].zeros[n]);
        box_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns),    cmocka_unit_test(test_code_block),
        cmocka_unit_test(test_vector_a),   cmocka_unit_test(test_vector_a_asymmetric),
        cmocka_unit_test(test_vector_b),   cmocka_unit_test(test_vector_c),
        cmocka_unit_test(test_vector_d),   cmocka_unit_test(test_zero_words),
        cmocka_unit_test(test_zero_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Reading one linear module: the worked examples of the format hex for hex, through real files,
// and every contradiction between tensors, shapes and configuration.
#include "../../compiler/compile.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

enum { MAX_TENSORS = 8 };

// A checkpoint of one module "m" in a folder of its own.
typedef struct Box {
    char dir[FOLDER_BYTES];
    Arena arena;
    Error err;
    Checkpoint checkpoint;
    Weight w;
} Box;

static void box_open(Box *b, const FileTensor *tensors, int count) {
    memset(b, 0, sizeof *b);
    folder_make(b->dir);
    tensors_write(b->dir, "model.safetensors", tensors, count);
    if (!checkpoint_open(&b->checkpoint, b->dir, &b->arena, &b->err))
        fail_msg("%s", b->err.message);
}

static void box_close(Box *b) {
    folder_remove(b->dir);
    arena_free(&b->arena);
}

static bool box_read(Box *b, const QuantConfig *q, int64_t k, int64_t n, bool wants_bias) {
    return weight_open(&b->w, &b->checkpoint, q, "m", k, n, wants_bias, &b->arena, &b->err);
}

static QuantConfig quant(int bits, int64_t group_size) {
    return (QuantConfig){.present = true,
                         .bits = bits,
                         .group_size = group_size,
                         .sym = true,
                         .quantizer = "",
                         .source = "quantize_config.json"};
}

// ---- codes --------------------------------------------------------------------------------------

// One column, 32 inputs, code k = (3k + 5) mod 2^bits.
static const struct {
    int bits, words;
    uint32_t word[8];
} COLUMNS[] = {
    {2, 2, {0xb1b1b1b1, 0xb1b1b1b1}},
    {3, 3, {0xc55e1cc5, 0x1cc55e1c, 0x5e1cc55e}},
    {4, 4, {0xa741eb85, 0x2fc9630d, 0xa741eb85, 0x2fc9630d}},
    {8,
     8,
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
    static const int bits_of[] = {2, 3, 4, 8};
    static const struct {
        int64_t n0, columns, k0, count;
    } places[] = {{0, 37, 0, 96}, {5, 16, 32, 64}, {36, 1, 8, 8}, {3, 8, 7, 13}, {0, 2, 95, 1}};
    uint32_t *words = malloc(K * N);
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

static void vector_a_check(const Weight *w) {
    float sum = 0;
    for (int n = 0; n < 8; n++) {
        float row[32], y = 0;
        weight_row(w, n, row);
        for (int k = 0; k < 32; k++) {
            sum += row[k];
            y += row[k] * (float)(k + 1);
        }
        assert_true(y == A_Y[n]);
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
    static const uint32_t codes[8 * 32] = {0};
    static const uint16_t scales[32] = {0};
    for (size_t at = 0; at < sizeof rows / sizeof rows[0]; at++) {
        for (int64_t n = 31; n <= 32; n++) {
            int bits = rows[at].bits;
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
            Box b;
            box_open(&b, tensors, 3);
            assert_true(box_read(&b, &q, 32, n, false));
            assert_string_equal(b.w.zeros, rows[at].label);
            box_close(&b);
        }
    }
}

// ---- contradictions -----------------------------------------------------------------------------

// The good module: K = 64, N = 16, 4 bits, groups of 32.
enum { K = 64, N = 16 };
static uint32_t qweight[8][N];
static uint32_t zeros_v1[2][2] = {{0x77777777, 0x77777777}, {0x77777777, 0x77777777}};
static uint32_t zeros_asym[2][2] = {{0x77777777, 0x77777777}, {0x77777777, 0x77777747}};
static uint16_t scales[4][N], scales_nan[2][N], scales_inf[2][N];
static uint16_t bias_zero[N], bias_one[N];
static float floats[N][K]; // [0]: also a bias
static uint16_t halves[N][K];
static int32_t sequential[K], shuffled[K], negative[K], zero_idx[K], outside[K], below[K];
static int64_t wide[K];
static int32_t twice[2 * K];

static void module_fill(void) {
    for (int k = 0; k < K; k++) {
        sequential[k] = k / 32;
        shuffled[k] = k % 2;
        negative[k] = k / 32 - 2;
        outside[k] = k == 63 ? 2 : k / 32;
        below[k] = k == 0 ? -3 : k / 32;
        wide[k] = k / 32;
    }
    for (int n = 0; n < N; n++) {
        scales[0][n] = scales[1][n] = scales[2][n] = scales[3][n] = 0x2c00;
        bias_zero[n] = (uint16_t)(n % 2 ? 0x8000 : 0); // -0 and 0
        bias_one[n] = 0x3c00;
    }
    memcpy(scales_nan, scales, sizeof scales_nan);
    memcpy(scales_inf, scales, sizeof scales_inf);
    scales_nan[1][15] = 0x7e01;
    scales_inf[0][3] = 0xfc00;
}

typedef struct Change {
    const char *what;
    int id;         // of the message; 0: good
    ErrorCode code; // of that message
    int notes;
    bool wants_bias;
    const char *removed;
    FileTensor tensors[2]; // replace those of the same name, or are added
    QuantConfig quant;     // bits 0: the good one
} Change;

#define QUANT(bits_, group_size_, sym_, ...) \
    {.present = true,                        \
     .bits = bits_,                          \
     .group_size = group_size_,              \
     .sym = sym_,                            \
     .quantizer = "",                        \
     .source = "q",                          \
     __VA_ARGS__}
#define GOOD_QUANT QUANT(4, 32, true, .desc_act = false)

static const QuantConfig other = GOOD_QUANT, wrong_too = QUANT(2, 32, true, .desc_act = false);

static const Change CHANGES[] = {
    {"good", 0, 0, 0, false, NULL, {{0}}, {0}},
    {"no g_idx", 0, 0, 0, false, "m.g_idx", {{0}}, {0}},
    {"no qzeros", 0, 0, 0, false, "m.qzeros", {{0}}, {0}},
    {"g_idx in 64 bits",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.g_idx", "I64", 1, {K}, wide, sizeof wide}},
     {0}},
    {"g_idx counted from the end",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {K}, negative, sizeof negative}},
     {0}},
    {"g_idx all zero",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {K}, zero_idx, sizeof zero_idx}},
     {0}},
    {"desc_act with sequential g_idx",
     0,
     0,
     0,
     false,
     NULL,
     {{0}},
     QUANT(4, 32, true, .desc_act = true)},
    {"desc_act with one group",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.scales", "F16", 2, {1, N}, scales, N * 2}, {"m.qzeros", "I32", 2, {1, 2}, zeros_v1, 8}},
     QUANT(4, -1, true, .desc_act = true)},
    {"both qweight and weight",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.weight", "F16", 2, {1, 1}, halves, 2}},
     {0}},
    {"group_size by the tensors",
     0,
     0,
     1,
     false,
     NULL,
     {{0}},
     QUANT(4, 128, true, .desc_act = false)},
    {"zero bias that is not wanted",
     0,
     0,
     0,
     false,
     NULL,
     {{"m.bias", "F16", 1, {N}, bias_zero, sizeof bias_zero}},
     {0}},
    {"bias that is not wanted",
     0,
     0,
     1,
     false,
     NULL,
     {{"m.bias", "F16", 1, {N}, bias_one, sizeof bias_one}},
     {0}},
    {"wanted bias", 0, 0, 0, true, NULL, {{"m.bias", "F32", 1, {N}, floats, N * 4}}, {0}},
    {"the other configuration fits",
     0,
     0,
     1,
     false,
     NULL,
     {{0}},
     QUANT(8, 32, true, .other = &other)},
    {"plain",
     0,
     0,
     0,
     false,
     "m.qweight",
     {{"m.weight", "F16", 2, {N, K}, halves, sizeof halves}},
     {0}},
    {"plain, no configuration",
     0,
     0,
     0,
     false,
     "m.qweight",
     {{"m.weight", "F16", 2, {N, K}, halves, sizeof halves}},
     {.bits = 4, .source = "q"}},
    {"plain fp32 that fits fp16",
     0,
     0,
     0,
     false,
     "m.qweight",
     {{"m.weight", "F32", 2, {N, K}, floats, sizeof floats}},
     {0}},
    {"g_idx shape",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {2 * K}, twice, sizeof twice}},
     {0}},
    {"qweight columns",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qweight", "I32", 2, {16, 8}, qweight, sizeof qweight}},
     {0}},
    {"qweight rank",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qweight", "I32", 1, {128}, qweight, sizeof qweight}},
     {0}},
    {"scales columns",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.scales", "F16", 2, {4, 8}, scales, 64}},
     {0}},
    {"scales empty",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.scales", "F16", 2, {0, N}, scales, 0}},
     {0}},
    {"qzeros shape",
     301,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qzeros", "I32", 2, {1, 2}, zeros_v1, 8}},
     {0}},
    {"bias shape", 301, ERR_CORRUPT, 0, true, NULL, {{"m.bias", "F16", 1, {8}, bias_one, 16}}, {0}},
    {"plain shape",
     301,
     ERR_CORRUPT,
     0,
     false,
     "m.qweight",
     {{"m.weight", "F16", 2, {K, N}, halves, sizeof halves}},
     {0}},
    {"qweight dtype",
     302,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qweight", "F32", 2, {8, N}, qweight, sizeof qweight}},
     {0}},
    {"scales dtype",
     302,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.scales", "I16", 2, {2, N}, scales, 64}},
     {0}},
    {"qzeros dtype",
     302,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qzeros", "F32", 2, {2, 2}, zeros_v1, 16}},
     {0}},
    {"g_idx dtype",
     302,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.g_idx", "F32", 1, {K}, sequential, sizeof sequential}},
     {0}},
    {"scales NaN",
     303,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.scales", "F16", 2, {2, N}, scales_nan, sizeof scales_nan}},
     {0}},
    {"scales infinite",
     303,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.scales", "F16", 2, {2, N}, scales_inf, sizeof scales_inf}},
     {0}},
    {"bias NaN",
     303,
     ERR_CORRUPT,
     0,
     true,
     NULL,
     {{"m.bias", "F16", 1, {N}, scales_nan[1], N * 2}},
     {0}},
    {"bits", 304, ERR_CORRUPT, 0, false, NULL, {{0}}, QUANT(8, 32, true, .desc_act = false)},
    {"bits, both configurations",
     304,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{0}},
     QUANT(8, 32, true, .other = &wrong_too)},
    {"no scales", 305, ERR_CORRUPT, 0, false, "m.scales", {{0}}, {0}},
    {"groups", 306, ERR_CORRUPT, 0, false, NULL, {{"m.scales", "F16", 2, {3, N}, scales, 96}}, {0}},
    {"asymmetric without qzeros",
     307,
     ERR_CORRUPT,
     0,
     false,
     "m.qzeros",
     {{0}},
     QUANT(4, 32, false, .desc_act = false)},
    {"sym is a lie",
     308,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.qzeros", "I32", 2, {2, 2}, zeros_asym, 16}},
     {0}},
    {"g_idx too large",
     309,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {K}, outside, sizeof outside}},
     {0}},
    {"g_idx too small",
     309,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {K}, below, sizeof below}},
     {0}},
    {"g_idx all zero, desc_act",
     310,
     ERR_CORRUPT,
     0,
     false,
     NULL,
     {{"m.g_idx", "I32", 1, {K}, zero_idx, sizeof zero_idx}},
     QUANT(4, 32, true, .desc_act = true)},
    {"no bias", 311, ERR_CORRUPT, 0, true, NULL, {{0}}, {0}},
    {"compressed-tensors",
     321,
     ERR_UNSUPPORTED,
     0,
     false,
     "m.qweight",
     {{"m.weight_packed", "I32", 2, {8, N}, qweight, sizeof qweight}},
     {0}},
    {"marlin",
     321,
     ERR_UNSUPPORTED,
     0,
     false,
     "m.qweight",
     {{"m.B", "I32", 2, {8, N}, qweight, sizeof qweight}},
     {0}},
    {"nothing", 322, ERR_CORRUPT, 0, false, "m.qweight", {{0}}, {0}},
    {"no configuration", 323, ERR_CORRUPT, 0, false, NULL, {{0}}, {.bits = 4, .source = "q"}},
};

// A rank-2 replacement of no elements stands for "take it away".
static int change_apply(const Change *c, FileTensor *out) {
    const FileTensor base[] = {
        {"m.g_idx", "I32", 1, {K}, sequential, sizeof sequential},
        {"m.qweight", "I32", 2, {8, N}, qweight, sizeof qweight},
        {"m.qzeros", "I32", 2, {2, 2}, zeros_v1, sizeof zeros_v1},
        {"m.scales", "F16", 2, {2, N}, scales, 64},
    };
    int count = 0;
    for (size_t at = 0; at < sizeof base / sizeof base[0]; at++) {
        bool replaced = c->removed && strcmp(c->removed, base[at].name) == 0;
        for (int i = 0; i < 2; i++)
            replaced =
                replaced || (c->tensors[i].name && strcmp(c->tensors[i].name, base[at].name) == 0);
        if (!replaced)
            out[count++] = base[at];
    }
    for (int i = 0; i < 2; i++)
        if (c->tensors[i].name && (c->tensors[i].data || c->tensors[i].bytes))
            out[count++] = c->tensors[i];
    return count;
}

static void test_changes(void **state) {
    (void)state;
    module_fill();
    halves[0][1] = 0x3c01;   // as bf16: 0.0078735; as fp16: 1.001
    halves[15][63] = 0x0001; // as bf16: 9e-41, which fp16 cannot hold
    floats[0][0] = 0.5f;
    const QuantConfig good = GOOD_QUANT;
    for (size_t at = 0; at < sizeof CHANGES / sizeof CHANGES[0]; at++) {
        const Change *c = &CHANGES[at];
        FileTensor tensors[MAX_TENSORS];
        int count = change_apply(c, tensors);
        const QuantConfig *q = c->quant.bits ? &c->quant : &good;
        Box b;
        box_open(&b, tensors, count);
        bool done = weight_open(&b.w, &b.checkpoint, q, "m", K, N, c->wants_bias, &b.arena, &b.err);
        if (b.err.id != c->id && !done)
            print_message("%s: GQC-%04d %s\n", c->what, b.err.id, b.err.message);
        if (done != !c->id)
            print_message("%s: done %d\n", c->what, done);
        assert_int_equal(done, c->id == 0);
        assert_true(done || b.err.id == c->id);
        assert_true(done || b.err.code == c->code);
        if (done && b.w.notes.count != c->notes)
            print_message("%s: %d notes\n", c->what, b.w.notes.count);
        assert_true(!done || b.w.notes.count == c->notes);
        assert_true(!done || !b.w.act_order);
        if (!done) // every message names the file or the key
            assert_true(strstr(b.err.message, "model.safetensors") || strstr(b.err.message, "q:") ||
                        strstr(b.err.message, b.dir));
        box_close(&b);
    }
}

static void test_biases(void **state) {
    (void)state;
    module_fill();
    const QuantConfig q = GOOD_QUANT;
    for (int wanted = 0; wanted < 2; wanted++) {
        for (int zero = 0; zero < 2; zero++) {
            Change c = {.tensors = {{"m.bias", "F16", 1, {N}, zero ? bias_zero : bias_one, N * 2}}};
            FileTensor tensors[MAX_TENSORS];
            Box b;
            box_open(&b, tensors, change_apply(&c, tensors));
            assert_true(box_read(&b, &q, K, N, wanted));
            bool dropped = zero && !wanted;
            assert_int_equal(b.w.bias == NULL, dropped);
            assert_int_equal(b.w.spurious_bias != NULL, dropped);
            box_close(&b);
        }
    }
}

static void test_plain(void **state) {
    (void)state;
    static uint16_t bf16[2][4] = {{0x3f80, 0xbf00, 0, 0x8000}, {0x4000, 0x3c80, 0x4770, 0x3380}};
    static const float values[2][4] = {{1, -0.5f, 0, -0.0f}, {2, 0.015625f, 61440, 0x1p-24f}};
    const FileTensor tensor = {"m.weight", "BF16", 2, {2, 4}, bf16, sizeof bf16};
    const QuantConfig q = GOOD_QUANT;
    Box b;
    box_open(&b, &tensor, 1);
    assert_true(weight_open(&b.w, &b.checkpoint, &q, "m", 4, 2, false, &b.arena, &b.err));
    assert_int_equal(b.w.bits, 16);
    for (int n = 0; n < 2; n++) {
        float row[4];
        uint16_t half[4];
        weight_row(&b.w, n, row);
        weight_halves(&b.w, n, 0, 4, false, half);
        assert_memory_equal(row, values[n], sizeof row);
        for (int k = 0; k < 4; k++)
            assert_int_equal(half[k], half_from_float(values[n][k]));
        weight_halves(&b.w, n, 3, 1, false, half);
        assert_int_equal(half[0], half_from_float(values[n][3]));
    }
    assert_false(quant_require(&b.checkpoint, &q, &b.err));
    assert_int_equal(b.err.id, 337);
    assert_int_equal(b.err.code, ERR_UNSUPPORTED);
    box_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns),  cmocka_unit_test(test_code_block),
        cmocka_unit_test(test_vector_a), cmocka_unit_test(test_vector_c),
        cmocka_unit_test(test_vector_d), cmocka_unit_test(test_zero_words),
        cmocka_unit_test(test_changes),  cmocka_unit_test(test_biases),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

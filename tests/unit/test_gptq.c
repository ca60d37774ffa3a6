// Reading one linear module: every contradiction between tensors, shapes and configuration. The
// numbers that are read: test_gptq_codes.c.
#include "gptq_box.h"

enum { MAX_TENSORS = 8 };

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
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

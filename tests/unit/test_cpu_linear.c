// The linear kernel of the CPU with its inputs' preparation, at every level that this machine runs,
// through the whole path: kernel family -> plan -> LLVM -> linked code, against plain double loops.
// Shapes are ragged; the worst element is bounded by what the number formats allow; the same token
// must give the same bits in every batch and with any number of threads; bytes that a step has no
// business with must not change.
#include "cpu_lab.h"

typedef struct LinearCase {
    const char *name;
    int bits, group;
    int64_t k, n;
    LinearEpilogue epilogue;
    Activation act;
    bool bias, norm;
    int64_t heads, kv_heads, head_dim;
    bool zeros, scale_f32, bf16;
    int64_t norm_width; // > 0: the norm is over so many inputs, which an order makes to k
    float scale;        // 0: 1
    float softcap;
} LinearCase;

static const LinearCase linear_cases[] = {
    {.name = "4 bits, groups of 128", .bits = 4, .group = 128, .k = 384, .n = 88},
    {.name = "4 bits, groups of 64, ragged k, norm",
     .bits = 4,
     .group = 64,
     .k = 200,
     .n = 49,
     .norm = true},
    {.name = "4 bits, groups of 32, bias", .bits = 4, .group = 32, .k = 296, .n = 40, .bias = true},
    {.name = "8 bits, groups of 128, norm",
     .bits = 8,
     .group = 128,
     .k = 264,
     .n = 33,
     .norm = true},
    {.name = "8 bits, groups of 64, bias", .bits = 8, .group = 64, .k = 192, .n = 16, .bias = true},
    {.name = "8 bits, groups of 32", .bits = 8, .group = 32, .k = 104, .n = 70},
    {.name = "16 bits, norm", .bits = 16, .k = 200, .n = 83, .norm = true},
    {.name = "16 bits", .bits = 16, .k = 64, .n = 32, .bias = true},
    {.name = "residual", .bits = 4, .group = 128, .k = 256, .n = 72, .epilogue = EPILOGUE_ADD},
    {.name = "residual, 8 bits",
     .bits = 8,
     .group = 32,
     .k = 160,
     .n = 23,
     .epilogue = EPILOGUE_ADD,
     .bias = true},
    {.name = "silu gate",
     .bits = 4,
     .group = 128,
     .k = 256,
     .n = 2 * 88,
     .epilogue = EPILOGUE_ACT_MUL,
     .norm = true},
    {.name = "gelu gate, bias",
     .bits = 4,
     .group = 64,
     .k = 128,
     .n = 2 * 40,
     .epilogue = EPILOGUE_ACT_MUL,
     .act = ACT_GELU_TANH,
     .bias = true},
    {.name = "rope, head 64",
     .bits = 4,
     .group = 128,
     .k = 384,
     .n = (4 + 2 * 2) * 64,
     .epilogue = EPILOGUE_ROPE_KV,
     .norm = true,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 64},
    {.name = "rope, head 128, bias",
     .bits = 8,
     .group = 64,
     .k = 128,
     .n = (3 + 2 * 1) * 128,
     .epilogue = EPILOGUE_ROPE_KV,
     .bias = true,
     .heads = 3,
     .kv_heads = 1,
     .head_dim = 128},
    {.name = "4 bits, groups of 16, zero points",
     .bits = 4,
     .group = 16,
     .k = 216,
     .n = 50,
     .zeros = true},
    {.name = "4 bits, groups of 16, fp32 scales, ordered norm",
     .bits = 4,
     .group = 16,
     .k = 240,
     .n = 24,
     .norm = true,
     .scale_f32 = true,
     .norm_width = 200},
    {.name = "4 bits, groups of 32, zero points, fp32 scales",
     .bits = 4,
     .group = 32,
     .k = 200,
     .n = 37,
     .zeros = true,
     .scale_f32 = true},
    {.name = "4 bits, groups of 128, zero points, silu gate",
     .bits = 4,
     .group = 128,
     .k = 264,
     .n = 2 * 24,
     .epilogue = EPILOGUE_ACT_MUL,
     .norm = true,
     .zeros = true},
    {.name = "4 bits, groups of 64, zero points, softcap",
     .bits = 4,
     .group = 64,
     .k = 264,
     .n = 65,
     .zeros = true,
     .scale = 0.25f,
     .softcap = 300},
    {.name = "8 bits, groups of 16, zero points",
     .bits = 8,
     .group = 16,
     .k = 120,
     .n = 33,
     .zeros = true,
     .bias = true},
    {.name = "8 bits, groups of 32, fp32 scales, scaled residual",
     .bits = 8,
     .group = 32,
     .k = 120,
     .n = 31,
     .epilogue = EPILOGUE_ADD,
     .scale_f32 = true,
     .bias = true,
     .scale = 0.22f},
    {.name = "8 bits, groups of 128, zero points",
     .bits = 8,
     .group = 128,
     .k = 200,
     .n = 48,
     .zeros = true},
    {.name = "bf16, erf gelu gate",
     .bits = 16,
     .k = 136,
     .n = 2 * 21,
     .epilogue = EPILOGUE_ACT_MUL,
     .act = ACT_GELU,
     .bf16 = true},
    {.name = "rope, 16 bits",
     .bits = 16,
     .k = 128,
     .n = (2 + 2 * 2) * 32,
     .epilogue = EPILOGUE_ROPE_KV,
     .heads = 2,
     .kv_heads = 2,
     .head_dim = 32},
};

// Every input once, then zeros, shuffled.
static int order_add(Lab *lab, int64_t width, int64_t k) {
    int32_t *order = ARENA_NEW(&lab->arena, int32_t, k);
    for (int64_t at = 0; at < k; at++)
        order[at] = at < width ? (int32_t)at : -1;
    for (int64_t at = k - 1; at > 0; at--) {
        const int64_t other = mix(5, (uint32_t)k, (uint32_t)at) % (uint32_t)(at + 1);
        const int32_t kept = order[at];
        order[at] = order[other];
        order[other] = kept;
    }
    return graph_index(&lab->graph, "order", order, k);
}

static void linear_add(Lab *lab, int index) {
    const LinearCase *c = &linear_cases[index];
    const int64_t width = c->epilogue == EPILOGUE_ACT_MUL   ? c->n / 2
                          : c->epilogue == EPILOGUE_ROPE_KV ? c->heads * c->head_dim
                                                            : c->n;
    const int x = input_add(lab, "x", c->norm_width ? c->norm_width : c->k);
    const int residual = c->epilogue == EPILOGUE_ADD ? input_add(lab, "residual", c->n) : -1;
    const int weight = packed_add(lab, c->name, c->bits, c->group, c->n, c->k);
    lab->graph.packed[weight].zeros = c->zeros;
    lab->graph.packed[weight].scale_f32 = c->scale_f32;
    lab->graph.packed[weight].bf16 = c->bf16;
    const int64_t rows = lab->graph.packed[weight].rows;
    const int bias = c->bias ? vector_add(lab, "bias", rows, 0, 1) : -1;
    const int norm = c->norm ? vector_add(lab, "norm", c->k, 1, 0.2f) : -1;
    const int order = c->norm_width ? order_add(lab, c->norm_width, c->k) : -1;
    int inv_freq = -1;
    if (c->epilogue == EPILOGUE_ROPE_KV) {
        lab->graph.packed[weight].order = ROWS_ROPE;
        float *values = ARENA_NEW(&lab->arena, float, c->head_dim / 2);
        for (int64_t at = 0; at < c->head_dim / 2; at++)
            values[at] = (float)pow(10000.0, -2.0 * (double)at / (double)c->head_dim);
        inv_freq = graph_vector(&lab->graph, "inv_freq", values, c->head_dim / 2);
    }
    const int out = graph_value(&lab->graph, "out", VALUE_F32, width);
    Op *op = case_add(lab, OP_LINEAR);
    op->inputs[0] = x;
    op->inputs[1] = residual;
    op->output = out;
    op->linear.weight = weight;
    op->linear.bias = bias;
    op->linear.prologue = c->norm ? PROLOGUE_NORM : PROLOGUE_NONE;
    op->linear.norm_weight = norm;
    op->linear.norm_order = order;
    op->linear.scale = c->scale > 0 ? c->scale : 1;
    op->linear.softcap = c->softcap;
    op->linear.eps = 1e-5f;
    op->linear.epilogue = c->epilogue;
    op->linear.act = c->act;
    op->linear.heads = c->heads;
    op->linear.kv_heads = c->kv_heads;
    op->linear.head_dim = c->head_dim;
    op->linear.inv_freq = inv_freq;
    op->linear.rope_factor = 1.25f;
}

// ---- linear -------------------------------------------------------------------------------------

// Inputs of one token as the kernel sees them.
static void input_row(const Lab *lab, const Op *op, int64_t token, double *x, double *slack) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    const int64_t width = lab->graph.values[op->inputs[0]].width;
    const int32_t *order =
        op->linear.norm_order >= 0 ? lab->graph.packed[op->linear.norm_order].indices : NULL;
    double square = 0;
    for (int64_t k = 0; k < width; k++)
        square += (double)input_at(token, k) * (double)input_at(token, k);
    for (int64_t k = 0; k < t->in_features; k++) {
        const int64_t from = order ? order[k] : k;
        x[k] = from < 0 ? 0 : (double)input_at(token, from);
    }
    if (op->linear.prologue == PROLOGUE_NORM) {
        const float *norm = lab->graph.packed[op->linear.norm_weight].values;
        const double factor = 1 / sqrt(square / (double)width + (double)op->linear.eps);
        for (int64_t k = 0; k < t->in_features; k++)
            x[k] *= factor * (double)norm[k];
    }
    const int64_t group = t->bits == 16 ? 64 : t->group;
    for (int64_t k = 0; k < t->in_features; k += group) {
        double largest = 0;
        for (int64_t i = k; i < k + group && i < t->in_features; i++)
            largest = fmax(largest, fabs(x[i]));
        for (int64_t i = k; i < k + group && i < t->in_features; i++) // half a code, and fp32
            slack[i] = (t->bits == 16 ? 0 : largest / 65534 * 1.01) + 1e-6 * fabs(x[i]);
    }
}

static Bounded row_dot(const Lab *lab, const Op *op, int64_t row, const double *x,
                       const double *slack) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    Bounded y = {0, 1e-30};
    double size = 0;
    for (int64_t k = 0; k < t->in_features; k++) {
        const double w = weight_at(lab, t, row, k);
        y.value += w * x[k];
        y.bound += fabs(w) * slack[k];
        size += fabs(w * x[k]);
    }
    if (op->linear.bias >= 0)
        y.value += (double)lab->graph.packed[op->linear.bias].values[row];
    y.bound += 1e-6 * size + 1e-7 * fabs(y.value);
    y.value *= (double)op->linear.scale;
    y.bound *= (double)op->linear.scale;
    if (op->linear.softcap > 0) { // its slope is at most 1
        const double cap = (double)op->linear.softcap;
        y.value = cap * tanh(y.value / cap);
        y.bound += 1e-6 * fabs(y.value);
    }
    return y;
}

static void act_check(Worst *worst, const LinearCase *c, int64_t token, const Bounded *y,
                      const float *out) {
    for (int64_t f = 0; f < c->n / 2; f++) {
        const Bounded gate = y[f / 8 * 16 + f % 8], up = y[f / 8 * 16 + f % 8 + 8];
        const double act = activation(c->act, gate.value), value = act * up.value;
        const double bound = 1.2 * gate.bound * fabs(up.value) + fabs(act) * up.bound +
                             1.2 * gate.bound * up.bound + 2e-6 * fabs(value) +
                             1e-6 * fabs(up.value) + 1e-30;
        compare(worst, c->name, token, f, (double)out[f], (Bounded){value, bound});
    }
}

static void rope_check(const Lab *lab, Worst *worst, const LinearCase *c, int64_t token,
                       int32_t slot, int32_t position, const Bounded *y, const float *out) {
    const int64_t half = c->head_dim / 2;
    for (int64_t head = 0; head < c->heads + 2 * c->kv_heads; head++) {
        for (int64_t f = 0; f < c->head_dim; f++) {
            Bounded e;
            if (head < c->heads + c->kv_heads) {
                const int64_t pair = f % half, low = head * c->head_dim + pair / 8 * 16 + pair % 8;
                const float freq = (float)pow(10000.0, -2.0 * (double)pair / (double)c->head_dim);
                const double angle = (double)((float)position * freq);
                const Bounded a = y[low], b = y[low + 8];
                e.value = f < half ? a.value * cos(angle) - b.value * sin(angle)
                                   : b.value * cos(angle) + a.value * sin(angle);
                e.value *= 1.25;
                e.bound = 1.25 * (a.bound + b.bound + 3e-7 * (fabs(a.value) + fabs(b.value)));
            } else {
                e = y[head * c->head_dim + f];
            }
            double found;
            if (head < c->heads) {
                found = (double)out[head * c->head_dim + f];
            } else {
                const int which = head >= c->heads + c->kv_heads;
                const int64_t kv_head = head - c->heads - which * c->kv_heads;
                found = (double)half_at(
                    lab->kv + kv_place(lab, which, slot, position, kv_head, c->head_dim) + 2 * f);
                e.bound += fabs(e.value) / 2048 + 6e-8;
            }
            compare(worst, c->name, token, head * c->head_dim + f, found, e);
        }
    }
}

static void linear_check_token(const Lab *lab, Worst *worst, const LinearCase *c, const Op *op,
                               int64_t token, const float *out) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    double *x = calloc((size_t)t->in_features, sizeof *x);
    double *slack = calloc((size_t)t->in_features, sizeof *slack);
    Bounded *y = calloc((size_t)t->rows, sizeof *y);
    input_row(lab, op, token, x, slack);
    for (int64_t row = 0; row < t->out_features; row++)
        y[row] = row_dot(lab, op, row, x, slack);
    if (c->epilogue == EPILOGUE_ACT_MUL) {
        act_check(worst, c, token, y, out);
    } else if (c->epilogue == EPILOGUE_ROPE_KV) {
        rope_check(lab, worst, c, token, (int32_t)(token % 29 == 28 ? -1 : token % SLOTS),
                   position_of(token), y, out);
    } else {
        for (int64_t row = 0; row < c->n; row++) {
            if (c->epilogue == EPILOGUE_ADD) {
                y[row].value += (double)input_at(token + 1000, row);
                y[row].bound += 2e-7 * (fabs(y[row].value) + 20);
            }
            compare(worst, c->name, token, row, (double)out[row], y[row]);
        }
    }
    free(x);
    free(slack);
    free(y);
}

static void batch_run(Lab *lab, int level, int index, int32_t tokens, int32_t threads,
                      int64_t first) {
    batch_fill(lab, tokens, first);
    case_run(lab, level, index, tokens, threads, first);
}

// All tokens once against the oracle; then other batch sizes, places and thread counts by bits.
static void linear_case_check(Lab *lab, int level, int index) {
    const LinearCase *c = &linear_cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const int64_t width = lab->graph.values[op->output].width;
    const size_t row_bytes = (size_t)width * sizeof(float);
    float *all = malloc(MAX_TOKENS * row_bytes);
    Worst worst = {0};
    batch_run(lab, level, index, MAX_TOKENS, 2, 0);
    memcpy(all, value_memory(lab, level, index, op->output), MAX_TOKENS * row_bytes);
    for (int64_t token = 0; token < MAX_TOKENS; token += token < 20 ? 1 : 37)
        // of the tokens that share a place in the cache, the last one wrote
        if (c->epilogue != EPILOGUE_ROPE_KV || token % 29 != 28)
            linear_check_token(lab, &worst, c, op, token, all + token * width);
    const bool linear = c->epilogue == EPILOGUE_STORE || c->epilogue == EPILOGUE_ADD;
    if (linear && c->softcap <= 0)
        assert_true(sqrt(worst.error_square / worst.value_square) < 1e-4);
    const Batches batches = {lab, level, index, c->name, all, batch_run};
    batches_check(&batches);
    print_message("  %-40s worst %.2f of the bound, relative L2 %.1e\n", c->name, worst.ratio,
                  sqrt(worst.error_square / worst.value_square));
    free(all);
}

// ---- the tests ----------------------------------------------------------------------------------

static int lab_open(void **state) {
    Lab *lab = lab_new();
    for (size_t at = 0; at < sizeof linear_cases / sizeof *linear_cases; at++)
        linear_add(lab, (int)at);
    lab_start(lab);
    *state = lab;
    return 0;
}

static void test_v3(void **state) {
    level_check(*state, 0, linear_case_check);
}

static void test_v4_vnni(void **state) {
    level_check(*state, 1, linear_case_check);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close);
}

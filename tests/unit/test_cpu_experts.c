// The experts' kernels of the CPU at every level that this machine runs, through the whole path,
// against plain double loops: several codings, stacks that hold some of the experts, inputs that
// every expert orders in its own way. The same token must give the same bits in every batch and
// with any number of threads; outputs are poisoned before.
#include "cpu_lab.h"

typedef struct ExpertsCase {
    const char *name;
    bool up;
    int bits, group;
    int64_t k, n;
    int experts, routed, top_k; // routed > experts: slots
    bool zeros, scale_f32, ordered;
    Activation act;
} ExpertsCase;

static const ExpertsCase cases[] = {
    {"up, 4 bits", true, 4, 128, 256, 2 * 40, 8, 8, 2, false, false, false, ACT_SILU},
    {"down, 4 bits", false, 4, 128, 128, 72, 8, 8, 2, false, false, false, ACT_SILU},
    {"up, one of four", true, 4, 32, 96, 2 * 24, 4, 4, 1, true, false, true, ACT_GELU_TANH},
    {"down, some of them", false, 8, 32, 96, 33, 3, 5, 2, false, true, false, ACT_SILU},
    {"up, some of them", true, 8, 64, 64, 2 * 19, 3, 5, 3, false, false, false, ACT_GELU},
    {"up, 16 bits", true, 16, 0, 72, 2 * 16, 16, 16, 8, false, false, true, ACT_SILU},
    {"down, 16 bits", false, 16, 0, 40, 20, 16, 16, 8, false, false, false, ACT_SILU},
};

// Expert 1 of the routed ones is in another stack, and so is every third.
static int32_t slot_of(const ExpertsCase *c, int64_t expert) {
    if (c->routed == c->experts)
        return (int32_t)expert;
    const int32_t slots[] = {2, -1, 0, 1, -1};
    return slots[expert];
}

static int32_t order_of(const ExpertsCase *c, int64_t place, int64_t k) {
    if (k % 7 == 3)
        return -1;
    return (int32_t)((k * 5 + place * 11) % c->k);
}

static void experts_add(Lab *lab, int index) {
    const ExpertsCase *c = &cases[index];
    const int x = input_add(lab, "x", c->up ? c->k : c->k * c->top_k);
    const int routes = input_add(lab, "routes", 2 * c->top_k);
    const int weight = packed_add(lab, c->name, c->bits, c->group, c->n, c->k);
    PackedTensor *t = &lab->graph.packed[weight];
    t->experts = c->experts;
    t->zeros = c->zeros;
    t->scale_f32 = c->scale_f32;
    int32_t *slots = ARENA_NEW(&lab->arena, int32_t, c->routed);
    for (int expert = 0; expert < c->routed; expert++)
        slots[expert] = slot_of(c, expert);
    int32_t *order = ARENA_NEW(&lab->arena, int32_t, c->experts * c->k);
    for (int64_t at = 0; at < c->experts * c->k; at++)
        order[at] = order_of(c, at / c->k, at % c->k);
    const bool some = c->routed != c->experts;
    const int slots_at = some ? graph_index(&lab->graph, "slots", slots, c->routed) : -1;
    const int order_at =
        c->ordered ? graph_index(&lab->graph, "order", order, c->experts * c->k) : -1;
    const int out = graph_value(&lab->graph, "out", VALUE_F32, c->up ? c->top_k * c->n / 2 : c->n);
    Op *op = case_add(lab, c->up ? OP_EXPERTS_UP : OP_EXPERTS_DOWN);
    op->inputs[0] = x;
    op->inputs[1] = routes;
    op->output = out;
    op->experts.weight = weight;
    op->experts.slots = slots_at;
    op->experts.order = order_at;
    op->experts.top_k = c->top_k;
    op->experts.act = c->act;
}

// Choice j of a token: different experts, drawn so that some get no token of a small batch.
static int64_t expert_of(const ExpertsCase *c, int64_t token, int64_t j) {
    const int64_t first = mix(21, (uint32_t)token, 0) % (uint32_t)c->routed;
    return (first * (token % 3 ? 1 : 0) + j) % c->routed;
}

static void routes_fill(Lab *lab, int level, int index, int32_t tokens, int64_t first) {
    const ExpertsCase *c = &cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    float *routes = value_memory(lab, level, index, op->inputs[1]);
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t j = 0; j < c->top_k; j++) {
            routes[token * 2 * c->top_k + j] = (float)expert_of(c, first + token, j);
            routes[token * 2 * c->top_k + c->top_k + j] = 0.5f / (float)(1 + j);
        }
}

static Bounded row_dot(const Lab *lab, const PackedTensor *t, int64_t place, int64_t row,
                       const double *x, const double *slack) {
    Bounded y = {0, 1e-30};
    for (int64_t k = 0; k < t->in_features; k++) {
        const double w = weight_of_expert(lab, t, place, row, k);
        y.value += w * x[k];
        y.bound += fabs(w) * slack[k] + 1e-6 * fabs(w * x[k]);
    }
    return y;
}

// Inputs of one choice and how far off the kernel's are.
static void input_row(const ExpertsCase *c, int64_t place, int64_t token, int64_t j, double *x,
                      double *slack) {
    const int64_t group = c->bits == 16 ? 64 : c->group;
    for (int64_t k = 0; k < c->k; k++) {
        const int64_t from = c->ordered ? order_of(c, place, k) : k;
        x[k] = from < 0 ? 0 : (double)input_at(token, c->up ? from : j * c->k + from);
    }
    for (int64_t k = 0; k < c->k; k += group) {
        double largest = 0;
        for (int64_t i = k; i < k + group && i < c->k; i++)
            largest = fmax(largest, fabs(x[i]));
        for (int64_t i = k; i < k + group && i < c->k; i++)
            slack[i] = (c->bits == 16 ? 0 : largest / 65534 * 1.01) + 1e-6 * fabs(x[i]);
    }
}

static void token_check(const Lab *lab, Worst *worst, int index, int64_t token, const float *out) {
    const ExpertsCase *c = &cases[index];
    const PackedTensor *t = &lab->graph.packed[lab->graph.ops[lab->ops[index]].experts.weight];
    double x[256], slack[256];
    Bounded sums[256] = {{0, 0}};
    for (int64_t j = 0; j < c->top_k; j++) {
        const int64_t place = slot_of(c, expert_of(c, token, j));
        if (place >= 0)
            input_row(c, place, token, j, x, slack);
        for (int64_t f = 0; c->up && f < c->n / 2; f++) {
            Bounded e = {0, 0};
            if (place >= 0) {
                const Bounded gate = row_dot(lab, t, place, f / 8 * 16 + f % 8, x, slack);
                const Bounded up = row_dot(lab, t, place, f / 8 * 16 + f % 8 + 8, x, slack);
                const double act = activation(c->act, gate.value);
                e.value = act * up.value;
                e.bound = 1.2 * gate.bound * (fabs(up.value) + up.bound) + fabs(act) * up.bound +
                          2e-6 * fabs(e.value) + 1e-6 * fabs(up.value);
            }
            e.bound += 1e-30;
            compare(worst, c->name, token, j * c->n / 2 + f, (double)out[j * c->n / 2 + f], e);
        }
        for (int64_t row = 0; !c->up && place >= 0 && row < c->n; row++) {
            const Bounded y = row_dot(lab, t, place, row, x, slack);
            sums[row].value += 0.5 / (double)(1 + j) * y.value;
            sums[row].bound += y.bound + 1e-6 * fabs(y.value);
        }
    }
    for (int64_t row = 0; !c->up && row < c->n; row++) {
        sums[row].bound += 1e-30;
        compare(worst, c->name, token, row, (double)out[row], sums[row]);
    }
}

// Nobody asks for the weights of an expert that no token chose.
static void unused_check(const Lab *lab, int index, int32_t tokens, int64_t first) {
    const ExpertsCase *c = &cases[index];
    const PackedTensor *t = &lab->graph.packed[lab->graph.ops[lab->ops[index]].experts.weight];
    bool used[16] = {false};
    for (int64_t token = first; token < first + tokens; token++)
        for (int64_t j = 0; j < c->top_k; j++)
            if (slot_of(c, expert_of(c, token, j)) >= 0)
                used[slot_of(c, expert_of(c, token, j))] = true;
    for (int64_t place = 0; place < c->experts; place++) {
        const unsigned char *from = lab->veiled + t->offset + place * t->expert_bytes;
        bool veiled = true;
        for (int64_t at = 0; at < t->expert_bytes; at++)
            veiled = veiled && from[at] == 0xff;
        assert_int_equal(veiled, !used[place]);
    }
}

static void batch_run(Lab *lab, int level, int index, int32_t tokens, int32_t threads,
                      int64_t first) {
    inputs_fill(lab, level, index, tokens, first);
    routes_fill(lab, level, index, tokens, first);
    case_step(lab, level, index, tokens, threads);
    if (case_veiled(lab))
        unused_check(lab, index, tokens, first);
}

static void case_check(Lab *lab, int level, int index) {
    const ExpertsCase *c = &cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const int64_t width = lab->graph.values[op->output].width;
    const size_t row_bytes = (size_t)width * sizeof(float);
    float *all = malloc(MAX_TOKENS * row_bytes);
    Worst worst = {0};
    batch_fill(lab, MAX_TOKENS, 0);
    batch_run(lab, level, index, MAX_TOKENS, 2, 0);
    memcpy(all, value_memory(lab, level, index, op->output), MAX_TOKENS * row_bytes);
    for (int64_t token = 0; token < MAX_TOKENS; token += token < 20 ? 1 : 37)
        token_check(lab, &worst, index, token, all + token * width);
    const Batches batches = {lab, level, index, c->name, all, batch_run};
    batches_check(&batches);
    print_message("  %-24s worst %.2f of the bound, relative L2 %.1e\n", c->name, worst.ratio,
                  sqrt(worst.error_square / worst.value_square));
    free(all);
}

static int lab_open(void **state) {
    Lab *lab = lab_new();
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++)
        experts_add(lab, (int)at);
    lab_start(lab);
    *state = lab;
    return 0;
}

static void test_v3(void **state) {
    level_check(*state, 0, case_check);
}

static void test_v4_vnni(void **state) {
    level_check(*state, 1, case_check);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close);
}

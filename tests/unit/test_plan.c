// Plans of every target: buffers that live at the same time never overlap, what phases share lies at
// the same place everywhere, equal kernels are compiled once, each bucket has its cheapest kernels, or,
// where batches shall not change bits, those of one order of sums.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../compiler/compile.h"
#include "../../runtime/step.h"
#include "tests/linear_lab.h"

enum { MAX_TARGETS = 32 };

typedef struct Model {
    Arena arena;
    Checkpoint checkpoint;
    Config config;
    Graph graph;
    const Target *targets[MAX_TARGETS];
    Plan plans[MAX_TARGETS];
    int count;
} Model;

static void model_open(Model *m, const char *dir, int64_t batch, bool invariant) {
    Error err = {0};
    int64_t bytes;
    const Sizes sizes = {.max_seq_len = 512,
                         .max_batch_size = batch,
                         .max_num_tokens = 300,
                         .max_head_rows = batch,
                         .page_tokens = 64,
                         .batch_invariant = invariant};
    *m = (Model){0};
    assert_true(checkpoint_open(&m->checkpoint, dir, &m->arena, &err));
    assert_true(config_read(&m->config, dir, &m->arena, &err));
    Graph unfused = graph_new(&m->arena);
    assert_true(arch_build(arch_find(m->config.architecture), &unfused, &m->config, &m->checkpoint,
                           512, &m->arena, &err));
    assert_true(graph_fuse(&m->graph, &unfused, &m->arena, &err));
    assert_true(weights_layout(&m->graph, &bytes, &err));
    assert_true(targets_parse(m->targets, &m->count, MAX_TARGETS, "all", &err));
    assert_true(m->count >= 8);
    for (int at = 0; at < m->count; at++) {
        assert_true(plan_make(&m->plans[at], &m->graph, &m->config, m->targets[at], &sizes,
                              &m->arena, &err));
        memory_plan(&m->plans[at]);
    }
}

static bool live_together(const Buffer *a, const Buffer *b) {
    if (a->persistent || b->persistent)
        return true;
    return a->first_step <= b->last_step && b->first_step <= a->last_step;
}

static void check_places(const Plan *p, const PhasePlan *phase) {
    for (int i = 0; i < phase->buffer_count; i++) {
        const Buffer *a = &phase->buffers[i];
        assert_true(a->offset >= 0 && a->offset % 256 == 0);
        assert_true(a->offset + a->bytes <= p->info.arena_bytes);
        for (int j = 0; j < i; j++) {
            const Buffer *b = &phase->buffers[j];
            bool apart = a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset;
            assert_true(apart || !live_together(a, b));
        }
    }
}

static void check_phase(const Plan *p, const PhasePlan *phase) {
    check_places(p, phase);
    for (int at = 0; at < phase->step_count; at++) {
        const Step *s = &phase->steps[at];
        assert_true(s->kernel_index >= 0 && s->kernel_index < p->kernel_count);
        assert_true(params_equal(&p->kernels[s->kernel_index]->params, &s->params));
        assert_string_equal(p->kernels[s->kernel_index]->entry, s->entry);
    }
}

static void test_memory(void **state) {
    (void)state;
    for (int64_t batch = 1; batch <= 40; batch += 13) {
        Model m;
        model_open(&m, "tests/vectors/fixtures/llama32-4b-g128", batch, false);
        for (int at = 0; at < m.count; at++) {
            assert_int_equal(m.plans[at].info.logits_offset, 0);
            for (int phase = 0; phase < m.plans[at].phase_count; phase++)
                check_phase(&m.plans[at], &m.plans[at].phases[phase]);
        }
        arena_free(&m.arena);
    }
}

// Any lives and sizes, persistent buffers in front: none overlap while both live, the arena holds all.
static void test_first_fit(void **state) {
    enum { BUFFERS = 40, STEPS = 25 };
    (void)state;
    Random r = {.state = 3};
    for (int round = 0; round < 300; round++) {
        Buffer buffers[BUFFERS] = {{0}};
        PhasePlan phase = {.buffers = buffers, .buffer_count = BUFFERS};
        Plan p = {.phases = &phase, .phase_count = 1};
        for (int at = 0; at < BUFFERS; at++) {
            int first = (int)(random_u32(&r) % STEPS);
            buffers[at] = (Buffer){.bytes = 1 + random_u32(&r) % 3000,
                                   .first_step = first,
                                   .last_step = first + (int)(random_u32(&r) % 6),
                                   .persistent = at < 3};
        }
        memory_plan(&p);
        check_places(&p, &phase);
    }
}

static void test_kernels_once(void **state) {
    (void)state;
    Model m;
    model_open(&m, "samples/storyteller", 16, false);
    for (int at = 0; at < m.count; at++) {
        const Plan *p = &m.plans[at];
        for (int i = 0; i < p->kernel_count; i++)
            for (int j = 0; j < i; j++)
                assert_false(strcmp(p->kernels[i]->entry, p->kernels[j]->entry) == 0 &&
                             strcmp(p->kernels[i]->source, p->kernels[j]->source) == 0 &&
                             params_equal(&p->kernels[i]->params, &p->kernels[j]->params));
    }
    arena_free(&m.arena);
}

// The order of sums of an op, by the parameters that its family names.
static void assert_same_order(const Step *a, const Step *b) {
    static const char *const names[] = {"WARPS", "K_GROUPS", "CLUSTER", "EVEN"};
    assert_string_equal(a->entry, b->entry);
    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        for (int i = 0; i < a->params.count; i++)
            if (strcmp(a->params.items[i].name, names[at]) == 0)
                assert_int_equal(a->params.items[i].value, params_get(&b->params, names[at]));
}

// Steps of linear layers, of which each op has one behind a norm that may be one of its own.
static int linear_steps(const PhasePlan *phase, const Step **out) {
    int count = 0;
    for (int at = 0; at < phase->step_count; at++)
        if (strncmp(phase->steps[at].entry, "linear_", 7) == 0)
            out[count++] = &phase->steps[at];
    return count;
}

// With --batch-invariant the decode buckets, and the head, agree on the order of sums.
static void test_one_order_of_sums(void **state) {
    (void)state;
    static const int64_t batches[] = {1, 16, 64, 100};
    for (size_t batch = 0; batch < sizeof batches / sizeof *batches; batch++) {
        Model m;
        model_open(&m, "samples/storyteller", batches[batch], true);
        for (int at = 0; at < m.count; at++) {
            const Plan *p = &m.plans[at];
            const Step *first[200], *other[200], *head[4];
            int count = 0, heads = 0;
            assert_int_equal(p->prefill_bucket_count, 1);
            for (int phase = 0; phase < p->phase_count; phase++) {
                const PhasePlan *decode = &p->phases[phase];
                assert_int_equal(decode->reordered, 0);
                if (decode->phase == PHASE_HEAD)
                    heads = linear_steps(decode, head);
                if (decode->phase != PHASE_DECODE)
                    continue;
                int found = linear_steps(decode, count ? other : first);
                for (int step = 0; step < count; step++)
                    assert_same_order(first[step], other[step]);
                assert_true(count == 0 || found == count);
                count = found;
            }
            assert_true(count > heads || p->target->device == DEVICE_CPU);
            for (int step = 0; step < heads; step++)
                assert_same_order(first[count - heads + step], head[step]);
        }
        arena_free(&m.arena);
    }
}

// Up to same_rows, the end of a bucket, decoding keeps the order that it has with one row; behind it
// some linear layer does not.
static void test_same_rows(void **state) {
    (void)state;
    static const int64_t batches[] = {1, 16, 256};
    int ended = 0;
    for (size_t batch = 0; batch < sizeof batches / sizeof *batches; batch++) {
        Model m;
        model_open(&m, "samples/storyteller", batches[batch], false);
        for (int at = 0; at < m.count; at++) {
            const Plan *p = &m.plans[at];
            const Step *first[200], *other[200];
            int64_t last = 0, next = 0;
            int count = 0;
            for (int phase = 0; phase < p->phase_count; phase++) {
                const PhasePlan *decode = &p->phases[phase];
                if (decode->phase != PHASE_DECODE)
                    continue;
                if (decode->max_tokens > p->same_rows) {
                    next += decode->reordered > 0 && !next;
                    continue;
                }
                int found = linear_steps(decode, count ? other : first);
                for (int step = 0; step < count; step++)
                    assert_same_order(first[step], other[step]);
                count = found;
                last = decode->max_tokens;
            }
            bool cpu = p->target->device == DEVICE_CPU;
            assert_int_equal(p->same_rows, !cpu                   ? last
                                           : batches[batch] < 300 ? batches[batch]
                                                                  : 300);
            assert_true(cpu || p->same_rows == batches[batch] || next);
            ended += next > 0;
        }
        arena_free(&m.arena);
    }
    assert_true(ended > 0);
}

static bool params_agree(const Params *a, const Params *b, const char *const *names, size_t count) {
    for (size_t at = 0; at < count; at++)
        if (params_get(a, names[at]) != params_get(b, names[at]))
            return false;
    return true;
}

typedef struct Orders {
    int same, others, tied, clusters; // pairs of one order, of two; candidates
} Orders;

// All candidates: a split says that it depends on the number of tokens, and two of linear_decode have
// one text if what sets their sums is the same; a norm of the prologue adds in another order than one
// that is a step of its own. Clusters have as few blocks as do.
static Orders orders_check(const Case *c, const Target *target, int64_t tokens) {
    static const char *const names[] = {"WARPS", "CLUSTER", "PROLOGUE"};
    Orders o = {0};
    int64_t cluster = 1;
    char tied[32];
    Arena arena = {0};
    Lab lab;
    KernelChoices *all = calloc(1, sizeof *all);
    assert_non_null(all);
    snprintf(tied, sizeof tied, " EVEN tokens=%" PRId64, tokens);
    lab_make(&lab, c, target, c->act_order, &arena); // an order of inputs is data
    choices_make(
        all,
        &(Problem){.plan = &lab.plan, .op = lab.op, .phase = PHASE_DECODE, .max_tokens = tokens});
    for (int a = 0; a < all->count; a++) {
        const KernelChoice *x = &all->items[a];
        if (x->kernel == &kernel_linear_wgmma) {
            bool split = params_get(&x->params, "EVEN");
            assert_int_equal(strstr(x->sums, tied) != NULL, split);
            o.tied += split;
        }
        if (x->kernel == &kernel_linear_decode && params_get(&x->params, "CLUSTER") > 1) {
            assert_true(cluster == 1 || cluster == params_get(&x->params, "CLUSTER"));
            cluster = params_get(&x->params, "CLUSTER");
            o.clusters++;
        }
        for (int b = 0; b < a && x->kernel == &kernel_linear_decode; b++) {
            const KernelChoice *y = &all->items[b];
            if (y->kernel != x->kernel)
                continue;
            bool same = params_agree(&x->params, &y->params, names, sizeof names / sizeof *names);
            assert_int_equal(strcmp(x->sums, y->sums) == 0, same);
            o.same += same;
            o.others += !same;
        }
    }
    free(all);
    arena_free(&arena);
    return o;
}

// Batches of one bucket have one order: a split, which goes by blocks of tokens, only if it is one.
static void test_splits(void **state) {
    (void)state;
    static const Case down = {
        "down", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE};
    static const StepPhase phases[] = {PHASE_PREFILL, PHASE_DECODE, PHASE_HEAD, PHASE_PREFILL};
    const Target *found[MAX_TARGETS];
    Error err = {0};
    int count;
    assert_true(targets_parse(found, &count, MAX_TARGETS, "sm_90a", &err));
    for (size_t phase = 0; phase < sizeof phases / sizeof *phases; phase++) {
        bool invariant = phase == 3;
        int whole = 0, shorter = 0, unsplit = 0;
        Arena arena = {0};
        Lab lab;
        KernelChoices *all = calloc(1, sizeof *all);
        assert_non_null(all);
        lab_make(&lab, &down, found[0], false, &arena);
        lab.plan.batch_invariant = invariant;
        choices_make(all, &(Problem){.plan = &lab.plan,
                                     .op = lab.op,
                                     .phase = (int)phases[phase],
                                     .max_tokens = 128});
        for (int at = 0; at < all->count; at++) {
            const KernelChoice *c = &all->items[at];
            if (c->kernel != &kernel_linear_wgmma)
                continue;
            bool split = params_get(&c->params, "EVEN");
            whole += split && params_get(&c->params, "BLOCK_TOKENS") == 128;
            shorter += split && params_get(&c->params, "BLOCK_TOKENS") < 128;
            unsplit += !split && params_get(&c->params, "BLOCK_TOKENS") < 128;
        }
        assert_int_equal(whole > 0, !invariant);
        assert_int_equal(shorter > 0, phases[phase] == PHASE_PREFILL && !invariant);
        assert_true(unsplit > 0);
        free(all);
        arena_free(&arena);
    }
}

// Candidates of one family whose sums stand in another order say so.
static void test_orders_are_told(void **state) {
    (void)state;
    static const Case cases[] = {
        {"down", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
        // as many warps with clusters as without
        {"long", 4, 128, 16384, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
        {"ordered",
         4,
         128,
         2048,
         {512},
         ROWS_PLAIN,
         PROLOGUE_NORM,
         EPILOGUE_STORE,
         .act_order = true}};
    static const char *const names[] = {"sm_80", "sm_90a", "sm_100"};
    for (size_t target = 0; target < sizeof names / sizeof *names; target++) {
        const Target *found[MAX_TARGETS];
        Error err = {0};
        int count;
        assert_true(targets_parse(found, &count, MAX_TARGETS, names[target], &err));
        bool hopper = found[0]->compute_major == 9;
        for (size_t at = 0; at < sizeof cases / sizeof *cases; at++) {
            Orders one = orders_check(&cases[at], found[0], 1),
                   many = orders_check(&cases[at], found[0], 16);
            assert_int_equal(many.tied > 0, hopper);
            assert_true(one.same > 0 && many.others > 0);
            bool clusters = hopper && !cases[at].act_order; // also where one block would do
            assert_int_equal(one.clusters > 0, clusters);
            assert_int_equal(many.clusters > 0, clusters);
        }
    }
}

// Without it every bucket has the cheapest candidate, and one kernel does not serve all of them.
static void test_cheapest(void **state) {
    (void)state;
    Model m;
    int reordered = 0;
    model_open(&m, "samples/storyteller", 64, false);
    KernelChoices *all = calloc(1, sizeof *all);
    assert_non_null(all);
    for (int at = 0; at < m.count; at++) {
        const Plan *p = &m.plans[at];
        for (int phase = 0; phase < p->phase_count; phase++) {
            const PhasePlan *decode = &p->phases[phase];
            reordered += decode->reordered;
            for (int step = 0; step < decode->step_count && decode->phase == PHASE_DECODE; step++) {
                const Step *s = &decode->steps[step];
                const Problem problem = {.plan = p,
                                         .op = s->op,
                                         .phase = PHASE_DECODE,
                                         .max_tokens = decode->max_tokens};
                if (!s->op || s->op->kind != OP_LINEAR || strncmp(s->entry, "linear_", 7) != 0)
                    continue;
                choices_make(all, &problem);
                for (int i = 0; i < all->count; i++)
                    assert_true(all->items[i].cost.us >= s->cost.us);
            }
        }
    }
    assert_true(reordered > 0);
    free(all);
    arena_free(&m.arena);
}

// What was measured of a cut lies between its neighbours; a cut that was not measured counts as 1.
static void test_efficiency(void **state) {
    (void)state;
    Params p = {0};
    assert_true(kernel_efficiency("linear_decode", &p, 8) == 1);
    params_set(&p, "TILES", 2);
    params_set(&p, "STAGES", 4);
    assert_true(kernel_efficiency("no such kernel", &p, 8) == 1);
    double low = kernel_efficiency("linear_decode", &p, 4);
    double eight = kernel_efficiency("linear_decode", &p, 8);
    double six = kernel_efficiency("linear_decode", &p, 6);
    assert_true(low > 0.1 && low < 10 && low != 1);
    assert_true((six - low) * (six - eight) <= 0);
    assert_true(kernel_efficiency("linear_decode", &p, 4096) ==
                kernel_efficiency("linear_decode", &p, 100000));
    params_set(&p, "BLOCK_TOKENS", 64);
    low = kernel_efficiency("linear_gemm", &p, 1024);
    double high =
        kernel_efficiency("linear_gemm", &p, 4096); // 2048 is half way between the logarithms
    assert_true(low != high);
    assert_true(fabs(kernel_efficiency("linear_gemm", &p, 2048) - (low + high) / 2) < 1e-9);
    params_set(&p, "TILES", 20); // no prefix of another number
    assert_true(kernel_efficiency("linear_decode", &p, 8) == 1);
}

// A step runs the smallest bucket that holds its tokens: they ascend, and the last holds all.
static void test_buckets(void **state) {
    (void)state;
    Model m;
    model_open(&m, "tests/vectors/fixtures/llama32-4b-g128", 40, false);
    for (int at = 0; at < m.count; at++) {
        const Plan *p = &m.plans[at];
        assert_int_equal(p->decode_buckets[p->decode_bucket_count - 1], 40);
        assert_int_equal(p->prefill_buckets[p->prefill_bucket_count - 1], 300);
        for (int i = 1; i < p->decode_bucket_count; i++)
            assert_true(p->decode_buckets[i - 1] < p->decode_buckets[i]);
        for (int i = 1; i < p->prefill_bucket_count; i++)
            assert_true(p->prefill_buckets[i - 1] < p->prefill_buckets[i]);
        if (p->target->device == DEVICE_CPU)
            assert_int_equal(p->phase_count, 3);
    }
    arena_free(&m.arena);
}

static void test_targets(void **state) {
    (void)state;
    const Target *found[MAX_TARGETS];
    Error err = {0};
    int count;
    assert_true(targets_parse(found, &count, MAX_TARGETS, "sm_90a,H200,sm_80,a100", &err));
    assert_int_equal(count, 2);
    assert_string_equal(found[0]->name, "sm_90a");
    assert_string_equal(found[1]->name, "sm_80");
    assert_false(targets_parse(found, &count, MAX_TARGETS, "cpu,sm_13", &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "sm_13"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),       cmocka_unit_test(test_first_fit),
        cmocka_unit_test(test_kernels_once), cmocka_unit_test(test_one_order_of_sums),
        cmocka_unit_test(test_splits),       cmocka_unit_test(test_orders_are_told),
        cmocka_unit_test(test_cheapest),     cmocka_unit_test(test_efficiency),
        cmocka_unit_test(test_buckets),      cmocka_unit_test(test_targets),
        cmocka_unit_test(test_same_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// The GPU kernels of linears, emulated on the CPU (tests/simt/simt.h) and compared with sums in
// doubles: formats of weights, prologues, epilogues. `test_gpu_linear all` takes every format;
// without a word a few, since each is a C++ compile.
#include "tests/experts_lab.h"
#include "tests/linear_formats.h"
#include "tests/linear_run.h"
#include "tests/unit/simt_lab.h"

enum { RUNS_MAX = 3 * FORMAT_COUNT, FEW = 7, TOKENS = 19 };

typedef struct Fixture {
    StepLab lab;
    Formats formats;
    Lab labs[FORMAT_COUNT];
    Run runs[RUNS_MAX];
    int run_count;
    ExpertsLab experts[EXPERTS_CASES];
    int stride; // every that many formats
    char folder[SIMT_FOLDER_BYTES];
    bool made;
} Fixture;

static void runs_add(Fixture *f, Lab *lab) {
    Problem problem = {.plan = &lab->plan, .op = lab->op, .max_tokens = 8};
    DecodeVariant v = decode_variant(&problem);
    int before = f->run_count;
    f->run_count += run_decode(&f->runs[f->run_count], lab, 5, v, &f->lab.arena);
    v.tiles = 2;
    if (!run_decode(&f->runs[f->run_count], lab, 16, v, &f->lab.arena)) {
        v.tiles = 1; // too few registers for two
        run_decode(&f->runs[f->run_count], lab, 16, v, &f->lab.arena);
    }
    f->run_count++;
    f->run_count += run_gemm(&f->runs[f->run_count], lab, TOKENS,
                             (GemmVariant){.block_tokens = 32, .warp_tiles = 1, .ctas_per_sm = 1},
                             &f->lab.arena);
    assert(f->run_count == before + 3 && f->runs[before + 1].arena_bytes > 0);
    for (int at = before; at < f->run_count; at++)
        f->runs[at].first_kernel =
            lab_phase_add(&f->lab, &f->runs[at].phase, &f->runs[at].arena_bytes);
}

static int set_up(void **state) {
    Fixture *f = *state;
    if (!simt_open(&f->lab, f->folder, "sm_90a"))
        return -1;
    formats_make(&f->formats);
    for (int at = 0; at < FORMAT_COUNT; at += f->stride) {
        lab_make(&f->labs[at], &f->formats.cases[at], f->lab.target, true, &f->lab.arena);
        runs_add(f, &f->labs[at]);
    }
    for (int at = 0; at < EXPERTS_CASES; at++)
        experts_add(&f->experts[at], &experts_cases[at], &f->lab);
    f->made = simt_compile(&f->lab);
    return 0;
}

static int tear_down(void **state) {
    Fixture *f = *state;
    simt_close(&f->lab, f->folder);
    return 0;
}

static bool run_check(Fixture *f, const Run *run, const Data *d) {
    Arena a = {0};
    LinearMemory m = linear_memory(&f->lab, run->lab, d, run->arena_bytes);
    int64_t tokens = run->max_tokens < 8 ? 3 : run->max_tokens - 3;
    bool right = true;
    for (int turn = 0; turn < 2; turn++) {
        f->lab.backwards = turn;
        Result r = linear_run(&f->lab, run, d, &m, tokens, &a);
        printf("%-22s %s, %2lld tokens: %.3f of its bound\n", run->lab->c->name, run->text,
               (long long)tokens, r.worst);
        right = right && r.worst <= 1;
        if (r.worst > 1)
            printf("FAILED %s\n", r.where);
    }
    linear_release(&f->lab, &m);
    arena_free(&a);
    return right;
}

static void experts_are_right(void **state) {
    Fixture *f = *state;
    simt_made_or_skip(f->made);
    int failed = 0;
    for (int turn = 0; turn < 2; turn++) {
        f->lab.backwards = turn;
        for (int at = 0; at < EXPERTS_CASES; at++)
            failed += !experts_check(&f->experts[at], &f->lab);
    }
    assert_int_equal(failed, 0);
}

static void formats_are_right(void **state) {
    Fixture *f = *state;
    simt_made_or_skip(f->made);
    int failed = 0;
    Data d;
    for (int at = 0; at < f->run_count; at++) {
        Arena a = {0};
        data_make(&d, f->runs[at].lab, TOKENS, &a);
        failed += !run_check(f, &f->runs[at], &d);
        arena_free(&a);
    }
    assert_int_equal(failed, 0);
}

int main(int argc, char **argv) {
    static Fixture f;
    f.stride = argc > 1 && strcmp(argv[1], "all") == 0 ? 1 : FEW;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(formats_are_right, &f),
        cmocka_unit_test_prestate(experts_are_right, &f),
    };
    void *state = &f;
    if (set_up(&state))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tear_down(&state);
    return failed;
}

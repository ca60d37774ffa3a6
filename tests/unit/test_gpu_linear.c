// The GPU kernels of linears, emulated on the CPU (tests/simt/simt.h) and compared with sums in
// doubles: formats of weights, prologues, epilogues. `test_gpu_linear all` takes every format;
// without a word a few, since each is a C++ compile.
#include "tests/experts_lab.h"
#include "tests/linear_check.h"
#include "tests/linear_formats.h"
#include "tests/unit/simt_lab.h"

enum { RUNS_MAX = 3 * FORMAT_COUNT, FEW = 7, TOKENS = 19 };

typedef struct Fixture {
    StepLab lab;
    Formats formats;
    Lab labs[FORMAT_COUNT];
    Run runs[RUNS_MAX];
    int first_kernel[RUNS_MAX];
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
        f->first_kernel[at] = lab_phase_add(&f->lab, &f->runs[at].phase, &f->runs[at].arena_bytes);
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

// Memory of one run, by StepRegion.
typedef struct Memory {
    uint64_t base[REGION_COUNT];
    size_t kv_bytes;
} Memory;

static Memory memory_make(Fixture *f, const Run *run, const Data *d) {
    const Lab *lab = run->lab;
    const BatchLayout *batch = &lab->plan.batch;
    StepLab *s = &f->lab;
    Memory m = {.kv_bytes = (size_t)(LAB_PAGES * lab->plan.info.kv_page_bytes)};
    m.base[REGION_WEIGHTS] = lab_alloc(s, (size_t)lab->weights_bytes);
    m.base[REGION_ARENA] = lab_alloc(s, (size_t)run->arena_bytes);
    m.base[REGION_KV] = lab_alloc(s, m.kv_bytes + 1);
    m.base[REGION_BATCH] = lab_alloc(s, (size_t)batch->bytes);
    for (int at = 0; at < lab->graph.packed_count; at++)
        tensor_pack(&lab->graph.packed[at], (unsigned char *)(uintptr_t)m.base[REGION_WEIGHTS] +
                                                lab->graph.packed[at].offset);
    lab_upload(s, m.base[REGION_BATCH] + (uint64_t)batch->positions, d->positions,
               sizeof(int32_t) * TOKENS);
    lab_upload(s, m.base[REGION_BATCH] + (uint64_t)batch->slots, d->slots,
               sizeof(int32_t) * TOKENS);
    lab_upload(s, m.base[REGION_BATCH] + (uint64_t)batch->page_table, d->table, sizeof d->table);
    return m;
}

static void inputs_upload(Fixture *f, const Run *run, const Data *d, const Memory *m,
                          int64_t tokens) {
    const Lab *lab = run->lab;
    const PhasePlan *phase = &run->phase;
    int64_t width = lab->graph.values[lab->x].width;
    uint64_t arena = m->base[REGION_ARENA];
    uint64_t x = arena + (uint64_t)phase->buffers[phase->value_buffer[lab->x]].offset;
    lab_fill(&f->lab, arena, 0xff, (size_t)run->arena_bytes);
    lab_fill(&f->lab, m->base[REGION_KV], 0xff, m->kv_bytes);
    if (lab->norm)
        lab_upload(&f->lab, x, d->x, (size_t)(tokens * width * 4));
    else
        lab_upload(&f->lab, x, d->x_half, (size_t)(tokens * width * 2));
    if (lab->residual >= 0)
        lab_upload(&f->lab,
                   arena + (uint64_t)phase->buffers[phase->value_buffer[lab->residual]].offset,
                   d->residual, (size_t)(tokens * lab->graph.values[lab->residual].width * 4));
}

static bool run_check(Fixture *f, int at, const Data *d) {
    const Run *run = &f->runs[at];
    Memory m = memory_make(f, run, d);
    int64_t tokens = run->max_tokens < 8 ? 3 : run->max_tokens - 3;
    Result r = {.arena = (unsigned char *)(uintptr_t)m.base[REGION_ARENA],
                .kv = (unsigned char *)(uintptr_t)m.base[REGION_KV]};
    for (int turn = 0; turn < 2; turn++) {
        f->lab.backwards = turn;
        inputs_upload(f, run, d, &m, tokens);
        lab_phase_run(&f->lab, &run->phase, f->first_kernel[at], m.base, tokens);
        compare_all(run, d, &r, tokens);
    }
    printf("%-22s %s, %2lld tokens: %.3f of its bound\n", run->lab->c->name, run->text,
           (long long)tokens, r.worst);
    if (r.worst > 1)
        printf("FAILED %s\n", r.where);
    for (int region = 0; region < REGION_COUNT; region++)
        lab_release(&f->lab, m.base[region]);
    return r.worst <= 1;
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
        failed += !run_check(f, at, &d);
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

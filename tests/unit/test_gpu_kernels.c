// The GPU kernels that are no linears, emulated on the CPU (tests/simt/simt.h) and compared with
// plain loops: attention at ragged lengths, head counts and widths, norm, embedding, gather,
// sampling.
#include "tests/attention_lab.h"
#include "tests/rows_lab.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

// clang-format off
static const AttentionCase attention_cases[] = {
    {"decode hd64 gqa2", 4, 2, 64, 16, {1, 63, -1, 64, 65, 200}, 0, 0},
    {"decode hd128 gqa4", 8, 2, 128, 64, {1000, 1, 4097}, 0, 0},
    {"decode hd128 mha", 3, 3, 128, 32, {65, 128, 129}, 0, 0},
    {"decode hd64 gqa7", 14, 2, 64, 64, {300, 17, 16}, 0, 0},
    {"decode hd80 gqa16", 16, 1, 80, 16, {100, 15}, 0, 0},
    {"decode hd112 gqa20", 20, 1, 112, 16, {90}, 0, 0},
    {"decode hd256 gqa8", 8, 1, 256, 16, {140, 2}, 0, 0},
    {"prefill hd64 gqa3", 6, 2, 64, 64, {0}, 70, 0},
    {"prefill hd128 gqa4", 8, 2, 128, 64, {0}, 37, 100},
    {"prefill hd128 one", 4, 1, 128, 16, {0}, 1, 64},
    {"prefill hd80 mha", 2, 2, 80, 16, {0}, 130, 3},
    {"prefill hd192 gqa8", 8, 1, 192, 32, {0}, 20, 33},
};
static const RowsCase rows_cases[] = {
    {"norm 384", OP_NORM, 384, 0},       {"norm 5000", OP_NORM, 5000, 0},
    {"embed 384", OP_EMBED, 384, 8192},  {"embed 200", OP_EMBED, 200, 37},
    {"gather 384", OP_GATHER, 384, 0},
};
static const int64_t vocabularies[] = {259, 8192, 128256};
// clang-format on
enum {
    ATTENTION_CASES = sizeof attention_cases / sizeof *attention_cases,
    ROWS_CASES = sizeof rows_cases / sizeof *rows_cases,
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies
};

typedef struct Fixture {
    StepLab lab;
    AttentionRun attention[ATTENTION_CASES];
    RowsRun rows[ROWS_CASES];
    SampleRun samples[VOCABULARIES];
    char folder[32];
    bool made;
} Fixture;

static int set_up(void **state) {
    static Fixture f;
    const Target *targets[32];
    int count;
    Error err;
    *state = &f;
    if (!targets_parse(targets, &count, 32, "sm_90a", &err))
        return -1;
    f.lab.target = targets[0];
    memcpy(f.folder, "/tmp/simt-XXXXXX", 17);
    f.lab.folder = mkdtemp(f.folder);
    for (int at = 0; at < ATTENTION_CASES; at++)
        attention_add(&f.attention[at], &attention_cases[at], 0, &f.lab);
    for (int at = 0; at < ROWS_CASES; at++)
        rows_add(&f.rows[at], &rows_cases[at], &f.lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&f.samples[at], vocabularies[at], &f.lab);
    f.made = f.lab.folder && lab_compile(&f.lab, &err);
    if (!f.made)
        fprintf(stderr, "%s\n", err.message);
    return 0;
}

static int tear_down(void **state) {
    Fixture *f = *state;
    for (int at = 0; at < f->lab.kernel_count; at++)
        for (int suffix = 0; suffix < 2; suffix++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%d.%s", f->folder, at, suffix ? "cpp" : "so");
            unlink(path);
        }
    rmdir(f->folder);
    arena_free(&f->lab.arena);
    return 0;
}

static void made_or_skip(const Fixture *f) {
    if (!f->made) {
        puts("skipped: the kernels could not be compiled for the CPU (clang++-19)");
        skip();
    }
}

static void attention_is_right(void **state) {
    Fixture *f = *state;
    made_or_skip(f);
    for (int at = 0; at < ATTENTION_CASES; at++)
        assert_true(attention_check(&f->attention[at], &f->lab));
}

static void rows_are_right(void **state) {
    Fixture *f = *state;
    made_or_skip(f);
    for (int at = 0; at < ROWS_CASES; at++)
        assert_true(rows_check(&f->rows[at], &f->lab));
}

static void sampling_is_right(void **state) {
    Fixture *f = *state;
    made_or_skip(f);
    for (int at = 0; at < VOCABULARIES; at++)
        assert_true(sample_check(&f->samples[at], &f->lab, vocabularies[at] < 10000 ? 10 : 2, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_right),
        cmocka_unit_test(rows_are_right),
        cmocka_unit_test(sampling_is_right),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

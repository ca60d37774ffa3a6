// The GPU kernels that are no linears, emulated on the CPU (tests/simt/simt.h) and compared with
// plain loops: attention at ragged lengths, head counts and widths, with windows, caps and places;
// everything on rows (tests/rows_cases.h); sampling.
#include "tests/attention_lab.h"
#include "tests/rows_cases.h"
#include "tests/sample_lab.h"
#include "tests/unit/simt_lab.h"

// clang-format off
static const AttentionCase attention_cases[] = {
    {.name = "decode hd64 gqa2", .heads = 4, .kv_heads = 2, .head_dim = 64, .page = 16,
     .lengths = {1, 63, -1, 64, 65, 200}},
    {.name = "decode hd128 gqa4", .heads = 8, .kv_heads = 2, .head_dim = 128, .page = 64,
     .lengths = {1000, 1, 4097}},
    {.name = "decode hd128 mha", .heads = 3, .kv_heads = 3, .head_dim = 128, .page = 32,
     .lengths = {65, 128, 129}},
    {.name = "decode hd64 gqa7", .heads = 14, .kv_heads = 2, .head_dim = 64, .page = 64,
     .lengths = {300, 17, 16}},
    {.name = "decode hd80 gqa16", .heads = 16, .kv_heads = 1, .head_dim = 80, .page = 16,
     .lengths = {100, 15}},
    {.name = "decode hd112 gqa20", .heads = 20, .kv_heads = 1, .head_dim = 112, .page = 16,
     .lengths = {90}},
    {.name = "decode hd256 gqa8", .heads = 8, .kv_heads = 1, .head_dim = 256, .page = 16,
     .lengths = {140, 2}},
    {.name = "decode hd32 gqa2 window", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .lengths = {1, 24, 25, 41, 200}, .window = 24},
    {.name = "decode hd32 gemma2", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 64,
     .lengths = {7, 24, -1, 90}, .window = 24, .softcap = 50, .bf16 = true},
    {.name = "decode hd64 places", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 16,
     .lengths = {1, 70, -1, 300}, .places = true},
    {.name = "decode hd96 bf16", .heads = 4, .kv_heads = 4, .head_dim = 96, .page = 16,
     .lengths = {1, 130}, .bf16 = true},
    {.name = "decode hd40 cap", .heads = 4, .kv_heads = 1, .head_dim = 40, .page = 16,
     .lengths = {5, 130}, .softcap = 3, .places = true},
    {.name = "decode hd8", .heads = 2, .kv_heads = 1, .head_dim = 8, .page = 16,
     .lengths = {5, 130}},
    {.name = "decode hd24", .heads = 3, .kv_heads = 1, .head_dim = 24, .page = 16,
     .lengths = {5, 130}, .window = 17, .bf16 = true},
    {.name = "decode hd256 gemma3", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 16,
     .lengths = {600, 3}, .window = 512, .bf16 = true},
    {.name = "decode hd248 gqa9", .heads = 9, .kv_heads = 1, .head_dim = 248, .page = 16,
     .lengths = {33}, .places = true},
    {.name = "drafts hd64 gqa2", .heads = 4, .kv_heads = 2, .head_dim = 64, .page = 16,
     .tokens = 9, .start = 251, .more = {{1, 77}, {5, 12}}, .drafts = true},
    {.name = "drafts hd32 window", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .tokens = 3, .more = {{6, 140}}, .window = 24, .bf16 = true, .drafts = true},
    {.name = "prefill hd64 gqa3", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 64,
     .tokens = 70},
    {.name = "prefill hd128 gqa4", .heads = 8, .kv_heads = 2, .head_dim = 128, .page = 64,
     .tokens = 37, .start = 100},
    {.name = "prefill hd128 one", .heads = 4, .kv_heads = 1, .head_dim = 128, .page = 16,
     .tokens = 1, .start = 64},
    {.name = "prefill hd80 mha", .heads = 2, .kv_heads = 2, .head_dim = 80, .page = 16,
     .tokens = 130, .start = 3},
    {.name = "prefill hd192 gqa8", .heads = 8, .kv_heads = 1, .head_dim = 192, .page = 32,
     .tokens = 20, .start = 33},
    {.name = "prefill hd32 window", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .tokens = 90, .window = 24},
    {.name = "prefill hd32 gemma2", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 64,
     .tokens = 70, .start = 41, .window = 24, .softcap = 50, .bf16 = true},
    {.name = "prefill hd64 places", .heads = 6, .kv_heads = 2, .head_dim = 64, .page = 16,
     .tokens = 40, .start = 3, .places = true},
    {.name = "prefill hd96 bf16", .heads = 4, .kv_heads = 4, .head_dim = 96, .page = 16,
     .tokens = 66, .bf16 = true},
    {.name = "prefill hd40 cap", .heads = 4, .kv_heads = 1, .head_dim = 40, .page = 16,
     .tokens = 33, .softcap = 3, .places = true},
    {.name = "prefill hd8", .heads = 2, .kv_heads = 1, .head_dim = 8, .page = 16, .tokens = 33},
    {.name = "prefill hd24", .heads = 3, .kv_heads = 1, .head_dim = 24, .page = 16, .tokens = 33,
     .start = 90, .window = 17, .bf16 = true},
    {.name = "prefill hd256 gemma3", .heads = 4, .kv_heads = 1, .head_dim = 256, .page = 16,
     .tokens = 40, .start = 520, .window = 512, .bf16 = true},
    {.name = "prefill hd248 gqa9", .heads = 9, .kv_heads = 1, .head_dim = 248, .page = 16,
     .tokens = 20, .places = true},
    {.name = "prefill hd64 runs", .heads = 4, .kv_heads = 1, .head_dim = 64, .page = 16,
     .tokens = 5, .start = 30, .more = {{1, 0}, {3, 90}, {40, 0}, {16, 64}}},
    {.name = "prefill hd32 runs", .heads = 4, .kv_heads = 2, .head_dim = 32, .page = 16,
     .tokens = 40, .more = {{30, 5}, {20, 60}}, .window = 24, .softcap = 50, .bf16 = true},
    {.name = "prefill hd192 runs", .heads = 8, .kv_heads = 1, .head_dim = 192, .page = 32,
     .tokens = 3, .start = 33, .more = {{9, 0}, {2, 40}}, .places = true},
};
static const int64_t vocabularies[] = {259, 8192, 128256};
// clang-format on
enum {
    ATTENTION_CASES = sizeof attention_cases / sizeof *attention_cases,
    VOCABULARIES = sizeof vocabularies / sizeof *vocabularies
};

typedef struct Fixture {
    StepLab lab;
    AttentionRun attention[ATTENTION_CASES];
    RowsRun rows[ROWS_CASES];
    SampleRun samples[VOCABULARIES];
    char folder[SIMT_FOLDER_BYTES];
    bool made;
} Fixture;

static int set_up(void **state) {
    static Fixture f;
    *state = &f;
    if (!simt_open(&f.lab, f.folder, "sm_90a"))
        return -1;
    for (int at = 0; at < ATTENTION_CASES; at++)
        assert_true(
            attention_add(&f.attention[at], &attention_cases[at], (AttentionChoice){0}, &f.lab));
    for (int at = 0; at < ROWS_CASES; at++)
        rows_add(&f.rows[at], &rows_cases[at], &f.lab);
    for (int at = 0; at < VOCABULARIES; at++)
        sample_add(&f.samples[at], vocabularies[at], &f.lab);
    f.made = simt_compile(&f.lab);
    return 0;
}

static int tear_down(void **state) {
    Fixture *f = *state;
    simt_close(&f->lab, f->folder);
    return 0;
}

static void attention_is_right(void **state) {
    Fixture *f = *state;
    simt_made_or_skip(f->made);
    int bad = 0;
    for (int at = 0; at < ATTENTION_CASES; at++)
        bad += !attention_check(&f->attention[at], &f->lab);
    assert_int_equal(bad, 0);
}

static void rows_are_right(void **state) {
    Fixture *f = *state;
    simt_made_or_skip(f->made);
    int bad = 0;
    for (int at = 0; at < ROWS_CASES; at++)
        bad += !rows_check(&f->rows[at], &f->lab);
    assert_int_equal(bad, 0);
}

static void sampling_is_right(void **state) {
    Fixture *f = *state;
    simt_made_or_skip(f->made);
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

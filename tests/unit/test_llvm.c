// The host object without any model: step functions of CUDA plans against a stand-in for the
// driver, the table, determinism, the other machine, and every way in which plan and template can
// disagree.
#include "host_module.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { MAX_LAUNCHES = 8 };

typedef struct Launch {
    const StepRun *run;
    LaunchSpec spec;
    uint64_t arguments[STEP_MAX_OPERANDS];
} Launch;

// What the generated code reported; the callback has no other way to its test.
typedef struct Log {
    Launch launches[MAX_LAUNCHES];
    int count;
    int fail_at; // the launch that fails, -1: none
} Log;

int32_t cuda_launch(const StepRun *run, const LaunchSpec *spec, const uint64_t *arguments) {
    Log *log = run->device;
    assert_true(log->count < MAX_LAUNCHES);
    Launch *l = &log->launches[log->count++];
    *l = (Launch){.run = run, .spec = *spec};
    memcpy(l->arguments, arguments, (size_t)spec->argument_count * sizeof *arguments);
    return log->count - 1 == log->fail_at ? 700 : 0;
}

static const Target gpu = {.name = "sm_90a", .device = DEVICE_CUDA};
static const Target cpu = {.name = "cpu:x86-64-v3", .device = DEVICE_CPU, .cpu_level = "x86-64-v3"};

typedef struct Fixture {
    Arena arena;
    Graph graph;
    PackedTensor packed[3];
    Plan plan;
    PhasePlan phases[3];
    Step steps[2];
    Buffer buffers[2];
    Step *kernels[2];
    Bytes object;
    Error err;
} Fixture;

// Two launches in decode for up to 4 and up to 16 tokens, none in prefill; not in the order of the
// table.
static void gpu_plan(Fixture *f) {
    f->buffers[0] = (Buffer){.name = "a", .bytes = 64, .offset = 256};
    f->buffers[1] = (Buffer){.name = "b", .bytes = 64, .offset = 4096};
    f->steps[0] = (Step){.source = "kernels/a.cu",
                         .entry = "a",
                         .grid = {7, 1, 2},
                         .tokens_per_block = 16,
                         .kernel_index = 0,
                         .operand_count = 4,
                         .operands = {{OPERAND_ADDRESS, REGION_WEIGHTS, 1LL << 33, -1, false},
                                      {OPERAND_BUFFER, REGION_ARENA, 8, 1, false},
                                      {OPERAND_TOKENS, 0, 0, -1, false},
                                      {OPERAND_INT, 0, -5, -1, false}}};
    f->steps[1] = (Step){.source = "kernels/b.cu",
                         .entry = "b",
                         .grid = {132, 3, 1},
                         .kernel_index = 1,
                         .operand_count = 2,
                         .operands = {{OPERAND_ADDRESS, REGION_BATCH, 12, -1, false},
                                      {OPERAND_ADDRESS, REGION_KV, 0, -1, false}}};
    f->kernels[0] = &f->steps[0];
    f->kernels[1] = &f->steps[1];
    const PhasePlan decode = {.phase = PHASE_DECODE,
                              .steps = f->steps,
                              .step_count = 2,
                              .buffers = f->buffers,
                              .buffer_count = 2};
    f->phases[0] = f->phases[1] = f->phases[2] = decode;
    f->phases[0].max_tokens = 16;
    f->phases[1].max_tokens = 4;
    f->phases[2] = (PhasePlan){.phase = PHASE_PREFILL, .max_tokens = 100};
    f->plan = (Plan){.target = &gpu,
                     .graph = &f->graph,
                     .phases = f->phases,
                     .phase_count = 3,
                     .kernels = f->kernels,
                     .kernel_count = 2,
                     .arena = &f->arena};
}

// One gather, which takes three pointers.
static void cpu_plan(Fixture *f) {
    f->steps[0] = (Step){.source = "cpu_rows",
                         .entry = "gather",
                         .operand_count = 3,
                         .operands = {{OPERAND_ADDRESS, REGION_ARENA, 0, -1, false},
                                      {OPERAND_ADDRESS, REGION_BATCH, 0, -1, false},
                                      {OPERAND_ADDRESS, REGION_ARENA, 4096, -1, false}}};
    params_set(&f->steps[0].params, "WIDTH", 32);
    f->kernels[0] = &f->steps[0];
    f->phases[0] =
        (PhasePlan){.phase = PHASE_HEAD, .max_tokens = 4, .steps = f->steps, .step_count = 1};
    f->plan = (Plan){.target = &cpu,
                     .graph = &f->graph,
                     .phases = f->phases,
                     .phase_count = 1,
                     .kernels = f->kernels,
                     .kernel_count = 1,
                     .arena = &f->arena};
}

static bool make(Fixture *f, const char *triple) {
    const Plan *plan = &f->plan;
    return host_object_make(&f->object, &plan, 1, triple, NULL, &f->arena, &f->err);
}

static int fixture_open(void **state) {
    *state = calloc(1, sizeof(Fixture));
    return 0;
}

static int fixture_close(void **state) {
    Fixture *f = *state;
    arena_free(&f->arena);
    free(f);
    return 0;
}

static void cuda_step_run(const StepEntry *entry, StepRun *run, int32_t expected) {
    CudaStep *step;
    memcpy(&step, &entry->function, sizeof step);
    assert_int_equal(step(run), expected);
}

static void test_cuda_steps(void **state) {
    Fixture *f = *state;
    gpu_plan(f);
    assert_true(make(f, "x86_64-linux-gnu"));
    HostModule m;
    assert_true(host_module_open(&m, f->object));
    assert_int_equal(m.step_count, 3);
    assert_int_equal(m.steps[0].phase, PHASE_PREFILL);
    assert_int_equal(m.steps[1].max_tokens, 4);
    assert_int_equal(m.steps[2].max_tokens, 16);
    assert_string_equal(m.steps[2].target, "sm_90a");
    Log log = {.fail_at = -1};
    StepRun run = {.tokens = 11, .device = &log};
    for (int region = 0; region < REGION_COUNT; region++) // never read by the host
        run.base[region] = (unsigned char *)(uintptr_t)(0x700000000000 + region * 0x1000000);
    cuda_step_run(&m.steps[0], &run, 0);
    assert_int_equal(log.count, 0);
    cuda_step_run(&m.steps[2], &run, 0);
    assert_int_equal(log.count, 2);
    const LaunchSpec first = {0, {7, 1, 2}, 16, 4}, second = {1, {132, 3, 1}, 0, 2};
    assert_memory_equal(&log.launches[0].spec, &first, sizeof first);
    assert_memory_equal(&log.launches[1].spec, &second, sizeof second);
    assert_true(log.launches[0].arguments[0] == 0x700000000000 + (1ULL << 33));
    assert_true(log.launches[0].arguments[1] == 0x700001000000 + 4096 + 8);
    assert_true(log.launches[0].arguments[2] == 11);
    assert_true(log.launches[0].arguments[3] == (uint64_t)-5);
    assert_true(log.launches[1].arguments[0] == 0x700003000000 + 12);
    assert_true(log.launches[1].arguments[1] == 0x700002000000);
    log = (Log){.fail_at = 0}; // the error comes back at once
    cuda_step_run(&m.steps[2], &run, 700);
    assert_int_equal(log.count, 1);
    host_module_close(&m);
}

static void test_cpu_step(void **state) {
    Fixture *f = *state;
    cpu_plan(f);
    if (!level_runs(&cpu)) {
        print_message("skipped: this machine does not run x86-64-v3\n");
        skip();
    }
    assert_true(make(f, "x86_64-linux-gnu"));
    HostModule m;
    assert_true(host_module_open(&m, f->object));
    float rows[2048];
    int32_t wanted[4] = {3, 0, 2, 2};
    for (int at = 0; at < 2048; at++)
        rows[at] = (float)at;
    StepRun run = {.base = {NULL, (unsigned char *)rows, NULL, (unsigned char *)wanted},
                   .tokens = 4,
                   .threads = 3};
    host_run(&m.steps[0], &run);
    for (int row = 0; row < 4; row++)
        for (int at = 0; at < 32; at++)
            assert_true(rows[1024 + row * 32 + at] == (float)(wanted[row] * 32 + at));
    host_module_close(&m);
}

// Of three tensors one is read by a kernel that does not ask for it.
static void test_ready(void **state) {
    Fixture *f = *state;
    cpu_plan(f);
    f->packed[0] = (PackedTensor){.offset = 0, .bytes = 100};
    f->packed[1] = (PackedTensor){.offset = 256, .bytes = 300};
    f->packed[2] = (PackedTensor){.offset = 768, .bytes = 8};
    f->graph = (Graph){.packed = f->packed, .packed_count = 3};
    f->steps[0].operands[0] = (Operand){OPERAND_ADDRESS, REGION_WEIGHTS, 0, -1, true};
    f->steps[0].operands[2] = (Operand){OPERAND_ADDRESS, REGION_WEIGHTS, 256, -1, true};
    f->steps[1] = f->steps[0];
    f->steps[1].operands[0] = (Operand){OPERAND_ADDRESS, REGION_WEIGHTS, 256, -1, false};
    f->steps[1].operands[2] = (Operand){OPERAND_ADDRESS, REGION_WEIGHTS, 768, -1, true};
    f->phases[1] = f->phases[0];
    f->phases[1].steps = &f->steps[1];
    f->plan.phase_count = 2;
    assert_true(make(f, "x86_64-linux-gnu"));
    HostModule m;
    assert_true(host_module_open(&m, f->object));
    const ReadyWeights *ready = dlsym(m.library, "model_ready");
    const int32_t *count = dlsym(m.library, "model_ready_count");
    assert_true(ready && count && *count == 2);
    assert_string_equal(ready[0].target, "cpu:x86-64-v3");
    assert_true(ready[0].offset == 0 && ready[0].bytes == 256); // up to the next one
    assert_true(ready[1].offset == 768 && ready[1].bytes == 8);
    host_module_close(&m);
}

static bool contains(Bytes text, const char *word) {
    return memmem(text.data, text.size, word, strlen(word)) != NULL;
}

static void test_same_bytes_no_paths(void **state) {
    Fixture *f = *state;
    cpu_plan(f);
    char folder[4096];
    assert_true(make(f, "x86_64-linux-gnu"));
    const Bytes first = f->object;
    assert_true(make(f, "x86_64-linux-gnu"));
    assert_int_equal(first.size, f->object.size);
    assert_memory_equal(first.data, f->object.data, first.size);
    assert_non_null(getcwd(folder, sizeof folder));
    assert_false(contains(first, folder));
    assert_false(contains(first, "templates/"));
    assert_false(contains(first, "clang"));
}

static void test_aarch64(void **state) {
    enum { ELF_MACHINE = 18, EM_AARCH64 = 183 };
    Fixture *f = *state;
    gpu_plan(f);
    assert_true(make(f, "aarch64-linux-gnu"));
    assert_memory_equal(f->object.data, "\177ELF", 4);
    assert_int_equal(f->object.data[ELF_MACHINE], EM_AARCH64);
    assert_true(contains(f->object, "model_step_count"));
    assert_true(contains(f->object, "cuda_launch"));
}

static void refused(Fixture *f, const char *triple, ErrorCode code, int id, const char *word) {
    memset(&f->err, 0, sizeof f->err);
    assert_false(make(f, triple));
    assert_int_equal(f->err.code, code);
    assert_int_equal(f->err.id, id);
    assert_non_null(strstr(f->err.message, word));
}

static void test_disagreements(void **state) {
    const char *host = "x86_64-linux-gnu";
    Fixture *f = *state;
    cpu_plan(f);
    refused(f, "riscv64-linux-gnu", ERR_UNSUPPORTED, 572, "riscv64-linux-gnu");
    f->steps[0].params.count = 0;
    refused(f, host, ERR_INTERNAL, 562, "WIDTH");
    cpu_plan(f);
    f->steps[0].operand_count = 2;
    refused(f, host, ERR_INTERNAL, 566, "gather");
    cpu_plan(f);
    f->steps[0].operands[1] = (Operand){OPERAND_TOKENS, 0, 0, -1, false};
    refused(f, host, ERR_INTERNAL, 567, "operand 1");
    cpu_plan(f);
    f->steps[0].source = "cpu_nothing";
    refused(f, host, ERR_INTERNAL, 560, "cpu_nothing");
    cpu_plan(f);
    f->steps[0].entry = "nothing";
    refused(f, host, ERR_INTERNAL, 565, "nothing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cuda_steps, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(test_cpu_step, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(test_ready, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(test_same_bytes_no_paths, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(test_aarch64, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(test_disagreements, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Runs steps that the compiler's kernel families lowered, on a GPU or emulated on the CPU
// (tests/simt/simt.h), for tests of kernels: whoever fills the buffers cannot tell the two apart.
#ifndef STEP_LAB_H
#define STEP_LAB_H

#include "compiler/compile.h"
#include "compiler/measure.h"
#include "runtime/step.h"

#include <assert.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAB_GUARD_BYTES = 256, LAB_BUILDS_AT_ONCE = 2 };

typedef struct LabKernel {
    const Step *step;
    int index; // on the GPU: among the distinct ones
    bool (*emulate)(void *entry, const int grid[3], int block, const uint64_t *arguments, int count,
                    bool backwards);
    void *entry; // emulated
    int library; // emulated: index of the first kernel with the same text
    char *text;
} LabKernel;

typedef struct StepLab {
    Arena arena;
    const Target *target;
    Meter *meter;       // NULL: emulated
    bool backwards;     // emulated: threads and blocks run in the other order
    const char *folder; // emulated: where libraries are built
    LabKernel *kernels; // of all steps
    int kernel_count, kernel_capacity;
    Plan distinct;       // on the GPU: the distinct ones
    bool may_spill;      // they are also such as the compiler does not choose
    MeterKernel *loaded; // [distinct.kernel_count]
} StepLab;

// Names the steps of a phase as kernels to be made; returns the index of the first. Buffers get
// offsets one behind the other, with a guard behind each; *bytes: of all.
static inline int lab_phase_add(StepLab *lab, PhasePlan *phase, int64_t *bytes) {
    int first = lab->kernel_count;
    *bytes = 0;
    for (int at = 0; at < phase->buffer_count; at++) {
        phase->buffers[at].offset = *bytes;
        *bytes += (int64_t)round_up((uint64_t)phase->buffers[at].bytes, 256) + LAB_GUARD_BYTES;
    }
    lab->distinct.arena = &lab->arena;
    lab->distinct.target = lab->target;
    for (int at = 0; at < phase->step_count; at++) {
        lab->kernels = array_grow(&lab->arena, lab->kernels, lab->kernel_count,
                                  &lab->kernel_capacity, sizeof *lab->kernels);
        lab->kernels[lab->kernel_count++] = (LabKernel){
            .step = &phase->steps[at], .index = plan_kernel(&lab->distinct, &phase->steps[at])};
    }
    return first;
}

// A call that must not fail.
static inline void lab_expect(bool done, const Error *err) {
    if (done)
        return;
    fprintf(stderr, "%s\n", err->message);
    exit((int)err->code);
}

// ---- on the GPU ---------------------------------------------------------------------------------

// One kernel alone: is it what fails, or goes to local memory?
static inline void lab_cubin_complain(StepLab *lab, int kernel, Cache *cache) {
    Plan alone = lab->distinct;
    Cubin cubin;
    CubinStats stats = {0};
    Error err = {0};
    alone.kernels += kernel;
    alone.kernel_count = 1;
    if (cubins_make(&cubin, &alone, cache, 1, &stats, &lab->arena, &err) && !stats.slow)
        return;
    printf("%s", stats.slow ? stats.slow_note : err.message);
    const Params *params = &alone.kernels[0]->params;
    for (int at = 0; at < params->count; at++)
        printf(" %s=%lld", params->items[at].name, (long long)params->items[at].value);
    puts("");
}

static inline bool lab_make_cubins(StepLab *lab, Error *err) {
    const Plan *plan = &lab->distinct;
    Cubin *cubins = ARENA_NEW(&lab->arena, Cubin, plan->kernel_count);
    Cache *cache;
    CubinStats stats = {0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    TRY(cache_open(&cache, NULL, CACHE_ON, &lab->arena, err));
    bool made = cubins_make(cubins, plan, cache, (int)cores, &stats, &lab->arena, err);
    int slow = stats.slow;
    for (int at = 0; at < plan->kernel_count && (!made || slow); at++)
        lab_cubin_complain(lab, at, cache);
    TRY(made);
    if (slow && !lab->may_spill)
        return fail(err, ERR_INTERNAL, 0, "%d kernels: %s", slow, stats.slow_note);
    printf("%s: %d kernels compiled, %d cached, %d spill, %.1f s\n", lab->target->name,
           stats.compiled, stats.cached, slow, stats.seconds);
    lab->loaded = ARENA_NEW(&lab->arena, MeterKernel, plan->kernel_count);
    for (int at = 0; at < plan->kernel_count && lab->meter; at++)
        TRY(meter_load(lab->meter, &lab->loaded[at], cubins[at].image.data,
                       plan->kernels[at]->entry, plan->kernels[at]->shared_bytes, err));
    return true;
}

// ---- emulated -----------------------------------------------------------------------------------

// `extern __shared__ ALIGN TYPE NAME[];` becomes a pointer to the emulator's block of memory.
static inline char *lab_host_text(const char *text, Arena *a) {
    const char *at = strstr(text, "extern __shared__");
    if (!at)
        return arena_strndup(a, text, strlen(text));
    const char *bracket = strchr(at, '['), *end = strchr(at, ';'), *name = bracket;
    while (name[-1] != ' ')
        name--;
    return arena_printf(a, "%.*su8 *%.*s = simt_dynamic;%s", (int)(at - text), text,
                        (int)(bracket - name), name, end + 1);
}

static inline pid_t lab_build_start(const StepLab *lab, const char *text, int index, Arena *a) {
    char *source = arena_printf(a, "%s/%d.cpp", lab->folder, index);
    char *library = arena_printf(a, "%s/%d.so", lab->folder, index);
    FILE *file = fopen(source, "wb");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        // the emulator stands in front of the text and knows the dtype from here
        const char *dtype = strstr(text, "#define ACT_BF16 1\n") ? "-DACT_BF16=1" : "-DACT_BF16=0";
        execlp("clang++-19", "clang++-19", "-std=c++17", "-O1", "-march=native", "-shared", "-fPIC",
               "-w", "-ffp-contract=off", dtype, "-Ikernels", "-include", "tests/simt/simt.h", "-o",
               library, source, (char *)NULL);
        _exit(127);
    }
    return child;
}

static inline bool lab_build_wait(void) {
    int status = -1;
    return wait(&status) > 0 && status == 0;
}

// False: no C++ compiler, or a kernel that it does not take.
static inline bool lab_build_libraries(StepLab *lab, Error *err) {
    int running = 0;
    bool done = true;
    for (int at = 0; at < lab->kernel_count && done; at++) {
        LabKernel *k = &lab->kernels[at];
        char *text = kernel_source_text(k->step, lab->target, &lab->arena, err);
        if (!text)
            return false;
        k->text = lab_host_text(text, &lab->arena);
        k->library = at;
        for (int other = 0; other < at; other++)
            if (strcmp(lab->kernels[other].text, k->text) == 0)
                k->library = lab->kernels[other].library;
        if (k->library != at)
            continue;
        if (running == LAB_BUILDS_AT_ONCE) {
            done = lab_build_wait();
            running--;
        }
        done = lab_build_start(lab, k->text, at, &lab->arena) > 0 && done;
        running++;
    }
    for (; running > 0; running--)
        done = lab_build_wait() && done;
    return done || fail(err, ERR_TOOLCHAIN, 0, "clang++-19 failed in %s", lab->folder);
}

static inline bool lab_load_libraries(StepLab *lab, Error *err) {
    for (int at = 0; at < lab->kernel_count; at++) {
        LabKernel *k = &lab->kernels[at];
        char *path = arena_printf(&lab->arena, "%s/%d.so", lab->folder, k->library);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        void *launch = library ? dlsym(library, "simt_launch") : NULL;
        k->entry = library ? dlsym(library, k->step->entry) : NULL;
        if (!launch || !k->entry)
            return fail(err, ERR_INTERNAL, 0, "%s: %s", path, dlerror());
        memcpy(&k->emulate, &launch, sizeof launch);
    }
    return true;
}

static inline bool lab_compile(StepLab *lab, Error *err) {
    if (lab->folder)
        return lab_build_libraries(lab, err) && lab_load_libraries(lab, err);
    return lab_make_cubins(lab, err);
}

// ---- memory: an address is one of the device, or a plain pointer --------------------------------

static inline uint64_t lab_alloc(StepLab *lab, size_t bytes) {
    if (lab->meter) {
        Error err;
        uint64_t address;
        lab_expect(meter_alloc(lab->meter, &address, (int64_t)bytes, &err), &err);
        return address;
    }
    void *memory = aligned_alloc(256, round_up(bytes, 256));
    assert(memory);
    return (uint64_t)(uintptr_t)memory;
}

static inline void lab_release(StepLab *lab, uint64_t address) {
    if (lab->meter)
        meter_release(lab->meter, address);
    else
        free((void *)(uintptr_t)address);
}

static inline void lab_fill(StepLab *lab, uint64_t address, unsigned char byte, size_t bytes) {
    Error err;
    if (lab->meter)
        lab_expect(meter_fill(lab->meter, address, byte, (int64_t)bytes, &err), &err);
    else
        memset((void *)(uintptr_t)address, byte, bytes);
}

static inline void lab_upload(StepLab *lab, uint64_t address, const void *data, size_t bytes) {
    Error err;
    if (lab->meter)
        lab_expect(meter_upload(lab->meter, address, data, (int64_t)bytes, &err), &err);
    else
        memcpy((void *)(uintptr_t)address, data, bytes);
}

static inline void lab_download(StepLab *lab, void *data, uint64_t address, size_t bytes) {
    Error err;
    if (lab->meter)
        lab_expect(meter_download(lab->meter, data, address, (int64_t)bytes, &err), &err);
    else
        memcpy(data, (const void *)(uintptr_t)address, bytes);
}

// ---- values and weights -------------------------------------------------------------------------

// The bits of an activation, and what they stand for.
static inline uint16_t lab_act(float x, bool bf16) {
    return bf16 ? bfloat_from_float(x) : half_from_float(x);
}

static inline float lab_act_value(uint16_t act, bool bf16) {
    return bf16 ? bfloat_to_float(act) : half_to_float(act);
}

static inline void lab_values(PhasePlan *phase, const Graph *g, int64_t max_tokens, Arena *a) {
    phase->max_tokens = max_tokens;
    phase->value_buffer = ARENA_NEW(a, int, g->value_count);
    for (int value = 0; value < g->value_count; value++)
        phase->value_buffer[value] = -1;
}

// All packed tensors, at their offsets in `bytes` bytes.
static inline uint64_t lab_weights(StepLab *lab, const Graph *g, int64_t bytes) {
    Arena scratch = {0};
    unsigned char *host = arena_alloc(&scratch, (size_t)bytes + 1);
    for (int at = 0; at < g->packed_count; at++)
        tensor_pack(&g->packed[at], host + g->packed[at].offset);
    uint64_t base = lab_alloc(lab, (size_t)bytes + 256);
    lab_upload(lab, base, host, (size_t)bytes);
    arena_free(&scratch);
    return base;
}

// ---- running ------------------------------------------------------------------------------------

static inline void lab_emulate(const StepLab *lab, const LabKernel *k, const uint64_t *arguments,
                               int64_t tokens) {
    const Step *s = k->step;
    int grid[3] = {s->grid[0], s->grid[1], s->grid[2]};
    if (s->tokens_per_block)
        grid[1] = (int)ceil_div(tokens, s->tokens_per_block);
    if (!k->emulate(k->entry, grid, s->block, arguments, s->operand_count, lab->backwards)) {
        fprintf(stderr, "%s: threads wait for each other\n", s->entry);
        exit(1);
    }
}

// base: by StepRegion.
static inline void lab_step(StepLab *lab, const PhasePlan *phase, int kernel, const uint64_t *base,
                            int64_t tokens) {
    const LabKernel *k = &lab->kernels[kernel];
    uint64_t arguments[STEP_MAX_OPERANDS];
    Error err;
    if (lab->meter) {
        lab_expect(
            meter_step(lab->meter, &lab->loaded[k->index], k->step, phase, base, tokens, &err),
            &err);
        return;
    }
    step_arguments(arguments, k->step, phase, base, tokens);
    lab_emulate(lab, k, arguments, tokens);
}

static inline void lab_phase_run(StepLab *lab, const PhasePlan *phase, int first_kernel,
                                 const uint64_t *base, int64_t tokens) {
    for (int at = 0; at < phase->step_count; at++)
        lab_step(lab, phase, first_kernel + at, base, tokens);
}

#endif

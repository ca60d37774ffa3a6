// What the programs share that check kernels on a GPU and time them in CUDA graphs.
//
//   PROGRAM compile [TARGET ...]  compiles every kernel, needs no GPU; spills are named, and an error
//                                 where all kernels are such as the compiler chooses
//   PROGRAM check                 worst element of every case against its bound
//   PROGRAM time                  shapes of real models
//   PROGRAM                       check, then time
//
// Times are medians of graph replays, divided by the ops in the graph, so they hold the gaps
// between kernels.
#ifndef GPU_BENCH_H
#define GPU_BENCH_H

#include "tests/random_weight.h"
#include "tests/step_lab.h"

enum { BENCH_REPLAYS = 9, BENCH_OPS = 32, BENCH_POOLS_MAX = 64 };

typedef struct BenchProgram {
    void *state;
    size_t state_bytes;
    void (*add)(void *state, StepLab *lab, bool check, bool time); // names all kernels
    int (*check)(void *state, StepLab *lab);                       // returns the failures
    void (*time)(void *state, StepLab *lab);                       // NULL: it only checks
} BenchProgram;

// ---- times --------------------------------------------------------------------------------------

typedef struct Timing {
    StepLab *lab;
    const PhasePlan *phase;
    int first_kernel, only; // only >= 0: this step alone
    int64_t tokens;
    uint64_t base[REGION_COUNT];
    uint64_t pools[BENCH_POOLS_MAX]; // KV caches in turn, if any
    int pool_count, ops;
} Timing;

static inline bool timing_enqueue(void *user, Error *err) {
    Timing *t = user;
    (void)err; // lab_step ends the program
    for (int op = 0; op < t->ops; op++) {
        if (t->pool_count)
            t->base[REGION_KV] = t->pools[op % t->pool_count];
        if (t->only >= 0)
            lab_step(t->lab, t->phase, t->first_kernel + t->only, t->base, t->tokens);
        else
            lab_phase_run(t->lab, t->phase, t->first_kernel, t->base, t->tokens);
    }
    return true;
}

static inline double timing_us(Timing *t) {
    double us;
    Error err;
    lab_expect(meter_graph(t->lab->meter, timing_enqueue, t, BENCH_REPLAYS, &us, &err), &err);
    return us / t->ops;
}

// A block of random halves, repeated.
static inline void bench_fill(StepLab *lab, uint64_t address, int64_t bytes) {
    enum { BLOCK = 1 << 20 };
    uint16_t *block = malloc(BLOCK);
    assert(block);
    Random r = {.state = 8};
    for (int at = 0; at < BLOCK / 2; at++)
        block[at] = half_from_float(random_uniform(&r, -1.7f, 1.7f));
    for (int64_t at = 0; at < bytes; at += BLOCK)
        lab_upload(lab, address + (uint64_t)at, block,
                   (size_t)(bytes - at < BLOCK ? bytes - at : BLOCK));
    free(block);
}

// ---- main ---------------------------------------------------------------------------------------

// By name, or by compute capability.
static inline const Target *bench_target(const char *name, int major, int minor) {
    for (int at = 0; at < target_count; at++) {
        const Target *t = &target_table[at];
        if (t->device == DEVICE_CUDA &&
            (name ? strcmp(t->name, name) == 0
                  : t->compute_major == major && t->compute_minor == minor))
            return t;
    }
    return NULL;
}

static inline int bench_compile(const BenchProgram *p, StepLab *lab, int count, char **names) {
    static const char *const all[] = {"sm_80",  "sm_86",   "sm_87",  "sm_89",
                                      "sm_90a", "sm_100a", "sm_120a"};
    int total = count ? count : (int)(sizeof all / sizeof *all);
    for (int at = 0; at < total; at++) {
        Error err;
        memset(p->state, 0, p->state_bytes);
        memset(lab, 0, sizeof *lab);
        lab->target = bench_target(count ? names[at] : all[at], 0, 0);
        if (!lab->target) {
            fprintf(stderr, "unknown target\n");
            return 2;
        }
        p->add(p->state, lab, true, true);
        if (!lab_compile(lab, &err)) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        arena_free(&lab->arena);
    }
    return 0;
}

static inline int bench_main(const BenchProgram *p, int argc, char **argv) {
    StepLab *lab = calloc(1, sizeof *lab);
    int major, minor;
    Error err;
    const char *word = argc > 1 ? argv[1] : "";
    assert(lab);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(word, "compile") == 0)
        return bench_compile(p, lab, argc - 2, argv + 2);
    if (!meter_compute_capability(&major, &minor)) {
        puts("skipped: no GPU or no driver");
        return 0;
    }
    lab->target = bench_target(NULL, major, minor);
    if (!lab->target) {
        fprintf(stderr, "no target for compute capability %d.%d\n", major, minor);
        return 3;
    }
    lab_expect(meter_open(&lab->meter, &lab->arena, &err), &err);
    bool check = strcmp(word, "time") != 0, time = p->time && strcmp(word, "check") != 0;
    p->add(p->state, lab, check, time);
    lab_expect(lab_compile(lab, &err), &err);
    int bad = check ? p->check(p->state, lab) : 0;
    if (time) {
        printf("%s, read rate %.0f GB/s, dense peak %.0f TFLOP/s\n", meter_device(lab->meter),
               lab->target->bandwidth_gbs, lab->target->tensor_tflops);
        p->time(p->state, lab);
    }
    meter_close(lab->meter);
    return bad ? 8 : 0;
}

// main() of a program whose state is a State.
#define BENCH_MAIN(State, add_, check_, time_)                                    \
    int main(int argc, char **argv) {                                             \
        static State state;                                                       \
        const BenchProgram program = {&state, sizeof state, add_, check_, time_}; \
        return bench_main(&program, argc, argv);                                  \
    }

#endif

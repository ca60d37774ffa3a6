// Measured choices: the file that holds them (tuning.c) and the measurement itself (tune.c).
#ifndef TUNING_H
#define TUNING_H

#include "compile.h"

enum { TUNING_OP_BYTES = 192 };

typedef struct TuningEntry {
    const char *target;  // "sm_90a"
    const char *sources; // hash of the kernels that were measured
    const char *op;      // what tuning_op says
    const char *kernel, *variant;
    const char *device; // "NVIDIA H200"
    int64_t tokens;
    double us;
    bool used; // by this compile
} TuningEntry;

typedef struct Tuning {
    TuningEntry *entries;
    int count, capacity;
    const char *sources; // hash of the kernels that this compiler carries
    Arena *arena;
} Tuning;

void tuning_open(Tuning *out, Arena *a);
// Adds the choices of a file. *found = false: there is no file, which is no error here. ERR_CORRUPT.
bool tuning_read(Tuning *out, const char *path, bool *found, Error *err);
bool tuning_write(const Tuning *t, const char *path, Error *err);
// One line: how many of its choices served.
void tuning_note(const Tuning *t, const char *path, FILE *out);

// The op as a key: "28672x4096 4-bit g128, norm, act_mul silu, fp16". false: an op that is not
// measured.
bool tuning_op(char out[TUNING_OP_BYTES], const Graph *g, const Op *op);
// A new entry of this compiler's kernels, to be filled.
TuningEntry *tuning_add(Tuning *t);
// NULL: it was not measured with these kernels.
TuningEntry *tuning_find(const Tuning *t, const char *target, const char *op, int64_t tokens);

// Gives the candidate that was measured as the fastest for this problem its measured time.
void tuning_apply(const Tuning *t, const Problem *p, KernelChoices *all);

// tune.c: times all candidates of every linear layer and bucket of the plan that `t` does not know
// yet, on the GPU of this machine, and adds the fastest of each. The plan's target must be that
// GPU's. threads: for NVRTC. *measured: how many were added.
bool tune_measure(Tuning *t, Plan *p, Cache *cache, int threads, Progress *progress, int *measured,
                  Error *err);

#endif

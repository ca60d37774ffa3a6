// The GPU of this machine, as far as timing kernels needs one: --tune measure and
// tests/gpu_kernels_bench.c. The compiler itself needs no GPU.
#ifndef MEASURE_H
#define MEASURE_H

#include "compile.h"

typedef struct Meter Meter; // one device with its context and one stream

// The compute capability of the first GPU; false: there is no driver or no device.
bool meter_compute_capability(int *major, int *minor);

// Opens the first GPU. ERR_DEVICE where there is none.
bool meter_open(Meter **out, Arena *a, Error *err);
// Releases the device and all that was allocated or loaded. NULL is allowed.
void meter_close(Meter *m);
const char *meter_device(const Meter *m); // "NVIDIA H200"
int meter_driver_version(const Meter *m); // 13000
int meter_multiprocessors(const Meter *m);
void *meter_stream(const Meter *m);

// Device memory of `bytes` > 0, until meter_release or meter_close.
bool meter_alloc(Meter *m, uint64_t *address, int64_t bytes, Error *err);
void meter_release(Meter *m, uint64_t address);
// These four are ordered with the kernels; upload and download are done when they return.
bool meter_upload(Meter *m, uint64_t to, const void *from, int64_t bytes, Error *err);
bool meter_download(Meter *m, void *to, uint64_t from, int64_t bytes, Error *err);
bool meter_copy(Meter *m, uint64_t to, uint64_t from, int64_t bytes, Error *err);
bool meter_fill(Meter *m, uint64_t to, unsigned char value, int64_t bytes, Error *err);

typedef struct MeterKernel {
    struct CUmod_st *module;
    struct CUfunc_st *function;
} MeterKernel;

// image: a cubin or PTX text; shared_bytes: dynamic, of one block.
bool meter_load(Meter *m, MeterKernel *out, const void *image, const char *entry, int shared_bytes,
                Error *err);
void meter_unload(Meter *m, MeterKernel *kernel);

// A launch by hand, without dynamic shared memory: `count` arguments of 8 bytes.
bool meter_launch(Meter *m, const MeterKernel *kernel, const int grid[3], int block,
                  const uint64_t *arguments, int count, Error *err);
// What the kernel of a step takes: arguments[operand_count]. The phase's buffers have offsets; base:
// addresses by StepRegion; tokens: of this launch.
void step_arguments(uint64_t arguments[STEP_MAX_OPERANDS], const Step *step, const PhasePlan *phase,
                    const uint64_t *base, int64_t tokens);
// The same, launched.
bool meter_step(Meter *m, const MeterKernel *kernel, const Step *step, const PhasePlan *phase,
                const uint64_t *base, int64_t tokens, Error *err);
bool meter_wait(Meter *m, Error *err);

enum { METER_REPLAYS_MAX = 32 };

// Median microseconds of `replays` (1 to METER_REPLAYS_MAX) runs of what `enqueue` puts on the
// stream, recorded as one CUDA graph; one more run before them warms up.
bool meter_graph(Meter *m, bool (*enqueue)(void *user, Error *err), void *user, int replays,
                 double *us, Error *err);

#endif

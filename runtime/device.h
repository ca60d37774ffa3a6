// Where steps run. Both back ends do the same on the same batch block, so the engine above does not
// know which one it drives.
#ifndef DEVICE_H
#define DEVICE_H

#include "executable.h"
#include "step.h"

typedef struct DeviceOptions {
    int index;         // CUDA: which GPU
    int threads;       // CPU: 0 = all cores
    int64_t kv_tokens; // room of the KV cache, over all sequences; 0 = for a full batch
    bool kv_required;  // less will not do: ERR_RESOURCE; else take what fits
    int64_t context;   // tokens of one sequence at most; 0 = max_seq_len of the model
    bool check_first;  // all weights before it opens; else each page before its first use
} DeviceOptions;

typedef struct Device Device;

// How the weights came onto a device that has memory of its own.
typedef struct LoadTimes {
    int64_t bytes;
    double seconds; // all of it, checks included
    double read_s;  // of these: the file was read and checked
    double wait_s;  // of these: waited for copies to the device
    int threads;    // that read
} LoadTimes;

// What the same bytes take at least.
typedef struct LoadLimits {
    double read_s; // a plain read of the file by as many threads
    double copy_s; // a plain copy from pinned memory to the device; 0: there is none
} LoadLimits;

// What the system says that the device's memory lost while it was opened: the GPU's driver, or this
// process's size. Without weights that are mapped.
typedef struct DeviceMemory {
    int64_t taken; // bytes; -1: not known
    int64_t page;  // in whole pages of so many bytes
    int pieces;    // allocations, each of which may begin a page
} DeviceMemory;

typedef struct DeviceType {
    const char *name; // "cpu", "cuda"
    bool queues;      // run and decode may return before they are done: upload keeps their order
    // batch: the host's batch block (executable.batch), which outlives the device.
    bool (*open)(Device **out, const Executable *e, unsigned char *batch, const DeviceOptions *o,
                 Error *err);
    void (*close)(Device *d);
    // Nothing of this kind is in this machine, nor a driver for it. NULL: there always is one.
    bool (*absent)(void);
    // What open would run, in words: "NVIDIA H200, cuda:0: sm_90a, made for ..." in text[size].
    bool (*choice)(const Executable *e, const DeviceOptions *o, char *text, size_t size,
                   Error *err);
    // The calling thread is the one that runs steps from now on.
    bool (*attach)(Device *d, Error *err);
    // The host changed bytes [offset, offset + size) of the batch block.
    bool (*upload)(Device *d, int64_t offset, int64_t size, Error *err);
    // Runs one phase over `rows` rows of the batch block (PREFILL: tokens; HEAD, SAMPLE: head
    // rows).
    bool (*run)(Device *d, StepPhase phase, int32_t rows, Error *err);
    // DECODE and SAMPLE of `rows` rows; on a GPU one graph launch. drafts: some slots have several
    // rows, one behind the other; there are same_rows rows at most, and those behind stand for no
    // sequence, up to that number.
    bool (*decode)(Device *d, int32_t rows, bool drafts, Error *err);
    // The first `rows` rows of logits, fp32 [rows, vocab_size].
    bool (*logits)(Device *d, int32_t rows, float *out, Error *err);
    // Waits; copies bytes [offset, offset + size) of the batch block to the host's block: at most
    // drawn[], sampled[] and results[] together.
    bool (*download)(Device *d, int64_t offset, int64_t size, Error *err);
    bool (*wait)(Device *d, Error *err);
    // Seconds that a plain read of `bytes` of the device's memory takes, best of a few. What it
    // measured is said in *how. bytes is at most the size of the weights.
    bool (*read_seconds)(Device *d, int64_t bytes, double *seconds, const char **how, Error *err);
    // Measures them. NULL: weights are mapped.
    bool (*load_limits)(Device *d, LoadLimits *out, Error *err);
} DeviceType;

// Every back end's struct starts with this.
struct Device {
    const DeviceType *type;
    const TargetInfo *target; // what of the file runs here
    char description[128];    // "AMD EPYC, 2 threads", "NVIDIA H200, cuda:0"
    char reason[160];         // why that target: "made for compute capability 9.0"
    int64_t kv_pages;         // with page 0
    LoadTimes load;           // zeros: weights are mapped
    DeviceMemory memory;
};

extern const DeviceType device_cpu, device_cuda;

// Pages of the KV cache, page 0 included, where `fit` pages have room. ERR_RESOURCE.
bool device_kv_pages(int64_t *pages, const ModelInfo *m, const DeviceOptions *o, int64_t fit,
                     Error *err);
// The best CPU target of this file that this processor runs; NULL: none (device_cpu.c).
const char *cpu_target_name(const Executable *e);
// The first step function of a target and phase that takes `rows` rows; NULL: none.
const StepEntry *step_find(const char *target, StepPhase phase, int32_t rows);

#endif

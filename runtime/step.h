// The contract between generated code and the runtime. The compiler emits one step function per
// (target, phase): straight-line calls of kernels with every address as region + constant. It is
// included by templates/ (whose bitcode the compiler specializes) and by runtime/.
#ifndef STEP_H
#define STEP_H

#include <stdint.h>

typedef enum StepRegion { // ORDER REGIONS (compiler/compile.h uses the same numbers)
    REGION_WEIGHTS, // SEGMENT_WEIGHTS
    REGION_ARENA,   // activations, logits
    REGION_KV,      // KV pages
    REGION_BATCH,   // BatchLayout
    REGION_COUNT,
} StepRegion;

typedef enum StepPhase { // ORDER PHASES
    PHASE_PREFILL, // runs of tokens, each of a sequence; leaves hidden states in the arena
    PHASE_HEAD,    // logits of head_rows[0 .. rows)
    PHASE_SAMPLE,  // draws `rows` tokens from those logits into sampled[head_slots[row]]
    PHASE_DECODE,  // one token for each of `tokens` rows: embed, layers, head (row r = slot row)
    PHASE_COUNT,
} StepPhase;

// One run of a step function. On the GPU the bases are device addresses.
typedef struct StepRun StepRun;
struct StepRun {
    unsigned char *base[REGION_COUNT];
    int32_t tokens;  // rows of this step (M); in PHASE_HEAD and PHASE_SAMPLE: head rows
    int32_t threads; // CPU: threads that run the step function together
    void *device;    // CPU: the barrier's state; CUDA: the device (device_cuda.c)
    // CPU: kernels ask for weights right before they read them: bytes [from, from + least), and up to
    // [from, from + most) if that costs nothing. Returns how many they may read. NULL: all of them.
    int64_t (*ready)(const StepRun *run, const unsigned char *from, int64_t least, int64_t most);
    void *checks; // CPU: of `ready` (page_checks.c)
};

// ---- CPU: every thread calls the same step function ---------------------------------------------

typedef void CpuStep(const StepRun *run, int32_t thread);

// All writes of all threads before it are visible to all threads after it. In the runtime.
void cpu_barrier(const StepRun *run, int32_t thread);

// ---- CUDA: the step function enqueues launches --------------------------------------------------

// Compute capability from which a kernel may start before the one in front of it has ended
// (programmatic dependent launch).
enum { STEP_OVERLAP_MAJOR = 9 };

typedef struct LaunchSpec {
    int32_t kernel;  // index among the kernels of the target (TargetInfo.first_kernel + kernel)
    int32_t grid[3];
    int32_t tokens_per_block; // > 0: grid[1] is ceil(run->tokens / tokens_per_block)
    int32_t argument_count;
} LaunchSpec;

// Enqueues one kernel on the device's stream; `arguments` are 8-byte slots. Returns 0, or the
// driver's error code, which the step function returns at once.
int32_t cuda_launch(const StepRun *run, const LaunchSpec *spec, const uint64_t *arguments);

typedef int32_t CudaStep(const StepRun *run);

// ---- the table that the generated object exports ------------------------------------------------

typedef struct StepEntry {
    const char *target;   // TargetInfo.name
    int32_t phase;        // StepPhase
    int32_t max_tokens;   // largest run->tokens that this function takes; the runtime picks the
                          // first entry of a (target, phase) whose max_tokens is enough
    void (*function)(void); // CpuStep or CudaStep
} StepEntry;

extern const StepEntry model_steps[];
extern const int32_t model_step_count;

// Weights that all kernels of a CPU target ask for (StepRun.ready), by offset. What else there is must
// be right before the first step.
typedef struct ReadyWeights {
    const char *target;    // TargetInfo.name
    int64_t offset, bytes; // in REGION_WEIGHTS; with what fills up to the next tensor
} ReadyWeights;

extern const ReadyWeights model_ready[];
extern const int32_t model_ready_count;

#endif

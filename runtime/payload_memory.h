// How much memory a run takes, for the compiler (--max-memory) and the runtime (`info`): the same
// numbers as the allocations of device_cpu.c, device_cuda.c and engine.c, from which a test counts
// them. Not counted: the driver's own context (some 0.5 GB on a GPU), code, and what requests hold.
#ifndef PAYLOAD_MEMORY_H
#define PAYLOAD_MEMORY_H

#include "payload.h"

typedef struct MemoryUse {
    int64_t weights; // CUDA: a copy on the device; CPU: the mapping of the file, shared
    int64_t arena, kv, batch;
    int64_t device_bytes; // CUDA: of the GPU; CPU: all of the above
    int64_t host_bytes;   // besides: the engine's blocks, and CUDA's pinned memory while it loads
} MemoryUse;

enum { MEMORY_STAGE_BYTES = 2 * 16 * PAYLOAD_PAGE_BYTES }; // device_cuda_load.c: two pinned buffers
enum { MEMORY_SAMPLER_BYTES = 16 + 4 };                    // device_cpu.c: a candidate, a score

// device_cuda.c: pinned memory for what comes back of the batch block.
static inline int64_t memory_back_bytes(const ModelInfo *m) {
    BatchLayout b = batch_layout(m);
    int64_t drawn = b.results + m->max_batch_size * (int64_t)sizeof(SampleResult) - b.sampled;
    return drawn > m->max_head_rows * 4 ? drawn : m->max_head_rows * 4;
}

// For `sequences` sequences of `context` tokens each.
static inline MemoryUse memory_use(const ModelInfo *m, TargetDevice device, int64_t context,
                                   int64_t sequences) {
    int64_t pages = 1 + sequences * ceil_div(context, m->page_tokens);
    int64_t logits = m->max_head_rows * m->vocab_size * (int64_t)sizeof(float);
    MemoryUse use = {.weights = m->weights_bytes,
                     .arena = m->arena_bytes,
                     .kv = pages * m->kv_page_bytes,
                     .batch = batch_layout(m).bytes};
    use.device_bytes = use.weights + use.arena + use.kv + use.batch;
    use.host_bytes = logits;
    if (device == DEVICE_CUDA)
        use.host_bytes += use.batch + MEMORY_STAGE_BYTES + memory_back_bytes(m);
    else
        use.host_bytes += m->vocab_size * MEMORY_SAMPLER_BYTES;
    return use;
}

// The rows of tables: contexts by powers of two down from the longest, batches likewise.
enum { MEMORY_ROWS = 4 };

// The r-th of MEMORY_ROWS values: most, then a quarter of it each time, at least 1.
static inline int64_t memory_step(int64_t most, int r) {
    int64_t value = most >> (2 * r);
    return value > 1 ? value : 1;
}

// The most sequences of `context` tokens that fit into `limit` bytes of the device; 0: none.
static inline int64_t memory_fit(const ModelInfo *m, TargetDevice device, int64_t context,
                                 int64_t limit) {
    int64_t per_sequence = ceil_div(context, m->page_tokens) * m->kv_page_bytes;
    int64_t fixed = memory_use(m, device, context, 0).device_bytes;
    return limit < fixed ? 0 : (limit - fixed) / per_sequence;
}

#endif

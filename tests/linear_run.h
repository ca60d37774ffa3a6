// Runs a lowered linear (linear_lab.h) in a StepLab, on a GPU or emulated, and compares what it
// gives.
#ifndef LINEAR_RUN_H
#define LINEAR_RUN_H

#include "tests/linear_check.h"
#include "tests/step_lab.h"

// Memory of the runs of one Lab, by StepRegion.
typedef struct LinearMemory {
    uint64_t base[REGION_COUNT];
    size_t kv_bytes;
} LinearMemory;

// arena_bytes: of the largest run.
static inline LinearMemory linear_memory(StepLab *s, const Lab *lab, const Data *d,
                                         int64_t arena_bytes) {
    const BatchLayout *batch = &lab->plan.batch;
    LinearMemory m = {.kv_bytes = (size_t)(LAB_PAGES * lab->plan.info.kv_page_bytes)};
    m.base[REGION_WEIGHTS] = lab_weights(s, &lab->graph, lab->weights_bytes);
    m.base[REGION_ARENA] = lab_alloc(s, (size_t)arena_bytes);
    m.base[REGION_KV] = lab_alloc(s, m.kv_bytes + 1);
    m.base[REGION_BATCH] = lab_alloc(s, (size_t)batch->bytes);
    uint64_t block = m.base[REGION_BATCH];
    lab_upload(s, block + (uint64_t)batch->positions, d->positions, sizeof d->positions);
    lab_upload(s, block + (uint64_t)batch->slots, d->slots, sizeof d->slots);
    lab_upload(s, block + (uint64_t)batch->page_table, d->table, sizeof d->table);
    return m;
}

static inline void linear_release(StepLab *s, const LinearMemory *m) {
    for (int region = 0; region < REGION_COUNT; region++)
        lab_release(s, m->base[region]);
}

static inline uint64_t linear_value(const Run *run, const LinearMemory *m, int value) {
    const PhasePlan *phase = &run->phase;
    return m->base[REGION_ARENA] + (uint64_t)phase->buffers[phase->value_buffer[value]].offset;
}

// Poisons everything that a run may write, then writes what it reads.
static inline void linear_inputs(StepLab *s, const Run *run, const Data *d, const LinearMemory *m,
                                 int64_t tokens) {
    const Lab *lab = run->lab;
    int64_t width = lab->graph.values[lab->x].width;
    lab_fill(s, m->base[REGION_ARENA], 0xff, (size_t)run->arena_bytes);
    for (int at = 0; at < run->phase.buffer_count; at++) {
        const Buffer *b = &run->phase.buffers[at];
        if (b->persistent) // counts
            lab_fill(s, m->base[REGION_ARENA] + (uint64_t)b->offset, 0, (size_t)b->bytes);
    }
    lab_fill(s, m->base[REGION_KV], 0xff, m->kv_bytes + 1);
    if (lab->norm)
        lab_upload(s, linear_value(run, m, lab->x), d->x, (size_t)(tokens * width * 4));
    else
        lab_upload(s, linear_value(run, m, lab->x), d->x_half, (size_t)(tokens * width * 2));
    if (lab->residual >= 0)
        lab_upload(s, linear_value(run, m, lab->residual), d->residual,
                   (size_t)(tokens * lab->graph.values[lab->residual].width * 4));
}

// One run, compared. What it gave stands in the arena.
static inline Result linear_run(StepLab *s, const Run *run, const Data *d, const LinearMemory *m,
                                int64_t tokens, Arena *a) {
    Result r = {.arena = arena_alloc(a, (size_t)run->arena_bytes),
                .kv = arena_alloc(a, m->kv_bytes + 1)};
    linear_inputs(s, run, d, m, tokens);
    lab_phase_run(s, &run->phase, run->first_kernel, m->base, tokens);
    lab_download(s, r.arena, m->base[REGION_ARENA], (size_t)run->arena_bytes);
    lab_download(s, r.kv, m->base[REGION_KV], m->kv_bytes + 1);
    compare_all(run, d, &r, tokens);
    return r;
}

#endif

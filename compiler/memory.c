// Where each buffer of a step lies in the arena.
//
// A phase is a straight line, so a buffer lives from the first step that names it to the last.
// Buffers are placed in the order in which they were made, each at the lowest offset where no buffer
// alive at the same time is in the way (first fit). The persistent ones stand in front: they have
// the same offsets in every phase, because one phase leaves what the next one reads.
// Non-goal: an optimal packing; activations are small next to the weights.
#include "compile.h"

enum { BUFFER_ALIGN = 256 };

static bool alive_together(const Buffer *a, const Buffer *b) {
    return a->first_step <= b->last_step && b->first_step <= a->last_step;
}

static int64_t aligned_end(const Buffer *b) {
    return (int64_t)round_up((uint64_t)(b->offset + b->bytes), BUFFER_ALIGN);
}

// The lowest offset at or above `floor` for buffer `index`; buffers before it are placed. Moving up
// to the end of a buffer in the way may meet one that was passed already, hence the restart.
static int64_t first_fit(const PhasePlan *phase, int index, int64_t floor) {
    const Buffer *b = &phase->buffers[index];
    int64_t offset = floor;
    for (int at = 0; at < index; at++) {
        const Buffer *placed = &phase->buffers[at];
        if (placed->persistent || !alive_together(placed, b) ||
            offset + b->bytes <= placed->offset || offset >= aligned_end(placed))
            continue;
        offset = aligned_end(placed);
        at = -1;
    }
    return offset;
}

// Returns the end of the highest buffer.
static int64_t phase_place(PhasePlan *phase) {
    int64_t floor = 0, end = 0;
    for (int at = 0; at < phase->buffer_count; at++) {
        Buffer *b = &phase->buffers[at];
        if (b->persistent) {
            b->offset = floor;
            floor = aligned_end(b);
        } else {
            b->offset = first_fit(phase, at, floor);
        }
        if (aligned_end(b) > end)
            end = aligned_end(b);
    }
    return end;
}

void memory_plan(Plan *p) {
    p->info.arena_bytes = 0;
    for (int at = 0; at < p->phase_count; at++) {
        int64_t end = phase_place(&p->phases[at]);
        if (end > p->info.arena_bytes)
            p->info.arena_bytes = end;
    }
}

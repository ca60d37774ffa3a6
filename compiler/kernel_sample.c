// Sampling on a GPU: the three entries of kernels/sample.cu, one after the other.
#include "compile.h"

#include "../runtime/step.h"

enum {
    CHUNK_TOKENS = 4096, // ORDER CHUNK (kernels/sample.cu)
    CHUNK_BYTES = 4128,
    CHUNK_THREADS = 256,
    DRAW_THREADS = 512,
};

static Step *sample_step(Plan *plan, PhasePlan *phase, const char *entry, const Params *params,
                         int chunks, int threads) {
    Step *s = plan_step(plan, phase, NULL, "kernels/sample.cu", entry, params);
    s->grid[0] = chunks;
    s->grid[1] = s->grid[2] = 1;
    s->tokens_per_block = 1; // a row of blocks per head row
    s->block = threads;
    double bytes = (double)(plan->info.max_head_rows * plan->info.vocab_size * 4);
    s->cost =
        (Cost){.bytes = bytes,
               .us = 2 * plan->target->launch_us + bytes / (plan->target->bandwidth_gbs * 1e3)};
    return s;
}

// What all three begin with: logits, what slots have, scratch.
static void sample_operands(Plan *plan, PhasePlan *phase, Step *s, int scratch) {
    const BatchLayout *b = &plan->batch;
    const int64_t of_slots[] = {b->sample, b->head_slots, b->seen,  b->mask,
                                b->biased, b->bias,       b->counts};
    step_value(plan, phase, s, plan->graph->logits);
    for (size_t at = 0; at < sizeof of_slots / sizeof *of_slots; at++)
        step_address(s, REGION_BATCH, of_slots[at]);
    step_buffer(phase, s, scratch, 0);
}

void kernel_sample_lower(Plan *plan, PhasePlan *phase) {
    const ModelInfo *m = &plan->info;
    int chunks = (int)ceil_div(m->vocab_size, CHUNK_TOKENS);
    int scratch =
        plan_buffer(plan, phase, "sample_chunks", m->max_head_rows * chunks * CHUNK_BYTES);
    Params params = {0};
    params_set(&params, "VOCAB", m->vocab_size);
    params_set(&params, "SEEN_WORDS", plan->batch.seen_words);
    params_set(&params, "ROWS", m->max_num_tokens);
    params_set(&params, "MAX_BIAS", SAMPLE_MAX_BIAS);
    params_set(&params, "MAX_TOP", SAMPLE_MAX_TOP);
    static const char *const passes[] = {"sample_max", "sample_mass"};
    for (size_t pass = 0; pass < sizeof passes / sizeof *passes; pass++) {
        Step *s = sample_step(plan, phase, passes[pass], &params, chunks, CHUNK_THREADS);
        sample_operands(plan, phase, s, scratch);
        step_tokens(s);
    }
    Step *s = sample_step(plan, phase, "sample_draw", &params, 1, DRAW_THREADS);
    sample_operands(plan, phase, s, scratch);
    step_address(s, REGION_BATCH, plan->batch.head_rows);
    step_address(s, REGION_BATCH, plan->batch.token_ids);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.drawn);
    step_address(s, REGION_BATCH, plan->batch.sampled);
    step_address(s, REGION_BATCH, plan->batch.results);
    step_tokens(s);
}

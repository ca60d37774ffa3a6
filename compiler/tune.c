// --tune measure: which candidate is the fastest on the GPU of this machine?
//
// Each linear layer is measured once per shape, coding, fused work and number of tokens. All its
// candidates are compiled, loaded and run alone: one launch into poisoned outputs, which it must
// fill, then a CUDA graph whose launches read copies of the weights in turn, so that none is found
// in the second-level cache, replayed. The fastest is kept; among those within a hundredth of it, the
// first in the order of candidates, so that noise does not change the choice.
//
// Weights and inputs are random halves; what the numbers are does not matter, but that they are
// finite, and not all equal, does. Other ops are chosen by prediction: attention depends on what is
// in the cache, and the rest has one candidate each.
#include "../runtime/step.h"
#include "measure.h"
#include "tuning.h"

#include <math.h>
#include <string.h>

enum {
    ROTATED_BYTES = 320 << 20, // of weights: five times the second-level cache of an H200
    COPIES_MAX = 64,           // layers so small that this is less stay in the cache in a model too
    REPLAYS = 7,
    LAUNCHES = 12,     // in a graph, at least
    LAUNCHES_LONG = 4, // of kernels above LONG_US
    LONG_US = 300,
    STEPS_MAX = 4, // of a candidate: a norm in front, the linear
    TIE_PER_CENT = 1,
    BLOCK_BYTES = 16 << 20, // random halves on the host
    ALIGN = 256,
    POISON = 0xff,
};

typedef struct Subject { // one linear layer with one number of tokens
    const Op *op;
    Problem problem;
    char key[TUNING_OP_BYTES];
} Subject;

typedef struct Trial { // one candidate of it
    const KernelChoice *choice;
    PhasePlan phase;
    int64_t arena_bytes;
    int kernels[STEPS_MAX]; // of its steps, among the distinct ones
    double us;              // HUGE_VAL: it left outputs unwritten
} Trial;

typedef struct Tuner {
    Tuning *tuning;
    Plan *plan;
    Meter *meter;
    Arena *arena; // of one subject
    Trial trials[CHOICES_MAX];
    int trial_count;
    Plan kernels; // distinct kernels of the trials
    Cubin *cubins;
    MeterKernel *loaded;
    uint64_t base[REGION_COUNT];
    uint64_t pool; // copies of the weights
    int64_t copy_bytes;
    int copies;
    // what is being timed
    const Trial *timed;
    int64_t tokens;
    int launches;
} Tuner;

// ---- subjects -----------------------------------------------------------------------------------

static bool subject_known(const Tuner *t, const Subject *subjects, int count, const Subject *s) {
    for (int at = 0; at < count; at++)
        if (subjects[at].problem.max_tokens == s->problem.max_tokens &&
            strcmp(subjects[at].key, s->key) == 0)
            return true;
    return tuning_find(t->tuning, t->plan->target->name, s->key, s->problem.max_tokens) != NULL;
}

// What the plan runs and nobody has measured: subjects[count], in the order of the phases.
static int subjects_find(const Tuner *t, Subject **out, Arena *a) {
    const Plan *p = t->plan;
    int count = 0, capacity = 0;
    *out = NULL;
    for (int at = 0; at < p->phase_count; at++) {
        const Op *before = NULL;
        for (int step = 0; step < p->phases[at].step_count; step++) {
            const Op *op = p->phases[at].steps[step].op;
            Subject s = {.op = op};
            if (!op || op == before || !tuning_op(s.key, p->graph, op))
                continue;
            before = op;
            s.problem = (Problem){.plan = p,
                                  .op = op,
                                  .phase = p->phases[at].phase,
                                  .max_tokens = p->phases[at].max_tokens};
            if (subject_known(t, *out, count, &s))
                continue;
            *out = array_grow(a, *out, count, &capacity, sizeof **out);
            (*out)[count++] = s;
        }
    }
    return count;
}

// ---- candidates as phases of their own ----------------------------------------------------------

// Weights of the op stand in a copy of their own: the linear's first, then its vectors. Returns the
// offset there of what stands at `offset` of the model's weights; *bytes: of the whole copy.
static int64_t weights_place(const Tuner *t, const Op *op, int64_t offset, int64_t *bytes) {
    int packed[OP_MAX_PACKED];
    int64_t at = 0, found = -1;
    op_packed(op, packed);
    for (int i = 0; i < OP_MAX_PACKED; i++) {
        if (packed[i] < 0)
            continue;
        const PackedTensor *w = &t->plan->graph->packed[packed[i]];
        if (offset >= w->offset && offset < w->offset + w->bytes)
            found = at + offset - w->offset;
        at += (int64_t)round_up((uint64_t)w->bytes, ALIGN);
    }
    *bytes = at;
    return found;
}

static void trial_lower(Tuner *t, Trial *trial, const Subject *s) {
    const Graph *g = t->plan->graph;
    PhasePlan *phase = &trial->phase;
    *phase = (PhasePlan){.phase = s->problem.phase, .max_tokens = s->problem.max_tokens};
    phase->value_buffer = ARENA_NEW(t->arena, int, g->value_count + 1);
    for (int value = 0; value < g->value_count; value++)
        phase->value_buffer[value] = -1;
    Plan plan = *t->plan; // what lower() takes from the arena goes with the subject
    plan.arena = t->arena;
    trial->choice->kernel->lower(&s->problem, &trial->choice->params, &trial->choice->cost, &plan,
                                 phase);
    for (int at = 0; at < phase->buffer_count; at++) {
        phase->buffers[at].offset = trial->arena_bytes;
        trial->arena_bytes += (int64_t)round_up((uint64_t)phase->buffers[at].bytes, ALIGN);
    }
    for (int step = 0; step < phase->step_count; step++) {
        for (int i = 0; i < phase->steps[step].operand_count; i++) {
            Operand *o = &phase->steps[step].operands[i];
            if (o->kind == OPERAND_ADDRESS && o->region == REGION_WEIGHTS)
                o->offset = weights_place(t, s->op, o->offset, &t->copy_bytes);
            if (o->kind == OPERAND_ADDRESS && o->region == REGION_KV)
                o->offset = 0; // of one layer
        }
    }
}

static bool trials_make(Tuner *t, const Subject *s, const KernelChoices *all, Cache *cache,
                        int threads, Error *err) {
    CubinStats stats = {0};
    t->trial_count = 0;
    t->kernels = (Plan){.target = t->plan->target, .arena = t->arena};
    for (int at = 0; at < all->count; at++) {
        Trial *trial = &t->trials[t->trial_count++];
        *trial = (Trial){.choice = &all->items[at]};
        trial_lower(t, trial, s);
        if (trial->phase.step_count > STEPS_MAX)
            return fail(err, ERR_INTERNAL, 658, "%s takes %d steps for %s, expected up to %d",
                        trial->choice->kernel->name, trial->phase.step_count, s->key, STEPS_MAX);
        for (int step = 0; step < trial->phase.step_count; step++)
            trial->kernels[step] = plan_kernel(&t->kernels, &trial->phase.steps[step]);
    }
    t->cubins = ARENA_NEW(t->arena, Cubin, t->kernels.kernel_count);
    t->loaded = ARENA_NEW(t->arena, MeterKernel, t->kernels.kernel_count);
    TRY(cubins_make(t->cubins, &t->kernels, cache, threads, &stats, t->arena, err));
    for (int at = 0; at < t->kernels.kernel_count; at++)
        TRY(meter_load(t->meter, &t->loaded[at], t->cubins[at].image.data,
                       t->kernels.kernels[at]->entry, t->kernels.kernels[at]->shared_bytes, err));
    return true;
}

// ---- memory -------------------------------------------------------------------------------------

// Finite fp16 and bf16 numbers between 2^-7 and 1, which as fp32 are finite too.
static unsigned char *halves_make(Arena *a) {
    uint64_t x = 88172645463325252u, *words = arena_alloc(a, BLOCK_BYTES);
    for (size_t at = 0; at < BLOCK_BYTES / sizeof *words; at++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        words[at] = (x & 0x8fff8fff8fff8fff) | 0x2000200020002000;
    }
    return (unsigned char *)words;
}

static bool halves_fill(Tuner *t, uint64_t to, int64_t bytes, const unsigned char *block,
                        Error *err) {
    int64_t first = bytes < BLOCK_BYTES ? bytes : BLOCK_BYTES;
    TRY(meter_upload(t->meter, to, block, first, err));
    for (int64_t at = first; at < bytes; at += first)
        TRY(meter_copy(t->meter, to + (uint64_t)at, to, bytes - at < first ? bytes - at : first,
                       err));
    return true;
}

// Zeros behind the weights: vectors, and orders of inputs, which must be places that exist.
static bool vectors_clear(Tuner *t, const Subject *s, Error *err) {
    const PackedTensor *w = &t->plan->graph->packed[s->op->linear.weight];
    int64_t first = (int64_t)round_up((uint64_t)w->bytes, ALIGN), copy_bytes;
    weights_place(t, s->op, w->offset, &copy_bytes);
    for (int copy = 0; copy < t->copies && copy_bytes > first; copy++)
        TRY(meter_fill(t->meter, t->pool + (uint64_t)(copy * copy_bytes + first), 0,
                       copy_bytes - first, err));
    return true;
}

// What a kernel counts is zeros before it.
static bool counts_clear(Tuner *t, const PhasePlan *phase, Error *err) {
    for (int at = 0; at < phase->buffer_count; at++) {
        const Buffer *b = &phase->buffers[at];
        if (b->persistent)
            TRY(meter_fill(t->meter, t->base[REGION_ARENA] + (uint64_t)b->offset, 0, b->bytes,
                           err));
    }
    return true;
}

static bool memory_make(Tuner *t, const Subject *s, Error *err) {
    const Plan *p = t->plan;
    const unsigned char *block = halves_make(t->arena);
    int64_t arena_bytes = 1;
    for (int at = 0; at < t->trial_count; at++)
        arena_bytes =
            t->trials[at].arena_bytes > arena_bytes ? t->trials[at].arena_bytes : arena_bytes;
    weights_place(t, s->op, 0, &t->copy_bytes);
    t->copies = (int)ceil_div(ROTATED_BYTES, t->copy_bytes);
    t->copies = t->copies < 2 ? 2 : t->copies > COPIES_MAX ? COPIES_MAX : t->copies;
    TRY(meter_alloc(t->meter, &t->pool, t->copies * t->copy_bytes, err));
    TRY(meter_alloc(t->meter, &t->base[REGION_ARENA], arena_bytes, err));
    TRY(meter_alloc(t->meter, &t->base[REGION_KV], p->info.kv_page_bytes + ALIGN, err));
    TRY(meter_alloc(t->meter, &t->base[REGION_BATCH], p->batch.bytes, err));
    TRY(halves_fill(t, t->pool, t->copies * t->copy_bytes, block, err));
    TRY(vectors_clear(t, s, err));
    TRY(halves_fill(t, t->base[REGION_ARENA], arena_bytes, block, err));
    TRY(meter_fill(t->meter, t->base[REGION_KV], 0, p->info.kv_page_bytes + ALIGN, err));
    return meter_fill(t->meter, t->base[REGION_BATCH], 0, p->batch.bytes, err);
}

static void memory_release(Tuner *t) {
    for (int at = 0; at < t->kernels.kernel_count; at++)
        meter_unload(t->meter, &t->loaded[at]);
    meter_release(t->meter, t->pool);
    for (int region = 0; region < REGION_COUNT; region++)
        if (region != REGION_WEIGHTS)
            meter_release(t->meter, t->base[region]);
}

// ---- one candidate ------------------------------------------------------------------------------

static bool trial_launch(Tuner *t, const Trial *trial, int copy, Error *err) {
    t->base[REGION_WEIGHTS] = t->pool + (uint64_t)(copy * t->copy_bytes);
    for (int step = 0; step < trial->phase.step_count; step++)
        TRY(meter_step(t->meter, &t->loaded[trial->kernels[step]], &trial->phase.steps[step],
                       &trial->phase, t->base, t->tokens, err));
    return true;
}

// Runs once. *written: no element of the first and the last row is still poison. What is added to a
// residual stands where that was, so there nothing can be told.
static bool trial_check(Tuner *t, const Trial *trial, const Subject *s, bool *written, Error *err) {
    const Value *value = &t->plan->graph->values[s->op->output];
    const Buffer *b = &trial->phase.buffers[trial->phase.value_buffer[s->op->output]];
    int64_t elem = plan_value_elem(t->plan, s->op->output), bytes = value->width * elem;
    uint64_t out = t->base[REGION_ARENA] + (uint64_t)b->offset;
    unsigned char *row = arena_alloc(t->arena, (size_t)bytes);
    *written = true;
    if (s->op->linear.epilogue == EPILOGUE_ADD)
        return trial_launch(t, trial, 0, err) && meter_wait(t->meter, err);
    TRY(meter_fill(t->meter, out, POISON, t->tokens * bytes, err));
    TRY(trial_launch(t, trial, 0, err));
    for (int64_t token = 0; token < t->tokens; token += t->tokens > 1 ? t->tokens - 1 : 1) {
        TRY(meter_download(t->meter, row, out + (uint64_t)(token * bytes), bytes, err));
        for (int64_t at = 0; at < bytes; at += elem) {
            static const unsigned char poison[4] = {POISON, POISON, POISON, POISON};
            *written = *written && memcmp(row + at, poison, (size_t)elem) != 0;
        }
    }
    return true;
}

static bool trial_enqueue(void *user, Error *err) {
    Tuner *t = user;
    for (int launch = 0; launch < t->launches; launch++)
        TRY(trial_launch(t, t->timed, launch % t->copies, err));
    return true;
}

static bool trial_time(Tuner *t, Trial *trial, const Subject *s, Error *err) {
    bool written;
    int wanted = trial->choice->cost.us > (double)LONG_US ? LAUNCHES_LONG : LAUNCHES;
    t->timed = trial;
    t->tokens = s->problem.max_tokens;
    t->launches = t->copies > wanted ? t->copies : wanted;
    trial->us = HUGE_VAL;
    TRY(counts_clear(t, &trial->phase, err));
    TRY(trial_check(t, trial, s, &written, err));
    if (!written)
        return true;
    TRY(meter_graph(t->meter, trial_enqueue, t, REPLAYS, &trial->us, err));
    trial->us /= t->launches;
    return true;
}

// ---- one subject --------------------------------------------------------------------------------

static bool trials_best(Tuner *t, const Subject *s, Error *err) {
    double fastest = HUGE_VAL;
    const Trial *best = NULL;
    for (int at = 0; at < t->trial_count; at++)
        fastest = fmin(fastest, t->trials[at].us);
    for (int at = t->trial_count - 1; at >= 0; at--)
        if (t->trials[at].us <= fastest * (100 + (double)TIE_PER_CENT) / 100)
            best = &t->trials[at];
    if (!best || fastest == HUGE_VAL)
        return fail(err, ERR_MISMATCH, 659,
                    "--tune measure: no kernel for %s with %lld tokens writes its outputs on %s; "
                    "compile without --tune and run the executable's selftest",
                    s->key, (long long)s->problem.max_tokens, meter_device(t->meter));
    Arena *a = t->tuning->arena;
    TuningEntry *e = tuning_add(t->tuning);
    e->target = t->plan->target->name;
    e->op = arena_strndup(a, s->key, strlen(s->key));
    e->kernel = best->choice->kernel->name;
    e->variant = arena_strndup(a, best->choice->variant, strlen(best->choice->variant));
    e->device = arena_strndup(a, meter_device(t->meter), strlen(meter_device(t->meter)));
    e->tokens = s->problem.max_tokens;
    e->us = best->us;
    return true;
}

static bool subject_tune(Tuner *t, const Subject *s, Cache *cache, int threads, Error *err) {
    KernelChoices *all = ARENA_NEW(t->arena, KernelChoices, 1);
    choices_make(all, &s->problem);
    TRY(trials_make(t, s, all, cache, threads, err));
    TRY(memory_make(t, s, err));
    for (int at = 0; at < t->trial_count; at++)
        TRY(trial_time(t, &t->trials[at], s, err));
    memory_release(t);
    return trials_best(t, s, err);
}

// ---- all of them --------------------------------------------------------------------------------

static bool subjects_tune(Tuner *t, Cache *cache, int threads, Progress *progress, int *measured,
                          Error *err) {
    Subject *subjects;
    Arena list = {0};
    int count = subjects_find(t, &subjects, &list);
    bool done = true;
    for (int at = 0; done && at < count; at++) {
        Arena one = {0};
        t->arena = &one;
        progress_at(progress, at, count, "layers measured");
        done = subject_tune(t, &subjects[at], cache, threads, err);
        arena_free(&one);
    }
    arena_free(&list);
    *measured += done ? count : 0;
    return done;
}

bool tune_measure(Tuning *tuning, Plan *p, Cache *cache, int threads, Progress *progress,
                  int *measured, Error *err) {
    Tuner *t = ARENA_NEW(p->arena, Tuner, 1);
    t->tuning = tuning;
    t->plan = p;
    TRY(meter_open(&t->meter, p->arena, err));
    bool done = subjects_tune(t, cache, threads, progress, measured, err);
    meter_close(t->meter);
    return done;
}

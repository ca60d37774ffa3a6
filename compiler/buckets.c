// Which numbers of tokens get kernels of their own. A step of M tokens runs the smallest bucket that
// holds M, so a bucket costs cubins and host code, and pays where its own kernels are faster than
// those of the next larger one. Requires the plan's dimensions; provides its buckets.
#include "../runtime/step.h"
#include "compile.h"

// What a bucket must save. A prompt has one step or few, so that less than a tenth of a millisecond is
// not worth the cubins; decode steps run a thousand times for each prompt.
static const double prefill_share = 0.1, prefill_us = 100, decode_share = 0.005;

// Tokens at which tiles of kernels end: 8 and 16 rows are what one mma instruction or two take, 32
// is the limit of linear_decode, and above them each bucket is one more tile of a GEMM. Larger ones
// double. With 1 and 4 the activations leave more shared memory to the weights on their way.
static const int64_t decode_sizes[] = {1, 4, 8, 16, 32, 48, 64};
static const int64_t prefill_sizes[] = {32, 128, 512};

// Does the op run in that phase as a step of its own?
static bool runs_in(const Graph *g, int phase, int op) {
    if (phase == PHASE_PREFILL)
        return op < g->head_first;
    return g->ops[op].kind != OP_GATHER;
}

// Microseconds of a phase with `tokens` tokens, run by the kernels that a bucket would choose.
// < 0: some op has no kernel.
static double phase_us(const Plan *p, int phase, int64_t bucket, int64_t tokens) {
    KernelChoices *all = &p->choices[BUCKETS_MAX];
    double us = 0;
    for (int op = 0; op < p->graph->op_count; op++) {
        if (!runs_in(p->graph, phase, op))
            continue;
        Problem problem = {
            .plan = p, .op = &p->graph->ops[op], .phase = phase, .max_tokens = bucket};
        choices_make(all, &problem);
        const KernelChoice *best = choices_best(all, NULL, NULL);
        if (!best)
            return -1;
        problem.max_tokens = tokens;
        us += bucket == tokens ? best->cost.us
                               : candidate_cost(best->kernel, &problem, &best->params).us;
    }
    return us;
}

static bool pays(const Plan *p, int phase, int64_t bucket, int64_t next) {
    double own = phase_us(p, phase, bucket, bucket), other = phase_us(p, phase, next, bucket);
    if (own < 0 || other < 0)
        return own >= 0;
    double saved = other - own;
    if (phase == PHASE_PREFILL)
        return saved >= prefill_us && saved >= prefill_share * other;
    return saved > decode_share * other;
}

// sizes[count] below `most`, ascending, those that pay, then `most` itself.
static int buckets_keep(const Plan *p, int phase, const int64_t *sizes, int count, int64_t most,
                        int64_t out[BUCKETS_MAX]) {
    int kept = BUCKETS_MAX; // filled from the end
    out[--kept] = most;
    for (int at = count - 1; at >= 0 && kept > 0; at--)
        if (sizes[at] < most && pays(p, phase, sizes[at], out[kept]))
            out[--kept] = sizes[at];
    for (int at = kept; at < BUCKETS_MAX; at++)
        out[at - kept] = out[at];
    return BUCKETS_MAX - kept;
}

void buckets_choose(Plan *p) {
    enum { SIZES = sizeof decode_sizes / sizeof *decode_sizes };
    bool cpu = p->target->device == DEVICE_CPU; // its kernels take any number of tokens
    int64_t sizes[BUCKETS_MAX - 1];
    int count = 0;
    while (count < SIZES) {
        sizes[count] = decode_sizes[count];
        count++;
    }
    for (; count < BUCKETS_MAX - 1; count++)
        sizes[count] = 2 * sizes[count - 1];
    p->decode_bucket_count = buckets_keep(p, PHASE_DECODE, sizes, cpu ? 0 : count,
                                          p->info.max_batch_size, p->decode_buckets);
    // With one order of sums all chunks of a prompt run the same kernels, however long they are.
    bool one = cpu || p->batch_invariant;
    p->prefill_bucket_count =
        buckets_keep(p, PHASE_PREFILL, prefill_sizes,
                     one ? 0 : (int)(sizeof prefill_sizes / sizeof *prefill_sizes),
                     p->info.max_num_tokens, p->prefill_buckets);
}

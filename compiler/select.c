// Selection: which kernel runs an op of one phase and bucket of tokens.
//
// Every family of the op's kind and device says whether it takes the op (a refusal carries its
// reason, for --explain), offers candidates, and predicts what each costs. The cheapest wins, the
// first among equals. A candidate that was measured (tune.c) counts with its measured time.
//
// A sum of floats depends on the order of its terms, and a family says which of its parameters set
// that order (Kernel.sums). With --batch-invariant an op keeps one order in all buckets that decode:
// the order that costs least over all of them, among those that every bucket offers. Then a
// sequence gets the same bits alone and in any batch. Without it each bucket takes what is fastest.
#include "../runtime/step.h"
#include "tuning.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

// ---- notes --------------------------------------------------------------------------------------

// Adds a line to the phase's notes unless it is there: layers of one kind say the same.
__attribute__((format(printf, 3, 4))) static void phase_note(const Plan *p, PhasePlan *phase,
                                                             const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (int at = 0; at < phase->note_count; at++)
        if (strcmp(phase->notes[at], line) == 0)
            return;
    phase->notes = array_grow(p->arena, phase->notes, phase->note_count, &phase->note_capacity,
                              sizeof *phase->notes);
    phase->notes[phase->note_count++] = arena_strndup(p->arena, line, strlen(line));
}

// ---- candidates ---------------------------------------------------------------------------------

void sums_text(char *out, size_t size, const Kernel *kernel, const Params *params, int64_t tokens) {
    size_t used = (size_t)snprintf(out, size, "%s", kernel->name);
    for (const char *name = kernel->sums; name && *name && used < size;) {
        size_t length = strcspn(name, " ");
        for (int at = 0; at < params->count; at++) {
            const Param *param = &params->items[at];
            if (strncmp(param->name, name, length) == 0 && !param->name[length] && used < size)
                used += (size_t)snprintf(out + used, size - used, " %s=%" PRId64, param->name,
                                         param->value);
        }
        name += length;
        name += strspn(name, " ");
    }
    if (kernel->tied && params_get(params, kernel->tied) && used < size)
        snprintf(out + used, size - used, " %s tokens=%" PRId64, kernel->tied, tokens);
}

// A kernel that is made for so many tokens does their work also for fewer.
static int64_t tokens_of(const Problem *problem, const Params *params) {
    for (int at = 0; at < params->count; at++)
        if (strcmp(params->items[at].name, "TOKENS_MAX") == 0)
            return params->items[at].value;
    return problem->max_tokens;
}

// Elsewhere than where the shares were measured, one above 1 shortens only what a kernel takes beyond
// its bytes and its products: where memory is slow, they are nearly all of it.
static double us_reached(double us, double share, const Cost *cost, const Target *t) {
    double bytes_us = cost->bytes / (t->bandwidth_gbs * 1e3);
    double flops_us = cost->flops / (t->tensor_tflops * 1e6);
    double least = bytes_us > flops_us ? bytes_us : flops_us;
    if (share <= 1 || strcmp(t->name, EFFICIENCY_TARGET) == 0)
        return us / share;
    return us > least ? least + (us - least) / share : us;
}

Cost candidate_cost(const Kernel *kernel, const Problem *problem, const Params *params) {
    Cost cost = kernel->cost(problem, params);
    if (kernel->device == DEVICE_CUDA) {
        double share = kernel_efficiency(kernel->name, params, tokens_of(problem, params));
        cost.us = us_reached(cost.us, share, &cost, problem->plan->target);
    }
    return cost;
}

static void family_add(KernelChoices *out, const Problem *problem, const Kernel *kernel) {
    Params params[KERNEL_MAX_CANDIDATES];
    memset(params, 0, sizeof params);
    int count = kernel->candidates(problem, params);
    for (int at = 0; at < count && out->count < CHOICES_MAX; at++) {
        KernelChoice *c = &out->items[out->count++];
        *c = (KernelChoice){.kernel = kernel, .params = params[at]};
        c->cost = candidate_cost(kernel, problem, &params[at]);
        sums_text(c->sums, sizeof c->sums, kernel, &params[at], problem->max_tokens);
        candidate_text(c->variant, sizeof c->variant, params, count, at);
    }
}

void choices_make(KernelChoices *out, const Problem *problem) {
    out->count = out->refused_count = 0;
    for (int at = 0; at < kernel_table_count; at++) {
        const Kernel *kernel = kernel_table[at];
        if (kernel->device != problem->plan->target->device || kernel->op != problem->op->kind)
            continue;
        int before = out->count;
        char reason[REASON_BYTES] = "no variant fits the chip";
        if (kernel->accepts(problem, reason))
            family_add(out, problem, kernel);
        if (out->count == before && out->refused_count < REFUSED_MAX) {
            Refused *r = &out->refused[out->refused_count++];
            r->kernel = kernel;
            snprintf(r->reason, sizeof r->reason, "%s", reason);
        }
    }
    if (problem->plan->tuning)
        tuning_apply(problem->plan->tuning, problem, out);
}

const KernelChoice *choices_best(const KernelChoices *all, const char *sums, const Kernel *family) {
    const KernelChoice *best = NULL;
    for (int at = 0; at < all->count; at++) {
        const KernelChoice *c = &all->items[at];
        if ((sums && strcmp(c->sums, sums) != 0) || (family && c->kernel != family))
            continue;
        bool better = !best || (c->cost.measured && !best->cost.measured) ||
                      (c->cost.measured == best->cost.measured && c->cost.us < best->cost.us);
        best = better ? c : best;
    }
    return best;
}

// ---- one order of sums --------------------------------------------------------------------------

// What an op costs over all decoding buckets if it keeps the order `sums`; < 0: some bucket has no
// candidate of it. buckets[count].
static double order_us(const KernelChoices *buckets, int count, const char *sums) {
    double us = 0;
    for (int at = 0; at < count; at++) {
        const KernelChoice *best = choices_best(&buckets[at], sums, NULL);
        if (!best)
            return -1;
        us += best->cost.us;
    }
    return us;
}

// The cheapest order that all buckets offer; "": there is none. PHASE_HEAD, whose rows are those of
// the largest batch at most, keeps it too.
static const char *order_best(const Plan *p, const Op *op) {
    const char *best = "";
    double best_us = 0;
    for (int at = 0; at < p->decode_bucket_count; at++) {
        const Problem problem = {
            .plan = p, .op = op, .phase = PHASE_DECODE, .max_tokens = p->decode_buckets[at]};
        choices_make(&p->choices[at], &problem);
    }
    for (int at = 0; at < p->choices[0].count; at++) {
        const char *sums = p->choices[0].items[at].sums;
        double us = order_us(p->choices, p->decode_bucket_count, sums);
        if (us >= 0 && (!best[0] || us < best_us)) {
            best = sums;
            best_us = us;
        }
    }
    return arena_strndup(p->arena, best, strlen(best));
}

// ---- the choice ---------------------------------------------------------------------------------

static bool refused_fail(const Problem *problem, const KernelChoices *all, const char *label,
                         Error *err) {
    char reasons[240] = "no kernel family for it";
    size_t used = 0;
    for (int at = 0; at < all->refused_count && used < sizeof reasons; at++)
        used +=
            (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: %s", used ? "; " : "",
                             all->refused[at].kernel->name, all->refused[at].reason);
    return fail(err, ERR_UNSUPPORTED, 450, "target %s cannot run %s of layer %d: %s",
                problem->plan->target->name, label, problem->op->layer, reasons);
}

// A line for each family that did not get the op.
static void losers_note(const Plan *p, PhasePlan *phase, const char *label,
                        const KernelChoices *all, const KernelChoice *best) {
    for (int at = 0; at < all->refused_count; at++)
        phase_note(p, phase, "%s: %s refused: %s", label, all->refused[at].kernel->name,
                   all->refused[at].reason);
    for (int at = 0; at < all->count; at++) {
        const Kernel *kernel = all->items[at].kernel;
        if (kernel == best->kernel || (at && all->items[at - 1].kernel == kernel))
            continue;
        const KernelChoice *loser = choices_best(all, NULL, kernel);
        phase_note(p, phase, "%s: %s %s %.1f us, chosen %s %.1f us%s", label, kernel->name,
                   loser->cost.measured ? "measured" : "predicted", loser->cost.us,
                   best->kernel->name, best->cost.us,
                   loser->cost.us < best->cost.us ? ", which keeps one order of sums" : "");
    }
}

bool op_select(KernelChoice *out, const Plan *p, PhasePlan *phase, const Op *op, Error *err) {
    const Problem problem = {
        .plan = p, .op = op, .phase = phase->phase, .max_tokens = phase->max_tokens};
    char label[160];
    const char **order = &p->orders[op - p->graph->ops], *sums = NULL;
    bool decodes = phase->phase != PHASE_PREFILL;
    op_label(label, sizeof label, p->graph, op);
    if (decodes && p->batch_invariant)
        sums = *order = *order ? *order : order_best(p, op);
    KernelChoices *all = &p->choices[BUCKETS_MAX];
    choices_make(all, &problem);
    if (!all->count)
        return refused_fail(&problem, all, label, err);
    const KernelChoice *best = choices_best(all, sums, NULL);
    if (!best)
        return fail(err, ERR_UNSUPPORTED, 656,
                    "--batch-invariant: on %s no kernel keeps one order of sums from 1 to %" PRId64
                    " sequences for %s of layer %d; lower --max-batch-size",
                    p->target->name, p->info.max_batch_size, label, op->layer);
    *out = *best;
    if (decodes) {
        phase->reordered += *order && strcmp(*order, best->sums) != 0;
        *order = arena_strndup(p->arena, best->sums, strlen(best->sums));
    }
    losers_note(p, phase, label, all, best);
    return true;
}

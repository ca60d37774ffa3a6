// Will it fit? Every byte that a run allocates is known before anything is built
// (runtime/payload_memory.h), so --max-memory is checked first and costs nothing.
#include "memory_limit.h"

#include "../runtime/payload_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool memory_parse(int64_t *bytes, const char *option, const char *text, Error *err) {
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    double scale = 1;
    for (const char *at = units; unit && at <= unit; at++)
        scale *= 1024;
    if (unit)
        end++;
    if (*end == 'B' || (unit && end[0] == 'i' && end[1] == 'B'))
        end += *end == 'B' ? 1 : 2;
    if (errno || end == text || *end || !(value * scale >= 1 && value * scale < 1e15))
        return fail(err, ERR_USAGE, 697, "%s wants a size such as 8G or 512M, found \"%s\"", option,
                    text);
    *bytes = (int64_t)(value * scale);
    return true;
}

static void table_print(const ModelInfo *m, TargetDevice device, int64_t limit) {
    int64_t fixed = memory_use(m, device, 1, 0).device_bytes;
    fprintf(stderr, "weights %.1f MB, activations %.1f MB, batch %.1f MB; what fits beside them:\n",
            (double)m->weights_bytes / 1048576, (double)m->arena_bytes / 1048576,
            (double)batch_layout(m).bytes / 1048576);
    if (fixed >= limit) {
        fprintf(stderr, "  nothing: --max-num-tokens makes activations smaller\n");
        return;
    }
    fprintf(stderr, "  %-14s %-17s %s\n", "--max-seq-len", "--max-batch-size", "MB");
    for (int64_t context = m->max_seq_len; context >= m->page_tokens; context /= 2) {
        int64_t fit = memory_fit(m, device, context, limit);
        fit = fit < m->max_batch_size ? fit : m->max_batch_size;
        if (fit < 1)
            continue;
        fprintf(stderr, "  %-14lld %-17lld %.1f\n", (long long)context, (long long)fit,
                (double)memory_use(m, device, context, fit).device_bytes / 1048576);
    }
}

bool memory_limit_check(const Plan *const *plans, int count, int64_t weights_bytes, int64_t limit,
                        Error *err) {
    for (int at = 0; at < count; at++) {
        ModelInfo m = plans[at]->info;
        m.weights_bytes = weights_bytes;
        for (int other = 0; other < count; other++) // one arena serves all targets
            if (plans[other]->info.arena_bytes > m.arena_bytes)
                m.arena_bytes = plans[other]->info.arena_bytes;
        TargetDevice device = plans[at]->target->device;
        MemoryUse use = memory_use(&m, device, m.max_seq_len, m.max_batch_size);
        if (use.device_bytes <= limit)
            continue;
        table_print(&m, device, limit);
        return fail(err, ERR_RESOURCE, 699,
                    "--max-memory: %lld sequences of %lld tokens take %.1f MB on %s, %.1f MB are "
                    "allowed; the table above says what fits",
                    (long long)m.max_batch_size, (long long)m.max_seq_len,
                    (double)use.device_bytes / 1048576, plans[at]->target->name,
                    (double)limit / 1048576);
    }
    return true;
}

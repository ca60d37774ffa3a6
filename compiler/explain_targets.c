// What each target adds to an executable, in bytes: kernels that no earlier target has (equal images
// are stored once), and for all CPU levels together the program itself. Known only when everything is
// compiled, so it stands behind the plans that --explain prints.
#include "compile.h"

#include <string.h>

typedef struct Added {
    int kernels, shared; // of them, stored by an earlier target or kernel
    size_t bytes;
} Added;

// Whether an earlier kernel has the image of kernel `index` of plan `plan`.
static bool stored_before(const Contents *c, int plan, int index) {
    for (int p = 0; p <= plan; p++)
        for (int at = 0; c->cubins[p] && at < (p < plan ? c->plans[p]->kernel_count : index); at++)
            if (memcmp(c->cubins[p][at].key, c->cubins[plan][index].key,
                       sizeof c->cubins[p][at].key) == 0)
                return true;
    return false;
}

static Added added_by(const Contents *c, int plan) {
    Added a = {.kernels = c->plans[plan]->kernel_count};
    for (int at = 0; at < a.kernels; at++) {
        if (stored_before(c, plan, at))
            a.shared++;
        else
            a.bytes += c->cubins[plan][at].image.size;
    }
    return a;
}

void targets_explain(const Contents *c, FILE *out) {
    const Plan *first = c->plans[0];
    size_t total = 0;
    fprintf(out, "\nwhat the file holds\n  %-20s %9.2f MB, one copy for all targets\n", "weights",
            (double)first->info.weights_bytes * 1e-6);
    fprintf(out, "  %-20s %9.2f MB, with the code of all CPU levels\n", "program",
            (double)c->elf.size * 1e-6);
    for (int plan = 0; plan < c->plan_count; plan++) {
        if (!c->cubins[plan])
            continue;
        const Added a = added_by(c, plan);
        total += a.bytes;
        fprintf(out, "  %-20s %9.2f MB, %d kernels%s", c->plans[plan]->target->name,
                (double)a.bytes * 1e-6, a.kernels, c->plans[plan]->target->ptx ? ", PTX" : "");
        if (a.shared)
            fprintf(out, ", %d of them as images that are already there", a.shared);
        fputc('\n', out);
    }
    if (total)
        fprintf(out, "  %-20s %9.2f MB\n", "all GPU targets", (double)total * 1e-6);
}

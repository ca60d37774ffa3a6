// Machine code for a GPU runs on its own major version and the same or a higher minor one; an exact
// target on its own chip only; PTX on its own version and all newer ones. Source: "Binary Compatibility" in NVIDIA's CUDA programming guide.
#include "target_pick.h"

#include <stdio.h>
#include <string.h>

// A target of PTX has nothing but PTX.
static bool is_ptx(const Executable *e, const TargetInfo *t) {
    return t->device == DEVICE_CUDA && t->kernel_count > 0 && t->first_kernel >= 0 &&
           t->first_kernel < e->kernel_count && e->kernels[t->first_kernel].is_ptx;
}

static bool fits(const Executable *e, const TargetInfo *t, int major, int minor) {
    if (t->device != DEVICE_CUDA)
        return false;
    if (is_ptx(e, t))
        return t->compute_major * 100 + t->compute_minor <= major * 100 + minor;
    return t->compute_major == major &&
           (t->exact ? t->compute_minor == minor : t->compute_minor <= minor);
}

// Of two that fit: machine code, the closer version, then the one that may use all of the chip.
static bool better(const Executable *e, const TargetInfo *a, const TargetInfo *b) {
    if (is_ptx(e, a) != is_ptx(e, b))
        return is_ptx(e, b);
    return a->compute_minor != b->compute_minor ? a->compute_minor > b->compute_minor
                                                : a->exact > b->exact;
}

const TargetInfo *target_pick(const Executable *e, int major, int minor, char *reason,
                              size_t size) {
    const TargetInfo *best = NULL;
    for (int at = 0; at < e->target_count; at++)
        if (fits(e, &e->targets[at], major, minor) && (!best || better(e, &e->targets[at], best)))
            best = &e->targets[at];
    if (!best)
        return NULL;
    if (is_ptx(e, best))
        snprintf(reason, size,
                 "PTX that the driver translates: the file holds no code for compute capability "
                 "%d.%d",
                 major, minor);
    else if (best->compute_minor == minor)
        snprintf(reason, size, "made for compute capability %d.%d", major, minor);
    else
        snprintf(reason, size, "the closest to compute capability %d.%d that it runs", major,
                 minor);
    return best;
}

void target_names(const Executable *e, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (int at = 0; at < e->target_count && used < size; at++)
        used += (size_t)snprintf(out + used, size - used, "%s%.31s", at ? ", " : "",
                                 e->targets[at].name);
}

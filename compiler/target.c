// Facts about the machines that a plan is made for, and the names under which users know them.
//
// Only facts that decide something stand here: how many multiprocessors share the work, how much
// shared memory a block may take, and the rates behind the predicted times. A rate is that of the
// reference chip, the first alias; other chips of the same target run the same code, chosen for
// the reference. Sources: compute capability tables of the CUDA programming guide (shared memory),
// data sheets of the products (multiprocessors, bandwidth, dense fp16 rate with fp32 sums). Where
// nothing was measured, bandwidth is 90 % of the data sheet, the share that the H200 reaches.
#include "measure.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

enum { SHARED_99K = 101376, SHARED_163K = 166912, SHARED_227K = 232448, NAME_MAX_BYTES = 64 };

// clang-format off
const Target target_table[] = {
    // One "cpu" stands for all levels: the executable carries each and picks one when it starts.
    // Rates: two cores of a server, a plain read of memory, and dense products of this project.
    {.name = "cpu:x86-64-v3", .aliases = "", .device = DEVICE_CPU, .host = "x86_64-linux-gnu",
     .bandwidth_gbs = 30, .tensor_tflops = 0.15, .cpu_level = "x86-64-v3"},
    {.name = "cpu:x86-64-v4-vnni", .aliases = "", .device = DEVICE_CPU, .host = "x86_64-linux-gnu",
     .bandwidth_gbs = 30, .tensor_tflops = 0.5, .cpu_level = "x86-64-v4-vnni"},
    // Cortex-A72, four cores at 1.5 GHz, one LPDDR4 channel; Cortex-A78AE, eight cores at 2.2 GHz of
    // an Orin, whose memory they share with the GPU. From data sheets, not measured.
    {.name = "cpu:armv8-a", .aliases = "", .device = DEVICE_CPU, .host = "aarch64-linux-gnu",
     .bandwidth_gbs = 4, .tensor_tflops = 0.04, .cpu_level = "armv8-a"},
    {.name = "cpu:armv8.2-a-dotprod", .aliases = "", .device = DEVICE_CPU,
     .host = "aarch64-linux-gnu",
     .bandwidth_gbs = 60, .tensor_tflops = 0.25, .cpu_level = "armv8.2-a-dotprod"},
    // A100 80 GB SXM: 2039 GB/s, 312 TFLOP/s
    {.name = "sm_80", .aliases = "a100 a800 a30", .device = DEVICE_CUDA,
     .compute_major = 8, .compute_minor = 0, .sms = 108, .shared_bytes = SHARED_163K,
     .bandwidth_gbs = 1835, .tensor_tflops = 312, .launch_us = 1.2},
    // A10: 600 GB/s, 125 TFLOP/s
    {.name = "sm_86", .aliases = "a10 a40 a6000 rtx3090 rtx3080 rtx3070 rtx3060",
     .device = DEVICE_CUDA, .compute_major = 8, .compute_minor = 6, .sms = 72,
     .shared_bytes = SHARED_99K, .bandwidth_gbs = 540, .tensor_tflops = 125, .launch_us = 1.2},
    // Jetson AGX Orin 64 GB: 204.8 GB/s, 170 sparse int8 TOP/s of the GPU
    {.name = "sm_87", .aliases = "orin agx-orin", .device = DEVICE_CUDA,
     .compute_major = 8, .compute_minor = 7, .sms = 16, .shared_bytes = SHARED_163K,
     .bandwidth_gbs = 184, .tensor_tflops = 42, .launch_us = 3},
    // L4: 300 GB/s, 121 TFLOP/s
    {.name = "sm_89", .aliases = "l4 l40 l40s rtx4090 rtx4080 rtx4070 rtx4060",
     .device = DEVICE_CUDA, .compute_major = 8, .compute_minor = 9, .sms = 58,
     .shared_bytes = SHARED_99K, .bandwidth_gbs = 270, .tensor_tflops = 121, .launch_us = 1.2},
    // H200, measured 2026-11-20 on one, driver 580.159.04: read 4.58 to 4.7 TB/s, dense bf16 8192^3
    // 769 to 798 TFLOP/s on random data, 0.85 us from kernel to kernel in a CUDA graph
    {.name = "sm_90a", .aliases = "h200 h100 gh200 h800 h20 sm_90", .device = DEVICE_CUDA,
     .compute_major = 9, .compute_minor = 0, .exact = true, .sms = 132,
     .shared_bytes = SHARED_227K, .bandwidth_gbs = 4600, .tensor_tflops = 780, .launch_us = 0.85},
    // B200: 8000 GB/s, 2250 TFLOP/s
    {.name = "sm_100a", .aliases = "b200 gb200 b100 sm_100", .device = DEVICE_CUDA,
     .compute_major = 10, .compute_minor = 0, .exact = true, .sms = 148,
     .shared_bytes = SHARED_227K, .bandwidth_gbs = 7200, .tensor_tflops = 2250, .launch_us = 0.85},
    // Jetson AGX Thor: 273 GB/s, 1035 dense fp4 TFLOP/s
    {.name = "sm_110a", .aliases = "thor agx-thor sm_110", .device = DEVICE_CUDA,
     .compute_major = 11, .compute_minor = 0, .exact = true, .sms = 20,
     .shared_bytes = SHARED_227K, .bandwidth_gbs = 246, .tensor_tflops = 258, .launch_us = 2},
    // RTX 5090: 1792 GB/s, 209 TFLOP/s
    {.name = "sm_120a", .aliases = "rtx5090 rtx5080 rtx5070 rtx5060 rtxpro6000 sm_120",
     .device = DEVICE_CUDA, .compute_major = 12, .compute_minor = 0, .exact = true, .sms = 170,
     .shared_bytes = SHARED_99K, .bandwidth_gbs = 1613, .tensor_tflops = 209, .launch_us = 1},
    // For chips that have no entry here: kernels of the plain path, within the limits that all chips
    // keep, chosen for a middling one.
    {.name = "compute_80", .aliases = "ptx", .device = DEVICE_CUDA,
     .compute_major = 8, .compute_minor = 0, .ptx = true, .sms = 80,
     .shared_bytes = SHARED_99K, .bandwidth_gbs = 900, .tensor_tflops = 150, .launch_us = 1.2},
};
// clang-format on

const int target_count = sizeof target_table / sizeof *target_table;

const char *target_this_host(void) {
#if defined(__aarch64__)
    return "aarch64-linux-gnu";
#else
    return "x86_64-linux-gnu";
#endif
}

// ---- names --------------------------------------------------------------------------------------

// Users write "RTX 4090", "rtx-4090", "SM90A": only letters and digits count, in lower case.
static void name_plain(char out[NAME_MAX_BYTES], const char *name, size_t size) {
    size_t used = 0;
    for (size_t at = 0; at < size && used + 1 < NAME_MAX_BYTES; at++)
        if (isalnum((unsigned char)name[at]) || name[at] == ':')
            out[used++] = (char)tolower((unsigned char)name[at]);
    out[used] = '\0';
}

static bool name_matches(const char *plain, const char *names) {
    while (*names) {
        size_t size = strcspn(names, " ");
        char known[NAME_MAX_BYTES];
        name_plain(known, names, size);
        if (strcmp(plain, known) == 0)
            return true;
        names += size;
        names += strspn(names, " ");
    }
    return false;
}

// The part of a comma-separated list that is being read, and the list that is being made.
typedef struct Parse {
    const char *host; // triple of the executable
    const Target **out;
    int count, max;
    Error *err;
} Parse;

static bool same_host(const Target *t, const char *host) {
    return !t->host || strcmp(t->host, host) == 0;
}

static bool target_append(Parse *p, const Target *t) {
    for (int at = 0; at < p->count; at++)
        if (p->out[at] == t)
            return true;
    if (p->count == p->max)
        return fail(p->err, ERR_UNSUPPORTED, 470, "--target names more than %d targets", p->max);
    p->out[p->count++] = t;
    return true;
}

static bool unknown(Parse *p, const char *name, size_t size) {
    char shown[NAME_MAX_BYTES * 4], known[300] = "";
    size_t used = 0;
    for (int at = 0; at < target_count; at++)
        if (target_table[at].device == DEVICE_CUDA)
            used +=
                (size_t)snprintf(known + used, sizeof known - used, " %s", target_table[at].name);
    return fail(
        p->err, ERR_UNSUPPORTED, 471,
        "unknown target \"%s\"; known: cpu native all%s, and the product names that "
        "`gptq-compile targets` prints",
        text_escape(shown, sizeof shown, name, size < NAME_MAX_BYTES ? size : NAME_MAX_BYTES),
        known);
}

static bool cpus_append(Parse *p) {
    for (int at = 0; at < target_count; at++)
        if (target_table[at].device == DEVICE_CPU && same_host(&target_table[at], p->host))
            TRY(target_append(p, &target_table[at]));
    return true;
}

// The GPU of this machine, else a CPU like this one. Where the executable is for other machines, what
// is here says nothing about them.
static bool native_append(Parse *p) {
    const Target *gpu;
    bool found;
    if (strcmp(p->host, target_this_host()) != 0)
        return fail(p->err, ERR_USAGE, 574,
                    "target native is this machine, which is %s, but --host is %s: name the "
                    "targets, such as --target orin,cpu",
                    target_this_host(), p->host);
    TRY(target_native(&gpu, &found, p->err));
    return found ? target_append(p, gpu) : cpus_append(p);
}

static bool name_append(Parse *p, const char *name, size_t size) {
    char plain[NAME_MAX_BYTES];
    name_plain(plain, name, size);
    if (strcmp(plain, "native") == 0)
        return native_append(p);
    if (strcmp(plain, "cpu") == 0)
        return cpus_append(p);
    bool all = strcmp(plain, "all") == 0, found = false;
    for (int at = 0; at < target_count; at++) {
        const Target *t = &target_table[at];
        bool named = name_matches(plain, t->name) || name_matches(plain, t->aliases);
        if (named && !same_host(t, p->host))
            return fail(p->err, ERR_UNSUPPORTED, 575, "target %s is of --host %s, not of %s",
                        t->name, t->host, p->host);
        if (named || (all && same_host(t, p->host))) {
            TRY(target_append(p, t));
            found = true;
        }
    }
    return found || unknown(p, name, size);
}

bool targets_find(TargetQuery *q, Error *err) {
    Parse p = {.host = q->host, .out = q->out, .max = q->max, .err = err};
    for (const char *name = q->list;; name++) {
        size_t size = strcspn(name, ",");
        TRY(name_append(&p, name, size));
        name += size;
        if (!*name)
            break;
    }
    q->count = p.count;
    return true;
}

bool targets_parse(const Target **out, int *count, int max, const char *list, Error *err) {
    TargetQuery q = {.list = list, .host = target_this_host(), .out = out, .max = max};
    TRY(targets_find(&q, err));
    *count = q.count;
    return true;
}

void targets_print(FILE *out) {
    fprintf(out, "%-20s %-5s %-9s %-8s %-9s %s\n", "target", "SMs", "GB/s", "TFLOP/s", "shared",
            "also known as");
    for (int at = 0; at < target_count; at++) {
        const Target *t = &target_table[at];
        if (t->device == DEVICE_CPU)
            fprintf(out, "%-20s %-5s %-9.0f %-8.2g %-9s %s\n", t->name, "-", t->bandwidth_gbs,
                    t->tensor_tflops, "-", "cpu");
        else
            fprintf(out, "%-20s %-5d %-9.0f %-8.0f %-9d %s\n", t->name, t->sms, t->bandwidth_gbs,
                    t->tensor_tflops, t->shared_bytes, t->aliases);
    }
    fputs("also: native (the GPU of this machine, else cpu), all\n", out);
}

// ---- the GPU of this machine --------------------------------------------------------------------

bool target_native(const Target **out, bool *found, Error *err) {
    *found = false;
    int major = 0, minor = 0;
    if (!meter_compute_capability(&major, &minor))
        return true;
    for (int at = 0; at < target_count; at++) {
        const Target *t = &target_table[at];
        if (t->device == DEVICE_CUDA && !t->ptx && t->compute_major == major &&
            t->compute_minor == minor) {
            *out = t;
            *found = true;
            return true;
        }
    }
    return fail(err, ERR_UNSUPPORTED, 472,
                "target native: the GPU of this machine has compute capability %d.%d, for which "
                "there are no kernels; name another target (`gptq-compile targets` lists them)",
                major, minor);
}

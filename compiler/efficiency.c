// What kernels reach of what their cost models promise, measured: the models know how work is cut,
// this table knows the machine. A line holds measured over predicted speed of one way to cut (the
// parameters that it names) at eleven numbers of tokens, means over layers of 2048 to 28672 inputs; in
// between it is interpolated over the logarithm of the tokens. A cut that has no line counts as 1.
//
// Measured by tests/gpu_kernels_bench.c --all --json on one H200 and printed by
// tests/fit_efficiency.py. Other targets have the rates of target.c, and these shares carried over.
#include "compile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 11 };

typedef struct Efficiency {
    const char *kernel, *cut; // "linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=1"
    double share[POINTS];     // at point_tokens
} Efficiency;

static const double point_tokens[POINTS] = {1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};

// clang-format off
static const Efficiency table[] = { // TABLE
    // NVIDIA H200, 2026-11-21, driver for CUDA 13000
    {"linear_decode", "TILES=1 X_PHASES=1 PROLOGUE=0 HAS_ORDER=0", {1.31, 1.28, 1.20, 1.01, 0.89, 1.01, 1.01, 1.01, 1.01, 1.01, 1.01}},
    {"linear_decode", "TILES=1 X_PHASES=1 PROLOGUE=1 HAS_ORDER=0", {1.29, 1.24, 1.09, 0.90, 0.89, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90}},
    {"linear_decode", "TILES=1 X_PHASES=1 PROLOGUE=1 HAS_ORDER=1", {1.13, 0.98, 0.80, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26}},
    {"linear_decode", "TILES=1 X_PHASES=2 PROLOGUE=0 HAS_ORDER=0", {1.72, 1.30, 0.97, 0.97, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89}},
    {"linear_decode", "TILES=1 X_PHASES=3 PROLOGUE=0 HAS_ORDER=0", {1.73, 1.21, 0.91, 0.87, 0.89, 0.91, 0.91, 0.91, 0.91, 0.91, 0.91}},
    {"linear_decode", "TILES=1 X_PHASES=4 PROLOGUE=0 HAS_ORDER=0", {0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85}},
    {"linear_decode", "TILES=1 X_PHASES=7 PROLOGUE=0 HAS_ORDER=0", {0.90, 0.90, 0.90, 0.90, 0.89, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90}},
    {"linear_decode", "TILES=2 X_PHASES=1 PROLOGUE=0 HAS_ORDER=0", {1.31, 1.27, 1.21, 0.98, 0.55, 0.98, 0.98, 0.98, 0.98, 0.98, 0.98}},
    {"linear_decode", "TILES=2 X_PHASES=1 PROLOGUE=1 HAS_ORDER=0", {1.35, 1.28, 1.13, 0.92, 0.55, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92}},
    {"linear_decode", "TILES=2 X_PHASES=1 PROLOGUE=1 HAS_ORDER=1", {1.16, 0.61, 0.39, 0.57, 0.55, 0.57, 0.57, 0.57, 0.57, 0.57, 0.57}},
    {"linear_decode", "TILES=2 X_PHASES=2 PROLOGUE=0 HAS_ORDER=0", {1.28, 1.10, 0.90, 0.71, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55}},
    {"linear_decode", "TILES=2 X_PHASES=4 PROLOGUE=0 HAS_ORDER=0", {1.24, 1.13, 0.93, 0.68, 0.55, 0.68, 0.68, 0.68, 0.68, 0.68, 0.68}},
    {"linear_decode", "TILES=2 X_PHASES=7 PROLOGUE=0 HAS_ORDER=0", {1.23, 1.15, 0.89, 0.59, 0.55, 0.59, 0.59, 0.59, 0.59, 0.59, 0.59}},
    {"linear_decode", "TILES=1", {1.37, 1.25, 1.09, 0.87, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89}},
    {"linear_decode", "TILES=2", {1.28, 1.15, 1.00, 0.81, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55}},
    {"linear_gemm", "BLOCK_TOKENS=32 WARP_TILES=1", {0.44, 0.46, 0.48, 0.53, 0.63, 0.54, 0.62, 0.75, 0.77, 0.77, 0.76}},
    {"linear_gemm", "BLOCK_TOKENS=32 WARP_TILES=2", {0.62, 0.64, 0.65, 0.67, 0.66, 0.65, 0.60, 0.70, 0.81, 0.83, 0.82}},
    {"linear_gemm", "BLOCK_TOKENS=64 WARP_TILES=1", {0.43, 0.45, 0.45, 0.47, 0.54, 0.68, 0.66, 0.77, 0.88, 0.87, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=64 WARP_TILES=2", {0.65, 0.66, 0.67, 0.68, 0.72, 0.80, 0.71, 0.72, 0.85, 0.88, 0.85}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=1", {0.43, 0.44, 0.45, 0.47, 0.49, 0.57, 0.73, 0.75, 0.88, 0.89, 0.85}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=2", {0.65, 0.66, 0.67, 0.69, 0.71, 0.79, 0.83, 0.75, 0.76, 0.89, 0.91}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=4", {0.84, 0.85, 0.85, 0.87, 0.89, 0.89, 0.88, 0.87, 0.86, 0.84, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=32", {0.52, 0.54, 0.56, 0.59, 0.64, 0.59, 0.61, 0.73, 0.79, 0.80, 0.79}},
    {"linear_gemm", "BLOCK_TOKENS=64", {0.53, 0.54, 0.55, 0.57, 0.63, 0.73, 0.68, 0.75, 0.86, 0.87, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=128", {0.61, 0.63, 0.64, 0.65, 0.67, 0.74, 0.81, 0.79, 0.83, 0.87, 0.87}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=1 SPREAD=1 EVEN=0", {0.96, 0.97, 0.98, 0.98, 0.93, 0.90, 0.87, 0.85, 0.84, 0.85, 0.84}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=2 SPREAD=1 EVEN=0", {0.85, 0.90, 0.92, 0.92, 0.87, 0.83, 0.81, 0.79, 0.79, 0.79, 0.79}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=4 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.00, 1.00, 1.01, 1.01, 0.66, 0.65, 0.62, 0.60, 0.59, 0.59, 0.59}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.88, 0.93, 1.05, 1.14, 1.15, 1.11, 1.08, 1.05, 1.01, 1.02, 1.01}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=1 SPREAD=1 EVEN=0", {0.88, 0.92, 1.05, 1.14, 1.16, 1.13, 1.11, 1.08, 1.05, 1.06, 1.03}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=2 SPREAD=1 EVEN=0", {0.76, 0.81, 0.96, 1.00, 1.06, 1.02, 0.99, 0.96, 0.94, 0.95, 0.94}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {0.90, 0.91, 0.92, 0.93, 0.94, 0.88, 0.84, 0.81, 0.77, 0.77, 0.77}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=1", {0.73, 0.75, 0.78, 0.79, 0.78, 0.81, 0.81, 0.79, 0.76, 0.77, 0.76}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=4 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.69, 0.69, 0.69, 0.69, 0.68, 0.61, 0.60, 0.57, 0.53, 0.52, 0.53}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.90, 0.93, 0.98, 1.03, 1.14, 1.38, 1.35, 1.32, 1.23, 1.19, 1.20}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=2 SPREAD=1 EVEN=0", {0.73, 0.76, 0.90, 0.85, 0.94, 1.20, 1.16, 1.12, 1.06, 1.03, 1.06}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.91, 0.91, 0.93, 0.94, 0.95, 0.94, 0.92, 0.89, 0.81, 0.76, 0.76}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {0.86, 0.89, 0.90, 0.92, 0.94, 1.13, 1.65, 1.59, 1.51, 1.39, 1.25}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=2 SPREAD=1 EVEN=0", {0.68, 0.70, 0.84, 0.74, 0.78, 0.93, 1.38, 1.35, 1.23, 1.13, 1.08}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.99, 0.99, 1.01, 1.01, 1.03, 1.09, 1.10, 1.07, 0.99, 0.90, 0.83}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.70, 0.72, 0.78, 0.74, 0.75, 0.85, 0.94, 0.94, 0.89, 0.80, 0.78}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=2 SPREAD=1 EVEN=0", {0.74, 0.76, 0.86, 0.78, 0.81, 0.89, 1.00, 0.94, 0.86, 0.76, 0.76}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=1 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.41, 0.57, 0.57, 0.54, 0.52, 0.55, 0.57, 1.06, 1.00, 0.91, 0.86}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.08, 1.09, 1.13, 1.13, 1.12, 1.16, 1.21, 1.24, 1.22, 1.12, 0.96}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.74, 0.76, 0.83, 0.77, 0.76, 0.81, 0.86, 1.06, 1.06, 0.99, 0.85}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.86, 1.05, 1.05, 1.03, 1.00, 1.04, 1.06, 1.23, 1.18, 1.05, 0.98}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=1", {0.65, 0.81, 0.81, 0.78, 0.77, 0.79, 0.80, 1.07, 1.05, 0.98, 0.93}},
    {"linear_wgmma", "BLOCK_TOKENS=16", {0.94, 0.96, 0.97, 0.97, 0.81, 0.79, 0.76, 0.74, 0.73, 0.73, 0.73}},
    {"linear_wgmma", "BLOCK_TOKENS=32", {0.80, 0.83, 0.90, 0.93, 0.94, 0.91, 0.88, 0.85, 0.82, 0.82, 0.82}},
    {"linear_wgmma", "BLOCK_TOKENS=64", {0.84, 0.86, 0.93, 0.94, 1.01, 1.16, 1.13, 1.09, 1.02, 0.98, 0.99}},
    {"linear_wgmma", "BLOCK_TOKENS=128", {0.78, 0.80, 0.88, 0.83, 0.85, 0.97, 1.19, 1.15, 1.07, 0.97, 0.92}},
    {"linear_wgmma", "BLOCK_TOKENS=256", {0.72, 0.83, 0.85, 0.82, 0.81, 0.84, 0.87, 1.13, 1.10, 1.01, 0.91}},
};
// clang-format on
enum { LINES = sizeof table / sizeof *table };

// Has the candidate every parameter that `cut` names?
static bool cut_matches(const char *cut, const Params *params) {
    while (*cut) {
        size_t length = strcspn(cut, "=");
        int64_t value = strtoll(cut + length + 1, NULL, 10);
        bool found = false;
        for (int at = 0; at < params->count && !found; at++) {
            const Param *p = &params->items[at];
            found = strncmp(p->name, cut, length) == 0 && !p->name[length] && p->value == value;
        }
        if (!found)
            return false;
        cut += strcspn(cut, " ");
        cut += strspn(cut, " ");
    }
    return true;
}

static double share_at(const Efficiency *e, double tokens) {
    int at = 0;
    while (at < POINTS - 2 && tokens > point_tokens[at + 1])
        at++;
    double low = log(point_tokens[at]), high = log(point_tokens[at + 1]);
    double part = (log(tokens) - low) / (high - low);
    part = part < 0 ? 0 : part > 1 ? 1 : part;
    return e->share[at] + part * (e->share[at + 1] - e->share[at]);
}

double kernel_efficiency(const char *kernel, const Params *params, int64_t tokens) {
    for (int at = 0; at < LINES; at++)
        if (strcmp(table[at].kernel, kernel) == 0 && cut_matches(table[at].cut, params))
            return share_at(&table[at], (double)tokens);
    return 1;
}

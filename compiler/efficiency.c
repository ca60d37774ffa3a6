// What kernels reach of what their cost models promise, measured: the models know how work is cut,
// this table knows the machine. A line holds measured over predicted speed of one way to cut (the
// parameters that it names) at eleven numbers of tokens, means over layers of 2048 to 28672 inputs; in
// between it is interpolated over the logarithm of the tokens. A cut that has no line counts as 1.
//
// Measured by tests/gpu_kernels_bench.c --all --json on one H200 and printed by
// tests/fit_efficiency.py: linear_wgmma from the last run, linear_decode and linear_gemm from the one
// before it, since in a fit of all together wgmma wins a tie that it loses (28672 inputs, 8 tokens, 15 %).
// Other targets have the rates of target.c, and these shares carried over.
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
    {"linear_decode", "TILES=1 X_PHASES=1 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.28, 1.26, 1.19, 0.99, 0.90, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99}},
    {"linear_decode", "TILES=1 X_PHASES=1 CLUSTER=1 PROLOGUE=1 HAS_ORDER=0", {1.32, 1.24, 1.09, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90}},
    {"linear_decode", "TILES=1 X_PHASES=1 CLUSTER=1 PROLOGUE=1 HAS_ORDER=1", {1.13, 0.99, 0.82, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26, 0.26}},
    {"linear_decode", "TILES=1 X_PHASES=1 CLUSTER=2 PROLOGUE=0 HAS_ORDER=0", {1.22, 1.16, 1.07, 0.96, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85}},
    {"linear_decode", "TILES=1 X_PHASES=1 CLUSTER=4 PROLOGUE=0 HAS_ORDER=0", {1.12, 1.10, 1.06, 1.03, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95}},
    {"linear_decode", "TILES=1 X_PHASES=2 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.71, 1.30, 0.97, 0.97, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89, 0.89}},
    {"linear_decode", "TILES=1 X_PHASES=3 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.76, 1.21, 0.91, 0.90, 0.90, 0.91, 0.91, 0.91, 0.91, 0.91, 0.91}},
    {"linear_decode", "TILES=1 X_PHASES=4 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {0.86, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86, 0.86}},
    {"linear_decode", "TILES=1 X_PHASES=7 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90}},
    {"linear_decode", "TILES=2 X_PHASES=1 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.28, 1.25, 1.19, 0.98, 0.57, 0.98, 0.98, 0.98, 0.98, 0.98, 0.98}},
    {"linear_decode", "TILES=2 X_PHASES=1 CLUSTER=1 PROLOGUE=1 HAS_ORDER=0", {1.39, 1.29, 1.13, 0.92, 0.57, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92}},
    {"linear_decode", "TILES=2 X_PHASES=1 CLUSTER=1 PROLOGUE=1 HAS_ORDER=1", {1.16, 0.60, 0.40, 0.56, 0.56, 0.56, 0.56, 0.56, 0.56, 0.56, 0.56}},
    {"linear_decode", "TILES=2 X_PHASES=1 CLUSTER=4 PROLOGUE=0 HAS_ORDER=0", {1.24, 1.22, 1.17, 0.81, 0.58, 0.58, 0.58, 0.58, 0.58, 0.58, 0.58}},
    {"linear_decode", "TILES=2 X_PHASES=2 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.26, 1.10, 0.90, 0.71, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55}},
    {"linear_decode", "TILES=2 X_PHASES=4 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.25, 1.14, 0.93, 0.68, 0.57, 0.68, 0.68, 0.68, 0.68, 0.68, 0.68}},
    {"linear_decode", "TILES=2 X_PHASES=7 CLUSTER=1 PROLOGUE=0 HAS_ORDER=0", {1.25, 1.15, 0.89, 0.59, 0.57, 0.59, 0.59, 0.59, 0.59, 0.59, 0.59}},
    {"linear_decode", "TILES=1", {1.30, 1.21, 1.09, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90, 0.90}},
    {"linear_decode", "TILES=2", {1.27, 1.16, 1.02, 0.81, 0.57, 0.57, 0.57, 0.57, 0.57, 0.57, 0.57}},
    {"linear_gemm", "BLOCK_TOKENS=32 WARP_TILES=1", {0.44, 0.46, 0.49, 0.54, 0.64, 0.54, 0.62, 0.75, 0.77, 0.76, 0.75}},
    {"linear_gemm", "BLOCK_TOKENS=32 WARP_TILES=2", {0.63, 0.66, 0.67, 0.68, 0.67, 0.65, 0.61, 0.70, 0.80, 0.83, 0.81}},
    {"linear_gemm", "BLOCK_TOKENS=64 WARP_TILES=1", {0.43, 0.46, 0.47, 0.48, 0.55, 0.69, 0.67, 0.77, 0.87, 0.86, 0.82}},
    {"linear_gemm", "BLOCK_TOKENS=64 WARP_TILES=2", {0.65, 0.67, 0.68, 0.69, 0.72, 0.81, 0.72, 0.72, 0.84, 0.87, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=1", {0.43, 0.46, 0.46, 0.47, 0.49, 0.58, 0.74, 0.75, 0.88, 0.88, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=2", {0.66, 0.67, 0.68, 0.69, 0.72, 0.80, 0.84, 0.77, 0.76, 0.89, 0.90}},
    {"linear_gemm", "BLOCK_TOKENS=128 WARP_TILES=4", {0.84, 0.86, 0.86, 0.88, 0.90, 0.90, 0.88, 0.87, 0.86, 0.83, 0.84}},
    {"linear_gemm", "BLOCK_TOKENS=32", {0.53, 0.55, 0.57, 0.60, 0.65, 0.60, 0.62, 0.72, 0.79, 0.80, 0.78}},
    {"linear_gemm", "BLOCK_TOKENS=64", {0.53, 0.55, 0.56, 0.58, 0.63, 0.75, 0.69, 0.75, 0.86, 0.86, 0.83}},
    {"linear_gemm", "BLOCK_TOKENS=128", {0.62, 0.64, 0.65, 0.66, 0.68, 0.75, 0.82, 0.80, 0.83, 0.87, 0.86}},
    // the same day, large products rested
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=1 SPREAD=1 EVEN=0", {1.15, 1.19, 1.21, 1.21, 1.07, 1.06, 1.05, 0.99, 1.04, 1.03, 1.05}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=2 SPREAD=1 EVEN=0", {1.05, 1.06, 1.06, 1.06, 0.97, 0.96, 0.95, 0.91, 0.96, 0.94, 0.96}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=16 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {1.56, 1.57, 1.57, 1.56, 1.10, 1.19, 1.19, 1.08, 1.18, 1.16, 1.16}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.94, 0.97, 1.06, 1.09, 1.10, 1.13, 1.11, 1.00, 1.08, 1.03, 1.06}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=2 SPREAD=1 EVEN=0", {0.83, 0.87, 1.07, 1.10, 1.11, 1.11, 1.11, 1.02, 1.10, 1.08, 1.11}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=32 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {1.05, 1.05, 1.05, 1.05, 1.06, 1.02, 1.09, 1.06, 1.06, 1.06, 1.06}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.88, 0.92, 0.98, 1.05, 1.15, 1.39, 1.51, 1.37, 1.46, 1.41, 1.34}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=2 SPREAD=1 EVEN=0", {0.74, 0.74, 0.98, 0.86, 1.01, 1.40, 1.42, 1.28, 1.40, 1.34, 1.29}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=64 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.04, 1.06, 1.14, 1.12, 1.14, 1.29, 1.20, 1.19, 1.23, 1.23, 1.15}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=64 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.91, 0.92, 0.99, 0.97, 1.01, 1.05, 1.08, 1.08, 1.06, 1.05, 1.02}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {0.80, 0.83, 0.87, 0.89, 0.91, 1.11, 1.83, 1.86, 1.86, 1.85, 1.68}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=2 SPREAD=1 EVEN=0", {0.67, 0.67, 0.86, 0.72, 0.80, 0.94, 1.71, 1.69, 1.69, 1.61, 1.53}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.01, 1.02, 1.12, 1.06, 1.04, 1.16, 1.31, 1.27, 1.30, 1.30, 1.29}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=2 SPREAD=1 EVEN=0", {0.83, 0.83, 1.02, 0.88, 0.96, 1.06, 1.25, 1.24, 1.25, 1.19, 1.10}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.08, 1.09, 1.11, 1.10, 1.09, 1.11, 1.13, 1.09, 1.10, 1.06, 1.06}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.84, 0.84, 0.87, 0.88, 0.90, 1.01, 1.06, 1.04, 1.03, 1.02, 1.00}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=2 SPREAD=1 EVEN=0", {0.82, 0.83, 0.93, 0.85, 0.88, 0.95, 1.00, 0.99, 0.97, 0.94, 0.89}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=256 ROW_GROUPS=1 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.43, 0.57, 0.56, 0.54, 0.53, 0.55, 0.58, 1.18, 1.18, 1.18, 1.15}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.96, 0.97, 1.05, 1.00, 0.94, 1.01, 1.05, 1.25, 1.23, 1.25, 1.24}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.71, 0.72, 0.78, 0.74, 0.72, 0.79, 0.86, 1.20, 1.21, 1.18, 1.03}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.74, 0.93, 0.93, 0.86, 0.86, 0.87, 0.89, 1.13, 1.16, 1.14, 1.13}},
    {"linear_wgmma", "BITS=8 BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=1", {0.61, 0.78, 0.76, 0.74, 0.73, 0.74, 0.76, 1.11, 1.11, 1.10, 1.08}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=1 SPREAD=1 EVEN=0", {1.08, 1.10, 1.15, 1.14, 1.16, 1.14, 1.12, 1.09, 1.10, 1.09, 1.09}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=2 SPREAD=1 EVEN=0", {0.95, 1.03, 1.07, 1.07, 1.04, 1.01, 0.99, 0.97, 0.98, 0.98, 0.98}},
    {"linear_wgmma", "BLOCK_TOKENS=16 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {1.13, 1.12, 1.13, 1.13, 0.94, 0.94, 0.93, 0.89, 0.91, 0.89, 0.89}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.92, 0.98, 1.16, 1.28, 1.33, 1.35, 1.35, 1.31, 1.35, 1.30, 1.26}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=2 SPREAD=1 EVEN=0", {0.84, 0.90, 1.10, 1.14, 1.24, 1.21, 1.19, 1.14, 1.18, 1.15, 1.15}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=1 K_GROUPS=4 CLUSTER=2 SPREAD=1 EVEN=0", {0.83, 0.88, 1.07, 1.10, 1.21, 1.18, 1.16, 1.11, 1.14, 1.12, 1.13}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {1.01, 1.04, 1.07, 1.09, 1.10, 1.03, 1.04, 1.00, 1.03, 0.97, 0.95}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=1", {0.84, 0.86, 0.93, 0.95, 0.95, 1.01, 1.02, 0.99, 1.02, 0.98, 0.94}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.84, 0.84, 0.84, 0.84, 0.84, 0.83, 0.83, 0.80, 0.80, 0.80, 0.80}},
    {"linear_wgmma", "BLOCK_TOKENS=32 ROW_GROUPS=4 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.78, 0.79, 0.79, 0.80, 0.80, 0.76, 0.76, 0.73, 0.73, 0.69, 0.66}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=1 SPREAD=1 EVEN=0", {0.92, 0.97, 1.04, 1.09, 1.23, 1.66, 1.67, 1.65, 1.67, 1.61, 1.55}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=1 K_GROUPS=3 CLUSTER=2 SPREAD=1 EVEN=0", {0.78, 0.81, 0.99, 0.92, 1.05, 1.47, 1.44, 1.38, 1.40, 1.37, 1.29}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.94, 0.96, 0.99, 0.99, 1.03, 1.02, 0.99, 0.98, 1.00, 0.94, 0.86}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=2 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {1.01, 1.03, 1.07, 1.09, 1.15, 1.19, 1.16, 1.15, 1.17, 1.10, 1.03}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.82, 0.84, 0.88, 0.87, 0.89, 0.90, 0.91, 0.87, 0.88, 0.81, 0.75}},
    {"linear_wgmma", "BLOCK_TOKENS=64 ROW_GROUPS=4 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.93, 0.93, 0.94, 0.95, 0.96, 0.97, 0.86, 0.85, 0.90, 0.84, 0.78}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=1 SPREAD=1 EVEN=0", {0.87, 0.92, 0.96, 0.94, 0.96, 1.18, 1.94, 1.92, 1.90, 1.84, 1.70}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=1 K_GROUPS=2 CLUSTER=2 SPREAD=1 EVEN=0", {0.72, 0.74, 0.91, 0.79, 0.83, 1.01, 1.70, 1.62, 1.55, 1.46, 1.34}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.97, 0.99, 1.04, 1.02, 1.02, 1.12, 1.18, 1.15, 1.16, 1.13, 1.06}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=2 SPREAD=1 EVEN=0", {0.74, 0.76, 0.89, 0.79, 0.82, 0.94, 1.09, 1.07, 1.08, 1.01, 0.90}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {1.09, 1.10, 1.11, 1.11, 1.12, 1.14, 1.13, 1.11, 1.15, 1.10, 1.03}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.96, 0.97, 1.03, 1.00, 1.01, 1.11, 1.12, 1.14, 1.12, 1.09, 1.04}},
    {"linear_wgmma", "BLOCK_TOKENS=128 ROW_GROUPS=3 K_GROUPS=1 CLUSTER=2 SPREAD=1 EVEN=0", {0.87, 0.90, 0.96, 0.90, 0.91, 1.01, 1.05, 1.02, 1.03, 1.00, 0.92}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=1 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.39, 0.55, 0.54, 0.51, 0.50, 0.53, 0.55, 1.14, 1.13, 1.11, 1.03}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=0", {0.97, 1.00, 1.03, 1.01, 1.00, 1.05, 1.11, 1.18, 1.17, 1.14, 1.09}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=1 EVEN=1", {0.76, 0.77, 0.86, 0.79, 0.78, 0.84, 0.90, 1.14, 1.13, 1.09, 1.01}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=0", {0.77, 0.95, 0.95, 0.92, 0.90, 0.94, 0.95, 1.14, 1.16, 1.14, 1.09}},
    {"linear_wgmma", "BLOCK_TOKENS=256 ROW_GROUPS=2 K_GROUPS=1 CLUSTER=1 SPREAD=2 EVEN=1", {0.67, 0.83, 0.83, 0.80, 0.79, 0.82, 0.83, 1.14, 1.14, 1.11, 1.06}},
    {"linear_wgmma", "BLOCK_TOKENS=16", {1.05, 1.08, 1.11, 1.11, 1.04, 1.03, 1.01, 0.98, 0.99, 0.98, 0.98}},
    {"linear_wgmma", "BLOCK_TOKENS=32", {0.87, 0.90, 1.01, 1.04, 1.07, 1.05, 1.05, 1.01, 1.06, 1.02, 1.00}},
    {"linear_wgmma", "BLOCK_TOKENS=64", {0.90, 0.92, 0.98, 0.98, 1.04, 1.17, 1.14, 1.12, 1.14, 1.08, 1.01}},
    {"linear_wgmma", "BLOCK_TOKENS=128", {0.88, 0.90, 0.98, 0.93, 0.95, 1.07, 1.28, 1.26, 1.26, 1.21, 1.12}},
    {"linear_wgmma", "BLOCK_TOKENS=256", {0.68, 0.80, 0.82, 0.79, 0.77, 0.81, 0.85, 1.15, 1.15, 1.12, 1.05}},
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

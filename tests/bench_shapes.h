// What gpu_kernels_bench times: layers of real models, the numbers that others reach on them, and
// the bars. Peers were measured elsewhere, on one H200 (CUDA 13.0, PyTorch 2.11, driver 580), fp16,
// 4-bit symmetric g128, in CUDA graphs over rotating weights of more than 250 MB, median of 7: the
// best of Marlin (a), Machete (e) and cuBLAS fp16 with dense weights (f), in microseconds.
#ifndef BENCH_SHAPES_H
#define BENCH_SHAPES_H

#include "tests/linear_lab.h"

enum { BENCH_COUNTS = 12, BENCH_LAYERS_MAX = 40 };
static const int64_t bench_counts[BENCH_COUNTS] = {1,   4,   8,   16,   32,   64,
                                                   128, 256, 512, 1024, 2048, 4096};

typedef struct BenchLayer {
    Case c;
    const char *set;  // "peers", "formats", "fused", "head"
    const char *base; // formats: the layer that its time is compared with
    double peer_us[BENCH_COUNTS];
    char peer[BENCH_COUNTS + 1];
} BenchLayer;

typedef struct BenchBar {
    int first, count; // of bench_counts
    double mean, least;
} BenchBar;

static const BenchBar bench_bars[] = {{0, 4, 1.4, 1.1}, {4, 4, 1.25, 1.0}, {8, 4, 1.04, 0.97}};

// clang-format off
#define PLAIN(label, k, n) {label, 4, 128, k, {n}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE}
static const BenchLayer bench_layers[] = {
    {PLAIN("8B qkv", 4096, 6144), .set = "peers", .peer_us =
     {10.0, 10.2, 10.3, 11.5, 16.1, 16.3, 16.9, 22.4, 37.8, 71.9, 136.9, 282.7}, .peer = "aaaaffffffee"},
    {PLAIN("8B o", 4096, 4096), .set = "peers", .peer_us =
     {10.1, 9.4, 9.4, 10.5, 12.9, 11.7, 13.7, 17.2, 25.6, 47.1, 92.6, 199.7}, .peer = "aaaaffffffff"},
    {PLAIN("8B gate_up", 4096, 28672), .set = "peers", .peer_us =
     {30.7, 28.8, 27.2, 28.6, 30.8, 43.7, 54.8, 89.1, 170.1, 320.3, 657.4, 1370.1}, .peer = "aaaeeeeeeefe"},
    {PLAIN("8B down", 14336, 4096), .set = "peers", .peer_us =
     {23.2, 16.5, 16.5, 18.7, 29.5, 28.6, 36.1, 49.2, 81.6, 156.5, 316.1, 694.2}, .peer = "aaaaaeffffff"},
    {PLAIN("70B gate_up", 8192, 57344), .set = "peers", .peer_us =
     {116.4, 84.8, 85.6, 97.0, 110.1, 142.1, 182.9, 319.8, 653.1, 1250.7, 2596.5, 5570.7}, .peer = "aaaaeeeefeee"},
    {PLAIN("70B down", 28672, 8192), .set = "peers", .peer_us =
     {47.6, 47.0, 43.8, 50.5, 57.8, 74.6, 98.3, 163.2, 310.7, 620.5, 1242.5, 2748.8}, .peer = "aaaaeeeeeeee"},
    {PLAIN("1B gate_up", 2048, 16384), .set = "peers", .peer_us =
     {9.4, 9.4, 9.4, 10.0, 13.8, 13.7, 16.7, 26.2, 49.8, 96.0, 189.2, 383.9}, .peer = "aaaaaeeeeefe"},
    {PLAIN("1B down", 8192, 2048), .set = "peers", .peer_us =
     {13.2, 13.1, 13.2, 13.3, 13.6, 13.9, 15.4, 19.1, 26.9, 47.0, 95.6, 187.2}, .peer = "ffffffffffff"},
    {PLAIN("Q7B gate_up", 3584, 37888), .set = "peers", .peer_us =
     {33.1, 30.3, 30.6, 34.9, 38.2, 48.8, 62.8, 102.5, 192.6, 366.6, 733.6, 1471.2}, .peer = "aaaaeeeeeeee"},

    {{"8B gate_up g32", 4, 32, 4096, {28672}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
     .set = "formats", .base = "8B gate_up"},
    {{"8B gate_up zeros", 4, 128, 4096, {28672}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .zeros = true},
     .set = "formats", .base = "8B gate_up"},
    {{"8B gate_up bf16", 4, 128, 4096, {28672}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .bf16 = true},
     .set = "formats", .base = "8B gate_up"},
    {{"8B gate_up 8 bits", 8, 128, 4096, {28672}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
     .set = "formats", .base = "8B gate_up"},
    {{"8B gate_up order", 4, 128, 4096, {14336, 14336}, ROWS_GATE_UP, PROLOGUE_NORM, EPILOGUE_ACT_MUL,
      .act_order = true},
     .set = "formats", .base = "8B gate_up fused"},
    {{"8B down g32", 4, 32, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
     .set = "formats", .base = "8B down"},
    {{"8B down zeros", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .zeros = true},
     .set = "formats", .base = "8B down"},
    {{"8B down bf16", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .bf16 = true},
     .set = "formats", .base = "8B down"},
    {{"8B down 8 bits", 8, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE},
     .set = "formats", .base = "8B down"},

    {{"8B qkv fused", 4, 128, 4096, {4096, 1024, 1024}, ROWS_ROPE, PROLOGUE_NORM, EPILOGUE_ROPE_KV,
      .heads = 32, .kv_heads = 8, .head_dim = 128}, .set = "fused"},
    {{"8B o fused", 4, 128, 4096, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD}, .set = "fused"},
    {{"8B gate_up fused", 4, 128, 4096, {14336, 14336}, ROWS_GATE_UP, PROLOGUE_NORM,
      .epilogue = EPILOGUE_ACT_MUL},
     .set = "fused"},
    {{"8B down fused", 4, 128, 14336, {4096}, ROWS_PLAIN, .epilogue = EPILOGUE_ADD}, .set = "fused"},

    {{"8B head", 16, 0, 4096, {128256}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .f32 = true}, .set = "head"},
    {{"1B head", 16, 0, 2048, {128256}, ROWS_PLAIN, .epilogue = EPILOGUE_STORE, .f32 = true}, .set = "head"},
};
#undef PLAIN
// clang-format on
enum { BENCH_LAYERS = sizeof bench_layers / sizeof *bench_layers };

#endif

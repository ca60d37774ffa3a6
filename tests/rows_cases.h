// What is checked of the kernels on rows, emulated and on GPUs: every kind, attribute, type and way
// to cut a row that kernels/ distinguishes.
#ifndef ROWS_CASES_H
#define ROWS_CASES_H

#include "tests/rows_lab.h"

// clang-format off
static const RowsCase rows_cases[] = {
    {.name = "embed", .kind = OP_EMBED, .width = 384, .rows = 8192, .scale = 1},
    {.name = "embed, ragged", .kind = OP_EMBED, .width = 200, .rows = 37, .scale = 1},
    {.name = "embed, ragged, bf16", .kind = OP_EMBED, .width = 216, .rows = 37,
     .scale = 14.25f, .bf16 = true},
    {.name = "embed, scaled, bf16", .kind = OP_EMBED, .width = 128, .rows = 1024, .scale = 11.3125f,
     .bf16 = true},

    {.name = "norm 384", .kind = OP_NORM, .width = 384, .rows = 1, .in_f32 = true},
    {.name = "norm 4096", .kind = OP_NORM, .width = 4096, .rows = 1, .in_f32 = true},
    {.name = "norm 5000, bf16", .kind = OP_NORM, .width = 5000, .rows = 1, .in_f32 = true,
     .bf16 = true},
    {.name = "norm 513, to fp32", .kind = OP_NORM, .width = 513, .rows = 1, .in_f32 = true,
     .out_f32 = true},
    {.name = "norm 2304, to fp32, bf16", .kind = OP_NORM, .width = 2304, .rows = 1, .in_f32 = true,
     .out_f32 = true, .bf16 = true},
    {.name = "norm 2050 of act", .kind = OP_NORM, .width = 2050, .rows = 1},
    {.name = "norm 128, bf16", .kind = OP_NORM, .width = 128, .rows = 1, .in_f32 = true,
     .bf16 = true},
    {.name = "norm 4 heads of 64", .kind = OP_NORM, .width = 64, .rows = 4},
    {.name = "norm 3 heads of 40", .kind = OP_NORM, .width = 40, .rows = 3},
    {.name = "norm 40 heads of 128, bf16", .kind = OP_NORM, .width = 128, .rows = 40, .bf16 = true},
    {.name = "norm 9 heads of 30", .kind = OP_NORM, .width = 30, .rows = 9},
    {.name = "norm 2 heads of 600", .kind = OP_NORM, .width = 600, .rows = 2},
    {.name = "norm 70, ordered to 93", .kind = OP_NORM, .width = 70, .rows = 1, .out = 93,
     .in_f32 = true},
    {.name = "norm 4096, ordered, bf16", .kind = OP_NORM, .width = 4096, .rows = 1, .out = 4224,
     .in_f32 = true, .bf16 = true},
    {.name = "norm 8192", .kind = OP_NORM, .width = 8192, .rows = 1, .in_f32 = true},
    {.name = "norm 32768", .kind = OP_NORM, .width = 32768, .rows = 1, .in_f32 = true},

    {.name = "rope 3 heads of 64", .kind = OP_ROPE, .width = 64, .rows = 3, .out = 32, .scale = 1},
    {.name = "rope 20 of 80", .kind = OP_ROPE, .width = 80, .rows = 2, .out = 10, .scale = 1.19f},
    {.name = "rope 24 of 32, bf16", .kind = OP_ROPE, .width = 32, .rows = 4, .out = 12, .scale = 1,
     .bf16 = true},
    {.name = "rope 5 heads of 96", .kind = OP_ROPE, .width = 96, .rows = 5, .out = 48, .scale = 1},
    {.name = "rope 40 heads of 128", .kind = OP_ROPE, .width = 128, .rows = 40, .out = 64,
     .scale = 1},
    {.name = "rope 256, bf16", .kind = OP_ROPE, .width = 256, .rows = 2, .out = 128, .scale = 1,
     .bf16 = true},
    {.name = "rope 6 of 14", .kind = OP_ROPE, .width = 14, .rows = 3, .out = 3, .scale = 0.5f},

    {.name = "kv_append 4 heads of 64", .kind = OP_KV_APPEND, .width = 64, .rows = 4},
    {.name = "kv_append 3 heads of 80", .kind = OP_KV_APPEND, .width = 80, .rows = 3},
    {.name = "kv_append 1 head of 256", .kind = OP_KV_APPEND, .width = 256, .rows = 1},
    {.name = "kv_append 2 of 32, bf16", .kind = OP_KV_APPEND, .width = 32, .rows = 2, .bf16 = true},
    {.name = "kv_append 16 heads of 128", .kind = OP_KV_APPEND, .width = 128, .rows = 16},

    {.name = "silu 203", .kind = OP_ACT_MUL, .width = 203, .act = ACT_SILU},
    {.name = "silu 8192, bf16", .kind = OP_ACT_MUL, .width = 8192, .act = ACT_SILU, .bf16 = true},
    {.name = "gelu by tanh 1000", .kind = OP_ACT_MUL, .width = 1000, .act = ACT_GELU_TANH},
    {.name = "gelu by tanh 2058, bf16", .kind = OP_ACT_MUL, .width = 2058, .act = ACT_GELU_TANH,
     .bf16 = true},
    {.name = "gelu 1001", .kind = OP_ACT_MUL, .width = 1001, .act = ACT_GELU},
    {.name = "gelu 256, bf16", .kind = OP_ACT_MUL, .width = 256, .act = ACT_GELU, .bf16 = true},

    {.name = "add 4096", .kind = OP_ADD, .width = 4096, .scale = 1},
    {.name = "add 203, scaled", .kind = OP_ADD, .width = 203, .scale = 0.22f},
    {.name = "add 128, apart, bf16", .kind = OP_ADD, .width = 128, .scale = 0.22f, .apart = true,
     .bf16 = true},
    {.name = "add 66 of fp32", .kind = OP_ADD, .width = 66, .scale = -1.5f, .in_f32 = true},
    {.name = "add 2304, apart, fp32", .kind = OP_ADD, .width = 2304, .scale = 1, .in_f32 = true,
     .apart = true},

    {.name = "permute 96 to 130", .kind = OP_PERMUTE, .width = 96, .out = 130},
    {.name = "permute 96 to 33", .kind = OP_PERMUTE, .width = 96, .out = 33},
    {.name = "permute 4096, bf16", .kind = OP_PERMUTE, .width = 4096, .out = 4096, .bf16 = true},

    {.name = "route 2 of 4", .kind = OP_ROUTE, .width = 4, .rows = 2, .normalize = true},
    {.name = "route 4 of 60", .kind = OP_ROUTE, .width = 60, .rows = 4},
    {.name = "route 8 of 128", .kind = OP_ROUTE, .width = 128, .rows = 8, .normalize = true},
    {.name = "route 33 of 65", .kind = OP_ROUTE, .width = 65, .rows = 33, .normalize = true},
    {.name = "route 64 of 64", .kind = OP_ROUTE, .width = 64, .rows = 64},
    {.name = "route 6 of 1024", .kind = OP_ROUTE, .width = 1024, .rows = 6},
    {.name = "route 1 of 1", .kind = OP_ROUTE, .width = 1, .rows = 1},

    {.name = "gather 384", .kind = OP_GATHER, .width = 384},
    {.name = "gather 70", .kind = OP_GATHER, .width = 70},
    {.name = "gather 2203", .kind = OP_GATHER, .width = 2203},
};
// clang-format on
enum { ROWS_CASES = sizeof rows_cases / sizeof *rows_cases };

#endif

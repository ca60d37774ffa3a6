// One small linear for every way in which weights can be stored, with prologues and epilogues dealt
// out over them.
#ifndef LINEAR_FORMATS_H
#define LINEAR_FORMATS_H

#include "tests/linear_lab.h"

enum { FORMAT_COUNT = 2 * 4 * 2 * 2 * 2 + 2 };

typedef struct Formats {
    Case cases[FORMAT_COUNT];
    char names[FORMAT_COUNT][24];
} Formats;

// The op around the weights.
static inline void format_op(Case *c, int kind) {
    const Case ops[] = {
        {.out = {77}, .epilogue = EPILOGUE_STORE, .bias = true, .f32 = true, .scale = 0.25f,
         .softcap = 1.5f},
        {.out = {40, 40}, .order = ROWS_GATE_UP, .prologue = PROLOGUE_NORM,
         .epilogue = EPILOGUE_ACT_MUL, .act_order = true},
        {.out = {72}, .epilogue = EPILOGUE_ADD, .scale = 3},
        {.out = {64, 32, 32}, .order = ROWS_ROPE, .prologue = PROLOGUE_NORM,
         .epilogue = EPILOGUE_ROPE_KV, .heads = 2, .kv_heads = 1, .head_dim = 32,
         .act_order = true},
        {.out = {48}, .epilogue = EPILOGUE_STORE, .prologue = PROLOGUE_NORM, .bias = true},
    };
    Case op = ops[kind];
    op.name = c->name;
    op.bits = c->bits;
    op.group_size = c->group_size;
    op.in = c->in;
    op.zeros = c->zeros;
    op.scale_f32 = c->scale_f32;
    op.bf16 = c->bf16;
    op.act_order = op.act_order && c->bits != 16;
    *c = op;
}

static inline void formats_make(Formats *f) {
    static const int64_t groups[] = {16, 32, 64, 128};
    static const int64_t inputs[] = {464, 1080, 656};
    for (int at = 0; at < FORMAT_COUNT; at++) {
        Case *c = &f->cases[at];
        bool plain = at >= FORMAT_COUNT - 2;
        *c = (Case){.name = f->names[at], .in = inputs[at % 3], .bf16 = at & 1};
        if (plain) {
            c->bits = 16;
        } else {
            c->zeros = at & 2;
            c->scale_f32 = at & 4;
            c->group_size = groups[at / 8 % 4];
            c->bits = at < 32 ? 4 : 8;
        }
        snprintf(f->names[at], sizeof f->names[at], "%dbit_g%d%s%s%s", c->bits, (int)c->group_size,
                 c->zeros ? "_z" : "", c->scale_f32 ? "_s32" : "", c->bf16 ? "_bf16" : "");
        format_op(c, (at + at / 8) % 5);
        c->act = at / 5 % 3 == 0 ? ACT_SILU : at / 5 % 3 == 1 ? ACT_GELU_TANH : ACT_GELU;
    }
}

#endif

// A checkpoint of one quantized module "m" in a folder of its own, for tests of gptq.c.
#ifndef GPTQ_BOX_H
#define GPTQ_BOX_H

#include "../../compiler/compile.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

typedef struct Box {
    char dir[FOLDER_BYTES];
    Arena arena;
    Error err;
    Checkpoint checkpoint;
    Weight w;
} Box;

static inline void box_open(Box *b, const FileTensor *tensors, int count) {
    memset(b, 0, sizeof *b);
    folder_make(b->dir);
    tensors_write(b->dir, "model.safetensors", tensors, count);
    if (!checkpoint_open(&b->checkpoint, b->dir, &b->arena, &b->err))
        fail_msg("%s", b->err.message);
}

static inline void box_close(Box *b) {
    folder_remove(b->dir);
    arena_free(&b->arena);
}

static inline bool box_read(Box *b, const QuantConfig *q, int64_t k, int64_t n, bool wants_bias) {
    return weight_open(&b->w, &b->checkpoint, q, "m", k, n, wants_bias, &b->arena, &b->err);
}

static inline QuantConfig quant(int bits, int64_t group_size) {
    return (QuantConfig){.present = true,
                         .bits = bits,
                         .group_size = group_size,
                         .sym = true,
                         .quantizer = "",
                         .source = "quantize_config.json"};
}

#endif

// How the words of a module's tensors are read (gptq.c, gptq_codes.c).
#ifndef GPTQ_WORDS_H
#define GPTQ_WORDS_H

#include "compile.h"

#include <string.h>

static inline uint32_t word_at(const unsigned char *data, int64_t index) {
    uint32_t word; // little-endian in the file, as on every machine that we run on
    memcpy(&word, data + index * (int64_t)sizeof word, sizeof word);
    return word;
}

// Entry k of g_idx: I32 or I64.
static inline int64_t g_idx_at(const Tensor *t, int64_t k) {
    int64_t wide;
    if (t->type == TENSOR_I32)
        return (int32_t)word_at(t->data, k);
    memcpy(&wide, t->data + k * 8, sizeof wide);
    return wide;
}

#endif

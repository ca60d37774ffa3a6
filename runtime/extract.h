// What the files of `extract` share (extract.c): the index of modules, and how each is written.
#ifndef EXTRACT_H
#define EXTRACT_H

#include "executable.h"

#include <cjson/cJSON.h>

enum { EXTRACT_NAME_BYTES = 256, EXTRACT_WORD_BITS = 32, QUANT_TENSORS = 4 };

// One linear module: an entry of the index.
typedef struct Linear {
    const char *module;
    int64_t at, bits, group, zeros, scale_f32, bf16, order, head_dim, part, rows, pairs, k,
        k_padded, record_k, record_bytes, inputs, outputs, first_column, columns, input_order,
        row_order;
    const cJSON *features;              // outputs of each part of the packed tensor
    const int32_t *inputs_at, *rows_at; // orders; NULL: none
    int64_t out_at[QUANT_TENSORS];      // where its tensors lie in the new file's data
    unsigned char *out[QUANT_TENSORS];  // the same in the mapping
    bool first; // the first entry of its module: slices of one tensor follow each other
} Linear;

typedef struct Extract {
    const Executable *e;
    const char *dir;
    cJSON *index;
    const unsigned char *data; // of SEGMENT_SOURCE, behind the index
    size_t data_bytes;
    Linear *linears;
    int count;
    unsigned char *file; // model.safetensors, mapped
    size_t file_bytes;
} Extract;

// extract_module.c: the codes, zero points, scales and groups of one module into `out`, which is
// zeroed. v2: zero points as they are; else one less. ERR_CORRUPT.
bool linear_write(const Extract *x, const Linear *l, bool v2, Error *err);
// Groups of inputs with a scale each.
int64_t linear_groups(const Linear *l);

// extract_tensors.c: model.safetensors.
bool weights_write(Extract *x, bool v2, Error *err);

#endif

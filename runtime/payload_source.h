// SEGMENT_SOURCE: what `extract` needs to give the checkpoint back. It starts with SourceHeader, then
// comes an index in JSON, then data, to whose start all "at" of files, tensors and orders count:
//
//   files    [{name, at, bytes}]                  config.json, tokenizer.json, ...
//   tensors  [{name, dtype, shape, at, bytes}]    as in the checkpoint: norms, biases
//   linears  [{module, packed ...}]               one for each linear module, see compiler/source.c
#ifndef PAYLOAD_SOURCE_H
#define PAYLOAD_SOURCE_H

#include <stdint.h>

typedef struct SourceHeader {
    uint64_t index_bytes;
    uint64_t data_bytes;
} SourceHeader;

#endif

// Weights in files of their own (external.c).
#ifndef EXTERNAL_H
#define EXTERNAL_H

#include "memory_limit.h"

// --split-size, rounded down to PAYLOAD_WEIGHTS_ALIGN. ERR_USAGE.
bool split_parse(int64_t *bytes, const char *text, Error *err);
// Cuts the first weights_bytes of `from` into PATH.weights.00001, ... of split_bytes each.
bool parts_write(int from, const char *path, int64_t weights_bytes, int64_t split_bytes,
                 Error *err);

#endif

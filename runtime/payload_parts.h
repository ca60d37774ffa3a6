// Weights beside the executable: FILE.weights.00001, 00002, ... for file systems that limit the size
// of a file (payload_parts.c).
#ifndef PAYLOAD_PARTS_H
#define PAYLOAD_PARTS_H

#include "payload.h"

enum { PAYLOAD_MAX_PARTS = 9999, PAYLOAD_PART_NAME = 4096 };

// Does SEGMENT_WEIGHTS lie in files of its own? Then `reserved` is their number and check[0] the bytes
// of each but the last, a multiple of PAYLOAD_WEIGHTS_ALIGN.
static inline bool weights_external(const Segment *weights) {
    return weights->reserved > 0;
}

// "FILE.weights.00001" for part 0.
bool payload_part_name(char out[PAYLOAD_PART_NAME], const char *file, int part, Error *err);
// Maps all parts side by side; their sizes are right, their content is not checked. The mapping is
// *mapped bytes long.
bool payload_parts_map(const char *file, const Segment *weights, Bytes *out, size_t *mapped,
                       Error *err);

#endif

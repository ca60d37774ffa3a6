// What `OUT extract` needs besides the packed weights (source.c).
#ifndef SOURCE_H
#define SOURCE_H

#include "compile.h"

// SEGMENT_SOURCE (runtime/payload_source.h): the checkpoint's small files, its tensors that are not
// packed as linear layers, and where each module lies in the packed weights. Requires offsets.
bool source_make(Bytes *out, const Graph *g, const Checkpoint *c, const char *dir, Arena *a,
                 Error *err);

#endif

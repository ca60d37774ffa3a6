// Texts of the payload (metadata.c).
#ifndef METADATA_H
#define METADATA_H

#include "compile.h"

#define GPTQ_COMPILE_VERSION "0.1.0"

// Fills the segments LICENSE, RECEIPT and EXPLAIN. Requires plans and cubins.
bool metadata_make(Contents *c, const Config *config, Arena *a, Error *err);

#endif

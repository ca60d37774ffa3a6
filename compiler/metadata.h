// Texts of the payload (metadata.c).
#ifndef METADATA_H
#define METADATA_H

#include "compile.h"

#define GPTQ_COMPILE_VERSION "0.1.0"

// Fills the segments LICENSE, RECEIPT and EXPLAIN. Requires plans and cubins. license: as in
// license_make; NULL: the checkpoint's file LICENSE, if there is one.
bool metadata_make(Contents *c, const Config *config, const char *license, Arena *a, Error *err);
// sbom.c: a CycloneDX document; the caller deletes it. name NULL: the model_type.
struct cJSON *sbom_make(const Config *config, const char *name);
// The text of `OUT licenses`: the model's licence from a file (NULL: none) and the program's.
bool license_make(Bytes *out, const char *path, Arena *a, Error *err);

#endif

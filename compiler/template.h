// Chat templates: Jinja2, as Hugging Face models use it, compiled to the code of
// runtime/payload_template.h.
#ifndef TEMPLATE_COMPILE_H
#define TEMPLATE_COMPILE_H

#include "runtime/base.h"

// Compiles a template. `name` is the file for messages. What jinja2 would refuse, and what we do
// not take, is an error with line and column. The blob is aligned to 8 and lives in the arena. The
// same source gives the same bytes.
bool template_compile(const char *name, Bytes source, Arena *a, Bytes *blob, Error *err);

#endif

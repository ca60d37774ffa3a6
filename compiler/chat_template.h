// What the executable's chat needs of a checkpoint (chat_template.c).
#ifndef CHAT_TEMPLATE_H
#define CHAT_TEMPLATE_H

#include "compile.h"

// Fills the segments TEMPLATE, TOOL_TEMPLATE (empty: there is none) and SPECIAL_TOKENS. `given`: a
// file that is used instead of the checkpoint's template, "none": no template; NULL: the
// checkpoint's.
bool chat_templates_make(Bytes segments[SEGMENT_COUNT], const char *dir, const char *given,
                         Arena *a, Error *err);

#endif

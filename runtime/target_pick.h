// Which of an executable's targets a GPU runs, and why.
#ifndef TARGET_PICK_H
#define TARGET_PICK_H

#include "executable.h"

// For a GPU of that compute capability; NULL: none fits. reason[size] says what decided.
const TargetInfo *target_pick(const Executable *e, int major, int minor, char *reason, size_t size);
// "sm_80, sm_90a, cpu:x86-64-v3": all that the file holds.
void target_names(const Executable *e, char *out, size_t size);

#endif

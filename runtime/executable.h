// This file itself: the payload that stands behind the code, mapped read-only.
#ifndef EXECUTABLE_H
#define EXECUTABLE_H

#include "payload.h"

typedef struct Executable {
    const char *path; // for messages
    int fd;           // stays open: weights are read from it
    Bytes whole;      // mapping of the file
    Bytes parts;      // mapping of the weights' own files; empty: they lie in `whole`
    size_t elf_size;  // of the program code at its start
    Segment segments[SEGMENT_COUNT];
    ModelInfo info;
    BatchLayout batch;
    TargetInfo *targets; // [target_count]; owner: this
    KernelInfo *kernels;
    int target_count, kernel_count;
} Executable;

// Opens /proc/self/exe. Everything but the weights has been checked when it returns.
bool executable_open(Executable *out, Error *err);
void executable_close(Executable *e);
Bytes executable_segment(const Executable *e, SegmentKind kind);
// Is a target of this device in it?
bool executable_has(const Executable *e, TargetDevice device);
// Compares page `page` of the weights, given as `data`, with SEGMENT_CHECKS. ERR_CORRUPT.
bool executable_page_check(const Executable *e, int64_t page, const void *data, size_t size,
                           Error *err);

#endif

// Setting up and tearing down of tests that emulate GPU kernels on the CPU (tests/simt/simt.h): a
// target, and a folder for the libraries that are compiled from the kernels.
#ifndef SIMT_LAB_H
#define SIMT_LAB_H

#include "tests/step_lab.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { SIMT_FOLDER_BYTES = 32 };

// False: there is no such target. Cases are added to the lab behind it.
static inline bool simt_open(StepLab *lab, char folder[SIMT_FOLDER_BYTES], const char *target) {
    const Target *targets[4];
    int count;
    Error err;
    if (!targets_parse(targets, &count, 4, target, &err))
        return false;
    lab->target = targets[0];
    snprintf(folder, SIMT_FOLDER_BYTES, "/tmp/simt-XXXXXX");
    lab->folder = mkdtemp(folder);
    return true;
}

// False: the kernels of the cases could not be compiled.
static inline bool simt_compile(StepLab *lab) {
    Error err = {0};
    bool made = lab->folder && lab_compile(lab, &err);
    if (!made)
        fprintf(stderr, "%s\n", err.message);
    return made;
}

static inline void simt_close(StepLab *lab, const char *folder) {
    for (int at = 0; at < lab->kernel_count; at++)
        for (int suffix = 0; suffix < 2; suffix++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%d.%s", folder, at, suffix ? "cpp" : "so");
            unlink(path);
        }
    rmdir(folder);
    arena_free(&lab->arena);
}

static inline void simt_made_or_skip(bool made) {
    if (!made) {
        puts("skipped: the kernels could not be compiled for the CPU (clang++-19)");
        skip();
    }
}

#endif

// What the files of the GPU code share: the library (nvrtc.c), what it is told about a kernel
// (kernel_source.c), and the kernels of a plan (cubins.c).
#ifndef NVRTC_H
#define NVRTC_H

#include "compile.h"

// ---- kernel_source.c ----------------------------------------------------------------------------

enum { HEADERS_MAX = 24, OPTION_COUNT = 5 };

typedef struct Headers {
    const char *names[HEADERS_MAX]; // as included: "ptx.cuh"
    const char *texts[HEADERS_MAX];
    int count;
} Headers;

typedef struct Source { // all that NVRTC is told about one kernel
    const char *name;   // "kernels/norm.cu"
    const char *text;
    const char *options[OPTION_COUNT];
    Headers headers;
} Source;

bool kernel_source_make(Source *s, const Step *kernel, const Target *t, Arena *a, Error *err);
// Everything that decides the bytes of the cubin. version: "13.0".
Bytes kernel_source_key(const Source *s, const char *version, Arena *a);

// ---- nvrtc.c ------------------------------------------------------------------------------------

// "13.0"
void nvrtc_version(const Nvrtc *n, char version[16]);

// What one compile leaves behind; malloc, since it is filled by a thread.
typedef struct Compiled {
    char *image; // owner: compiled_free
    size_t size;
    char *log; // owner: compiled_free; "" if there is none
    int result;
    bool failed;
} Compiled;

// Runs in any thread.
Compiled nvrtc_compile(const Nvrtc *n, const Source *s, bool ptx);
void compiled_free(Compiled *o);
// False: NVRTC took it not, and why.
bool compiled_check(const Compiled *o, const Nvrtc *n, const Step *kernel, const Target *t,
                    Error *err);

#endif

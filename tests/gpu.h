// The few driver calls that GPU tests need, from libcuda.so.1, which is opened when a test starts:
// the tests build without CUDA headers. A failing call prints its name and ends the program.
#ifndef GPU_H
#define GPU_H

#include "runtime/tensor_map.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t GpuAddress; // CUdeviceptr
typedef struct GpuFunction GpuFunction; // CUfunc_st

typedef struct GpuLaunchAttribute { // CUlaunchAttribute
    int id, pad, value;
    char rest[60];
} GpuLaunchAttribute;

typedef struct GpuLaunch { // CUlaunchConfig
    unsigned grid[3], block[3], shared_bytes;
    void *stream;
    const GpuLaunchAttribute *attributes;
    unsigned attribute_count;
} GpuLaunch;

// X(name, symbol, parameters)
#define GPU_CALLS(X)                                                                               \
    X(init, "cuInit", (unsigned))                                                                  \
    X(device_get, "cuDeviceGet", (int *, int))                                                     \
    X(device_name, "cuDeviceGetName", (char *, int, int))                                          \
    X(device_attribute, "cuDeviceGetAttribute", (int *, int, int))                                 \
    X(context_retain, "cuDevicePrimaryCtxRetain", (void **, int))                                  \
    X(context_set, "cuCtxSetCurrent", (void *))                                                    \
    X(synchronize, "cuCtxSynchronize", (void))                                                     \
    X(alloc, "cuMemAlloc_v2", (GpuAddress *, size_t))                                              \
    X(release, "cuMemFree_v2", (GpuAddress))                                                       \
    X(upload, "cuMemcpyHtoD_v2", (GpuAddress, const void *, size_t))                               \
    X(download, "cuMemcpyDtoH_v2", (void *, GpuAddress, size_t))                                   \
    X(fill, "cuMemsetD8_v2", (GpuAddress, unsigned char, size_t))                                  \
    X(module_load, "cuModuleLoadData", (void **, const void *))                                    \
    X(module_function, "cuModuleGetFunction", (GpuFunction **, void *, const char *))              \
    X(function_set, "cuFuncSetAttribute", (GpuFunction *, int, int))                               \
    X(launch, "cuLaunchKernel",                                                                    \
      (GpuFunction *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,        \
       void *, void **, void **))                                                                  \
    X(launch_config, "cuLaunchKernelEx",                                                           \
      (const GpuLaunch *, GpuFunction *, void **, void **))                                        \
    X(tensor_map, "cuTensorMapEncodeTiled",                                                        \
      (TensorMap *, int, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *,   \
       const uint32_t *, int, int, int, int))                                                      \
    X(stream_create, "cuStreamCreate", (void **, unsigned))                                        \
    X(capture_begin, "cuStreamBeginCapture_v2", (void *, int))                                     \
    X(capture_end, "cuStreamEndCapture", (void *, void **))                                        \
    X(graph_make, "cuGraphInstantiateWithFlags", (void **, void *, unsigned long long))            \
    X(graph_launch, "cuGraphLaunch", (void *, void *))                                             \
    X(graph_destroy, "cuGraphDestroy", (void *))                                                   \
    X(graph_release, "cuGraphExecDestroy", (void *))                                               \
    X(event_create, "cuEventCreate", (void **, unsigned))                                          \
    X(event_record, "cuEventRecord", (void *, void *))                                             \
    X(event_wait, "cuEventSynchronize", (void *))                                                  \
    X(event_ms, "cuEventElapsedTime", (float *, void *, void *))

typedef struct Gpu {
#define GPU_MEMBER(name, symbol, parameters) int(*name) parameters;
    GPU_CALLS(GPU_MEMBER)
#undef GPU_MEMBER
    void *stream, *start, *stop;
    int multiprocessors;
    int compute; // 90: compute capability 9.0
    bool overlap; // kernels start before the one in front of them has ended, as in the runtime
    char device[128];
} Gpu;

#define GPU_DO(gpu, ...) gpu_expect((gpu)->__VA_ARGS__, #__VA_ARGS__, __FILE__, __LINE__)

static inline void gpu_expect(int result, const char *call, const char *file, int line) {
    if (result != 0) {
        fprintf(stderr, "%s:%d: driver error %d of %s\n", file, line, result, call);
        exit(7);
    }
}

enum { GPU_SHARED_LIMIT = 8, GPU_SM_COUNT = 16, GPU_MAJOR = 75, GPU_MINOR = 76 }; // cuda.h

// False: there is no driver or no device.
static inline bool gpu_open(Gpu *g) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), *symbol;
    if (!library)
        return false;
#define GPU_BIND(name, text, parameters)                                                           \
    symbol = dlsym(library, text);                                                                 \
    if (!symbol)                                                                                   \
        return false;                                                                              \
    memcpy(&g->name, &symbol, sizeof symbol);
    GPU_CALLS(GPU_BIND)
#undef GPU_BIND
    int device, major, minor;
    void *context;
    if (g->init(0) != 0 || g->device_get(&device, 0) != 0)
        return false;
    GPU_DO(g, device_name(g->device, sizeof g->device, device));
    GPU_DO(g, device_attribute(&g->multiprocessors, GPU_SM_COUNT, device));
    GPU_DO(g, device_attribute(&major, GPU_MAJOR, device));
    GPU_DO(g, device_attribute(&minor, GPU_MINOR, device));
    g->compute = major * 10 + minor;
    g->overlap = major >= 9;
    GPU_DO(g, context_retain(&context, device));
    GPU_DO(g, context_set(context));
    GPU_DO(g, stream_create(&g->stream, 1));
    GPU_DO(g, event_create(&g->start, 0));
    GPU_DO(g, event_create(&g->stop, 0));
    return true;
}

static inline GpuAddress gpu_alloc(const Gpu *g, size_t bytes) {
    GpuAddress address;
    GPU_DO(g, alloc(&address, bytes));
    return address;
}

static inline GpuFunction *gpu_function(const Gpu *g, const void *image, const char *entry,
                                        int shared_bytes) {
    void *module;
    GpuFunction *f;
    GPU_DO(g, module_load(&module, image));
    GPU_DO(g, module_function(&f, module, entry));
    if (shared_bytes > 48 << 10)
        GPU_DO(g, function_set(f, GPU_SHARED_LIMIT, shared_bytes));
    return f;
}

// As runtime/device_cuda.c launches.
static inline void gpu_launch(const Gpu *g, GpuFunction *f, const unsigned grid[3], unsigned block,
                              unsigned shared_bytes, void **slots) {
    enum { PROGRAMMATIC_STREAM_SERIALIZATION = 6 };
    const GpuLaunchAttribute overlap = {.id = PROGRAMMATIC_STREAM_SERIALIZATION, .value = 1};
    const GpuLaunch launch = {.grid = {grid[0], grid[1], grid[2]},
                              .block = {block, 1, 1},
                              .shared_bytes = shared_bytes,
                              .stream = g->stream,
                              .attributes = &overlap,
                              .attribute_count = g->overlap};
    GPU_DO(g, launch_config(&launch, f, slots, NULL));
}

static inline int gpu_compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// Median time in us of `replays` runs of what `enqueue` puts on the stream, as a graph.
static inline double gpu_graph_us(const Gpu *g, void (*enqueue)(void *user), void *user,
                                  int replays) {
    void *graph, *ready;
    float ms[64];
    replays = replays < 64 ? replays : 64;
    GPU_DO(g, capture_begin(g->stream, 1));
    enqueue(user);
    GPU_DO(g, capture_end(g->stream, &graph));
    GPU_DO(g, graph_make(&ready, graph, 0));
    for (int i = -2; i < replays; i++) {
        GPU_DO(g, event_record(g->start, g->stream));
        GPU_DO(g, graph_launch(ready, g->stream));
        GPU_DO(g, event_record(g->stop, g->stream));
        GPU_DO(g, event_wait(g->stop));
        if (i >= 0)
            GPU_DO(g, event_ms(&ms[i], g->start, g->stop));
    }
    GPU_DO(g, graph_release(ready));
    GPU_DO(g, graph_destroy(graph));
    qsort(ms, (size_t)replays, sizeof *ms, gpu_compare_floats);
    return (double)ms[replays / 2] * 1e3;
}

#endif

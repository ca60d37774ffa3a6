// The part of the CUDA driver API that is used here, declared by hand so that no toolkit is needed
// to build it; who may include it: docs/overview.md. Types and values are those of cuda.h.
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor_map.h"

typedef int32_t CUresult;
typedef int32_t CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS                                     = 0,
    CUDA_ERROR_OUT_OF_MEMORY                         = 2,
    CUDA_ERROR_STUB_LIBRARY                          = 34, // of a toolkit, not of a driver
    CUDA_ERROR_NO_DEVICE                             = 100,
    CUDA_ERROR_INVALID_IMAGE                         = 200,
    CUDA_ERROR_NO_BINARY_FOR_GPU                     = 209,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION               = 222,
    CU_DEVICE_ATTRIBUTE_INTEGRATED                   = 18,
    CU_MEM_ATTACH_GLOBAL                             = 1,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT         = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR     = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR     = 76,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES  = 8,
    CU_LAUNCH_CLUSTER_DIMENSION                      = 4,
    CU_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION      = 6,
    CU_STREAM_NON_BLOCKING                           = 1,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL              = 1,
};

// As in cuda.h; an attribute's value is a union of 64 bytes whose first words are all that is used
// here.
typedef struct CUlaunchAttribute {
    int32_t id;
    char pad[4];
    int32_t value[3];
    char rest[52];
} CUlaunchAttribute;

typedef struct CUlaunchConfig {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    CUstream stream;
    CUlaunchAttribute *attributes;
    unsigned attribute_count;
} CUlaunchConfig;

// X(field, symbol, parameters). Every function returns CUresult.
#define CUDA_FUNCTIONS(X)                                                                          \
    X(init, "cuInit", (unsigned flags))                                                            \
    X(driver_version, "cuDriverGetVersion", (int *version))                                        \
    X(error_string, "cuGetErrorString", (CUresult error, const char **text))                       \
    X(device_count, "cuDeviceGetCount", (int *count))                                              \
    X(device_get, "cuDeviceGet", (CUdevice * device, int index))                                   \
    X(device_name, "cuDeviceGetName", (char *name, int size, CUdevice device))                     \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, CUdevice device))      \
    X(context_retain, "cuDevicePrimaryCtxRetain", (CUcontext * context, CUdevice device))          \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))                          \
    X(context_set, "cuCtxSetCurrent", (CUcontext context))                                         \
    X(memory_info, "cuMemGetInfo_v2", (size_t *free_bytes, size_t *total_bytes))                   \
    X(memory_alloc, "cuMemAlloc_v2", (CUdeviceptr * address, size_t bytes))                        \
    X(memory_managed, "cuMemAllocManaged",                                                         \
      (CUdeviceptr * address, size_t bytes, unsigned flags))                                       \
    X(memory_free, "cuMemFree_v2", (CUdeviceptr address))                                          \
    X(host_alloc, "cuMemHostAlloc", (void **address, size_t bytes, unsigned flags))                \
    X(host_free, "cuMemFreeHost", (void *address))                                                 \
    X(copy_to_device, "cuMemcpyHtoDAsync_v2",                                                      \
      (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                           \
    X(copy_to_host, "cuMemcpyDtoHAsync_v2",                                                        \
      (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                                 \
    X(copy_on_device, "cuMemcpyDtoDAsync_v2",                                                      \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                           \
    X(memory_set, "cuMemsetD8Async",                                                               \
      (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                        \
    X(stream_create, "cuStreamCreate", (CUstream * stream, unsigned flags))                        \
    X(stream_wait, "cuStreamSynchronize", (CUstream stream))                                       \
    X(stream_destroy, "cuStreamDestroy_v2", (CUstream stream))                                     \
    X(event_create, "cuEventCreate", (CUevent * event, unsigned flags))                            \
    X(event_record, "cuEventRecord", (CUevent event, CUstream stream))                             \
    X(event_wait, "cuEventSynchronize", (CUevent event))                                           \
    X(event_elapsed, "cuEventElapsedTime", (float *ms, CUevent start, CUevent end))                \
    X(event_destroy, "cuEventDestroy_v2", (CUevent event))                                         \
    X(module_load, "cuModuleLoadData", (CUmodule * module, const void *image))                     \
    X(module_unload, "cuModuleUnload", (CUmodule module))                                          \
    X(module_function, "cuModuleGetFunction",                                                      \
      (CUfunction * function, CUmodule module, const char *name))                                  \
    X(function_set, "cuFuncSetAttribute", (CUfunction function, int attribute, int value))         \
    X(launch, "cuLaunchKernel",                                                                    \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,   \
       unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params,  \
       void **extra))                                                                              \
    X(launch_config, "cuLaunchKernelEx",                                                           \
      (const CUlaunchConfig *config, CUfunction function, void **params, void **extra))            \
    X(clusters_at_once, "cuOccupancyMaxActiveClusters",                                            \
      (int *clusters, CUfunction function, const CUlaunchConfig *config))                          \
    X(tensor_map, "cuTensorMapEncodeTiled",                                                        \
      (TensorMap * map, int type, uint32_t rank, void *address, const uint64_t *sizes,             \
       const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,              \
       int interleave, int swizzle, int promotion, int fill))                                      \
    X(capture_begin, "cuStreamBeginCapture_v2", (CUstream stream, int mode))                       \
    X(capture_end, "cuStreamEndCapture", (CUstream stream, CUgraph * graph))                       \
    X(graph_instantiate, "cuGraphInstantiateWithFlags",                                            \
      (CUgraphExec * exec, CUgraph graph, unsigned long long flags))                               \
    X(graph_launch, "cuGraphLaunch", (CUgraphExec exec, CUstream stream))                          \
    X(graph_exec_destroy, "cuGraphExecDestroy", (CUgraphExec exec))                                \
    X(graph_destroy, "cuGraphDestroy", (CUgraph graph))

typedef struct CudaDriver {
    void *library;
#define CUDA_FIELD(field, symbol, parameters) CUresult(*field) parameters;
    CUDA_FUNCTIONS(CUDA_FIELD)
#undef CUDA_FIELD
} CudaDriver;

#define CUDA_LIBRARY "libcuda.so.1"

// Opens the driver for good: drivers have threads, and dislike being unloaded. False: *missing is
// the symbol that an old one lacks, NULL if there is no such library.
bool cuda_driver_open(CudaDriver *cu, const char *library, const char **missing);

// May a kernel start before the one in front of it has ended? version: cuDriverGetVersion's.
bool cuda_driver_overlaps(int compute_major, int version);

typedef struct CudaLaunch {
    CUfunction function;
    CUstream stream;
    bool overlap; // cuda_driver_overlaps
    int32_t grid[3], block, shared_bytes;
    int32_t tokens_per_block;      // > 0: grid[1] is ceil(tokens / tokens_per_block)
    int32_t map_columns, map_rows, cluster_blocks; // KernelInfo's
    int32_t argument_count;
    const uint64_t *arguments; // 8-byte slots
    int64_t tokens;            // of this launch
} CudaLaunch;

CUresult cuda_driver_launch(const CudaDriver *cu, const CudaLaunch *l);

#endif

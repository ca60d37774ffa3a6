// The dense fp16 product that gpu_kernels_bench compares with: cuBLAS, where its library is on the
// machine, opened when the program starts so that it builds without CUDA.
#ifndef BENCH_DENSE_H
#define BENCH_DENSE_H

#include "compiler/measure.h"

#include <dlfcn.h>
#include <string.h>

enum { // cublas_api.h, library_types.h
    CUBLAS_OP_N = 0,
    CUBLAS_OP_T = 1,
    CUDA_R_16F = 2,
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_GEMM_DEFAULT = -1,
    CUBLAS_WORKSPACE_BYTES = 64 << 20,
};

typedef struct Cublas {
    void *handle;
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                const void *beta, void *c, int type_c, int ldc, int compute, int algorithm);
    char name[96];
} Cublas;

static inline bool cublas_bind(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

// False: no library, or it does not start. The context of `m` is current.
static inline bool cublas_open(Cublas *c, Meter *m) {
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so",
                                        "/usr/local/cuda/lib64/libcublas.so"};
    int (*create)(void **), (*stream_set)(void *, void *), (*workspace)(void *, void *, size_t);
    void *library = NULL;
    uint64_t memory;
    Error err;
    for (size_t at = 0; at < sizeof names / sizeof *names && !library; at++) {
        library = dlopen(names[at], RTLD_NOW | RTLD_LOCAL);
        snprintf(c->name, sizeof c->name, "cuBLAS (%s)", names[at]);
    }
    return library && cublas_bind(library, "cublasCreate_v2", &create) &&
           cublas_bind(library, "cublasSetStream_v2", &stream_set) &&
           cublas_bind(library, "cublasSetWorkspace_v2", &workspace) &&
           cublas_bind(library, "cublasGemmEx", &c->gemm) && create(&c->handle) == 0 &&
           stream_set(c->handle, meter_stream(m)) == 0 &&
           meter_alloc(m, &memory, CUBLAS_WORKSPACE_BYTES, &err) &&
           workspace(c->handle, (void *)(uintptr_t)memory, CUBLAS_WORKSPACE_BYTES) == 0;
}

// out [tokens, n] = x [tokens, k] times weights [n, k] transposed, all fp16 on the device.
static inline bool cublas_product(const Cublas *c, uint64_t out, uint64_t x, uint64_t weights,
                                  const int64_t shape[3], Error *err) {
    const float one = 1, zero = 0;
    int tokens = (int)shape[0], n = (int)shape[1], k = (int)shape[2];
    int result = c->gemm(c->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, tokens, k, &one,
                         (const void *)(uintptr_t)weights, CUDA_R_16F, k,
                         (const void *)(uintptr_t)x, CUDA_R_16F, k, &zero, (void *)(uintptr_t)out,
                         CUDA_R_16F, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return result == 0 || fail(err, ERR_DEVICE, 0, "cublasGemmEx gave error %d", result);
}

#endif

// What a plain read of the weights takes: the limit that `bench` holds its times against. The kernel
// is not among the payload's, since only `bench` needs it.
#include "device_cuda.h"
#include "read_kernel.h"

enum { READ_REPEATS = 8, READ_ATTEMPTS = 5 };

typedef struct ReadTimer {
    CudaDevice *d;
    CUfunction kernel; // NULL: this driver translates no kernels; copies on the device instead
    CUdeviceptr to;    // of the copies; of the store that never happens
    int64_t bytes;
    unsigned blocks;
    CUevent events[2];
} ReadTimer;

static CUresult read_once(ReadTimer *t) {
    CudaDevice *d = t->d;
    CUdeviceptr from = (CUdeviceptr)(uintptr_t)d->run.base[REGION_WEIGHTS];
    if (!t->kernel)
        return d->cu.copy_on_device(t->to, from, (size_t)t->bytes / 2, d->stream);
    uint64_t words = (uint64_t)t->bytes / 16;
    void *params[] = {&from, &words, &t->to};
    return d->cu.launch(t->kernel, t->blocks, 1, 1, READ_THREADS, 1, 1, 0, d->stream, params, NULL);
}

static bool read_time(ReadTimer *t, double *seconds, Error *err) {
    CudaDevice *d = t->d;
    *seconds = 1e30;
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        float ms;
        CHECK(d, event_record(t->events[0], d->stream), "cuEventRecord");
        for (int repeat = 0; repeat < READ_REPEATS; repeat++)
            TRY(cuda_check(d, read_once(t), "a plain read", err));
        CHECK(d, event_record(t->events[1], d->stream), "cuEventRecord");
        CHECK(d, event_wait(t->events[1]), "cuEventSynchronize");
        CHECK(d, event_elapsed(&ms, t->events[0], t->events[1]), "cuEventElapsedTime");
        double once = (double)ms * 1e-3 / (int)READ_REPEATS;
        *seconds = once < *seconds ? once : *seconds;
    }
    return true;
}

static bool read_prepare(ReadTimer *t, CUmodule *module, Error *err) {
    CudaDevice *d = t->d;
    int sms = 0;
    CHECK(d, device_attribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, d->gpu),
          "cuDeviceGetAttribute");
    t->blocks = (unsigned)(sms * READ_BLOCKS);
    if (d->cu.module_load(module, read_kernel) == CUDA_SUCCESS)
        CHECK(d, module_function(&t->kernel, *module, "read"), "cuModuleGetFunction");
    else
        *module = NULL;
    CHECK(d, memory_alloc(&t->to, (size_t)t->bytes / 2), "cuMemAlloc");
    CHECK(d, event_create(&t->events[0], 0), "cuEventCreate");
    CHECK(d, event_create(&t->events[1], 0), "cuEventCreate");
    return true;
}

bool cuda_read_seconds(Device *device, int64_t bytes, double *seconds, const char **how,
                       Error *err) {
    ReadTimer t = {.d = cuda_of(device), .bytes = bytes};
    CudaDriver *cu = &t.d->cu;
    CUmodule module = NULL;
    bool good = read_prepare(&t, &module, err) && read_time(&t, seconds, err);
    *how = t.kernel ? "a kernel that only reads as many bytes"
                    : "a copy on the device that reads and writes as many bytes in total";
    for (int at = 0; at < 2; at++)
        if (t.events[at])
            cu->event_destroy(t.events[at]);
    if (t.to)
        cu->memory_free(t.to);
    if (module)
        cu->module_unload(module);
    return good;
}

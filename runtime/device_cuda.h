// What the files of the CUDA back end share: its state, and how a driver's error becomes ours.
#ifndef DEVICE_CUDA_H
#define DEVICE_CUDA_H

#include "cuda_driver.h"
#include "device.h"

typedef struct CudaDevice {
    Device device;
    const Executable *e;
    CudaDriver cu;
    CUdevice gpu;
    int integrated;    // 1: the GPU shares the host's memory
    CUcontext context; // retained; NULL: not yet
    bool overlap;      // a kernel may start before the one in front of it has ended
    CUstream stream;
    StepRun run;
    unsigned char *batch; // the host's batch block
    CUmodule *modules;    // [kernel_count] of the target; NULL: same image as an earlier kernel
    CUfunction *functions;
    CUgraphExec *graphs; // [max_batch_size + 1], by rows; NULL: not recorded yet
    unsigned char *back; // pinned: what comes back from the batch block
    int64_t back_bytes;
} CudaDevice;

static inline CudaDevice *cuda_of(Device *device) {
    return (CudaDevice *)(void *)device;
}

// Turns a driver error into ours: `what` failed.
bool cuda_check(CudaDevice *d, CUresult result, const char *what, Error *err);
#define CHECK(d, call, what) TRY(cuda_check((d), (d)->cu.call, (what), err))

// device_cuda_load.c: the weights to where the GPU reads them, every page checked.
bool cuda_weights_load(CudaDevice *d, Error *err);
// The same: DeviceType.load_limits.
bool cuda_load_limits(Device *device, LoadLimits *out, Error *err);
// device_cuda_read.c: DeviceType.read_seconds.
bool cuda_read_seconds(Device *device, int64_t bytes, double *seconds, const char **how,
                       Error *err);

#endif

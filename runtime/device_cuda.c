// The CUDA back end, through the driver API that libcuda.so.1 offers at run time.
//
// Decode and sampling of M rows are recorded once as a CUDA graph and replayed: the sampler writes
// the next token, position and random state on the device, so a replay needs nothing from the host.
// Weights stream from the file through two pinned buffers; their checks are computed on the way. Where
// GPU and host share their memory (Jetson), they are read to where they stay.
// Non-goal: several GPUs.
#include "cuda_driver.h"
#include "device.h"
#include "read_kernel.h"
#include "target_pick.h"
#include "threads.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    STAGE_BYTES = 16 * PAYLOAD_PAGE_BYTES, // one pinned buffer
    STAGES = 2,
    LOADERS = 8, // threads that read and check pages
    MAX_ARGUMENTS = 32,
    OVERLAP_MAJOR = 9,      // compute capability that has programmatic dependent launch
    OVERLAP_DRIVER = 12030, // CUDA version that records it into graphs
};

// Left for the driver and for what else runs on the GPU.
static const int64_t SPARE_BYTES = (int64_t)512 << 20;

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

static CudaDevice *cuda_of(Device *device) {
    return (CudaDevice *)(void *)device;
}

// ---- the driver ---------------------------------------------------------------------------------

typedef struct Symbol {
    const char *name;
    size_t offset; // in CudaDriver
} Symbol;

static const Symbol symbols[] = {
#define CUDA_SYMBOL(field, symbol, parameters) {symbol, offsetof(CudaDriver, field)},
    CUDA_FUNCTIONS(CUDA_SYMBOL)
#undef CUDA_SYMBOL
};

static bool driver_open(CudaDriver *cu, Error *err) {
    cu->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!cu->library)
        return fail(
            err, ERR_DEVICE, 850,
            "no NVIDIA driver: libcuda.so.1 was not found; install it, or run with --device cpu");
    for (size_t at = 0; at < sizeof symbols / sizeof *symbols; at++) {
        void *function = dlsym(cu->library, symbols[at].name);
        if (!function)
            return fail(err, ERR_DEVICE, 851,
                        "the NVIDIA driver is too old: it has no %s; CUDA 12.0 or newer is needed",
                        symbols[at].name);
        memcpy((unsigned char *)cu + symbols[at].offset, &function, sizeof function);
    }
    return true;
}

static bool cuda_absent(void) {
    CudaDriver cu;
    Error err = {0};
    int count = 0;
    void *library =
        dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL); // stays open: open() wants it too
    if (!library)
        return true;
    if (!driver_open(&cu, &err))
        return false;
    CUresult result = cu.init(0);
    return result == CUDA_ERROR_NO_DEVICE || result == CUDA_ERROR_STUB_LIBRARY ||
           (result == CUDA_SUCCESS && cu.device_count(&count) == CUDA_SUCCESS && count == 0);
}

// Turns a driver error into ours.
static bool check(CudaDevice *d, CUresult result, const char *what, Error *err) {
    if (result == CUDA_SUCCESS)
        return true;
    const char *text = "unknown error";
    d->cu.error_string(result, &text);
    ErrorCode code = result == CUDA_ERROR_OUT_OF_MEMORY ? ERR_RESOURCE : ERR_DEVICE;
    return fail(err, code, 852, "%s: %s failed: %s (CUDA error %d)", d->device.description, what,
                text, result);
}

#define CHECK(d, call, what) TRY(check((d), (d)->cu.call, (what), err))

// ---- which GPU, which target --------------------------------------------------------------------

static bool gpu_find(CudaDevice *d, int index, Error *err) {
    int count = 0, version = 0, major = 0, minor = 0;
    snprintf(d->device.description, sizeof d->device.description, "cuda:%d", index);
    CUresult result = d->cu.init(0);
    if (result == CUDA_SUCCESS)
        result = d->cu.device_count(&count);
    if (result == CUDA_ERROR_NO_DEVICE || (result == CUDA_SUCCESS && count == 0))
        return fail(err, ERR_DEVICE, 853, "the NVIDIA driver finds no GPU");
    TRY(check(d, result, "cuInit", err));
    if (index >= count)
        return fail(err, ERR_DEVICE, 854, "cuda:%d does not exist: this machine has %d GPU%s",
                    index, count, count == 1 ? "" : "s");
    CHECK(d, driver_version(&version), "cuDriverGetVersion");
    CHECK(d, device_get(&d->gpu, index), "cuDeviceGet");
    char name[64] = "GPU", names[240];
    CHECK(d, device_name(name, sizeof name, d->gpu), "cuDeviceGetName");
    CHECK(d, device_attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, d->gpu),
          "cuDeviceGetAttribute");
    CHECK(d, device_attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, d->gpu),
          "cuDeviceGetAttribute");
    d->overlap = major >= OVERLAP_MAJOR && version >= OVERLAP_DRIVER;
    snprintf(d->device.description, sizeof d->device.description,
             "%s, cuda:%d, driver for CUDA %d.%d", name, index, version / 1000,
             version % 1000 / 10);
    d->device.target = target_pick(d->e, major, minor, d->device.reason, sizeof d->device.reason);
    target_names(d->e, names, sizeof names);
    if (!d->device.target)
        return fail(err, ERR_DEVICE, 855,
                    "%s has compute capability %d.%d; this file holds code for %s: compile again "
                    "with --target sm_%d%d added%s",
                    name, major, minor, names, major, minor,
                    strstr(names, "cpu:") ? ", or run with --device cpu" : "");
    CHECK(d, device_attribute(&d->integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED, d->gpu),
          "cuDeviceGetAttribute");
    return true;
}

static bool cuda_choice(const Executable *e, const DeviceOptions *o, char *text, size_t size,
                        Error *err) {
    CudaDevice d = {.e = e};
    TRY(driver_open(&d.cu, err) && gpu_find(&d, o->index, err));
    snprintf(text, size, "%s: %s, %s", d.device.description, d.device.target->name,
             d.device.reason);
    return true;
}

static bool gpu_open(CudaDevice *d, int index, Error *err) {
    TRY(gpu_find(d, index, err));
    CHECK(d, context_retain(&d->context, d->gpu), "cuDevicePrimaryCtxRetain");
    CHECK(d, context_set(d->context), "cuCtxSetCurrent");
    CHECK(d, stream_create(&d->stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    return true;
}

// ---- kernels ------------------------------------------------------------------------------------

// Kernels whose image lies at the same place share one module.
static bool module_open(CudaDevice *d, int index, CUmodule *module, Error *err) {
    const KernelInfo *kernels = &d->e->kernels[d->device.target->first_kernel];
    const KernelInfo *k = &kernels[index];
    Bytes images = executable_segment(d->e, SEGMENT_CUBINS);
    if (k->image_offset > images.size || k->image_size > images.size - k->image_offset)
        return fail(err, ERR_CORRUPT, 856, "kernel %s lies outside of its segment", k->entry);
    for (int at = 0; at < index; at++)
        if (d->modules[at] && kernels[at].image_offset == k->image_offset) {
            *module = d->modules[at];
            return true;
        }
    CUresult result = d->cu.module_load(&d->modules[index], images.data + k->image_offset);
    *module = d->modules[index];
    if (result == CUDA_ERROR_INVALID_IMAGE || result == CUDA_ERROR_NO_BINARY_FOR_GPU ||
        result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
        return fail(err, ERR_DEVICE, 857,
                    "%s: the driver cannot load kernel %s (CUDA error %d): it is older than the "
                    "compiler of these kernels; update the NVIDIA driver",
                    d->device.description, k->entry, result);
    return check(d, result, "cuModuleLoadData", err);
}

// Setting an attribute also makes the driver load the code now, not inside the first step.
static bool kernel_load(CudaDevice *d, int index, Error *err) {
    const KernelInfo *k = &d->e->kernels[d->device.target->first_kernel + index];
    CUmodule module = NULL;
    TRY(module_open(d, index, &module, err));
    CHECK(d, module_function(&d->functions[index], module, k->entry), "cuModuleGetFunction");
    CHECK(d,
          function_set(d->functions[index], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                       k->shared_bytes),
          "cuFuncSetAttribute");
    return true;
}

static bool kernels_load(CudaDevice *d, Error *err) {
    const TargetInfo *t = d->device.target;
    if (t->first_kernel < 0 || t->kernel_count < 0 ||
        t->first_kernel > d->e->kernel_count - t->kernel_count)
        return fail(err, ERR_CORRUPT, 858, "target %s names kernels that do not exist", t->name);
    d->modules = calloc((size_t)t->kernel_count + 1, sizeof *d->modules);
    d->functions = calloc((size_t)t->kernel_count + 1, sizeof *d->functions);
    if (!d->modules || !d->functions)
        return fail(err, ERR_RESOURCE, 859, "no memory for %d kernels", t->kernel_count);
    for (int at = 0; at < t->kernel_count; at++)
        TRY(kernel_load(d, at, err));
    return true;
}

// Every kernel waits (griddepcontrol.wait) before it touches what another one writes, so it may
// start while the one in front of it still runs; those of linear layers fetch weights meanwhile.
int32_t cuda_launch(const StepRun *run, const LaunchSpec *spec, const uint64_t *arguments) {
    CudaDevice *d = run->device;
    const KernelInfo *k = &d->e->kernels[d->device.target->first_kernel + spec->kernel];
    uint64_t slots[MAX_ARGUMENTS];
    void *params[MAX_ARGUMENTS];
    TensorMap map;
    assert(spec->argument_count <= MAX_ARGUMENTS && spec->argument_count == k->argument_count);
    for (int32_t at = 0; at < spec->argument_count; at++) {
        slots[at] = arguments[at];
        params[at] = &slots[at];
    }
    if (k->map_columns > 0) {
        CUresult error = tensor_map(d->cu.tensor_map, &map, arguments[0], run->tokens,
                                    k->map_columns, k->map_rows);
        if (error != CUDA_SUCCESS)
            return error;
        params[0] = &map;
    }
    unsigned grid_y = (unsigned)spec->grid[1];
    if (spec->tokens_per_block > 0)
        grid_y = (unsigned)ceil_div(run->tokens, spec->tokens_per_block);
    CUlaunchAttribute overlap = {.id = CU_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION, .value = 1};
    CUlaunchConfig config = {.grid_x = (unsigned)spec->grid[0],
                             .grid_y = grid_y,
                             .grid_z = (unsigned)spec->grid[2],
                             .block_x = (unsigned)k->block,
                             .block_y = 1,
                             .block_z = 1,
                             .shared_bytes = (unsigned)k->shared_bytes,
                             .stream = d->stream,
                             .attributes = &overlap,
                             .attribute_count = d->overlap};
    return d->cu.launch_config(&config, d->functions[spec->kernel], params, NULL);
}

// ---- memory -------------------------------------------------------------------------------------

static bool allocate(CudaDevice *d, StepRegion region, int64_t bytes, const char *what,
                     Error *err) {
    size_t free_bytes = 0, total = 0;
    CUdeviceptr address = 0;
    CHECK(d, memory_info(&free_bytes, &total), "cuMemGetInfo");
    // Managed memory is what both sides of an integrated GPU may cache.
    CUresult result = d->integrated && region == REGION_WEIGHTS
                          ? d->cu.memory_managed(&address, (size_t)bytes, CU_MEM_ATTACH_GLOBAL)
                          : d->cu.memory_alloc(&address, (size_t)bytes);
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        return fail(err, ERR_RESOURCE, 860, "%s: %.2f GB for %s, but %.2f GB of %.2f GB are free",
                    d->device.description, (double)bytes * 1e-9, what, (double)free_bytes * 1e-9,
                    (double)total * 1e-9);
    TRY(check(d, result, "cuMemAlloc", err));
    d->run.base[region] = (unsigned char *)(uintptr_t)address;
    return true;
}

// Rows that no sequence uses yet take part in matrix products: they must not hold infinities.
static bool clear(CudaDevice *d, StepRegion region, int64_t bytes, Error *err) {
    CUdeviceptr to = (CUdeviceptr)(uintptr_t)d->run.base[region];
    CHECK(d, memory_set(to, 0, (size_t)bytes, d->stream), "cuMemsetD8Async");
    return true;
}

static bool kv_allocate(CudaDevice *d, const DeviceOptions *o, Error *err) {
    const ModelInfo *m = &d->e->info;
    size_t free_bytes = 0, total = 0;
    CHECK(d, memory_info(&free_bytes, &total), "cuMemGetInfo");
    int64_t fit = ((int64_t)free_bytes - SPARE_BYTES) / m->kv_page_bytes;
    TRY(device_kv_pages(&d->device.kv_pages, m, o, fit, err));
    int64_t bytes = d->device.kv_pages * m->kv_page_bytes;
    return allocate(d, REGION_KV, bytes, "the KV cache", err) && clear(d, REGION_KV, bytes, err);
}

// ---- weights ------------------------------------------------------------------------------------

typedef struct Load {
    const Executable *e;
    int64_t at; // of this stage in the weights
    int64_t size;
    unsigned char *stage; // pinned
    int threads;
    Error errors[LOADERS];
    bool failed[LOADERS];
} Load;

static bool page_read(const Load *l, int64_t at, size_t size, Error *err) {
    int64_t from = (int64_t)l->e->segments[SEGMENT_WEIGHTS].offset + l->at + at;
    if (l->e->parts.data) { // files of their own, mapped
        memcpy(l->stage + at, l->e->parts.data + l->at + at, size);
        return executable_page_check(l->e, (l->at + at) / PAYLOAD_PAGE_BYTES, l->stage + at, size,
                                     err);
    }
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(l->e->fd, l->stage + at + done, size - done, from + (int64_t)done);
        if (got <= 0 && errno != EINTR)
            return fail(err, ERR_INTERNAL, 864, "cannot read the weights from %s: %s", l->e->path,
                        got < 0 ? strerror(errno) : "the file became shorter");
        done += got > 0 ? (size_t)got : 0;
    }
    return executable_page_check(l->e, (l->at + at) / PAYLOAD_PAGE_BYTES, l->stage + at, size, err);
}

static void load_pages(void *user, int thread) {
    Load *l = user;
    for (int64_t at = (int64_t)thread * PAYLOAD_PAGE_BYTES; at < l->size && !l->failed[thread];
         at += (int64_t)l->threads * PAYLOAD_PAGE_BYTES) {
        int64_t size = l->size - at < PAYLOAD_PAGE_BYTES ? l->size - at : PAYLOAD_PAGE_BYTES;
        l->failed[thread] = !page_read(l, at, (size_t)size, &l->errors[thread]);
    }
}

static bool load_read(Pool *pool, Load *l, Error *err) {
    pool_run(pool, load_pages, l);
    for (int thread = 0; thread < l->threads; thread++)
        if (l->failed[thread]) {
            *err = l->errors[thread];
            return false;
        }
    return true;
}

static bool load_stage(CudaDevice *d, Pool *pool, Load *l, CUevent done, Error *err) {
    CHECK(d, event_wait(done), "cuEventSynchronize"); // the copy that used this buffer last
    TRY(load_read(pool, l, err));
    CUdeviceptr to = (CUdeviceptr)(uintptr_t)d->run.base[REGION_WEIGHTS] + (uint64_t)l->at;
    CHECK(d, copy_to_device(to, l->stage, (size_t)l->size, d->stream), "cuMemcpyHtoDAsync");
    CHECK(d, event_record(done, d->stream), "cuEventRecord");
    return true;
}

static bool load_all(CudaDevice *d, Pool *pool, void *stages[STAGES], CUevent done[STAGES],
                     Error *err) {
    int64_t bytes = d->e->info.weights_bytes;
    Bytes weights = executable_segment(d->e, SEGMENT_WEIGHTS);
    madvise((void *)(uintptr_t)weights.data, weights.size, MADV_WILLNEED); // reads ahead
    for (int64_t at = 0, stage = 0; at < bytes; at += STAGE_BYTES, stage = (stage + 1) % STAGES) {
        Load l = {.e = d->e,
                  .at = at,
                  .size = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES,
                  .stage = stages[stage],
                  .threads = pool_threads(pool)};
        TRY(load_stage(d, pool, &l, done[stage], err));
    }
    return check(d, d->cu.stream_wait(d->stream), "loading the weights", err);
}

// Into memory that the GPU shares: read once, to where it stays. Nothing keeps a second copy: what was
// read leaves the system's cache of the file.
static bool load_in_place(CudaDevice *d, Pool *pool, Error *err) {
    int64_t bytes = d->e->info.weights_bytes;
    for (int64_t at = 0; at < bytes; at += STAGE_BYTES) {
        Load l = {.e = d->e,
                  .at = at,
                  .size = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES,
                  .stage = d->run.base[REGION_WEIGHTS] + at,
                  .threads = pool_threads(pool)};
        TRY(load_read(pool, &l, err));
        posix_fadvise(d->e->fd, (off_t)d->e->segments[SEGMENT_WEIGHTS].offset + at, l.size,
                      POSIX_FADV_DONTNEED);
    }
    return true;
}

static bool weights_load(CudaDevice *d, Error *err) {
    void *stages[STAGES] = {0};
    CUevent done[STAGES] = {0};
    Pool *pool = NULL;
    int threads = threads_available() < LOADERS ? threads_available() : LOADERS;
    bool good = pool_open(&pool, threads, err);
    if (good && d->integrated) {
        good = load_in_place(d, pool, err);
        pool_close(pool);
        return good;
    }
    for (int at = 0; good && at < STAGES; at++)
        good = check(d, d->cu.host_alloc(&stages[at], STAGE_BYTES, 0), "cuMemHostAlloc", err) &&
               check(d, d->cu.event_create(&done[at], 0), "cuEventCreate", err);
    good = good && load_all(d, pool, stages, done, err);
    if (!good)
        d->cu.stream_wait(d->stream); // copies from the buffers may be under way
    for (int at = 0; at < STAGES; at++) {
        if (done[at])
            d->cu.event_destroy(done[at]);
        if (stages[at])
            d->cu.host_free(stages[at]);
    }
    pool_close(pool);
    return good;
}

// ---- open and close -----------------------------------------------------------------------------

static void cuda_close(Device *device) {
    CudaDevice *d = cuda_of(device);
    if (d->context)
        d->cu.context_set(d->context); // another thread may have opened it
    for (int64_t rows = 0; d->graphs && rows <= d->e->info.max_batch_size; rows++)
        if (d->graphs[rows])
            d->cu.graph_exec_destroy(d->graphs[rows]);
    for (int at = 0; d->modules && at < d->device.target->kernel_count; at++)
        if (d->modules[at])
            d->cu.module_unload(d->modules[at]);
    for (int region = 0; region < REGION_COUNT; region++)
        if (d->run.base[region])
            d->cu.memory_free((CUdeviceptr)(uintptr_t)d->run.base[region]);
    if (d->back)
        d->cu.host_free(d->back);
    if (d->stream)
        d->cu.stream_destroy(d->stream);
    if (d->context)
        d->cu.context_release(d->gpu);
    // The library stays: the driver has threads that still run in it.
    free(d->modules);
    free(d->functions);
    free(d->graphs);
    free(d);
}

static bool back_allocate(CudaDevice *d, Error *err) {
    const BatchLayout *b = &d->e->batch;
    const ModelInfo *m = &d->e->info;
    int64_t drawn = b->results + m->max_batch_size * (int64_t)sizeof(SampleResult) - b->sampled;
    void *back;
    d->back_bytes = drawn > m->max_head_rows * 4 ? drawn : m->max_head_rows * 4;
    CHECK(d, host_alloc(&back, (size_t)d->back_bytes, 0), "cuMemHostAlloc");
    d->back = back;
    return true;
}

static bool cuda_start(CudaDevice *d, const DeviceOptions *o, Error *err) {
    const ModelInfo *m = &d->e->info;
    TRY(driver_open(&d->cu, err));
    TRY(gpu_open(d, o->index, err));
    TRY(kernels_load(d, err));
    TRY(allocate(d, REGION_WEIGHTS, m->weights_bytes, "the weights", err));
    TRY(allocate(d, REGION_ARENA, m->arena_bytes, "activations", err));
    TRY(allocate(d, REGION_BATCH, d->e->batch.bytes, "the batch", err));
    TRY(kv_allocate(d, o, err));
    TRY(clear(d, REGION_ARENA, m->arena_bytes, err));
    TRY(back_allocate(d, err));
    d->graphs = calloc((size_t)m->max_batch_size + 1, sizeof(CUgraphExec));
    if (!d->graphs)
        return fail(err, ERR_RESOURCE, 861, "no memory for the graphs");
    d->run.device = d;
    TRY(clear(d, REGION_BATCH, d->e->batch.bytes, err)); // as the host's
    return weights_load(d, err);
}

static bool cuda_open(Device **out, const Executable *e, unsigned char *batch,
                      const DeviceOptions *o, Error *err) {
    CudaDevice *d = calloc(1, sizeof *d);
    if (!d)
        return fail(err, ERR_RESOURCE, 862, "no memory for the CUDA back end");
    d->device.type = &device_cuda;
    d->e = e;
    d->batch = batch;
    if (!cuda_start(d, o, err)) {
        cuda_close(&d->device);
        return false;
    }
    *out = &d->device;
    return true;
}

// ---- steps --------------------------------------------------------------------------------------

static bool cuda_run(Device *device, StepPhase phase, int32_t rows, Error *err) {
    CudaDevice *d = cuda_of(device);
    const StepEntry *entry = step_find(device->target->name, phase, rows);
    if (!entry)
        return fail(err, ERR_INTERNAL, 863, "no step function of %s for phase %d and %d rows",
                    device->target->name, (int)phase, rows);
    d->run.tokens = rows;
    return check(d, ((CudaStep *)entry->function)(&d->run), "a kernel launch", err);
}

static bool graph_record(CudaDevice *d, int32_t rows, Error *err) {
    CUgraph graph = NULL;
    CHECK(d, capture_begin(d->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
    bool good = cuda_run(&d->device, PHASE_DECODE, rows, err) &&
                cuda_run(&d->device, PHASE_SAMPLE, rows, err);
    CUresult result = d->cu.capture_end(d->stream, &graph);
    if (good)
        good = check(d, result, "cuStreamEndCapture", err) &&
               check(d, d->cu.graph_instantiate(&d->graphs[rows], graph, 0), "cuGraphInstantiate",
                     err);
    if (graph)
        d->cu.graph_destroy(graph);
    return good;
}

static bool cuda_decode(Device *device, int32_t rows, Error *err) {
    CudaDevice *d = cuda_of(device);
    if (!d->graphs[rows])
        TRY(graph_record(d, rows, err));
    CHECK(d, graph_launch(d->graphs[rows], d->stream), "cuGraphLaunch");
    return true;
}

static bool cuda_upload(Device *device, int64_t offset, int64_t size, Error *err) {
    CudaDevice *d = cuda_of(device);
    CUdeviceptr to = (CUdeviceptr)(uintptr_t)d->run.base[REGION_BATCH] + (uint64_t)offset;
    CHECK(d, copy_to_device(to, d->batch + offset, (size_t)size, d->stream), "cuMemcpyHtoDAsync");
    return true;
}

// The driver's current context is one of each thread.
static bool cuda_attach(Device *device, Error *err) {
    CudaDevice *d = cuda_of(device);
    CHECK(d, context_set(d->context), "cuCtxSetCurrent");
    return true;
}

static bool cuda_wait(Device *device, Error *err) {
    CudaDevice *d = cuda_of(device);
    CHECK(d, stream_wait(d->stream), "a step");
    return true;
}

static bool cuda_logits(Device *device, int32_t rows, float *out, Error *err) {
    CudaDevice *d = cuda_of(device);
    const ModelInfo *m = &d->e->info;
    CUdeviceptr from =
        (CUdeviceptr)(uintptr_t)d->run.base[REGION_ARENA] + (uint64_t)m->logits_offset;
    size_t bytes = (size_t)rows * (size_t)m->vocab_size * sizeof *out;
    CHECK(d, copy_to_host(out, from, bytes, d->stream), "cuMemcpyDtoHAsync");
    return cuda_wait(device, err);
}

static bool cuda_download(Device *device, int64_t offset, int64_t size, Error *err) {
    CudaDevice *d = cuda_of(device);
    CUdeviceptr from = (CUdeviceptr)(uintptr_t)d->run.base[REGION_BATCH] + (uint64_t)offset;
    assert(size <= d->back_bytes);
    CHECK(d, copy_to_host(d->back, from, (size_t)size, d->stream), "cuMemcpyDtoHAsync");
    TRY(cuda_wait(device, err));
    memcpy(d->batch + offset, d->back, (size_t)size);
    return true;
}

// ---- the limit: a kernel that only reads --------------------------------------------------------

// Not among the payload's kernels, since only `bench` needs it.
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
            TRY(check(d, read_once(t), "a plain read", err));
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

static bool cuda_read_seconds(Device *device, int64_t bytes, double *seconds, const char **how,
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

const DeviceType device_cuda = {
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .absent = cuda_absent,
    .choice = cuda_choice,
    .attach = cuda_attach,
    .upload = cuda_upload,
    .run = cuda_run,
    .decode = cuda_decode,
    .logits = cuda_logits,
    .download = cuda_download,
    .wait = cuda_wait,
    .read_seconds = cuda_read_seconds,
};

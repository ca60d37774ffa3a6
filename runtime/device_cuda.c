// The CUDA back end, through the driver API that libcuda.so.1 offers at run time.
//
// Decode and sampling of M rows are recorded once as a CUDA graph and replayed: the sampler writes
// the next token, position and random state on the device, so a replay needs nothing from the host.
// device_cuda_load.c brings the weights, device_cuda_read.c times a plain read of them.
// Non-goal: several GPUs.
#include "device_cuda.h"
#include "target_pick.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRIVER_PAGE = 2 << 20 }; // of device memory

// Left for the driver and for what else runs on the GPU.
static const int64_t SPARE_BYTES = (int64_t)512 << 20;

// ---- the driver ---------------------------------------------------------------------------------

static bool driver_open(CudaDriver *cu, Error *err) {
    const char *missing;
    if (cuda_driver_open(cu, CUDA_LIBRARY, &missing))
        return true;
    if (!missing)
        return fail(
            err, ERR_DEVICE, 850,
            "no NVIDIA driver: libcuda.so.1 was not found; install it, or run with --device cpu");
    return fail(err, ERR_DEVICE, 851,
                "the NVIDIA driver is too old: it has no %s; CUDA 12.0 or newer is needed",
                missing);
}

static bool cuda_absent(void) {
    CudaDriver cu;
    const char *missing;
    int count = 0;
    if (!cuda_driver_open(&cu, CUDA_LIBRARY, &missing))
        return !missing;
    CUresult result = cu.init(0);
    return result == CUDA_ERROR_NO_DEVICE || result == CUDA_ERROR_STUB_LIBRARY ||
           (result == CUDA_SUCCESS && cu.device_count(&count) == CUDA_SUCCESS && count == 0);
}

bool cuda_check(CudaDevice *d, CUresult result, const char *what, Error *err) {
    if (result == CUDA_SUCCESS)
        return true;
    const char *text = "unknown error";
    d->cu.error_string(result, &text);
    ErrorCode code = result == CUDA_ERROR_OUT_OF_MEMORY ? ERR_RESOURCE : ERR_DEVICE;
    return fail(err, code, 852, "%s: %s failed: %s (CUDA error %d)", d->device.description, what,
                text, result);
}

// ---- which GPU, which target --------------------------------------------------------------------

static bool gpu_find(CudaDevice *d, int index, Error *err) {
    int count = 0, version = 0, major = 0, minor = 0;
    snprintf(d->device.description, sizeof d->device.description, "cuda:%d", index);
    CUresult result = d->cu.init(0);
    if (result == CUDA_SUCCESS)
        result = d->cu.device_count(&count);
    if (result == CUDA_ERROR_NO_DEVICE || (result == CUDA_SUCCESS && count == 0))
        return fail(err, ERR_DEVICE, 853, "the NVIDIA driver finds no GPU");
    TRY(cuda_check(d, result, "cuInit", err));
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
    d->overlap = cuda_driver_overlaps(major, version);
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
    return cuda_check(d, result, "cuModuleLoadData", err);
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

int32_t cuda_launch(const StepRun *run, const LaunchSpec *spec, const uint64_t *arguments) {
    CudaDevice *d = run->device;
    const KernelInfo *k = &d->e->kernels[d->device.target->first_kernel + spec->kernel];
    assert(spec->argument_count == k->argument_count);
    return cuda_driver_launch(&d->cu,
                              &(CudaLaunch){.function = d->functions[spec->kernel],
                                            .stream = d->stream,
                                            .overlap = d->overlap,
                                            .grid = {spec->grid[0], spec->grid[1], spec->grid[2]},
                                            .block = k->block,
                                            .shared_bytes = k->shared_bytes,
                                            .tokens_per_block = spec->tokens_per_block,
                                            .map_columns = k->map_columns,
                                            .map_rows = k->map_rows,
                                            .cluster_blocks = k->cluster_blocks,
                                            .argument_count = spec->argument_count,
                                            .arguments = arguments,
                                            .tokens = run->tokens});
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
    TRY(cuda_check(d, result, "cuMemAlloc", err));
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
    return allocate(d, REGION_KV, bytes, "the KV cache", err);
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
    void *back;
    d->back_bytes = b->results + m->max_batch_size * (int64_t)sizeof(SampleResult) - b->drawn;
    CHECK(d, host_alloc(&back, (size_t)d->back_bytes, 0), "cuMemHostAlloc");
    d->back = back;
    return true;
}

static bool regions_allocate(CudaDevice *d, const DeviceOptions *o, Error *err) {
    const ModelInfo *m = &d->e->info;
    size_t before = 0, after = 0, total;
    CHECK(d, memory_info(&before, &total), "cuMemGetInfo");
    TRY(allocate(d, REGION_WEIGHTS, m->weights_bytes, "the weights", err));
    TRY(allocate(d, REGION_ARENA, m->arena_bytes, "activations", err));
    TRY(allocate(d, REGION_BATCH, d->e->batch.bytes, "the batch", err));
    TRY(kv_allocate(d, o, err));
    CHECK(d, memory_info(&after, &total), "cuMemGetInfo");
    // Managed memory is taken page by page, when it is written.
    d->device.memory =
        (DeviceMemory){.taken = d->integrated ? -1 : (int64_t)before - (int64_t)after,
                       .page = DRIVER_PAGE,
                       .pieces = REGION_COUNT};
    return true;
}

static bool cuda_start(CudaDevice *d, const DeviceOptions *o, Error *err) {
    const ModelInfo *m = &d->e->info;
    TRY(driver_open(&d->cu, err));
    TRY(gpu_open(d, o->index, err));
    TRY(kernels_load(d, err));
    TRY(regions_allocate(d, o, err));
    TRY(clear(d, REGION_ARENA, m->arena_bytes, err));
    TRY(clear(d, REGION_KV, d->device.kv_pages * m->kv_page_bytes, err));
    TRY(back_allocate(d, err));
    d->graphs = calloc((size_t)m->max_batch_size + 1, sizeof(CUgraphExec));
    if (!d->graphs)
        return fail(err, ERR_RESOURCE, 861, "no memory for the graphs");
    d->run.device = d;
    TRY(clear(d, REGION_BATCH, d->e->batch.bytes, err)); // as the host's
    return cuda_weights_load(d, err);
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
    return cuda_check(d, ((CudaStep *)entry->function)(&d->run), "a kernel launch", err);
}

static bool graph_record(CudaDevice *d, int32_t rows, Error *err) {
    CUgraph graph = NULL;
    CHECK(d, capture_begin(d->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
    bool good = cuda_run(&d->device, PHASE_DECODE, rows, err) &&
                cuda_run(&d->device, PHASE_SAMPLE, rows, err);
    CUresult result = d->cu.capture_end(d->stream, &graph);
    if (good)
        good = cuda_check(d, result, "cuStreamEndCapture", err) &&
               cuda_check(d, d->cu.graph_instantiate(&d->graphs[rows], graph, 0),
                          "cuGraphInstantiate", err);
    if (graph)
        d->cu.graph_destroy(graph);
    return good;
}

// Drafts differ in number from step to step: with all rows of a bucket they need few graphs.
static bool cuda_decode(Device *device, int32_t rows, bool drafts, Error *err) {
    CudaDevice *d = cuda_of(device);
    const StepEntry *entry = step_find(device->target->name, PHASE_DECODE, rows);
    if (drafts && entry && entry->max_tokens <= device->target->same_rows)
        rows = entry->max_tokens;
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

const DeviceType device_cuda = {
    .name = "cuda",
    .queues = true,
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
    .load_limits = cuda_load_limits,
};

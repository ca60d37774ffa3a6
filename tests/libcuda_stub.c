// A stand-in for the NVIDIA driver, libcuda.so.1: it runs no kernel, but checks every call that the
// runtime makes, so that the host side of the GPU path runs on machines without a GPU. Used through
// LD_LIBRARY_PATH=build/tests/stub.
//
// A violation prints one line and ends the process with status 99:
//   handles   made here, of the right kind, not destroyed; the context current in the thread
//   launches  number of arguments as in the cubin's .nv.info; every argument that looks like an
//             address inside of a live allocation; grid, block, shared memory and registers within
//             the limits of the chip and of the kernel
//   copies    inside of one allocation on both sides
//   order     work is queued and runs when the host waits. Pinned memory must not change or go away
//             before; the target of a copy to pinned memory holds 0xEE until then
//   capture   nothing that waits, allocates or frees while the stream records
//   leaks     nothing may be alive when the context is released, which must happen before the end
//
// Device addresses are not mapped, so that the host cannot use them by mistake; managed ones are.
//
// Set up by environment variables: STUB_CUDA_CAPABILITY (9.0), STUB_CUDA_VERSION (13000; one that
// is less than 12000 loads no image), STUB_CUDA_DEVICES (1), STUB_CUDA_MEMORY in bytes (8 GB),
// STUB_CUDA_INTEGRATED (0; 1: managed memory is shared with the host, like a Jetson's),
// STUB_CUDA_LOG (a file that gets a line per call), STUB_CUDA_FAIL (SYMBOL:N:CODE, the N-th call of
// SYMBOL returns CODE), STUB_CUDA_US (how long kernels take, "linear_gemm:5,linear:50"; without it
// any two events are a millisecond apart), STUB_CUDA_GRAPH_US (how long a graph takes, while the
// host goes on).
//
// Source: the documentation of the CUDA driver API. A driver keeps its state between calls, so
// there is one mutable object at file scope. Non-goals: several threads, several streams at a time.
#include "libcuda_state.h"

// ---- the driver's functions ---------------------------------------------------------------------

#define DRIVER(name, parameters) \
    CUresult name parameters;    \
    CUresult name parameters

DRIVER(cuInit, (unsigned flags)) {
    ENTER("cuInit", false);
    if (flags)
        violation("cuInit: flags must be 0");
    stub.initialized = true;
    return stub.devices ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

DRIVER(cuDriverGetVersion, (int *version)) {
    ENTER("cuDriverGetVersion", false);
    *version = stub.version;
    return CUDA_SUCCESS;
}

DRIVER(cuGetErrorString, (CUresult error, const char **text)) {
    ENTER("cuGetErrorString", false);
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in";
    return CUDA_SUCCESS;
}

// NVRTC looks for a table of a driver that is there; the first word is the table's size, so this
// one offers nothing.
DRIVER(cuGetExportTable, (const void **table, const void *id)) {
    static const uint64_t empty[1] = {sizeof empty};
    (void)id;
    *table = empty;
    return CUDA_SUCCESS;
}

DRIVER(cuDeviceGetCount, (int *count)) {
    ENTER("cuDeviceGetCount", false);
    *count = stub.devices;
    return CUDA_SUCCESS;
}

DRIVER(cuDeviceGet, (CUdevice * device, int index)) {
    ENTER("cuDeviceGet", false);
    if (index < 0 || index >= stub.devices)
        violation("cuDeviceGet: there is no device %d", index);
    *device = index;
    return CUDA_SUCCESS;
}

static void device_check(CUdevice device, const char *symbol) {
    if (device < 0 || device >= stub.devices)
        violation("%s: there is no device %d", symbol, device);
}

DRIVER(cuDeviceGetName, (char *name, int size, CUdevice device)) {
    ENTER("cuDeviceGetName", false);
    device_check(device, "cuDeviceGetName");
    snprintf(name, (size_t)size, "stand-in");
    return CUDA_SUCCESS;
}

DRIVER(cuDeviceGetAttribute, (int *value, int attribute, CUdevice device)) {
    ENTER("cuDeviceGetAttribute", false);
    device_check(device, "cuDeviceGetAttribute");
    const struct {
        int attribute, value;
    } known[] = {{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, stub.major},
                 {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, stub.minor},
                 {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16},
                 {CU_DEVICE_ATTRIBUTE_INTEGRATED, stub.integrated}};
    for (size_t at = 0; at < sizeof known / sizeof *known; at++)
        if (known[at].attribute == attribute) {
            *value = known[at].value;
            return CUDA_SUCCESS;
        }
    violation("cuDeviceGetAttribute: attribute %d is not known here", attribute);
}

DRIVER(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device)) {
    ENTER("cuDevicePrimaryCtxRetain", false);
    device_check(device, "cuDevicePrimaryCtxRetain");
    if (stub.retained)
        violation("cuDevicePrimaryCtxRetain: retained twice");
    stub.retained = true;
    *context = (CUcontext)(void *)&stub;
    return CUDA_SUCCESS;
}

DRIVER(cuDevicePrimaryCtxRelease_v2, (CUdevice device)) {
    ENTER("cuDevicePrimaryCtxRelease_v2", false);
    device_check(device, "cuDevicePrimaryCtxRelease");
    if (!stub.retained)
        violation("cuDevicePrimaryCtxRelease: not retained");
    for (Object *o = stub.objects; o; o = o->next)
        if (o->alive && o->kind != KIND_FUNCTION)
            violation("the context is released, but a %s (%zu bytes) is still there",
                      kind_names[o->kind], o->bytes);
    stub.retained = current = false;
    note("%ld launches, %ld graph launches, %ld copies", stub.launches, stub.graph_launches,
         stub.copies);
    return CUDA_SUCCESS;
}

DRIVER(cuCtxSetCurrent, (CUcontext context)) {
    ENTER("cuCtxSetCurrent", false);
    if (context && (!stub.retained || (void *)context != (void *)&stub))
        violation("cuCtxSetCurrent: no such context");
    current = context;
    return CUDA_SUCCESS;
}

// ---- memory -------------------------------------------------------------------------------------

DRIVER(cuMemGetInfo_v2, (size_t *free_bytes, size_t *total_bytes)) {
    ENTER("cuMemGetInfo_v2", true);
    *free_bytes = stub.total - stub.used;
    *total_bytes = stub.total;
    return CUDA_SUCCESS;
}

static void *map_memory(size_t bytes, int protection) {
    void *data = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        violation("cannot map %zu bytes", bytes);
    return data;
}

static CUresult memory_new(CUdeviceptr *address, size_t bytes, bool managed) {
    if (bytes == 0)
        violation("an allocation of 0 bytes");
    if (bytes > stub.total - stub.used)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!stub.space)
        stub.space = map_memory(DEVICE_SPACE, PROT_NONE);
    Object *o = object_new(KIND_MEMORY);
    o->bytes = bytes;
    o->managed = managed;
    o->address = (uint64_t)(uintptr_t)stub.space + DEVICE_GUARD + stub.next;
    o->backing = managed ? (unsigned char *)(uintptr_t)o->address
                         : map_memory(bytes, PROT_READ | PROT_WRITE);
    if (managed && mprotect(o->backing, bytes, PROT_READ | PROT_WRITE) != 0)
        violation("cannot map %zu bytes of managed memory", bytes);
    stub.next += (bytes / DEVICE_GUARD + 2) * DEVICE_GUARD;
    stub.used += bytes;
    *address = o->address;
    note("  0x%llx: %zu bytes", (unsigned long long)o->address, bytes);
    return CUDA_SUCCESS;
}

DRIVER(cuMemAlloc_v2, (CUdeviceptr * address, size_t bytes)) {
    ENTER("cuMemAlloc_v2", true);
    not_capturing("cuMemAlloc");
    return memory_new(address, bytes, false);
}

DRIVER(cuMemAllocManaged, (CUdeviceptr * address, size_t bytes, unsigned flags)) {
    ENTER("cuMemAllocManaged", true);
    not_capturing("cuMemAllocManaged");
    if (flags != CU_MEM_ATTACH_GLOBAL)
        violation("cuMemAllocManaged: flags %u", flags);
    return memory_new(address, bytes, true);
}

DRIVER(cuMemFree_v2, (CUdeviceptr address)) {
    ENTER("cuMemFree_v2", true);
    all_flush("cuMemFree");
    Object *o = start_find(KIND_MEMORY, address);
    if (!o)
        violation("cuMemFree: 0x%llx is not an allocation", (unsigned long long)address);
    o->alive = false;
    if (o->managed)
        mprotect(o->backing, o->bytes, PROT_NONE);
    else
        munmap(o->backing, o->bytes);
    stub.used -= o->bytes;
    return CUDA_SUCCESS;
}

DRIVER(cuMemHostAlloc, (void **address, size_t bytes, unsigned flags)) {
    ENTER("cuMemHostAlloc", true);
    not_capturing("cuMemHostAlloc");
    if (bytes == 0 || flags > 7)
        violation("cuMemHostAlloc: %zu bytes, flags %u", bytes, flags);
    Object *o = object_new(KIND_PINNED);
    o->bytes = bytes;
    *address = map_memory(bytes, PROT_READ | PROT_WRITE);
    o->address = (uint64_t)(uintptr_t)*address;
    return CUDA_SUCCESS;
}

DRIVER(cuMemFreeHost, (void *address)) {
    ENTER("cuMemFreeHost", true);
    not_capturing("cuMemFreeHost");
    Object *o = start_find(KIND_PINNED, (uint64_t)(uintptr_t)address);
    if (!o)
        violation("cuMemFreeHost: %p is not pinned memory", address);
    o->alive = false;
    munmap(address, o->bytes);
    return CUDA_SUCCESS;
}

// Queues the work, or hands it to the graph that is being recorded: both wait in the stream.
static void enqueue(Object *stream, const Op *op) {
    stub.copies += op->kind != OP_LAUNCH && op->kind != OP_RECORD;
    op_append(stream, op);
}

DRIVER(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream handle)) {
    ENTER("cuMemcpyHtoDAsync_v2", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuMemcpyHtoDAsync");
    device_bytes(to, bytes, "cuMemcpyHtoDAsync");
    Op op = {.kind = OP_IN,
             .to = to,
             .bytes = bytes,
             .what = "cuMemcpyHtoDAsync",
             .host = (unsigned char *)(uintptr_t)from,
             .copy = malloc(bytes + 1),
             .pinned = is_pinned(from, bytes, "cuMemcpyHtoDAsync")};
    if (stream->capturing && !op.pinned)
        violation("cuMemcpyHtoDAsync from pageable memory while the stream records");
    if (!op.copy)
        violation("out of memory");
    memcpy(op.copy, from, bytes);
    enqueue(stream, &op);
    return CUDA_SUCCESS;
}

// To pageable memory the driver returns when the copy is done.
DRIVER(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream handle)) {
    ENTER("cuMemcpyDtoHAsync_v2", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuMemcpyDtoHAsync");
    device_bytes(from, bytes, "cuMemcpyDtoHAsync");
    Op op = {.kind = OP_OUT,
             .from = from,
             .bytes = bytes,
             .what = "cuMemcpyDtoHAsync",
             .host = to,
             .pinned = is_pinned(to, bytes, "cuMemcpyDtoHAsync")};
    if (stream->capturing && !op.pinned)
        violation("cuMemcpyDtoHAsync to pageable memory while the stream records");
    enqueue(stream, &op);
    if (op.pinned)
        memset(to, POISON, bytes);
    else
        stream_flush(stream);
    return CUDA_SUCCESS;
}

DRIVER(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle)) {
    ENTER("cuMemcpyDtoDAsync_v2", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuMemcpyDtoDAsync");
    device_bytes(to, bytes, "cuMemcpyDtoDAsync");
    device_bytes(from, bytes, "cuMemcpyDtoDAsync");
    enqueue(stream, &(Op){.kind = OP_WITHIN,
                          .to = to,
                          .from = from,
                          .bytes = bytes,
                          .what = "cuMemcpyDtoDAsync"});
    return CUDA_SUCCESS;
}

DRIVER(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream handle)) {
    ENTER("cuMemsetD8Async", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuMemsetD8Async");
    device_bytes(to, bytes, "cuMemsetD8Async");
    enqueue(
        stream,
        &(Op){.kind = OP_SET, .to = to, .bytes = bytes, .value = value, .what = "cuMemsetD8Async"});
    return CUDA_SUCCESS;
}

// ---- streams and events -------------------------------------------------------------------------

DRIVER(cuStreamCreate, (CUstream * handle, unsigned flags)) {
    ENTER("cuStreamCreate", true);
    if (flags > 1)
        violation("cuStreamCreate: flags %u", flags);
    *handle = (CUstream)(void *)object_new(KIND_STREAM);
    return CUDA_SUCCESS;
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// A graph takes STUB_CUDA_GRAPH_US, behind those before it.
static void graph_start(void) {
    double now = now_s();
    stub.due_s = (stub.due_s > now ? stub.due_s : now) + (double)stub.graph_us * 1e-6;
}

static void graphs_wait(void) {
    while (stub.graph_us && now_s() < stub.due_s)
        ;
}

DRIVER(cuStreamSynchronize, (CUstream handle)) {
    ENTER("cuStreamSynchronize", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuStreamSynchronize");
    not_capturing("cuStreamSynchronize");
    graphs_wait();
    stream_flush(stream);
    return CUDA_SUCCESS;
}

DRIVER(cuStreamDestroy_v2, (CUstream handle)) {
    ENTER("cuStreamDestroy_v2", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuStreamDestroy");
    not_capturing("cuStreamDestroy");
    stream_flush(stream);
    stream->alive = false;
    return CUDA_SUCCESS;
}

DRIVER(cuEventCreate, (CUevent * handle, unsigned flags)) {
    ENTER("cuEventCreate", true);
    if (flags > 7)
        violation("cuEventCreate: flags %u", flags);
    *handle = (CUevent)(void *)object_new(KIND_EVENT);
    return CUDA_SUCCESS;
}

DRIVER(cuEventRecord, (CUevent handle, CUstream stream_handle)) {
    ENTER("cuEventRecord", true);
    Object *event = object_of(handle, KIND_EVENT, "cuEventRecord");
    Object *stream = object_of(stream_handle, KIND_STREAM, "cuEventRecord");
    event->recorded = true;
    enqueue(stream, &(Op){.kind = OP_RECORD, .object = event, .what = "cuEventRecord"});
    return CUDA_SUCCESS;
}

// An event that was never recorded counts as done. All of the stream runs, not only what stands
// before the event: that hides nothing, since the checks of order are made when work runs.
DRIVER(cuEventSynchronize, (CUevent handle)) {
    ENTER("cuEventSynchronize", true);
    Object *event = object_of(handle, KIND_EVENT, "cuEventSynchronize");
    not_capturing("cuEventSynchronize");
    if (event->recorded)
        all_flush("cuEventSynchronize");
    return CUDA_SUCCESS;
}

DRIVER(cuEventElapsedTime, (float *ms, CUevent start, CUevent end)) {
    ENTER("cuEventElapsedTime", true);
    if (!object_of(start, KIND_EVENT, "cuEventElapsedTime")->recorded ||
        !object_of(end, KIND_EVENT, "cuEventElapsedTime")->recorded)
        violation("cuEventElapsedTime of an event that was not recorded");
    double us = object_of(end, KIND_EVENT, "cuEventElapsedTime")->recorded_us -
                object_of(start, KIND_EVENT, "cuEventElapsedTime")->recorded_us;
    *ms = stub.times[0] ? (float)(us * 1e-3) : 1.0f;
    return CUDA_SUCCESS;
}

DRIVER(cuEventDestroy_v2, (CUevent handle)) {
    ENTER("cuEventDestroy_v2", true);
    Object *event = object_of(handle, KIND_EVENT, "cuEventDestroy");
    all_flush("cuEventDestroy");
    event->alive = false;
    return CUDA_SUCCESS;
}

// ---- modules and kernels ------------------------------------------------------------------------

DRIVER(cuModuleLoadData, (CUmodule * handle, const void *image)) {
    ENTER("cuModuleLoadData", true);
    not_capturing("cuModuleLoadData");
    bool elf = cubin_is_elf(image);
    if (stub.version < OLDEST_VERSION)
        return elf ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    if (!elf && !strstr(image, ".version"))
        return CUDA_ERROR_INVALID_IMAGE;
    if (elf && ((int)cubin_sm(image) / 10 != stub.major || (int)cubin_sm(image) % 10 > stub.minor))
        violation("cuModuleLoadData: a cubin for sm_%u on compute capability %d.%d",
                  cubin_sm(image), stub.major, stub.minor);
    Object *module = object_new(KIND_MODULE);
    module->image = image;
    *handle = (CUmodule)(void *)module;
    return CUDA_SUCCESS;
}

DRIVER(cuModuleUnload, (CUmodule handle)) {
    ENTER("cuModuleUnload", true);
    Object *module = object_of(handle, KIND_MODULE, "cuModuleUnload");
    all_flush("cuModuleUnload");
    module->alive = false;
    return CUDA_SUCCESS;
}

DRIVER(cuModuleGetFunction, (CUfunction * handle, CUmodule module_handle, const char *name)) {
    ENTER("cuModuleGetFunction", true);
    Object *module = object_of(module_handle, KIND_MODULE, "cuModuleGetFunction");
    Object *function = object_new(KIND_FUNCTION);
    snprintf(function->kernel.name, sizeof function->kernel.name, "%s", name);
    if (!cubin_kernel(module->image, &function->kernel))
        violation("cuModuleGetFunction: the image has no kernel %s", name);
    function->module = module;
    *handle = (CUfunction)(void *)function;
    return CUDA_SUCCESS;
}

// Bytes of shared memory that one block may have; the newest families are known by their first
// chip.
static unsigned shared_limit(void) {
    const struct {
        int major, minor;
        unsigned kilobytes;
    } limits[] = {{8, 0, 163}, {8, 6, 99},   {8, 7, 163},  {8, 9, 99},
                  {9, 0, 227}, {10, 0, 227}, {11, 0, 227}, {12, 0, 99}};
    unsigned found = 99;
    for (size_t at = 0; at < sizeof limits / sizeof *limits; at++)
        if (limits[at].major == stub.major && limits[at].minor <= stub.minor)
            found = limits[at].kilobytes;
    return found << 10;
}

// From sm_90 on .nv.shared counts 1 KB that the system keeps in every block.
static unsigned shared_static(const CubinKernel *k) {
    return stub.major >= 9 && k->shared_bytes >= 1024 ? k->shared_bytes - 1024 : k->shared_bytes;
}

DRIVER(cuFuncSetAttribute, (CUfunction handle, int attribute, int value)) {
    ENTER("cuFuncSetAttribute", true);
    Object *function = object_of(handle, KIND_FUNCTION, "cuFuncSetAttribute");
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        violation("cuFuncSetAttribute: attribute %d is not known here", attribute);
    if (value < 0 || (unsigned)value + shared_static(&function->kernel) > shared_limit())
        violation("cuFuncSetAttribute: kernel %s wants %d bytes of shared memory beside its %u, a "
                  "block of this chip has %u",
                  function->kernel.name, value, shared_static(&function->kernel), shared_limit());
    function->dynamic_max = (unsigned)value;
    return CUDA_SUCCESS;
}

static void geometry_check(const Object *function, const unsigned grid[3], const unsigned block[3],
                           unsigned shared_bytes) {
    const CubinKernel *k = &function->kernel;
    unsigned threads = block[0] * block[1] * block[2];
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > INT32_MAX || grid[1] > 65535 ||
        grid[2] > 65535)
        violation("kernel %s: grid %u x %u x %u", k->name, grid[0], grid[1], grid[2]);
    if (threads == 0 || threads > 1024 || block[2] > 64 ||
        (k->max_threads && threads > k->max_threads))
        violation("kernel %s: %u threads in a block, its launch bound is %u", k->name, threads,
                  k->max_threads);
    if (k->registers * threads > REGISTERS)
        violation("kernel %s: %u threads of %u registers", k->name, threads, k->registers);
    unsigned allowed =
        function->dynamic_max > SHARED_DEFAULT ? function->dynamic_max : SHARED_DEFAULT;
    if (shared_bytes > allowed || shared_bytes + shared_static(k) > shared_limit())
        violation("kernel %s: %u bytes of dynamic shared memory beside %u, allowed %u", k->name,
                  shared_bytes, shared_static(k), allowed);
}

// A map is the matrix's address here, which arguments_take then finds in the argument.
DRIVER(cuTensorMapEncodeTiled,
       (TensorMap * map, int type, uint32_t rank, void *address, const uint64_t *sizes,
        const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,
        int interleave, int swizzle, int promotion, int fill)) {
    ENTER("cuTensorMapEncodeTiled", true);
    if (stub.major < 9 || type != 1 || rank != 2 || (uintptr_t)address % 16 || sizes[0] < 1 ||
        sizes[1] < 1 || strides[0] % 16 || strides[0] < 2 * sizes[0] || box[0] * 2 > 128 ||
        box[1] < 1 || box[1] > 256 || element_strides[0] != 1 || element_strides[1] != 1 ||
        interleave != 0 || swizzle != 3 || promotion < 0 || promotion > 3 || fill != 0)
        violation("cuTensorMapEncodeTiled: [%llu, %llu] at %p in boxes of %u x %u",
                  (unsigned long long)sizes[1], (unsigned long long)sizes[0], address, box[1],
                  box[0]);
    *map = (TensorMap){.opaque = {(uintptr_t)address}};
    return CUDA_SUCCESS;
}

static void arguments_take(Op *op, void **params) {
    const CubinKernel *k = &op->object->kernel;
    if (k->params && !params)
        violation("kernel %s: no arguments, it takes %d", k->name, k->params);
    for (int at = 0; at < k->params; at++) {
        if (!params[at])
            violation("kernel %s: argument %d of %d is missing", k->name, at, k->params);
        memcpy(&op->arguments[at], params[at], (size_t)k->sizes[at] < 8 ? (size_t)k->sizes[at] : 8);
        note("  %d: 0x%llx", at, (unsigned long long)op->arguments[at]);
    }
}

static CUresult kernel_launch(CUfunction handle, const unsigned grid[3], const unsigned block[3],
                              unsigned shared_bytes, CUstream stream_handle, void **params,
                              const char *who) {
    Object *function = object_of(handle, KIND_FUNCTION, who);
    Object *stream = object_of(stream_handle, KIND_STREAM, who);
    note("  %s grid %u x %u x %u block %u shared %u", function->kernel.name, grid[0], grid[1],
         grid[2], block[0], shared_bytes);
    if (!function->module->alive)
        violation("kernel %s: its module was unloaded", function->kernel.name);
    geometry_check(function, grid, block, shared_bytes);
    Op op = {.kind = OP_LAUNCH, .object = function, .what = function->kernel.name};
    arguments_take(&op, params);
    launch_run(&op); // the checks, now and again when it runs
    enqueue(stream, &op);
    stub.launches++;
    return CUDA_SUCCESS;
}

DRIVER(cuLaunchKernel, (CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                        CUstream stream, void **params, void **extra)) {
    ENTER("cuLaunchKernel", true);
    if (extra)
        violation("cuLaunchKernel: extra is not NULL");
    return kernel_launch(handle, (unsigned[]){grid_x, grid_y, grid_z},
                         (unsigned[]){block_x, block_y, block_z}, shared_bytes, stream, params,
                         "cuLaunchKernel");
}

// As many as an H200 holds of four blocks; others are not asked for.
DRIVER(cuOccupancyMaxActiveClusters, (int *clusters, CUfunction handle, const CUlaunchConfig *c)) {
    ENTER("cuOccupancyMaxActiveClusters", true);
    object_of(handle, KIND_FUNCTION, "cuOccupancyMaxActiveClusters");
    if (c->attribute_count != 1 || c->attributes[0].id != CU_LAUNCH_CLUSTER_DIMENSION ||
        c->attributes[0].value[0] < 2 || c->grid_x % (unsigned)c->attributes[0].value[0] != 0 ||
        stub.major < 9)
        violation("cuOccupancyMaxActiveClusters: grid %u, %u attributes", c->grid_x,
                  c->attribute_count);
    *clusters = c->attributes[0].value[0] == 4 ? 30 : 132 / c->attributes[0].value[0];
    return CUDA_SUCCESS;
}

// The order of the operations stays that of the stream: what overlaps, nobody can tell here.
DRIVER(cuLaunchKernelEx,
       (const CUlaunchConfig *c, CUfunction handle, void **params, void **extra)) {
    ENTER("cuLaunchKernelEx", true);
    if (extra)
        violation("cuLaunchKernelEx: extra is not NULL");
    for (unsigned at = 0; at < c->attribute_count; at++)
        if (c->attributes[at].id != CU_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION ||
            c->attributes[at].value[0] != 1 || stub.major < 9)
            violation("cuLaunchKernelEx: attribute %d = %d", c->attributes[at].id,
                      c->attributes[at].value[0]);
    return kernel_launch(handle, (unsigned[]){c->grid_x, c->grid_y, c->grid_z},
                         (unsigned[]){c->block_x, c->block_y, c->block_z}, c->shared_bytes,
                         c->stream, params, "cuLaunchKernelEx");
}

// ---- graphs -------------------------------------------------------------------------------------

DRIVER(cuStreamBeginCapture_v2, (CUstream handle, int mode)) {
    ENTER("cuStreamBeginCapture_v2", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuStreamBeginCapture");
    if (stream->capturing || mode < 0 || mode > 2)
        violation("cuStreamBeginCapture: mode %d, or it records already", mode);
    stream_flush(stream); // what was queued before is not part of the graph
    stream->capturing = true;
    return CUDA_SUCCESS;
}

DRIVER(cuStreamEndCapture, (CUstream handle, CUgraph *graph_handle)) {
    CUresult failure = enter("cuStreamEndCapture", true);
    Object *stream = object_of(handle, KIND_STREAM, "cuStreamEndCapture");
    if (!stream->capturing)
        violation("cuStreamEndCapture: the stream does not record");
    if (failure != CUDA_SUCCESS) { // a failed capture is over too
        queue_clear(stream);
        stream->capturing = false;
        return failure;
    }
    Object *graph = object_new(KIND_GRAPH);
    graph->first = stream->first;
    graph->last = stream->last;
    stream->first = stream->last = NULL;
    stream->capturing = false;
    *graph_handle = (CUgraph)(void *)graph;
    return CUDA_SUCCESS;
}

DRIVER(cuGraphInstantiateWithFlags,
       (CUgraphExec * handle, CUgraph graph_handle, unsigned long long flags)) {
    ENTER("cuGraphInstantiateWithFlags", true);
    Object *graph = object_of(graph_handle, KIND_GRAPH, "cuGraphInstantiate");
    if (flags)
        violation("cuGraphInstantiate: flags %llu", flags);
    Object *exec = object_new(KIND_EXEC);
    int nodes = 0;
    for (Op *op = graph->first; op; op = op->next, nodes++) {
        if (op->kind != OP_LAUNCH)
            violation("cuGraphInstantiate: %s in a graph is not known here", op->what);
        op_append(exec, op);
    }
    note("  %d nodes", nodes);
    *handle = (CUgraphExec)(void *)exec;
    return CUDA_SUCCESS;
}

DRIVER(cuGraphLaunch, (CUgraphExec handle, CUstream stream_handle)) {
    ENTER("cuGraphLaunch", true);
    Object *exec = object_of(handle, KIND_EXEC, "cuGraphLaunch");
    Object *stream = object_of(stream_handle, KIND_STREAM, "cuGraphLaunch");
    not_capturing("cuGraphLaunch");
    queue_run(exec); // the checks, now and again when it runs
    op_append(stream, &(Op){.kind = OP_GRAPH, .object = exec, .what = "cuGraphLaunch"});
    graph_start();
    stub.graph_launches++;
    return CUDA_SUCCESS;
}

DRIVER(cuGraphExecDestroy, (CUgraphExec handle)) {
    ENTER("cuGraphExecDestroy", true);
    Object *exec = object_of(handle, KIND_EXEC, "cuGraphExecDestroy");
    all_flush("cuGraphExecDestroy");
    queue_clear(exec);
    exec->alive = false;
    return CUDA_SUCCESS;
}

DRIVER(cuGraphDestroy, (CUgraph handle)) {
    ENTER("cuGraphDestroy", true);
    Object *graph = object_of(handle, KIND_GRAPH, "cuGraphDestroy");
    queue_clear(graph);
    graph->alive = false;
    return CUDA_SUCCESS;
}

// ---- the end ------------------------------------------------------------------------------------

__attribute__((destructor)) static void process_ends(void) {
    if (stub.retained)
        violation("the process ends, but the context was not released");
    if (stub.log)
        fclose(stub.log);
}

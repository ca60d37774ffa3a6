// The one file of the compiler that knows the driver: libcuda.so.1 is opened when somebody asks for
// a measurement, so that the compiler runs where there is none. Memory and modules are listed, so
// that meter_close can give back whatever a failure on the way left behind.
#include "measure.h"
#include "../runtime/cuda_driver.h"
#include "../runtime/step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SHARED_WITHOUT_ASKING = 48 << 10 };

typedef struct Held { // memory or a module
    CUdeviceptr address;
    CUmodule module;
    struct Held *next;
} Held;

struct Meter {
    CudaDriver cu;
    Arena *arena;
    CUdevice device;
    CUcontext context; // NULL: not retained
    CUstream stream;
    CUevent start, stop;
    Held *held; // with holes: address 0 and module NULL
    int multiprocessors, version;
    bool overlap; // a kernel may start before the one in front of it has ended
    char name[128];
};

// ---- the driver ---------------------------------------------------------------------------------

static bool driver_open(CudaDriver *cu) {
    const char *missing;
    return cuda_driver_open(cu, CUDA_LIBRARY, &missing);
}

static bool device_find(const CudaDriver *cu, CUdevice *device) {
    int count = 0;
    return cu->init(0) == CUDA_SUCCESS && cu->device_count(&count) == CUDA_SUCCESS && count > 0 &&
           cu->device_get(device, 0) == CUDA_SUCCESS;
}

bool meter_compute_capability(int *major, int *minor) {
    CudaDriver cu;
    CUdevice device;
    return driver_open(&cu) && device_find(&cu, &device) &&
           cu.device_attribute(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device) ==
               CUDA_SUCCESS &&
           cu.device_attribute(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device) ==
               CUDA_SUCCESS;
}

static bool check(const Meter *m, CUresult result, const char *call, Error *err) {
    const char *text = NULL;
    if (result == CUDA_SUCCESS)
        return true;
    if (m->cu.error_string(result, &text) != CUDA_SUCCESS || !text)
        text = "unknown error";
    ErrorCode code = result == CUDA_ERROR_OUT_OF_MEMORY ? ERR_RESOURCE : ERR_DEVICE;
    return fail(err, code, 651, "measuring on %s: %s gave error %d (%s)", m->name, call, result,
                text);
}

#define CHECK(m, call) TRY(check((m), (m)->cu.call, #call, err))

// ---- open and close -----------------------------------------------------------------------------

static bool meter_start(Meter *m, Error *err) {
    int major = 0;
    CHECK(m, device_name(m->name, sizeof m->name, m->device));
    CHECK(m, driver_version(&m->version));
    CHECK(m, device_attribute(&m->multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                              m->device));
    CHECK(m, device_attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, m->device));
    m->overlap = cuda_driver_overlaps(major, m->version);
    CHECK(m, context_retain(&m->context, m->device));
    CHECK(m, context_set(m->context));
    CHECK(m, stream_create(&m->stream, CU_STREAM_NON_BLOCKING));
    CHECK(m, event_create(&m->start, 0));
    CHECK(m, event_create(&m->stop, 0));
    return true;
}

bool meter_open(Meter **out, Arena *a, Error *err) {
    Meter *m = ARENA_NEW(a, Meter, 1);
    m->arena = a;
    *out = NULL;
    snprintf(m->name, sizeof m->name, "the first GPU");
    if (!driver_open(&m->cu) || !device_find(&m->cu, &m->device))
        return fail(err, ERR_DEVICE, 650,
                    "measuring needs a GPU, but there is no libcuda.so.1 or no device in this "
                    "machine; --tuning-file takes what was measured on another one");
    if (!meter_start(m, err)) {
        meter_close(m);
        return false;
    }
    *out = m;
    return true;
}

void meter_close(Meter *m) {
    if (!m || !m->context)
        return;
    if (m->stream)
        m->cu.stream_wait(m->stream);
    for (Held *h = m->held; h; h = h->next) {
        if (h->address)
            m->cu.memory_free(h->address);
        if (h->module)
            m->cu.module_unload(h->module);
    }
    if (m->start)
        m->cu.event_destroy(m->start);
    if (m->stop)
        m->cu.event_destroy(m->stop);
    if (m->stream)
        m->cu.stream_destroy(m->stream);
    m->cu.context_release(m->device);
    m->context = NULL;
}

const char *meter_device(const Meter *m) {
    return m->name;
}

int meter_driver_version(const Meter *m) {
    return m->version;
}

int meter_multiprocessors(const Meter *m) {
    return m->multiprocessors;
}

void *meter_stream(const Meter *m) {
    return m->stream;
}

// ---- memory and kernels -------------------------------------------------------------------------

static void hold(Meter *m, CUdeviceptr address, CUmodule module) {
    Held *h = m->held;
    while (h && (h->address || h->module))
        h = h->next;
    if (!h) {
        h = ARENA_NEW(m->arena, Held, 1);
        h->next = m->held;
        m->held = h;
    }
    h->address = address;
    h->module = module;
}

bool meter_alloc(Meter *m, uint64_t *address, int64_t bytes, Error *err) {
    assert(bytes > 0);
    CHECK(m, memory_alloc(address, (size_t)bytes));
    hold(m, *address, NULL);
    return true;
}

void meter_release(Meter *m, uint64_t address) {
    for (Held *h = m->held; h; h = h->next) {
        if (h->address == address && address) {
            m->cu.memory_free(address);
            h->address = 0;
        }
    }
}

bool meter_upload(Meter *m, uint64_t to, const void *from, int64_t bytes, Error *err) {
    CHECK(m, copy_to_device(to, from, (size_t)bytes, m->stream));
    return meter_wait(m, err);
}

bool meter_download(Meter *m, void *to, uint64_t from, int64_t bytes, Error *err) {
    CHECK(m, copy_to_host(to, from, (size_t)bytes, m->stream));
    return meter_wait(m, err);
}

bool meter_copy(Meter *m, uint64_t to, uint64_t from, int64_t bytes, Error *err) {
    CHECK(m, copy_on_device(to, from, (size_t)bytes, m->stream));
    return true;
}

bool meter_fill(Meter *m, uint64_t to, unsigned char value, int64_t bytes, Error *err) {
    CHECK(m, memory_set(to, value, (size_t)bytes, m->stream));
    return true;
}

bool meter_load(Meter *m, MeterKernel *out, const void *image, const char *entry, int shared_bytes,
                Error *err) {
    CHECK(m, module_load(&out->module, image));
    hold(m, 0, out->module);
    CHECK(m, module_function(&out->function, out->module, entry));
    if (shared_bytes > SHARED_WITHOUT_ASKING)
        CHECK(m, function_set(out->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                              shared_bytes));
    return true;
}

void meter_unload(Meter *m, MeterKernel *kernel) {
    for (Held *h = m->held; h; h = h->next) {
        if (h->module == kernel->module && kernel->module) {
            m->cu.module_unload(kernel->module);
            h->module = NULL;
        }
    }
    *kernel = (MeterKernel){0};
}

// ---- launches -----------------------------------------------------------------------------------

static bool launch(Meter *m, CudaLaunch *l, Error *err) {
    l->stream = m->stream;
    l->overlap = m->overlap;
    return check(m, cuda_driver_launch(&m->cu, l), "cuLaunchKernelEx", err);
}

bool meter_launch(Meter *m, const MeterKernel *kernel, const int grid[3], int block,
                  const uint64_t *arguments, int count, Error *err) {
    return launch(m,
                  &(CudaLaunch){.function = kernel->function,
                                .grid = {grid[0], grid[1], grid[2]},
                                .block = block,
                                .argument_count = count,
                                .arguments = arguments},
                  err);
}

void step_arguments(uint64_t arguments[STEP_MAX_OPERANDS], const Step *step, const PhasePlan *phase,
                    const uint64_t *base, int64_t tokens) {
    for (int at = 0; at < step->operand_count; at++) {
        const Operand *o = &step->operands[at];
        int64_t offset = o->kind == OPERAND_TOKENS ? tokens : o->offset;
        if (o->kind == OPERAND_BUFFER)
            offset += phase->buffers[o->buffer].offset;
        bool address = o->kind == OPERAND_ADDRESS || o->kind == OPERAND_BUFFER;
        arguments[at] = (address ? base[o->region] : 0) + (uint64_t)offset;
    }
}

bool meter_step(Meter *m, const MeterKernel *kernel, const Step *step, const PhasePlan *phase,
                const uint64_t *base, int64_t tokens, Error *err) {
    uint64_t arguments[STEP_MAX_OPERANDS];
    step_arguments(arguments, step, phase, base, tokens);
    return launch(m,
                  &(CudaLaunch){.function = kernel->function,
                                .grid = {step->grid[0], step->grid[1], step->grid[2]},
                                .block = step->block,
                                .shared_bytes = step->shared_bytes,
                                .tokens_per_block = (int)step->tokens_per_block,
                                .map_columns = (int)step->map_columns,
                                .map_rows = (int)step->map_rows,
                                .cluster_blocks = step->cluster_blocks,
                                .argument_count = step->operand_count,
                                .arguments = arguments,
                                .tokens = tokens},
                  err);
}

bool meter_wait(Meter *m, Error *err) {
    CHECK(m, stream_wait(m->stream));
    return true;
}

// ---- times --------------------------------------------------------------------------------------

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static bool replays_time(Meter *m, CUgraphExec ready, int replays, double *us, Error *err) {
    float ms[METER_REPLAYS_MAX];
    CHECK(m, graph_launch(ready, m->stream));
    for (int at = 0; at < replays; at++) {
        CHECK(m, event_record(m->start, m->stream));
        CHECK(m, graph_launch(ready, m->stream));
        CHECK(m, event_record(m->stop, m->stream));
        CHECK(m, event_wait(m->stop));
        CHECK(m, event_elapsed(&ms[at], m->start, m->stop));
    }
    qsort(ms, (size_t)replays, sizeof *ms, compare_floats);
    *us = (double)ms[replays / 2] * 1e3;
    return true;
}

bool meter_graph(Meter *m, bool (*enqueue)(void *user, Error *err), void *user, int replays,
                 double *us, Error *err) {
    assert(replays >= 1 && replays <= METER_REPLAYS_MAX);
    CUgraph graph = NULL;
    CUgraphExec ready = NULL;
    CHECK(m, capture_begin(m->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    bool queued = enqueue(user, err);
    CUresult ended = m->cu.capture_end(m->stream, &graph); // a failed capture must end too
    if (queued && check(m, ended, "capture_end", err) &&
        check(m, m->cu.graph_instantiate(&ready, graph, 0), "graph_instantiate", err))
        queued = replays_time(m, ready, replays, us, err);
    else
        queued = false;
    if (ready)
        m->cu.graph_exec_destroy(ready);
    if (graph)
        m->cu.graph_destroy(graph);
    return queued;
}

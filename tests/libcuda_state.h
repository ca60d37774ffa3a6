// What the stand-in driver knows, and how it runs queued work: the first half of libcuda_stub.c,
// whose opening comment explains both.
#ifndef LIBCUDA_STATE_H
#define LIBCUDA_STATE_H

#include "../runtime/cuda_driver.h"
#include "cubin_info.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    VIOLATION_STATUS = 99,
    OLDEST_VERSION = 12000,
    POISON = 0xee,
    SHARED_DEFAULT = 48 << 10, // without cuFuncSetAttribute
    REGISTERS = 1 << 16,       // of a multiprocessor
    WRITTEN_BYTES = 1 << 20,   // of an output, at most
};

#define DEVICE_SPACE ((uint64_t)1 << 42) // addresses that the device may have
#define DEVICE_GUARD ((uint64_t)1 << 21) // between allocations

typedef enum Kind { // ORDER KINDS
    KIND_MEMORY,
    KIND_PINNED,
    KIND_STREAM,
    KIND_EVENT,
    KIND_MODULE,
    KIND_FUNCTION,
    KIND_GRAPH,
    KIND_EXEC,
} Kind;

static const char *const kind_names[] = { // ORDER KINDS
    "device memory", "pinned memory", "stream", "event",
    "module",        "function",      "graph",  "executable graph"};

typedef enum OpKind { OP_IN, OP_OUT, OP_WITHIN, OP_SET, OP_LAUNCH, OP_RECORD, OP_GRAPH } OpKind;

// Queued work. Addresses are checked when it is queued and once more when it runs.
typedef struct Op {
    OpKind kind;
    uint64_t to, from; // device addresses
    size_t bytes;
    const char *what;
    unsigned char *host; // OP_IN, OP_OUT
    unsigned char *copy; // OP_IN: what the host's memory held when it was queued; owner
    bool pinned;         // the host's memory is
    unsigned char value; // OP_SET
    uint64_t arguments[CUBIN_MAX_PARAMS]; // OP_LAUNCH
    struct Object *object;                // event, function, executable graph
    struct Op *next;
} Op;

// Whatever has a handle. Never freed, so that a stale handle is recognized.
typedef struct Object {
    Kind kind;
    bool alive;
    struct Object *next;
    uint64_t address; // KIND_MEMORY: of the device; KIND_PINNED: of the host
    size_t bytes;
    unsigned char *backing;     // KIND_MEMORY
    bool managed;               // KIND_MEMORY: at its own address
    Op *first, *last;           // KIND_STREAM, KIND_GRAPH, KIND_EXEC; owner
    bool capturing;             // KIND_STREAM
    bool recorded;              // KIND_EVENT
    double recorded_us;         // KIND_EVENT: the clock when it happened
    const unsigned char *image; // KIND_MODULE
    struct Object *module;      // KIND_FUNCTION
    CubinKernel kernel;
    unsigned dynamic_max;
} Object;

typedef struct Stub {
    bool configured, initialized, retained;
    int major, minor, version, devices, integrated;
    Object *objects;
    unsigned char *space; // DEVICE_SPACE bytes of addresses
    uint64_t next;        // offset of the next allocation
    size_t used, total;
    FILE *log;
    char fail_symbol[CUBIN_NAME_BYTES];
    int fail_call, fail_code;
    long launches, graph_launches, copies;
    char times[256]; // STUB_CUDA_US
    double clock_us; // advanced by kernels
    long graph_us;   // STUB_CUDA_GRAPH_US
    double due_s;    // when the graphs that were launched are done
} Stub;

static Stub stub;
static _Thread_local bool current; // the context, in this thread

// ---- reporting ----------------------------------------------------------------------------------

__attribute__((format(printf, 1, 2), noreturn)) static void violation(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("libcuda stub: violation: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(VIOLATION_STATUS);
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (stub.log) {
        vfprintf(stub.log, format, args);
        fputc('\n', stub.log);
    }
    va_end(args);
}

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? strtoll(text, NULL, 10) : otherwise;
}

static void configure(void) {
    const char *capability = getenv("STUB_CUDA_CAPABILITY"), *log = getenv("STUB_CUDA_LOG");
    const char *failure = getenv("STUB_CUDA_FAIL");
    stub.configured = true;
    stub.major = 9;
    if (capability && sscanf(capability, "%d.%d", &stub.major, &stub.minor) != 2)
        violation("STUB_CUDA_CAPABILITY is not like 9.0");
    if (failure &&
        sscanf(failure, "%95[^:]:%d:%d", stub.fail_symbol, &stub.fail_call, &stub.fail_code) != 3)
        violation("STUB_CUDA_FAIL is not like cuMemAlloc_v2:1:2");
    const char *times = getenv("STUB_CUDA_US");
    snprintf(stub.times, sizeof stub.times, "%s", times ? times : "");
    stub.version = (int)setting("STUB_CUDA_VERSION", 13000);
    stub.devices = (int)setting("STUB_CUDA_DEVICES", 1);
    stub.integrated = (int)setting("STUB_CUDA_INTEGRATED", 0);
    stub.graph_us = setting("STUB_CUDA_GRAPH_US", 0);
    stub.total = (size_t)setting("STUB_CUDA_MEMORY", 8000000000);
    stub.log = log ? fopen(log, "w") : NULL;
}

// What every function does first. Returns the code that STUB_CUDA_FAIL wants, else 0.
static CUresult enter(const char *symbol, bool needs_context) {
    if (!stub.configured)
        configure();
    note("%s", symbol);
    if (strcmp(symbol, stub.fail_symbol) == 0 && --stub.fail_call == 0)
        return stub.fail_code;
    if (!stub.initialized && strcmp(symbol, "cuInit") != 0 &&
        strcmp(symbol, "cuDriverGetVersion") != 0 && strcmp(symbol, "cuGetErrorString") != 0)
        violation("%s before cuInit", symbol);
    if (needs_context && !(stub.retained && current))
        violation("%s without a current context", symbol);
    return CUDA_SUCCESS;
}

#define ENTER(symbol, needs_context)                     \
    do {                                                 \
        CUresult wanted_ = enter(symbol, needs_context); \
        if (wanted_ != CUDA_SUCCESS)                     \
            return wanted_;                              \
    } while (0)

// ---- objects ------------------------------------------------------------------------------------

static Object *object_new(Kind kind) {
    Object *o = calloc(1, sizeof *o);
    if (!o)
        violation("out of memory");
    *o = (Object){.kind = kind, .alive = true, .next = stub.objects};
    stub.objects = o;
    return o;
}

static Object *object_of(const void *handle, Kind kind, const char *symbol) {
    for (Object *o = stub.objects; o; o = o->next)
        if (o == handle) {
            if (o->kind != kind)
                violation("%s: a %s is no %s", symbol, kind_names[o->kind], kind_names[kind]);
            if (!o->alive)
                violation("%s: the %s was destroyed before", symbol, kind_names[kind]);
            return o;
        }
    violation("%s: no such %s: %p", symbol, kind_names[kind], handle);
}

// The live object of a kind whose range holds [address, address + bytes); NULL: none.
static Object *range_find(Kind kind, uint64_t address, size_t bytes) {
    for (Object *o = stub.objects; o; o = o->next)
        if (o->alive && o->kind == kind && address >= o->address &&
            address - o->address <= o->bytes && bytes <= o->bytes - (address - o->address))
            return o;
    return NULL;
}

// The live object of a kind that starts there; NULL: none.
static Object *start_find(Kind kind, uint64_t address) {
    for (Object *o = stub.objects; o; o = o->next)
        if (o->alive && o->kind == kind && o->address == address)
            return o;
    return NULL;
}

static unsigned char *device_bytes(uint64_t address, size_t bytes, const char *what) {
    Object *o = range_find(KIND_MEMORY, address, bytes);
    if (!o)
        violation("%s: %zu bytes at 0x%llx are not inside of one allocation", what, bytes,
                  (unsigned long long)address);
    return o->backing + (address - o->address);
}

static bool in_device_space(uint64_t address) {
    uint64_t base = (uint64_t)(uintptr_t)stub.space;
    return stub.space && address >= base && address < base + DEVICE_SPACE;
}

// Is [data, data + bytes) pinned memory? Half pinned is a violation.
static bool is_pinned(const void *data, size_t bytes, const char *symbol) {
    uint64_t address = (uint64_t)(uintptr_t)data;
    if (in_device_space(address))
        violation("%s: a device address in the place of a host address", symbol);
    bool whole = range_find(KIND_PINNED, address, bytes);
    if (!whole && bytes && range_find(KIND_PINNED, address, 1))
        violation("%s: %zu bytes run out of their pinned memory", symbol, bytes);
    return whole;
}

// ---- queued work --------------------------------------------------------------------------------

static void op_append(Object *queue, const Op *op) {
    Op *copy = malloc(sizeof *copy);
    if (!copy)
        violation("out of memory");
    *copy = *op;
    copy->next = NULL;
    if (queue->last)
        queue->last->next = copy;
    else
        queue->first = copy;
    queue->last = copy;
}

static void queue_clear(Object *queue) {
    while (queue->first) {
        Op *next = queue->first->next;
        free(queue->first->copy);
        free(queue->first);
        queue->first = next;
    }
    queue->last = NULL;
}

static void op_pinned_check(const Op *op) {
    if (op->pinned && !range_find(KIND_PINNED, (uint64_t)(uintptr_t)op->host, op->bytes))
        violation("%s: the pinned memory was freed before the copy ran", op->what);
}

static void in_run(const Op *op) {
    unsigned char *to = device_bytes(op->to, op->bytes, op->what);
    op_pinned_check(op);
    if (op->pinned && memcmp(op->host, op->copy, op->bytes) != 0)
        violation("%s: the pinned memory changed before the copy ran", op->what);
    memcpy(to, op->copy, op->bytes);
}

static void out_run(const Op *op) {
    op_pinned_check(op);
    memcpy(op->host, device_bytes(op->from, op->bytes, op->what), op->bytes);
}

static void within_run(const Op *op) {
    memmove(device_bytes(op->to, op->bytes, op->what), device_bytes(op->from, op->bytes, op->what),
            op->bytes);
}

static void set_run(const Op *op) {
    memset(device_bytes(op->to, op->bytes, op->what), op->value, op->bytes);
}

// Arguments are 8-byte slots: addresses, or integers, which are small.
static void launch_run(const Op *op) {
    const CubinKernel *k = &op->object->kernel;
    if (!op->object->alive || !op->object->module->alive)
        violation("kernel %s: its module was unloaded before it ran", k->name);
    for (int at = 0; at < k->params; at++) {
        uint64_t value = op->arguments[at];
        if (in_device_space(value))
            device_bytes(value, 0, k->name);
        else if (k->sizes[at] == 8 && value >> 40 != 0 && value >> 40 != 0xffffff)
            violation("kernel %s: argument %d is 0x%llx: a host address?", k->name, at,
                      (unsigned long long)value);
    }
}

// STUB_CUDA_US: microseconds of a kernel, by the first "NAME:US" whose NAME its name begins with.
static double kernel_us(const char *kernel) {
    for (const char *at = stub.times; *at;) {
        size_t length = strcspn(at, ":");
        if (strncmp(kernel, at, length) == 0)
            return strtod(at + length + 1, NULL);
        at += strcspn(at, ",");
        at += *at == ',';
    }
    return 0;
}

// With STUB_CUDA_US a kernel takes its time, and writes zeros where an argument points at 0xff: the
// outputs that somebody poisoned, so that they can be told from those of a kernel that does nothing.
static void kernel_run(const Op *op) {
    launch_run(op);
    if (!stub.times[0])
        return;
    stub.clock_us += kernel_us(op->object->kernel.name);
    for (int at = 0; at < op->object->kernel.params; at++) {
        uint64_t address = op->arguments[at];
        Object *o = in_device_space(address) ? range_find(KIND_MEMORY, address, 1) : NULL;
        size_t offset = o ? address - o->address : 0, most = o ? o->bytes - offset : 0;
        if (o && o->backing[offset] == 0xff)
            memset(o->backing + offset, 0, most < WRITTEN_BYTES ? most : WRITTEN_BYTES);
    }
}

static void record_run(const Op *op) {
    if (!op->object->alive)
        violation("%s: the event was destroyed before it happened", op->what);
    op->object->recorded_us = stub.clock_us;
}

static void queue_run(const Object *queue);

static void graph_run(const Op *op) {
    if (!op->object->alive)
        violation("%s: the executable graph was destroyed before it ran", op->what);
    queue_run(op->object);
}

// Graphs hold no graphs, so this goes one level deep.
static void queue_run(const Object *queue) {
    static void (*const run[])(const Op *) = {
        [OP_IN] = in_run,       [OP_OUT] = out_run,       [OP_WITHIN] = within_run,
        [OP_SET] = set_run,     [OP_LAUNCH] = kernel_run, [OP_RECORD] = record_run,
        [OP_GRAPH] = graph_run,
    };
    for (const Op *op = queue->first; op; op = op->next)
        run[op->kind](op);
}

static void stream_flush(Object *stream) {
    queue_run(stream);
    queue_clear(stream);
}

static void not_capturing(const char *symbol) {
    for (Object *o = stub.objects; o; o = o->next)
        if (o->alive && o->kind == KIND_STREAM && o->capturing)
            violation("%s while a stream records", symbol);
}

static void all_flush(const char *symbol) {
    not_capturing(symbol);
    for (Object *o = stub.objects; o; o = o->next)
        if (o->alive && o->kind == KIND_STREAM)
            stream_flush(o);
}

#endif

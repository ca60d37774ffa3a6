// A stand-in for the NVIDIA driver, libcuda.so.1: it runs no kernel, but checks every call that the
// runtime makes, so that the host side of the GPU path runs on machines without a GPU. Used through
// LD_LIBRARY_PATH=build/tests/stub.
//
// A violation prints one line and ends the process with status 99:
//   handles         made here, of the right kind, not destroyed; the context current in the thread
//   launches        number and size of arguments as in the cubin's .nv.info; every argument that looks
//                   like an address inside of a live allocation; grid, block, shared memory and
//                   registers within the limits of the chip and of the kernel
//   copies          inside of one allocation on both sides
//   order           work is queued and runs when the host waits: pinned memory must not change before;
//                   what a copy to the host will bring is filled with 0xEE until then
//   capture         nothing that waits or allocates while a stream records
//   leaks           nothing may be alive when the context is released, which must happen
//
// Device addresses are not mapped, so that the host cannot use them by mistake.
//
// Set up by environment variables: STUB_CUDA_CAPABILITY (9.0), STUB_CUDA_VERSION (13000),
// STUB_CUDA_DEVICES (1), STUB_CUDA_MEMORY in bytes (8 GiB), STUB_CUDA_LOG (a file that gets a line per
// call), STUB_CUDA_FAIL (SYMBOL:N:CODE, the N-th call of SYMBOL returns CODE). A driver older than the
// CUDA version 12.0 loads no image.
//
// Sources: the CUDA driver API's documentation; .nv.info as cuobjdump -elf prints it. This library has
// one mutable object at file scope: a driver has no other place for its state.
#include "../runtime/cuda_driver.h"

#include <elf.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    VIOLATION_STATUS = 99,
    MAX_PARAMS       = 32,
    SYMBOL_BYTES     = 64,
    OLDEST_VERSION   = 12000,
    POISON           = 0xee,
};

static const uint64_t DEVICE_SPACE = (uint64_t)1 << 40; // addresses that devices may have
static const uint64_t GUARD = (uint64_t)1 << 21;        // between allocations

typedef enum Kind {
    KIND_MEMORY, KIND_PINNED, KIND_STREAM, KIND_EVENT, KIND_MODULE, KIND_FUNCTION, KIND_GRAPH,
    KIND_EXEC, KIND_COUNT,
} Kind;

static const char *const kind_names[KIND_COUNT] = {
    "device memory", "pinned memory", "stream", "event", "module", "function", "graph",
    "executable graph",
};

typedef struct Kernel {
    char name[SYMBOL_BYTES];
    int params;
    int sizes[MAX_PARAMS];
    unsigned max_threads;  // __launch_bounds__, 0: none
    unsigned registers;    // of one thread
    unsigned shared_bytes; // static
    unsigned dynamic_max;  // set by cuFuncSetAttribute
} Kernel;

typedef enum OpKind { OP_IN, OP_OUT, OP_WITHIN, OP_SET, OP_LAUNCH, OP_RECORD, OP_GRAPH } OpKind;

// Queued work. Addresses were checked when it was queued and are checked again when it runs.
typedef struct Op {
    OpKind kind;
    uint64_t to, from; // device addresses
    size_t bytes;
    void *host;
    unsigned char *copy; // OP_IN: what the source held when it was queued
    bool pinned;         // the host's side is
    unsigned char value;
    uint64_t pointers[MAX_PARAMS]; // OP_LAUNCH: arguments that are device addresses
    int pointer_count;
    struct Object *object; // event, executable graph
    struct Op *next;
} Op;

typedef struct Queue {
    Op *first, *last;
    int count;
} Queue;

// Whatever has a handle. Never freed, so that a stale handle is recognized.
typedef struct Object {
    Kind kind;
    bool alive;
    struct Object *next;
    uint64_t address; // KIND_MEMORY; KIND_PINNED: the host's address
    size_t bytes;
    unsigned char *backing; // KIND_MEMORY
    Queue queue;            // KIND_STREAM, KIND_GRAPH, KIND_EXEC
    bool capturing;         // KIND_STREAM
    bool recorded, done;    // KIND_EVENT
    Bytes *image_unused;
    const unsigned char *image; // KIND_MODULE
    struct Object *module;      // KIND_FUNCTION
    Kernel kernel;
} Object;

typedef struct Stub {
    bool initialized, retained;
    Object *objects;
    uint64_t space, next; // of device addresses
    size_t used, total;
    int major, minor, version, devices;
    FILE *log;
    char fail_symbol[SYMBOL_BYTES];
    int fail_call, fail_code;
    int launches, graph_launches, copies;
} Stub;

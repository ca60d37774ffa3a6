// The stand-in driver must find mistakes: each row of the table makes one in a child process, which
// must end with status 99. The first row makes none.
#include "../../runtime/cuda_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 4096, VIOLATION = 99 };

static const char ptx[] = ".version 7.0\n.target sm_80\n.address_size 64\n"
                          ".visible .entry k(.param .u64 a, .param .u64 b) { ret; }\n";

typedef struct Gpu {
    CudaDriver cu;
    CUstream stream;
    CUdeviceptr memory, other;
    unsigned char *pinned;
    CUmodule module;
    CUfunction kernel;
    CUevent event;
    CUgraphExec exec;
} Gpu;

static CUresult launch(Gpu *g, uint64_t a, uint64_t b, unsigned grid_y, unsigned block,
                       unsigned shared_bytes) {
    void *params[] = {&a, &b};
    return g->cu.launch(g->kernel, 1, grid_y, 1, block, 1, 1, shared_bytes, g->stream, params,
                        NULL);
}

static void gpu_open(Gpu *g) {
    CUcontext context;
    CUgraph graph;
    void *pinned;
    int sum = g->cu.init(0) + g->cu.context_retain(&context, 0) + g->cu.context_set(context) +
              g->cu.stream_create(&g->stream, 1) + g->cu.memory_alloc(&g->memory, BYTES) +
              g->cu.memory_alloc(&g->other, BYTES) + g->cu.host_alloc(&pinned, BYTES, 0) +
              g->cu.module_load(&g->module, ptx) +
              g->cu.module_function(&g->kernel, g->module, "k") + g->cu.event_create(&g->event, 0) +
              g->cu.capture_begin(g->stream, 1) + launch(g, g->memory, 5, 1, 32, 0) +
              g->cu.capture_end(g->stream, &graph) + g->cu.graph_instantiate(&g->exec, graph, 0) +
              g->cu.graph_destroy(graph);
    g->pinned = pinned;
    if (sum)
        _exit(5);
}

static void gpu_close(Gpu *g) {
    g->cu.graph_exec_destroy(g->exec);
    g->cu.event_destroy(g->event);
    g->cu.module_unload(g->module);
    g->cu.host_free(g->pinned);
    g->cu.memory_free(g->memory);
    g->cu.memory_free(g->other);
    g->cu.stream_destroy(g->stream);
    g->cu.context_release(0);
}

// ---- right and wrong uses -----------------------------------------------------------------------

static void all_right(Gpu *g) {
    unsigned char back[BYTES];
    memset(g->pinned, 7, BYTES);
    g->cu.copy_to_device(g->memory, g->pinned, BYTES, g->stream);
    g->cu.copy_on_device(g->other + 1, g->memory + 1, BYTES - 1, g->stream);
    g->cu.memory_set(g->other, 3, 1, g->stream);
    g->cu.event_record(g->event, g->stream);
    g->cu.event_wait(g->event);
    g->cu.copy_to_host(back, g->other, BYTES, g->stream);
    if (back[0] != 3 || back[1] != 7 || back[BYTES - 1] != 7)
        _exit(6);
    g->cu.copy_to_host(g->pinned, g->other, BYTES, g->stream);
    if (g->pinned[0] != 0xee) // has not arrived yet
        _exit(7);
    g->cu.graph_launch(g->exec, g->stream);
    launch(g, g->memory + 16, 1u << 31, 65535, 1024, 48 << 10);
    g->cu.stream_wait(g->stream);
    if (g->pinned[0] != 3)
        _exit(8);
}

// Clusters of four, of a grid of whole ones: those that an H200 holds.
static CUresult clusters(Gpu *g, int32_t size, unsigned grid, unsigned attributes, int *out) {
    CUlaunchAttribute cluster = {.id = CU_LAUNCH_CLUSTER_DIMENSION, .value = {size, 1, 1}};
    CUlaunchConfig config = {.grid_x = grid,
                             .grid_y = 1,
                             .grid_z = 1,
                             .block_x = 32,
                             .block_y = 1,
                             .block_z = 1,
                             .attributes = &cluster,
                             .attribute_count = attributes};
    return g->cu.clusters_at_once(out, g->kernel, &config);
}
static void clusters_right(Gpu *g) {
    int count = 0;
    if (clusters(g, 4, 132, 1, &count) != CUDA_SUCCESS || count != 30)
        _exit(9);
}
static void clusters_of_unknown_size(Gpu *g) {
    int count;
    clusters(g, 4, 132, 0, &count);
}
static void clusters_cut(Gpu *g) {
    int count;
    clusters(g, 4, 130, 1, &count);
}

static void copy_past_the_end(Gpu *g) {
    g->cu.copy_to_device(g->memory + 1, g->pinned, BYTES, g->stream);
}
static void copy_past_pinned(Gpu *g) {
    g->cu.copy_to_device(g->memory, g->pinned + 1, BYTES, g->stream);
}
static void copy_between_allocations(Gpu *g) {
    g->cu.copy_on_device(g->memory, g->other - 8, 16, g->stream);
}
static void set_nowhere(Gpu *g) {
    g->cu.memory_set(12345, 0, 1, g->stream);
}
static void host_for_device(Gpu *g) {
    g->cu.copy_to_device((CUdeviceptr)(uintptr_t)g->pinned, g->pinned, 8, g->stream);
}
static void device_for_host(Gpu *g) {
    g->cu.copy_to_device(g->memory, (void *)(uintptr_t)g->other, 8, g->stream);
}
static void pinned_changes(Gpu *g) {
    g->cu.copy_to_device(g->memory, g->pinned, BYTES, g->stream);
    g->pinned[BYTES - 1] ^= 1;
    g->cu.stream_wait(g->stream);
}
static void pinned_goes_away(Gpu *g) {
    g->cu.copy_to_device(g->memory, g->pinned, BYTES, g->stream);
    g->cu.host_free(g->pinned);
    g->cu.stream_wait(g->stream);
}
static void argument_outside(Gpu *g) {
    launch(g, g->memory + BYTES + 1, 0, 1, 32, 0);
}
static void argument_of_the_host(Gpu *g) {
    launch(g, (uint64_t)(uintptr_t)g, 0, 1, 32, 0);
}
static void argument_missing(Gpu *g) {
    void *params[] = {&g->memory, NULL};
    g->cu.launch(g->kernel, 1, 1, 1, 32, 1, 1, 0, g->stream, params, NULL);
}
static void argument_freed(Gpu *g) {
    g->cu.memory_free(g->memory);
    g->cu.graph_launch(g->exec, g->stream);
}
static void grid_of_nothing(Gpu *g) {
    launch(g, 0, 0, 0, 32, 0);
}
static void grid_too_large(Gpu *g) {
    launch(g, 0, 0, 65536, 32, 0);
}
static void block_too_large(Gpu *g) {
    launch(g, 0, 0, 1, 1025, 0);
}
static void shared_not_asked_for(Gpu *g) {
    launch(g, 0, 0, 1, 32, (48 << 10) + 1);
}
static void shared_too_large(Gpu *g) {
    g->cu.function_set(g->kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 << 10);
}
static void kernel_unknown(Gpu *g) {
    CUfunction function;
    g->cu.module_function(&function, g->module, "unknown");
}
static void wait_in_capture(Gpu *g) {
    g->cu.capture_begin(g->stream, 1);
    g->cu.stream_wait(g->stream);
}
static void allocate_in_capture(Gpu *g) {
    CUdeviceptr address;
    g->cu.capture_begin(g->stream, 1);
    g->cu.memory_alloc(&address, 8);
}
static void freed_twice(Gpu *g) {
    g->cu.memory_free(g->other);
    g->cu.memory_free(g->other);
}
static void wrong_handle(Gpu *g) {
    g->cu.stream_wait((CUstream)(void *)g->event);
}
static void stale_handle(Gpu *g) {
    g->cu.event_destroy(g->event);
    g->cu.event_wait(g->event);
}
static void leaked_event(Gpu *g) {
    g->cu.event_create(&g->event, 0);
}
static void context_kept(Gpu *g) {
    (void)g;
    exit(0);
}
static void device_unknown(Gpu *g) {
    int value;
    g->cu.device_attribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 1);
}

typedef struct Row {
    const char *name;
    void (*use)(Gpu *g);
    int status;
} Row;

#define WRONG(use) {#use, use, VIOLATION}

static const Row rows[] = {
    {"all_right", all_right, 0},
    WRONG(copy_past_the_end),
    WRONG(copy_past_pinned),
    WRONG(copy_between_allocations),
    WRONG(set_nowhere),
    WRONG(host_for_device),
    WRONG(device_for_host),
    WRONG(pinned_changes),
    WRONG(pinned_goes_away),
    WRONG(argument_outside),
    WRONG(argument_of_the_host),
    WRONG(argument_missing),
    WRONG(argument_freed),
    WRONG(grid_of_nothing),
    WRONG(grid_too_large),
    WRONG(block_too_large),
    WRONG(shared_not_asked_for),
    WRONG(shared_too_large),
    WRONG(kernel_unknown),
    WRONG(wait_in_capture),
    WRONG(allocate_in_capture),
    WRONG(freed_twice),
    WRONG(wrong_handle),
    WRONG(stale_handle),
    WRONG(leaked_event),
    WRONG(context_kept),
    WRONG(device_unknown),
    {"clusters_right", clusters_right, 0},
    WRONG(clusters_of_unknown_size),
    WRONG(clusters_cut),
};

static void test_rows(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++) {
        int status = 0;
        const char *missing;
        pid_t child = fork();
        if (child == 0) {
            Gpu g = {0};
            if (!cuda_driver_open(&g.cu, "build/tests/stub/libcuda.so.1", &missing))
                _exit(3);
            gpu_open(&g);
            rows[at].use(&g);
            gpu_close(&g);
            _exit(0);
        }
        assert_true(child > 0 && waitpid(child, &status, 0) == child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != rows[at].status)
            fail_msg("%s: status %x, expected exit status %d", rows[at].name, (unsigned)status,
                     rows[at].status);
    }
}

int main(void) {
    if (access("build/tests/stub/libcuda.so.1", R_OK) != 0) {
        fprintf(stderr, "build/tests/stub/libcuda.so.1 is missing\n");
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

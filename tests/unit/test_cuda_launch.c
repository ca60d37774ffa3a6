// How a launch reaches the driver (runtime/cuda_driver.c).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/cuda_driver.h"

// ---- a driver that remembers what it was asked -----------------------------------------------------

enum { OUT_OF_CLUSTERS = 912 };

static bool has_arguments; // of the launch: three

static struct {
    CUlaunchConfig launched;
    bool overlaps;
    uint64_t arguments[3], matrix;   // that the map is of
    int launches, clusters, cluster; // that it holds at once; that it was asked for
    CUresult answer;
} seen;

static CUresult launch_config(const CUlaunchConfig *config, CUfunction function, void **params,
                              void **extra) {
    assert_null(function);
    assert_non_null(params);
    assert_null(extra);
    for (int at = 0; at < 3 && has_arguments; at++)
        memcpy(&seen.arguments[at], params[at], sizeof seen.arguments[at]);
    seen.launched = *config;
    seen.overlaps = config->attribute_count == 1 &&
                    config->attributes[0].id == CU_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION &&
                    config->attributes[0].value[0] == 1;
    seen.launches++;
    return CUDA_SUCCESS;
}

static CUresult clusters_at_once(int *clusters, CUfunction function, const CUlaunchConfig *config) {
    assert_null(function);
    assert_int_equal(config->attribute_count, 1);
    assert_int_equal(config->attributes[0].id, CU_LAUNCH_CLUSTER_DIMENSION);
    assert_int_equal(config->block_x, 32); // the launch that is asked about
    assert_int_equal(config->shared_bytes, 70000);
    seen.cluster = config->attributes[0].value[0];
    *clusters = seen.clusters;
    return seen.answer;
}

static CUresult map_make(TensorMap *map, int type, uint32_t rank, void *address,
                         const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,
                         const uint32_t *element_strides, int interleave, int swizzle,
                         int promotion, int fill) {
    (void)type, (void)strides, (void)element_strides, (void)interleave, (void)swizzle;
    (void)promotion, (void)fill;
    assert_int_equal(rank, 2);
    assert_int_equal(sizes[0], 4096);
    assert_int_equal(sizes[1], 65);
    assert_int_equal(box[1], 48);
    seen.matrix = (uintptr_t)address;
    map->opaque[0] = 77;
    return seen.answer;
}

static const CudaDriver driver = {
    .launch_config = launch_config, .clusters_at_once = clusters_at_once, .tensor_map = map_make};

// ---- tests --------------------------------------------------------------------------------------

typedef struct Case {
    int grid, cluster, held, launched;
} Case;

// Clusters that take work in turn: no more than the chip holds at once.
static void test_clusters(void **state) {
    (void)state;
    static const Case cases[] = {
        {132, 4, 30, 120}, {132, 4, 33, 132}, {132, 4, 40, 132}, {8, 4, 30, 8},
        {132, 2, 65, 130}, {132, 2, 66, 132}, {132, 4, 0, 132}, // the launch will say what is wrong
    };
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++) {
        const Case *c = &cases[at];
        memset(&seen, 0, sizeof seen);
        seen.clusters = c->held;
        const CudaLaunch l = {.grid = {c->grid, 3, 1},
                              .block = 32,
                              .shared_bytes = 70000,
                              .cluster_blocks = c->cluster,
                              .overlap = true};
        assert_int_equal(cuda_driver_launch(&driver, &l), CUDA_SUCCESS);
        assert_int_equal(seen.cluster, c->cluster);
        assert_int_equal(seen.launched.grid_x, c->launched);
        assert_int_equal(seen.launched.grid_y, 3);
        assert_true(seen.overlaps);
    }
}

static void test_no_clusters(void **state) {
    (void)state;
    memset(&seen, 0, sizeof seen);
    const CudaLaunch l = {.grid = {132, 1, 1}, .block = 32, .tokens_per_block = 64, .tokens = 65};
    assert_int_equal(cuda_driver_launch(&driver, &l), CUDA_SUCCESS);
    assert_int_equal(seen.cluster, 0); // nobody asked
    assert_int_equal(seen.launched.grid_x, 132);
    assert_int_equal(seen.launched.grid_y, 2);
    assert_int_equal(seen.launched.attribute_count, 0);
}

static void test_refused(void **state) {
    (void)state;
    memset(&seen, 0, sizeof seen);
    seen.answer = OUT_OF_CLUSTERS;
    const CudaLaunch l = {
        .grid = {132, 1, 1}, .block = 32, .shared_bytes = 70000, .cluster_blocks = 4};
    assert_int_equal(cuda_driver_launch(&driver, &l), OUT_OF_CLUSTERS);
    assert_int_equal(seen.launches, 0);
}

// Everything else is handed on as it is, and a map in the place of the first argument.
static void test_handed_on(void **state) {
    (void)state;
    static const uint64_t arguments[] = {0x70000000100, 1ull << 40, 5};
    int stream;
    CudaLaunch l = {.stream = (CUstream)(void *)&stream,
                    .grid = {132, 3, 2},
                    .block = 384,
                    .shared_bytes = 70000,
                    .map_rows = 48,
                    .argument_count = 3,
                    .arguments = arguments,
                    .tokens = 65};
    has_arguments = true;
    for (int map = 0; map < 2; map++) {
        memset(&seen, 0, sizeof seen);
        l.map_columns = map ? 4096 : 0;
        assert_int_equal(cuda_driver_launch(&driver, &l), CUDA_SUCCESS);
        const CUlaunchConfig *c = &seen.launched;
        assert_true(c->stream == l.stream);
        assert_true(c->grid_x == 132 && c->grid_y == 3 && c->grid_z == 2);
        assert_true(c->block_x == 384 && c->block_y == 1 && c->block_z == 1);
        assert_int_equal(c->shared_bytes, 70000);
        assert_int_equal(seen.arguments[0], map ? 77 : arguments[0]);
        assert_int_equal(seen.arguments[1], arguments[1]);
        assert_int_equal(seen.arguments[2], arguments[2]);
        assert_int_equal(seen.matrix, map ? arguments[0] : 0);
    }
    memset(&seen, 0, sizeof seen);
    seen.answer = OUT_OF_CLUSTERS;
    assert_int_equal(cuda_driver_launch(&driver, &l), OUT_OF_CLUSTERS); // no map
    assert_int_equal(seen.launches, 0);
    has_arguments = false;
}

static void test_overlaps(void **state) {
    (void)state;
    assert_true(cuda_driver_overlaps(9, 12030) && cuda_driver_overlaps(12, 13000));
    assert_false(cuda_driver_overlaps(8, 13000) || cuda_driver_overlaps(9, 12020));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clusters), cmocka_unit_test(test_no_clusters),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_handed_on),
        cmocka_unit_test(test_overlaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

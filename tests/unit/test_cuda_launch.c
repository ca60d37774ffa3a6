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

static struct {
    CUlaunchConfig launched;
    bool overlaps;
    int launches, clusters, cluster; // that it holds at once; that it was asked for
    CUresult answer;
} seen;

static CUresult launch_config(const CUlaunchConfig *config, CUfunction function, void **params,
                              void **extra) {
    assert_null(function);
    assert_non_null(params);
    assert_null(extra);
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
    seen.cluster = config->attributes[0].value[0];
    *clusters = seen.clusters;
    return seen.answer;
}

static const CudaDriver driver = {.launch_config = launch_config,
                                  .clusters_at_once = clusters_at_once};

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
        const CudaLaunch l = {
            .grid = {c->grid, 3, 1}, .block = 32, .cluster_blocks = c->cluster, .overlap = true};
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
    const CudaLaunch l = {.grid = {132, 1, 1}, .block = 32, .cluster_blocks = 4};
    assert_int_equal(cuda_driver_launch(&driver, &l), OUT_OF_CLUSTERS);
    assert_int_equal(seen.launches, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_no_clusters),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

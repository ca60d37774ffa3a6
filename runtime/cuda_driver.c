// How the driver is opened, and how a kernel is launched: one way for the executable, for
// `--tune measure` and for the tests.
#include "cuda_driver.h"

#include "base.h"
#include "step.h"

#include <assert.h>
#include <dlfcn.h>
#include <string.h>

enum {
    MAX_ARGUMENTS = 32,
    OVERLAP_DRIVER = 12030, // CUDA version that records overlapping launches into graphs
};

bool cuda_driver_open(CudaDriver *cu, const char *library, const char **missing) {
    static const struct {
        const char *name;
        size_t offset; // in CudaDriver
    } symbols[] = {
#define SYMBOL(field, symbol, parameters) {symbol, offsetof(CudaDriver, field)},
        CUDA_FUNCTIONS(SYMBOL)
#undef SYMBOL
    };
    *missing = NULL;
    cu->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!cu->library)
        return false;
    for (size_t at = 0; at < sizeof symbols / sizeof *symbols; at++) {
        void *function = dlsym(cu->library, symbols[at].name);
        if (!function) {
            *missing = symbols[at].name;
            return false;
        }
        // ISO C has no cast from object to function
        memcpy((unsigned char *)cu + symbols[at].offset, &function, sizeof function);
    }
    return true;
}

bool cuda_driver_overlaps(int compute_major, int version) {
    return compute_major >= STEP_OVERLAP_MAJOR && version >= OVERLAP_DRIVER;
}

// Blocks of whole clusters, no more than run at the same time: those that came later would take as long
// again. How many clusters fit depends on how many multiprocessors each GPC of this very chip has.
static CUresult blocks_at_once(const CudaDriver *cu, const CudaLaunch *l, CUlaunchConfig *config) {
    CUlaunchAttribute cluster = {.id = CU_LAUNCH_CLUSTER_DIMENSION,
                                 .value = {l->cluster_blocks, 1, 1}};
    CUlaunchConfig asked = *config;
    int clusters;
    asked.attributes = &cluster;
    asked.attribute_count = 1;
    CUresult error = cu->clusters_at_once(&clusters, l->function, &asked);
    if (error != CUDA_SUCCESS)
        return error;
    unsigned blocks = (unsigned)(clusters * l->cluster_blocks);
    if (clusters > 0 && config->grid_x > blocks)
        config->grid_x = blocks;
    return CUDA_SUCCESS;
}

// Every kernel waits (griddepcontrol.wait) before it touches what another one writes, so it may
// start while the one in front of it still runs; those of linear layers fetch weights meanwhile.
CUresult cuda_driver_launch(const CudaDriver *cu, const CudaLaunch *l) {
    uint64_t slots[MAX_ARGUMENTS];
    void *params[MAX_ARGUMENTS];
    TensorMap map;
    assert(l->argument_count <= MAX_ARGUMENTS);
    for (int at = 0; at < l->argument_count; at++) {
        slots[at] = l->arguments[at];
        params[at] = &slots[at];
    }
    if (l->map_columns > 0) {
        CUresult error = tensor_map(cu->tensor_map, &map, l->arguments[0], l->tokens,
                                    l->map_columns, l->map_rows);
        if (error != CUDA_SUCCESS)
            return error;
        params[0] = &map;
    }
    int grid_y = l->grid[1];
    if (l->tokens_per_block > 0)
        grid_y = (int)ceil_div(l->tokens, l->tokens_per_block);
    CUlaunchAttribute overlap = {.id = CU_LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION, .value = {1}};
    CUlaunchConfig config = {.grid_x = (unsigned)l->grid[0],
                             .grid_y = (unsigned)grid_y,
                             .grid_z = (unsigned)l->grid[2],
                             .block_x = (unsigned)l->block,
                             .block_y = 1,
                             .block_z = 1,
                             .shared_bytes = (unsigned)l->shared_bytes,
                             .stream = l->stream,
                             .attributes = &overlap,
                             .attribute_count = l->overlap};
    if (l->cluster_blocks > 0) {
        CUresult error = blocks_at_once(cu, l, &config);
        if (error != CUDA_SUCCESS)
            return error;
    }
    return cu->launch_config(&config, l->function, params, NULL);
}

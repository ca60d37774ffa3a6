// The few things that generated step functions need to know about runtime/step.h. Their bodies are
// inlined into the step functions, so the compiler never spells out a structure of the runtime.
#include "../runtime/step.h"

unsigned char *step_address(const StepRun *run, int64_t region, int64_t offset);
int64_t step_tokens(const StepRun *run);
void step_barrier(const StepRun *run, int32_t thread);
int32_t step_launch(const StepRun *run, int32_t kernel, int32_t grid_x, int32_t grid_y,
                    int32_t grid_z, int32_t tokens_per_block, int32_t argument_count,
                    const uint64_t *arguments);

unsigned char *step_address(const StepRun *run, int64_t region, int64_t offset) {
    return run->base[region] + offset;
}

int64_t step_tokens(const StepRun *run) {
    return run->tokens;
}

void step_barrier(const StepRun *run, int32_t thread) {
    cpu_barrier(run, thread);
}

int32_t step_launch(const StepRun *run, int32_t kernel, int32_t grid_x, int32_t grid_y,
                    int32_t grid_z, int32_t tokens_per_block, int32_t argument_count,
                    const uint64_t *arguments) {
    const LaunchSpec spec = {.kernel = kernel,
                             .grid = {grid_x, grid_y, grid_z},
                             .tokens_per_block = tokens_per_block,
                             .argument_count = argument_count};
    return cuda_launch(run, &spec, arguments);
}

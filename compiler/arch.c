// The table of model families. A new family is one arch_*.c and one line here.
#include "compile.h"

#include <string.h>

static const Arch *const ARCHS[] = {
    &arch_llama,   &arch_mistral, &arch_qwen2,  &arch_qwen3,  &arch_qwen3_moe,
    &arch_phi3,    &arch_gemma2,  &arch_gemma3, &arch_gemma3_multimodal,
    &arch_mixtral, &arch_granite, &arch_smollm3,
};

const Arch *arch_find(const char *architecture) {
    for (size_t at = 0; at < sizeof ARCHS / sizeof ARCHS[0]; at++)
        if (strcmp(ARCHS[at]->architecture, architecture) == 0)
            return ARCHS[at];
    return NULL;
}

const char *arch_names(Arena *a) {
    const char *names = ARCHS[0]->architecture;
    for (size_t at = 1; at < sizeof ARCHS / sizeof ARCHS[0]; at++)
        names = arena_printf(a, "%s, %s", names, ARCHS[at]->architecture);
    return names;
}

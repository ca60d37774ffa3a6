// The levels of instructions for which an executable may hold code, and which of them this processor
// has. A level means all features that the compiler was told of, not only those that decide.
#include "cpu.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)

static bool has_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
}

static bool has_v4_vnni(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

const CpuLevel cpu_levels[] = {
    {"cpu:x86-64-v4-vnni", has_v4_vnni},
    {"cpu:x86-64-v3", has_v3},
};
const char *const cpu_least = "x86-64-v3 (AVX2)";

#elif defined(__aarch64__)

static bool has(unsigned long features) {
    return (getauxval(AT_HWCAP) & features) == features;
}

static bool has_neon(void) {
    return has(HWCAP_FP | HWCAP_ASIMD);
}

static bool has_dotprod(void) {
    return has_neon() && has(HWCAP_ATOMICS | HWCAP_ASIMDRDM | HWCAP_CRC32 | HWCAP_ASIMDDP);
}

const CpuLevel cpu_levels[] = {
    {"cpu:armv8.2-a-dotprod", has_dotprod},
    {"cpu:armv8-a", has_neon},
};
const char *const cpu_least = "armv8-a (NEON)";

#else
#error "no levels for this processor"
#endif

const int cpu_level_count = sizeof cpu_levels / sizeof *cpu_levels;

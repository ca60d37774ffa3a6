// What differs between processors: levels of instructions, the pause of a spin loop.
#ifndef CPU_H
#define CPU_H

#include <stdbool.h>

typedef struct CpuLevel {
    const char *target; // name in the payload: "cpu:x86-64-v3"
    bool (*present)(void);
} CpuLevel;

extern const CpuLevel cpu_levels[]; // best first
extern const int cpu_level_count;
extern const char *const cpu_least; // what the last level needs, for messages

// Inside a loop that waits for another thread.
static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); // `yield` is a no-operation on most cores
#endif
}

#endif

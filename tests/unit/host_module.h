// Runs generated host code inside a test: links the object into a shared library, opens it, and
// calls its step functions with a few threads. The test program must export cpu_barrier() and
// cuda_launch(), which the library calls ($callbacks in objects.ninja).
#ifndef HOST_MODULE_H
#define HOST_MODULE_H

#include "compiler/compile.h"
#include "runtime/step.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct HostModule {
    void *library; // owner: host_module_close
    const StepEntry *steps;
    int32_t step_count;
} HostModule;

void cpu_barrier(const StepRun *run, int32_t thread) {
    (void)thread;
    pthread_barrier_wait(run->device);
}

static inline bool host_module_link(int object, int library) {
    char in[32], out[32];
    snprintf(in, sizeof in, "/proc/self/fd/%d", object);
    snprintf(out, sizeof out, "/proc/self/fd/%d", library);
    pid_t child = fork();
    if (child == 0) {
        execlp("ld", "ld", "-shared", in, "-o", out, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

// False when the linker or the loader refuses.
static inline bool host_module_open(HostModule *m, Bytes object) {
    *m = (HostModule){NULL, NULL, 0};
    int from = memfd_create("object", 0), to = memfd_create("library", 0);
    bool done = from >= 0 && to >= 0 &&
                write(from, object.data, object.size) == (ssize_t)object.size &&
                host_module_link(from, to);
    if (done) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", to);
        m->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!m->library)
            fprintf(stderr, "%s\n", dlerror());
        done = m->library != NULL;
    }
    close(from);
    close(to);
    if (!done)
        return false;
    m->steps = dlsym(m->library, "model_steps");
    const int32_t *count = dlsym(m->library, "model_step_count");
    m->step_count = count ? *count : 0;
    return m->steps && count;
}

static inline void host_module_close(HostModule *m) {
    dlclose(m->library);
}

static inline const StepEntry *host_module_find(const HostModule *m, const char *target,
                                                int phase) {
    for (int32_t at = 0; at < m->step_count; at++)
        if (strcmp(m->steps[at].target, target) == 0 && m->steps[at].phase == phase)
            return &m->steps[at];
    return NULL;
}

typedef struct HostThread {
    const StepRun *run;
    CpuStep *step;
    int32_t index;
} HostThread;

static inline void *host_thread_main(void *argument) {
    const HostThread *t = argument;
    t->step(t->run, t->index);
    return NULL;
}

// Runs a step function with run->threads threads; sets run->device.
static inline void host_run(const StepEntry *entry, StepRun *run) {
    enum { MAX_THREADS = 16 };
    CpuStep *step;
    memcpy(&step, &entry->function, sizeof step);
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, (unsigned)run->threads);
    run->device = &barrier;
    pthread_t ids[MAX_THREADS];
    HostThread threads[MAX_THREADS];
    for (int32_t at = 0; at < run->threads; at++) {
        threads[at] = (HostThread){run, step, at};
        if (at)
            pthread_create(&ids[at], NULL, host_thread_main, &threads[at]);
    }
    host_thread_main(&threads[0]);
    for (int32_t at = 1; at < run->threads; at++)
        pthread_join(ids[at], NULL);
    pthread_barrier_destroy(&barrier);
}

// What plan_make does after lowering, for plans that a test lowers itself.
static inline void plan_finish(Plan *p) {
    for (int phase = 0; phase < p->phase_count; phase++) {
        for (int at = 0; at < p->phases[phase].step_count; at++) {
            Step *s = &p->phases[phase].steps[at];
            s->kernel_index = plan_kernel(p, s);
        }
    }
    memory_plan(p);
}

// An empty phase of a plan whose graph is complete.
static inline PhasePlan *plan_phase(Plan *p, int kind, int64_t max_tokens) {
    PhasePlan *phase = &p->phases[p->phase_count++];
    *phase = (PhasePlan){.phase = kind, .max_tokens = max_tokens};
    phase->value_buffer = ARENA_NEW(p->arena, int, p->graph->value_count + 1);
    for (int value = 0; value < p->graph->value_count; value++)
        phase->value_buffer[value] = -1;
    return phase;
}

// The levels that this machine runs: 0 x86-64-v3, 1 x86-64-v4-vnni.
static inline bool level_runs(const Target *t) {
    __builtin_cpu_init();
    if (strcmp(t->cpu_level, "x86-64-v4-vnni") == 0)
        return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#endif

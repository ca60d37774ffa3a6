// Between the steps of a run threads spin: a decode step has some hundred barriers of a few
// microseconds each, too short for the kernel's help. They spin some time before they yield, since
// a thread that yields to another program comes back milliseconds later and keeps the others
// waiting; only a pool of more threads than processors yields early.
// Between runs a worker spins a little, since the next token follows soon, then sleeps on a futex.
// Non-goal: pinning. A thread that must wait for its own core while another is idle holds up all.
#include "threads.h"

#include "cpu.h"
#include "step.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS_LONG = 4096 /* some 60 us */, SPINS_SHORT = 256, SPINS_BEFORE_SLEEP = 6144 };

typedef struct Worker {
    Pool *pool;
    int index;
    pthread_t id;
} Worker;

struct Pool {
    int threads;
    Worker *workers; // [threads - 1]
    void (*work)(void *user, int thread);
    void *user;
    bool closing;
    int spins_before_yield;
    // each on a cache line of its own
    _Alignas(64) atomic_uint round;      // of pool_run; workers wait for it to change
    _Alignas(64) atomic_int sleepers;    // workers that wait in the kernel
    _Alignas(64) atomic_int running;     // workers that are not done with this round
    _Alignas(64) atomic_int arrived;     // at the barrier
    _Alignas(64) atomic_uint generation; // of the barrier
};

// ---- how many threads ---------------------------------------------------------------------------

// The first number in a small file of the kernel's; `otherwise` when there is none.
static long file_number(const char *path, long otherwise) {
    char text[64];
    FILE *file = fopen(path, "r");
    if (!file)
        return otherwise;
    char *end = text, *line = fgets(text, sizeof text, file);
    long value = line ? strtol(line, &end, 10) : 0;
    fclose(file);
    return end == text ? otherwise : value;
}

// Threads of one core share its units, so only the first one of each counts.
static int cores_of(const cpu_set_t *set) {
    int cores = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        char path[96];
        if (!CPU_ISSET(cpu, set))
            continue;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/core_cpus_list", cpu);
        size_t first = (size_t)file_number(path, (long)cpu);
        bool counted = first < cpu && CPU_ISSET(first, set);
        cores += !counted;
    }
    return cores;
}

// A container's share of the processors (cgroup v2: "200000 100000" is two of them).
static int cores_allowed(int cores) {
    long quota = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file)
        return cores;
    bool limited = fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0;
    fclose(file);
    long share = limited ? (quota + period - 1) / period : cores;
    return share < cores ? (int)share : cores;
}

// That the process may use; 0: unknown.
static int processors(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

int threads_available(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int cores = cores_allowed(cores_of(&set));
    return cores > 0 ? cores : 1;
}

// ---- the pool -----------------------------------------------------------------------------------

static void spin(const Pool *p, int spins) {
    if (spins < p->spins_before_yield)
        cpu_pause();
    else
        sched_yield();
}

// Returns when the round is not `old` any more.
static void worker_wait(Pool *p, unsigned old) {
    for (int spins = 0; spins < SPINS_BEFORE_SLEEP; spins++) {
        if (atomic_load_explicit(&p->round, memory_order_acquire) != old)
            return;
        spin(p, spins);
    }
    // The waker changes round, then looks at sleepers; we do it the other way round (both
    // sequentially consistent), so one of us sees the other.
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->round) == old)
        syscall(SYS_futex, &p->round, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void workers_wake(Pool *p) {
    atomic_fetch_add(&p->round, 1);
    if (atomic_load(&p->sleepers) > 0)
        syscall(SYS_futex, &p->round, FUTEX_WAKE_PRIVATE, p->threads, NULL, NULL, 0);
}

static void *worker_main(void *argument) {
    Worker *w = argument;
    Pool *p = w->pool;
    for (unsigned round = 0;; round++) {
        worker_wait(p, round);
        if (p->closing)
            return NULL;
        p->work(p->user, w->index);
        atomic_fetch_sub_explicit(&p->running, 1, memory_order_release);
    }
}

bool pool_open(Pool **out, int threads, Error *err) {
    Pool *p = aligned_alloc(64, sizeof *p);
    Worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!p || !workers) {
        free(p);
        free(workers);
        return fail(err, ERR_RESOURCE, 810, "no memory for %d threads", threads);
    }
    memset(p, 0, sizeof *p);
    p->threads = 1;
    p->workers = workers;
    p->spins_before_yield = threads > processors() ? SPINS_SHORT : SPINS_LONG;
    for (int at = 1; at < threads; at++) {
        Worker *w = &workers[at - 1];
        *w = (Worker){.pool = p, .index = at};
        if (pthread_create(&w->id, NULL, worker_main, w) != 0) {
            pool_close(p);
            return fail(err, ERR_RESOURCE, 811, "cannot start thread %d of %d", at + 1, threads);
        }
        p->threads++;
    }
    *out = p;
    return true;
}

void pool_close(Pool *p) {
    if (!p)
        return;
    p->closing = true;
    workers_wake(p);
    for (int at = 0; at < p->threads - 1; at++)
        pthread_join(p->workers[at].id, NULL);
    free(p->workers);
    free(p);
}

int pool_threads(const Pool *p) {
    return p->threads;
}

void pool_run(Pool *p, void (*work)(void *user, int thread), void *user) {
    p->work = work;
    p->user = user;
    atomic_store_explicit(&p->running, p->threads - 1, memory_order_relaxed);
    workers_wake(p);
    work(user, 0);
    for (int spins = 0; atomic_load_explicit(&p->running, memory_order_acquire); spins++)
        spin(p, spins);
}

void pool_barrier(Pool *p) {
    unsigned generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->threads - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->generation, generation + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&p->generation, memory_order_acquire) == generation;
         spins++)
        spin(p, spins);
}

void cpu_barrier(const StepRun *run, int32_t thread) {
    (void)thread;
    pool_barrier(run->device);
}

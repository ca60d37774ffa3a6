// The pool sleeps between runs (condition variable) and spins between the steps of a run: a decode
// step has some hundred barriers of a few microseconds each, too short for the kernel's help. After
// a while a spinner yields, so that more threads than cores still make progress.
#include "threads.h"

#include "step.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SPINS_BEFORE_YIELD = 4096 };

typedef struct Worker {
    Pool *pool;
    int index;
    pthread_t id;
} Worker;

struct Pool {
    int threads;
    Worker *workers; // [threads - 1]
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    uint64_t round; // of pool_run; under lock
    int running;    // workers that are not done with this round; under lock
    bool closing;
    void (*work)(void *user, int thread);
    void *user;
    // the barrier, on cache lines of its own
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint generation;
};

int threads_available(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

static void *worker_main(void *argument) {
    Worker *w = argument;
    Pool *p = w->pool;
    uint64_t seen = 0;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        while (p->round == seen && !p->closing)
            pthread_cond_wait(&p->start, &p->lock);
        seen = p->round;
        bool closing = p->closing;
        pthread_mutex_unlock(&p->lock);
        if (closing)
            return NULL;
        p->work(p->user, w->index);
        pthread_mutex_lock(&p->lock);
        if (--p->running == 0)
            pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
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
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->start, NULL);
    pthread_cond_init(&p->done, NULL);
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
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    for (int at = 0; at < p->threads - 1; at++)
        pthread_join(p->workers[at].id, NULL);
    free(p->workers);
    free(p);
}

int pool_threads(const Pool *p) {
    return p->threads;
}

void pool_run(Pool *p, void (*work)(void *user, int thread), void *user) {
    pthread_mutex_lock(&p->lock);
    p->work = work;
    p->user = user;
    p->running = p->threads - 1;
    p->round++;
    pthread_cond_broadcast(&p->start);
    pthread_mutex_unlock(&p->lock);
    work(user, 0);
    pthread_mutex_lock(&p->lock);
    while (p->running)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void pool_barrier(Pool *p) {
    unsigned generation = atomic_load_explicit(&p->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->threads - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&p->generation, generation + 1, memory_order_release);
        return;
    }
    for (int spins = 0;
         atomic_load_explicit(&p->generation, memory_order_acquire) == generation; spins++) {
        if (spins < SPINS_BEFORE_YIELD)
            __builtin_ia32_pause();
        else
            sched_yield();
    }
}

void cpu_barrier(const StepRun *run, int32_t thread) {
    (void)thread;
    pool_barrier(run->device);
}

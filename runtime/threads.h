// A pool of threads that run one function together, and the barrier between the steps.
#ifndef THREADS_H
#define THREADS_H

#include "base.h"

typedef struct Pool Pool;

// `threads` >= 1, the caller's own included. The owner calls pool_close.
bool pool_open(Pool **out, int threads, Error *err);
void pool_close(Pool *pool);
int pool_threads(const Pool *pool);
// Calls work(user, thread) on every thread, 0 being the caller's; returns when all are done.
void pool_run(Pool *pool, void (*work)(void *user, int thread), void *user);
// All threads of pool_run wait here for each other; writes before it are visible after it.
void pool_barrier(Pool *pool);
// Cores that the process may use.
int threads_available(void);

#endif

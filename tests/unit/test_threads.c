// The pool: every thread runs once a round, nobody passes the barrier early, and rounds that follow
// each other at once or after a pause both work.
#include "../../runtime/step.h" // before cmocka, which has a macro fail
#include "../../runtime/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

enum { MAX_THREADS = 6, BARRIERS = 20, ROUNDS = 200 };

typedef struct Shared {
    Pool *pool;
    int threads;
    int64_t steps[MAX_THREADS][16]; // [0] counts; a cache line each
    int64_t wrong;
} Shared;

// Each thread counts a step; behind the barrier all must have counted it, and nobody more.
static void work(void *user, int thread) {
    Shared *s = user;
    const StepRun run = {.threads = s->threads, .device = s->pool};
    for (int at = 0; at < BARRIERS; at++) {
        int64_t mine = ++s->steps[thread][0];
        cpu_barrier(&run, thread);
        for (int other = 0; other < s->threads; other++)
            if (s->steps[other][0] != mine)
                __atomic_fetch_add(&s->wrong, 1, __ATOMIC_RELAXED);
        cpu_barrier(&run, thread);
    }
}

static void test_rounds(void **state) {
    (void)state;
    for (int threads = 1; threads <= MAX_THREADS; threads++) {
        Shared s = {.threads = threads};
        Error err = {0};
        assert_true(pool_open(&s.pool, threads, &err));
        assert_int_equal(pool_threads(s.pool), threads);
        for (int round = 0; round < ROUNDS; round++) {
            pool_run(s.pool, work, &s);
            if (round % 50 == 49)
                usleep(2000); // the workers sleep meanwhile
        }
        for (int thread = 0; thread < threads; thread++)
            assert_int_equal(s.steps[thread][0], ROUNDS * BARRIERS);
        assert_int_equal(s.wrong, 0);
        pool_close(s.pool);
    }
}

static void slow_workers(void *user, int thread) {
    int *done = user;
    if (thread > 0)
        usleep(3000);
    done[thread] = 1;
}

// A round ends when its slowest thread has.
static void test_end_of_round(void **state) {
    (void)state;
    int done[MAX_THREADS] = {0};
    Pool *pool;
    Error err = {0};
    assert_true(pool_open(&pool, MAX_THREADS, &err));
    pool_run(pool, slow_workers, done);
    for (int thread = 0; thread < MAX_THREADS; thread++)
        assert_int_equal(done[thread], 1);
    pool_close(pool);
}

static void test_unused(void **state) {
    (void)state;
    Pool *pool;
    Error err = {0};
    assert_true(pool_open(&pool, 4, &err));
    pool_close(pool);
    pool_close(NULL);
    assert_in_range(threads_available(), 1, 4096);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_end_of_round),
        cmocka_unit_test(test_unused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

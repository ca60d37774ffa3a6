// The checks of mapped weights: what is answered to kernels that ask, and that each page is checked
// once, whoever asks for it.
// before cmocka, which has a macro fail
#include "../../runtime/page_checks.h"
#include "fake_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { PAGE = PAYLOAD_PAGE_BYTES, THREADS = 4 };

typedef struct Lab {
    FakeFile f;
    PageChecks *checks;
    Pool *pool;
    StepRun run;
} Lab;

static void lab_open(Lab *lab) {
    Error err = {0};
    *lab = (Lab){0};
    fake_open(&lab->f);
    lab->run.base[REGION_WEIGHTS] = lab->f.weights;
    assert_true(page_checks_open(&lab->checks, &lab->f.e, "cpu:x86-64-v3", &err));
    assert_true(pool_open(&lab->pool, THREADS, &err));
    page_checks_offer(lab->checks, &lab->run);
}

static void lab_close(Lab *lab) {
    page_checks_close(lab->checks);
    pool_close(lab->pool);
    fake_close(&lab->f);
}

static int64_t ask(const Lab *lab, int64_t at, int64_t least, int64_t most) {
    return lab->run.ready(&lab->run, lab->f.weights + at, least, most);
}

// A page that was checked is not read again, so that damage done to it later shows who read it.
static void damage(Lab *lab, int64_t page) {
    lab->f.weights[page * PAGE + 5] ^= 2;
}

static bool good(const Lab *lab) {
    Error err = {0};
    return page_checks_good(lab->checks, &err);
}

static void test_answers(void **state) {
    (void)state;
    Lab lab;
    lab_open(&lab);
    assert_int_equal(ask(&lab, PAGE + 10, 100, 100), 100);                // all that was asked for
    assert_int_equal(ask(&lab, PAGE + 10, 100, 2 * PAGE), 2 * PAGE - 10); // 1 is known, 2 is read
    assert_int_equal(ask(&lab, PAGE - 10, 20, 2 * PAGE), 2 * PAGE); // 0 is read, the rest known
    lab_close(&lab);
    lab_open(&lab);
    assert_int_equal(ask(&lab, 10, PAGE - 10, 3 * PAGE), PAGE - 10); // to the end of page 0
    assert_int_equal(ask(&lab, PAGE - 10, 20, 2 * PAGE), PAGE + 10); // at least 20
    damage(&lab, 0);
    damage(&lab, 1);
    assert_int_equal(ask(&lab, 0, 3 * PAGE, 3 * PAGE), 3 * PAGE);
    assert_true(good(&lab));
    lab_close(&lab);
}

static void test_nothing_left(void **state) {
    (void)state;
    Lab lab;
    lab_open(&lab);
    page_checks_run(lab.checks, lab.pool, false); // pages 0, 3, in which there is a gap, and 4
    damage(&lab, 0);
    damage(&lab, 3);
    damage(&lab, 4);
    page_checks_offer(lab.checks, &lab.run);
    assert_non_null(lab.run.ready);
    assert_int_equal(ask(&lab, 0, FAKE_WEIGHTS, FAKE_WEIGHTS), FAKE_WEIGHTS);
    page_checks_offer(lab.checks, &lab.run);
    assert_null(lab.run.ready);
    assert_true(good(&lab));
    lab_close(&lab);
}

static void test_all_first(void **state) {
    (void)state;
    Lab lab;
    lab_open(&lab);
    page_checks_run(lab.checks, lab.pool, false);
    page_checks_run(lab.checks, lab.pool, true);
    page_checks_offer(lab.checks, &lab.run);
    assert_null(lab.run.ready);
    assert_true(good(&lab));
    lab_close(&lab);
}

static void ask_everywhere(void *user, int thread) {
    const Lab *lab = user;
    for (int64_t at = thread * 1000; at < FAKE_WEIGHTS;)
        at += ask(lab, at, 1, FAKE_WEIGHTS - at < 70000 ? FAKE_WEIGHTS - at : 70000);
}

// Threads that meet at a page do not wait for each other, but none is lost.
static void test_threads(void **state) {
    (void)state;
    for (int page = -1; page < FAKE_PAGES; page++) {
        Lab lab;
        lab_open(&lab);
        if (page >= 0)
            damage(&lab, page);
        pool_run(lab.pool, ask_everywhere, &lab);
        page_checks_offer(lab.checks, &lab.run);
        assert_null(lab.run.ready);
        assert_int_equal(good(&lab), page < 0);
        lab_close(&lab);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_nothing_left),
        cmocka_unit_test(test_all_first),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// The page allocator against a plain model of it: no page has two owners, page 0 has none, the page
// table says what was taken, and a refused request takes nothing.
// before cmocka, which has a macro fail
#include "../../runtime/kvcache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <cmocka.h>

enum { PAGES = 24, SLOTS = 5, PER_SEQ = 8, PAGE_TOKENS = 16, STEPS = 20000 };

static uint32_t random_next(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

// Checks the whole table: slot s holds pages[s] distinct pages, the rest of its row is 0.
static void check_table(const int32_t table[SLOTS][PER_SEQ], const int64_t pages[SLOTS],
                        const KvCache *kv) {
    bool taken[PAGES] = {true};
    int64_t held = 0;
    for (int slot = 0; slot < SLOTS; slot++)
        for (int at = 0; at < PER_SEQ; at++) {
            int32_t page = table[slot][at];
            if (at >= pages[slot]) {
                assert_int_equal(page, 0);
                continue;
            }
            assert_in_range(page, 1, PAGES - 1);
            assert_false(taken[page]);
            taken[page] = true;
            held++;
        }
    assert_int_equal(kvcache_free_pages(kv), PAGES - 1 - held);
}

static void test_random_requests(void **state) {
    (void)state;
    int32_t table[SLOTS][PER_SEQ] = {{0}};
    int64_t pages[SLOTS] = {0};
    KvCache *kv;
    Error err = {0};
    uint32_t random = 7;
    int refused = 0;
    assert_true(kvcache_open(&kv, PAGES, SLOTS, PER_SEQ, PAGE_TOKENS, table[0], &err));
    for (int step = 0; step < STEPS; step++) {
        int64_t slot = random_next(&random) % SLOTS;
        if (random_next(&random) % 4 == 0) {
            kvcache_release(kv, slot);
            pages[slot] = 0;
        } else {
            int64_t tokens = 1 + random_next(&random) % (PER_SEQ * PAGE_TOKENS);
            int64_t wanted = ceil_div(tokens, PAGE_TOKENS), free_pages = kvcache_free_pages(kv);
            bool changed = false, fits = wanted - pages[slot] <= free_pages;
            assert_int_equal(kvcache_reserve(kv, slot, tokens, &changed, &err), fits);
            if (fits)
                assert_int_equal(changed, wanted > pages[slot]);
            else
                refused++;
            if (fits && wanted > pages[slot])
                pages[slot] = wanted;
        }
        check_table((const int32_t(*)[PER_SEQ])table, pages, kv);
    }
    assert_true(refused > 100); // the cache was full often enough
    kvcache_close(kv);
}

static void test_messages(void **state) {
    (void)state;
    int32_t table[SLOTS][PER_SEQ] = {{0}};
    KvCache *kv;
    Error err = {0};
    bool changed;
    assert_true(kvcache_open(&kv, 6, SLOTS, PER_SEQ, PAGE_TOKENS, table[0], &err));
    assert_false(kvcache_reserve(kv, 0, PER_SEQ * PAGE_TOKENS + 1, &changed, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    assert_non_null(strstr(err.message, "129 tokens do not fit into the context of 128"));
    assert_true(kvcache_reserve(kv, 0, 3 * PAGE_TOKENS, &changed, &err));
    assert_false(kvcache_reserve(kv, 1, 3 * PAGE_TOKENS, &changed, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    assert_non_null(strstr(err.message, "48 more tokens wanted, room for 32"));
    kvcache_close(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_requests),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

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

// ---- prefixes -----------------------------------------------------------------------------------

enum { ALPHABET = 2, PREFIX_STEPS = 30000 };

typedef struct PrefixModel {
    uint32_t memory[PAGES][PAGE_TOKENS]; // what is written to pages: a hash of all tokens so far
    int32_t ids[SLOTS][PER_SEQ * PAGE_TOKENS];
    int64_t length[SLOTS];
    int32_t table[SLOTS][PER_SEQ];
    int64_t matched;
} PrefixModel;

static uint32_t prefix_hash(uint32_t before, int32_t id) {
    return (before ^ (uint32_t)id) * 0x9e3779b1u + 1;
}

// Tokens [from, length) are computed: they go where the table says.
static void prefix_write(PrefixModel *m, int64_t slot, int64_t from) {
    uint32_t hash = 0;
    for (int64_t at = 0; at < m->length[slot]; at++) {
        hash = prefix_hash(hash, m->ids[slot][at]);
        if (at >= from)
            m->memory[m->table[slot][at / PAGE_TOKENS]][at % PAGE_TOKENS] = hash;
    }
}

// Every slot finds its own tokens, computed behind its own prefix, where its table says.
static void prefix_check(const PrefixModel *m) {
    for (int64_t slot = 0; slot < SLOTS; slot++) {
        uint32_t hash = 0;
        for (int64_t at = 0; at < m->length[slot]; at++) {
            hash = prefix_hash(hash, m->ids[slot][at]);
            assert_int_equal(m->memory[m->table[slot][at / PAGE_TOKENS]][at % PAGE_TOKENS], hash);
        }
    }
}

// Pages of the first `count` that another sequence has too.
static int64_t prefix_held(const PrefixModel *m, int64_t slot, int64_t count) {
    int64_t held = 0;
    for (int64_t at = 0; at < count; at++)
        for (int64_t other = 0; other < SLOTS; other++)
            if (other != slot && m->length[other] > at * PAGE_TOKENS &&
                m->table[other][at] == m->table[slot][at]) {
                held++;
                break;
            }
    return held;
}

// A sequence of few different pages, so that many begin alike.
static int64_t prefix_ids(int32_t *ids, int64_t count, uint32_t *random) {
    for (int64_t at = 0; at < count; at++)
        ids[at] = at % PAGE_TOKENS ? (int32_t)(at * 7) : (int32_t)(random_next(random) % ALPHABET);
    return count;
}

static void prefix_start(PrefixModel *m, KvCache *kv, int64_t slot, uint32_t *random) {
    Error err;
    bool changed;
    int64_t count = prefix_ids(m->ids[slot], 1 + random_next(random) % 100, random);
    int64_t shared = kvcache_shared_pages(kv, m->ids[slot], count);
    int64_t matched = kvcache_match(kv, slot, m->ids[slot], count);
    assert_true(matched < count && matched % PAGE_TOKENS == 0);
    assert_int_equal(shared, prefix_held(m, slot, matched / PAGE_TOKENS));
    m->matched += matched;
    if (!kvcache_reserve(kv, slot, count, &changed, &err)) {
        kvcache_release(kv, slot);
        return;
    }
    m->length[slot] = count;
    prefix_write(m, slot, matched);
}

static void prefix_append(PrefixModel *m, KvCache *kv, int64_t slot, uint32_t *random) {
    Error err;
    bool changed;
    int64_t before = m->length[slot], after = before + 1 + random_next(random) % 9;
    if (after > PER_SEQ * PAGE_TOKENS || !kvcache_reserve(kv, slot, after, &changed, &err))
        return;
    for (int64_t at = before; at < after; at++)
        m->ids[slot][at] = (int32_t)(random_next(random) % ALPHABET);
    m->length[slot] = after;
    prefix_write(m, slot, before);
}

static void test_prefixes(void **state) {
    (void)state;
    static PrefixModel m;
    KvCache *kv;
    Error err = {0};
    uint32_t random = 11;
    assert_true(kvcache_open(&kv, PAGES, SLOTS, PER_SEQ, PAGE_TOKENS, m.table[0], &err));
    for (int step = 0; step < PREFIX_STEPS; step++) {
        int64_t slot = random_next(&random) % SLOTS;
        uint32_t what = random_next(&random) % 8;
        if (!m.length[slot])
            prefix_start(&m, kv, slot, &random);
        else if (what < 4)
            prefix_append(&m, kv, slot, &random);
        else if (what < 6)
            kvcache_know(kv, slot, m.ids[slot], m.length[slot]);
        else {
            kvcache_release(kv, slot);
            m.length[slot] = 0;
        }
        prefix_check(&m);
    }
    assert_true(m.matched > 20000);
    for (int64_t slot = 0; slot < SLOTS; slot++)
        kvcache_release(kv, slot);
    assert_int_equal(kvcache_free_pages(kv), PAGES - 1);
    kvcache_close(kv);
}

// The page that was used longest ago goes first, a sequence's last page before its first.
static void test_oldest_goes_first(void **state) {
    (void)state;
    int32_t table[SLOTS][PER_SEQ] = {{0}}, ids[2][3 * PAGE_TOKENS + 1];
    KvCache *kv;
    Error err = {0};
    bool changed;
    assert_true(kvcache_open(&kv, 7, SLOTS, PER_SEQ, PAGE_TOKENS, table[0], &err));
    for (int which = 0; which < 2; which++) {
        for (int at = 0; at <= 3 * PAGE_TOKENS; at++)
            ids[which][at] = which * 1000 + at;
        assert_true(kvcache_reserve(kv, which, 3 * PAGE_TOKENS, &changed, &err));
        kvcache_know(kv, which, ids[which], 3 * PAGE_TOKENS);
    }
    kvcache_release(kv, 1); // used before the other
    kvcache_release(kv, 0);
    assert_int_equal(kvcache_kept_pages(kv), 6);
    assert_true(kvcache_reserve(kv, 2, 4 * PAGE_TOKENS, &changed, &err));
    assert_int_equal(kvcache_match(kv, 3, ids[1], 3 * PAGE_TOKENS + 1), 0);
    assert_int_equal(kvcache_match(kv, 4, ids[0], 3 * PAGE_TOKENS + 1), 2 * PAGE_TOKENS);
    assert_int_equal(kvcache_kept_pages(kv), 0);
    // All but one token at most.
    kvcache_release(kv, 4);
    assert_int_equal(kvcache_match(kv, 4, ids[0], 2 * PAGE_TOKENS), PAGE_TOKENS);
    kvcache_close(kv);
}

// What follows a page that two sequences computed stands behind that page, whatever became known
// between.
static void test_same_page_twice(void **state) {
    (void)state;
    int32_t table[SLOTS][PER_SEQ] = {{0}}, ids[3][2 * PAGE_TOKENS + 1];
    KvCache *kv;
    Error err = {0};
    bool changed;
    assert_true(kvcache_open(&kv, PAGES, SLOTS, PER_SEQ, PAGE_TOKENS, table[0], &err));
    for (int at = 0; at <= 2 * PAGE_TOKENS; at++) {
        ids[0][at] = at;
        ids[1][at] = at < PAGE_TOKENS ? at : 100 + at;         // begins as 0
        ids[2][at] = at < PAGE_TOKENS ? 200 + at : ids[1][at]; // goes on as 1
    }
    for (int which = 0; which < 3; which++)
        assert_true(kvcache_reserve(kv, which, 2 * PAGE_TOKENS, &changed, &err));
    kvcache_know(kv, 0, ids[0], PAGE_TOKENS);
    kvcache_know(kv, 2, ids[2], PAGE_TOKENS);
    kvcache_know(kv, 1, ids[1], 2 * PAGE_TOKENS);
    assert_int_equal(kvcache_match(kv, 3, ids[1], 2 * PAGE_TOKENS + 1), 2 * PAGE_TOKENS);
    assert_int_equal(kvcache_match(kv, 4, ids[2], 2 * PAGE_TOKENS + 1), PAGE_TOKENS);
    kvcache_close(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_requests), cmocka_unit_test(test_messages),
        cmocka_unit_test(test_prefixes),        cmocka_unit_test(test_oldest_goes_first),
        cmocka_unit_test(test_same_page_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

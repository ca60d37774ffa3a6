// A bit for each page tells that somebody took it to check it; whoever sets the bit does so.
// Non-goal: pages that nothing needs, such as rows of the embedding that no token has. `verify` and
// `selftest` read those, too.
#include "page_checks.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_PAGES = 64 };

struct PageChecks {
    const Executable *e;
    Bytes weights;
    int64_t pages;
    uint64_t *later;         // a bit for each page: kernels ask for it
    _Atomic uint64_t *taken; // a bit for each page
    atomic_llong left;       // pages that nobody took
    atomic_llong next;       // page_checks_run: page to look at
    bool all;                // page_checks_run: the later ones, too
    atomic_bool damaged;     // `damage` is set, by the first who saw it
    Error damage;
};

// Pages that lie in [first, end) as a whole.
static void later_mark(PageChecks *c, int64_t first, int64_t end) {
    for (int64_t page = ceil_div(first, PAYLOAD_PAGE_BYTES); page < end / PAYLOAD_PAGE_BYTES;
         page++)
        c->later[page / WORD_PAGES] |= 1ull << page % WORD_PAGES;
}

// Ranges stand in the order of their offsets.
static void later_find(PageChecks *c, const char *target) {
    int64_t first = 0, end = 0;
    for (int32_t at = 0; at < model_ready_count; at++) {
        const ReadyWeights *r = &model_ready[at];
        if (strcmp(r->target, target) != 0)
            continue;
        if (r->offset != end) {
            later_mark(c, first, end);
            first = r->offset;
        }
        end = r->offset + r->bytes;
    }
    later_mark(c, first, end);
}

bool page_checks_open(PageChecks **out, const Executable *e, const char *target, Error *err) {
    int64_t pages = ceil_div(e->info.weights_bytes, PAYLOAD_PAGE_BYTES);
    size_t words = (size_t)ceil_div(pages, WORD_PAGES) + 1;
    PageChecks *c = calloc(1, sizeof *c);
    if (c) {
        c->later = calloc(words, sizeof *c->later);
        c->taken = calloc(words, sizeof *c->taken);
    }
    if (!c || !c->later || !c->taken) {
        page_checks_close(c);
        return fail(err, ERR_RESOURCE, 836, "no memory for the checks of %lld pages",
                    (long long)pages);
    }
    c->e = e;
    c->weights = executable_segment(e, SEGMENT_WEIGHTS);
    c->pages = pages;
    atomic_store(&c->left, pages);
    later_find(c, target);
    *out = c;
    return true;
}

void page_checks_close(PageChecks *c) {
    if (!c)
        return;
    free(c->later);
    free(c->taken);
    free(c);
}

static void page_check(PageChecks *c, int64_t page) {
    Error err = {0};
    size_t at = (size_t)page * PAYLOAD_PAGE_BYTES, left = c->weights.size - at;
    size_t size = left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES;
    if (!executable_page_check(c->e, page, c->weights.data + at, size, &err) &&
        !atomic_exchange(&c->damaged, true))
        c->damage = err;
}

// Checks the page unless somebody else does or did.
static bool page_take(PageChecks *c, int64_t page) {
    _Atomic uint64_t *word = &c->taken[page / WORD_PAGES];
    uint64_t bit = 1ull << page % WORD_PAGES;
    if (atomic_load_explicit(word, memory_order_relaxed) & bit || atomic_fetch_or(word, bit) & bit)
        return false;
    atomic_fetch_sub(&c->left, 1);
    page_check(c, page);
    return true;
}

static void pages_run(void *user, int thread) {
    PageChecks *c = user;
    int64_t page;
    (void)thread;
    while ((page = atomic_fetch_add(&c->next, 1)) < c->pages && !atomic_load(&c->damaged))
        if (c->all || !(c->later[page / WORD_PAGES] >> page % WORD_PAGES & 1))
            page_take(c, page);
}

void page_checks_run(PageChecks *c, Pool *pool, bool all) {
    c->all = all;
    atomic_store(&c->next, 0);
    pool_run(pool, pages_run, c);
}

// Goes over pages that were taken; stops behind the first one that was not.
static int64_t ready(const StepRun *run, const unsigned char *from, int64_t least, int64_t most) {
    PageChecks *c = run->checks;
    int64_t first = from - c->weights.data, end = 0;
    for (int64_t page = first / PAYLOAD_PAGE_BYTES; end < most; page++) {
        bool read = page_take(c, page);
        end = (page + 1) * PAYLOAD_PAGE_BYTES - first;
        if (read && end >= least)
            break;
    }
    return end < most ? end : most;
}

void page_checks_offer(PageChecks *c, StepRun *run) {
    bool some = atomic_load(&c->left) > 0;
    run->ready = some ? ready : NULL;
    run->checks = some ? c : NULL;
}

bool page_checks_good(const PageChecks *c, Error *err) {
    if (!atomic_load(&c->damaged))
        return true;
    *err = c->damage;
    return false;
}

// A stack of free pages, a list of kept ones in the order of their last use, and a hash table of
// known ones. Everything is allocated when it is opened.
//
// A known page has a serial number that no other content ever has. What finds it is the serial
// number of the page before it and its own tokens, compared one by one: the hash only tells where to
// look. Where the page before it is given away, it cannot be found any more, and ages until it goes.
#include "kvcache.h"

#include "payload.h"

#include <stdlib.h>
#include <string.h>

typedef struct Page {
    int64_t holders;      // slots
    uint64_t serial;      // of its content; 0: not known
    uint64_t parent;      // serial of the page before it; 0: it is the first
    int32_t newer, older; // in the list of kept pages; 0: the end
    int32_t next;         // in its bucket; 0: the end
} Page;

typedef struct Holder {
    int64_t pages;
    int64_t known;   // of them: the first ones whose tokens are known
    uint64_t serial; // of the last known page, or of the one with the same content
} Holder;

struct KvCache {
    int32_t *free_pages; // stack
    int64_t free_count, kept_count;
    Holder *holders;  // [slots]
    Page *page;       // [pages]; page 0 is the end of lists: newest and oldest kept page
    int32_t *tokens;  // [pages, page_tokens] of known pages
    int32_t *buckets; // [bucket_mask + 1]: a page; 0: none
    uint64_t bucket_mask;
    uint64_t last_serial;
    int64_t pages, slots, pages_per_seq, page_tokens;
    int32_t *page_table; // the caller's
};

// ---- open and close -----------------------------------------------------------------------------

void kvcache_close(KvCache *kv) {
    if (!kv)
        return;
    free(kv->free_pages);
    free(kv->holders);
    free(kv->page);
    free(kv->tokens);
    free(kv->buckets);
    free(kv);
}

static bool tables_allocate(KvCache *kv) {
    uint64_t buckets = 1;
    while (buckets < 2 * (uint64_t)kv->pages)
        buckets *= 2;
    kv->bucket_mask = buckets - 1;
    kv->free_pages = calloc((size_t)kv->pages, sizeof *kv->free_pages);
    kv->holders = calloc((size_t)kv->slots, sizeof *kv->holders);
    kv->page = calloc((size_t)kv->pages, sizeof *kv->page);
    kv->tokens = calloc((size_t)(kv->pages * kv->page_tokens), sizeof *kv->tokens);
    kv->buckets = calloc((size_t)buckets, sizeof *kv->buckets);
    return kv->free_pages && kv->holders && kv->page && kv->tokens && kv->buckets;
}

bool kvcache_open(KvCache **out, int64_t pages, int64_t slots, int64_t pages_per_seq,
                  int64_t page_tokens, int32_t *page_table, Error *err) {
    KvCache *kv = calloc(1, sizeof *kv);
    if (kv)
        *kv = (KvCache){.pages = pages,
                        .slots = slots,
                        .pages_per_seq = pages_per_seq,
                        .page_tokens = page_tokens,
                        .page_table = page_table};
    if (!kv || !tables_allocate(kv)) {
        kvcache_close(kv);
        return fail(err, ERR_RESOURCE, 820, "no memory for a table of %lld KV pages",
                    (long long)pages);
    }
    for (int64_t page = pages - 1; page > 0; page--) // low pages are taken first
        kv->free_pages[kv->free_count++] = (int32_t)page;
    *out = kv;
    return true;
}

// ---- lists --------------------------------------------------------------------------------------

static void kept_add(KvCache *kv, int32_t page) { // as the newest; page 0 closes the ring
    Page *p = kv->page;
    p[page].newer = 0;
    p[page].older = p[0].older;
    p[p[0].older].newer = page;
    p[0].older = page;
    kv->kept_count++;
}

static void kept_remove(KvCache *kv, int32_t page) {
    Page *p = kv->page;
    p[p[page].newer].older = p[page].older;
    p[p[page].older].newer = p[page].newer;
    kv->kept_count--;
}

static int32_t *tokens_of(const KvCache *kv, int32_t page) {
    return kv->tokens + page * kv->page_tokens;
}

static int32_t *bucket_of(const KvCache *kv, uint64_t parent, const int32_t *tokens) {
    uint64_t hash = payload_hash64(tokens, (size_t)kv->page_tokens * sizeof *tokens);
    hash = (hash ^ parent) * 0x9e3779b97f4a7c15;
    return &kv->buckets[(hash ^ hash >> 32) & kv->bucket_mask];
}

static int32_t page_find(const KvCache *kv, uint64_t parent, const int32_t *tokens) {
    size_t bytes = (size_t)kv->page_tokens * sizeof *tokens;
    int32_t page = *bucket_of(kv, parent, tokens);
    while (page &&
           (kv->page[page].parent != parent || memcmp(tokens_of(kv, page), tokens, bytes) != 0))
        page = kv->page[page].next;
    return page;
}

static void page_forget(KvCache *kv, int32_t page) {
    int32_t *at = bucket_of(kv, kv->page[page].parent, tokens_of(kv, page));
    while (*at != page)
        at = &kv->page[*at].next;
    *at = kv->page[page].next;
    kv->page[page].serial = 0;
}

static int32_t page_take(KvCache *kv) {
    if (kv->free_count)
        return kv->free_pages[--kv->free_count];
    int32_t oldest = kv->page[0].newer;
    kept_remove(kv, oldest);
    page_forget(kv, oldest);
    return oldest;
}

// ---- slots --------------------------------------------------------------------------------------

bool kvcache_reserve(KvCache *kv, int64_t slot, int64_t tokens, bool *changed, Error *err) {
    Holder *h = &kv->holders[slot];
    int64_t wanted = ceil_div(tokens, kv->page_tokens), room = kvcache_free_pages(kv);
    *changed = wanted > h->pages;
    if (wanted <= h->pages)
        return true;
    if (wanted > kv->pages_per_seq)
        return fail(err, ERR_RESOURCE, 821, "%lld tokens do not fit into the context of %lld",
                    (long long)tokens, (long long)(kv->pages_per_seq * kv->page_tokens));
    if (wanted - h->pages > room)
        return fail(err, ERR_RESOURCE, 822,
                    "the KV cache is full: %lld more tokens wanted, room for %lld; "
                    "a smaller -c or fewer sequences fit",
                    (long long)((wanted - h->pages) * kv->page_tokens),
                    (long long)(room * kv->page_tokens));
    while (h->pages < wanted) {
        int32_t page = page_take(kv);
        kv->page[page].holders = 1;
        kv->page_table[slot * kv->pages_per_seq + h->pages++] = page;
    }
    return true;
}

// The last page becomes the first to go: without those before it, it is of no use.
void kvcache_release(KvCache *kv, int64_t slot) {
    Holder *h = &kv->holders[slot];
    while (h->pages) {
        int32_t *entry = &kv->page_table[slot * kv->pages_per_seq + --h->pages];
        Page *page = &kv->page[*entry];
        if (--page->holders == 0 && page->serial)
            kept_add(kv, *entry);
        else if (page->holders == 0)
            kv->free_pages[kv->free_count++] = *entry;
        *entry = 0;
    }
    *h = (Holder){.pages = 0};
}

int64_t kvcache_free_pages(const KvCache *kv) {
    return kv->free_count + kv->kept_count;
}

int64_t kvcache_kept_pages(const KvCache *kv) {
    return kv->kept_count;
}

int64_t kvcache_pages(const KvCache *kv) {
    return kv->pages - 1;
}

// ---- prefixes -----------------------------------------------------------------------------------

// The first of several slots that compute the same page makes it known.
void kvcache_know(KvCache *kv, int64_t slot, const int32_t *ids, int64_t count) {
    Holder *h = &kv->holders[slot];
    for (; h->known < count / kv->page_tokens; h->known++) {
        const int32_t *tokens = ids + h->known * kv->page_tokens;
        int32_t same = page_find(kv, h->serial, tokens);
        if (!same) {
            same = kv->page_table[slot * kv->pages_per_seq + h->known];
            int32_t *bucket = bucket_of(kv, h->serial, tokens);
            memcpy(tokens_of(kv, same), tokens, (size_t)kv->page_tokens * sizeof *tokens);
            kv->page[same].parent = h->serial;
            kv->page[same].serial = ++kv->last_serial;
            kv->page[same].next = *bucket;
            *bucket = same;
        }
        h->serial = kv->page[same].serial;
    }
}

int64_t kvcache_match(KvCache *kv, int64_t slot, const int32_t *ids, int64_t count) {
    Holder *h = &kv->holders[slot];
    while ((h->pages + 1) * kv->page_tokens < count) {
        int32_t page = page_find(kv, h->serial, ids + h->pages * kv->page_tokens);
        if (!page)
            break;
        if (kv->page[page].holders++ == 0)
            kept_remove(kv, page);
        kv->page_table[slot * kv->pages_per_seq + h->pages++] = page;
        h->serial = kv->page[page].serial;
    }
    h->known = h->pages;
    return h->pages * kv->page_tokens;
}

int64_t kvcache_shared_pages(const KvCache *kv, const int32_t *ids, int64_t count) {
    uint64_t serial = 0;
    int64_t shared = 0;
    for (int64_t end = kv->page_tokens; end < count; end += kv->page_tokens) {
        int32_t page = page_find(kv, serial, ids + end - kv->page_tokens);
        if (!page)
            break;
        shared += kv->page[page].holders > 0;
        serial = kv->page[page].serial;
    }
    return shared;
}

// A stack of free pages. Everything is allocated when it is opened.
#include "kvcache.h"

#include <stdlib.h>

struct KvCache {
    int32_t *free_pages; // stack
    int64_t free_count;
    int64_t *held; // [slots]: pages of a slot
    int64_t pages, slots, pages_per_seq, page_tokens;
    int32_t *page_table; // the caller's
};

bool kvcache_open(KvCache **out, int64_t pages, int64_t slots, int64_t pages_per_seq,
                  int64_t page_tokens, int32_t *page_table, Error *err) {
    KvCache *kv = calloc(1, sizeof *kv);
    int32_t *stack = calloc((size_t)pages, sizeof *stack);
    int64_t *held = calloc((size_t)slots, sizeof *held);
    if (!kv || !stack || !held) {
        free(kv);
        free(stack);
        free(held);
        return fail(err, ERR_RESOURCE, 820, "no memory for a table of %lld KV pages",
                    (long long)pages);
    }
    *kv = (KvCache){.free_pages = stack,
                    .held = held,
                    .pages = pages,
                    .slots = slots,
                    .pages_per_seq = pages_per_seq,
                    .page_tokens = page_tokens,
                    .page_table = page_table};
    for (int64_t page = pages - 1; page > 0; page--) // low pages are taken first
        stack[kv->free_count++] = (int32_t)page;
    *out = kv;
    return true;
}

void kvcache_close(KvCache *kv) {
    if (!kv)
        return;
    free(kv->free_pages);
    free(kv->held);
    free(kv);
}

bool kvcache_reserve(KvCache *kv, int64_t slot, int64_t tokens, bool *changed, Error *err) {
    int64_t wanted = ceil_div(tokens, kv->page_tokens), have = kv->held[slot];
    *changed = wanted > have;
    if (wanted <= have)
        return true;
    if (wanted > kv->pages_per_seq)
        return fail(err, ERR_RESOURCE, 821, "%lld tokens do not fit into the context of %lld",
                    (long long)tokens, (long long)(kv->pages_per_seq * kv->page_tokens));
    if (wanted - have > kv->free_count)
        return fail(err, ERR_RESOURCE, 822,
                    "the KV cache is full: %lld more tokens wanted, room for %lld; "
                    "a smaller -c or fewer sequences fit",
                    (long long)((wanted - have) * kv->page_tokens),
                    (long long)(kv->free_count * kv->page_tokens));
    while (have < wanted)
        kv->page_table[slot * kv->pages_per_seq + have++] = kv->free_pages[--kv->free_count];
    kv->held[slot] = have;
    return true;
}

void kvcache_release(KvCache *kv, int64_t slot) {
    while (kv->held[slot]) {
        int32_t *entry = &kv->page_table[slot * kv->pages_per_seq + --kv->held[slot]];
        kv->free_pages[kv->free_count++] = *entry;
        *entry = 0;
    }
}

int64_t kvcache_free_pages(const KvCache *kv) {
    return kv->free_count;
}

int64_t kvcache_pages(const KvCache *kv) {
    return kv->pages - 1;
}

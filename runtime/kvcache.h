// Pages of the KV cache: which are free, which belong to which slot. Page 0 is scratch.
#ifndef KVCACHE_H
#define KVCACHE_H

#include "base.h"

typedef struct KvCache KvCache;

// `pages` in all (with page 0), `slots` sequences of at most pages_per_seq pages. page_table: int32
// [slots, pages_per_seq], kept up to date here; it belongs to the caller and outlives this.
bool kvcache_open(KvCache **out, int64_t pages, int64_t slots, int64_t pages_per_seq,
                  int64_t page_tokens, int32_t *page_table, Error *err);
void kvcache_close(KvCache *kv);
// Makes room for `tokens` in total in a slot; *changed tells whether its row of the table changed.
// ERR_RESOURCE: no page is free (nothing is taken then).
bool kvcache_reserve(KvCache *kv, int64_t slot, int64_t tokens, bool *changed, Error *err);
void kvcache_release(KvCache *kv, int64_t slot);
int64_t kvcache_free_pages(const KvCache *kv);
int64_t kvcache_pages(const KvCache *kv); // without page 0

#endif

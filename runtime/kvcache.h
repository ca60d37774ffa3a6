// Pages of the KV cache: which are free, which belong to which slots, and which still hold the keys
// and values of tokens that nobody uses now. Page 0 is scratch.
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
// Free ones and those that only keep a prefix.
int64_t kvcache_free_pages(const KvCache *kv);
int64_t kvcache_kept_pages(const KvCache *kv); // of them: those that keep a prefix
int64_t kvcache_pages(const KvCache *kv);      // without page 0

// ---- prefixes -----------------------------------------------------------------------------------
//
// A full page whose tokens are known, with all tokens before them, is found again by them. It is
// never written any more, so any number of slots may hold it. Released, it is kept until its room is
// needed; the one that was used longest ago goes first.

// The slot's first `count` tokens, `ids`, are in its pages now.
void kvcache_know(KvCache *kv, int64_t slot, const int32_t *ids, int64_t count);
// Gives an empty slot the known pages that `ids` begin with. Returns the tokens in them, less than
// `count`: one is left to be computed.
int64_t kvcache_match(KvCache *kv, int64_t slot, const int32_t *ids, int64_t count);
// Of the pages that it would give: how many some slot holds, so that they take no room.
int64_t kvcache_shared_pages(const KvCache *kv, const int32_t *ids, int64_t count);

#endif

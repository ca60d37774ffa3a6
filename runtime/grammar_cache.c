// A few entries, found by a hash of 128 bits; one that is in use stays, else the one that was asked
// for the longest time ago goes.
#include "grammar_cache.h"

#include "payload.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 32 };

typedef struct Entry {
    Grammar *grammar; // owner: the cache; NULL: free
    uint64_t key[2];
    int64_t users, asked;
} Entry;

struct GrammarCache {
    const Tokenizer *tokenizer;
    Entry entries[ENTRIES];
    int64_t clock;
};

bool grammar_cache_open(GrammarCache **out, const Tokenizer *t, Error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return fail(err, ERR_RESOURCE, 1172, "no memory for grammars");
    (*out)->tokenizer = t;
    return true;
}

void grammar_cache_close(GrammarCache *c) {
    for (int at = 0; c && at < ENTRIES; at++)
        if (c->entries[at].grammar)
            grammar_free(c->entries[at].grammar);
    free(c);
}

// Of the kind and all texts with their lengths.
static void key_make(GrammarKind kind, const Bytes *texts, int32_t count, uint64_t key[2]) {
    uint64_t chain[5] = {(uint64_t)kind, 0, 0, 0, 0};
    for (int32_t at = 0; at < count; at++) {
        payload_hash128(texts[at].data, texts[at].size, chain + 1);
        chain[3] = texts[at].size;
        payload_hash128(chain, sizeof chain, key);
        chain[0] = key[0];
        chain[4] = key[1];
    }
    payload_hash128(chain, sizeof chain, key);
}

static bool grammar_make(const GrammarCache *c, GrammarKind kind, const Bytes *texts, int32_t count,
                         Grammar **out, Error *err) {
    if (kind == GRAMMAR_OBJECT)
        return grammar_json_object(out, c->tokenizer, err);
    if (kind == GRAMMAR_SCHEMA)
        return grammar_json_schema(out, c->tokenizer, texts[0], err);
    if (kind == GRAMMAR_REGEX)
        return grammar_regex(out, c->tokenizer, texts[0], err);
    return grammar_choice(out, c->tokenizer, texts, count, err);
}

// The one to be replaced; NULL: all are in use.
static Entry *oldest(GrammarCache *c) {
    Entry *found = NULL;
    for (int at = 0; at < ENTRIES; at++) {
        Entry *e = &c->entries[at];
        if (!e->users && (!found || e->asked < found->asked))
            found = e;
    }
    return found;
}

bool grammar_cache_get(GrammarCache *c, GrammarKind kind, const Bytes *texts, int32_t count,
                       Grammar **out, Error *err) {
    uint64_t key[2];
    key_make(kind, texts, count, key);
    for (int at = 0; at < ENTRIES; at++) {
        Entry *e = &c->entries[at];
        if (e->grammar && e->key[0] == key[0] && e->key[1] == key[1]) {
            e->users++;
            e->asked = ++c->clock;
            *out = e->grammar;
            return true;
        }
    }
    TRY(grammar_make(c, kind, texts, count, out, err));
    Entry *e = oldest(c);
    if (!e)
        return true; // freed by its release
    if (e->grammar)
        grammar_free(e->grammar);
    *e = (Entry){.grammar = *out, .key = {key[0], key[1]}, .users = 1, .asked = ++c->clock};
    return true;
}

void grammar_cache_release(GrammarCache *c, Grammar *g) {
    for (int at = 0; at < ENTRIES; at++)
        if (c->entries[at].grammar == g) {
            c->entries[at].users--;
            return;
        }
    grammar_free(g);
}

// Grammars and the states of sequences: one automaton, one walk and one lock for all sequences that
// follow the same grammar, so that what one of them has met is there for the others.
#include "grammar.h"

#include "grammar_schema.h"
#include "grammar_text.h"
#include "grammar_walk.h"
#include "tokenizer_tables.h"

#include <stdlib.h>

// A sequence's state may be closed after its grammar was freed: the last one frees.
typedef struct GrammarShared {
    pthread_mutex_t lock; // of walk and users
    int32_t users;        // grammar_free's caller and the states
    Grammar *grammar;
} GrammarShared;

struct Grammar {
    Nfa nfa;
    const TokenizerShared *tokenizer; // stop ids
    const Vocabulary *vocabulary;
    Walk *walk;            // owner: grammar_end
    GrammarShared *shared; // owner: grammar_end
};

struct GrammarState {
    const Grammar *g;
    Walker at;
};

// ---- grammars -----------------------------------------------------------------------------------

bool grammar_prepare(const Tokenizer *t, Error *err) {
    pthread_mutex_lock(&t->shared->lock);
    bool done = t->shared->vocabulary || vocabulary_open(&t->shared->vocabulary, t, err);
    pthread_mutex_unlock(&t->shared->lock);
    return done;
}

static bool grammar_open(Grammar **out, const Tokenizer *t, Error *err) {
    Grammar *g = calloc(1, sizeof *g);
    if (!g)
        return fail(err, ERR_RESOURCE, 1220, "no memory for a grammar");
    g->tokenizer = t->shared;
    *out = g;
    TRY(grammar_prepare(t, err));
    g->vocabulary = t->shared->vocabulary; // stays as it is
    return true;
}

static void grammar_end(Grammar *g) {
    walk_close(g->walk);
    nfa_free(&g->nfa);
    if (g->shared)
        pthread_mutex_destroy(&g->shared->lock);
    free(g->shared);
    free(g);
}

// Under the lock, which it leaves.
static void user_leave(GrammarShared *s) {
    bool last = --s->users == 0;
    pthread_mutex_unlock(&s->lock);
    if (last)
        grammar_end(s->grammar);
}

// What every kind ends with. built: `rule` holds the whole text.
static bool grammar_finish(Grammar **out, Grammar *g, bool built, int32_t rule, Error *err) {
    bool done =
        built && nfa_finish(&g->nfa, rule, err) && walk_open(&g->walk, &g->nfa, g->vocabulary, err);
    if (done) {
        g->shared = malloc(sizeof *g->shared);
        done = g->shared || fail(err, ERR_RESOURCE, 1221, "no memory for a grammar's lock");
    }
    if (!done) {
        if (g)
            grammar_end(g);
        return false;
    }
    g->shared->users = 1;
    g->shared->grammar = g;
    pthread_mutex_init(&g->shared->lock, NULL);
    *out = g;
    return true;
}

bool grammar_json_object(Grammar **out, const Tokenizer *t, Error *err) {
    static const char any[] = "{\"type\":\"object\"}";
    return grammar_json_schema(out, t, (Bytes){(const unsigned char *)any, sizeof any - 1}, err);
}

bool grammar_json_schema(Grammar **out, const Tokenizer *t, Bytes schema, Error *err) {
    Grammar *g = NULL;
    int32_t rule = 0;
    bool built = grammar_open(&g, t, err) && schema_compile(&g->nfa, schema, &rule, err);
    return grammar_finish(out, g, built, rule, err);
}

bool grammar_regex(Grammar **out, const Tokenizer *t, Bytes regex, Error *err) {
    static const RegexOptions options = {.name = "guided_regex"};
    Grammar *g = NULL;
    int32_t rule = 0;
    bool built = grammar_open(&g, t, err);
    if (built) {
        rule = nfa_rule(&g->nfa);
        nfa_rule_set(&g->nfa, rule, regex_fragment(&g->nfa, regex, &options));
    }
    return grammar_finish(out, g, built, rule, err);
}

bool grammar_choice(Grammar **out, const Tokenizer *t, const Bytes *choices, int32_t count,
                    Error *err) {
    Grammar *g = NULL;
    int32_t rule = 0;
    bool built = grammar_open(&g, t, err);
    if (built && count <= 0)
        built = fail(err, ERR_USAGE, 1222,
                     "guided_choice: the list is empty, expected one text "
                     "or more");
    if (built) {
        Nfa *n = &g->nfa;
        Fragment all = {0};
        rule = nfa_rule(n);
        for (int32_t at = 0; at < count; at++) {
            Fragment one = nfa_text(n, choices[at].data, choices[at].size);
            all = at ? nfa_either(n, all, one) : one;
        }
        nfa_rule_set(n, rule, all);
    }
    return grammar_finish(out, g, built, rule, err);
}

void grammar_free(Grammar *g) {
    if (!g)
        return;
    pthread_mutex_lock(&g->shared->lock);
    user_leave(g->shared);
}

// ---- sequences ----------------------------------------------------------------------------------

bool grammar_state_open(GrammarState **out, const Grammar *g, Error *err) {
    GrammarState *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, ERR_RESOURCE, 1223, "no memory for the state of a grammar");
    s->g = g;
    pthread_mutex_lock(&g->shared->lock);
    bool done = walker_start(g->walk, &s->at, err);
    g->shared->users += done;
    pthread_mutex_unlock(&g->shared->lock);
    if (!done) {
        free(s);
        return false;
    }
    *out = s;
    return true;
}

void grammar_state_close(GrammarState *s) {
    if (!s)
        return;
    GrammarShared *shared = s->g->shared;
    pthread_mutex_lock(&shared->lock);
    walker_end(s->g->walk, &s->at);
    free(s);
    user_leave(shared);
}

static bool is_stop(const TokenizerShared *t, int32_t token) {
    for (int32_t at = 0; at < t->stop_count; at++)
        if (t->stop_ids[at] == token)
            return true;
    return false;
}

static void stops_set(const Grammar *g, uint32_t *mask, bool allowed) {
    for (int32_t at = 0; at < g->tokenizer->stop_count; at++) {
        int32_t id = g->tokenizer->stop_ids[at];
        uint32_t bit = 1u << (id % 32);
        if (id >= 0 && id < g->vocabulary->size)
            mask[id / 32] = allowed ? mask[id / 32] | bit : mask[id / 32] & ~bit;
    }
}

// Under the lock: what the walk says, which may be NULL.
static void mask_give(const GrammarState *s, const uint32_t *tokens, uint32_t *mask) {
    const Grammar *g = s->g;
    size_t words = ((size_t)g->vocabulary->size + 31) / 32;
    bool ends = s->at.ended || walk_accepts(g->walk, s->at.state);
    uint32_t any = 0;
    if (tokens)
        memcpy(mask, tokens, words * sizeof *mask);
    else
        memset(mask, 0, words * sizeof *mask);
    stops_set(g, mask, false);
    for (size_t at = 0; at < words; at++)
        any |= mask[at];
    if (ends || !any) // a vocabulary that lacks the one byte that must follow can only stop
        stops_set(g, mask, true);
}

void grammar_mask(const GrammarState *s, uint32_t *mask) {
    const Grammar *g = s->g;
    pthread_mutex_lock(&g->shared->lock);
    walk_tidy(g->walk);
    mask_give(s, s->at.ended ? NULL : walk_mask(g->walk, s->at.state, s->at.opening), mask);
    pthread_mutex_unlock(&g->shared->lock);
}

bool grammar_mask_try(const GrammarState *s, uint32_t *mask) {
    const Grammar *g = s->g;
    if (pthread_mutex_trylock(&g->shared->lock) != 0)
        return false;
    const uint32_t *kept = walk_mask_kept(g->walk, s->at.state, s->at.opening);
    bool made = kept || s->at.ended;
    if (made)
        mask_give(s, s->at.ended ? NULL : kept, mask);
    pthread_mutex_unlock(&g->shared->lock);
    return made;
}

// Under the lock.
static bool token_advance(GrammarState *s, int32_t token) {
    const Grammar *g = s->g;
    Bytes bytes = vocabulary_bytes(g->vocabulary, token, s->at.opening);
    if (s->at.ended)
        return false;
    if (is_stop(g->tokenizer, token)) {
        s->at.ended = true;
        return false;
    }
    walk_tidy(g->walk);
    bool silent = s->at.opening && vocabulary_bytes(g->vocabulary, token, false).size;
    int32_t state = bytes.size || silent ? s->at.state : WALK_DEAD;
    for (size_t at = 0; at < bytes.size && state != WALK_DEAD; at++)
        state = walk_step(g->walk, state, bytes.data[at]);
    if (state != WALK_DEAD) {
        s->at.state = state;
        s->at.opening = false;
    }
    return state != WALK_DEAD;
}

bool grammar_advance(GrammarState *s, int32_t token) {
    pthread_mutex_lock(&s->g->shared->lock);
    bool taken = token_advance(s, token);
    pthread_mutex_unlock(&s->g->shared->lock);
    return taken;
}

bool grammar_advance_try(GrammarState *s, int32_t token, bool *taken) {
    if (pthread_mutex_trylock(&s->g->shared->lock) != 0)
        return false;
    *taken = token_advance(s, token);
    pthread_mutex_unlock(&s->g->shared->lock);
    return true;
}

bool grammar_may_end(const GrammarState *s) {
    pthread_mutex_lock(&s->g->shared->lock);
    bool ends = s->at.ended || walk_accepts(s->g->walk, s->at.state);
    pthread_mutex_unlock(&s->g->shared->lock);
    return ends;
}

bool grammar_state_copy(GrammarState *to, const GrammarState *from, Error *err) {
    if (to->g != from->g)
        return fail(err, ERR_INTERNAL, 1224, "a state was copied to another grammar's");
    pthread_mutex_lock(&from->g->shared->lock);
    walker_copy(&to->at, &from->at);
    pthread_mutex_unlock(&from->g->shared->lock);
    return true;
}

// Which tokens may follow: an automaton over bytes, from a JSON schema, a regular expression or a
// list of choices, walked by the bytes of this vocabulary's tokens.
#ifndef GRAMMAR_H
#define GRAMMAR_H

#include "tokenizer.h"

typedef struct Grammar Grammar;           // read-only after it is made; any number of threads
typedef struct GrammarState GrammarState; // of one sequence

// What all grammars of a tokenizer share, which else the first one makes: 0.1 s with 128k tokens.
bool grammar_prepare(const Tokenizer *t, Error *err);
// ERR_USAGE (the client's mistake, with the place in the schema or expression) or ERR_RESOURCE (too
// large). The tokenizer outlives the grammar.
bool grammar_json_object(Grammar **out, const Tokenizer *t, Error *err);
bool grammar_json_schema(Grammar **out, const Tokenizer *t, Bytes schema, Error *err);
bool grammar_regex(Grammar **out, const Tokenizer *t, Bytes regex, Error *err); // of the whole text
bool grammar_choice(Grammar **out, const Tokenizer *t, const Bytes *choices, int32_t count,
                    Error *err);
void grammar_free(Grammar *g); // takes NULL; states that are open may be used and closed after it

bool grammar_state_open(GrammarState **out, const Grammar *g, Error *err);
void grammar_state_close(GrammarState *s);
// mask: bit id % 32 of word id / 32, [ceil(vocab / 32)]. Stop tokens are allowed where the text may
// end. At least one bit is set.
void grammar_mask(const GrammarState *s, uint32_t *mask);
// false: the token was not allowed, or it was a stop token (the text has ended).
bool grammar_advance(GrammarState *s, int32_t token);
// Both without waiting. false, and nothing has changed: the mask is not made yet (which takes
// milliseconds with a large vocabulary), or another thread is at one of this grammar.
bool grammar_mask_try(const GrammarState *s, uint32_t *mask);
bool grammar_advance_try(GrammarState *s, int32_t token, bool *taken);
bool grammar_may_end(const GrammarState *s);
// Speculation: a copy of the state, to walk drafts.
bool grammar_state_copy(GrammarState *to, const GrammarState *from, Error *err);

#endif

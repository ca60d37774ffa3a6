// Grammars of the requests that came last: the same schema comes with every request of a program,
// and a grammar learns its vocabulary's masks as it is used.
#ifndef GRAMMAR_CACHE_H
#define GRAMMAR_CACHE_H

#include "grammar.h"

typedef enum GrammarKind {
    GRAMMAR_OBJECT,
    GRAMMAR_SCHEMA,
    GRAMMAR_REGEX,
    GRAMMAR_CHOICE
} GrammarKind;

typedef struct GrammarCache GrammarCache; // of one thread

bool grammar_cache_open(GrammarCache **out, const Tokenizer *t, Error *err);
void grammar_cache_close(GrammarCache *c); // nobody uses one any more
// texts: [count]; one schema or expression, or the choices. Errors as in grammar.h.
bool grammar_cache_get(GrammarCache *c, GrammarKind kind, const Bytes *texts, int32_t count,
                       Grammar **out, Error *err);
// What _get gave is not used any more.
void grammar_cache_release(GrammarCache *c, Grammar *g);

#endif

// Replies of OpenAI's API: the struct of an answer out, as JSON.
#ifndef OPENAI_RESPONSE_H
#define OPENAI_RESPONSE_H

#include "openai_request.h"
#include "writer.h"

typedef struct ApiIdentity { // of one request
    char id[48];
    int64_t created; // seconds since 1970
    const char *model;
    ApiKind kind;
} ApiIdentity;

typedef struct ApiUsage {
    int64_t prompt_tokens, cached_tokens, output_tokens;
} ApiUsage;

// What a choice has, or what a chunk adds to it.
typedef struct ApiPart {
    int64_t index;
    bool role;       // chat, first chunk: who speaks
    Writer text;     // of the answer
    Writer calls;    // elements of tool_calls
    Writer logprobs; // chat: elements of content; completions: texts of tokens
    Writer token_logprobs, top_logprobs, text_offset; // completions
    const char *finish_reason;                        // NULL: more follows
} ApiPart;

void api_identity_make(ApiIdentity *id, ApiKind kind, const char *model);
// Letters and digits that nobody can guess.
void api_random_name(char *out, size_t size);
void api_part_free(ApiPart *p);
// Empties it but for its index.
void api_part_clear(ApiPart *p);

// Probabilities of the tokens of an event. offset: characters of the answer so far, counted on.
void api_logprobs_add(ApiPart *p, ApiKind kind, const Tokenizer *t, const GenerateEvent *e,
                      int32_t at, int64_t *offset);
// An element of tool_calls. index < 0: of a whole reply, which has none.
void api_call_add(ApiPart *p, int64_t index, const char *id, const char *name, Bytes arguments);

void api_reply_print(Writer *out, const ApiIdentity *id, const ApiPart *parts, int64_t count,
                     const ApiUsage *usage);
// One event of a stream with one part; with usage NULL and `usage_null`, "usage":null.
void api_chunk_print(Writer *out, const ApiIdentity *id, const ApiPart *part, const ApiUsage *usage,
                     bool usage_null);
// The chunk with no choices.
void api_usage_chunk_print(Writer *out, const ApiIdentity *id, const ApiUsage *usage);

#endif

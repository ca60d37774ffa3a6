// Requests of OpenAI's API: JSON in, a checked struct out.
#ifndef OPENAI_REQUEST_H
#define OPENAI_REQUEST_H

#include "chat.h"
#include "grammar_cache.h"
#include "http.h"
#include "scheduler.h"

struct cJSON;

typedef enum ApiKind { API_CHAT = 1, API_COMPLETIONS = 2 } ApiKind;

// What requests are checked against and made with; read-only.
typedef struct ApiModel {
    const char *names; // under which the model is served, separated by commas
    const Tokenizer *tokenizer;
    const Chat *chat;   // NULL: the model has no template
    const char *system; // what the model is told where no system message is; NULL: nothing
    int64_t context, vocab_size;
    const int32_t *stop_ids; // [stop_count] of the model
    int32_t stop_count;
    GenerateParams defaults;
    GrammarCache *grammars;
} ApiModel;

typedef struct ApiPrompt {
    int32_t *ids; // [count]; owner: the request
    int64_t count;
    char *text; // of `echo`, zero-terminated; owner: the request; NULL: not asked for
    size_t text_size;
} ApiPrompt;

typedef enum ToolChoice {
    TOOL_CHOICE_NONE,     // tool calls are text like any other
    TOOL_CHOICE_AUTO,     // the model decides
    TOOL_CHOICE_REQUIRED, // the answer is a list of calls
    TOOL_CHOICE_NAMED,    // the answer is the arguments of `tool_name`
} ToolChoice;

typedef enum FormatKind { // what the answer must be
    FORMAT_TEXT,
    FORMAT_OBJECT,
    FORMAT_SCHEMA,
    FORMAT_REGEX,
    FORMAT_CHOICE,
} FormatKind;

enum { API_MAX_CHOICES = 128, API_MAX_STOPS = 16, API_MAX_STOP_IDS = 64 };

typedef struct ApiRequest {
    ApiKind kind;
    struct cJSON *json;    // owner: this; what follows may point into it
    GenerateParams params; // of every choice; the seed of choice i is seed + i
    ApiPrompt *prompts;    // [prompt_count]; owner: this
    int64_t prompt_count;
    int64_t n;        // answers for each prompt
    int64_t seed;     // if seeded
    int64_t logprobs; // of completions: how many; -1: none
    int64_t top_logprobs;
    bool seeded, stream, include_usage, continuous_usage, echo, want_logprobs;
    bool start_token; // before a prompt in text, if the tokenizer has one
    bool parallel_tool_calls;
    const struct cJSON *messages, *tools;
    ToolChoice tool_choice;
    const char *tool_name;
    FormatKind format;
    const struct cJSON *format_spec; // a schema, an expression, choices
    const char *format_name;         // the field that said so
    Grammar *grammar;                // a user of it: this; NULL: any text
    GrammarCache *grammars;          // whose it is
    const char *stops[API_MAX_STOPS];
    int32_t stop_ids[API_MAX_STOP_IDS];
    LogitBias bias[SCHEDULER_MAX_BIAS];
} ApiRequest;

// Checks everything that does not depend on other requests. Fields that are unknown are ignored,
// null is as if it were absent. *out is to be freed in any case.
bool api_request_read(ApiRequest *out, ApiKind kind, const ApiModel *m, Bytes body, Refusal *why);
void api_request_free(ApiRequest *r);

// ---- parts of it, for other endpoints -----------------------------------------------------------

// The body as a JSON object.
bool api_body(struct cJSON **out, Bytes body, Refusal *why);
// `model`, if it is there, is one of ours.
bool api_model_check(const struct cJSON *request, const ApiModel *m, Refusal *why);
// openai_messages.c: makes of OpenAI's messages what chat templates expect: content is text,
// arguments of tool calls are objects. Checks every message. system: the message to put first where
// there is none; NULL: none.
bool api_messages(struct cJSON *request, const char *system, Refusal *why);
// openai_prompt.c: a conversation as the model sees it. Changes the messages (api_messages).
bool api_chat_prompt(ApiPrompt *out, const ApiModel *m, struct cJSON *request, bool with_tools,
                     Refusal *why);
// A prompt in text (flags: tokenizer_encode's) or token ids.
bool api_prompt(ApiPrompt *out, const ApiModel *m, const struct cJSON *value, unsigned flags,
                Refusal *why);
// A list of token ids, named `param` in messages.
bool api_ids(ApiPrompt *out, const ApiModel *m, const struct cJSON *value, const char *param,
             Refusal *why);
// All prompts of a request, each of which must fit into the context with its answer.
bool api_prompts(ApiRequest *r, const ApiModel *m, Refusal *why);
// openai_format.c: the grammar of response_format, guided_* and tool_choice.
bool api_format(ApiRequest *r, const ApiModel *m, Refusal *why);
// An error of another part of the runtime.
bool refuse_error(Refusal *why, const char *param, const Error *err);
// "a string", "a list" ...
const char *api_type_name(const struct cJSON *value);

#endif

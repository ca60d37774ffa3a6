// A request in work (openai_job.c) and its choices (openai_choice.c).
#ifndef OPENAI_JOB_H
#define OPENAI_JOB_H

#include "api.h"
#include "openai_response.h"

typedef struct Choice {
    InboxPort port; // owner: this
    struct Job *job;
    uint64_t request; // of the scheduler; 0: not submitted
    const ApiPrompt *prompt;
    bool submitted, ended, spoken; // spoken: the first chunk was sent
    bool failed;
    Error error;  // why, if failed
    ApiPart part; // of the whole answer, or of the chunk that is made
    ToolParser parser;
    int64_t calls;      // given so far
    int64_t characters; // of the answer so far, for text_offset
    ApiUsage usage;
    double last_s; // when its last token came
} Choice;

typedef struct Job {
    Api *api;
    HttpRequest *http;       // NULL: the client has left, or has its reply, or is `client`
    const ApiClient *client; // of a batch, in place of http; NULL: none, or it has its reply
    ApiRequest request;
    ApiIdentity identity;
    Choice *choices; // [count]; owner: this
    int64_t count, running;
    double start_s;
    bool streaming;           // headers are sent
    struct event *ping;       // until the first token; owner: this
    Writer out;               // chunks on their way
    struct Job *next, **link; // of Api.first
} Job;

// What an event adds to the part of its choice: text, calls and logprobs.
bool choice_content_add(Choice *c, const GenerateEvent *e, Error *err);
void choice_logprobs_add(Choice *c, const GenerateEvent *e);

#endif

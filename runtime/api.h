// The OpenAI-compatible API over one scheduler: endpoints, and the requests that are in work.
#ifndef API_H
#define API_H

#include "http.h"
#include "inbox.h"
#include "metrics.h"
#include "openai_request.h"
#include "tool_call.h"

struct event_base;

typedef struct Api {
    struct event_base *base;
    HttpServer *http;
    Scheduler *scheduler; // NULL: the model is being loaded
    Inbox *inbox;
    ApiModel model;
    const char *name; // the first of model.names
    int64_t started;  // seconds since 1970
    ToolFormat tool_format;
    ToolMarkers tool_markers;
    Metrics metrics;
    int64_t jobs;      // in work, those of clients that have left too
    struct Job *first; // of them
} Api;

extern const HttpRoute api_routes[];
extern const int api_route_count;

// openai_job.c: takes the request over and answers it, now or later.
void job_start(Api *api, HttpRequest *r, ApiKind kind, Bytes body);
// Who waits for the whole reply of a request that came in no HTTP request.
typedef struct ApiClient {
    // status: as of HTTP; id: of the request; json: lives during the call. Called once.
    void (*reply)(void *user, int status, const char *id, Bytes json);
    void *user;
} ApiClient;

// client: lives until its reply.
void job_start_client(Api *api, const ApiClient *client, ApiKind kind, Bytes body);
// An InboxTake.
void job_event(void *api, void *choice, const GenerateEvent *event);
// Ends all that is in work.
void jobs_cancel(Api *api);
// Refuses, and counts it.
void api_refuse(Api *api, HttpRequest *r, const Refusal *why);

#endif

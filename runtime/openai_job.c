// A request in work: submits its choices to the scheduler, turns what they give into one reply or a
// stream of chunks. Lives until the scheduler has given the last event of every choice, also when
// the client left before.
#include "openai_job.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

enum { PING_SECONDS = 1 };

// ---- life ---------------------------------------------------------------------------------------

static void job_free(Job *j) {
    if (j->next)
        j->next->link = j->link;
    *j->link = j->next;
    j->api->jobs--;
    for (int64_t at = 0; at < j->count; at++) {
        api_part_free(&j->choices[at].part);
        tool_parser_free(&j->choices[at].parser);
    }
    if (j->ping)
        event_free(j->ping);
    free(j->choices);
    writer_free(&j->out);
    api_request_free(&j->request);
    free(j);
}

static void job_cancel(Job *j) {
    for (int64_t at = 0; at < j->count; at++)
        if (j->choices[at].submitted && !j->choices[at].ended)
            scheduler_cancel(j->api->scheduler, j->choices[at].request);
}

static void client_left(void *user) {
    Job *j = user;
    j->http = NULL;
    j->api->metrics.disconnects++;
    job_cancel(j);
}

void jobs_cancel(Api *api) {
    for (Job *j = api->first; j; j = j->next)
        job_cancel(j);
}

void api_refuse(Api *api, HttpRequest *r, const Refusal *why) {
    Metrics *m = &api->metrics;
    int64_t *count = why->status == 429  ? &m->refused_429
                     : why->status < 500 ? &m->refused_400
                                         : &m->refused_500;
    ++*count;
    http_refuse(r, why);
}

// Does anybody wait for the answer?
static bool wanted(const Job *j) {
    return j->http || j->client;
}

// A whole reply.
static void job_reply(Job *j, Bytes json) {
    HttpRequest *r = j->http;
    const ApiClient *client = j->client;
    j->http = NULL;
    j->client = NULL;
    if (r)
        http_reply(r, 200, "application/json", json);
    else if (client)
        client->reply(client->user, 200, j->identity.id, json);
}

static void job_refuse(Job *j, const Refusal *why) {
    HttpRequest *r = j->http;
    const ApiClient *client = j->client;
    j->http = NULL;
    j->client = NULL;
    if (r)
        api_refuse(j->api, r, why);
    if (!client)
        return;
    char *json = refusal_json(why);
    const char *text = json ? json : "{}";
    client->reply(client->user, why->status, j->identity.id,
                  (Bytes){(const unsigned char *)text, strlen(text)});
    free(json);
}

// ---- replies ------------------------------------------------------------------------------------

static void stream_send(Job *j) {
    if (j->http && j->out.failed) {
        HttpRequest *r = j->http;
        j->http = NULL;
        job_cancel(j);
        http_drop(r);
    } else if (j->http && j->out.size) {
        http_stream_write(j->http, writer_bytes(&j->out));
    }
    j->out.size = 0;
}

static ApiUsage usage_sum(const Job *j) {
    ApiUsage all = {0};
    for (int64_t at = 0; at < j->count; at++) {
        const ApiUsage *u = &j->choices[at].usage;
        bool first = at % j->request.n == 0; // the answers of one prompt share it
        all.prompt_tokens += first ? j->choices[at].prompt->count : 0;
        all.cached_tokens += first ? u->cached_tokens : 0;
        all.output_tokens += u->output_tokens;
    }
    return all;
}

static void error_refusal(const Error *err, Refusal *why) {
    if (err->code == ERR_NONE)
        refusal_set(why, 503, "shutting_down", NULL, "the server is shutting down");
    else
        refuse_error(why, NULL, err);
}

static void stream_finish(Job *j) {
    ApiUsage usage = usage_sum(j);
    if (!j->http)
        return;
    if (j->request.include_usage)
        api_usage_chunk_print(&j->out, &j->identity, &usage);
    writer_print(&j->out, "data: [DONE]\n\n");
    stream_send(j);
    HttpRequest *r = j->http;
    j->http = NULL;
    if (r)
        http_stream_end(r);
}

static void reply_finish(Job *j) {
    ApiUsage usage = usage_sum(j);
    const Choice *failed = NULL;
    Refusal why;
    if (!wanted(j))
        return;
    ApiPart *parts = calloc((size_t)j->count, sizeof *parts);
    for (int64_t at = 0; at < j->count; at++) {
        failed = j->choices[at].failed ? &j->choices[at] : failed;
        if (parts)
            parts[at] = j->choices[at].part; // still owned by the choice
    }
    if (parts && !failed)
        api_reply_print(&j->out, &j->identity, parts, j->count, &usage);
    free(parts);
    if (failed) {
        error_refusal(&failed->error, &why);
        job_refuse(j, &why);
    } else if (!parts || j->out.failed) {
        refusal_set(&why, 500, "internal_error", NULL, "no memory for the answer");
        job_refuse(j, &why);
    } else {
        job_reply(j, writer_bytes(&j->out));
    }
}

static const char *finish_word(const Choice *c, FinishReason finish) {
    if (finish == FINISH_LENGTH)
        return "length";
    return c->calls && c->job->request.tool_choice != TOOL_CHOICE_NAMED ? "tool_calls" : "stop";
}

// What a stream gets from one event of a choice.
static void chunk_send(Choice *c, const GenerateEvent *e) {
    Job *j = c->job;
    ApiPart *p = &c->part;
    bool chat = j->request.kind == API_CHAT;
    ApiUsage usage;
    const ApiUsage *each = j->request.continuous_usage ? &usage : NULL;
    if (each)
        usage = usage_sum(j);
    if (c->failed) {
        Refusal why;
        error_refusal(&c->error, &why);
        char *json = refusal_json(&why);
        writer_print(&j->out, "data: %s\n\n", json ? json : "{}");
        free(json);
    } else if (p->text.size || p->calls.size || p->logprobs.size || e->finish != FINISH_NONE) {
        if (chat && !c->spoken) {
            ApiPart first = {.index = p->index, .role = true};
            api_chunk_print(&j->out, &j->identity, &first, each, j->request.include_usage);
        }
        c->spoken = true;
        api_chunk_print(&j->out, &j->identity, p, each, j->request.include_usage);
    }
    api_part_clear(p);
    stream_send(j);
}

// ---- events -------------------------------------------------------------------------------------

static void measure(Choice *c, const GenerateEvent *e) {
    Metrics *m = &c->job->api->metrics;
    double now = clock_seconds();
    if (e->id_count && c->last_s == 0) {
        metrics_observe(m, METRIC_FIRST_TOKEN_SECONDS, now - c->job->start_s);
        metrics_observe(m, METRIC_PROMPT_TOKENS, (double)e->prompt_tokens);
    } else {
        for (int32_t at = 0; at < e->id_count; at++)
            metrics_observe(m, METRIC_INTER_TOKEN_SECONDS, (now - c->last_s) / e->id_count);
    }
    if (e->id_count)
        c->last_s = now;
    if (e->finish == FINISH_STOP || e->finish == FINISH_LENGTH) {
        metrics_observe(m, METRIC_REQUEST_SECONDS, now - c->job->start_s);
        metrics_observe(m, METRIC_OUTPUT_TOKENS, (double)e->output_tokens);
    }
}

static void event_take(Choice *c, const GenerateEvent *e) {
    Job *j = c->job;
    if (c->failed)
        return; // the client knows
    if (j->ping && e->id_count) {
        event_free(j->ping);
        j->ping = NULL;
    }
    c->usage = (ApiUsage){e->prompt_tokens, e->cached_tokens, e->output_tokens};
    if (e->finish == FINISH_ERROR || e->finish == FINISH_CANCELLED) {
        c->failed = true;
        c->error = e->error ? *e->error : (Error){.code = ERR_NONE};
    } else if (!choice_content_add(c, e, &c->error)) {
        c->failed = true;
    }
    choice_logprobs_add(c, e);
    if (e->finish != FINISH_NONE && !c->failed)
        c->part.finish_reason = finish_word(c, e->finish);
    if (j->streaming && j->http)
        chunk_send(c, e);
}

void job_event(void *user, void *choice, const GenerateEvent *e) {
    Choice *c = choice;
    Job *j = c->job;
    (void)user;
    measure(c, e);
    if (wanted(j))
        event_take(c, e);
    if (e->finish == FINISH_NONE)
        return;
    c->ended = true;
    if (--j->running)
        return;
    if (j->streaming)
        stream_finish(j);
    else
        reply_finish(j);
    job_free(j);
}

// ---- start --------------------------------------------------------------------------------------

static void ping(evutil_socket_t fd, short what, void *user) {
    static const char line[] = ": ping\n\n";
    Job *j = user;
    (void)fd, (void)what;
    if (j->http)
        http_stream_write(j->http, (Bytes){(const unsigned char *)line, sizeof line - 1});
}

static void stream_begin(Job *j) {
    const struct timeval pause = {.tv_sec = PING_SECONDS};
    j->streaming = true;
    http_stream_start(j->http);
    j->ping = event_new(j->api->base, -1, EV_PERSIST, ping, j);
    if (j->ping)
        event_add(j->ping, &pause);
}

static uint64_t seed_new(void) {
    char name[17];
    uint64_t seed[2];
    api_random_name(name, sizeof name);
    payload_hash128(name, strlen(name), seed);
    return seed[0];
}

static bool choices_make(Job *j, Refusal *why) {
    const ApiRequest *q = &j->request;
    int64_t count = q->prompt_count * q->n;
    j->choices = calloc((size_t)count, sizeof *j->choices);
    if (!j->choices)
        return refusal_set(why, 500, "internal_error", NULL, "no memory for the answers");
    j->count = count;
    for (int64_t at = 0; at < count; at++) {
        Choice *c = &j->choices[at];
        *c = (Choice){.port = {j->api->inbox, c}, .job = j, .prompt = &q->prompts[at / q->n]};
        c->part.index = at;
        if (q->tool_choice == TOOL_CHOICE_AUTO)
            c->parser.format = j->api->tool_format;
        else if (q->tool_choice == TOOL_CHOICE_REQUIRED)
            c->parser = tool_parser_list();
        if (q->echo)
            writer_add(&c->part.text, c->prompt->text, c->prompt->text_size);
        c->characters = q->echo ? (int64_t)c->prompt->text_size : 0;
    }
    return true;
}

static bool choices_submit(Job *j, Refusal *why) {
    const ApiRequest *q = &j->request;
    uint64_t seed = q->seeded ? (uint64_t)q->seed : seed_new();
    for (int64_t at = 0; at < j->count; at++) {
        Choice *c = &j->choices[at];
        GenerateParams params = q->params;
        Error err = {0};
        params.seed = seed + (uint64_t)(at % q->n);
        if (!scheduler_submit(j->api->scheduler, c->prompt->ids, c->prompt->count, &params,
                              inbox_put, &c->port, &c->request, &err))
            return refuse_error(why, NULL, &err);
        c->submitted = true;
        j->running++;
    }
    return true;
}

// http or client, not both.
static void start(Api *api, HttpRequest *http, const ApiClient *client, ApiKind kind, Bytes body) {
    Refusal why;
    Job *j = calloc(1, sizeof *j);
    if (!j) {
        Job none = {.api = api, .http = http, .client = client};
        refusal_set(&why, 500, "internal_error", NULL, "no memory for the request");
        job_refuse(&none, &why);
        return;
    }
    *j = (Job){.api = api,
               .http = http,
               .client = client,
               .start_s = clock_seconds(),
               .next = api->first,
               .link = &api->first};
    if (api->first)
        api->first->link = &j->next;
    api->first = j;
    api->jobs++;
    api_identity_make(&j->identity, kind, api->name);
    bool done = api_request_read(&j->request, kind, &api->model, body, &why) &&
                choices_make(j, &why) && choices_submit(j, &why);
    if (!done) {
        job_refuse(j, &why);
        if (j->running)
            job_cancel(j); // it ends with the last event of what was submitted
        else
            job_free(j);
        return;
    }
    if (client) {
        j->request.stream = false; // a batch has whole replies only
        return;
    }
    http_on_close(http, client_left, j);
    if (j->request.stream)
        stream_begin(j);
}

void job_start(Api *api, HttpRequest *r, ApiKind kind, Bytes body) {
    start(api, r, NULL, kind, body);
}

void job_start_client(Api *api, const ApiClient *client, ApiKind kind, Bytes body) {
    start(api, NULL, client, kind, body);
}

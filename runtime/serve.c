// `serve`: listens at once, loads the model in a second thread, then answers until it is told to
// stop. The first SIGTERM or SIGINT lets requests in work end, for some seconds; a second one, or
// the end of that time, ends them.
#include "serve.h"

#include "api.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_KEY_BYTES = 4096 };

typedef struct Server {
    Cli *cli;
    ServeOpen *open;
    Api api;
    char *key; // owner: this
    struct event *wake, *stop[2], *drain;
    pthread_t loader;
    bool loading, stopping; // loading: the loop has not seen the end of it
    bool loader_runs;       // to be joined
    // The loader's, until `loaded`:
    Engine *engine;
    Scheduler *scheduler;
    Error load_error;
    atomic_bool loaded;
} Server;

// ---- loading ------------------------------------------------------------------------------------

static void *load(void *user) {
    Server *s = user;
    const CliOptions *o = &s->cli->options;
    SchedulerOptions options = {.max_queue = (int32_t)o->max_queue};
    if (s->open(s->cli, &s->engine, &s->load_error))
        scheduler_open(&s->scheduler, s->engine, s->cli->tokenizer, &options, &s->load_error);
    atomic_store(&s->loaded, true);
    inbox_wake(s->api.inbox);
    Error ignored; // the first grammar will say it
    if (s->scheduler)
        grammar_prepare(s->cli->tokenizer, &ignored);
    return NULL;
}

static void load_finish(Server *s) {
    Api *api = &s->api;
    s->loading = false;
    if (!s->scheduler || s->stopping) {
        event_base_loopbreak(api->base);
        return;
    }
    api->model.context = engine_context(s->engine);
    api->scheduler = s->scheduler;
    fprintf(stderr, "ready after %.2f s: %s on %s, %lld tokens of context\n",
            clock_seconds() - s->cli->start_s, api->name, engine_device(s->engine)->description,
            (long long)api->model.context);
}

// ---- events -------------------------------------------------------------------------------------

// Nothing is left to do after a stop: the loop may end.
static void stop_check(Server *s) {
    if (s->stopping && !s->loading && !s->api.jobs && !http_requests(s->api.http))
        event_base_loopexit(s->api.base,
                            &(const struct timeval){.tv_usec = 50000}); // replies leave
}

static void woken(evutil_socket_t fd, short what, void *user) {
    Server *s = user;
    (void)fd, (void)what;
    if (!inbox_take(s->api.inbox, job_event, &s->api))
        event_base_loopbreak(s->api.base);
    if (s->loading && atomic_load(&s->loaded))
        load_finish(s);
    stop_check(s);
}

static void drained(evutil_socket_t fd, short what, void *user) {
    Server *s = user;
    (void)fd, (void)what;
    if (s->api.scheduler)
        jobs_cancel(&s->api);
    stop_check(s);
}

static void stopped(evutil_socket_t signal, short what, void *user) {
    Server *s = user;
    const int64_t seconds = s->cli->options.drain_seconds;
    const struct timeval limit = {.tv_sec = s->stopping ? 0 : seconds};
    (void)signal, (void)what;
    if (!s->stopping)
        fprintf(stderr, "stopping: %lld requests in work\n", (long long)s->api.jobs);
    s->stopping = true;
    http_stop(s->api.http);
    event_add(s->drain, &limit);
    stop_check(s);
}

// ---- set-up -------------------------------------------------------------------------------------

// A key in a file is not seen in the list of processes.
static bool key_read(Server *s, Error *err) {
    const CliOptions *o = &s->cli->options;
    if (o->api_key && o->api_key_file)
        return fail(err, ERR_USAGE, 1160, "--api-key and --api-key-file exclude each other");
    if (o->api_key) {
        s->key = strdup(o->api_key);
        return s->key || fail(err, ERR_RESOURCE, 1161, "no memory for the key");
    }
    if (!o->api_key_file)
        return true;
    FILE *in = fopen(o->api_key_file, "rb");
    s->key = calloc(1, MAX_KEY_BYTES + 1);
    size_t size = in && s->key ? fread(s->key, 1, MAX_KEY_BYTES, in) : 0;
    int code = errno;
    if (in)
        fclose(in);
    while (size && strchr("\r\n \t", s->key[size - 1]))
        s->key[--size] = 0;
    return size || fail(err, ERR_USAGE, 1162, "--api-key-file %s: %s", o->api_key_file,
                        in ? "is empty" : strerror(code));
}

void api_set(Api *api, Cli *cli) {
    const ModelInfo *m = &cli->executable.info;
    const CliOptions *o = &cli->options;
    const char *names = o->served_name ? o->served_name : o->program;
    *api = (Api){.base = api->base, .inbox = api->inbox, .started = time(NULL)};
    api->model = (ApiModel){.names = names,
                            .tokenizer = cli->tokenizer,
                            .chat = cli->chat,
                            .system = o->system,
                            .context = m->max_seq_len,
                            .vocab_size = m->vocab_size,
                            .stop_ids = m->stop_ids,
                            .stop_count = m->stop_count,
                            .defaults = generate_defaults(m)};
    GenerateParams *p = &api->model.defaults;
    p->temperature = (float)o->temperature;
    p->top_k = (int32_t)o->top_k;
    p->top_p = (float)o->top_p;
    p->min_p = (float)o->min_p;
    p->repetition_penalty = (float)o->repetition_penalty;
    p->logprobs = -1;
    p->speculate = (int32_t)o->speculate;
    api->tool_markers = tool_markers_find(cli->tokenizer);
    Bytes tools = executable_segment(&cli->executable, SEGMENT_TOOL_TEMPLATE);
    Bytes chat = executable_segment(&cli->executable, SEGMENT_TEMPLATE);
    api->tool_format = tool_format_find(tools.size ? tools : chat);
}

// The first of the names, in memory that lives as long as the process's arguments.
static bool name_set(Server *s, Error *err) {
    Api *api = &s->api;
    size_t size = strcspn(api->model.names, ",");
    if (!size)
        return fail(err, ERR_USAGE, 1163, "--served-model-name is empty");
    api->name = strndup(api->model.names, size);
    return api->name || fail(err, ERR_RESOURCE, 1164, "no memory for a name");
}

static bool parser_set(Server *s, Error *err) {
    const char *name = s->cli->options.tool_parser;
    return !name || tool_format_parse(&s->api.tool_format, name) ||
           fail(err, ERR_USAGE, 1165,
                "--tool-call-parser wants hermes, llama3, mistral or none, found \"%s\"", name);
}

static bool events_add(Server *s, Error *err) {
    static const int signals[] = {SIGTERM, SIGINT};
    struct event_base *base = s->api.base;
    s->wake = event_new(base, inbox_file(s->api.inbox), EV_READ | EV_PERSIST, woken, s);
    s->drain = event_new(base, -1, 0, drained, s);
    bool done = s->wake && s->drain && event_add(s->wake, NULL) == 0;
    for (int at = 0; done && at < 2; at++) {
        s->stop[at] = evsignal_new(base, signals[at], stopped, s);
        done = s->stop[at] && event_add(s->stop[at], NULL) == 0;
    }
    return done || fail(err, ERR_RESOURCE, 1166, "no memory for events");
}

static bool server_open(Server *s, Error *err) {
    const CliOptions *o = &s->cli->options;
    s->api.base = event_base_new();
    if (!s->api.base)
        return fail(err, ERR_RESOURCE, 1167, "no event loop: %s", strerror(errno));
    TRY(inbox_open(&s->api.inbox, err));
    api_set(&s->api, s->cli);
    TRY(grammar_cache_open(&s->api.model.grammars, s->cli->tokenizer, err));
    TRY(name_set(s, err) && parser_set(s, err) && key_read(s, err) && events_add(s, err));
    HttpOptions http = {.host = o->host ? o->host : "127.0.0.1",
                        .port = (int)o->port,
                        .api_key = s->key,
                        .max_connections = o->connections,
                        .client_seconds = (double)o->client_seconds,
                        .routes = api_routes,
                        .route_count = api_route_count,
                        .user = &s->api};
    TRY(http_open(&s->api.http, s->api.base, &http, err));
    bool bracket = strchr(http.host, ':') != NULL;
    fprintf(stderr, "listening on http://%s%s%s:%d\n", bracket ? "[" : "", http.host,
            bracket ? "]" : "", http_port(s->api.http));
    s->loading = s->loader_runs = pthread_create(&s->loader, NULL, load, s) == 0;
    return s->loading || fail(err, ERR_RESOURCE, 1168, "no thread to load the model");
}

static void loader_join(Server *s) {
    if (s->loader_runs)
        pthread_join(s->loader, NULL);
    s->loader_runs = s->loading = false;
}

static void server_close(Server *s) {
    struct event *events[] = {s->wake, s->drain, s->stop[0], s->stop[1]};
    loader_join(s);
    if (s->scheduler)
        scheduler_close(s->scheduler);
    if (s->api.inbox)
        inbox_take(s->api.inbox, job_event, &s->api); // last events free what was in work
    http_close(s->api.http);
    engine_close(s->engine);
    for (size_t at = 0; at < sizeof events / sizeof *events; at++)
        if (events[at])
            event_free(events[at]);
    inbox_close(s->api.inbox);
    if (s->api.base)
        event_base_free(s->api.base);
    free(s->key);
    free((void *)(uintptr_t)s->api.name);
    grammar_cache_close(s->api.model.grammars);
}

bool serve(Cli *cli, ServeOpen *open, Error *err) {
    Server s = {.cli = cli, .open = open};
    bool done = server_open(&s, err);
    if (done)
        event_base_dispatch(s.api.base);
    loader_join(&s);
    if (done && s.load_error.code && !s.stopping) {
        *err = s.load_error;
        done = false;
    }
    server_close(&s);
    return done;
}

bool engine_for_batch(Cli *cli, Engine **out, Error *err) {
    const ModelInfo *m = &cli->executable.info;
    int64_t context = cli->options.context ? cli->options.context : m->max_seq_len;
    int64_t room = cli->options.kv_tokens;
    return cli_engine(cli, out, room ? room : m->max_batch_size * context, err);
}

bool command_serve(Cli *cli, Error *err) {
    return serve(cli, engine_for_batch, err);
}

// `batch`: requests of a file through the code of the server, as many at once as the executable was
// made for, replies to another file as they are ready.
#include "cli_batch.h"

#include "openai_response.h"
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUEUE = 1 << 20, BAR = 30 };

typedef struct Batch Batch;

typedef struct Slot { // of a request in work
    ApiClient client;
    Batch *batch;
    BatchLine *line; // NULL: free
} Slot;

struct Batch {
    Cli *cli;
    BatchFile files;
    Api api;
    Engine *engine;
    Slot *slots; // [slot_count]; owner: this
    int64_t slot_count, working;
    int64_t next;                    // line of the input
    int64_t written, refused, first; // replies of this run; those that were there before
    double start_s, shown_s;
    bool failed;
    Error error; // if failed
    bool terminal;
};

static volatile sig_atomic_t stopped; // by a signal: what is in work is given up

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

// ---- progress -----------------------------------------------------------------------------------

static void progress(Batch *b, bool last) {
    const BatchFile *f = &b->files;
    double now = clock_seconds(), took = now - b->start_s;
    if (!b->terminal || (!last && now - b->shown_s < 0.1))
        return;
    SchedulerStats s;
    char bar[BAR + 1];
    int filled = f->count ? (int)(BAR * f->done / f->count) : BAR;
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)filled);
    bar[BAR] = 0;
    scheduler_stats(b->api.scheduler, &s);
    fprintf(stderr, "\r[%s] %lld/%lld", bar, (long long)f->done, (long long)f->count);
    if (took > 0)
        fprintf(stderr, ", %.0f tokens/s", (double)s.output_tokens / took);
    if (b->written && !last)
        fprintf(stderr, ", %.0f s left", took / (double)b->written * (double)(f->count - f->done));
    fprintf(stderr, "\x1b[K%s", last ? "\n" : "");
    b->shown_s = now;
}

// ---- replies ------------------------------------------------------------------------------------

static bool failed(Batch *b, const Error *err) {
    if (!b->failed)
        b->error = *err;
    b->failed = true;
    return false;
}

// {"id","custom_id","response":{"status_code","request_id","body"},"error"}
static bool reply_write(Batch *b, BatchLine *line, int status, const char *id, Bytes json,
                        Error *err) {
    Writer w = {.data = NULL};
    char name[25];
    api_random_name(name, sizeof name);
    writer_print(&w, "{\"id\":\"batch_req_%s\",\"custom_id\":", name);
    writer_json(&w, line->custom_id, strlen(line->custom_id));
    writer_print(&w, ",\"response\":{\"status_code\":%d,\"request_id\":\"%s\",\"body\":", status,
                 id);
    writer_add(&w, json.data, json.size);
    writer_print(&w, "},\"error\":null}\n");
    bool done = w.failed ? fail(err, ERR_RESOURCE, 1037, "no memory for a reply")
                         : batch_file_write(&b->files, line, writer_bytes(&w), err);
    writer_free(&w);
    return done;
}

// An ApiClient's. What failed for want of a device or memory is no reply: the next run asks again.
static void replied(void *user, int status, const char *id, Bytes json) {
    Slot *s = user;
    Batch *b = s->batch;
    BatchLine *line = s->line;
    Error err;
    s->line = NULL;
    b->working--;
    if (stopped || b->failed)
        return;
    if (status == 429 || status >= 500) {
        fail(&err, ERR_DEVICE, 1036, "line %lld: %.*s", (long long)line->number,
             (int)(json.size < 400 ? json.size : 400), (const char *)json.data);
        failed(b, &err);
        return;
    }
    b->written++;
    b->refused += status != 200;
    if (!reply_write(b, line, status, id, json, &err))
        failed(b, &err);
    progress(b, false);
}

// ---- requests -----------------------------------------------------------------------------------

static void line_start(Batch *b, Slot *s, BatchLine *line) {
    Error err = {0};
    ApiKind kind;
    char *body;
    *s = (Slot){.client = {replied, s}, .batch = b, .line = line};
    b->working++;
    if (batch_file_read(&b->files, line, &kind, &body, &err)) {
        job_start_client(&b->api, &s->client, kind,
                         (Bytes){(const unsigned char *)body, strlen(body)});
        free(body);
        return;
    }
    s->line = NULL;
    b->working--;
    failed(b, &err);
}

// Gives every free slot a line.
static void slots_fill(Batch *b) {
    for (int64_t at = 0; at < b->slot_count; at++)
        while (!b->slots[at].line && b->next < b->files.count && !stopped && !b->failed) {
            BatchLine *line = &b->files.lines[b->next++];
            if (!line->done)
                line_start(b, &b->slots[at], line);
        }
}

static void work(Batch *b) {
    bool cancelled = false;
    slots_fill(b);
    while (b->working || b->api.jobs) {
        struct pollfd in = {.fd = inbox_file(b->api.inbox), .events = POLLIN};
        if (poll(&in, 1, -1) < 0 && errno != EINTR)
            break;
        if (!inbox_take(b->api.inbox, job_event, &b->api)) {
            Error err;
            fail(&err, ERR_RESOURCE, 1035, "no memory for answers");
            failed(b, &err);
        }
        if ((stopped || b->failed) && !cancelled) {
            cancelled = true;
            jobs_cancel(&b->api);
        }
        slots_fill(b);
    }
}

static bool batch_open(Batch *b, Error *err) {
    Cli *cli = b->cli;
    const CliOptions *o = &cli->options;
    SchedulerOptions options = {.max_queue = QUEUE};
    if (!o->file || !o->output)
        return fail(err, ERR_USAGE, 1034,
                    "batch wants two files: batch IN.jsonl -o OUT.jsonl (%s is missing)",
                    o->file ? "-o" : "the input");
    TRY(batch_file_open(&b->files, o->file, o->output, err));
    TRY(inbox_open(&b->api.inbox, err));
    TRY(engine_for_batch(cli, &b->engine, err));
    api_set(&b->api, cli);
    TRY(grammar_cache_open(&b->api.model.grammars, cli->tokenizer, err));
    b->api.name = b->api.model.names;
    b->api.model.context = engine_context(b->engine);
    TRY(scheduler_open(&b->api.scheduler, b->engine, cli->tokenizer, &options, err));
    b->slot_count = 2 * cli->executable.info.max_batch_size;
    b->slots = calloc((size_t)b->slot_count, sizeof *b->slots);
    return b->slots ||
           fail(err, ERR_RESOURCE, 1033, "no memory for %lld requests", (long long)b->slot_count);
}

static bool batch_run(Batch *b, Error *err) {
    const struct sigaction action = {.sa_handler = stop};
    const BatchFile *f = &b->files;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    b->terminal = isatty(STDERR_FILENO);
    b->start_s = clock_seconds();
    b->first = f->done;
    if (b->first)
        fprintf(stderr, "%lld of %lld lines are done\n", (long long)b->first, (long long)f->count);
    work(b);
    progress(b, true);
    fsync(f->out);
    if (b->failed) {
        *err = b->error;
        return false;
    }
    if (f->done < f->count)
        return fail(err, ERR_INTERNAL, 1032,
                    "stopped: %lld of %lld lines are done; the same command goes on",
                    (long long)f->done, (long long)f->count);
    fprintf(stderr, "%lld lines in %.1f s, %lld of them refused\n", (long long)b->written,
            clock_seconds() - b->start_s, (long long)b->refused);
    return true;
}

bool command_batch(Cli *cli, Error *err) {
    Batch b = {.cli = cli, .files = {.out = -1}};
    bool done = batch_open(&b, err) && batch_run(&b, err);
    if (b.api.scheduler)
        scheduler_close(b.api.scheduler);
    if (b.api.inbox) {
        inbox_take(b.api.inbox, job_event, &b.api); // last events free what was in work
        grammar_cache_close(b.api.model.grammars);
        inbox_close(b.api.inbox);
    }
    engine_close(b.engine);
    batch_file_close(&b.files);
    free(b.slots);
    return done;
}

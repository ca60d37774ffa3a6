// `chat`: a conversation, line by line, and the commands between.
//
// Every turn is rendered as a whole by the model's template, and only what the cache does not hold
// yet is prefilled: templates may rewrite earlier turns, then the turn starts from nothing.
#include "cli_answer.h"
#include "cli_line.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef struct Talk {
    Cli *cli;
    Engine *engine;
    cJSON *request;  // owner: talk
    cJSON *messages; // of request
    int32_t *held;   // ids of which the cache holds the first engine_length(); owner: talk
    int64_t held_count;
    char stats[512]; // of the last answer, a line; "": none
} Talk;

static volatile sig_atomic_t interrupted; // by Ctrl-C: the answer ends, the program goes on

static void interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

// How many of the ids the cache holds already; at least one is left to prefill.
static int64_t held_prefix(const Talk *t, const int32_t *ids, int64_t count) {
    int64_t length = engine_length(t->engine, 0), same = 0;
    while (same < length && same < t->held_count && same < count && ids[same] == t->held[same])
        same++;
    return same == length && same < count ? same : 0;
}

// Keeps prompt and answer for the next turn.
static bool hold(Talk *t, const int32_t *ids, int64_t count, const Answer *a, Error *err) {
    int32_t *held = malloc((size_t)(count + a->count) * sizeof *held);
    if (!held)
        return fail(err, ERR_RESOURCE, 1090, "no memory for the conversation");
    memcpy(held, ids, (size_t)count * sizeof *held);
    memcpy(held + count, a->ids, (size_t)a->count * sizeof *held);
    free(t->held);
    t->held = held;
    t->held_count = count + a->count;
    return true;
}

static bool turn_answer(Talk *t, const int32_t *ids, int64_t count, Error *err) {
    const CliOptions *o = &t->cli->options;
    SampleParams params = sample_params(t->cli);
    int64_t room = engine_context(t->engine) - count, known = held_prefix(t, ids, count);
    if (room <= 0)
        return fail(err, ERR_RESOURCE, 1091,
                    "the conversation has %" PRId64 " tokens, the context is %" PRId64, count,
                    engine_context(t->engine));
    if (known == 0)
        TRY(engine_start(t->engine, 0, &params, err));
    Answer a = {.stream = {.out = stdout, .keep = true}, .interrupted = &interrupted};
    int64_t limit = o->max_tokens > 0 && o->max_tokens < room ? o->max_tokens : room;
    interrupted = 0;
    bool done = answer_make(t->cli, t->engine, ids + known, count - known, limit, &a, err);
    if (interrupted)
        clearerr(stdout); // a write that waited for the reader and that Ctrl-C broke off
    putchar('\n');
    done = done && hold(t, ids, count, &a, err) &&
           chat_message_add(t->messages, "assistant", a.stream.text ? a.stream.text : "",
                            a.stream.size, err);
    if (done)
        answer_stats_print(t->stats, sizeof t->stats, t->cli, t->engine, count - known, &a);
    if (done && o->stats)
        fputs(t->stats, stderr);
    answer_free(&a);
    return done;
}

// Takes the last messages away again, down to `count`.
static void messages_cut(Talk *t, int count) {
    while (cJSON_GetArraySize(t->messages) > count)
        cJSON_DeleteItemFromArray(t->messages, cJSON_GetArraySize(t->messages) - 1);
}

static bool turn(Talk *t, const char *line, size_t size, Error *err) {
    int32_t *ids = NULL;
    int64_t count = 0;
    int before = cJSON_GetArraySize(t->messages);
    bool done = chat_message_add(t->messages, "user", line, size, err) &&
                chat_encode(t->cli->chat, t->cli->tokenizer, t->request, &ids, &count, err) &&
                turn_answer(t, ids, count, err);
    free(ids);
    if (!done)
        messages_cut(t, before);
    return done;
}

// ---- commands -----------------------------------------------------------------------------------

static bool command_help(Talk *t, const char *rest, Error *err);

static bool has_system(const Talk *t) {
    const cJSON *first = cJSON_GetArrayItem(t->messages, 0);
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(first, "role");
    return cJSON_IsString(role) && strcmp(role->valuestring, "system") == 0;
}

static bool command_reset(Talk *t, const char *rest, Error *err) {
    (void)rest, (void)err;
    messages_cut(t, has_system(t));
    return true;
}

static bool command_system(Talk *t, const char *rest, Error *err) {
    cJSON *list = cJSON_CreateArray();
    bool done = !*rest || chat_message_add(list, "system", rest, strlen(rest), err);
    if (done && has_system(t))
        cJSON_DeleteItemFromArray(t->messages, 0);
    if (done && *rest)
        cJSON_InsertItemInArray(t->messages, 0, cJSON_DetachItemFromArray(list, 0));
    cJSON_Delete(list);
    return done;
}

static bool command_save(Talk *t, const char *rest, Error *err) {
    if (!*rest)
        return fail(err, ERR_USAGE, 1255, "/save wants the name of a file");
    char *text = cJSON_Print(t->messages);
    FILE *file = text ? fopen(rest, "wxe") : NULL;
    bool done = file && fprintf(file, "%s\n", text) > 0;
    int code = errno;
    done = file && fclose(file) == 0 && done;
    cJSON_free(text);
    return done || fail(err, ERR_RESOURCE, 1256, "%s: cannot write: %s", rest, strerror(code));
}

static bool command_stats(Talk *t, const char *rest, Error *err) {
    (void)rest, (void)err;
    fprintf(stderr, "%d messages, %" PRId64 " of %" PRId64 " tokens\n",
            cJSON_GetArraySize(t->messages), t->held_count, engine_context(t->engine));
    fputs(t->stats, stderr);
    return true;
}

static const struct {
    const char *name, *value, *help;
    bool (*run)(Talk *t, const char *rest, Error *err);
} commands[] = {
    {"help", "", "this list", command_help},
    {"reset", "", "starts a new conversation; the system message stays", command_reset},
    {"save", "FILE", "writes the conversation as JSON, for `template -f FILE`", command_save},
    {"stats", "", "tokens of the conversation, speed of the last answer", command_stats},
    {"system", "TEXT", "what the model is told; without TEXT: nothing", command_system},
};

static bool command_help(Talk *t, const char *rest, Error *err) {
    (void)t, (void)rest, (void)err;
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        fprintf(stderr, "/%-7s%-5s %s\n", commands[at].name, commands[at].value, commands[at].help);
    fputs("Ctrl-C stops an answer, Ctrl-D ends. A message that begins with / is written //.\n",
          stderr);
    return true;
}

// A line behind its slash.
static bool command(Talk *t, const char *line, Error *err) {
    size_t size = strcspn(line, " ");
    const char *rest = line + size + strspn(line + size, " ");
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        if (strlen(commands[at].name) == size && memcmp(commands[at].name, line, size) == 0)
            return commands[at].run(t, rest, err);
    return fail(err, ERR_USAGE, 1257, "there is no command /%.*s; /help lists them",
                (int)(size < 40 ? size : 40), line);
}

// ---- the conversation ---------------------------------------------------------------------------

static bool talk_start(Talk *t, Error *err) {
    const char *system = t->cli->options.system;
    if (!t->cli->chat)
        return fail(err, ERR_USAGE, 1092,
                    "this model has no chat template (gptq-compile --chat-template FILE gives it "
                    "one); `run` writes on from a text");
    t->request = cJSON_CreateObject();
    t->messages = cJSON_AddArrayToObject(t->request, "messages");
    cJSON_AddBoolToObject(t->request, "add_generation_prompt", true);
    return (!system || chat_message_add(t->messages, "system", system, strlen(system), err)) &&
           cli_engine(t->cli, &t->engine, 0, err);
}

static bool line_take(Talk *t, LineReader *r, const char *line, size_t size, Error *err) {
    if (size == 0)
        return true;
    TRY(line_remember(r, line, size, err));
    if (line[0] == '/' && line[1] != '/')
        return command(t, line + 1, err);
    bool escaped = line[0] == '/';
    return turn(t, line + escaped, size - escaped, err);
}

// A person can go on after a mistake, a script cannot.
static bool talk(Talk *t, LineReader *r, Error *err) {
    struct sigaction action = {.sa_handler = interrupt}; // without SA_RESTART: Ctrl-C ends a read
    LineResult result = LINE_TEXT;
    bool hinted = false;
    sigaction(SIGINT, &action, NULL);
    if (line_edited(r))
        fputs("Ctrl-D ends, /help lists the commands.\n", stderr);
    while (result != LINE_END) {
        const char *line;
        size_t size;
        TRY(line_read(r, "> ", &result, &line, &size, err));
        if (result == LINE_INTERRUPT && !line_edited(r))
            break;
        if (result == LINE_INTERRUPT && !hinted) {
            fputs("Ctrl-D ends\n", stderr);
            hinted = true;
        }
        if (result != LINE_TEXT || line_take(t, r, line, size, err))
            continue;
        if (!line_edited(r) || (err->code != ERR_USAGE && err->code != ERR_RESOURCE))
            return false;
        fprintf(stderr, "GQC-%04d: %s\n", err->id, err->message);
    }
    return true;
}

bool command_chat(Cli *cli, Error *err) {
    Talk t = {.cli = cli};
    LineReader *r = NULL;
    bool done = line_open(&r, err) && talk_start(&t, err) && talk(&t, r, err);
    line_close(r);
    engine_close(t.engine);
    cJSON_Delete(t.request);
    free(t.held);
    return done;
}

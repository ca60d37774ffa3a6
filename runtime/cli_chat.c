// `chat`: a conversation, line by line; `template`: what the model would see of one.
//
// Every turn is rendered as a whole by the model's template, and only what the cache does not hold
// yet is prefilled: templates may rewrite earlier turns, then the turn starts from nothing.
#include "cli_answer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Talk {
    Cli *cli;
    Engine *engine;
    cJSON *request;  // owner: talk
    cJSON *messages; // of request
    int32_t *held;   // ids of which the cache holds the first engine_length(); owner: talk
    int64_t held_count;
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
    putchar('\n');
    done = done && hold(t, ids, count, &a, err) &&
           chat_message_add(t->messages, "assistant", a.stream.text ? a.stream.text : "",
                            a.stream.size, err);
    if (done && o->stats)
        answer_stats(t->cli, t->engine, count - known, &a);
    answer_free(&a);
    return done;
}

static bool turn(Talk *t, const char *line, size_t size, Error *err) {
    int32_t *ids = NULL;
    int64_t count = 0;
    bool done = chat_message_add(t->messages, "user", line, size, err) &&
                chat_encode(t->cli->chat, t->cli->tokenizer, t->request, &ids, &count, err) &&
                turn_answer(t, ids, count, err);
    free(ids);
    return done;
}

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

static bool talk(Talk *t, Error *err) {
    char *line = NULL;
    size_t room = 0;
    bool done = true, asked = isatty(STDIN_FILENO);
    struct sigaction action = {.sa_handler = interrupt}; // without SA_RESTART: Ctrl-C ends getline
    sigaction(SIGINT, &action, NULL);
    while (done && !feof(stdin)) {
        if (asked)
            fputs("> ", stderr);
        interrupted = 0;
        ssize_t size = getline(&line, &room, stdin);
        if (size < 0)
            break; // the end, or Ctrl-C at the prompt
        if (size > 0 && line[size - 1] == '\n')
            size--;
        if (size > 0)
            done = turn(t, line, (size_t)size, err);
    }
    free(line);
    return done;
}

bool command_chat(Cli *cli, Error *err) {
    Talk t = {.cli = cli};
    bool done = talk_start(&t, err) && talk(&t, err);
    engine_close(t.engine);
    cJSON_Delete(t.request);
    free(t.held);
    return done;
}

// ---- template -----------------------------------------------------------------------------------

// A list of messages, or an object with `messages` and what else the template reads.
static bool request_read(const CliOptions *o, cJSON **out, Error *err) {
    char *text = NULL;
    size_t size = 0;
    TRY(cli_text(o, &text, &size, err));
    cJSON *json = cJSON_ParseWithLength(text, size);
    free(text);
    if (cJSON_IsArray(json)) {
        *out = cJSON_CreateObject();
        cJSON_AddItemToObject(*out, "messages", json);
    } else if (cJSON_IsObject(json)) {
        *out = json;
    } else {
        cJSON_Delete(json);
        return fail(err, ERR_USAGE, 1093,
                    "template wants JSON: a list of messages, or an object with \"messages\"");
    }
    if (!cJSON_GetObjectItemCaseSensitive(*out, "add_generation_prompt"))
        cJSON_AddBoolToObject(*out, "add_generation_prompt", true);
    return true;
}

static bool ids_print(Cli *cli, const cJSON *request, Error *err) {
    int32_t *ids;
    int64_t count;
    TRY(chat_encode(cli->chat, cli->tokenizer, request, &ids, &count, err));
    cJSON *list = cJSON_CreateIntArray(ids, (int)count);
    char *text = cJSON_PrintUnformatted(list);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(list);
    free(ids);
    return true;
}

static bool text_print(Cli *cli, const cJSON *request, Error *err) {
    TemplateText text = {0};
    TRY(chat_render(cli->chat, request, &text, err));
    fwrite(text.text, 1, text.size, stdout);
    free(text.text);
    free(text.user_marks);
    return true;
}

bool command_template(Cli *cli, Error *err) {
    cJSON *request = NULL;
    if (!cli->chat)
        return fail(err, ERR_USAGE, 1094, "this model has no chat template");
    bool done = request_read(&cli->options, &request, err) &&
                (cli->options.json ? ids_print : text_print)(cli, request, err);
    cJSON_Delete(request);
    return done;
}

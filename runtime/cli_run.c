// `run`: text goes in, text streams out as it is made; and what all commands share.
#include "cli_answer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT_MAX_BYTES = 1 << 30 };

// ---- input --------------------------------------------------------------------------------------

static bool stream_read(FILE *in, const char *name, char **data, size_t *size, Error *err) {
    size_t room = 1 << 16;
    *data = malloc(room);
    *size = 0;
    while (*data) {
        *size += fread(*data + *size, 1, room - *size, in);
        if (*size < room)
            break;
        if (room >= TEXT_MAX_BYTES)
            return fail(err, ERR_RESOURCE, 1010, "%s: more than %d bytes of text", name,
                        TEXT_MAX_BYTES);
        char *bigger = realloc(*data, room *= 2);
        if (!bigger)
            free(*data);
        *data = bigger;
    }
    if (!*data)
        return fail(err, ERR_RESOURCE, 1011, "%s: no memory for the text", name);
    if (ferror(in))
        return fail(err, ERR_INTERNAL, 1012, "%s: %s", name, strerror(errno));
    return true;
}

bool cli_text(const CliOptions *o, char **data, size_t *size, Error *err) {
    if (o->prompt && o->file)
        return fail(err, ERR_USAGE, 1013, "-p and -f exclude each other");
    if (o->prompt) {
        *size = strlen(o->prompt);
        *data = strdup(o->prompt);
        return *data || fail(err, ERR_RESOURCE, 1014, "no memory for the prompt");
    }
    if (!o->file && isatty(STDIN_FILENO))
        return fail(err, ERR_USAGE, 1022, "no text: give -p TEXT or -f FILE, or pipe it in");
    if (!o->file)
        return stream_read(stdin, "standard input", data, size, err);
    struct stat info;
    FILE *in = fopen(o->file, "rb");
    if (!in || (stat(o->file, &info) == 0 && S_ISDIR(info.st_mode))) {
        int code = in ? EISDIR : errno;
        if (in)
            fclose(in);
        return fail(err, ERR_USAGE, 1015, "%s: %s", o->file, strerror(code));
    }
    bool done = stream_read(in, o->file, data, size, err);
    fclose(in);
    return done;
}

// ---- engine -------------------------------------------------------------------------------------

static bool device_parse(const char *word, const DeviceType **type, int *index, Error *err) {
    char *end = NULL;
    *index = 0;
    if (!word) {
        *type = NULL;
        return true;
    }
    *type = strcmp(word, "cpu") == 0 ? &device_cpu : &device_cuda;
    if (*type == &device_cpu || strcmp(word, "cuda") == 0)
        return true;
    if (strncmp(word, "cuda:", 5) == 0)
        *index = (int)strtol(word + 5, &end, 10);
    if (!end || end == word + 5 || *end || *index < 0 || *index > 1024)
        return fail(err, ERR_USAGE, 1016, "--device wants cpu, cuda or cuda:N, found \"%s\"", word);
    return true;
}

bool cli_engine(Cli *cli, Engine **out, int64_t kv_tokens, Error *err) {
    const CliOptions *options = &cli->options;
    int64_t most = cli->executable.info.max_seq_len;
    const DeviceType *type;
    DeviceOptions o = {.threads = (int)options->threads,
                       .kv_required = options->context > 0,
                       .context = options->context,
                       .check_first = kv_tokens > 0};
    TRY(device_parse(options->device, &type, &o.index, err));
    if (options->context > most)
        return fail(err, ERR_USAGE, 1018,
                    "-c %" PRId64 ": this file was compiled for at most %" PRId64
                    " tokens (gptq-compile --max-seq-len)",
                    options->context, most);
    o.kv_tokens = kv_tokens ? kv_tokens : options->context ? options->context : most;
    return engine_open(out, &cli->executable, type, &o, err);
}

// ---- run ----------------------------------------------------------------------------------------

// One request of a conversation that starts with this text.
static cJSON *request_make(const CliOptions *o, const char *text, size_t size, Error *err) {
    cJSON *request = cJSON_CreateObject();
    cJSON *messages = cJSON_AddArrayToObject(request, "messages");
    cJSON_AddBoolToObject(request, "add_generation_prompt", true);
    bool done =
        (!o->system || chat_message_add(messages, "system", o->system, strlen(o->system), err)) &&
        chat_message_add(messages, "user", text, size, err);
    if (done)
        return request;
    cJSON_Delete(request);
    return NULL;
}

static bool chat_prompt(Cli *cli, const char *text, size_t size, int32_t **ids, int64_t *count,
                        Error *err) {
    cJSON *request = request_make(&cli->options, text, size, err);
    bool done = request && chat_encode(cli->chat, cli->tokenizer, request, ids, count, err);
    cJSON_Delete(request);
    return done;
}

static bool prompt_encode(Cli *cli, int32_t **ids, int64_t *count, Error *err) {
    char *text = NULL;
    size_t size = 0;
    bool done = cli_text(&cli->options, &text, &size, err);
    if (done && cli->chat && !cli->options.raw)
        done = chat_prompt(cli, text, size, ids, count, err);
    else if (done && cli->options.system)
        done = fail(err, ERR_USAGE, 1023, "--system needs a chat template, which %s",
                    cli->chat ? "--raw turns off" : "this model lacks");
    else
        done = done && tokenizer_encode(cli->tokenizer, (Bytes){(unsigned char *)text, size},
                                        TOKENIZER_ADD_SPECIAL, ids, count, err);
    free(text);
    if (done && *count == 0)
        return fail(err, ERR_USAGE, 1019, "the prompt is empty and this model has no start token");
    return done;
}

static void json_print(const int32_t *prompt, int64_t prompt_count, const Answer *a) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToObject(json, "prompt_ids", cJSON_CreateIntArray(prompt, (int)prompt_count));
    cJSON_AddItemToObject(json, "ids", cJSON_CreateIntArray(a->ids, (int)a->count));
    char *string = text_json(a->stream.text, a->stream.size);
    cJSON_AddRawToObject(json, "text", string ? string : "null");
    free(string);
    cJSON_AddStringToObject(json, "finish_reason", a->stopped ? "stop" : "length");
    char *text = cJSON_PrintUnformatted(json);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
}

static bool prompt_check(int64_t prompt_count, int64_t context, Error *err) {
    return prompt_count < context ||
           fail(err, ERR_RESOURCE, 1020,
                "the prompt has %" PRId64 " tokens, the context is %" PRId64
                " and must hold an answer too",
                prompt_count, context);
}

static bool run_all(Cli *cli, Engine **engine, const int32_t *prompt, int64_t prompt_count,
                    Answer *a, Error *err) {
    const CliOptions *o = &cli->options;
    SampleParams params = sample_params(cli);
    int64_t context = o->context ? o->context : cli->executable.info.max_seq_len;
    TRY(prompt_check(prompt_count, context, err)); // before the weights are loaded
    TRY(cli_engine(cli, engine, 0, err));
    context = engine_context(*engine);
    TRY(prompt_check(prompt_count, context, err)); // this machine may have room for less
    int64_t room = context - prompt_count;
    int64_t limit = o->max_tokens > 0 && o->max_tokens < room ? o->max_tokens : room;
    TRY(engine_start(*engine, 0, &params, err));
    TRY(answer_make(cli, *engine, prompt, prompt_count, limit, a, err));
    if (o->json)
        json_print(prompt, prompt_count, a);
    else
        putchar('\n');
    if (o->stats)
        answer_stats(cli, *engine, prompt_count, a);
    return true;
}

bool command_run(Cli *cli, Error *err) {
    Answer a = {.stream = {.out = cli->options.json ? NULL : stdout}};
    Engine *engine = NULL;
    int32_t *prompt = NULL;
    int64_t count = 0;
    bool done =
        prompt_encode(cli, &prompt, &count, err) && run_all(cli, &engine, prompt, count, &a, err);
    engine_close(engine);
    free(prompt);
    answer_free(&a);
    return done;
}

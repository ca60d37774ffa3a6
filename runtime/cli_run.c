// `run`: text goes in, text streams out as it is made; and what all commands share.
#include "cli.h"
#include "cli_text.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_MAX_BYTES = 1 << 30 };

double cli_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

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
                       .context = options->context};
    TRY(device_parse(options->device, &type, &o.index, err));
    if (options->context > most)
        return fail(err, ERR_USAGE, 1018,
                    "-c %" PRId64 ": this file was compiled for at most %" PRId64
                    " tokens (gptq-compile --max-seq-len)",
                    options->context, most);
    o.kv_tokens = kv_tokens ? kv_tokens : options->context ? options->context : most;
    return engine_open(out, &cli->executable, type, &o, err);
}

// ---- generation ---------------------------------------------------------------------------------

typedef struct Run {
    Cli *cli;
    Engine *engine;
    int32_t *prompt; // owner: run
    int64_t prompt_count;
    int32_t *ids; // generated; owner: run
    int64_t count;
    bool stopped;
    TokenizerStream *decoder; // owner: run
    TextStream stream;
    double start_s, first_s, end_s;
} Run;

static bool is_stop(const ModelInfo *m, int32_t id) {
    for (int at = 0; at < m->stop_count; at++)
        if (m->stop_ids[at] == id)
            return true;
    return false;
}

static bool prompt_encode(Run *r, Error *err) {
    Cli *cli = r->cli;
    char *text = NULL;
    size_t size = 0;
    bool done = cli_text(&cli->options, &text, &size, err) &&
                tokenizer_encode(cli->tokenizer, (Bytes){(unsigned char *)text, size},
                                 TOKENIZER_ADD_SPECIAL, &r->prompt, &r->prompt_count, err);
    free(text);
    if (done && r->prompt_count == 0)
        return fail(err, ERR_USAGE, 1019, "the prompt is empty and this model has no start token");
    return done;
}

static SampleParams sample_params(const CliOptions *o) {
    return (SampleParams){.temperature = (float)o->temperature,
                          .top_p = (float)o->top_p,
                          .min_p = (float)o->min_p,
                          .repetition_penalty = (float)o->repetition_penalty,
                          .top_k = (int32_t)o->top_k,
                          .seed_low = (uint32_t)o->seed,
                          .seed_high = (uint32_t)((uint64_t)o->seed >> 32)};
}

// Takes one token; false in *more: the text is complete.
static bool token_take(Run *r, int32_t token, bool *more, Error *err) {
    const CliOptions *o = &r->cli->options;
    r->ids[r->count++] = token;
    if (!o->ignore_eos && is_stop(&r->cli->executable.info, token)) {
        r->stopped = true;
        *more = false;
        return true;
    }
    Bytes text;
    TRY(tokenizer_stream_add(r->decoder, token, &text, err));
    TRY(text_add(&r->stream, text, err));
    *more = o->json || fflush(stdout) == 0; // else the reader is gone, or the disk full
    return true;
}

static bool generate(Run *r, int64_t limit, Error *err) {
    const int32_t slot = 0;
    SampleParams params = sample_params(&r->cli->options);
    int32_t token;
    bool more;
    TRY(engine_start(r->engine, slot, &params, err));
    TRY(engine_prefill(r->engine, slot, r->prompt, r->prompt_count, NULL, err));
    TRY(engine_sample(r->engine, slot, &token, err));
    r->first_s = cli_seconds();
    TRY(token_take(r, token, &more, err));
    while (more && r->count < limit) {
        TRY(engine_decode(r->engine, &slot, 1, &token, err));
        TRY(token_take(r, token, &more, err));
    }
    r->end_s = cli_seconds();
    return true;
}

static void json_print(const Run *r) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToObject(json, "prompt_ids",
                          cJSON_CreateIntArray(r->prompt, (int)r->prompt_count));
    cJSON_AddItemToObject(json, "ids", cJSON_CreateIntArray(r->ids, (int)r->count));
    char *string = text_json(r->stream.text, r->stream.size);
    cJSON_AddRawToObject(json, "text", string ? string : "null");
    free(string);
    cJSON_AddStringToObject(json, "finish_reason", r->stopped ? "stop" : "length");
    char *text = cJSON_PrintUnformatted(json);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
}

static void stats_print(Run *r) {
    double prefill = r->first_s - r->start_s, decode = r->end_s - r->first_s;
    fprintf(stderr,
            "%s, %s: first token %.1f ms after the start of the process; %" PRId64
            " prompt tokens in %.1f ms = %.1f tokens/s; %" PRId64
            " tokens written, %.1f tokens/s\n",
            engine_device(r->engine)->description, engine_device(r->engine)->target->name,
            (r->first_s - r->cli->start_s) * 1e3, r->prompt_count, prefill * 1e3,
            (double)r->prompt_count / prefill, r->count,
            decode > 0 ? (double)(r->count - 1) / decode : 0);
}

static bool prompt_check(const Run *r, int64_t context, Error *err) {
    return r->prompt_count < context ||
           fail(err, ERR_RESOURCE, 1020,
                "the prompt has %" PRId64 " tokens, the context is %" PRId64
                " and must hold an answer too",
                r->prompt_count, context);
}

// What the decoder kept back.
static bool text_finish(Run *r, Error *err) {
    Bytes text;
    TRY(tokenizer_stream_end(r->decoder, &text, err));
    return text_add(&r->stream, text, err) && text_end(&r->stream, err);
}

static bool run_all(Run *r, Error *err) {
    const CliOptions *o = &r->cli->options;
    TRY(prompt_encode(r, err));
    TRY(tokenizer_stream_open(&r->decoder, r->cli->tokenizer, TOKENIZER_SKIP_SPECIAL, err));
    int64_t context = o->context ? o->context : r->cli->executable.info.max_seq_len;
    TRY(prompt_check(r, context, err)); // before the weights are loaded
    TRY(cli_engine(r->cli, &r->engine, 0, err));
    context = engine_context(r->engine);
    TRY(prompt_check(r, context, err)); // this machine may have room for less
    int64_t room = context - r->prompt_count;
    int64_t limit = o->max_tokens > 0 && o->max_tokens < room ? o->max_tokens : room;
    r->ids = calloc((size_t)limit, sizeof *r->ids);
    if (!r->ids)
        return fail(err, ERR_RESOURCE, 1021, "no memory for %" PRId64 " tokens", limit);
    r->start_s = cli_seconds();
    TRY(generate(r, limit, err));
    TRY(text_finish(r, err));
    if (o->json)
        json_print(r);
    else
        putchar('\n');
    if (o->stats)
        stats_print(r);
    return true;
}

bool command_run(Cli *cli, Error *err) {
    Run r = {.cli = cli, .stream = {.out = cli->options.json ? NULL : stdout}};
    bool done = run_all(&r, err);
    engine_close(r.engine);
    tokenizer_stream_close(r.decoder);
    free(r.prompt);
    free(r.ids);
    free(r.stream.text);
    return done;
}

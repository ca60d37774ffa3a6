// Commands that look at the model: tokenize, detokenize, logits, perplexity, info, explain, licenses.
#include "cli.h"
#include "memory_table.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- tokenize, detokenize -----------------------------------------------------------------------

static void ids_print(const int32_t *ids, int64_t count, bool json) {
    fputs(json ? "[" : "", stdout);
    for (int64_t at = 0; at < count; at++)
        printf("%s%d", at ? (json ? "," : " ") : "", ids[at]);
    puts(json ? "]" : "");
}

bool command_tokenize(Cli *cli, Error *err) {
    char *text = NULL;
    size_t size = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    bool done = cli_text(&cli->options, &text, &size, err) &&
                tokenizer_encode(cli->tokenizer, (Bytes){(unsigned char *)text, size},
                                 TOKENIZER_ADD_SPECIAL, &ids, &count, err);
    if (done)
        ids_print(ids, count, cli->options.json);
    free(text);
    free(ids);
    return done;
}

bool cli_ids(const char *text, int32_t **ids, int64_t *count, Error *err) {
    if (!text)
        return fail(err, ERR_USAGE, 1040, "--ids 1,2,3 is missing");
    size_t most = 1;
    for (const char *at = text; *at; at++)
        most += *at == ',';
    *ids = calloc(most, sizeof **ids);
    if (!*ids)
        return fail(err, ERR_RESOURCE, 1041, "no memory for %zu ids", most);
    *count = 0;
    for (const char *at = text; *at;) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || errno || (*end && *end != ',') || id < 0 || id > INT32_MAX)
            return fail(err, ERR_USAGE, 1042,
                        "--ids wants numbers separated by commas, found \"%s\"", at);
        (*ids)[(*count)++] = (int32_t)id;
        at = *end ? end + 1 : end;
    }
    return *count > 0 || fail(err, ERR_USAGE, 1043, "--ids is empty");
}

static bool text_print(const Cli *cli, const int32_t *ids, int64_t count, Error *err) {
    char *text;
    size_t size;
    for (int64_t at = 0; at < count; at++)
        if (ids[at] >= cli->executable.info.vocab_size)
            return fail(err, ERR_USAGE, 1044, "token id %d is outside the vocabulary of %" PRId64,
                        ids[at], cli->executable.info.vocab_size);
    TRY(tokenizer_decode(cli->tokenizer, ids, count, 0, &text, &size, err));
    fwrite(text, 1, size, stdout);
    putchar('\n');
    free(text);
    return true;
}

bool command_detokenize(Cli *cli, Error *err) {
    int32_t *ids = NULL;
    int64_t count = 0;
    bool done = cli_ids(cli->options.ids, &ids, &count, err) && text_print(cli, ids, count, err);
    free(ids);
    return done;
}

// ---- logits -------------------------------------------------------------------------------------

typedef struct LogitsFile {
    FILE *file;
    const char *path;
    int64_t vocab_size;
} LogitsFile;

static bool logits_write(void *user, int64_t position, const float *logits, Error *err) {
    LogitsFile *f = user;
    (void)position;
    if (fwrite(logits, sizeof *logits, (size_t)f->vocab_size, f->file) != (size_t)f->vocab_size)
        return fail(err, ERR_RESOURCE, 1045, "%s: %s", f->path, strerror(errno));
    return true;
}

static bool logits_run(Cli *cli, Engine **engine, LogitsFile *f, const int32_t *ids, int64_t count,
                       Error *err) {
    SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};
    TRY(cli_engine(cli, engine, 0, err));
    f->file = fopen(f->path, "wb");
    if (!f->file)
        return fail(err, ERR_RESOURCE, 1046, "%s: %s", f->path, strerror(errno));
    TRY(engine_start(*engine, 0, &greedy, err));
    LogitsVisit visit = {
        .visit = logits_write, .user = f, .first = cli->options.all ? 0 : count - 1};
    TRY(engine_prefill(*engine, 0, ids, count, &visit, err));
    FILE *file = f->file;
    f->file = NULL;
    return fclose(file) == 0 || fail(err, ERR_RESOURCE, 1047, "%s: %s", f->path, strerror(errno));
}

bool command_logits(Cli *cli, Error *err) {
    const CliOptions *o = &cli->options;
    int32_t *ids = NULL;
    int64_t count = 0;
    Engine *engine = NULL;
    LogitsFile f = {.path = o->output, .vocab_size = cli->executable.info.vocab_size};
    if (!o->output)
        return fail(err, ERR_USAGE, 1048, "-o FILE is missing");
    bool done = cli_ids(o->ids, &ids, &count, err);
    done = done && logits_run(cli, &engine, &f, ids, count, err);
    if (f.file)
        fclose(f.file);
    engine_close(engine);
    free(ids);
    return done;
}

// ---- perplexity ---------------------------------------------------------------------------------

typedef struct Nll {
    const int32_t *ids; // of the window, with BOS first
    int64_t count;
    int64_t vocab_size;
    double sum;
    int64_t tokens;
} Nll;

static bool nll_add(void *user, int64_t position, const float *logits, Error *err) {
    Nll *n = user;
    (void)err;
    if (position + 1 >= n->count)
        return true;
    float top = logits[0];
    for (int64_t id = 1; id < n->vocab_size; id++)
        top = logits[id] > top ? logits[id] : top;
    double total = 0;
    for (int64_t id = 0; id < n->vocab_size; id++)
        total += (double)expf(logits[id] - top);
    n->sum += log(total) + (double)top - (double)logits[n->ids[position + 1]];
    n->tokens++;
    return true;
}

static bool windows_run(Cli *cli, Engine *engine, const int32_t *ids, int64_t count, Nll *n,
                        Error *err) {
    const CliOptions *o = &cli->options;
    SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};
    int64_t ctx = o->context ? o->context : engine_context(engine);
    int64_t step = ctx - 1, windows = count / (step > 0 ? step : 1);
    if (ctx < 2 || ctx > engine_context(engine) || windows < 1)
        return fail(err, ERR_USAGE, 1050,
                    "--ctx %" PRId64 " does not fit: the text has %" PRId64
                    " tokens, the context is %" PRId64,
                    ctx, count, engine_context(engine));
    windows = o->windows && o->windows < windows ? o->windows : windows;
    LogitsVisit visit = {.visit = nll_add, .user = n};
    int32_t *window = calloc((size_t)ctx, sizeof *window);
    bool done = window || fail(err, ERR_RESOURCE, 1051, "no memory for a window");
    for (int64_t at = 0; done && at < windows; at++) {
        window[0] = cli->executable.info.bos_id;
        memcpy(window + 1, ids + at * step, (size_t)step * sizeof *ids);
        n->ids = window;
        n->count = ctx;
        done = engine_start(engine, 0, &greedy, err) &&
               engine_prefill(engine, 0, window, ctx, &visit, err);
    }
    free(window);
    return done;
}

bool command_perplexity(Cli *cli, Error *err) {
    char *text = NULL;
    size_t size = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    Engine *engine = NULL;
    Nll n = {.vocab_size = cli->executable.info.vocab_size};
    if (cli->executable.info.bos_id < 0)
        return fail(err, ERR_UNSUPPORTED, 1052, "this model has no start token");
    CliOptions context = cli->options;
    cli->options.context = 0; // --ctx is the window here, not the size of the cache
    bool done = cli_text(&context, &text, &size, err) &&
                tokenizer_encode(cli->tokenizer, (Bytes){(unsigned char *)text, size}, 0, &ids,
                                 &count, err) &&
                cli_engine(cli, &engine, 0, err);
    cli->options.context = context.context;
    done = done && windows_run(cli, engine, ids, count, &n, err);
    if (done && cli->options.json)
        printf("{\"nll_sum\":%.9f,\"tokens\":%" PRId64 ",\"ppl\":%.9f}\n", n.sum, n.tokens,
               exp(n.sum / (double)n.tokens));
    else if (done)
        printf("perplexity %.4f over %" PRId64 " tokens\n", exp(n.sum / (double)n.tokens),
               n.tokens);
    engine_close(engine);
    free(text);
    free(ids);
    return done;
}

// ---- info, explain ------------------------------------------------------------------------------

static void info_json(const Executable *e) {
    const ModelInfo *m = &e->info;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"vocab_size", m->vocab_size},
        {"hidden_size", m->hidden_size},
        {"num_hidden_layers", m->num_hidden_layers},
        {"num_attention_heads", m->num_attention_heads},
        {"num_key_value_heads", m->num_key_value_heads},
        {"head_dim", m->head_dim},
        {"max_seq_len", m->max_seq_len},
        {"max_batch_size", m->max_batch_size},
        {"max_num_tokens", m->max_num_tokens},
        {"weights_bytes", m->weights_bytes},
        {"streamed_bytes_per_token", m->streamed_bytes},
        {"linear_params", m->linear_params},
        {"arena_bytes", m->arena_bytes},
        {"kv_bytes_per_token", m->kv_page_bytes / m->page_tokens},
        {"file_bytes", (int64_t)e->whole.size},
    };
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", m->name);
    cJSON_AddStringToObject(json, "architecture", m->architecture);
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        cJSON_AddNumberToObject(json, numbers[at].name, (double)numbers[at].value);
    cJSON *targets = cJSON_AddArrayToObject(json, "targets");
    for (int at = 0; at < e->target_count; at++)
        cJSON_AddItemToArray(targets, cJSON_CreateString(e->targets[at].name));
    cJSON_AddItemToObject(json, "memory", memory_table_json(e));
    char *text = cJSON_Print(json);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
}

bool command_info(Cli *cli, Error *err) {
    if (cli->options.measure)
        return memory_measure(cli, err);
    const Executable *e = &cli->executable;
    const ModelInfo *m = &e->info;
    if (cli->options.json) {
        info_json(e);
        return true;
    }
    printf("model        %s (%s)\n", m->name, m->architecture);
    printf("weights      %.2f MB, %.1f M parameters in linear layers\n",
           (double)m->weights_bytes * 1e-6, (double)m->linear_params * 1e-6);
    printf("context      %" PRId64 " tokens, %.1f KB of KV cache each\n", m->max_seq_len,
           (double)m->kv_page_bytes / (double)m->page_tokens * 1e-3);
    printf("batch        %" PRId64 " sequences, prefill in steps of %" PRId64 " tokens\n",
           m->max_batch_size, m->max_num_tokens);
    printf("activations  %.2f MB\n", (double)m->arena_bytes * 1e-6);
    printf("file         %.2f MB\n", (double)e->whole.size * 1e-6);
    fputs("runs on     ", stdout);
    for (int at = 0; at < e->target_count; at++)
        printf(" %s", e->targets[at].name);
    putchar('\n');
    memory_table_print(e);
    return true;
}

static bool segment_print(const Cli *cli, SegmentKind kind) {
    Bytes text = executable_segment(&cli->executable, kind);
    fwrite(text.data, 1, text.size, stdout);
    return true;
}

bool command_explain(Cli *cli, Error *err) {
    char choice[512];
    segment_print(cli, SEGMENT_EXPLAIN);
    TRY(engine_choice(&cli->executable, choice, sizeof choice, err));
    printf("\nOn this machine: %s\n", choice);
    return true;
}

bool command_licenses(Cli *cli, Error *err) {
    (void)err;
    return segment_print(cli, SEGMENT_LICENSE);
}

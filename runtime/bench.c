// `bench`: prefill and decode speed, each beside the limit that the same run measured.
//
// Decode is bound by reading the weights once a step: the limit is the time that a plain read of as
// many bytes takes. Prefill is bound by multiplications: on a CPU the limit is that of
// bench_peak.c. Tokens of the prompt are random; every sequence of a batch has the same ones.
// The tokenizer runs over text of random tokens, the first of the vocabulary the most frequent.
#include "bench_peak.h"
#include "cli.h"
#include "threads.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_PREFILL = 512,
    DEFAULT_DECODE = 128,
    TEXT_TOKENS = 1 << 18,
    BYTE_TOKENS = 259,
    OPENS = 100
};

typedef struct Prefill {
    double seconds, first_token_s;
    double flops;       // of the linear layers, without the head
    double limit_per_s; // 0: not measured
    const char *how;
} Prefill;

typedef struct Decode {
    int32_t batch;
    double step_s;
    double bytes, flops; // of one step: weights read, linear layers
    double read_s;       // the plain read
    const char *how;
} Decode;

typedef struct Text {
    double bytes, seconds; // of one encode call
    double tokens;
    double open_s;
} Text;

typedef struct Bench {
    Cli *cli;
    Engine *engine;
    int32_t *ids;    // [prompt]
    int32_t *slots;  // [max_batch_size]
    int32_t *tokens; // [max_batch_size]
    int64_t prompt, steps;
    int32_t batches[CLI_MAX_BATCHES];
    int batch_count;
} Bench;

// ---- measuring ----------------------------------------------------------------------------------

static bool prompt_run(Bench *b, int32_t slot, double *prefill_s, double *first_s, Error *err) {
    SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};
    Device *d = engine_device(b->engine);
    int32_t token;
    TRY(engine_start(b->engine, slot, &greedy, err));
    double start = clock_seconds();
    TRY(engine_prefill(b->engine, slot, b->ids, b->prompt, NULL, err));
    TRY(d->type->wait(d, err));
    *prefill_s = clock_seconds() - start;
    TRY(engine_sample(b->engine, slot, &token, err));
    *first_s = clock_seconds() - start;
    return true;
}

static bool prefill_measure(Bench *b, Prefill *out, Error *err) {
    const ModelInfo *m = &b->cli->executable.info;
    double head = (double)(m->vocab_size * m->hidden_size);
    *out = (Prefill){.flops = 2 * ((double)m->linear_params - head) * (double)b->prompt};
    TRY(prompt_run(b, 0, &out->seconds, &out->first_token_s, err)); // warm-up
    TRY(prompt_run(b, 0, &out->seconds, &out->first_token_s, err));
    if (engine_device(b->engine)->type != &device_cpu)
        return true;
    int64_t threads = b->cli->options.threads;
    return peak_measure(threads ? (int)threads : threads_available(), &out->limit_per_s, &out->how,
                        err);
}

static bool decode_measure(Bench *b, Decode *out, Error *err) {
    const ModelInfo *m = &b->cli->executable.info;
    Device *d = engine_device(b->engine);
    double ignored, first;
    for (int32_t slot = 0; slot < out->batch; slot++) {
        b->slots[slot] = slot;
        TRY(prompt_run(b, slot, &ignored, &first, err));
    }
    TRY(engine_decode(b->engine, b->slots, out->batch, b->tokens, err)); // records the graph
    double start = clock_seconds();
    for (int64_t step = 0; step < b->steps; step++)
        TRY(engine_decode(b->engine, b->slots, out->batch, b->tokens, err));
    out->step_s = (clock_seconds() - start) / (double)b->steps;
    for (int32_t slot = 0; slot < out->batch; slot++)
        engine_end(b->engine, slot);
    out->bytes = (double)m->streamed_bytes;
    out->flops = 2 * (double)m->linear_params * out->batch;
    return d->type->read_seconds(d, m->streamed_bytes, &out->read_s, &out->how, err);
}

// Token numbers such that each power of two has as many of them, roughly as in a language, behind
// the tokens of bytes, which vocabularies begin with.
static void text_ids(int32_t *ids, int64_t vocab_size) {
    uint32_t random = 1, first = vocab_size > 2 * BYTE_TOKENS ? BYTE_TOKENS : 0;
    int bits = 1;
    while (bits < 31 && 2ll << bits <= vocab_size - first)
        bits++;
    for (int64_t at = 0; at < TEXT_TOKENS; at++) {
        random = random * 1664525 + 1013904223;
        ids[at] = (int32_t)(first + (random >> 8) % (2u << (random >> 3) % (uint32_t)bits));
    }
}

static bool text_encode(const Tokenizer *t, const char *text, size_t size, Text *out, Error *err) {
    for (int run = 0; run < 2; run++) { // the first one is a warm-up
        int32_t *ids;
        int64_t count;
        double start = clock_seconds();
        TRY(tokenizer_encode(t, (Bytes){(const unsigned char *)text, size}, 0, &ids, &count, err));
        out->seconds = clock_seconds() - start;
        out->tokens = (double)count;
        free(ids);
    }
    out->bytes = (double)size;
    return true;
}

static bool text_measure(Bench *b, Text *out, Error *err) {
    const Executable *e = &b->cli->executable;
    int32_t *ids = malloc(TEXT_TOKENS * sizeof *ids);
    char *text = NULL;
    size_t size = 0;
    if (!ids)
        return fail(err, ERR_RESOURCE, 1098, "no memory for a text");
    text_ids(ids, e->info.vocab_size);
    bool done = tokenizer_decode(b->cli->tokenizer, ids, TEXT_TOKENS, TOKENIZER_SKIP_SPECIAL, &text,
                                 &size, err) &&
                text_encode(b->cli->tokenizer, text, size, out, err);
    double start = clock_seconds();
    for (int run = 0; run < OPENS && done; run++) {
        Tokenizer *t;
        done = tokenizer_open(&t, executable_segment(e, SEGMENT_TOKENIZER), err);
        if (done)
            tokenizer_close(t);
    }
    out->open_s = (clock_seconds() - start) / (double)OPENS;
    free(text);
    free(ids);
    return done;
}

// ---- printing -----------------------------------------------------------------------------------

static void prefill_print(const Bench *b, const Prefill *p) {
    double per_s = p->flops / p->seconds;
    printf("prefill %" PRId64 " tokens: %.1f tokens/s, first token after %.2f ms\n", b->prompt,
           (double)b->prompt / p->seconds, p->first_token_s * 1e3);
    printf("    %.3f GFLOP at %.1f GFLOP/s", p->flops * 1e-9, per_s * 1e-9);
    if (p->limit_per_s > 0)
        printf(" = %.1f %% of %.1f (%s)\n", 100 * per_s / p->limit_per_s, p->limit_per_s * 1e-9,
               p->how);
    else
        puts(" (this file holds no plain matrix product to compare with)");
}

static void decode_print(const Decode *d) {
    printf("decode batch %d: %.1f tokens/s, %.3f ms a step\n", d->batch, d->batch / d->step_s,
           d->step_s * 1e3);
    printf("    %.2f MB and %.3f GFLOP a step; %.2f GB/s = %.1f %% of %.2f (%s)\n", d->bytes * 1e-6,
           d->flops * 1e-9, d->bytes / d->step_s * 1e-9, 100 * d->read_s / d->step_s,
           d->bytes / d->read_s * 1e-9, d->how);
}

static void text_print(const Text *t) {
    printf("tokenizer: %.1f MB/s on one core (%.2f MB, %.0f tokens), opened in %.1f us\n",
           t->bytes / t->seconds * 1e-6, t->bytes * 1e-6, t->tokens, t->open_s * 1e6);
}

static cJSON *text_json(const Text *t) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "bytes", t->bytes);
    cJSON_AddNumberToObject(json, "tokens", t->tokens);
    cJSON_AddNumberToObject(json, "bytes_per_s", t->bytes / t->seconds);
    cJSON_AddNumberToObject(json, "open_us", t->open_s * 1e6);
    return json;
}

static cJSON *prefill_json(const Bench *b, const Prefill *p) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "tokens", (double)b->prompt);
    cJSON_AddNumberToObject(json, "tokens_per_s", (double)b->prompt / p->seconds);
    cJSON_AddNumberToObject(json, "first_token_ms", p->first_token_s * 1e3);
    cJSON_AddNumberToObject(json, "flops", p->flops);
    cJSON_AddNumberToObject(json, "flops_per_s", p->flops / p->seconds);
    if (p->limit_per_s > 0) {
        cJSON_AddNumberToObject(json, "limit_flops_per_s", p->limit_per_s);
        cJSON_AddNumberToObject(json, "ratio", p->flops / p->seconds / p->limit_per_s);
        cJSON_AddStringToObject(json, "limit", p->how);
    }
    return json;
}

static cJSON *decode_json(const Decode *d) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "batch", d->batch);
    cJSON_AddNumberToObject(json, "tokens_per_s", d->batch / d->step_s);
    cJSON_AddNumberToObject(json, "step_ms", d->step_s * 1e3);
    cJSON_AddNumberToObject(json, "bytes", d->bytes);
    cJSON_AddNumberToObject(json, "flops", d->flops);
    cJSON_AddNumberToObject(json, "bytes_per_s", d->bytes / d->step_s);
    cJSON_AddNumberToObject(json, "limit_bytes_per_s", d->bytes / d->read_s);
    cJSON_AddNumberToObject(json, "ratio", d->read_s / d->step_s);
    cJSON_AddStringToObject(json, "limit", d->how);
    return json;
}

// ---- loading the weights ------------------------------------------------------------------------

static void load_print(const LoadTimes *t, const LoadLimits *limits) {
    double bytes = (double)t->bytes;
    double slower = limits->read_s > limits->copy_s ? limits->read_s : limits->copy_s;
    printf("load %.2f MB: %.1f ms, %.2f GB/s, checks included = %.1f %% of the slower of\n",
           bytes * 1e-6, t->seconds * 1e3, bytes / t->seconds * 1e-9, 100 * slower / t->seconds);
    printf("    a plain read of the file by %d threads %.2f GB/s\n", t->threads,
           bytes / limits->read_s * 1e-9);
    if (limits->copy_s > 0)
        printf("    a plain copy of pinned memory      %.2f GB/s\n", bytes / limits->copy_s * 1e-9);
    printf("    of it reading and checking %.1f ms, waiting for copies %.1f ms\n", t->read_s * 1e3,
           t->wait_s * 1e3);
}

static cJSON *load_json(const LoadTimes *t, const LoadLimits *limits) {
    const double slower = limits->read_s > limits->copy_s ? limits->read_s : limits->copy_s;
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"bytes", (double)t->bytes},      {"seconds", t->seconds},
        {"read_check_s", t->read_s},      {"wait_s", t->wait_s},
        {"threads", t->threads},          {"plain_read_s", limits->read_s},
        {"plain_copy_s", limits->copy_s}, {"ratio", slower / t->seconds},
    };
    cJSON *json = cJSON_CreateObject();
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        cJSON_AddNumberToObject(json, numbers[at].name, numbers[at].value);
    return json;
}

static bool load_run(Bench *b, cJSON *json, Error *err) {
    Device *d = engine_device(b->engine);
    LoadLimits limits;
    if (!d->type->load_limits)
        return fail(err, ERR_USAGE, 1310, "--load: weights are mapped on a CPU, not loaded");
    TRY(d->type->load_limits(d, &limits, err));
    if (!b->cli->options.json)
        load_print(&d->load, &limits);
    cJSON_AddItemToObject(json, "load", load_json(&d->load, &limits));
    return true;
}

// ---- command ------------------------------------------------------------------------------------

static bool batches_parse(Bench *b, Error *err) {
    const char *list = b->cli->options.batches ? b->cli->options.batches : "1";
    int64_t most = b->cli->executable.info.max_batch_size;
    for (const char *at = list; *at || !b->batch_count;) {
        char *end;
        long batch = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || batch < 1 || batch > most ||
            b->batch_count == CLI_MAX_BATCHES)
            return fail(err, ERR_USAGE, 1054,
                        "-b wants up to %d sizes from 1 to %" PRId64
                        ", separated by commas, found \"%s\" (gptq-compile --max-batch-size)",
                        CLI_MAX_BATCHES, most, list);
        b->batches[b->batch_count++] = (int32_t)batch;
        at = *end ? end + 1 : end;
    }
    return true;
}

// Room in the KV cache for the largest batch, in whole pages.
static bool bench_open(Bench *b, Error *err) {
    const CliOptions *o = &b->cli->options;
    const ModelInfo *m = &b->cli->executable.info;
    int64_t context = o->context ? o->context : m->max_seq_len;
    b->prompt = o->prompt_tokens ? o->prompt_tokens : DEFAULT_PREFILL;
    b->steps = o->max_tokens > 0 ? o->max_tokens : DEFAULT_DECODE;
    int64_t tokens = b->prompt + b->steps + 1;
    if (tokens > context)
        return fail(err, ERR_USAGE, 1055,
                    "%" PRId64 " + %" PRId64 " tokens do not fit into the context of %" PRId64
                    "; choose a smaller -p or -n",
                    b->prompt, b->steps + 1, context);
    TRY(batches_parse(b, err));
    int64_t largest = 1;
    for (int at = 0; at < b->batch_count; at++)
        largest = b->batches[at] > largest ? b->batches[at] : largest;
    int64_t pages = ceil_div(tokens, m->page_tokens) * largest;
    return cli_engine(b->cli, &b->engine, pages * m->page_tokens, err);
}

static bool bench_allocate(Bench *b, Error *err) {
    const ModelInfo *m = &b->cli->executable.info;
    b->ids = calloc((size_t)b->prompt, sizeof *b->ids);
    b->slots = calloc((size_t)m->max_batch_size, sizeof *b->slots);
    b->tokens = calloc((size_t)m->max_batch_size, sizeof *b->tokens);
    if (!b->ids || !b->slots || !b->tokens)
        return fail(err, ERR_RESOURCE, 1056, "no memory for the prompt");
    uint32_t random = 1;
    for (int64_t at = 0; at < b->prompt; at++) {
        random = random * 1664525 + 1013904223;
        b->ids[at] = (int32_t)((random >> 8) % (uint64_t)m->vocab_size);
    }
    return true;
}

static bool bench_run(Bench *b, cJSON *json, Error *err) {
    Prefill prefill;
    Text text = {0};
    TRY(bench_open(b, err));
    TRY(bench_allocate(b, err));
    Device *d = engine_device(b->engine);
    cJSON_AddStringToObject(json, "device", d->description);
    cJSON_AddStringToObject(json, "target", d->target->name);
    if (b->cli->options.load)
        return load_run(b, json, err);
    TRY(prefill_measure(b, &prefill, err));
    cJSON_AddItemToObject(json, "prefill", prefill_json(b, &prefill));
    if (!b->cli->options.json) {
        printf("%s, %s\n", d->description, d->target->name);
        prefill_print(b, &prefill);
    }
    TRY(text_measure(b, &text, err));
    cJSON_AddItemToObject(json, "tokenizer", text_json(&text));
    cJSON *list = cJSON_AddArrayToObject(json, "decode");
    for (int at = 0; at < b->batch_count; at++) {
        Decode decode = {.batch = b->batches[at]};
        TRY(decode_measure(b, &decode, err));
        cJSON_AddItemToArray(list, decode_json(&decode));
        if (!b->cli->options.json)
            decode_print(&decode);
    }
    if (!b->cli->options.json)
        text_print(&text);
    return true;
}

bool command_bench(Cli *cli, Error *err) {
    Bench b = {.cli = cli};
    cJSON *json = cJSON_CreateObject();
    bool done = bench_run(&b, json, err);
    char *text = done && cli->options.json ? cJSON_Print(json) : NULL;
    if (text)
        puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
    engine_close(b.engine);
    free(b.ids);
    free(b.slots);
    free(b.tokens);
    return done;
}

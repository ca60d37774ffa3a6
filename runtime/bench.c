// `bench`: prefill and decode speed, each beside the limit that the same run measured.
//
// Decode is bound by reading the weights once a step: the limit is the time that a plain read of as
// many bytes takes. Prefill is bound by multiplications: on the CPU the limit is a loop of
// independent fp32 multiply-adds on the same threads.
#include "cli.h"
#include "threads.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PREFILL = 512, DEFAULT_DECODE = 128, FLOP_LANES = 64 };

typedef struct Bench {
    Cli *cli;
    Engine *engine;
    int32_t *ids; // random prompt
    int64_t prompt, tokens;
    bool first; // of the JSON list
} Bench;

// ---- the limit of prefill on a CPU --------------------------------------------------------------

typedef struct FlopCall {
    float sums[256];
    int64_t rounds;
} FlopCall;

__attribute__((target("avx2,fma"))) static void flops_run(void *user, int thread) {
    FlopCall *c = user;
    float x[FLOP_LANES];
    for (int lane = 0; lane < FLOP_LANES; lane++)
        x[lane] = (float)(lane + thread);
    for (int64_t round = 0; round < c->rounds; round++)
        for (int lane = 0; lane < FLOP_LANES; lane++)
            x[lane] = __builtin_fmaf(x[lane], 0.999f, 0.5f);
    float sum = 0;
    for (int lane = 0; lane < FLOP_LANES; lane++)
        sum += x[lane];
    c->sums[thread] = sum;
}

static bool cpu_flops(int threads, double *flops_per_s, Error *err) {
    Pool *pool;
    FlopCall call = {.rounds = 1 << 22};
    TRY(pool_open(&pool, threads, err));
    double best = 1e30;
    for (int attempt = 0; attempt < 3; attempt++) {
        double start = cli_seconds();
        pool_run(pool, flops_run, &call);
        double spent = cli_seconds() - start;
        best = spent < best ? spent : best;
    }
    volatile float sink = call.sums[0];
    (void)sink;
    *flops_per_s = 2.0 * (double)(FLOP_LANES * call.rounds) * threads / best;
    pool_close(pool);
    return true;
}

// ---- measuring ----------------------------------------------------------------------------------

static bool prefill_time(Bench *b, int32_t slot, double *seconds, double *first_token, Error *err) {
    SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};
    int32_t token;
    TRY(engine_start(b->engine, slot, &greedy, err));
    double start = cli_seconds();
    TRY(engine_prefill(b->engine, slot, b->ids, b->prompt, NULL, err));
    TRY(engine_device(b->engine)->type->wait(engine_device(b->engine), err));
    *seconds = cli_seconds() - start;
    TRY(engine_sample(b->engine, slot, &token, err));
    *first_token = cli_seconds() - start;
    return true;
}

static bool decode_time(Bench *b, int32_t batch, double *seconds, Error *err) {
    int32_t slots[256], tokens[256];
    double ignored, first;
    for (int32_t slot = 0; slot < batch; slot++) {
        slots[slot] = slot;
        TRY(prefill_time(b, slot, &ignored, &first, err));
    }
    TRY(engine_decode(b->engine, slots, batch, tokens, err)); // records the graph
    double start = cli_seconds();
    for (int64_t step = 0; step < b->tokens; step++)
        TRY(engine_decode(b->engine, slots, batch, tokens, err));
    *seconds = (cli_seconds() - start) / (double)b->tokens;
    for (int32_t slot = 0; slot < batch; slot++)
        engine_end(b->engine, slot);
    return true;
}

static bool prefill_report(Bench *b, Error *err) {
    const ModelInfo *m = &b->cli->executable.info;
    Device *d = engine_device(b->engine);
    double seconds, first, limit = 0;
    TRY(prefill_time(b, 0, &seconds, &first, err)); // warm-up
    TRY(prefill_time(b, 0, &seconds, &first, err));
    double head = (double)(m->vocab_size * m->hidden_size);
    double flops = 2.0 * ((double)m->linear_params - head) * (double)b->prompt;
    if (d->type == &device_cpu)
        TRY(cpu_flops(b->cli->options.threads ? (int)b->cli->options.threads : threads_available(),
                      &limit, err));
    if (b->cli->options.json) {
        printf("{\"device\":\"%s\",\"target\":\"%s\",\"prefill\":{\"tokens\":%" PRId64
               ",\"tokens_per_s\":%.2f,\"first_token_ms\":%.3f,\"flops\":%.6g,\"flops_per_s\":%.6g",
               d->description, d->target->name, b->prompt, (double)b->prompt / seconds, first * 1e3,
               flops, flops / seconds);
        if (limit > 0)
            printf(",\"limit_flops_per_s\":%.6g,\"ratio\":%.4f", limit, flops / seconds / limit);
        fputs("},\"decode\":[", stdout);
        return true;
    }
    printf("%s, %s\n", d->description, d->target->name);
    printf("prefill %5" PRId64 " tokens  %9.1f tokens/s  first token %8.2f ms  %.2f GFLOP, %.1f "
           "GFLOP/s",
           b->prompt, (double)b->prompt / seconds, first * 1e3, flops * 1e-9,
           flops / seconds * 1e-9);
    if (limit > 0)
        printf(" = %.0f %% of %.1f (fp32 multiply-adds of the same threads)\n",
               100 * flops / seconds / limit, limit * 1e-9);
    else
        puts(" (no dense product in this file to compare with)");
    return true;
}

static bool decode_report(Bench *b, int32_t batch, Error *err) {
    const ModelInfo *m = &b->cli->executable.info;
    Device *d = engine_device(b->engine);
    double seconds, read_s;
    const char *how;
    TRY(decode_time(b, batch, &seconds, err));
    TRY(d->type->read_seconds(d, m->streamed_bytes, &read_s, &how, err));
    double bytes = (double)m->streamed_bytes, flops = 2.0 * (double)m->linear_params * batch;
    if (b->cli->options.json) {
        printf(
            "%s{\"batch\":%d,\"tokens_per_s\":%.2f,\"step_ms\":%.4f,\"bytes\":%.0f,\"flops\":%.6g,"
            "\"bytes_per_s\":%.6g,\"limit_bytes_per_s\":%.6g,\"ratio\":%.4f}",
            b->first ? "" : ",", batch, batch / seconds, seconds * 1e3, bytes, flops,
            bytes / seconds, bytes / read_s, read_s / seconds);
        b->first = false;
        return true;
    }
    printf("decode  batch %-3d     %9.1f tokens/s  step %8.3f ms  %.2f MB, %.2f GB/s = %.0f %% of "
           "%.2f (%s)\n",
           batch, batch / seconds, seconds * 1e3, bytes * 1e-6, bytes / seconds * 1e-9,
           100 * read_s / seconds, bytes / read_s * 1e-9, how);
    return true;
}

// ---- command ------------------------------------------------------------------------------------

static bool batches_report(Bench *b, Error *err) {
    const char *list = b->cli->options.batches ? b->cli->options.batches : "1";
    for (const char *at = list; *at;) {
        char *end;
        long batch = strtol(at, &end, 10);
        if (end == at || batch < 1 || batch > b->cli->executable.info.max_batch_size || batch > 256)
            return fail(err, ERR_USAGE, 1060, "-b wants sizes from 1 to %" PRId64 ", found \"%s\"",
                        b->cli->executable.info.max_batch_size, list);
        TRY(decode_report(b, (int32_t)batch, err));
        at = *end == ',' ? end + 1 : end;
    }
    return true;
}

static bool bench_run(Bench *b, Error *err) {
    const CliOptions *o = &b->cli->options;
    b->prompt = o->prompt_tokens ? o->prompt_tokens : DEFAULT_PREFILL;
    b->tokens = o->max_tokens ? o->max_tokens : DEFAULT_DECODE;
    TRY(cli_engine(b->cli, &b->engine, err));
    int64_t context = engine_context(b->engine);
    if (b->prompt + b->tokens + 1 > context)
        return fail(err, ERR_USAGE, 1061,
                    "%" PRId64 " + %" PRId64 " tokens do not fit into the context of %" PRId64,
                    b->prompt, b->tokens + 1, context);
    b->ids = calloc((size_t)b->prompt, sizeof *b->ids);
    if (!b->ids)
        return fail(err, ERR_RESOURCE, 1062, "no memory for the prompt");
    uint32_t random = 1;
    for (int64_t at = 0; at < b->prompt; at++) {
        random = random * 1664525 + 1013904223;
        b->ids[at] = (int32_t)((random >> 8) % (uint64_t)b->cli->executable.info.vocab_size);
    }
    TRY(prefill_report(b, err));
    TRY(batches_report(b, err));
    if (o->json)
        puts("]}");
    return true;
}

bool command_bench(Cli *cli, Error *err) {
    Bench b = {.cli = cli, .first = true};
    bool done = bench_run(&b, err);
    engine_close(b.engine);
    free(b.ids);
    return done;
}

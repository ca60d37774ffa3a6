// Makes one answer. Tokens become text as they come: a terminal shows them at once.
#include "cli_answer.h"

#include <inttypes.h>
#include <stdlib.h>

static bool is_stop(const ModelInfo *m, int32_t id) {
    for (int at = 0; at < m->stop_count; at++)
        if (m->stop_ids[at] == id)
            return true;
    return false;
}

SampleParams sample_params(const Cli *cli) {
    const CliOptions *o = &cli->options;
    return (SampleParams){.temperature = (float)o->temperature,
                          .top_p = (float)o->top_p,
                          .min_p = (float)o->min_p,
                          .repetition_penalty = (float)o->repetition_penalty,
                          .top_k = (int32_t)o->top_k,
                          .seed_low = (uint32_t)o->seed,
                          .seed_high = (uint32_t)((uint64_t)o->seed >> 32),
                          .token_count = tokenizer_token_count(cli->tokenizer)};
}

// Takes one token; false in *more: the text is complete.
static bool token_take(Cli *cli, Answer *a, TokenizerStream *decoder, int32_t token, bool *more,
                       Error *err) {
    a->ids[a->count++] = token;
    bool interrupted = a->interrupted && *a->interrupted;
    if (interrupted || (!cli->options.ignore_eos && is_stop(&cli->executable.info, token))) {
        a->stopped = true;
        *more = false;
        return true;
    }
    Bytes text;
    TRY(tokenizer_stream_add(decoder, token, &text, err));
    TRY(text_add(&a->stream, text, err));
    *more =
        !a->stream.out || fflush(a->stream.out) == 0; // else the reader is gone, or the disk full
    return true;
}

static bool tokens_make(Cli *cli, Engine *engine, TokenizerStream *decoder, const int32_t *prompt,
                        int64_t count, int64_t limit, Answer *a, Error *err) {
    const int32_t slot = 0;
    int32_t token;
    bool more;
    TRY(engine_prefill(engine, slot, prompt, count, NULL, err));
    TRY(engine_sample(engine, slot, &token, err));
    a->first_s = cli_seconds();
    TRY(token_take(cli, a, decoder, token, &more, err));
    while (more && a->count < limit) {
        TRY(engine_decode(engine, &slot, 1, &token, err));
        TRY(token_take(cli, a, decoder, token, &more, err));
    }
    a->end_s = cli_seconds();
    Bytes rest; // what the decoder kept back
    TRY(tokenizer_stream_end(decoder, &rest, err));
    return text_add(&a->stream, rest, err) && text_end(&a->stream, err);
}

bool answer_make(Cli *cli, Engine *engine, const int32_t *prompt, int64_t count, int64_t limit,
                 Answer *a, Error *err) {
    TokenizerStream *decoder;
    a->ids = calloc((size_t)limit, sizeof *a->ids);
    if (!a->ids)
        return fail(err, ERR_RESOURCE, 1021, "no memory for %" PRId64 " tokens", limit);
    TRY(tokenizer_stream_open(&decoder, cli->tokenizer, TOKENIZER_SKIP_SPECIAL, err));
    a->start_s = cli_seconds();
    bool done = tokens_make(cli, engine, decoder, prompt, count, limit, a, err);
    tokenizer_stream_close(decoder);
    return done;
}

void answer_free(Answer *a) {
    free(a->ids);
    free(a->stream.text);
    *a = (Answer){.ids = NULL};
}

void answer_stats_print(char *out, size_t size, const Cli *cli, Engine *engine,
                        int64_t prompt_count, const Answer *a) {
    double prefill = a->first_s - a->start_s, decode = a->end_s - a->first_s;
    snprintf(out, size,
             "%s, %s (%s): first token %.1f ms after the start of the process; %" PRId64
             " prompt tokens in %.1f ms = %.1f tokens/s; %" PRId64
             " tokens written, %.1f tokens/s\n",
             engine_device(engine)->description, engine_device(engine)->target->name,
             engine_device(engine)->reason, (a->first_s - cli->start_s) * 1e3, prompt_count,
             prefill * 1e3, (double)prompt_count / prefill, a->count,
             decode > 0 ? (double)(a->count - 1) / decode : 0);
}

void answer_stats(const Cli *cli, Engine *engine, int64_t prompt_count, const Answer *a) {
    char line[512];
    answer_stats_print(line, sizeof line, cli, engine, prompt_count, a);
    fputs(line, stderr);
}

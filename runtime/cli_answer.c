// Makes one answer. Tokens become text as they come: a terminal shows them at once.
#include "cli_answer.h"

#include "answer_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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
static bool token_take(Cli *cli, Answer *a, AnswerText *text, int32_t token, bool *more,
                       Error *err) {
    a->ids[a->count++] = token;
    bool interrupted = a->interrupted && *a->interrupted;
    if (interrupted || (!cli->options.ignore_eos && is_stop(&cli->executable.info, token))) {
        a->stopped = true;
        *more = false;
        return true;
    }
    TRY(answer_text_add(text, token, true, err));
    TRY(text_add(&a->stream, answer_text_take(text), err));
    *more =
        !a->stream.out || fflush(a->stream.out) == 0; // else the reader is gone, or the disk full
    return true;
}

// The tokens that follow: one, or more if a draft was good.
static bool tokens_draw(Engine *engine, Answer *a, int64_t prompt_count, int64_t room,
                        const SampleParams *params, int32_t tokens[SPECULATE_MAX + 1],
                        int32_t *drawn, Error *err) {
    const int32_t slot = 0;
    int32_t drafts[SPECULATE_MAX], most = engine_drafts(params) ? engine_draft_rows(engine, 1) : 0;
    int32_t count = speculate_draft(&a->speculate, a->history, prompt_count + a->count,
                                    room - 1 < most ? room - 1 : most, drafts);
    TRY(!count || engine_draft(engine, slot, drafts, count, err));
    TRY(engine_decode_begin(engine, &slot, 1, err) && engine_finish(engine, err));
    *drawn = engine_drawn(engine, slot, tokens);
    if (count)
        speculate_learn(&a->speculate, count, *drawn - 1);
    return true;
}

static bool tokens_make(Cli *cli, Engine *engine, AnswerText *text, int64_t prompt_count,
                        int64_t limit, Answer *a, Error *err) {
    const int32_t slot = 0;
    const SampleParams params = sample_params(cli);
    int32_t tokens[SPECULATE_MAX + 1], drawn = 1;
    bool more;
    TRY(engine_prefill(engine, slot, a->history, prompt_count, NULL, err));
    TRY(engine_sample(engine, slot, tokens, err));
    a->first_s = clock_seconds();
    TRY(token_take(cli, a, text, tokens[0], &more, err));
    while (more && a->count < limit) {
        TRY(tokens_draw(engine, a, prompt_count, limit - a->count, &params, tokens, &drawn, err));
        for (int32_t at = 0; at < drawn && more; at++)
            TRY(token_take(cli, a, text, tokens[at], &more, err));
    }
    a->end_s = clock_seconds();
    TRY(answer_text_end(text, err)); // what was kept back
    return text_add(&a->stream, answer_text_take(text), err) && text_end(&a->stream, err);
}

bool answer_make(Cli *cli, Engine *engine, const int32_t *prompt, int64_t count, int64_t limit,
                 Answer *a, Error *err) {
    AnswerText text;
    int32_t most = (int32_t)cli->options.speculate;
    a->history = calloc((size_t)(count + limit), sizeof *a->history);
    if (!a->history)
        return fail(err, ERR_RESOURCE, 1021, "no memory for %" PRId64 " tokens", count + limit);
    memcpy(a->history, prompt, (size_t)count * sizeof *prompt);
    a->ids = a->history + count;
    a->speculate = (Speculate){.most = most, .length = most};
    a->start_s = clock_seconds();
    bool done = answer_text_open(&text, cli->tokenizer, NULL, 0, false, err) &&
                tokens_make(cli, engine, &text, count, limit, a, err);
    answer_text_close(&text);
    return done;
}

void answer_free(Answer *a) {
    free(a->history);
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
    if (a->speculate.most)
        fprintf(stderr, "speculation: %" PRId64 " of %" PRId64 " drafted tokens accepted\n",
                a->speculate.accepted, a->speculate.drafted);
    if (a->speculate.most > engine_draft_rows(engine, 1))
        fprintf(stderr,
                "speculation: at most %d tokens a draft: larger steps add in another order, and "
                "could give another answer\n",
                engine_draft_rows(engine, 1));
}

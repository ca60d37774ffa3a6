// One answer as it is made: prefill, sampling, decode, text.
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include <signal.h>

#include "cli.h"
#include "cli_text.h"
#include "speculate.h"

typedef struct Answer {
    int32_t *history; // the prompt, then ids; owner: answer_free
    int32_t *ids;     // [count], the stop token included
    int64_t count;
    Speculate speculate;
    bool stopped;      // by a stop token or an interruption
    TextStream stream; // set `out` and `keep` before
    double start_s, first_s, end_s;
    const volatile sig_atomic_t *interrupted; // NULL, or: stop when it is not 0
} Answer;

// Prefills `prompt` behind what slot 0 of the engine holds and writes at most `limit` tokens.
bool answer_make(Cli *cli, Engine *engine, const int32_t *prompt, int64_t count, int64_t limit,
                 Answer *a, Error *err);
void answer_free(Answer *a);
SampleParams sample_params(const Cli *cli);
// Times and device, as a line; on stderr.
void answer_stats_print(char *out, size_t size, const Cli *cli, Engine *engine,
                        int64_t prompt_count, const Answer *a);
void answer_stats(const Cli *cli, Engine *engine, int64_t prompt_count, const Answer *a);

#endif

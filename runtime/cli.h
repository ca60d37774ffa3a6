// The executable's command line: options as a table, commands as functions.
#ifndef CLI_H
#define CLI_H

#include <stdio.h>

#include "chat.h"
#include "engine.h"
#include "tokenizer.h"

#define RUNTIME_VERSION "0.1.0"

enum { CLI_MAX_BATCHES = 8 };

typedef struct CliOptions {
    const char *program;   // the last part of argv[0]
    const char *command;   // "run" when none is given
    const char *prompt;    // -p
    const char *file;      // -f, or the one plain word of `perplexity`, `batch`
    const char *ids;       // --ids 1,2,3
    const char *output;    // -o
    const char *device;    // "cpu", "cuda", "cuda:1"; NULL: pick
    const char *batches;   // -b 1,8
    const char *root;      // doctor --root
    const char *system;    // --system: the first message of a conversation
    int64_t max_tokens;    // -n; 0 or less: until it stops or the context is full
    int64_t prompt_tokens; // bench -p
    int64_t context;       // -c: tokens of one sequence; 0: as many as the model takes
    const char *host, *api_key, *api_key_file, *served_name, *tool_parser; // serve
    int64_t port, max_queue, connections, client_seconds, drain_seconds;   // serve
    int64_t windows, threads, top_k, seed;
    int64_t speculate; // tokens of a draft at most
    int64_t kv_tokens; // room of the KV cache over all sequences; 0: as the command wants it
    double temperature, top_p, min_p, repetition_penalty;
    bool raw, ignore_eos, stats, json, all, help, load, measure;
} CliOptions;

// What every command gets.
typedef struct Cli {
    CliOptions options;
    Executable executable;
    Tokenizer *tokenizer;
    Chat *chat;             // NULL: the model has no template
    struct cJSON *defaults; // SEGMENT_DEFAULTS; NULL: none
    double start_s;         // of the process
} Cli;

// Defaults of sampling come from the model; `defaults` is SEGMENT_DEFAULTS, whose arguments stand
// before argv and count only for commands that have them. ERR_USAGE names the word that is wrong.
bool cli_parse(CliOptions *o, const ModelInfo *model, const struct cJSON *defaults, int argc,
               char **argv, Error *err);
void cli_help(const char *program, const char *command, FILE *out);
bool cli_command_known(const char *word);

// Opens the engine on the device that the options name, with room for that many tokens and all weights
// checked; 0: what -c says, for one sequence, whose first token may come before the last check.
bool cli_engine(Cli *cli, Engine **out, int64_t kv_tokens, Error *err);
// "1,2,3" into ids the caller frees.
bool cli_ids(const char *text, int32_t **ids, int64_t *count, Error *err);
// Text of -p, -f or stdin; the caller frees data.
bool cli_text(const CliOptions *o, char **data, size_t *size, Error *err);

bool command_run(Cli *cli, Error *err);
bool command_batch(Cli *cli, Error *err);
bool command_chat(Cli *cli, Error *err);
bool command_serve(Cli *cli, Error *err);
bool command_template(Cli *cli, Error *err);
bool command_tokenize(Cli *cli, Error *err);
bool command_detokenize(Cli *cli, Error *err);
bool command_logits(Cli *cli, Error *err);
bool command_perplexity(Cli *cli, Error *err);
bool command_bench(Cli *cli, Error *err);
bool command_info(Cli *cli, Error *err);
bool command_explain(Cli *cli, Error *err);
bool command_licenses(Cli *cli, Error *err);
bool command_selftest(Cli *cli, Error *err);
bool command_doctor(Cli *cli, Error *err);
bool command_extract(Cli *cli, Error *err);

#endif

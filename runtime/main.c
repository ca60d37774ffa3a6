// The executable: opens its own payload and runs one command.
#include "cli.h"

#include <stdlib.h>
#include <string.h>

typedef struct Command {
    const char *name;
    bool (*run)(Cli *cli, Error *err);
} Command;

static bool command_version(Cli *cli, Error *err) {
    (void)cli, (void)err;
    puts("gptq-compile runtime " RUNTIME_VERSION);
    return true;
}

static const Command commands[] = {
    {"run", command_run},
    {"tokenize", command_tokenize},
    {"detokenize", command_detokenize},
    {"logits", command_logits},
    {"perplexity", command_perplexity},
    {"bench", command_bench},
    {"info", command_info},
    {"explain", command_explain},
    {"version", command_version},
};

static bool command_call(Cli *cli, Error *err) {
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        if (strcmp(commands[at].name, cli->options.command) == 0)
            return commands[at].run(cli, err);
    return fail(err, ERR_INTERNAL, 1030, "command %s has no function", cli->options.command);
}

static bool run(Cli *cli, int argc, char **argv, Error *err) {
    TRY(executable_open(&cli->executable, err));
    TRY(cli_parse(&cli->options, &cli->executable.info, argc, argv, err));
    if (cli->options.help) {
        bool named = argc > 1 && cli_command_known(argv[1]);
        cli_help(named ? argv[1] : NULL, stdout);
        return true;
    }
    TRY(tokenizer_open(&cli->tokenizer, executable_segment(&cli->executable, SEGMENT_TOKENIZER),
                       err));
    return command_call(cli, err);
}

int main(int argc, char **argv) {
    Error err = {0};
    Cli cli = {0};
    bool done = run(&cli, argc, argv, &err);
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
    tokenizer_close(cli.tokenizer);
    executable_close(&cli.executable);
    return done ? 0 : (int)err.code;
}

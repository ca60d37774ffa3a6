// The executable: opens its own payload and runs one command.
#include "cli.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

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
    {"batch", command_batch},
    {"chat", command_chat},
    {"serve", command_serve},
    {"template", command_template},
    {"tokenize", command_tokenize},
    {"detokenize", command_detokenize},
    {"logits", command_logits},
    {"perplexity", command_perplexity},
    {"bench", command_bench},
    {"info", command_info},
    {"explain", command_explain},
    {"licenses", command_licenses},
    {"selftest", command_selftest},
    {"doctor", command_doctor},
    {"extract", command_extract},
    {"version", command_version},
};

static bool command_call(Cli *cli, Error *err) {
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        if (strcmp(commands[at].name, cli->options.command) == 0)
            return commands[at].run(cli, err);
    return fail(err, ERR_INTERNAL, 1030, "command %s has no function", cli->options.command);
}

// A file that we open must not become standard output because the caller closed that.
static void standard_files(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
}

// A reader that has enough is no failure; a full disk is one.
static bool output_finish(Error *err) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    int code = errno;
    struct pollfd state = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (code == EPIPE || (poll(&state, 1, 0) == 1 && (state.revents & (POLLERR | POLLHUP))))
        return true;
    return fail(err, ERR_RESOURCE, 1031, "standard output: %s",
                code ? strerror(code) : "cannot write");
}

// The file's own system prompt, where the model has room for one.
static void system_default(Cli *cli) {
    const cJSON *system = cJSON_GetObjectItemCaseSensitive(cli->defaults, "system");
    if (!cli->options.system && cli->chat && !cli->options.raw && cJSON_IsString(system))
        cli->options.system = system->valuestring;
}

static bool run(Cli *cli, int argc, char **argv, Error *err) {
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return command_version(cli, err);
    TRY(executable_open(&cli->executable, err));
    Bytes defaults = executable_segment(&cli->executable, SEGMENT_DEFAULTS);
    cli->defaults = cJSON_ParseWithLength((const char *)defaults.data, defaults.size);
    TRY(cli_parse(&cli->options, &cli->executable.info, cli->defaults, argc, argv, err));
    if (cli->options.help) {
        bool named = argc > 1 && cli_command_known(argv[1]);
        cli_help(cli->options.program, named ? argv[1] : NULL, stdout);
        return true;
    }
    TRY(tokenizer_open(&cli->tokenizer, executable_segment(&cli->executable, SEGMENT_TOKENIZER),
                       err));
    tokenizer_set_stops(cli->tokenizer, cli->executable.info.stop_ids,
                        cli->executable.info.stop_count);
    TRY(chat_open(&cli->chat, &cli->executable, err));
    system_default(cli);
    return command_call(cli, err);
}

int main(int argc, char **argv) {
    Error err = {0};
    Cli cli = {.start_s = clock_seconds(), .executable = {.fd = -1}};
    standard_files();
    signal(SIGPIPE, SIG_IGN); // a failed write ends us
    bool done = run(&cli, argc, argv, &err) && output_finish(&err);
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
    cJSON_Delete(cli.defaults);
    chat_close(cli.chat);
    tokenizer_close(cli.tokenizer);
    executable_close(&cli.executable);
    return done ? 0 : (int)err.code;
}

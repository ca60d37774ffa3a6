// Options of the executable, with llama.cpp's spelling and the names of OpenAI and vLLM as
// synonyms.
#include "cli.h"
#include "speculate.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_WORDS = 64 };

typedef enum OptionKind { OPTION_FLAG, OPTION_TEXT, OPTION_INT, OPTION_REAL } OptionKind;

typedef struct OptionSpec {
    const char *names; // separated by spaces
    OptionKind kind;
    size_t offset; // in CliOptions
    double low, high;
    const char *commands; // of which it is an option, for help; "" = all
    const char *value, *help;
} OptionSpec;

#define AT(field) offsetof(CliOptions, field)

// clang-format off
static const OptionSpec specs[] = {
    {"-p --prompt", OPTION_TEXT, AT(prompt), 0, 0, "run template tokenize", "TEXT",
     "the prompt (else -f FILE or standard input)"},
    {"-p --prompt-tokens", OPTION_INT, AT(prompt_tokens), 1, 1e9, "bench", "N",
     "tokens to prefill (512)"},
    {"-f --file", OPTION_TEXT, AT(file), 0, 0, "run template tokenize perplexity", "FILE",
     "read the text from a file"},
    {"-n --max-tokens --n-predict", OPTION_INT, AT(max_tokens), -1, 1e9, "run chat bench", "N",
     "tokens to write at most (-1: until it stops; bench: 128)"},
    {"--temp --temperature", OPTION_REAL, AT(temperature), 0, 100, "run batch chat serve", "T",
     "0 = always the most likely token"},
    {"--top-k --top_k", OPTION_INT, AT(top_k), 0, 1e9, "run batch chat serve", "K",
     "only the K most likely tokens (0 = off)"},
    {"--top-p --top_p", OPTION_REAL, AT(top_p), 0, 1, "run batch chat serve", "P",
     "only the most likely tokens that reach P together"},
    {"--min-p --min_p", OPTION_REAL, AT(min_p), 0, 1, "run batch chat serve", "P",
     "only tokens of at least P times the best one"},
    {"--repeat-penalty --repetition-penalty", OPTION_REAL, AT(repetition_penalty), 1e-3, 100,
     "run batch chat serve", "R", "1 = off"},
    {"-s --seed", OPTION_INT, AT(seed), -1, 9e18, "run chat", "N",
     "same seed, same text (-1: a new one each time)"},
    {"--speculate", OPTION_INT, AT(speculate), 0, SPECULATE_MAX, "run chat serve", "N",
     "try N tokens at once where the text repeats itself; the answer is the same"},
    {"--raw", OPTION_FLAG, AT(raw), 0, 0, "run", NULL,
     "the prompt as it is, without the model's chat template"},
    {"--system", OPTION_TEXT, AT(system), 0, 0, "run batch chat serve", "TEXT",
     "what the model is told before the conversation"},
    {"--ignore-eos", OPTION_FLAG, AT(ignore_eos), 0, 0, "run", NULL, "write on after a stop token"},
    {"--stats", OPTION_FLAG, AT(stats), 0, 0, "run chat", NULL, "times and device on stderr"},
    {"--json", OPTION_FLAG, AT(json), 0, 0, "run template tokenize perplexity bench info selftest doctor", NULL,
     "one JSON object instead of text"},
    {"--ids", OPTION_TEXT, AT(ids), 0, 0, "detokenize logits", "1,2,3", "token ids"},
    {"--all", OPTION_FLAG, AT(all), 0, 0, "logits", NULL, "of all positions, not only the last"},
    {"-o --output", OPTION_TEXT, AT(output), 0, 0, "logits batch", "FILE",
     "logits: float32 little-endian [positions, vocab_size]; batch: one JSON line per answer"},
    {"--windows", OPTION_INT, AT(windows), 1, 1e9, "perplexity", "N", "windows at most (all)"},
    {"-b --batch", OPTION_TEXT, AT(batches), 0, 0, "bench", "1,8", "batch sizes of decode"},
    {"--load", OPTION_FLAG, AT(load), 0, 0, "bench", NULL,
     "only how fast the weights come onto the GPU, beside a plain read and a plain copy"},
    {"--measure", OPTION_FLAG, AT(measure), 0, 0, "info", NULL,
     "compare the memory that one sequence takes here (-c, --device) with the table"},
    {"-c --ctx-size --ctx --max-model-len", OPTION_INT, AT(context), 1, 1e9,
     "run batch chat serve bench logits perplexity info", "N", "tokens of a sequence at most; perplexity: of a window"},
    {"--device", OPTION_TEXT, AT(device), 0, 0, "run batch chat serve bench logits perplexity selftest info",
     "cpu|cuda:N", "where to run"},
    {"-t --threads", OPTION_INT, AT(threads), 1, 256, "run batch chat serve bench logits perplexity selftest", "N",
     "CPU threads (all cores)"},
    {"--kv-tokens", OPTION_INT, AT(kv_tokens), 1, 1e12, "serve", "N",
     "tokens that the KV cache holds for all sequences (a full batch, or what fits)"},
    {"--host", OPTION_TEXT, AT(host), 0, 0, "serve", "ADDRESS", "where to listen (127.0.0.1)"},
    {"--port", OPTION_INT, AT(port), 0, 65535, "serve", "N", "TCP port (8080; 0 = any free one)"},
    {"--api-key", OPTION_TEXT, AT(api_key), 0, 0, "serve", "KEY",
     "what clients must send as Authorization: Bearer KEY"},
    {"--api-key-file", OPTION_TEXT, AT(api_key_file), 0, 0, "serve", "FILE", "the same, from a file"},
    {"--served-model-name --alias", OPTION_TEXT, AT(served_name), 0, 0, "serve", "NAME,...",
     "the model's names for clients (this file's name)"},
    {"--tool-call-parser", OPTION_TEXT, AT(tool_parser), 0, 0, "serve", "FORMAT",
     "hermes, llama3, mistral or none (by the chat template)"},
    {"--max-queue", OPTION_INT, AT(max_queue), 1, 1e6, "serve", "N",
     "requests that may wait; more get status 429 (1024)"},
    {"--max-connections", OPTION_INT, AT(connections), 1, 1e6, "serve", "N",
     "open connections; more wait (16384)"},
    {"--client-timeout", OPTION_INT, AT(client_seconds), 1, 86400, "serve", "SECONDS",
     "for a client to send a request, or to take what is sent (30)"},
    {"--drain-timeout", OPTION_INT, AT(drain_seconds), 0, 86400, "serve", "SECONDS",
     "for requests in work, after SIGTERM (30)"},
    {"--root", OPTION_TEXT, AT(root), 0, 0, "doctor", "DIR", "look for /proc and /sys below DIR"},
    {"-o --output", OPTION_TEXT, AT(output), 0, 0, "extract", "DIR", "where the checkpoint goes"},
    {"-h --help", OPTION_FLAG, AT(help), 0, 0, "", NULL, "this text"},
};

static const struct {
    const char *name, *help;
} commands[] = {
    {"run", "answers a prompt, or writes on from it (the default)"},
    {"batch", "answers a file of OpenAI batch lines; goes on where it was ended"},
    {"chat", "a conversation, line by line"},
    {"serve", "an HTTP server with OpenAI's API"},
    {"template", "a conversation in JSON as the model sees it"},
    {"tokenize", "token ids of a text"},
    {"detokenize", "text of token ids"},
    {"logits", "logits of token ids, to a file"},
    {"perplexity", "of a text file"},
    {"bench", "speed, and its ratio to the limit measured in the same run"},
    {"info", "the model, its sizes, what this file runs on"},
    {"explain", "which kernel runs each layer, and why"},
    {"licenses", "of the model and of the program"},
    {"selftest", "does this machine compute this model right?"},
    {"extract", "the model as a GPTQ checkpoint again"},
    {"doctor", "is this machine fit for this file, and what mends it?"},
    {"version", "version of the runtime"},
};
// clang-format on

bool cli_command_known(const char *word) {
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        if (strcmp(commands[at].name, word) == 0)
            return true;
    return false;
}

// Is `word` one of the space-separated names?
static bool listed(const char *names, const char *word, size_t size) {
    for (const char *at = names; *at;) {
        size_t length = strcspn(at, " ");
        if (length == size && memcmp(at, word, size) == 0)
            return true;
        at += length + (at[length] == ' ');
    }
    return false;
}

static bool of_command(const OptionSpec *s, const char *command) {
    return !s->commands[0] || listed(s->commands, command, strlen(command));
}

static const OptionSpec *spec_find(const char *command, const char *word, size_t size) {
    for (size_t at = 0; at < sizeof specs / sizeof *specs; at++)
        if (of_command(&specs[at], command) && listed(specs[at].names, word, size))
            return &specs[at];
    return NULL;
}

// Different in two processes of the same second.
static int64_t seed_new(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec * 1000000000 + now.tv_nsec) & INT64_MAX;
}

static bool value_set(CliOptions *o, const OptionSpec *s, const char *word, const char *value,
                      Error *err) {
    unsigned char *field = (unsigned char *)o + s->offset;
    char *end;
    if (s->kind == OPTION_FLAG) {
        *(bool *)field = true;
        return true;
    }
    if (s->kind == OPTION_TEXT) {
        memcpy(field, &value, sizeof value);
        return true;
    }
    errno = 0;
    double number = strtod(value, &end);
    long long whole = s->kind == OPTION_INT ? strtoll(value, &end, 10) : 0;
    if (errno || end == value || *end || !(number >= s->low && number <= s->high))
        return fail(err, ERR_USAGE, 1001, "%s wants a number from %g to %g, found \"%s\"", word,
                    s->low, s->high, value);
    if (s->kind == OPTION_INT)
        memcpy(field, &(int64_t){whole}, sizeof(int64_t));
    else
        memcpy(field, &number, sizeof number);
    if (s->offset == AT(seed) && whole < 0)
        o->seed = seed_new();
    return true;
}

static bool option_parse(CliOptions *o, int argc, char **argv, int *at, Error *err) {
    const char *word = argv[*at];
    const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    size_t size = equals ? (size_t)(equals - word) : strlen(word);
    const OptionSpec *s = spec_find(o->command, word, size);
    if (!s)
        return fail(err, ERR_USAGE, 1002, "%s has no option %s; see %s --help", o->command, word,
                    o->command);
    if (s->kind == OPTION_FLAG && equals)
        return fail(err, ERR_USAGE, 1003, "%.*s takes no value", (int)size, word);
    if (s->kind == OPTION_FLAG)
        return value_set(o, s, word, NULL, err);
    if (equals)
        return value_set(o, s, word, equals + 1, err);
    if (*at + 1 >= argc)
        return fail(err, ERR_USAGE, 1004, "%s wants a value: %s", word, s->value);
    return value_set(o, s, word, argv[++*at], err);
}

// The arguments that `repack --args` put into the file. Those of other commands are passed over,
// with their values.
static bool defaults_parse(CliOptions *o, const cJSON *defaults, Error *err) {
    char *words[DEFAULT_WORDS];
    int count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(defaults, "arguments")) {
        if (cJSON_IsString(item) && count < DEFAULT_WORDS)
            words[count++] = item->valuestring;
    }
    for (int at = 0; at < count; at++) {
        const char *equals = strchr(words[at], '=');
        size_t size = equals ? (size_t)(equals - words[at]) : strlen(words[at]);
        if (spec_find(o->command, words[at], size))
            TRY(option_parse(o, count, words, &at, err));
        else
            while (at + 1 < count && words[at + 1][0] != '-')
                at++;
    }
    return true;
}

bool cli_parse(CliOptions *o, const ModelInfo *m, const cJSON *defaults, int argc, char **argv,
               Error *err) {
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    *o = (CliOptions){.program = slash ? slash + 1 : argc ? argv[0] : "",
                      .command = "run",
                      .temperature = m->default_sample ? (double)m->default_temperature : 0,
                      .top_k = m->default_sample ? m->default_top_k : 0,
                      .top_p = (double)m->default_top_p,
                      .min_p = (double)m->default_min_p,
                      .repetition_penalty = (double)m->default_repetition_penalty,
                      .seed = seed_new(),
                      .port = 8080,
                      .max_queue = 1024,
                      .connections = 16384,
                      .client_seconds = 30,
                      .drain_seconds = 30};
    int at = 1;
    if (argc > 1 && argv[1][0] != '-') {
        if (!cli_command_known(argv[1]))
            return fail(err, ERR_USAGE, 1005, "unknown command \"%s\"; see --help", argv[1]);
        o->command = argv[at++];
    }
    TRY(defaults_parse(o, defaults, err));
    for (; at < argc; at++) {
        bool file =
            !o->file && (strcmp(o->command, "perplexity") == 0 || strcmp(o->command, "batch") == 0);
        if (argv[at][0] == '-' && argv[at][1])
            TRY(option_parse(o, argc, argv, &at, err));
        else if (file)
            o->file = argv[at];
        else
            return fail(err, ERR_USAGE, 1006, "\"%s\" is one word too many; a prompt follows -p",
                        argv[at]);
    }
    return true;
}

void cli_help(const char *program, const char *command, FILE *out) {
    fprintf(out, "usage: %s %s [options]\n\n", program,
            command ? command : "[COMMAND]");
    for (size_t at = 0; !command && at < sizeof commands / sizeof *commands; at++)
        fprintf(out, "  %-12s %s\n", commands[at].name, commands[at].help);
    if (!command)
        fputs("\noptions of run:\n", out);
    for (size_t at = 0; at < sizeof specs / sizeof *specs; at++) {
        char left[80];
        if (!of_command(&specs[at], command ? command : "run"))
            continue;
        snprintf(left, sizeof left, "%s%s%s", specs[at].names, specs[at].value ? " " : "",
                 specs[at].value ? specs[at].value : "");
        fprintf(out, "  %-42s %s\n", left, specs[at].help);
    }
}

// Options as a table: names, kind, where the value goes, choices, help. The parser and --help are
// both loops over it.
#include "options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef enum OptionKind { OPTION_FLAG, OPTION_TEXT, OPTION_COUNT_OF, OPTION_CHOICE } OptionKind;

typedef struct OptionSpec {
    const char *name, *alias; // "--output", "-o"; NULL: none
    OptionKind kind;
    size_t offset;       // in Options
    const char *choices; // OPTION_CHOICE: "on|off"; the value is the index
    bool bare;           // OPTION_CHOICE: may stand without a value, which means choice 1
    const char *value, *help;
} OptionSpec;

#define AT(field) offsetof(Options, field)

// clang-format off
static const OptionSpec specs[] = {
    {.name = "--output", .alias = "-o", .kind = OPTION_TEXT, .offset = AT(output),
     .value = "OUT", .help = "the executable to write"},
    {.name = "--target", .alias = "-t", .kind = OPTION_TEXT, .offset = AT(target),
     .value = "LIST", .help = "cpu, sm_80, h200, native, all, ... separated by commas; see `targets`"},
    {.name = "--host", .kind = OPTION_TEXT, .offset = AT(host),
     .value = "TRIPLE", .help = "machine of the executable: x86_64-linux-gnu, aarch64-linux-gnu"},
    {.name = "--max-seq-len", .kind = OPTION_COUNT_OF, .offset = AT(max_seq_len),
     .value = "N", .help = "tokens of one sequence (the model's own limit)"},
    {.name = "--max-batch-size", .kind = OPTION_COUNT_OF, .offset = AT(max_batch_size),
     .value = "N", .help = "sequences decoded together (16)"},
    {.name = "--max-num-tokens", .kind = OPTION_COUNT_OF, .offset = AT(max_num_tokens),
     .value = "N", .help = "tokens of one prefill step (2048)"},
    {.name = "--batch-invariant", .kind = OPTION_FLAG, .offset = AT(batch_invariant),
     .help = "the same bits alone and in any batch, even where that is slower"},
    {.name = "--max-memory", .kind = OPTION_TEXT, .offset = AT(max_memory),
     .value = "8G", .help = "fail where a full batch of the longest sequences takes more"},
    {.name = "--dtype", .kind = OPTION_CHOICE, .offset = AT(dtype), .choices = "auto|fp16|bf16",
     .value = "auto|fp16|bf16", .help = "activations on a GPU, KV cache (auto: as trained)"},
    {.name = "--kv-cache-dtype", .kind = OPTION_CHOICE, .offset = AT(kv_cache_dtype),
     .choices = "auto|fp16", .value = "auto|fp16", .help = "keys and values"},
    {.name = "--jobs", .alias = "-j", .kind = OPTION_COUNT_OF, .offset = AT(jobs),
     .value = "N", .help = "threads of the compiler (one per core)"},
    {.name = "--chat-template", .kind = OPTION_TEXT, .offset = AT(chat_template),
     .value = "FILE|none", .help = "instead of the checkpoint's chat template"},
    {.name = "--name", .kind = OPTION_TEXT, .offset = AT(name),
     .value = "NAME", .help = "what the model is called (its model_type)"},
    {.name = "--license-file", .kind = OPTION_TEXT, .offset = AT(license),
     .value = "FILE", .help = "the model's licence, shown by `OUT licenses`"},
    {.name = "--self-test", .kind = OPTION_CHOICE, .offset = AT(self_test), .choices = "store|auto|off",
     .value = "store|auto|off", .help = "logits for `OUT selftest`; auto: also run it here"},
    {.name = "--weights", .kind = OPTION_CHOICE, .offset = AT(weights), .choices = "embedded|external",
     .value = "embedded|external", .help = "external: in files OUT.weights.00001, ... beside it"},
    {.name = "--split-size", .kind = OPTION_TEXT, .offset = AT(split_size),
     .value = "2G", .help = "of each of these files at most"},
    {.name = "--cache-dir", .kind = OPTION_TEXT, .offset = AT(cache_dir),
     .value = "DIR", .help = "where compiled kernels are kept (~/.cache/gptq-compile)"},
    {.name = "--cache", .kind = OPTION_CHOICE, .offset = AT(cache), .choices = "on|off|ro|redo",
     .value = "on|off|ro|redo", .help = "use, ignore, only read, or rewrite it"},
    {.name = "--dry-run", .alias = "-n", .kind = OPTION_FLAG, .offset = AT(dry_run),
     .help = "plan everything, compile and write nothing"},
    {.name = "--explain", .kind = OPTION_CHOICE, .offset = AT(explain), .choices = "no|text|json",
     .bare = true, .value = "text|json", .help = "which kernel runs each layer, and why"},
    {.name = "--tune", .kind = OPTION_CHOICE, .offset = AT(tune), .choices = "off|measure",
     .value = "off|measure", .help = "time the kernels of each layer on this machine's GPU"},
    {.name = "--tuning-file", .kind = OPTION_TEXT, .offset = AT(tuning_file),
     .value = "FILE", .help = "choices that were measured, here or elsewhere; --tune adds to it"},
    {.name = "--emit", .kind = OPTION_TEXT, .offset = AT(emit),
     .value = "plan|source|ptx|sass", .help = "print that stage to stdout instead of linking"},
    {.name = "--progress", .kind = OPTION_CHOICE, .offset = AT(progress),
     .choices = "auto|plain|json|none", .value = "auto|plain|json|none", .help = "on stderr"},
    {.name = "--verbose", .alias = "-v", .kind = OPTION_FLAG, .offset = AT(verbose),
     .help = "also print where time and bytes go"},
    {.name = "--quiet", .alias = "-q", .kind = OPTION_FLAG, .offset = AT(quiet),
     .help = "print errors only"},
    {.name = "--help", .alias = "-h", .kind = OPTION_FLAG, .offset = AT(help), .help = "this text"},
    {.name = "--version", .kind = OPTION_FLAG, .offset = AT(version), .help = "version and LLVM"},
};
// clang-format on

enum { SPEC_COUNT = sizeof specs / sizeof *specs };

static const OptionSpec *spec_find(const char *word, size_t size) {
    for (size_t at = 0; at < SPEC_COUNT; at++) {
        const OptionSpec *s = &specs[at];
        if ((strlen(s->name) == size && memcmp(s->name, word, size) == 0) ||
            (s->alias && strlen(s->alias) == size && memcmp(s->alias, word, size) == 0))
            return s;
    }
    return NULL;
}

// Index of `value` in "a|b|c"; -1: none.
static int choice_index(const char *choices, const char *value) {
    size_t size = strlen(value);
    int index = 0;
    for (const char *at = choices;; index++) {
        size_t len = strcspn(at, "|");
        if (len == size && memcmp(at, value, size) == 0)
            return index;
        if (!at[len])
            return -1;
        at += len + 1;
    }
}

static bool value_set(Options *o, const OptionSpec *s, const char *value, Error *err) {
    unsigned char *field = (unsigned char *)o + s->offset;
    char *end;
    switch (s->kind) {
    case OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case OPTION_TEXT:
        memcpy(field, &value, sizeof value);
        return true;
    case OPTION_COUNT_OF:
        errno = 0;
        long long count = strtoll(value, &end, 10);
        if (errno || *end || end == value || count < 1 || count > 1 << 30)
            return fail(err, ERR_USAGE, 610, "%s wants a number from 1 to 2^30, found \"%s\"",
                        s->name, value);
        *(int64_t *)(void *)field = count;
        return true;
    case OPTION_CHOICE:
        *(int *)(void *)field = choice_index(s->choices, value);
        if (*(int *)(void *)field < 0)
            return fail(err, ERR_USAGE, 611, "%s wants one of %s, found \"%s\"", s->name, s->value,
                        value);
        return true;
    }
    return true;
}

static bool word_parse(Options *o, char **argv, int argc, int *at, Error *err) {
    const char *word = argv[*at];
    if (word[0] != '-' || !word[1]) {
        if (o->model)
            return fail(err, ERR_USAGE, 612, "two models: \"%s\" and \"%s\"", o->model, word);
        o->model = word;
        return true;
    }
    const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    const OptionSpec *s = spec_find(word, equals ? (size_t)(equals - word) : strlen(word));
    bool attached = !s && word[1] != '-' && strlen(word) > 2; // -j4
    if (attached)
        s = spec_find(word, 2);
    if (!s || (attached && s->kind == OPTION_FLAG))
        return fail(err, ERR_USAGE, 613, "unknown option %s; see --help", word);
    if (s->kind == OPTION_FLAG || (s->bare && !equals)) {
        if (equals)
            return fail(err, ERR_USAGE, 614, "%s takes no value", s->name);
        return value_set(o, s, "text", err);
    }
    if (equals)
        return value_set(o, s, equals + 1, err);
    if (attached)
        return value_set(o, s, word + 2, err);
    if (*at + 1 >= argc)
        return fail(err, ERR_USAGE, 615, "%s wants a value: %s", s->name, s->value);
    return value_set(o, s, argv[++*at], err);
}

bool options_parse(Options *o, int argc, char **argv, Error *err) {
    *o = (Options){.host = target_this_host()};
    for (int at = 1; at < argc; at++)
        TRY(word_parse(o, argv, argc, &at, err));
    if (o->help || o->version)
        return true;
    if (!o->model)
        return fail(err, ERR_USAGE, 616, "no model: gptq-compile MODEL -o OUT; see --help");
    if (o->emit && choice_index("plan|source|ptx|sass", o->emit) < 0)
        return fail(err, ERR_USAGE, 617, "--emit wants plan, source, ptx or sass, found \"%s\"",
                    o->emit);
    if (!o->output && !o->dry_run && !o->explain && !o->emit)
        return fail(err, ERR_USAGE, 618, "no output: name the executable with -o");
    return true;
}

void options_help(FILE *out) {
    fputs("gptq-compile MODEL -o OUT [options]      a GPTQ checkpoint in, one executable out\n"
          "gptq-compile check MODEL                 what is in a checkpoint, and what looks wrong\n"
          "gptq-compile targets                     chips and CPUs that it can compile for\n"
          "gptq-compile cache ls|stat|prune|export|import\n"
          "gptq-compile inspect FILE                what is in an executable\n"
          "gptq-compile verify FILE                 is every byte what the compiler wrote?\n"
          "gptq-compile repack FILE [-o NEW]        other template or defaults, same weights\n\n",
          out);
    for (size_t at = 0; at < SPEC_COUNT; at++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s%s", specs[at].alias ? specs[at].alias : "",
                 specs[at].alias ? ", " : "", specs[at].name, specs[at].value ? " " : "",
                 specs[at].value ? specs[at].value : "");
        fprintf(out, "  %-36s %s\n", left, specs[at].help);
    }
    fputs(
        "\nExit codes: 0 done, 1 internal, 2 usage, 3 not supported, 4 input corrupt, 5 toolchain\n"
        "missing, 6 resource limit, 7 no usable device, 8 self-test mismatch.\n",
        out);
}

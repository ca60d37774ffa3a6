// A server whose model repeats what it is told: `serve_parrot EXECUTABLE [options of serve]`.
//
// Everything but the model's steps is the product's own (engine, scheduler, tokenizer and chat
// template of EXECUTABLE, HTTP), so tests know each answer, may ask for calls of tools, and run all
// of it under sanitizers. A chat is answered with its last message of a user, another prompt with
// itself from its start. As in fake_model.h, the steps see tokens only through the KV cache.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "runtime/serve.h"
#include "runtime/step.h"

enum { LOUD = 20 }; // the logit of the one token that comes next; all others have 0

// Of the one model of this program: steps get nothing but addresses. Written once, by main.
typedef struct Parrot {
    ModelInfo info;
    BatchLayout batch;
    int32_t header_end, turn_end; // ids of special tokens
    int32_t user;                 // the last id of the role
} Parrot;
static Parrot parrot;

static const int32_t *ints(const StepRun *run, int64_t offset) {
    return (const int32_t *)(const void *)(run->base[REGION_BATCH] + offset);
}

static int32_t *cached(const StepRun *run, int32_t slot, int64_t position) {
    const ModelInfo *m = &parrot.info;
    int32_t page = ints(
        run,
        parrot.batch.page_table)[slot * parrot.batch.pages_per_seq + position / m->page_tokens];
    return (int32_t *)(void *)(run->base[REGION_KV] + page * m->kv_page_bytes) +
           position % m->page_tokens;
}

// What comes after the tokens [0, count) of a slot.
static int32_t next_token(const StepRun *run, int32_t slot, int64_t count) {
    int64_t message = -1, answer = 0;
    for (int64_t at = 1; at < count; at++) {
        if (*cached(run, slot, at) != parrot.header_end)
            continue;
        bool user = *cached(run, slot, at - 1) == parrot.user;
        message = user ? at : message;
        answer = user ? answer : at;
    }
    if (message < 0) // no chat: the same again, which at its end goes on with what it has said
        return *cached(run, slot, count / 2);
    return *cached(run, slot, message + count - answer); // ends with turn_end, as the message does
}

static void hidden_step(const StepRun *run, int32_t thread) {
    const BatchLayout *b = &parrot.batch;
    int32_t *next = (int32_t *)(void *)run->base[REGION_ARENA];
    for (int32_t row = thread; row < run->tokens; row += run->threads)
        *cached(run, ints(run, b->slots)[row], ints(run, b->positions)[row]) =
            ints(run, b->token_ids)[row];
    cpu_barrier(run, thread);
    for (int32_t row = thread; row < run->tokens; row += run->threads)
        next[row] =
            next_token(run, ints(run, b->slots)[row], ints(run, b->positions)[row] + (int64_t)1);
    cpu_barrier(run, thread);
}

static void logits_step(const StepRun *run, int32_t thread, const int32_t *rows) {
    const int64_t vocab = parrot.info.vocab_size;
    const int32_t *next = (const int32_t *)(const void *)run->base[REGION_ARENA];
    float *logits = (float *)(void *)(run->base[REGION_ARENA] + parrot.info.logits_offset);
    for (int32_t at = thread; at < run->tokens; at += run->threads) {
        memset(logits + at * vocab, 0, (size_t)vocab * sizeof *logits);
        logits[at * vocab + next[rows ? rows[at] : at]] = LOUD;
    }
    cpu_barrier(run, thread);
}

static void head_step(const StepRun *run, int32_t thread) {
    logits_step(run, thread, ints(run, parrot.batch.head_rows));
}

static void decode_step(const StepRun *run, int32_t thread) {
    hidden_step(run, thread);
    logits_step(run, thread, NULL);
}

#define STEPS(target)                                                 \
    {target, PHASE_PREFILL, INT32_MAX, (void (*)(void))hidden_step},  \
        {target, PHASE_HEAD, INT32_MAX, (void (*)(void))head_step}, { \
        target, PHASE_DECODE, INT32_MAX, (void (*)(void))decode_step  \
    }

const StepEntry model_steps[] = {STEPS("cpu:x86-64-v3"), STEPS("cpu:x86-64-v4-vnni")};
const int32_t model_step_count = sizeof model_steps / sizeof *model_steps;
const ReadyWeights model_ready[1] = {{0}};
const int32_t model_ready_count = 0;

// ---- the program --------------------------------------------------------------------------------

// As executable_open, of another file.
static bool file_open(Executable *e, const char *path, TargetInfo *target, Error *err) {
    struct stat info;
    Payload payload;
    *e = (Executable){.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (e->fd < 0 || fstat(e->fd, &info) != 0)
        return fail(err, ERR_USAGE, 1, "cannot open %s", path);
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, e->fd, 0);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 1, "cannot map %s", path);
    e->whole = (Bytes){data, (size_t)info.st_size};
    TRY(payload_parse(e->whole, path, &payload, err));
    memcpy(e->segments, payload.segments, sizeof e->segments);
    memcpy(&e->info, executable_segment(e, SEGMENT_MODEL).data, sizeof e->info);
    ModelInfo *m = &e->info;
    m->logits_offset = (int64_t)round_up((uint64_t)m->max_num_tokens * 4, 256);
    m->arena_bytes = m->logits_offset + m->max_head_rows * m->vocab_size * 4;
    e->batch = batch_layout(m);
    *target = (TargetInfo){
        .name = "cpu:x86-64-v3", .device = DEVICE_CPU, .same_rows = (int32_t)m->max_batch_size};
    e->targets = target;
    e->target_count = 1;
    return true;
}

// The last id of a text.
static bool id_of(const Tokenizer *t, const char *text, int32_t *id, Error *err) {
    int32_t *ids;
    int64_t count;
    TRY(tokenizer_encode(t, (Bytes){(const unsigned char *)text, strlen(text)}, 0, &ids, &count,
                         err));
    *id = ids[count - 1];
    free(ids);
    return true;
}

static bool engine_make(Cli *cli, Engine **out, Error *err) {
    const DeviceOptions o = {.threads = (int)cli->options.threads, .context = cli->options.context};
    return engine_open(out, &cli->executable, &device_cpu, &o, err);
}

static bool run(Cli *cli, int argc, char **argv, Error *err) {
    static TargetInfo target;
    argv[1] = argv[0];
    char *words[64] = {argv[0], (char[]){"serve"}};
    int count = 2;
    for (int at = 2; at < argc && count < 64; at++)
        words[count++] = argv[at];
    TRY(file_open(&cli->executable, cli->executable.path, &target, err));
    TRY(cli_parse(&cli->options, &cli->executable.info, NULL, count, words, err));
    TRY(tokenizer_open(&cli->tokenizer, executable_segment(&cli->executable, SEGMENT_TOKENIZER),
                       err));
    TRY(chat_open(&cli->chat, &cli->executable, err));
    parrot.info = cli->executable.info;
    parrot.batch = cli->executable.batch;
    TRY(id_of(cli->tokenizer, "<|end_header_id|>", &parrot.header_end, err));
    TRY(id_of(cli->tokenizer, "<|eot_id|>", &parrot.turn_end, err));
    TRY(id_of(cli->tokenizer, "user", &parrot.user, err));
    return serve(cli, engine_make, err);
}

int main(int argc, char **argv) {
    Error err = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: %s EXECUTABLE [options of serve]\n", argv[0]);
        return 2;
    }
    Cli cli = {.start_s = clock_seconds(), .executable = {.path = argv[1], .fd = -1}};
    signal(SIGPIPE, SIG_IGN);
    bool done = run(&cli, argc, argv, &err);
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
    chat_close(cli.chat);
    tokenizer_close(cli.tokenizer);
    if (cli.executable.whole.data)
        munmap((void *)(uintptr_t)cli.executable.whole.data, cli.executable.whole.size);
    return done ? 0 : (int)err.code;
}

// gptq-compile: a GPTQ checkpoint in, one executable out. `compile` below is the pipeline; each
// stage stands in its own file, and compile.h is the map.
#include "artifact.h"
#include "chat_template.h"
#include "compile.h"
#include "external.h"
#include "memory_limit.h"
#include "metadata.h"
#include "options.h"
#include "selftest.h"
#include "source.h"
#include "tuning.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TARGETS = 32, DEFAULT_BATCH = 16, DEFAULT_NUM_TOKENS = 2048, PAGE_TOKENS = 64 };
enum { SELF_TEST_AUTO = 1, SELF_TEST_OFF = 2 }; // ORDER of --self-test

// What the stages hand on.
typedef struct Build {
    const Options *options;
    Arena *arena;
    Progress progress;
    int threads;
    Checkpoint checkpoint;
    Config config;
    Graph graph; // fused, weights laid out
    int64_t weights_bytes;
    const Target *targets[MAX_TARGETS];
    Plan plans[MAX_TARGETS];
    const Plan *plan_list[MAX_TARGETS];
    Cubin *cubins[MAX_TARGETS];
    int plan_count;
    Sizes sizes;
    Tuning tuning; // measured choices, with --tune or --tuning-file
    Cache *cache;
    Bytes object; // host code
    Contents contents;
} Build;

// ---- the stages ---------------------------------------------------------------------------------

static int64_t max_seq_len(const Build *b) {
    int64_t limit = b->config.max_position_embeddings;
    int64_t asked = b->options->max_seq_len;
    return !asked ? rope_short_limit(&b->config) : asked < limit ? asked : limit;
}

// Activations on a GPU: what the model was trained in, since bf16 has a range that fp16 lacks. The
// residual stream is fp32 in any case.
static ModelDType model_dtype(const Build *b) {
    static const ModelDType choices[] = {DTYPE_FP16, DTYPE_FP16, DTYPE_BF16}; // ORDER of --dtype
    if (b->options->dtype == 0 && b->config.dtype == DTYPE_BF16)
        return DTYPE_BF16;
    return choices[b->options->dtype];
}

static bool model_read(Build *b, Error *err) {
    progress_begin(&b->progress, "read");
    TRY(checkpoint_open(&b->checkpoint, b->options->model, b->arena, err));
    TRY(config_read(&b->config, b->options->model, b->arena, err));
    const Arch *arch = arch_find(b->config.architecture); // config_read refused others
    Graph unfused = graph_new(b->arena);
    unfused.dtype = model_dtype(b);
    TRY(arch_build(arch, &unfused, &b->config, &b->checkpoint, max_seq_len(b), b->arena, err));
    TRY(graph_verify(&unfused, err));
    TRY(graph_fuse(&b->graph, &unfused, b->arena, err));
    TRY(graph_verify(&b->graph, err));
    TRY(weights_layout(&b->graph, &b->weights_bytes, err));
    progress_fact(&b->progress, "tensors", b->checkpoint.count);
    progress_fact(&b->progress, "MB", (double)b->checkpoint.bytes * 1e-6);
    progress_end(&b->progress);
    return true;
}

static bool plan_one(Build *b, int at, Error *err) {
    TRY(plan_make(&b->plans[at], &b->graph, &b->config, b->targets[at], &b->sizes, b->arena, err));
    memory_plan(&b->plans[at]);
    return true;
}

// What was measured before.
static bool tuning_start(Build *b, Error *err) {
    const Options *o = b->options;
    bool found = true;
    if (!o->tune && !o->tuning_file)
        return true;
    tuning_open(&b->tuning, b->arena);
    b->sizes.tuning = &b->tuning;
    if (o->tuning_file)
        TRY(tuning_read(&b->tuning, o->tuning_file, &found, err));
    return found || o->tune ||
           fail(err, ERR_USAGE, 655,
                "--tuning-file %s: there is no such file; --tune measure writes one on a machine "
                "with "
                "a GPU",
                o->tuning_file);
}

// Measures what is not known, plans again with it, and keeps it.
static bool tuning_finish(Build *b, Error *err) {
    const Options *o = b->options;
    const Target *gpu = NULL;
    bool found = false;
    int at = 0, measured = 0;
    if (o->tune) {
        TRY(target_native(&gpu, &found, err));
        while (at < b->plan_count && (!found || b->targets[at] != gpu))
            at++;
        if (at == b->plan_count)
            return fail(
                err, ERR_DEVICE, 660,
                "--tune measure: the GPU of this machine is %s, which is none of the targets; "
                "measure on a machine with a GPU of the target, then give its --tuning-file",
                found ? gpu->name : "not there");
        TRY(cache_open(&b->cache, o->cache_dir, (CacheMode)o->cache, b->arena, err));
        TRY(tune_measure(&b->tuning, &b->plans[at], b->cache, b->threads, &b->progress, &measured,
                         err));
        TRY(plan_one(b, at, err));
        progress_fact(&b->progress, "measured", measured);
    }
    if (measured && o->tuning_file)
        TRY(tuning_write(&b->tuning, o->tuning_file, err));
    if (o->tuning_file && !o->quiet)
        tuning_note(&b->tuning, o->tuning_file, stderr);
    return true;
}

static bool plans_make(Build *b, Error *err) {
    progress_begin(&b->progress, "plan");
    const Options *o = b->options;
    const char *otherwise = strcmp(o->host, target_this_host()) == 0 ? "native" : "cpu";
    TargetQuery query = {.list = o->target ? o->target : otherwise,
                         .host = o->host,
                         .out = b->targets,
                         .max = MAX_TARGETS};
    TRY(targets_find(&query, err));
    b->plan_count = query.count;
    if (!o->target && !o->quiet)
        fprintf(stderr, "no --target: compiling for %s (%s)\n",
                otherwise[0] == 'n' ? "this machine" : "the CPU of that host", b->targets[0]->name);
    b->sizes = (Sizes){
        .max_seq_len = max_seq_len(b),
        .max_batch_size = o->max_batch_size ? o->max_batch_size : DEFAULT_BATCH,
        .max_num_tokens = o->max_num_tokens ? o->max_num_tokens : DEFAULT_NUM_TOKENS,
        .page_tokens = PAGE_TOKENS,
        .batch_invariant = o->batch_invariant,
    };
    b->sizes.max_head_rows = b->sizes.max_batch_size;
    TRY(tuning_start(b, err));
    for (int at = 0; at < b->plan_count; at++) {
        TRY(plan_one(b, at, err));
        b->plan_list[at] = &b->plans[at];
    }
    TRY(tuning_finish(b, err));
    if (o->max_memory) {
        int64_t limit;
        TRY(memory_parse(&limit, "--max-memory", o->max_memory, err));
        TRY(memory_limit_check(b->plan_list, b->plan_count, b->weights_bytes, limit, err));
    }
    if (o->weights)
        TRY(split_parse(&b->contents.split_bytes, o->split_size ? o->split_size : "2G", err));
    b->contents.name = b->options->name;
    b->contents.plans = b->plan_list;
    b->contents.plan_count = b->plan_count;
    progress_fact(&b->progress, "targets", b->plan_count);
    progress_end(&b->progress);
    return true;
}

static bool kernels_make(Build *b, Error *err) {
    progress_begin(&b->progress, "kernels");
    CubinStats stats = {0};
    for (int at = 0; at < b->plan_count; at++) {
        if (b->targets[at]->device != DEVICE_CUDA)
            continue;
        b->cubins[at] = ARENA_NEW(b->arena, Cubin, b->plans[at].kernel_count);
        TRY(cubins_make(b->cubins[at], &b->plans[at], b->cache, b->threads, &stats, b->arena, err));
    }
    if (stats.slow && !b->options->quiet)
        fprintf(stderr, "note: %d kernels: %s\n", stats.slow, stats.slow_note);
    b->contents.cubins = b->cubins;
    progress_fact(&b->progress, "nvrtc_calls", stats.compiled);
    progress_fact(&b->progress, "cached", stats.cached);
    progress_end(&b->progress);
    return true;
}

static bool host_make(Build *b, Error *err) {
    progress_begin(&b->progress, "host code");
    TRY(host_object_make(&b->object, b->plan_list, b->plan_count, b->options->host, b->cache,
                         b->arena, err));
    TRY(link_executable(&b->contents.elf, b->object, b->options->host, b->arena, err));
    progress_fact(&b->progress, "KB", (double)b->contents.elf.size * 1e-3);
    progress_end(&b->progress);
    return true;
}

static bool texts_make(Build *b, Error *err) {
    progress_begin(&b->progress, "tokenizer");
    TRY(tokenizer_compile(b->config.dir, b->config.vocab_size, b->arena,
                          &b->contents.segments[SEGMENT_TOKENIZER], err));
    TRY(chat_templates_make(b->contents.segments, b->config.dir, b->options->chat_template,
                            b->arena, err));
    TRY(source_make(&b->contents.segments[SEGMENT_SOURCE], &b->graph, &b->checkpoint, b->config.dir,
                    b->arena, err));
    TRY(metadata_make(&b->contents, &b->config, b->options->license, b->arena, err));
    progress_fact(&b->progress, "KB", (double)b->contents.segments[SEGMENT_TOKENIZER].size * 1e-3);
    progress_end(&b->progress);
    return true;
}

static bool selftest_store(Build *b, Error *err) {
    progress_begin(&b->progress, "self-test");
    if (b->options->self_test != SELF_TEST_OFF)
        TRY(selftest_make(&b->contents.segments[SEGMENT_SELFTEST], &b->graph, &b->config,
                          max_seq_len(b), b->threads, b->arena, err));
    progress_fact(&b->progress, "KB", (double)b->contents.segments[SEGMENT_SELFTEST].size * 1e-3);
    progress_end(&b->progress);
    return true;
}

static void pack_progress(void *user, int64_t done, int64_t total) {
    progress_at(user, done >> 20, total >> 20, "MiB");
}

// Packs into `out` at that offset; with --weights external into files beside it.
static bool weights_write(Build *b, Output *out, int64_t at, uint64_t *checks, PackStats *stats,
                          Error *err) {
    Output scratch;
    if (!b->contents.split_bytes)
        return output_reserve(out, at + b->weights_bytes, err) &&
               weights_pack(&b->graph, out->fd, at, b->weights_bytes, b->threads, pack_progress,
                            &b->progress, checks, stats, err);
    TRY(output_open(&scratch, out->path, err));
    bool done = output_reserve(&scratch, b->weights_bytes, err) &&
                weights_pack(&b->graph, scratch.fd, 0, b->weights_bytes, b->threads, pack_progress,
                             &b->progress, checks, stats, err) &&
                parts_write(scratch.fd, out->path, b->weights_bytes, b->contents.split_bytes, err);
    output_discard(&scratch);
    return done;
}

static bool output_make(Build *b, Output *out, Error *err) {
    progress_begin(&b->progress, "weights");
    int64_t at = payload_weights_offset(b->contents.elf.size);
    size_t pages = (size_t)ceil_div(b->weights_bytes, PAYLOAD_PAGE_BYTES);
    uint64_t *checks = ARENA_NEW(b->arena, uint64_t, pages);
    PackStats stats = {0};
    TRY(weights_write(b, out, at, checks, &stats, err));
    TRY(payload_write(out, &b->contents, b->weights_bytes, checks, b->arena, err));
    TRY(output_commit(out, err));
    progress_fact(&b->progress, "MB", (double)out->size * 1e-6);
    progress_fact(&b->progress, "MB/s", (double)stats.bytes * 1e-6 / stats.seconds);
    progress_fact(&b->progress, "MB/s_per_core", (double)stats.bytes * 1e-6 / stats.cpu_seconds);
    progress_end(&b->progress);
    return true;
}

// ---- printing instead of building ---------------------------------------------------------------

static bool emit_stage(Build *b, Error *err) {
    const char *stage = b->options->emit;
    for (int at = 0; at < b->plan_count; at++) {
        const Plan *p = b->plan_list[at];
        if (strcmp(stage, "plan") == 0) {
            plan_print(p, stdout);
            continue;
        }
        if (p->target->device != DEVICE_CUDA)
            continue;
        for (int kernel = 0; kernel < p->kernel_count; kernel++)
            TRY(kernel_emit(p->kernels[kernel], p->target, stage, stdout, b->arena, err));
    }
    return true;
}

static bool printed_instead(Build *b, bool *stop, Error *err) {
    const Options *o = b->options;
    if (o->explain == 2)
        plan_explain_json(b->plan_list, b->plan_count, stdout);
    else if (o->explain)
        plan_explain(b->plan_list, b->plan_count, stdout);
    if (o->emit)
        TRY(emit_stage(b, err));
    *stop = o->dry_run || o->emit || !o->output;
    return true;
}

// ---- the pipeline -------------------------------------------------------------------------------

// --self-test auto: where a device of the file is present.
static bool selftest_after(const Options *o, Error *err) {
    bool ran;
    if (o->self_test != SELF_TEST_AUTO)
        return true;
    TRY(selftest_execute(o->output, &ran, err));
    if (!ran && !o->quiet)
        fprintf(stderr, "self-test: no device of this file is here; run `%s selftest` on one\n",
                o->output);
    return true;
}

static bool compile(Build *b, Output *out, Error *err) {
    const Options *o = b->options;
    bool stop;
    if (o->output && !o->dry_run && !o->emit)
        TRY(output_open(out, o->output, err)); // first: a wrong path should not cost a compile
    TRY(model_read(b, err));
    TRY(plans_make(b, err));
    TRY(printed_instead(b, &stop, err));
    if (stop)
        return true;
    if (!b->cache)
        TRY(cache_open(&b->cache, o->cache_dir, (CacheMode)o->cache, b->arena, err));
    TRY(kernels_make(b, err));
    TRY(host_make(b, err));
    if (o->explain == 1)
        targets_explain(&b->contents, stdout);
    TRY(texts_make(b, err));
    TRY(selftest_store(b, err));
    return output_make(b, out, err) && selftest_after(o, err);
}

// ---- main ---------------------------------------------------------------------------------------

static int targets_command(int argc, char **argv) {
    (void)argv;
    if (argc > 2) {
        fputs("usage: gptq-compile targets\n", stderr);
        return ERR_USAGE;
    }
    targets_print(stdout);
    return 0;
}

typedef struct Command {
    const char *name;
    int (*run)(int argc, char **argv);
} Command;

static const Command commands[] = {
    {"check", check_command},   {"cache", cache_command},     {"inspect", inspect_command},
    {"repack", repack_command}, {"targets", targets_command}, {"verify", verify_command},
};

static int compile_command(int argc, char **argv) {
    Error err = {0};
    Options options;
    Arena arena = {0};
    Output out = {.fd = -1};
    bool done = options_parse(&options, argc, argv, &err);
    if (done && (options.help || options.version)) {
        if (options.version)
            puts("gptq-compile " GPTQ_COMPILE_VERSION);
        else
            options_help(stdout);
        return 0;
    }
    if (done) {
        Build *build = ARENA_NEW(&arena, Build, 1);
        *build = (Build){
            .options = &options,
            .arena = &arena,
            .progress = {.mode = options.quiet ? PROGRESS_NONE : (ProgressMode)options.progress,
                         .phases = 7},
            .threads = options.jobs ? (int)options.jobs : (int)sysconf(_SC_NPROCESSORS_ONLN),
        };
        done = compile(build, &out, &err);
    }
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
    output_discard(&out);
    arena_free(&arena);
    return done ? 0 : (int)err.code;
}

int main(int argc, char **argv) {
    for (size_t at = 0; argc > 1 && at < sizeof commands / sizeof *commands; at++)
        if (strcmp(argv[1], commands[at].name) == 0)
            return commands[at].run(argc, argv);
    return compile_command(argc, argv);
}

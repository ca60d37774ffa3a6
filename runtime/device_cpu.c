// The CPU back end: weights straight from the file's mapping, step functions run by all threads of
// a pool. The best level that this processor has is picked at start.
#include "cpu.h"
#include "device.h"
#include "page_checks.h"
#include "sampler.h"
#include "threads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct CpuDevice {
    Device device;
    const Executable *e;
    StepRun run;
    Pool *pool;
    Candidate *candidates; // [vocab_size], for the sampler
    float *scores;         // the same
    size_t kv_bytes;
    PageChecks *checks; // of the weights
} CpuDevice;

// ---- levels -------------------------------------------------------------------------------------

static const TargetInfo *level_pick(const Executable *e) {
    for (int level = 0; level < cpu_level_count; level++)
        for (int at = 0; at < e->target_count; at++)
            if (strcmp(e->targets[at].name, cpu_levels[level].target) == 0 &&
                cpu_levels[level].present())
                return &e->targets[at];
    return NULL;
}

const char *cpu_target_name(const Executable *e) {
    const TargetInfo *t = level_pick(e);
    return t ? t->name : NULL;
}

const StepEntry *step_find(const char *target, StepPhase phase, int32_t rows) {
    for (int32_t at = 0; at < model_step_count; at++) {
        const StepEntry *s = &model_steps[at];
        if (strcmp(s->target, target) == 0 && s->phase == (int32_t)phase && rows <= s->max_tokens)
            return s;
    }
    return NULL;
}

// ---- memory -------------------------------------------------------------------------------------

static bool reserve(unsigned char **out, size_t bytes, const char *what, Error *err) {
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 830, "no memory for %s (%zu MB): %s", what, bytes >> 20,
                    strerror(errno));
    madvise(data, bytes, MADV_HUGEPAGE);
    *out = data;
    return true;
}

// Of this process, in pages; -1: not known.
static int64_t process_pages(void) {
    long pages = -1;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return -1;
    if (fscanf(file, "%ld", &pages) != 1)
        pages = -1;
    fclose(file);
    return pages;
}

static bool regions_reserve(CpuDevice *d, Error *err) {
    int64_t before = process_pages(), page = (int64_t)sysconf(_SC_PAGESIZE);
    size_t arena = (size_t)d->e->info.arena_bytes;
    TRY(reserve(&d->run.base[REGION_ARENA], arena, "activations", err));
    TRY(reserve(&d->run.base[REGION_KV], d->kv_bytes, "the KV cache", err));
    int64_t after = process_pages();
    d->device.memory = (DeviceMemory){
        .taken = before < 0 ? -1 : (after - before) * page, .page = page, .pieces = 2};
    return true;
}

// At most half of this machine's memory.
static int64_t kv_fit(const ModelInfo *m) {
    int64_t ram = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    return ram / 2 / m->kv_page_bytes;
}

bool device_kv_pages(int64_t *pages, const ModelInfo *m, const DeviceOptions *o, int64_t fit,
                     Error *err) {
    int64_t most = m->max_batch_size * ceil_div(m->max_seq_len, m->page_tokens);
    int64_t wanted = o->kv_tokens ? ceil_div(o->kv_tokens, m->page_tokens) : most;
    wanted = wanted < most ? wanted : most;
    if (fit - 1 < (o->kv_required ? wanted : 1))
        return fail(err, ERR_RESOURCE, 835,
                    "the KV cache of %lld tokens takes %.2f GB, there is room for %.2f GB; a "
                    "smaller -c takes less",
                    (long long)(wanted * m->page_tokens),
                    (double)(wanted + 1) * (double)m->kv_page_bytes * 1e-9,
                    (double)(fit > 0 ? fit : 0) * (double)m->kv_page_bytes * 1e-9);
    *pages = 1 + (wanted < fit - 1 ? wanted : fit - 1);
    return true;
}

// Pages of 2 MiB where the system's cache of the file has them, and gets them from now on: one entry
// of the page table, and one fault, instead of 512.
static void weights_advise(const Executable *e) {
    Bytes weights = executable_segment(e, SEGMENT_WEIGHTS);
    madvise((void *)(uintptr_t)weights.data, weights.size, MADV_HUGEPAGE);
}

// Before the first step, by the threads that run it, what its kernels do not ask for.
static bool weights_open(CpuDevice *d, bool check_first, Error *err) {
    weights_advise(d->e);
    TRY(page_checks_open(&d->checks, d->e, d->device.target->name, err));
    page_checks_run(d->checks, d->pool, check_first);
    page_checks_offer(d->checks, &d->run);
    return page_checks_good(d->checks, err);
}

// ---- open and close -----------------------------------------------------------------------------

static void processor_name(char *out, size_t size, int threads) {
    char line[256], name[96] = "CPU";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(name, sizeof name, "%.90s", colon + 2);
        break;
    }
    if (file)
        fclose(file);
    snprintf(out, size, "%s, %d thread%s", name, threads, threads == 1 ? "" : "s");
}

static void cpu_close(Device *device) {
    CpuDevice *d = (CpuDevice *)(void *)device;
    pool_close(d->pool);
    if (d->run.base[REGION_ARENA])
        munmap(d->run.base[REGION_ARENA], (size_t)d->e->info.arena_bytes);
    if (d->run.base[REGION_KV])
        munmap(d->run.base[REGION_KV], d->kv_bytes);
    free(d->candidates);
    free(d->scores);
    page_checks_close(d->checks);
    free(d);
}

static bool target_find(Device *d, const Executable *e, Error *err) {
    d->target = level_pick(e);
    snprintf(d->reason, sizeof d->reason, "the best of its levels that this processor has");
    if (!d->target)
        return fail(err, ERR_DEVICE, 831,
                    "this file holds no code for this CPU; it needs at least %s, or "
                    "compile with --target cpu",
                    cpu_least);
    return true;
}

static bool cpu_choice(const Executable *e, const DeviceOptions *o, char *text, size_t size,
                       Error *err) {
    Device d = {.type = &device_cpu};
    TRY(target_find(&d, e, err));
    int threads = o->threads ? o->threads : threads_available();
    processor_name(d.description, sizeof d.description, threads);
    snprintf(text, size, "%s: %s, %s", d.description, d.target->name, d.reason);
    return true;
}

static bool cpu_start(CpuDevice *d, unsigned char *batch, const DeviceOptions *o, Error *err) {
    const Executable *e = d->e;
    TRY(target_find(&d->device, e, err));
    int threads = o->threads ? o->threads : threads_available();
    TRY(pool_open(&d->pool, threads, err));
    TRY(device_kv_pages(&d->device.kv_pages, &e->info, o, kv_fit(&e->info), err));
    d->kv_bytes = (size_t)d->device.kv_pages * (size_t)e->info.kv_page_bytes;
    TRY(regions_reserve(d, err));
    d->candidates = calloc((size_t)e->info.vocab_size, sizeof *d->candidates);
    d->scores = calloc((size_t)e->info.vocab_size, sizeof *d->scores);
    if (!d->candidates || !d->scores)
        return fail(err, ERR_RESOURCE, 832, "no memory for the sampler");
    d->run.base[REGION_WEIGHTS] =
        (unsigned char *)(uintptr_t)executable_segment(e, SEGMENT_WEIGHTS).data;
    d->run.base[REGION_BATCH] = batch;
    d->run.threads = pool_threads(d->pool);
    d->run.device = d->pool;
    processor_name(d->device.description, sizeof d->device.description, d->run.threads);
    return weights_open(d, o->check_first, err);
}

static bool cpu_open(Device **out, const Executable *e, unsigned char *batch,
                     const DeviceOptions *o, Error *err) {
    CpuDevice *d = calloc(1, sizeof *d);
    if (!d)
        return fail(err, ERR_RESOURCE, 833, "no memory for the CPU back end");
    d->device.type = &device_cpu;
    d->e = e;
    if (!cpu_start(d, batch, o, err)) {
        cpu_close(&d->device);
        return false;
    }
    *out = &d->device;
    return true;
}

// ---- steps --------------------------------------------------------------------------------------

typedef struct Call {
    const StepRun *run;
    CpuStep *step;
} Call;

static void call_step(void *user, int thread) {
    const Call *c = user;
    c->step(c->run, thread);
}

static int32_t *batch_ints(const CpuDevice *d, int64_t offset) {
    return (int32_t *)(void *)(d->run.base[REGION_BATCH] + offset);
}

static void *batch_at(const CpuDevice *d, int64_t offset) {
    return d->run.base[REGION_BATCH] + offset;
}

static SampleRow sample_row(CpuDevice *d, int32_t row, int32_t slot) {
    const ModelInfo *m = &d->e->info;
    const BatchLayout *b = &d->e->batch;
    int64_t bits = slot * b->seen_words * 4;
    const void *logits = d->run.base[REGION_ARENA] + m->logits_offset + row * m->vocab_size * 4;
    return (SampleRow){.logits = logits,
                       .vocab = m->vocab_size,
                       .params = (SampleParams *)batch_at(d, b->sample) + slot,
                       .seen = batch_at(d, b->seen + bits),
                       .mask = batch_at(d, b->mask + bits),
                       .biased = batch_at(d, b->biased + bits),
                       .bias = (LogitBias *)batch_at(d, b->bias) + slot * SAMPLE_MAX_BIAS,
                       .counts = (uint16_t *)batch_at(d, b->counts) + slot * m->vocab_size,
                       .scores = d->scores,
                       .candidates = d->candidates,
                       .result = (SampleResult *)batch_at(d, b->results) + slot};
}

// A row of drafts: nothing is kept of it.
static void draft_sample(CpuDevice *d, int32_t row, SampleRow r) {
    SampleParams params = *r.params;
    params.step += row + 1 - params.first_row;
    r.params = &params;
    batch_ints(d, d->e->batch.drawn)[row] = sample_token(&r);
}

// PHASE_SAMPLE in C, on one thread. Positions are read before they are written: row 0 may be the
// row that a head row names.
static void sample_rows(CpuDevice *d, int32_t rows) {
    const BatchLayout *b = &d->e->batch;
    for (int32_t row = 0; row < rows; row++) {
        int32_t slot = batch_ints(d, b->head_slots)[row];
        if (slot < 0)
            continue;
        SampleRow r = sample_row(d, row, slot);
        SampleParams *params = (SampleParams *)batch_at(d, b->sample) + slot;
        if (params->first_row > 0) {
            draft_sample(d, row, r);
            continue;
        }
        uint32_t *seen = (uint32_t *)batch_at(d, b->seen) + slot * b->seen_words;
        uint16_t *counts = (uint16_t *)batch_at(d, b->counts) + slot * r.vocab;
        int32_t token = sample_token(&r);
        int32_t position = batch_ints(d, b->positions)[batch_ints(d, b->head_rows)[row]];
        seen[token / 32] |= 1u << (token % 32);
        if (sample_counts(params) && counts[token] < UINT16_MAX)
            counts[token]++;
        params->step++;
        batch_ints(d, b->sampled)[slot] = token;
        batch_ints(d, b->token_ids)[row] = token;
        batch_ints(d, b->positions)[row] = position + 1;
    }
}

static bool cpu_run(Device *device, StepPhase phase, int32_t rows, Error *err) {
    CpuDevice *d = (CpuDevice *)(void *)device;
    if (phase == PHASE_SAMPLE) {
        sample_rows(d, rows);
        return true;
    }
    const StepEntry *entry = step_find(device->target->name, phase, rows);
    if (!entry)
        return fail(err, ERR_INTERNAL, 834, "no step function of %s for phase %d and %d rows",
                    device->target->name, (int)phase, rows);
    d->run.tokens = rows;
    Call call = {.run = &d->run, .step = (CpuStep *)entry->function};
    pool_run(d->pool, call_step, &call);
    page_checks_offer(d->checks, &d->run);
    return page_checks_good(d->checks, err); // else what it gave is nobody's
}

// Drafts as a prompt: the same sums, and the keys of a sequence are read for all of its rows at once.
static bool cpu_decode(Device *d, int32_t rows, bool drafts, Error *err) {
    bool done = drafts ? cpu_run(d, PHASE_PREFILL, rows, err) && cpu_run(d, PHASE_HEAD, rows, err)
                       : cpu_run(d, PHASE_DECODE, rows, err);
    return done && cpu_run(d, PHASE_SAMPLE, rows, err);
}

static bool cpu_logits(Device *device, int32_t rows, float *out, Error *err) {
    CpuDevice *d = (CpuDevice *)(void *)device;
    (void)err;
    memcpy(out, d->run.base[REGION_ARENA] + d->e->info.logits_offset,
           (size_t)rows * (size_t)d->e->info.vocab_size * sizeof *out);
    return true;
}

static bool cpu_upload(Device *d, int64_t offset, int64_t size, Error *err) {
    (void)d, (void)offset, (void)size, (void)err;
    return true; // the block is the host's own
}

static bool cpu_download(Device *d, int64_t offset, int64_t size, Error *err) {
    (void)d, (void)offset, (void)size, (void)err;
    return true; // the same
}

static bool cpu_wait(Device *d, Error *err) {
    (void)d, (void)err;
    return true;
}

// ---- the limit: a plain read of the weights by the same threads ---------------------------------

typedef struct ReadCall {
    const unsigned char *data;
    int64_t bytes;
    int threads;
    uint64_t sums[256]; // a result that depends on every byte
} ReadCall;

typedef uint64_t Words __attribute__((vector_size(32)));

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static void
read_part(void *user, int thread) {
    ReadCall *c = user;
    int64_t part = c->bytes / c->threads / 128 * 128;
    const Words *data = (const Words *)(const void *)(c->data + thread * part);
    Words sums[4] = {{0}};
    for (int64_t at = 0; at < part / 32; at += 4)
        for (int i = 0; i < 4; i++)
            sums[i] ^= data[at + i];
    Words sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
    c->sums[thread] ^= sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

static bool cpu_read_seconds(Device *device, int64_t bytes, double *seconds, const char **how,
                             Error *err) {
    (void)err;
    CpuDevice *d = (CpuDevice *)(void *)device;
    ReadCall call = {
        .data = d->run.base[REGION_WEIGHTS], .bytes = bytes, .threads = d->run.threads};
    *how = "a plain read of as many bytes of the weights by the same threads";
    *seconds = 1e30;
    for (int attempt = 0; attempt < 5; attempt++) {
        double start = clock_seconds();
        pool_run(d->pool, read_part, &call);
        double spent = clock_seconds() - start;
        *seconds = spent < *seconds ? spent : *seconds;
    }
    volatile uint64_t sink = call.sums[0]; // the reads are not dead
    (void)sink;
    return true;
}

const DeviceType device_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .choice = cpu_choice,
    .attach = cpu_wait,
    .upload = cpu_upload,
    .run = cpu_run,
    .decode = cpu_decode,
    .logits = cpu_logits,
    .download = cpu_download,
    .wait = cpu_wait,
    .read_seconds = cpu_read_seconds,
};

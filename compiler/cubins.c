// The cubins of all kernels of a plan: from the cache, or by NVRTC in several threads.
//
// A kernel that spills registers or keeps an array in local memory would be slow in silence: that
// is said, also of one from the cache, which keeps the reason beside the cubin.
#include "fd.h"
#include "nvrtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// ---- kernels that are slow ----------------------------------------------------------------------

// The largest number in front of any " bytes WHAT" in the log.
static long log_bytes(const char *log, const char *what) {
    long most = 0;
    for (const char *at = strstr(log, what); at; at = strstr(at + 1, what)) {
        const char *digit = at;
        while (digit > log && digit[-1] >= '0' && digit[-1] <= '9')
            digit--;
        long bytes = strtol(digit, NULL, 10);
        most = bytes > most ? bytes : most;
    }
    return most;
}

// What ptxas says of a kernel that is right, but slower than it could be: registers in local
// memory, or wgmma that run one after the other. false: nothing.
static bool slow_reason(char *out, size_t size, const char *log) {
    long stack = log_bytes(log, " bytes stack frame"), local = log_bytes(log, " bytes lmem");
    long stores = log_bytes(log, " bytes spill stores"),
         loads = log_bytes(log, " bytes spill loads");
    if (strstr(log, "instructions are serialized")) {
        snprintf(out, size, "its wgmma run one after the other");
        return true;
    }
    snprintf(out, size,
             "registers go to local memory (%ld bytes of stack, %ld of spill stores, %ld of spill "
             "loads)",
             stack > local ? stack : local, stores, loads);
    return stack || stores || loads || local;
}

static void slow_note(const char *reason, const Step *kernel, const Target *t, CubinStats *stats) {
    if (stats->slow++ == 0)
        snprintf(stats->slow_note, sizeof stats->slow_note,
                 "%s (%s) for %s: %s; it is right, but slower than it could be", kernel->source,
                 kernel->entry, t->name, reason);
}

// ---- the cache ----------------------------------------------------------------------------------

// The key under which the cache has the reason of a slow kernel.
static Bytes slow_key(Bytes key, Arena *a) {
    static const char why[] = "why this one is slow\n";
    size_t size = sizeof why - 1;
    unsigned char *text = arena_alloc(a, size + key.size);
    memcpy(text, why, size);
    memcpy(text + size, key.data, key.size);
    return (Bytes){text, size + key.size};
}

// The reason first: a cubin in the cache without one is a fast one.
static void kernel_put(Cache *cache, Bytes key, Bytes image, const char *reason, Arena *a) {
    if (reason[0]) {
        Bytes slow = slow_key(key, a);
        cache_put(cache, (const char *)slow.data, slow.size,
                  (Bytes){(const unsigned char *)reason, strlen(reason)});
    }
    cache_put(cache, (const char *)key.data, key.size, image);
}

// *reason: "" for a fast kernel.
static bool kernel_get(Cache *cache, Bytes key, Bytes *image, bool *found, const char **reason,
                       Arena *a, Error *err) {
    bool slow = false;
    *reason = "";
    TRY(cache_get(cache, (const char *)key.data, key.size, image, found, a, err));
    if (!*found)
        return true;
    Bytes text, of = slow_key(key, a);
    TRY(cache_get(cache, (const char *)of.data, of.size, &text, &slow, a, err));
    if (slow)
        *reason = arena_strndup(a, (const char *)text.data, text.size);
    return true;
}

// ---- all kernels of a plan ----------------------------------------------------------------------

typedef struct Job {
    Source source;
    int kernel;
    int alike; // jobs of the same source, this one among them
    Bytes key;
    Compiled output;
} Job;

// A kernel whose source and parameters another one has too: two entries of one file.
typedef struct Twin {
    int kernel, of;
} Twin;

typedef struct Queue {
    const Nvrtc *nvrtc;
    Job *jobs;
    int count;
    bool ptx;
    atomic_int next;
    Twin *twins;
    int twin_count;
} Queue;

static void *queue_work(void *user) {
    Queue *q = user;
    for (int at = atomic_fetch_add(&q->next, 1); at < q->count; at = atomic_fetch_add(&q->next, 1))
        q->jobs[at].output = nvrtc_compile(q->nvrtc, &q->jobs[at].source, q->ptx);
    return NULL;
}

// Sources with few kernels first: those of which there are many, small ones, fill up the end, so
// that no thread begins the sampler's, the longest, when the others have ended.
static int job_order(const void *left, const void *right) {
    const Job *a = left, *b = right;
    return a->alike != b->alike ? a->alike - b->alike : a->kernel - b->kernel;
}

static void jobs_order(Queue *q) {
    for (int at = 0; at < q->count; at++)
        for (int other = 0; other < q->count; other++)
            q->jobs[at].alike += strcmp(q->jobs[at].source.name, q->jobs[other].source.name) == 0;
    qsort(q->jobs, (size_t)q->count, sizeof *q->jobs, job_order);
}

// This thread works too, so that a machine that gives no threads is only slower.
static void queue_run(Queue *q, int threads) {
    enum { THREADS_MAX = 64 };
    pthread_t ids[THREADS_MAX];
    int started = 0;
    int wanted = threads < q->count ? threads : q->count;
    jobs_order(q);
    while (started < wanted - 1 && started < THREADS_MAX &&
           pthread_create(&ids[started], NULL, queue_work, q) == 0)
        started++;
    queue_work(q);
    for (int at = 0; at < started; at++)
        pthread_join(ids[at], NULL);
}

static void cubin_set(Cubin *c, const Job *job, Bytes image, const Plan *p, bool cached) {
    const Bytes key = job->key;
    *c = (Cubin){.image = image, .is_ptx = p->target->ptx, .cached = cached};
    payload_hash128(key.data, key.size, c->key);
}

static bool queue_collect(Queue *q, Cubin *cubins, const Plan *p, Cache *cache, CubinStats *stats,
                          Arena *a, Error *err) {
    bool done = true;
    for (int at = 0; at < q->count; at++) {
        Job *job = &q->jobs[at];
        done =
            done && compiled_check(&job->output, q->nvrtc, p->kernels[job->kernel], p->target, err);
        if (done) {
            unsigned char *image = arena_alloc(a, job->output.size);
            memcpy(image, job->output.image, job->output.size);
            cubin_set(&cubins[job->kernel], job, (Bytes){image, job->output.size}, p, false);
            char reason[160] = "";
            if (slow_reason(reason, sizeof reason, job->output.log ? job->output.log : ""))
                slow_note(reason, p->kernels[job->kernel], p->target, stats);
            else
                reason[0] = 0;
            kernel_put(cache, job->key, cubins[job->kernel].image, reason, a);
            stats->compiled++;
        }
        compiled_free(&job->output);
    }
    for (int at = 0; done && at < q->twin_count; at++)
        cubins[q->twins[at].kernel] = cubins[q->twins[at].of];
    return done;
}

// The version is part of the key, and NVRTC knows it only when it is open (100 MB to map). The
// cache remembers the version used last, so that a warm compile need not open NVRTC, and so that a
// cache that was imported works without one.
static const char version_key[] = "nvrtc version used last";

static bool version_find(char version[16], Nvrtc **nvrtc, Cache *cache, Arena *a, Error *err) {
    Bytes known;
    bool found = false;
    TRY(cache_get(cache, version_key, sizeof version_key - 1, &known, &found, a, err));
    if (found && known.size < 16) {
        memcpy(version, known.data, known.size);
        version[known.size] = 0;
        return true;
    }
    TRY(nvrtc_open(nvrtc, a, err));
    nvrtc_version(*nvrtc, version);
    return true;
}

// The kernel among the jobs that compiles from the same text; -1: none.
static int job_twin(const Queue *q, Bytes key) {
    for (int at = 0; at < q->count; at++)
        if (q->jobs[at].key.size == key.size &&
            memcmp(q->jobs[at].key.data, key.data, key.size) == 0)
            return q->jobs[at].kernel;
    return -1;
}

static bool jobs_find(Queue *q, Cubin *cubins, const Plan *p, const char *version, Cache *cache,
                      CubinStats *stats, Arena *a, Error *err) {
    q->count = q->twin_count = 0;
    for (int kernel = 0; kernel < p->kernel_count; kernel++) {
        Job *job = &q->jobs[q->count];
        Bytes image;
        bool found = false;
        *job = (Job){.kernel = kernel};
        TRY(kernel_source_make(&job->source, p->kernels[kernel], p->target, a, err));
        job->key = kernel_source_key(&job->source, version, a);
        int twin = job_twin(q, job->key);
        if (twin >= 0) {
            q->twins[q->twin_count++] = (Twin){kernel, twin};
            continue;
        }
        const char *reason;
        TRY(kernel_get(cache, job->key, &image, &found, &reason, a, err));
        if (found) {
            cubin_set(&cubins[kernel], job, image, p, true);
            if (reason[0])
                slow_note(reason, p->kernels[kernel], p->target, stats);
            stats->cached++;
        } else {
            q->count++;
        }
    }
    return true;
}

bool cubins_make(Cubin *cubins, const Plan *p, Cache *cache, int threads, CubinStats *stats,
                 Arena *a, Error *err) {
    double started = clock_seconds();
    char version[16], opened[16];
    Nvrtc *nvrtc = NULL;
    Queue queue = {.ptx = p->target->ptx,
                   .jobs = ARENA_NEW(a, Job, p->kernel_count),
                   .twins = ARENA_NEW(a, Twin, p->kernel_count)};
    TRY(version_find(version, &nvrtc, cache, a, err));
    CubinStats before = *stats;
    TRY(jobs_find(&queue, cubins, p, version, cache, stats, a, err));
    if (queue.count) {
        if (!nvrtc)
            TRY(nvrtc_open(&nvrtc, a, err));
        nvrtc_version(nvrtc, opened);
        if (strcmp(opened, version) != 0) { // all of one version, so start again
            *stats = before;
            TRY(jobs_find(&queue, cubins, p, opened, cache, stats, a, err));
        }
        queue.nvrtc = nvrtc;
        queue_run(&queue, threads);
        TRY(queue_collect(&queue, cubins, p, cache, stats, a, err));
        cache_put(cache, version_key, sizeof version_key,
                  (Bytes){(const unsigned char *)opened, strlen(opened)});
    }
    stats->seconds += clock_seconds() - started;
    return true;
}

// ---- --emit -------------------------------------------------------------------------------------

// Runs nvdisasm on the image, whose output goes to `out`.
static bool disassemble(Bytes image, FILE *out, Error *err) {
    int fd = memfd_create("cubin", 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || !fd_write(fd, image.data, image.size, 0))
        return fail(err, ERR_RESOURCE, 506, "no memory file for nvdisasm: %s", strerror(errno));
    fflush(out);
    pid_t child = fork();
    if (child == 0) {
        dup2(fileno(out), STDOUT_FILENO);
        execlp("nvdisasm", "nvdisasm", "-c", path, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    close(fd);
    if (status != 0)
        return fail(err, ERR_TOOLCHAIN, 507,
                    "--emit sass: nvdisasm gave status %d; it must be on PATH (CUDA toolkit)",
                    status);
    return true;
}

bool kernel_emit(const Step *kernel, const Target *t, const char *stage, FILE *out, Arena *a,
                 Error *err) {
    Source source;
    if (t->ptx && strcmp(stage, "sass") == 0)
        return fail(err, ERR_USAGE, 577, "--emit sass: target %s is PTX; use --emit ptx", t->name);
    TRY(kernel_source_make(&source, kernel, t, a, err));
    fprintf(out, "// %s, %s, %s\n", kernel->source, kernel->entry, t->name);
    if (strcmp(stage, "source") == 0) {
        fputs(source.text, out);
        return true;
    }
    Nvrtc *nvrtc;
    TRY(nvrtc_open(&nvrtc, a, err));
    bool ptx = strcmp(stage, "ptx") == 0;
    Compiled output = nvrtc_compile(nvrtc, &source, ptx);
    bool done = compiled_check(&output, nvrtc, kernel, t, err);
    if (done && ptx)
        fputs(output.image, out);
    else if (done)
        done = disassemble((Bytes){(unsigned char *)output.image, output.size}, out, err);
    compiled_free(&output);
    return done;
}

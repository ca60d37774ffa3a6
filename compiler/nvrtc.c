// CUDA source to cubin, by libnvrtc, which is opened when a kernel is not in the cache.
//
// A kernel's text is a prologue of macros (the step's parameters and facts of the target), then its
// file from kernels/. Headers go to NVRTC from memory, no option holds a path, so that the same
// step gives the same bytes everywhere, and everything that decides them is in the cache key. A
// kernel that spills registers or keeps an array in local memory would be slow in silence: that is
// said, also of one from the cache, which keeps the reason beside the cubin.
//
// Source: the NVRTC documentation, 12 and 13; its prototypes are declared here, since no toolkit
// header may be needed to build. Non-goals: linking device code, LTO, PTX for chips that are not
// named.
#include "compile.h"
#include "fd.h"

#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// ---- NVRTC --------------------------------------------------------------------------------------

typedef struct NvrtcProgram NvrtcProgram; // _nvrtcProgram

struct Nvrtc {
    const char *path; // what dlopen took
    int major, minor;
    // clang-format off
    int (*version)(int *major, int *minor);
    int (*create)(NvrtcProgram **out, const char *source, const char *name, int header_count,
                  const char *const *headers, const char *const *header_names);
    int (*destroy)(NvrtcProgram **program);
    int (*compile)(NvrtcProgram *program, int option_count, const char *const *options);
    int (*cubin_size)(NvrtcProgram *program, size_t *size);
    int (*cubin)(NvrtcProgram *program, char *out);
    int (*ptx_size)(NvrtcProgram *program, size_t *size);
    int (*ptx)(NvrtcProgram *program, char *out);
    int (*log_size)(NvrtcProgram *program, size_t *size);
    int (*log)(NvrtcProgram *program, char *out);
    const char *(*error_text)(int result);
    // clang-format on
};

// Where it is looked for, in this order. $ stands for the folder of gptq-compile; a name without a
// slash goes to the loader (LD_LIBRARY_PATH, ld.so.cache); the rest are patterns of glob().
static const char *const nvrtc_places[] = {
    "$/libnvrtc.so.1[0-9]",
    "$/nvrtc/libnvrtc.so.1[0-9]",
    "$/nvrtc/lib/libnvrtc.so.1[0-9]",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so",
    "/usr/local/cuda/lib64/libnvrtc.so.1[0-9]",
    "/usr/local/cuda*/lib64/libnvrtc.so.1[0-9]",
    "/usr/local/cuda*/targets/x86_64-linux/lib/libnvrtc.so.1[0-9]",
    "/usr/local/cuda*/lib/libnvrtc.so.1[0-9]",
    "/usr/lib/x86_64-linux-gnu/libnvrtc.so.1[0-9]",
    "/opt/cuda/lib64/libnvrtc.so.1[0-9]",
};

static bool nvrtc_bind(Nvrtc *n, void *library) {
    const struct {
        const char *name;
        void *slot;
    } symbols[] = {
        {"nvrtcVersion", &n->version},
        {"nvrtcCreateProgram", &n->create},
        {"nvrtcDestroyProgram", &n->destroy},
        {"nvrtcCompileProgram", &n->compile},
        {"nvrtcGetCUBINSize", &n->cubin_size},
        {"nvrtcGetCUBIN", &n->cubin},
        {"nvrtcGetPTXSize", &n->ptx_size},
        {"nvrtcGetPTX", &n->ptx},
        {"nvrtcGetProgramLogSize", &n->log_size},
        {"nvrtcGetProgramLog", &n->log},
        {"nvrtcGetErrorString", &n->error_text},
    };
    for (size_t at = 0; at < sizeof symbols / sizeof *symbols; at++) {
        void *symbol = dlsym(library, symbols[at].name);
        if (!symbol)
            return false;
        memcpy(symbols[at].slot, &symbol, sizeof symbol);
    }
    return n->version(&n->major, &n->minor) == 0 && n->major >= 12;
}

static bool nvrtc_try(Nvrtc *n, const char *path, Arena *a) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    if (!nvrtc_bind(n, library)) {
        dlclose(library);
        return false;
    }
    n->path = arena_strndup(a, path, strlen(path));
    return true; // stays loaded until exit
}

// Newest first: glob sorts by name, and higher numbers are newer.
static bool nvrtc_try_pattern(Nvrtc *n, const char *pattern, Arena *a) {
    glob_t found;
    bool done = false;
    if (glob(pattern, 0, NULL, &found) != 0)
        return false;
    for (size_t at = found.gl_pathc; at > 0 && !done; at--)
        done = nvrtc_try(n, found.gl_pathv[at - 1], a);
    globfree(&found);
    return done;
}

static const char *program_folder(Arena *a) {
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return ".";
    path[size] = 0;
    char *slash = strrchr(path, '/');
    return slash ? arena_strndup(a, path, (size_t)(slash - path)) : ".";
}

bool nvrtc_open(Nvrtc **out, Arena *a, Error *err) {
    Nvrtc *n = ARENA_NEW(a, Nvrtc, 1);
    const char *folder = program_folder(a);
    bool found = false;
    for (size_t at = 0; at < sizeof nvrtc_places / sizeof *nvrtc_places && !found; at++) {
        const char *place = nvrtc_places[at];
        if (place[0] == '$')
            found = nvrtc_try_pattern(n, arena_printf(a, "%s%s", folder, place + 1), a);
        else if (place[0] == '/')
            found = nvrtc_try_pattern(n, place, a);
        else
            found = nvrtc_try(n, place, a);
    }
    if (!found)
        return fail(err, ERR_TOOLCHAIN, 501,
                    "no NVRTC 12 or 13 (libnvrtc.so), which compiles the GPU kernels: not in %s or "
                    "%s/nvrtc, not known to the loader, not below /usr/local/cuda*; install a CUDA "
                    "toolkit, or unpack the PyPI wheel nvidia-cuda-nvrtc into %s/nvrtc",
                    folder, folder, folder);
    *out = n;
    return true;
}

// ---- texts --------------------------------------------------------------------------------------

typedef struct Text {
    char *data;
    size_t size, capacity;
    Arena *arena;
} Text;

static void text_add(Text *t, const char *data, size_t size) {
    if (t->size + size + 1 > t->capacity) {
        size_t capacity = 2 * (t->size + size + 1);
        char *grown = arena_alloc(t->arena, capacity);
        if (t->size)
            memcpy(grown, t->data, t->size);
        t->data = grown;
        t->capacity = capacity;
    }
    if (size)
        memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static void text_line(Text *t, const char *line) {
    text_add(t, line, strlen(line));
    text_add(t, "\n", 1);
}

static void text_define(Text *t, const char *name, int64_t value) {
    char line[128];
    snprintf(line, sizeof line, value < 0 ? "#define %s (%lld%s)" : "#define %s %lld%s", name,
             (long long)value, value > INT_MAX || value < -INT_MAX ? "LL" : "");
    text_line(t, line);
}

static size_t embedded_size(const EmbeddedFile *file) {
    return (size_t)(file->end - file->data);
}

char *kernel_source_text(const Step *kernel, const Target *t, Arena *a, Error *err) {
    const EmbeddedFile *file = embedded_find(kernel->source);
    if (!file) {
        fail(err, ERR_INTERNAL, 502, "this gptq-compile carries no %s", kernel->source);
        return NULL;
    }
    Text text = {.arena = a};
    text_define(&text, "TARGET_SM", t->compute_major * 10 + t->compute_minor);
    text_define(&text, "TARGET_EXACT", t->exact);
    for (int at = 0; at < kernel->params.count; at++)
        text_define(&text, kernel->params.items[at].name, kernel->params.items[at].value);
    text_line(&text, arena_printf(a, "#line 1 \"%s\"", kernel->source));
    text_add(&text, (const char *)file->data, embedded_size(file));
    return text.data;
}

enum { HEADERS_MAX = 16 };

typedef struct Headers {
    const char *names[HEADERS_MAX]; // as included: "ptx.cuh"
    const char *texts[HEADERS_MAX];
    int count;
} Headers;

static bool headers_have(const Headers *h, const char *name) {
    for (int at = 0; at < h->count; at++)
        if (strcmp(h->names[at], name) == 0)
            return true;
    return false;
}

// Adds the headers that `text` includes with quotes.
static bool headers_scan(Headers *h, const char *text, Arena *a, Error *err) {
    static const char word[] = "#include \"";
    for (const char *at = strstr(text, word); at; at = strstr(at, word)) {
        at += sizeof word - 1;
        size_t size = strcspn(at, "\"\n");
        const char *name = arena_strndup(a, at, size);
        if (headers_have(h, name))
            continue;
        const EmbeddedFile *file = embedded_find(arena_printf(a, "kernels/%s", name));
        if (!file || h->count == HEADERS_MAX)
            return fail(err, ERR_INTERNAL, 503, "kernel header %s is not carried in gptq-compile",
                        name);
        h->names[h->count] = name;
        h->texts[h->count++] = arena_strndup(a, (const char *)file->data, embedded_size(file));
    }
    return true;
}

// All headers that the text needs, each once, in the order of their first mention.
static bool headers_find(Headers *h, const char *text, Arena *a, Error *err) {
    h->count = 0;
    TRY(headers_scan(h, text, a, err));
    for (int at = 0; at < h->count; at++)
        TRY(headers_scan(h, h->texts[at], a, err));
    return true;
}

enum { OPTION_COUNT = 5 };

typedef struct Source { // all that NVRTC is told about one kernel
    const char *name;   // "kernels/norm.cu"
    const char *text;
    const char *options[OPTION_COUNT];
    Headers headers;
} Source;

static bool source_make(Source *s, const Step *kernel, const Target *t, Arena *a, Error *err) {
    s->name = kernel->source;
    s->text = kernel_source_text(kernel, t, a, err);
    if (!s->text)
        return false;
    s->options[0] = arena_printf(a, "--gpu-architecture=%s", t->name);
    s->options[1] = "--std=c++17";
    s->options[2] = "-default-device";
    s->options[3] = "--fmad=true";
    s->options[4] = "--ptxas-options=-v"; // stack and spills, in the log
    return headers_find(&s->headers, s->text, a, err);
}

// Everything that decides the bytes of the cubin. `version`: "13.0".
static Bytes key_text(const Source *s, const char *version, Arena *a) {
    Text key = {.arena = a};
    text_line(&key, "gptq-compile cubin 1");
    text_line(&key, arena_printf(a, "nvrtc %s", version));
    for (int at = 0; at < OPTION_COUNT; at++)
        text_line(&key, arena_printf(a, "option %s", s->options[at]));
    text_line(&key, arena_printf(a, "source %s", s->name));
    text_line(&key, s->text);
    for (int at = 0; at < s->headers.count; at++) {
        text_line(&key, arena_printf(a, "header %s", s->headers.names[at]));
        text_line(&key, s->headers.texts[at]);
    }
    return (Bytes){(const unsigned char *)key.data, key.size};
}

// ---- compiling ----------------------------------------------------------------------------------

// What one compile leaves behind; malloc, since it is filled by a thread.
typedef struct Compiled {
    char *image; // owner: compiled_free
    size_t size;
    char *log; // owner: compiled_free; "" if there is none
    int result;
    bool failed;
} Compiled;

static void compiled_free(Compiled *o) {
    free(o->image);
    free(o->log);
    o->image = NULL;
    o->log = NULL;
}

static char *fetch(NvrtcProgram *program, int (*size_of)(NvrtcProgram *, size_t *),
                   int (*get)(NvrtcProgram *, char *), size_t *size) {
    if (size_of(program, size) != 0 || *size == 0)
        return NULL;
    char *data = malloc(*size + 1);
    if (data && get(program, data) != 0) {
        free(data);
        return NULL;
    }
    if (data)
        data[*size] = 0;
    return data;
}

// Runs in any thread.
static Compiled source_compile(const Nvrtc *n, const Source *s, bool ptx) {
    Compiled out = {.failed = true};
    NvrtcProgram *program = NULL;
    size_t log_size;
    out.result =
        n->create(&program, s->text, s->name, s->headers.count, s->headers.texts, s->headers.names);
    if (out.result == 0) {
        out.result = n->compile(program, OPTION_COUNT, s->options);
        out.log = fetch(program, n->log_size, n->log, &log_size);
        if (out.result == 0)
            out.image = ptx ? fetch(program, n->ptx_size, n->ptx, &out.size)
                            : fetch(program, n->cubin_size, n->cubin, &out.size);
        out.failed = out.image == NULL;
        n->destroy(&program);
    }
    return out;
}

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

static bool compiled_check(const Compiled *o, const Nvrtc *n, const Step *kernel, const Target *t,
                           Error *err) {
    const char *log = o->log ? o->log : "";
    if (o->failed)
        return fail(err, ERR_INTERNAL, 504, "%s (%s) for %s: NVRTC %d.%d says %s: %.300s",
                    kernel->source, kernel->entry, t->name, n->major, n->minor,
                    n->error_text(o->result), log);
    return true;
}

// What ptxas says of a kernel that is right, but slower than it could be: registers in local memory,
// or wgmma that run one after the other. false: nothing.
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

// The key under which the cache has the reason of a slow kernel.
static Bytes slow_key(Bytes key, Arena *a) {
    Text text = {.arena = a};
    text_line(&text, "why this one is slow");
    text_add(&text, (const char *)key.data, key.size);
    return (Bytes){(const unsigned char *)text.data, text.size};
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
        q->jobs[at].output = source_compile(q->nvrtc, &q->jobs[at].source, q->ptx);
    return NULL;
}

// Sources with few kernels first: those of which there are many, small ones, fill up the end, so that no
// thread begins the sampler's, the longest, when the others have ended.
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
    snprintf(version, 16, "%d.%d", (*nvrtc)->major, (*nvrtc)->minor);
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
        TRY(source_make(&job->source, p->kernels[kernel], p->target, a, err));
        job->key = key_text(&job->source, version, a);
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
        snprintf(opened, sizeof opened, "%d.%d", nvrtc->major, nvrtc->minor);
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
    TRY(source_make(&source, kernel, t, a, err));
    fprintf(out, "// %s, %s, %s\n", kernel->source, kernel->entry, t->name);
    if (strcmp(stage, "source") == 0) {
        fputs(source.text, out);
        return true;
    }
    Nvrtc *nvrtc;
    TRY(nvrtc_open(&nvrtc, a, err));
    bool ptx = strcmp(stage, "ptx") == 0;
    Compiled output = source_compile(nvrtc, &source, ptx);
    bool done = compiled_check(&output, nvrtc, kernel, t, err);
    if (done && ptx)
        fputs(output.image, out);
    else if (done)
        done = disassemble((Bytes){(unsigned char *)output.image, output.size}, out, err);
    compiled_free(&output);
    return done;
}

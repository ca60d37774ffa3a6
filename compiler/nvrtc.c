// libnvrtc, which is opened when a kernel is not in the cache, and compiles CUDA source to a cubin or
// to PTX.
//
// Source: the NVRTC documentation, 12 and 13; its prototypes are declared here, since no toolkit
// header may be needed to build. Non-goals: linking device code, LTO, PTX for chips that are not
// named.
#include "nvrtc.h"

#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

void nvrtc_version(const Nvrtc *n, char version[16]) {
    snprintf(version, 16, "%d.%d", n->major, n->minor);
}

// ---- compiling ----------------------------------------------------------------------------------

void compiled_free(Compiled *o) {
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

Compiled nvrtc_compile(const Nvrtc *n, const Source *s, bool ptx) {
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

bool compiled_check(const Compiled *o, const Nvrtc *n, const Step *kernel, const Target *t,
                    Error *err) {
    const char *log = o->log ? o->log : "";
    if (o->failed)
        return fail(err, ERR_INTERNAL, 504, "%s (%s) for %s: NVRTC %d.%d says %s: %.300s",
                    kernel->source, kernel->entry, t->name, n->major, n->minor,
                    n->error_text(o->result), log);
    return true;
}

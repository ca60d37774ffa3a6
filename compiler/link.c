// Links the host object with the runtime into an ELF image, by `ld` or `ld.lld`.
//
// Everything that the linker reads (the object, start files, archives, the C library's symbols)
// comes from gptq-compile itself, as anonymous memory files that the linker sees under
// /proc/self/fd; its output goes to one too. So no folder is needed and nothing can be left
// behind, whatever kills us. Non-goal: being a linker.
#include "compile.h"
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINK_MAX_ARGS = 64, LINK_MAX_INPUTS = 16, LINK_MAX_LINKERS = 6 };

#if defined(__aarch64__)
enum { NATIVE_X86_64 = false, NATIVE_AARCH64 = true };
#else
enum { NATIVE_X86_64 = true, NATIVE_AARCH64 = false };
#endif

// What is linked, in the linker's order. "" stands for the object.
typedef struct LinkTarget {
    const char *triple;
    const char *emulation; // -m
    const char *loader;
    const char *own_linker;              // of binutils, that of a machine's own is simply `ld`
    bool native;                         // gptq-compile runs on such a machine
    const char *inputs[LINK_MAX_INPUTS]; // names in embedded_files
} LinkTarget;

#define LINK_INPUTS(arch, loader)                                       \
    {"runtime/" arch "/start.o",      "",                               \
     "runtime/" arch "/libruntime.a", "runtime/" arch "/libevent.a",    \
     "runtime/" arch "/libcjson.a",   "runtime/" arch "/glibc_shims.o", \
     "crt/" arch "/libgcc.a",         "stubs/" arch "/libpthread.so.0", \
     "stubs/" arch "/libdl.so.2",     "stubs/" arch "/libm.so.6",       \
     "stubs/" arch "/libc.so.6",      "crt/" arch "/libc_nonshared.a",  \
     "stubs/" arch "/" loader}

static const LinkTarget link_targets[] = {
    {
        .triple = "x86_64-linux-gnu",
        .emulation = "elf_x86_64",
        .loader = "/lib64/ld-linux-x86-64.so.2",
        .own_linker = "x86_64-linux-gnu-ld",
        .native = NATIVE_X86_64,
        .inputs = LINK_INPUTS("x86_64", "ld-linux-x86-64.so.2"),
    },
    {
        .triple = "aarch64-linux-gnu",
        .emulation = "aarch64linux",
        .loader = "/lib/ld-linux-aarch64.so.1",
        .own_linker = "aarch64-linux-gnu-ld",
        .native = NATIVE_AARCH64,
        .inputs = LINK_INPUTS("aarch64", "ld-linux-aarch64.so.1"),
    },
};

static const LinkTarget *link_target_find(const char *triple) {
    for (size_t at = 0; at < sizeof link_targets / sizeof *link_targets; at++)
        if (strcmp(link_targets[at].triple, triple) == 0)
            return &link_targets[at];
    return NULL;
}

// A memory file that the child inherits; its path goes into path.
static bool memory_file(int *fd, char path[32], Bytes content, Error *err) {
    *fd = memfd_create("gptq-compile", 0);
    if (*fd < 0 || !fd_write(*fd, content.data, content.size, 0))
        return fail(err, ERR_RESOURCE, 540, "no memory file of %zu bytes for the linker: %s",
                    content.size, strerror(errno));
    snprintf(path, 32, "/proc/self/fd/%d", *fd);
    return true;
}

// Runs argv[0] from PATH with its streams into memory files. *status: exit status, 127 = not found.
static bool run_linker(char *const *argv, int out_fd, int log_fd, int *status, Error *err) {
    pid_t child = fork();
    if (child < 0)
        return fail(err, ERR_RESOURCE, 541, "cannot start %s: %s", argv[0], strerror(errno));
    if (child == 0) {
        dup2(log_fd, STDERR_FILENO);
        dup2(out_fd, STDOUT_FILENO);
        execvp(argv[0], argv);
        _exit(127);
    }
    while (waitpid(child, status, 0) < 0)
        if (errno != EINTR)
            return fail(err, ERR_INTERNAL, 542, "lost the linker %s: %s", argv[0], strerror(errno));
    return true;
}

static bool file_content(Bytes *out, int fd, Arena *a, Error *err) {
    off_t size = lseek(fd, 0, SEEK_END);
    unsigned char *data = arena_alloc(a, size > 0 ? (size_t)size : 1);
    if (size < 0 || fd_read(fd, data, (size_t)size, 0) < (size_t)size)
        return fail(err, ERR_INTERNAL, 543, "cannot read the linker's output: %s", strerror(errno));
    *out = (Bytes){data, (size_t)size};
    return true;
}

typedef struct LinkJob {
    int fds[LINK_MAX_INPUTS + 2]; // inputs, output, log
    char paths[LINK_MAX_INPUTS + 2][32];
    int fd_count;
    char *argv[LINK_MAX_ARGS]; // [0] is set for each linker that is tried
    int argc;                  // the last one names the output
} LinkJob;

static bool job_file(LinkJob *job, Bytes content, Error *err) {
    int at = job->fd_count;
    TRY(memory_file(&job->fds[at], job->paths[at], content, err));
    job->fd_count++;
    return true;
}

static bool job_prepare(LinkJob *job, const LinkTarget *target, Bytes object, Error *err) {
    static const char *const flags[] = {
        "-pie",
        "--gc-sections",
        "--build-id=none",
        "--hash-style=gnu",
        "--as-needed",
        "-s",
        "-z",
        "relro",
        "-z",
        "now",
        "-z",
        "noexecstack",
    };
    int argc = 1;
    for (int at = 0; at < LINK_MAX_INPUTS && target->inputs[at]; at++) {
        const EmbeddedFile *file = embedded_find(target->inputs[at]);
        if (target->inputs[at][0] && !file)
            return fail(err, ERR_INTERNAL, 544, "this gptq-compile carries no %s",
                        target->inputs[at]);
        TRY(job_file(job, file ? (Bytes){file->data, (size_t)(file->end - file->data)} : object,
                     err));
        job->argv[argc++] = job->paths[at];
    }
    for (size_t at = 0; at < sizeof flags / sizeof *flags; at++)
        job->argv[argc++] = (char *)(uintptr_t)flags[at];
    const char *const pairs[] = {"-m", target->emulation, "-dynamic-linker", target->loader, "-o"};
    for (size_t at = 0; at < sizeof pairs / sizeof *pairs; at++)
        job->argv[argc++] = (char *)(uintptr_t)pairs[at];
    TRY(job_file(job, (Bytes){(const unsigned char *)"", 0}, err));
    job->argc = argc + 1;
    return job_file(job, (Bytes){(const unsigned char *)"", 0}, err);
}

// binutils' ld knows one machine, lld all.
static int linkers_of(const LinkTarget *target, const char *names[LINK_MAX_LINKERS]) {
    int count = 0;
    if (target->native)
        names[count++] = "ld";
    names[count++] = target->own_linker;
    names[count++] = "ld.lld";
    names[count++] = "ld.lld-19";
    if (target->native)
        names[count++] = "ld.bfd";
    return count;
}

static bool job_run(LinkJob *job, const LinkTarget *target, Bytes *image, Arena *a, Error *err) {
    const char *linkers[LINK_MAX_LINKERS];
    int count = linkers_of(target, linkers);
    int output = job->fds[job->fd_count - 2], log = job->fds[job->fd_count - 1];
    for (int at = 0; at < count; at++) {
        job->argv[0] = (char *)(uintptr_t)linkers[at];
        // lld wants to make a file in the folder of its output, which /proc/self/fd does not let it.
        bool lld = strncmp(linkers[at], "ld.lld", 6) == 0;
        job->argv[job->argc - 1] = lld ? (char *)(uintptr_t)"-" : job->paths[job->fd_count - 2];
        int status;
        TRY(run_linker(job->argv, lld ? output : log, log, &status, err));
        if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
            continue;
        if (status == 0)
            return file_content(image, output, a, err);
        Bytes text;
        TRY(file_content(&text, log, a, err));
        return fail(err, ERR_TOOLCHAIN, 545, "%s failed (status %d): %.*s", linkers[at], status,
                    (int)(text.size < 350 ? text.size : 350), (const char *)text.data);
    }
    if (target->native)
        return fail(err, ERR_TOOLCHAIN, 546,
                    "no linker: neither ld nor ld.lld is on PATH; install binutils or lld");
    return fail(err, ERR_TOOLCHAIN, 573,
                "no linker for %s: neither %s nor ld.lld is on PATH; install lld (any version), or "
                "binutils for that machine",
                target->triple, target->own_linker);
}

bool link_executable(Bytes *image, Bytes object, const char *triple, Arena *a, Error *err) {
    const LinkTarget *target = link_target_find(triple);
    if (!target)
        return fail(err, ERR_UNSUPPORTED, 547, "--host %s is not supported; supported: %s, %s",
                    triple, link_targets[0].triple, link_targets[1].triple);
    LinkJob job = {0};
    bool done = job_prepare(&job, target, object, err) && job_run(&job, target, image, a, err);
    for (int at = 0; at < job.fd_count; at++)
        close(job.fds[at]);
    return done;
}

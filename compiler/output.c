// The output file while it is being written: nameless until it is whole (O_TMPFILE + linkat), so
// that neither a failure nor SIGKILL leaves anything behind and an old output survives.
#include "compile.h"
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool folder_of(const char *path, char out[4096], Error *err) {
    if (strlen(path) >= 4000)
        return fail(err, ERR_USAGE, 601, "the output path is too long (%zu bytes)", strlen(path));
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(out, 4096, "%s", dirname(copy));
    return true;
}

// A name beside the output that nobody uses.
static void temporary_name(Output *out, const char *folder) {
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", out->path);
    snprintf(out->temporary, sizeof out->temporary, "%.2000s/.%.1000s.XXXXXX", folder,
             basename(copy));
}

bool output_open(Output *out, const char *path, Error *err) {
    *out = (Output){.path = path, .fd = -1};
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return fail(err, ERR_USAGE, 602, "%s is a folder; -o names the file to write", path);
    char folder[4096];
    TRY(folder_of(path, folder, err));
    out->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (out->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        temporary_name(out, folder);
        out->fd = mkstemp(out->temporary);
    }
    if (out->fd < 0)
        return fail(err, ERR_RESOURCE, 603, "cannot write in %s: %s", folder, strerror(errno));
    return true;
}

bool output_reserve(Output *out, int64_t bytes, Error *err) {
    int code = posix_fallocate(out->fd, 0, bytes);
    if (code == ENOSPC || code == EFBIG || code == EDQUOT)
        return fail(err, ERR_RESOURCE, 604, "%s needs %.1f MB: %s", out->path, (double)bytes * 1e-6,
                    strerror(code));
    return true; // a file system that cannot reserve tells when it is full
}

bool output_write(Output *out, int64_t at, const void *data, size_t size, Error *err) {
    if (!fd_write(out->fd, data, size, at))
        return fail(err, ERR_RESOURCE, 605, "cannot write %s: %s", out->path, strerror(errno));
    if (at + (int64_t)size > out->size)
        out->size = at + (int64_t)size;
    return true;
}

// linkat cannot replace, rename can: a nameless file first gets a temporary name.
static bool give_name(Output *out, Error *err) {
    char folder[4096], self[64];
    if (!out->temporary[0]) {
        TRY(folder_of(out->path, folder, err));
        temporary_name(out, folder);
        snprintf(self, sizeof self, "/proc/self/fd/%d", out->fd);
        char *suffix = out->temporary + strlen(out->temporary) - 6;
        int attempt = 0;
        do
            snprintf(suffix, 7, "%06x", ((unsigned)getpid() * 64u + (unsigned)attempt) & 0xffffff);
        while (linkat(AT_FDCWD, self, AT_FDCWD, out->temporary, AT_SYMLINK_FOLLOW) != 0 &&
               errno == EEXIST && ++attempt < 64);
    }
    if (rename(out->temporary, out->path) != 0)
        return fail(err, ERR_RESOURCE, 606, "cannot give %s its name: %s", out->path,
                    strerror(errno));
    out->temporary[0] = 0;
    return true;
}

bool output_commit(Output *out, Error *err) {
    if (ftruncate(out->fd, out->size) != 0 || fchmod(out->fd, 0755) != 0 || fsync(out->fd) != 0)
        return fail(err, ERR_RESOURCE, 607, "cannot finish %s: %s", out->path, strerror(errno));
    TRY(give_name(out, err));
    close(out->fd);
    out->fd = -1;
    return true;
}

void output_discard(Output *out) {
    if (out->temporary[0])
        unlink(out->temporary);
    if (out->fd >= 0)
        close(out->fd);
    *out = (Output){.fd = -1};
}

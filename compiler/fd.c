#include "fd.h"

#include <errno.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 30 }; // of one call

size_t fd_read(int fd, void *data, size_t size, int64_t at) {
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, (char *)data + done, size - done, at + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = 0;
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return done;
}

bool fd_write(int fd, const void *data, size_t size, int64_t at) {
    const char *bytes = data;
    while (size) {
        ssize_t wrote = pwrite(fd, bytes, size, at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote == 0)
            errno = ENOSPC;
        if (wrote <= 0)
            return false;
        bytes += wrote;
        at += wrote;
        size -= (size_t)wrote;
    }
    return true;
}

int64_t fd_copy(int to, int from, int64_t at, int64_t bytes) {
    off_t in = at, out = 0;
    while (out < bytes) {
        size_t left = (size_t)(bytes - out);
        ssize_t copied =
            copy_file_range(from, &in, to, &out, left < COPY_BYTES ? left : (size_t)COPY_BYTES, 0);
        if (copied <= 0)
            break;
    }
    return out;
}

// Whole reads and writes of open files, through interruptions and short counts.
#ifndef FD_H
#define FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Bytes read at `at`; fewer than `size`: the file ends there (errno 0) or failed (errno says how).
size_t fd_read(int fd, void *data, size_t size, int64_t at);
// False: errno says why.
bool fd_write(int fd, const void *data, size_t size, int64_t at);
// Lets the kernel copy `bytes` of `from` at `at` to the start of `to`: by reference where the file
// system can. Returns how many it did; the rest is the caller's.
int64_t fd_copy(int to, int from, int64_t at, int64_t bytes);

#endif

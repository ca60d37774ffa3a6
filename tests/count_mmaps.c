// A library for LD_PRELOAD: writes the size of every anonymous mapping that a program makes itself to
// the file that COUNT_MMAPS names, one a line. What the C library maps for malloc and threads does not
// come by here.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef void *MapFunction(void *, size_t, int, int, int, off_t);

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
    MapFunction *next;
    void *symbol = dlsym(RTLD_NEXT, "mmap");
    memcpy(&next, &symbol, sizeof next);
    const char *path = getenv("COUNT_MMAPS");
    FILE *log = path && (flags & MAP_ANONYMOUS) ? fopen(path, "a") : NULL;
    if (log) {
        fprintf(log, "%zu\n", bytes);
        fclose(log);
    }
    return next(address, bytes, protection, flags, fd, offset);
}

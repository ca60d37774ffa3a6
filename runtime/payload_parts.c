// Maps the files that hold an executable's weights, as if they were one.
#include "payload_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool payload_part_name(char out[PAYLOAD_PART_NAME], const char *file, int part, Error *err) {
    int size = snprintf(out, PAYLOAD_PART_NAME, "%s.weights.%05d", file, part + 1);
    return (size > 0 && size < PAYLOAD_PART_NAME) ||
           fail(err, ERR_RESOURCE, 1300, "the path of %.200s is too long", file);
}

static bool part_map(unsigned char *to, size_t bytes, const char *name, Error *err) {
    struct stat info;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, ERR_CORRUPT, 1301,
                    "%s: %s; this executable's weights lie in files beside it, which must be moved "
                    "and renamed with it",
                    name, strerror(errno));
    bool whole = fstat(fd, &info) == 0 && (uint64_t)info.st_size == bytes;
    void *data = whole ? mmap(to, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) : MAP_FAILED;
    close(fd);
    if (!whole)
        return fail(err, ERR_CORRUPT, 1302, "%s: expected %zu bytes: copy the file again", name,
                    bytes);
    return data != MAP_FAILED ||
           fail(err, ERR_RESOURCE, 1303, "%s: cannot map it: %s", name, strerror(errno));
}

bool payload_parts_map(const char *file, const Segment *weights, Bytes *out, size_t *mapped,
                       Error *err) {
    uint64_t each = weights->check[0], size = weights->size;
    uint32_t parts = weights->reserved;
    if (each == 0 || each % PAYLOAD_WEIGHTS_ALIGN || parts > PAYLOAD_MAX_PARTS ||
        parts != (size + each - 1) / each)
        return fail(err, ERR_CORRUPT, 1304, "%s: the table of the weights' files is damaged", file);
    *mapped = (size_t)size;
    unsigned char *data =
        mmap(NULL, *mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 1305, "%s: cannot map its weights: %s", file,
                    strerror(errno));
    bool done = true;
    for (uint32_t part = 0; done && part < parts; part++) {
        char name[PAYLOAD_PART_NAME];
        uint64_t at = part * each, left = size - at;
        done = payload_part_name(name, file, (int)part, err) &&
               part_map(data + at, (size_t)(left < each ? left : each), name, err);
    }
    if (!done)
        munmap(data, *mapped);
    else
        *out = (Bytes){data, (size_t)size};
    return done;
}

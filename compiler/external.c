// --weights external: the packed weights in files of at most --split-size beside the executable, for
// file systems that limit the size of a file. They are packed into one nameless file first, since a
// tensor may cross the end of a part; the folder of the output must take that.
#include "external.h"
#include "fd.h"

#include "../runtime/payload_parts.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

bool split_parse(int64_t *bytes, const char *text, Error *err) {
    TRY(memory_parse(bytes, "--split-size", text, err));
    *bytes = *bytes / PAYLOAD_WEIGHTS_ALIGN * PAYLOAD_WEIGHTS_ALIGN;
    return *bytes > 0 ||
           fail(err, ERR_USAGE, 1306, "--split-size wants 2M or more, found \"%s\"", text);
}

static bool part_write(int from, int64_t at, int64_t bytes, const char *name, Error *err) {
    Output out;
    TRY(output_open(&out, name, err));
    int64_t to = fd_copy(out.fd, from, at, bytes);
    unsigned char block[64 << 10];
    bool done = true;
    while (done && to < bytes) { // a file system whose files the kernel does not copy
        size_t left = (size_t)(bytes - to);
        size_t size = left < sizeof block ? left : sizeof block;
        if (fd_read(from, block, size, at + to) < size)
            done = fail(err, ERR_RESOURCE, 1307, "cannot write %s: %s", name, strerror(errno));
        done = done && output_write(&out, to, block, size, err);
        to += (int64_t)size;
    }
    out.size = bytes;
    done = done && output_commit(&out, err);
    output_discard(&out);
    return done;
}

bool parts_write(int from, const char *path, int64_t weights_bytes, int64_t split_bytes,
                 Error *err) {
    int64_t parts = ceil_div(weights_bytes, split_bytes);
    if (parts > PAYLOAD_MAX_PARTS)
        return fail(err, ERR_USAGE, 1308, "--split-size: %lld files, at most %d", (long long)parts,
                    PAYLOAD_MAX_PARTS);
    for (int part = 0; part < parts; part++) {
        char name[PAYLOAD_PART_NAME];
        int64_t at = part * split_bytes, left = weights_bytes - at;
        TRY(payload_part_name(name, path, part, err));
        TRY(part_write(from, at, left < split_bytes ? left : split_bytes, name, err));
    }
    return true;
}

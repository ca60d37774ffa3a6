// Opens and checks the payload of the running file.
#include "executable.h"

#include "payload_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

Bytes executable_segment(const Executable *e, SegmentKind kind) {
    if (kind == SEGMENT_WEIGHTS && e->parts.data)
        return e->parts;
    return (Bytes){e->whole.data + e->segments[kind].offset, (size_t)e->segments[kind].size};
}

static bool map_file(Executable *e, Error *err) {
    struct stat info;
    e->fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (e->fd < 0 || fstat(e->fd, &info) != 0)
        return fail(err, ERR_INTERNAL, 710, "cannot open this file (/proc/self/exe): %s",
                    strerror(errno));
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, e->fd, 0);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 711, "cannot map this file: %s", strerror(errno));
    e->whole = (Bytes){data, (size_t)info.st_size};
    return true;
}

// A private, aligned copy of a table.
static bool table_copy(void **out, int *count, Bytes from, size_t elem_bytes, Error *err) {
    *count = (int)(from.size / elem_bytes);
    *out = malloc(from.size + 1);
    if (!*out || from.size % elem_bytes)
        return fail(err, ERR_CORRUPT, 712, "a table of the payload has a wrong size (%zu bytes)",
                    from.size);
    memcpy(*out, from.data, from.size);
    return true;
}

static bool model_check(const Executable *e, Error *err) {
    const ModelInfo *m = &e->info;
    bool sane = m->vocab_size > 0 && m->hidden_size > 0 && m->max_seq_len > 0 &&
                m->max_batch_size > 0 && m->max_num_tokens > 0 && m->max_head_rows > 0 &&
                m->page_tokens > 0 && m->kv_page_bytes > 0 && m->arena_bytes > 0 &&
                m->stop_count >= 0 && m->stop_count <= PAYLOAD_MAX_STOP_IDS;
    if (!sane || (uint64_t)m->weights_bytes != e->segments[SEGMENT_WEIGHTS].size)
        return fail(err, ERR_CORRUPT, 713, "the payload's model segment contradicts itself");
    size_t pages = (size_t)ceil_div(m->weights_bytes, PAYLOAD_PAGE_BYTES);
    if (e->segments[SEGMENT_CHECKS].size != pages * sizeof(uint64_t))
        return fail(err, ERR_CORRUPT, 714, "the payload has checks for another number of pages");
    return true;
}

// The files beside this one are named after it, wherever it is started from.
static bool parts_open(Executable *e, Error *err) {
    char path[PAYLOAD_PART_NAME];
    size_t mapped;
    if (!weights_external(&e->segments[SEGMENT_WEIGHTS]))
        return true;
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return fail(err, ERR_INTERNAL, 1309, "cannot find the path of this file: %s",
                    strerror(errno));
    path[size] = 0;
    return payload_parts_map(path, &e->segments[SEGMENT_WEIGHTS], &e->parts, &mapped, err);
}

bool executable_open(Executable *e, Error *err) {
    *e = (Executable){.path = "this file", .fd = -1};
    TRY(map_file(e, err));
    Payload payload;
    TRY(payload_parse(e->whole, e->path, &payload, err));
    memcpy(e->segments, payload.segments, sizeof e->segments);
    e->elf_size = (size_t)payload.footer.elf_size;
    TRY(parts_open(e, err));
    Bytes model = executable_segment(e, SEGMENT_MODEL);
    if (model.size != sizeof e->info)
        return fail(err, ERR_CORRUPT, 715,
                    "the payload's model segment has %zu bytes, expected %zu", model.size,
                    sizeof e->info);
    memcpy(&e->info, model.data, sizeof e->info);
    TRY(model_check(e, err));
    e->batch = batch_layout(&e->info);
    void *targets, *kernels;
    TRY(table_copy(&targets, &e->target_count, executable_segment(e, SEGMENT_TARGETS),
                   sizeof *e->targets, err));
    e->targets = targets;
    TRY(table_copy(&kernels, &e->kernel_count, executable_segment(e, SEGMENT_KERNELS),
                   sizeof *e->kernels, err));
    e->kernels = kernels;
    return true;
}

void executable_close(Executable *e) {
    free(e->targets);
    free(e->kernels);
    if (e->parts.data)
        munmap((void *)(uintptr_t)e->parts.data, e->parts.size);
    if (e->whole.data)
        munmap((void *)(uintptr_t)e->whole.data, e->whole.size);
    if (e->fd >= 0)
        close(e->fd);
    *e = (Executable){.fd = -1};
}

bool executable_has(const Executable *e, TargetDevice device) {
    for (int at = 0; at < e->target_count; at++)
        if (e->targets[at].device == (int32_t)device)
            return true;
    return false;
}

bool executable_page_check(const Executable *e, int64_t page, const void *data, size_t size,
                           Error *err) {
    uint64_t expected;
    memcpy(&expected, executable_segment(e, SEGMENT_CHECKS).data + page * (int64_t)sizeof expected,
           sizeof expected);
    if (payload_hash64(data, size) != expected)
        return fail(err, ERR_CORRUPT, 716,
                    "the weights are damaged (MiB %lld of %lld): copy the file again",
                    (long long)page,
                    (long long)ceil_div(e->info.weights_bytes, PAYLOAD_PAGE_BYTES));
    return true;
}

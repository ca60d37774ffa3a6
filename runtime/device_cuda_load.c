// The weights to the GPU: they stream from the file through two pinned buffers, and their checks are
// computed on the way. Where GPU and host share their memory (Jetson), they are read to where they
// stay.
#include "device_cuda.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    STAGE_BYTES = 16 * PAYLOAD_PAGE_BYTES, // one pinned buffer
    STAGES = 2,
    LOADERS = 8, // threads that read and check pages
};

typedef struct Load {
    const Executable *e;
    int64_t at; // of this stage in the weights
    int64_t size;
    unsigned char *stage; // pinned
    int threads;
    Error errors[LOADERS];
    bool failed[LOADERS];
} Load;

static bool page_read(const Load *l, int64_t at, size_t size, Error *err) {
    int64_t from = (int64_t)l->e->segments[SEGMENT_WEIGHTS].offset + l->at + at;
    if (l->e->parts.data) { // files of their own, mapped
        memcpy(l->stage + at, l->e->parts.data + l->at + at, size);
        return executable_page_check(l->e, (l->at + at) / PAYLOAD_PAGE_BYTES, l->stage + at, size,
                                     err);
    }
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(l->e->fd, l->stage + at + done, size - done, from + (int64_t)done);
        if (got <= 0 && errno != EINTR)
            return fail(err, ERR_INTERNAL, 864, "cannot read the weights from %s: %s", l->e->path,
                        got < 0 ? strerror(errno) : "the file became shorter");
        done += got > 0 ? (size_t)got : 0;
    }
    return executable_page_check(l->e, (l->at + at) / PAYLOAD_PAGE_BYTES, l->stage + at, size, err);
}

static void load_pages(void *user, int thread) {
    Load *l = user;
    for (int64_t at = (int64_t)thread * PAYLOAD_PAGE_BYTES; at < l->size && !l->failed[thread];
         at += (int64_t)l->threads * PAYLOAD_PAGE_BYTES) {
        int64_t size = l->size - at < PAYLOAD_PAGE_BYTES ? l->size - at : PAYLOAD_PAGE_BYTES;
        l->failed[thread] = !page_read(l, at, (size_t)size, &l->errors[thread]);
    }
}

static bool load_read(Pool *pool, Load *l, Error *err) {
    pool_run(pool, load_pages, l);
    for (int thread = 0; thread < l->threads; thread++)
        if (l->failed[thread]) {
            *err = l->errors[thread];
            return false;
        }
    return true;
}

static bool load_stage(CudaDevice *d, Pool *pool, Load *l, CUevent done, Error *err) {
    CHECK(d, event_wait(done), "cuEventSynchronize"); // the copy that used this buffer last
    TRY(load_read(pool, l, err));
    CUdeviceptr to = (CUdeviceptr)(uintptr_t)d->run.base[REGION_WEIGHTS] + (uint64_t)l->at;
    CHECK(d, copy_to_device(to, l->stage, (size_t)l->size, d->stream), "cuMemcpyHtoDAsync");
    CHECK(d, event_record(done, d->stream), "cuEventRecord");
    return true;
}

static bool load_all(CudaDevice *d, Pool *pool, void *stages[STAGES], CUevent done[STAGES],
                     Error *err) {
    int64_t bytes = d->e->info.weights_bytes;
    Bytes weights = executable_segment(d->e, SEGMENT_WEIGHTS);
    madvise((void *)(uintptr_t)weights.data, weights.size, MADV_WILLNEED); // reads ahead
    for (int64_t at = 0, stage = 0; at < bytes; at += STAGE_BYTES, stage = (stage + 1) % STAGES) {
        Load l = {.e = d->e,
                  .at = at,
                  .size = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES,
                  .stage = stages[stage],
                  .threads = pool_threads(pool)};
        TRY(load_stage(d, pool, &l, done[stage], err));
    }
    return cuda_check(d, d->cu.stream_wait(d->stream), "loading the weights", err);
}

// Into memory that the GPU shares: read once, to where it stays. Nothing keeps a second copy: what was
// read leaves the system's cache of the file.
static bool load_in_place(CudaDevice *d, Pool *pool, Error *err) {
    int64_t bytes = d->e->info.weights_bytes;
    for (int64_t at = 0; at < bytes; at += STAGE_BYTES) {
        Load l = {.e = d->e,
                  .at = at,
                  .size = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES,
                  .stage = d->run.base[REGION_WEIGHTS] + at,
                  .threads = pool_threads(pool)};
        TRY(load_read(pool, &l, err));
        posix_fadvise(d->e->fd, (off_t)d->e->segments[SEGMENT_WEIGHTS].offset + at, l.size,
                      POSIX_FADV_DONTNEED);
    }
    return true;
}

bool cuda_weights_load(CudaDevice *d, Error *err) {
    void *stages[STAGES] = {0};
    CUevent done[STAGES] = {0};
    Pool *pool = NULL;
    int threads = threads_available() < LOADERS ? threads_available() : LOADERS;
    bool good = pool_open(&pool, threads, err);
    if (good && d->integrated) {
        good = load_in_place(d, pool, err);
        pool_close(pool);
        return good;
    }
    for (int at = 0; good && at < STAGES; at++)
        good =
            cuda_check(d, d->cu.host_alloc(&stages[at], STAGE_BYTES, 0), "cuMemHostAlloc", err) &&
            cuda_check(d, d->cu.event_create(&done[at], 0), "cuEventCreate", err);
    good = good && load_all(d, pool, stages, done, err);
    if (!good)
        d->cu.stream_wait(d->stream); // copies from the buffers may be under way
    for (int at = 0; at < STAGES; at++) {
        if (done[at])
            d->cu.event_destroy(done[at]);
        if (stages[at])
            d->cu.host_free(stages[at]);
    }
    pool_close(pool);
    return good;
}

// Weights of a CUDA device: streamed from the file through two pinned buffers, one of which is read and
// checked by several threads while the other is on its way to the GPU. Where GPU and host share
// their memory (Jetson), they are read to where they stay.
#include "device_cuda.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    STAGE_BYTES = 16 * PAYLOAD_PAGE_BYTES, // one pinned buffer
    STAGES = 2,
    LOADERS = 16, // threads that read and check pages, at most
};

// ---- reading ------------------------------------------------------------------------------------

typedef struct Load {
    const Executable *e;
    int64_t at; // of this stage in the weights
    int64_t size;
    unsigned char *stage; // pinned
    int threads;
    bool unchecked; // only read, to see what that takes
    Error errors[LOADERS];
    bool failed[LOADERS];
} Load;

static bool page_read(const Load *l, int64_t at, size_t size, Error *err) {
    int64_t from = (int64_t)l->e->segments[SEGMENT_WEIGHTS].offset + l->at + at;
    if (l->e->parts.data) // files of their own, mapped
        memcpy(l->stage + at, l->e->parts.data + l->at + at, size);
    for (size_t done = 0; !l->e->parts.data && done < size;) {
        ssize_t got = pread(l->e->fd, l->stage + at + done, size - done, from + (int64_t)done);
        if (got <= 0 && errno != EINTR)
            return fail(err, ERR_INTERNAL, 864, "cannot read the weights from %s: %s", l->e->path,
                        got < 0 ? strerror(errno) : "the file became shorter");
        done += got > 0 ? (size_t)got : 0;
    }
    return l->unchecked ||
           executable_page_check(l->e, (l->at + at) / PAYLOAD_PAGE_BYTES, l->stage + at, size, err);
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

// The stage that begins at `at`.
static Load load_at(const CudaDevice *d, Pool *pool, int64_t at, unsigned char *stage) {
    int64_t left = d->e->info.weights_bytes - at;
    return (Load){.e = d->e,
                  .at = at,
                  .size = left < STAGE_BYTES ? left : STAGE_BYTES,
                  .stage = stage,
                  .threads = pool_threads(pool)};
}

static bool loaders_open(Pool **pool, Error *err) {
    int threads = threads_available() < LOADERS ? threads_available() : LOADERS;
    return pool_open(pool, threads, err);
}

// ---- through pinned memory ----------------------------------------------------------------------

static bool load_stage(CudaDevice *d, Pool *pool, Load *l, CUevent done, Error *err) {
    LoadTimes *times = &d->device.load;
    double start = clock_seconds();
    CHECK(d, event_wait(done), "cuEventSynchronize"); // the copy that used this buffer last
    double waited = clock_seconds();
    TRY(load_read(pool, l, err));
    times->wait_s += waited - start;
    times->read_s += clock_seconds() - waited;
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
        Load l = load_at(d, pool, at, stages[stage]);
        TRY(load_stage(d, pool, &l, done[stage], err));
    }
    double start = clock_seconds();
    TRY(cuda_check(d, d->cu.stream_wait(d->stream), "loading the weights", err));
    d->device.load.wait_s += clock_seconds() - start;
    return true;
}

static bool load_staged(CudaDevice *d, Pool *pool, Error *err) {
    void *stages[STAGES] = {0};
    CUevent done[STAGES] = {0};
    bool good = true;
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
    return good;
}

// ---- into shared memory -------------------------------------------------------------------------

// Read once, to where it stays. Nothing keeps a second copy: what was read leaves the system's cache
// of the file.
static bool load_in_place(CudaDevice *d, Pool *pool, Error *err) {
    for (int64_t at = 0; at < d->e->info.weights_bytes; at += STAGE_BYTES) {
        Load l = load_at(d, pool, at, d->run.base[REGION_WEIGHTS] + at);
        double start = clock_seconds();
        TRY(load_read(pool, &l, err));
        d->device.load.read_s += clock_seconds() - start;
        posix_fadvise(d->e->fd, (off_t)d->e->segments[SEGMENT_WEIGHTS].offset + at, l.size,
                      POSIX_FADV_DONTNEED);
    }
    return true;
}

bool cuda_weights_load(CudaDevice *d, Error *err) {
    double start = clock_seconds();
    Pool *pool = NULL;
    TRY(loaders_open(&pool, err));
    d->device.load = (LoadTimes){.bytes = d->e->info.weights_bytes, .threads = pool_threads(pool)};
    bool good = d->integrated ? load_in_place(d, pool, err) : load_staged(d, pool, err);
    pool_close(pool);
    d->device.load.seconds = clock_seconds() - start;
    return good;
}

// ---- what it takes at least ---------------------------------------------------------------------

static bool read_measure(CudaDevice *d, Pool *pool, unsigned char *stage, double *seconds,
                         Error *err) {
    double start = clock_seconds();
    for (int64_t at = 0; at < d->e->info.weights_bytes; at += STAGE_BYTES) {
        Load l = load_at(d, pool, at, stage);
        l.unchecked = true;
        TRY(load_read(pool, &l, err));
    }
    *seconds = clock_seconds() - start;
    return true;
}

// Always to the same place: the weights must stay what they are.
static bool copy_measure(CudaDevice *d, const void *stage, CUdeviceptr to, double *seconds,
                         Error *err) {
    int64_t bytes = d->e->info.weights_bytes;
    double start = clock_seconds();
    for (int64_t at = 0; at < bytes; at += STAGE_BYTES) {
        int64_t size = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        CHECK(d, copy_to_device(to, stage, (size_t)size, d->stream), "cuMemcpyHtoDAsync");
    }
    TRY(cuda_check(d, d->cu.stream_wait(d->stream), "a plain copy", err));
    *seconds = clock_seconds() - start;
    return true;
}

bool cuda_load_limits(Device *device, LoadLimits *out, Error *err) {
    CudaDevice *d = cuda_of(device);
    void *stage = NULL;
    CUdeviceptr to = 0;
    Pool *pool = NULL;
    *out = (LoadLimits){0};
    bool good = loaders_open(&pool, err) &&
                cuda_check(d, d->cu.host_alloc(&stage, STAGE_BYTES, 0), "cuMemHostAlloc", err) &&
                cuda_check(d, d->cu.memory_alloc(&to, STAGE_BYTES), "cuMemAlloc", err) &&
                read_measure(d, pool, stage, &out->read_s, err) &&
                (d->integrated || copy_measure(d, stage, to, &out->copy_s, err));
    if (!good)
        d->cu.stream_wait(d->stream);
    if (to)
        d->cu.memory_free(to);
    if (stage)
        d->cu.host_free(stage);
    pool_close(pool);
    return good;
}

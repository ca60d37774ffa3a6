// Packs weights into tile16 (tile16.h; drawn in docs/kernels.md). The twin of every linear kernel.
//
// The checkpoint stores codes along K in words, one column per output; a tile wants 16 outputs x 64
// inputs. So a band of 64 packed rows is unpacked to bytes a chunk of K at a time, reading whole
// cache lines of the checkpoint, and its tiles are assembled from there. Bands are independent:
// threads take them in turn, and the bytes written do not depend on who took which.
#include "tile16.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_TILES = 4, BAND_ROWS = BAND_TILES * TILE_ROWS, CHUNK_K = 1024 };

// Where the packed rows of a band come from.
typedef struct BandRows {
    int part[BAND_ROWS];
    int64_t n[BAND_ROWS]; // -1: padding
    int order[BAND_ROWS]; // the rows, sorted so that neighbouring features follow each other
} BandRows;

static BandRows band_rows(const PackedTensor *t, int64_t first) {
    BandRows b;
    for (int row = 0; row < BAND_ROWS; row++) {
        b.n[row] = -1;
        if (first + row < t->rows)
            packed_row(t, first + row, &b.part[row], &b.n[row]);
        // Paired orders: rows 0..7 of all tiles are one run of features, rows 8..15 another.
        int half = row / (BAND_ROWS / 2), in_half = row % (BAND_ROWS / 2);
        b.order[row] = t->order == ROWS_PLAIN ? row
                                              : in_half / 8 * TILE_ROWS + half * 8 + in_half % 8;
    }
    return b;
}

// The longest run from `at` of rows whose features are consecutive in one part.
static int run_length(const BandRows *b, int at) {
    int first = b->order[at], length = 1;
    if (b->n[first] < 0)
        return 1;
    while (at + length < BAND_ROWS) {
        int next = b->order[at + length];
        if (b->part[next] != b->part[first] || b->n[next] != b->n[first] + length)
            break;
        length++;
    }
    return length;
}

// ---- tiles --------------------------------------------------------------------------------------

static void put_word(unsigned char *out, uint32_t word) {
    memcpy(out, &word, sizeof word);
}

// codes: 16 rows of `stride` bytes, at the tile's first k.
static void tile4_put(const uint8_t *codes, int64_t stride, unsigned char *out) {
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 4; c++)
            for (int j = 0; j < 4; j++) {
                const uint8_t *low = codes + r * stride + 16 * j + 2 * c;
                const uint8_t *high = low + 8 * stride;
                uint32_t word = (uint32_t)low[0] | (uint32_t)high[0] << 4 | (uint32_t)low[8] << 8 |
                                (uint32_t)high[8] << 12 | (uint32_t)low[1] << 16 |
                                (uint32_t)high[1] << 20 | (uint32_t)low[9] << 24 |
                                (uint32_t)high[9] << 28;
                put_word(out + (4 * r + c) * 16 + 4 * j, word);
            }
}

static void tile8_put(const uint8_t *codes, int64_t stride, unsigned char *out) {
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 4; c++)
            for (int word = 0; word < 4; word++) {
                const uint8_t *row = codes + (r + word % 2 * 8) * stride + word / 2 * 16 + 2 * c;
                unsigned char *to = out + (4 * r + c) * 16 + 4 * word;
                to[0] = row[0];
                to[1] = row[8];
                to[2] = row[1];
                to[3] = row[9];
            }
}

// halves: 16 rows of `stride` fp16.
static void tile16_put(const uint16_t *halves, int64_t stride, unsigned char *out) {
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 4; c++)
            for (int word = 0; word < 4; word++)
                memcpy(out + (4 * r + c) * 16 + 4 * word,
                       halves + (r + word % 2 * 8) * stride + word / 2 * 8 + 2 * c, 4);
}

// ---- bands --------------------------------------------------------------------------------------

// Room for one band; one per thread.
typedef struct Scratch {
    uint8_t codes[BAND_ROWS * CHUNK_K]; // [row][CHUNK_K]
    uint8_t run[BAND_ROWS * CHUNK_K];   // [column of a run][count]
    uint16_t halves[BAND_ROWS * CHUNK_K];
} Scratch;

static void codes_read(const PackedTensor *t, const BandRows *b, int64_t k0, int64_t count,
                       Scratch *s) {
    int64_t real = t->in_features - k0 < count ? t->in_features - k0 : count;
    memset(s->codes, 1 << (t->bits - 1), sizeof s->codes); // padding: the code of 0
    for (int at = 0, length; at < BAND_ROWS; at += length) {
        int first = b->order[at];
        length = run_length(b, at);
        if (b->n[first] < 0)
            continue;
        weight_code_block(t->parts[b->part[first]], b->n[first], length, k0, real, s->run);
        for (int i = 0; i < length; i++)
            memcpy(s->codes + b->order[at + i] * CHUNK_K, s->run + i * real, (size_t)real);
    }
}

static void halves_read(const PackedTensor *t, const BandRows *b, int64_t k0, int64_t count,
                        Scratch *s) {
    int64_t real = t->in_features - k0 < count ? t->in_features - k0 : count;
    memset(s->halves, 0, sizeof s->halves);
    for (int row = 0; row < BAND_ROWS; row++)
        if (b->n[row] >= 0)
            weight_halves(t->parts[b->part[row]], b->n[row], k0, real, s->halves + row * CHUNK_K);
}

// The 16 scales of each group of a record: index 2 * r + h is row r + 8 * h.
static void scales_put(const PackedTensor *t, const BandRows *b, int tile, int64_t k0,
                       const Record *r, unsigned char *out) {
    for (int group = 0; group < r->groups; group++)
        for (int i = 0; i < TILE_ROWS; i++) {
            int row = tile * TILE_ROWS + i / 2 + i % 2 * 8;
            int64_t k = k0 + group * t->group;
            uint16_t scale = 0;
            if (b->n[row] >= 0 && k < t->in_features) {
                const Weight *w = t->parts[b->part[row]];
                scale = weight_scale_half(w, k / w->group_size, b->n[row]);
            }
            memcpy(out + group * SCALE_BLOCK_BYTES + 2 * i, &scale, sizeof scale);
        }
}

static void record_put(const PackedTensor *t, const Scratch *s, int tile, int64_t k,
                       const Record *r, unsigned char *out) {
    out += r->groups * SCALE_BLOCK_BYTES;
    int64_t at = (int64_t)tile * TILE_ROWS * CHUNK_K + k;
    for (int i = 0; i < r->tiles; i++, at += r->tile_k, out += TILE_BYTES) {
        if (t->bits == 4)
            tile4_put(s->codes + at, CHUNK_K, out);
        else if (t->bits == 8)
            tile8_put(s->codes + at, CHUNK_K, out);
        else
            tile16_put(s->halves + at, CHUNK_K, out);
    }
}

static int band_tiles(const PackedTensor *t, int64_t band) {
    int64_t left = t->rows / TILE_ROWS - band * BAND_TILES;
    return left < BAND_TILES ? (int)left : BAND_TILES;
}

static int64_t band_bytes(const PackedTensor *t) { // of a whole band
    Record r = record_geometry(t->bits, t->group);
    return t->k_padded / r.k * r.bytes * BAND_TILES;
}

static void band_pack(const PackedTensor *t, int64_t band, Scratch *s, unsigned char *out) {
    Record r = record_geometry(t->bits, t->group);
    BandRows rows = band_rows(t, band * BAND_ROWS);
    int64_t tile_bytes = t->k_padded / r.k * r.bytes;
    for (int64_t k0 = 0; k0 < t->k_padded; k0 += CHUNK_K) {
        int64_t count = t->k_padded - k0 < CHUNK_K ? t->k_padded - k0 : CHUNK_K;
        if (t->bits == 16)
            halves_read(t, &rows, k0, count, s);
        else
            codes_read(t, &rows, k0, count, s);
        for (int tile = 0; tile < band_tiles(t, band); tile++)
            for (int64_t k = 0; k < count; k += r.k) {
                unsigned char *record = out + tile * tile_bytes + (k0 + k) / r.k * r.bytes;
                scales_put(t, &rows, tile, k0 + k, &r, record);
                record_put(t, s, tile, k, &r, record);
            }
    }
}

static int64_t band_count(const PackedTensor *t) {
    return t->kind == PACKED_VECTOR ? 1 : ceil_div(t->rows / TILE_ROWS, BAND_TILES);
}

void tensor_pack(const PackedTensor *t, unsigned char *out) {
    if (t->kind == PACKED_VECTOR) {
        memcpy(out, t->values, (size_t)t->bytes);
        return;
    }
    Arena arena = {0};
    Scratch *s = ARENA_NEW(&arena, Scratch, 1);
    for (int64_t band = 0; band < band_count(t); band++)
        band_pack(t, band, s, out + band * band_bytes(t));
    arena_free(&arena);
}

// ---- all tensors, to a file ---------------------------------------------------------------------

typedef struct Work {
    const Graph *g;
    int fd;
    int64_t base;
    int tensor;   // the next band to take
    int64_t band;
    int64_t done; // bytes written
    int64_t total;
    int error; // errno of the first failure
    void (*progress)(void *user, int64_t done, int64_t total);
    void *user;
    pthread_mutex_t lock;
} Work;

static bool work_take(Work *w, const PackedTensor **t, int64_t *band) {
    pthread_mutex_lock(&w->lock);
    while (w->tensor < w->g->packed_count && w->band >= band_count(&w->g->packed[w->tensor])) {
        w->tensor++;
        w->band = 0;
    }
    bool more = !w->error && w->tensor < w->g->packed_count;
    if (more) {
        *t = &w->g->packed[w->tensor];
        *band = w->band++;
    }
    pthread_mutex_unlock(&w->lock);
    return more;
}

static int write_all(int fd, const unsigned char *data, int64_t size, int64_t at) {
    while (size > 0) {
        ssize_t wrote = pwrite(fd, data, (size_t)size, at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? errno : ENOSPC;
        data += wrote;
        at += wrote;
        size -= wrote;
    }
    return 0;
}

static void work_done(Work *w, int64_t bytes, int error) {
    pthread_mutex_lock(&w->lock);
    w->done += bytes;
    if (error && !w->error)
        w->error = error;
    if (w->progress)
        w->progress(w->user, w->done, w->total);
    pthread_mutex_unlock(&w->lock);
}

static void *work_run(void *argument) {
    Work *w = argument;
    Arena arena = {0};
    Scratch *s = ARENA_NEW(&arena, Scratch, 1);
    int64_t room = 0, band;
    for (int i = 0; i < w->g->packed_count; i++) {
        const PackedTensor *t = &w->g->packed[i];
        int64_t need = t->kind == PACKED_VECTOR ? t->bytes : band_bytes(t);
        room = need > room ? need : room;
    }
    unsigned char *out = arena_alloc(&arena, (size_t)room);
    for (const PackedTensor *t; work_take(w, &t, &band);) {
        int64_t size = t->bytes, at = t->offset;
        if (t->kind == PACKED_VECTOR) {
            memcpy(out, t->values, (size_t)size);
        } else {
            band_pack(t, band, s, out);
            size = band_bytes(t) / BAND_TILES * band_tiles(t, band);
            at += band * band_bytes(t);
        }
        work_done(w, size, write_all(w->fd, out, size, w->base + at));
    }
    arena_free(&arena);
    return NULL;
}

// The checks of pages that are all written, read back from the page cache.
static bool pages_check(int fd, int64_t base, int64_t bytes, uint64_t *checks, Error *err) {
    Arena arena = {0};
    unsigned char *page = arena_alloc(&arena, PAYLOAD_PAGE_BYTES);
    bool done = true;
    for (int64_t at = 0; done && at < bytes; at += PAYLOAD_PAGE_BYTES) {
        size_t size = (size_t)(bytes - at < PAYLOAD_PAGE_BYTES ? bytes - at : PAYLOAD_PAGE_BYTES);
        memset(page, 0, size); // behind the last tensor the file may end
        for (size_t have = 0; done && have < size;) {
            ssize_t got = pread(fd, page + have, size - have, base + at + (int64_t)have);
            if (got == 0)
                break;
            if (got < 0 && errno != EINTR)
                done = fail(err, ERR_RESOURCE, 462, "cannot read back the packed weights: %s",
                            strerror(errno));
            have += got > 0 ? (size_t)got : 0;
        }
        checks[at / PAYLOAD_PAGE_BYTES] = payload_hash64(page, size);
    }
    arena_free(&arena);
    return done;
}

bool weights_pack(const Graph *g, int fd, int64_t base, int64_t bytes, int threads,
                  void (*progress)(void *user, int64_t done, int64_t total), void *user,
                  uint64_t *checks, PackStats *stats, Error *err) {
    double started = clock_seconds();
    Work w = {.g = g, .fd = fd, .base = base, .total = bytes, .progress = progress, .user = user};
    pthread_mutex_init(&w.lock, NULL);
    pthread_t ids[64];
    int running = 0;
    while (running < threads - 1 && running < 64 &&
           pthread_create(&ids[running], NULL, work_run, &w) == 0)
        running++;
    work_run(&w);
    for (int i = 0; i < running; i++)
        pthread_join(ids[i], NULL);
    pthread_mutex_destroy(&w.lock);
    if (w.error)
        return fail(err, ERR_RESOURCE, 463, "cannot write the packed weights: %s",
                    strerror(w.error));
    TRY(pages_check(fd, base, bytes, checks, err));
    *stats = (PackStats){.seconds = clock_seconds() - started, .bytes = bytes};
    return true;
}

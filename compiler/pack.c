// Packs weights into tile16 (tile16.h; drawn in docs/kernels.md). The twin of every linear kernel.
//
// The checkpoint stores codes along K in words, one column per output; a tile wants 16 outputs x 64
// inputs. So a band of 64 packed rows is unpacked to bytes a chunk of K at a time, reading whole
// cache lines of the checkpoint, and its tiles are assembled from there. Bands are independent:
// threads take them in turn, and the bytes written do not depend on who took which.
#include "blocks.h"
#include "tile16.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAND_TILES = 4, BAND_ROWS = BAND_TILES * TILE_ROWS, CHUNK_K = 1024 };

// Where the packed rows of a band come from.
typedef struct BandRows {
    const Weight *part[BAND_ROWS];
    int64_t n[BAND_ROWS];  // -1: padding
    int order[BAND_ROWS];  // the rows, sorted so that neighbouring features follow each other
    const int32_t *inputs; // input_order of the expert, NULL: none
    bool scattered;        // by a row_order: neighbours are no neighbours in the checkpoint
} BandRows;

// Row `first` counts from the first row of the expert.
static BandRows band_rows(const PackedTensor *t, int64_t expert, int64_t first) {
    BandRows b = {.inputs = t->input_order ? t->input_order + expert * t->in_features : NULL};
    const int32_t *places = t->row_order ? t->row_order + expert * t->out_features / 2 : NULL;
    b.scattered = places != NULL;
    for (int row = 0; row < BAND_ROWS; row++) {
        int part = 0;
        b.n[row] = -1;
        if (first + row < t->rows)
            packed_row(t, first + row, &part, &b.n[row]);
        b.part[row] = t->parts[expert * t->part_count + part];
        if (places && b.n[row] >= 0)
            b.n[row] = places[b.n[row]];
        // Paired orders: rows 0..7 of all tiles are one run of features, rows 8..15 another.
        int half = row / (BAND_ROWS / 2), in_half = row % (BAND_ROWS / 2);
        b.order[row] =
            t->order == ROWS_PLAIN ? row : in_half / 8 * TILE_ROWS + half * 8 + in_half % 8;
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
    uint8_t *natural; // [row][checkpoint's K]: codes of a band with another order of inputs
} Scratch;

// codes_unpack for rows that are scattered: all rows of each part at once.
static void codes_collect(const BandRows *b, int64_t k0, int64_t count, Scratch *s, uint8_t *out,
                          int64_t stride) {
    bool taken[BAND_ROWS] = {false};
    for (int first = 0; first < BAND_ROWS; first++) {
        int rows[BAND_ROWS], found = 0;
        int64_t columns[BAND_ROWS];
        for (int row = first; row < BAND_ROWS; row++)
            if (!taken[row] && b->n[row] >= 0 && b->part[row] == b->part[first]) {
                taken[row] = true;
                rows[found] = row;
                columns[found++] = b->n[row];
            }
        weight_code_columns(b->part[first], columns, found, k0, count, s->run, count);
        for (int i = 0; i < found; i++)
            memcpy(out + rows[i] * stride, s->run + i * count, (size_t)count);
    }
}

// Codes of inputs [k0, k0 + count) of all rows, as the checkpoint orders them, to out[row][stride].
static void codes_unpack(const BandRows *b, int64_t k0, int64_t count, Scratch *s, uint8_t *out,
                         int64_t stride) {
    if (b->scattered) {
        codes_collect(b, k0, count, s, out, stride);
        return;
    }
    for (int at = 0, length; at < BAND_ROWS; at += length) {
        int first = b->order[at];
        length = run_length(b, at);
        if (b->n[first] < 0)
            continue;
        weight_code_block(b->part[first], b->n[first], length, k0, count, s->run);
        for (int i = 0; i < length; i++)
            memcpy(out + b->order[at + i] * stride, s->run + i * count, (size_t)count);
    }
}

// All of K, a chunk at a time.
static void natural_read(const BandRows *b, int64_t in_features, Scratch *s) {
    for (int64_t k0 = 0; k0 < in_features; k0 += CHUNK_K) {
        int64_t count = in_features - k0 < CHUNK_K ? in_features - k0 : CHUNK_K;
        codes_unpack(b, k0, count, s, s->natural + k0, in_features);
    }
}

// The first input of the stored group that starts at k; -1: the group is padding.
static int64_t group_input(const PackedTensor *t, const BandRows *b, int64_t k) {
    int64_t end = k + t->group < t->in_features ? k + t->group : t->in_features;
    if (!b->inputs)
        return k < end ? k : -1;
    for (; k < end; k++)
        if (b->inputs[k] >= 0)
            return b->inputs[k];
    return -1;
}

// Zero point of a row in the stored group that starts at k.
static int group_zero(const PackedTensor *t, const BandRows *b, int row, int64_t k) {
    int64_t input = b->n[row] < 0 ? -1 : group_input(t, b, k);
    if (input < 0)
        return 1 << (t->bits - 1);
    return weight_zero(b->part[row], weight_group(b->part[row], input), b->n[row]);
}

// Gives one row's codes of a stored group, which starts at k0 + at, their final value: padding
// becomes the code of 0, other widths move so that this code is the middle.
static void group_finish(const PackedTensor *t, const BandRows *b, int row, int64_t k0, int64_t at,
                         uint8_t *codes) {
    const int middle = 1 << (t->bits - 1);
    const int zero = group_zero(t, b, row, k0 + at);
    const int move = b->n[row] >= 0 && b->part[row]->bits != t->bits ? middle - zero : 0;
    for (int64_t i = at; i < at + t->group; i++) {
        int64_t k = k0 + i;
        bool real = b->n[row] >= 0 && k < t->in_features && (!b->inputs || b->inputs[k] >= 0);
        codes[i] = (uint8_t)(real ? codes[i] + move : zero + move);
    }
}

// Can the codes be stored as they are? Then padding has the code of 0 already.
static bool codes_final(const PackedTensor *t, const BandRows *b) {
    return !t->zeros && b->part[0]->bits == t->bits;
}

static void codes_read(const PackedTensor *t, const BandRows *b, int64_t k0, int64_t count,
                       Scratch *s) {
    int64_t real = t->in_features - k0 < count ? t->in_features - k0 : count;
    memset(s->codes, 1 << (t->bits - 1), sizeof s->codes); // padding: the code of 0
    if (!b->inputs) {
        codes_unpack(b, k0, real, s, s->codes, CHUNK_K);
    } else {
        int64_t stride = b->part[0]->in_features;
        for (int row = 0; row < BAND_ROWS; row++)
            for (int64_t k = 0; b->n[row] >= 0 && k < real; k++)
                if (b->inputs[k0 + k] >= 0)
                    s->codes[row * CHUNK_K + k] = s->natural[row * stride + b->inputs[k0 + k]];
    }
    if (codes_final(t, b))
        return;
    for (int row = 0; row < BAND_ROWS; row++)
        for (int64_t at = 0; at < count; at += t->group)
            group_finish(t, b, row, k0, at, s->codes + row * CHUNK_K);
}

// Plain weights of one row in another order of inputs.
static void halves_gather(const PackedTensor *t, const BandRows *b, int row, int64_t k0,
                          int64_t count, uint16_t *out) {
    for (int64_t k = 0; k < count; k++)
        if (b->inputs[k0 + k] >= 0)
            weight_halves(b->part[row], b->n[row], b->inputs[k0 + k], 1, t->bf16, out + k);
}

static void halves_read(const PackedTensor *t, const BandRows *b, int64_t k0, int64_t count,
                        Scratch *s) {
    int64_t real = t->in_features - k0 < count ? t->in_features - k0 : count;
    memset(s->halves, 0, sizeof s->halves);
    for (int row = 0; row < BAND_ROWS; row++) {
        uint16_t *out = s->halves + row * CHUNK_K;
        if (b->n[row] < 0)
            continue;
        if (b->inputs)
            halves_gather(t, b, row, k0, real, out);
        else
            weight_halves(b->part[row], b->n[row], k0, real, t->bf16, out);
    }
}

static unsigned char *put_half(unsigned char *out, float value) {
    uint16_t half = half_from_float(value);
    memcpy(out, &half, sizeof half);
    return out + sizeof half;
}

// The scales of each group of a record, then the zero points: index 2 * r + h of a block is row
// r + 8 * h.
static void scales_put(const PackedTensor *t, const BandRows *b, int tile, int64_t k0,
                       const Record *r, unsigned char *out) {
    for (int group = 0; group < r->groups; group++) {
        int64_t k = k0 + group * t->group, input = group_input(t, b, k);
        for (int i = 0; i < TILE_ROWS; i++) {
            int row = tile * TILE_ROWS + i / 2 + i % 2 * 8;
            const Weight *w = b->part[row];
            float scale = 0;
            if (b->n[row] >= 0 && input >= 0)
                scale = weight_scale(w, weight_group(w, input), b->n[row]);
            if (t->scale_f32) {
                memcpy(out, &scale, sizeof scale);
                out += sizeof scale;
            } else {
                out = put_half(out, scale);
            }
        }
    }
    for (int group = 0; t->zeros && group < r->groups; group++)
        for (int i = 0; i < TILE_ROWS; i++) {
            int row = tile * TILE_ROWS + i / 2 + i % 2 * 8;
            out = put_half(out, (float)group_zero(t, b, row, k0 + group * t->group));
        }
}

static void record_put(const PackedTensor *t, const Scratch *s, int tile, int64_t k,
                       const Record *r, unsigned char *out) {
    out += r->groups * (r->scale_bytes + r->zero_bytes);
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

// Bands are counted through all experts of a tensor.
static int64_t expert_bands(const PackedTensor *t) {
    return ceil_div(t->rows / TILE_ROWS, BAND_TILES);
}

static int64_t band_count(const PackedTensor *t) {
    return t->kind == PACKED_LINEAR ? t->experts * expert_bands(t) : 1;
}

static int band_tiles(const PackedTensor *t, int64_t band) {
    int64_t left = t->rows / TILE_ROWS - band % expert_bands(t) * BAND_TILES;
    return left < BAND_TILES ? (int)left : BAND_TILES;
}

static int64_t row_tile_bytes(const PackedTensor *t) {
    Record r = record_geometry(t);
    return t->k_padded / r.k * r.bytes;
}

static int64_t band_at(const PackedTensor *t, int64_t band) { // from the start of the tensor
    return band / expert_bands(t) * t->expert_bytes +
           band % expert_bands(t) * BAND_TILES * row_tile_bytes(t);
}

static void band_pack(const PackedTensor *t, int64_t band, Scratch *s, unsigned char *out) {
    Record r = record_geometry(t);
    int64_t expert = band / expert_bands(t), tile_bytes = row_tile_bytes(t);
    BandRows rows = band_rows(t, expert, band % expert_bands(t) * BAND_ROWS);
    if (rows.inputs && t->bits != 16)
        natural_read(&rows, rows.part[0]->in_features, s);
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

// Room that a thread needs for a tensor's inputs in their natural order.
static int64_t natural_bytes(const PackedTensor *t) {
    bool ordered = t->kind == PACKED_LINEAR && t->input_order && t->bits != 16;
    return ordered ? BAND_ROWS * t->parts[0]->in_features : 0;
}

static const void *vector_data(const PackedTensor *t) {
    return t->kind == PACKED_VECTOR ? (const void *)t->values : (const void *)t->indices;
}

void tensor_pack(const PackedTensor *t, unsigned char *out) {
    if (t->kind != PACKED_LINEAR) {
        memcpy(out, vector_data(t), (size_t)t->bytes);
        return;
    }
    Arena arena = {0};
    Scratch *s = ARENA_NEW(&arena, Scratch, 1);
    s->natural = arena_alloc(&arena, (size_t)natural_bytes(t) + 1);
    for (int64_t band = 0; band < band_count(t); band++)
        band_pack(t, band, s, out + band_at(t, band));
    arena_free(&arena);
}

// ---- all tensors, to a file ---------------------------------------------------------------------

typedef struct Work {
    const Graph *g;
    Blocks *blocks;
    int tensor; // the next band to take
    int64_t band;
    int64_t done; // bytes written
    int64_t total;
    int64_t *left; // [packed_count]: bands that are not written yet
    bool failed;   // a block could not be written
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
    bool more = !w->failed && w->tensor < w->g->packed_count;
    if (more) {
        *t = &w->g->packed[w->tensor];
        *band = w->band++;
    }
    pthread_mutex_unlock(&w->lock);
    return more;
}

// Nobody needs what the tensor was made from any more: a compile's memory stays small.
static void sources_release(const PackedTensor *t) {
    for (int at = 0; t->kind == PACKED_LINEAR && at < t->part_count * t->experts; at++) {
        const Tensor *source = t->parts[at]->qweight ? t->parts[at]->qweight : t->parts[at]->weight;
        tensor_release(source);
    }
}

static void work_done(Work *w, const PackedTensor *t, int64_t bytes, bool written) {
    pthread_mutex_lock(&w->lock);
    w->done += bytes;
    if (--w->left[t - w->g->packed] == 0)
        sources_release(t);
    w->failed = w->failed || !written;
    if (w->progress)
        w->progress(w->user, w->done, w->total);
    pthread_mutex_unlock(&w->lock);
}

static int64_t piece_bytes(const PackedTensor *t, int64_t band) {
    return t->kind == PACKED_LINEAR ? row_tile_bytes(t) * band_tiles(t, band) : t->bytes;
}

// A piece, and zeros behind the tensor's last one up to the next tensor.
static bool piece_put(const Work *w, const PackedTensor *t, int64_t band, const void *data) {
    static const unsigned char zeros[TENSOR_ALIGN];
    int64_t size = piece_bytes(t, band), at = t->kind == PACKED_LINEAR ? band_at(t, band) : 0;
    int64_t fill = (int64_t)round_up((uint64_t)t->bytes, TENSOR_ALIGN) - t->bytes;
    return blocks_put(w->blocks, t->offset + at, data, size) &&
           (at + size < t->bytes || blocks_put(w->blocks, t->offset + t->bytes, zeros, fill));
}

static void *work_run(void *argument) {
    Work *w = argument;
    Arena arena = {0};
    Scratch *s = ARENA_NEW(&arena, Scratch, 1);
    int64_t room = 1, natural = 1, band;
    for (int i = 0; i < w->g->packed_count; i++) {
        const PackedTensor *t = &w->g->packed[i];
        int64_t need = t->kind == PACKED_LINEAR ? row_tile_bytes(t) * BAND_TILES : 0;
        room = need > room ? need : room;
        natural = natural_bytes(t) > natural ? natural_bytes(t) : natural;
    }
    unsigned char *out = arena_alloc(&arena, (size_t)room);
    s->natural = arena_alloc(&arena, (size_t)natural);
    for (const PackedTensor *t; work_take(w, &t, &band);) {
        if (t->kind == PACKED_LINEAR)
            band_pack(t, band, s, out);
        const void *data = t->kind == PACKED_LINEAR ? out : vector_data(t);
        work_done(w, t, piece_bytes(t, band), piece_put(w, t, band, data));
    }
    arena_free(&arena);
    return NULL;
}

bool weights_pack(const Graph *g, int fd, int64_t base, int64_t bytes, int threads,
                  void (*progress)(void *user, int64_t done, int64_t total), void *user,
                  uint64_t *checks, PackStats *stats, Error *err) {
    double started = clock_seconds(), cpu_started = cpu_seconds();
    Work w = {.g = g, .total = bytes, .progress = progress, .user = user};
    Arena arena = {0};
    w.blocks = blocks_open(fd, base, bytes, threads, checks, &arena);
    w.left = ARENA_NEW(&arena, int64_t, g->packed_count + 1);
    for (int i = 0; i < g->packed_count; i++)
        w.left[i] = band_count(&g->packed[i]);
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
    int error = blocks_close(w.blocks);
    arena_free(&arena);
    if (error)
        return fail(err, ERR_RESOURCE, 463, "cannot write the packed weights: %s", strerror(error));
    *stats = (PackStats){.seconds = clock_seconds() - started,
                         .cpu_seconds = cpu_seconds() - cpu_started,
                         .bytes = bytes};
    return true;
}

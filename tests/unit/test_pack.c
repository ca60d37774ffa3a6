// Layout tile16: what tensor_pack writes is taken apart again by the definition of the A fragment
// of mma.m16n8k16 (PTX ISA) and compared, weight by weight and bit by bit, with weight_row. Row
// orders are compared with their definition in compile.h. weights_pack must give the same bytes and
// page checks with any number of threads.
#include "compiler/blocks.h"
#include "tests/random_weight.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct Shape {
    int bits;
    int64_t group_size; // -1: one group
    int64_t in;
    RowOrder order;
    int64_t out[3]; // of the parts, 0: none
    int64_t head_dim;
    unsigned traits;
} Shape;

enum { ZEROS = 1, F32 = 2, ACT_ORDER = 4, BF16 = 8, FEATURES = 16, EXPERTS = 32 }; // traits

// clang-format off
static const Shape shapes[] = {
    {4, 128, 512, ROWS_PLAIN, {64}, 0, 0},      {4, 128, 1408, ROWS_PLAIN, {40, 72, 8}, 0, 0},
    {4, 64, 320, ROWS_PLAIN, {136}, 0, 0},      {4, 32, 416, ROWS_PLAIN, {24}, 0, 0},
    {4, -1, 384, ROWS_PLAIN, {32}, 0, 0},       {4, 256, 512, ROWS_PLAIN, {48}, 0, 0},
    {8, 128, 384, ROWS_PLAIN, {24, 24}, 0, 0},  {8, 64, 192, ROWS_PLAIN, {80}, 0, 0},
    {8, 32, 224, ROWS_PLAIN, {16}, 0, 0},       {8, -1, 160, ROWS_PLAIN, {8}, 0, 0},
    {16, 128, 456, ROWS_PLAIN, {100}, 0, 0},    {16, 128, 64, ROWS_PLAIN, {17, 3}, 0, 0},
    {4, 128, 384, ROWS_ROPE, {256, 128, 128}, 64, 0}, {4, 32, 160, ROWS_ROPE, {96, 32, 32}, 32, 0},
    {8, 64, 128, ROWS_ROPE, {256, 256, 256}, 128, 0}, {16, 128, 96, ROWS_ROPE, {64, 32, 32}, 16, 0},
    {4, 128, 2176, ROWS_GATE_UP, {88, 88}, 0, 0}, {8, 32, 96, ROWS_GATE_UP, {20, 20}, 0, 0},
    {16, 128, 128, ROWS_GATE_UP, {64, 64}, 0, 0}, {4, 64, 192, ROWS_GATE_UP, {12, 12}, 0, 0},
    // other codings of the checkpoint
    {2, 64, 192, ROWS_PLAIN, {40}, 0, 0},      {2, 16, 96, ROWS_PLAIN, {24}, 0, ZEROS},
    {3, 32, 160, ROWS_PLAIN, {32}, 0, ZEROS},  {3, -1, 96, ROWS_PLAIN, {16}, 0, 0},
    {5, 32, 96, ROWS_PLAIN, {32}, 0, ZEROS},   {6, 64, 128, ROWS_PLAIN, {32}, 0, 0},
    {7, 128, 256, ROWS_PLAIN, {64}, 0, ZEROS}, {4, 16, 144, ROWS_PLAIN, {24}, 0, ZEROS},
    {4, 128, 1408, ROWS_PLAIN, {40, 72}, 0, ZEROS}, {4, 32, 96, ROWS_PLAIN, {16}, 0, ZEROS | F32},
    {8, 16, 96, ROWS_PLAIN, {24}, 0, ZEROS},   {8, 128, 256, ROWS_PLAIN, {32}, 0, F32},
    {4, 64, 128, ROWS_ROPE, {64, 32, 32}, 32, ZEROS | F32}, {16, 0, 96, ROWS_PLAIN, {24}, 0, BF16},
    // orders of inputs
    {4, 32, 1184, ROWS_PLAIN, {72, 24}, 0, ACT_ORDER}, {8, 64, 192, ROWS_PLAIN, {16}, 0, ACT_ORDER | ZEROS},
    {2, 32, 96, ROWS_GATE_UP, {24, 24}, 0, ACT_ORDER}, {4, 40, 160, ROWS_PLAIN, {16}, 0, 0},
    {4, 24, 120, ROWS_PLAIN, {16}, 0, ZEROS},  {3, 96, 288, ROWS_PLAIN, {32}, 0, ACT_ORDER | F32},
    // orders of features, and experts
    {4, 32, 1120, ROWS_GATE_UP, {72, 72}, 0, FEATURES}, {8, 64, 128, ROWS_GATE_UP, {24, 24}, 0, FEATURES | ZEROS},
    {4, 32, 96, ROWS_GATE_UP, {40, 40}, 0, EXPERTS | ACT_ORDER}, {4, 64, 128, ROWS_PLAIN, {72}, 0, EXPERTS | ZEROS},
    {16, 0, 64, ROWS_GATE_UP, {24, 24}, 0, EXPERTS},
};
// clang-format on
enum { SHAPES = sizeof shapes / sizeof *shapes };

enum { STACK = 3 }; // experts of a stack

static Weight *shape_weight(const Shape *s, int part, int expert, Random *random, Arena *a) {
    // from subnormal halves to their largest values
    Weight *w = random_weight(a, random, s->bits, s->group_size, s->in, s->out[part],
                              part == 1 ? 1e-7f : 0.01f, part == 2 ? 60000.0f : 0.02f);
    if (s->traits & ZEROS)
        random_zeros(w, a, random);
    if (s->traits & F32)
        random_scales_f32(w, a, random);
    if (s->traits & ACT_ORDER)
        random_act_order(w, a, 1 + (uint64_t)expert);
    return w;
}

// Some features of the checkpoint in another order, and zeros among them.
static void features_choose(PackedTensor *t, Arena *a) {
    int64_t features = t->out_features / 2, places = features + 8;
    int32_t *order = ARENA_NEW(a, int32_t, places);
    for (int64_t place = 0; place < places; place++)
        order[place] = place % 9 == 4 ? -1 : (int32_t)(place * 7 % features);
    t->row_order = order;
    t->out_features = 2 * places;
    t->rows = (int64_t)round_up((uint64_t)t->out_features, 16);
}

static Graph shape_graph(const Shape *s, Arena *a) {
    Random random = {.state = 77 + (uint64_t)s->in};
    Graph g = graph_new(a);
    g.dtype = s->traits & BF16 ? DTYPE_BF16 : DTYPE_FP16;
    const Weight *parts[STACK * LINEAR_MAX_PARTS];
    int part_count = 0, count = 0, experts = s->traits & EXPERTS ? STACK : 1;
    while (part_count < 3 && s->out[part_count])
        part_count++;
    for (; count < experts * part_count; count++)
        parts[count] = shape_weight(s, count % part_count, count / part_count, &random, a);
    int packed = experts > 1 ? graph_experts_weight(&g, "linear", parts, part_count, experts)
                             : graph_linear_weight(&g, "linear", parts, part_count);
    assert_true(packed >= 0);
    g.packed[packed].order = s->order;
    g.packed[packed].head_dim = s->head_dim;
    if (s->traits & FEATURES)
        features_choose(&g.packed[packed], a);
    return g;
}

// ---- rows ---------------------------------------------------------------------------------------

// The definition: fills feature[row] for the concatenated parts, -1 for padding.
static void rows_expected(const PackedTensor *t, int *part, int64_t *n) {
    for (int64_t row = 0; row < t->rows; row++)
        n[row] = -1;
    int64_t first = 0;
    for (int p = 0; p < t->part_count; p++) {
        int64_t features = t->row_order ? t->out_features / 2 : t->parts[p]->out_features;
        int64_t half = t->head_dim / 2;
        for (int64_t f = 0; f < features; f++) {
            int64_t row = first + f;
            if (t->order == ROWS_ROPE && p < 2) {
                int64_t in_head = f % t->head_dim, pair = in_head % half;
                row = first + f - in_head + pair / 8 * 16 + pair % 8 + (in_head >= half ? 8 : 0);
            }
            if (t->order == ROWS_GATE_UP)
                row = f / 8 * 16 + f % 8 + 8 * p;
            part[row] = p;
            n[row] = f;
        }
        first += features;
    }
}

static void test_rows(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        Arena a = {0};
        Graph g = shape_graph(&shapes[i], &a);
        const PackedTensor *t = &g.packed[0];
        int *part = ARENA_NEW(&a, int, t->rows);
        int64_t *n = ARENA_NEW(&a, int64_t, t->rows);
        rows_expected(t, part, n);
        for (int64_t row = 0; row < t->rows; row++) {
            int found_part;
            int64_t found;
            packed_row(t, row, &found_part, &found);
            assert_int_equal(found, n[row]);
            if (found >= 0)
                assert_int_equal(found_part, part[row]);
        }
        arena_free(&a);
    }
}

// ---- fragments ----------------------------------------------------------------------------------

enum { LANES = 32, TILE = 512 };

static uint32_t word_of(const unsigned char *tile, int lane, int word) {
    uint32_t value;
    memcpy(&value, tile + lane * 16 + word * 4, 4);
    return value;
}

// Element `pair` (0, 1) of register a[reg] of a lane, as kernels/dequant.cuh cuts it out of the
// words: a code, or a plain weight.
static float fragment(const unsigned char *tile, const PackedTensor *t, int lane, int step, int reg,
                      int pair) {
    if (t->bits == 4) {
        uint32_t word = word_of(tile, lane, step) >> (reg >= 2 ? 8 : 0);
        uint32_t masked = word & (reg % 2 ? 0x00f000f0 : 0x000f000f);
        return (float)((int)(masked >> (16 * pair) & 0xffff) / (reg % 2 ? 16 : 1));
    }
    if (t->bits == 8) {
        uint32_t word = word_of(tile, lane, 2 * step + reg % 2);
        return (float)(word >> (8 * (2 * pair + reg / 2)) & 0xff);
    }
    uint16_t half = (uint16_t)(word_of(tile, lane, reg) >> (16 * pair));
    return t->bf16 ? bfloat_to_float(half) : half_to_float(half);
}

typedef struct Records {
    int64_t k, tile_k, tiles, groups, scales, zeros, bytes; // scales, zeros: bytes of a block
} Records;

// The table of the layout.
static Records records_of(const PackedTensor *t) {
    static const struct {
        int bits, group;
        Records records;
    } table[] = {
        {4, 128, {128, 64, 2, 1, 0, 0, 0}}, {4, 64, {64, 64, 1, 1, 0, 0, 0}},
        {4, 32, {64, 64, 1, 2, 0, 0, 0}},   {4, 16, {64, 64, 1, 4, 0, 0, 0}},
        {8, 128, {128, 32, 4, 1, 0, 0, 0}}, {8, 64, {64, 32, 2, 1, 0, 0, 0}},
        {8, 32, {32, 32, 1, 1, 0, 0, 0}},   {8, 16, {32, 32, 1, 2, 0, 0, 0}},
        {16, 0, {64, 16, 4, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].bits == t->bits && table[i].group == t->group) {
            Records r = table[i].records;
            r.scales = t->scale_f32 ? 64 : 32;
            r.zeros = t->zeros ? 32 : 0;
            r.bytes = r.groups * (r.scales + r.zeros) + r.tiles * TILE;
            return r;
        }
    fail_msg("no record of %d bits, group %d", t->bits, t->group);
    return (Records){0};
}

static float half_at(const unsigned char *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return half_to_float(half);
}

// What a code of the record at `record` stands for.
static float value_of(const PackedTensor *t, const Records *r, const unsigned char *record, int row,
                      int64_t in_record, float code) {
    if (t->bits == 16)
        return code;
    int64_t group = in_record / t->group, place = 2 * (row % 8) + row / 8;
    const unsigned char *scale = record + group * r->scales + place * (t->scale_f32 ? 4 : 2);
    const unsigned char *zero = record + r->groups * r->scales + group * r->zeros + place * 2;
    float f32;
    memcpy(&f32, scale, sizeof f32);
    return (code - (t->zeros ? half_at(zero) : (float)(1 << (t->bits - 1)))) *
           (t->scale_f32 ? f32 : half_at(scale));
}

// W[row][k] of the packed rows, taken apart fragment by fragment.
static float *unpack(const PackedTensor *t, const unsigned char *packed, Arena *a) {
    Records r = records_of(t);
    float *w = ARENA_NEW(a, float, t->rows * t->k_padded);
    for (int64_t row_tile = 0; row_tile < t->rows / 16; row_tile++)
        for (int64_t k16 = 0; k16 < t->k_padded / 16; k16++) {
            int64_t k = k16 * 16, in_record = k % r.k;
            const unsigned char *record =
                packed + (row_tile * (t->k_padded / r.k) + k / r.k) * r.bytes;
            const unsigned char *tile =
                record + r.groups * (r.scales + r.zeros) + in_record / r.tile_k * TILE;
            for (int i = 0; i < LANES * 4 * 2; i++) {
                int lane = i / 8, reg = i / 2 % 4, pair = i % 2;
                // the A fragment of mma.m16n8k16
                int row = lane / 4 + reg % 2 * 8, column = lane % 4 * 2 + pair + reg / 2 * 8;
                float code = fragment(tile, t, lane, (int)(k % r.tile_k / 16), reg, pair);
                w[(row_tile * 16 + row) * t->k_padded + k + column] =
                    value_of(t, &r, record, row, in_record, code);
            }
        }
    return w;
}

// One packed row of an expert as the checkpoint has it.
static void row_expected(const PackedTensor *t, int expert, int part, int64_t n, float *row,
                         Arena *a) {
    memset(row, 0, (size_t)t->k_padded * sizeof *row);
    if (n >= 0 && t->row_order)
        n = t->row_order[n];
    if (n < 0)
        return;
    const Weight *w = t->parts[expert * t->part_count + part];
    float *natural = ARENA_NEW(a, float, w->in_features);
    weight_row(w, n, natural);
    for (int64_t k = 0; k < t->in_features; k++) {
        int64_t from = t->input_order ? t->input_order[expert * t->in_features + k] : k;
        row[k] = from < 0 ? 0 : natural[from];
        if (t->bits == 16) // rounded to what is stored
            row[k] = t->bf16 ? bfloat_to_float(bfloat_from_float(row[k])) : row[k];
    }
}

static void expert_check(const PackedTensor *t, int expert, int shape,
                         const unsigned char *packed) {
    Arena a = {0};
    float *w = unpack(t, packed, &a), *row = ARENA_NEW(&a, float, t->k_padded);
    int *part = ARENA_NEW(&a, int, t->rows);
    int64_t *n = ARENA_NEW(&a, int64_t, t->rows);
    rows_expected(t, part, n);
    for (int64_t at = 0; at < t->rows; at++) {
        row_expected(t, expert, part[at], n[at], row, &a);
        for (int64_t k = 0; k < t->k_padded; k++)
            if (w[at * t->k_padded + k] != row[k]) // -0 is as good as 0
                fail_msg("shape %d expert %d row %lld k %lld: %g, expected %g", shape, expert,
                         (long long)at, (long long)k, (double)w[at * t->k_padded + k],
                         (double)row[k]);
    }
    arena_free(&a);
}

static void test_fragments(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        Arena a = {0};
        Graph g = shape_graph(&shapes[i], &a);
        int64_t bytes;
        Error err;
        assert_true(weights_layout(&g, &bytes, &err));
        const PackedTensor *t = &g.packed[0];
        unsigned char *packed = arena_alloc(&a, (size_t)t->bytes);
        memset(packed, 0xa5, (size_t)t->bytes);
        tensor_pack(t, packed);
        for (int expert = 0; expert < t->experts; expert++)
            expert_check(t, expert, i, packed + expert * t->expert_bytes);
        arena_free(&a);
    }
}

// ---- all tensors --------------------------------------------------------------------------------

static void progress(void *user, int64_t done, int64_t total) {
    int64_t *last = user;
    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_threads(void **state) {
    (void)state;
    Arena a = {0};
    Random random = {.state = 5};
    Graph g = graph_new(&a);
    float values[300];
    for (int i = 0; i < 300; i++)
        values[i] = random_normal(&random);
    for (int i = 0; i < 3; i++) {
        const Weight *part =
            random_weight(&a, &random, i == 1 ? 8 : 4, 128, 1024, 1000 + 200 * i, 0.001f, 0.02f);
        graph_linear_weight(&g, "linear", &part, 1);
        graph_vector(&g, "vector", values, 100 * (i + 1));
    }
    int64_t bytes;
    Error err;
    assert_true(weights_layout(&g, &bytes, &err));
    enum { BASE = 4096 };
    size_t pages = (size_t)ceil_div(bytes, PAYLOAD_PAGE_BYTES);
    unsigned char *expected = arena_alloc(&a, (size_t)bytes),
                  *found = arena_alloc(&a, (size_t)bytes);
    for (int i = 0; i < g.packed_count; i++) {
        assert_int_equal(g.packed[i].offset % 256, 0);
        tensor_pack(&g.packed[i], expected + g.packed[i].offset);
    }
    for (int threads = 1; threads <= 5; threads += 2) {
        uint64_t *checks = ARENA_NEW(&a, uint64_t, pages);
        PackStats stats;
        int64_t last = 0;
        int fd = memfd_create("pack", 0);
        assert_true(fd >= 0 && ftruncate(fd, BASE + bytes) == 0);
        assert_true(
            weights_pack(&g, fd, BASE, bytes, threads, progress, &last, checks, &stats, &err));
        assert_int_equal(pread(fd, found, (size_t)bytes, BASE), bytes);
        assert_memory_equal(found, expected, (size_t)bytes);
        for (size_t page = 0; page < pages; page++) {
            size_t at = page * PAYLOAD_PAGE_BYTES, left = (size_t)bytes - at;
            size_t size = left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES;
            assert_int_equal(checks[page], payload_hash64(expected + at, size));
        }
        close(fd);
    }
    arena_free(&a);
}

// ---- blocks -------------------------------------------------------------------------------------

enum {
    FILE_BYTES = 60 * (1 << 20) + 12345,
    PIECE_MOST = 5 << 20
}; // more blocks than the window has

typedef struct Writers {
    Blocks *blocks;
    const unsigned char *data;
    int64_t next; // byte that nobody took
    Random random;
    pthread_mutex_t lock;
    bool failed;
} Writers;

static void *writer_run(void *argument) {
    Writers *w = argument;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        int64_t at = w->next, left = FILE_BYTES - at;
        int64_t size = 1 + random_u32(&w->random) % (at / (1 << 20) % 2 ? 3000 : PIECE_MOST);
        size = size < left ? size : left;
        w->next += size;
        pthread_mutex_unlock(&w->lock);
        if (size == 0)
            return NULL;
        if (at == 0)
            usleep(100000); // the others are at the end of the window by then
        if (!blocks_put(w->blocks, at, w->data + at, size))
            w->failed = true;
    }
}

static int blocks_fill(int fd, int64_t base, const unsigned char *data, uint64_t *checks,
                       Arena *a) {
    enum { THREADS = 4 };
    Writers w = {.data = data, .random = {.state = 9}};
    pthread_t ids[THREADS];
    w.blocks = blocks_open(fd, base, FILE_BYTES, THREADS, checks, a);
    pthread_mutex_init(&w.lock, NULL);
    for (int at = 0; at < THREADS; at++)
        assert_int_equal(pthread_create(&ids[at], NULL, writer_run, &w), 0);
    for (int at = 0; at < THREADS; at++)
        pthread_join(ids[at], NULL);
    pthread_mutex_destroy(&w.lock);
    int error = blocks_close(w.blocks);
    assert_int_equal(w.failed, error != 0);
    return error;
}

// One thread's block fails while another writes its own: the failure stays.
static void *block_run(void *argument) {
    Writers *w = argument;
    pthread_mutex_lock(&w->lock);
    int64_t at = w->next;
    w->next += 2 << 20;
    pthread_mutex_unlock(&w->lock);
    blocks_put(w->blocks, at, w->data + at, 2 << 20);
    return NULL;
}

static void failure_check(int fd, const unsigned char *data, uint64_t *checks) {
    enum { THREADS = 8 };
    Arena a = {0};
    Writers w = {.data = data};
    pthread_t ids[THREADS];
    w.blocks = blocks_open(fd, -(2 << 20), THREADS << 21, THREADS, checks, &a);
    pthread_mutex_init(&w.lock, NULL);
    for (int at = 0; at < THREADS; at++)
        assert_int_equal(pthread_create(&ids[at], NULL, block_run, &w), 0);
    for (int at = 0; at < THREADS; at++)
        pthread_join(ids[at], NULL);
    pthread_mutex_destroy(&w.lock);
    assert_int_equal(blocks_close(w.blocks), EINVAL);
    arena_free(&a);
}

static void test_blocks(void **state) {
    (void)state;
    const int64_t base = 2 << 20;
    Arena a = {0};
    Random random = {.state = 4};
    unsigned char *data = arena_alloc(&a, FILE_BYTES), *found = arena_alloc(&a, FILE_BYTES);
    uint64_t checks[FILE_BYTES / PAYLOAD_PAGE_BYTES + 1];
    for (int64_t at = 0; at < FILE_BYTES; at++)
        data[at] = (unsigned char)random_u32(&random);
    int fd = memfd_create("blocks", 0);
    assert_int_equal(blocks_fill(fd, base, data, checks, &a), 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), base + FILE_BYTES); // nothing behind it
    assert_int_equal(pread(fd, found, FILE_BYTES, base), FILE_BYTES);
    assert_memory_equal(found, data, FILE_BYTES);
    for (int64_t page = 0; page * PAYLOAD_PAGE_BYTES < FILE_BYTES; page++) {
        int64_t at = page * PAYLOAD_PAGE_BYTES, left = FILE_BYTES - at;
        assert_int_equal(
            checks[page],
            payload_hash64(data + at,
                           (size_t)(left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES)));
    }
    // A first block that has no place in the file ends all threads, which wait for it.
    assert_int_equal(blocks_fill(fd, -base, data, checks, &a), EINVAL);
    for (int at = 0; at < 5; at++)
        failure_check(fd, data, checks);
    close(fd);
    // A disk that is full ends all threads.
    fd = open("/dev/full", O_WRONLY);
    assert_int_equal(blocks_fill(fd, base, data, checks, &a), ENOSPC);
    close(fd);
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

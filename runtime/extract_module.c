// One linear module out of tile16 (docs/kernels.md draws it; compiler/source.c wrote the entries):
// its numbers, as the kernels compute with them, into the tensors of a GPTQ checkpoint.
#include "extract.h"

#include <string.h>

enum { TILE_ROWS = 16, TILE_BYTES = 512, BLOCK_VALUES = 16 };
enum { ORDER_PLAIN, ORDER_ROPE, ORDER_GATE_UP }; // ORDER ROWS (compiler/graph.h)

// ---- reading tile16 -----------------------------------------------------------------------------

// Feature of the module in packed row `row`; -1: another part's, or padding.
static int64_t feature_of(const Linear *l, int64_t row) {
    int64_t part = 0, n = row;
    if (l->order == ORDER_GATE_UP) {
        part = row % TILE_ROWS / 8;
        n = row / TILE_ROWS * 8 + row % 8;
        if (n >= l->pairs)
            return -1;
        n = l->rows_at ? l->rows_at[n] : n;
    } else {
        const cJSON *features = l->features ? l->features->child : NULL;
        for (; features && n >= (int64_t)features->valuedouble; features = features->next, part++)
            n -= (int64_t)features->valuedouble;
        if (!features)
            return -1;
        if (l->order == ORDER_ROPE && part < 2) {
            int64_t head = n / l->head_dim, tile = n % l->head_dim / TILE_ROWS, r = n % TILE_ROWS;
            n = head * l->head_dim + tile * 8 + r % 8 + r / 8 * (l->head_dim / 2);
        }
    }
    return part == l->part && n < l->outputs ? n : -1;
}

static const unsigned char *record_at(const Extract *x, const Linear *l, int64_t row, int64_t k) {
    return executable_segment(x->e, SEGMENT_WEIGHTS).data + l->at +
           row / TILE_ROWS * (l->k_padded / l->record_k) * l->record_bytes +
           k / l->record_k * l->record_bytes;
}

static int64_t block_bytes(const Linear *l) {
    return BLOCK_VALUES * (l->scale_f32 ? 4 : 2);
}

// Where the tiles of a record start: behind the scales and zero points of its groups.
static int64_t tiles_at(const Linear *l) {
    int64_t groups = l->bits == 16 ? 0 : l->record_k / l->group;
    return groups * (block_bytes(l) + (l->zeros ? BLOCK_VALUES * 2 : 0));
}

// The code, or with 16 bits the half, of (row, k).
static unsigned code_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    int64_t tile_k = TILE_BYTES * 8 / l->bits / TILE_ROWS, in = k % l->record_k;
    const unsigned char *tile = record + tiles_at(l) + in / tile_k * TILE_BYTES;
    int64_t r = row % 8, h = row % TILE_ROWS / 8;
    in %= tile_k;
    if (l->bits == 16) {
        uint16_t half;
        memcpy(&half, tile + (4 * r + in % 8 / 2) * 16 + (in / 8 * 2 + h) * 4 + in % 2 * 2, 2);
        return half;
    }
    int64_t lane = 4 * r + in % 8 / 2, later = in % 16 / 8; // inputs 8 further on share the word
    const unsigned char *words = tile + lane * 16;
    if (l->bits == 8)
        return words[(in / 16 * 2 + h) * 4 + in % 2 * 2 + later];
    int64_t nibble = in % 2 * 4 + later * 2 + h;
    return words[in / 16 * 4 + nibble / 2] >> (nibble % 2 * 4) & 15u;
}

static float scale_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    int64_t index = 2 * (row % 8) + row % TILE_ROWS / 8;
    const unsigned char *block = record + k % l->record_k / l->group * block_bytes(l);
    uint16_t half;
    float scale;
    if (l->scale_f32) {
        memcpy(&scale, block + index * 4, sizeof scale);
        return scale;
    }
    memcpy(&half, block + index * 2, sizeof half);
    return half_to_float(half);
}

static unsigned zero_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    uint16_t half;
    if (!l->zeros)
        return 1u << (l->bits - 1);
    int64_t index = 2 * (row % 8) + row % TILE_ROWS / 8;
    memcpy(&half,
           record + l->record_k / l->group * block_bytes(l) +
               k % l->record_k / l->group * BLOCK_VALUES * 2 + index * 2,
           sizeof half);
    return (unsigned)half_to_float(half);
}

// ---- modules ------------------------------------------------------------------------------------

static void bits_or(unsigned char *words, int64_t word, unsigned value, int64_t shift) {
    uint32_t old;
    memcpy(&old, words + word * 4, sizeof old);
    old |= (uint32_t)value << shift;
    memcpy(words + word * 4, &old, sizeof old);
}

static int64_t input_of(const Linear *l, int64_t k) {
    return l->inputs_at ? l->inputs_at[k] : k < l->inputs ? k : -1;
}

static void plain_row(const Extract *x, const Linear *l, int64_t row, int64_t n) {
    for (int64_t k = 0; k < l->k; k++) {
        int64_t input = input_of(l, k);
        uint16_t half = (uint16_t)code_at(l, record_at(x, l, row, k), row, k);
        if (input >= 0)
            memcpy(l->out[0] + ((l->first_column + n) * l->inputs + input) * 2, &half, 2);
    }
}

// v2: the zero point as it is; v1: one less.
static void quant_row(const Extract *x, const Linear *l, int64_t row, int64_t n, bool v2) {
    int64_t column = l->first_column + n, per_word = EXTRACT_WORD_BITS / l->bits;
    for (int64_t k = 0; k < l->k; k++) {
        const unsigned char *record = record_at(x, l, row, k);
        int64_t input = input_of(l, k);
        if (k % l->group == 0) {
            int64_t group = k / l->group;
            float scale = scale_at(l, record, row, k);
            uint16_t half = half_from_float(scale);
            unsigned zero = zero_at(l, record, row, k) - (v2 ? 0u : 1u);
            bits_or(l->out[1], group * ceil_div(l->columns, per_word) + column / per_word,
                    zero & ((1u << l->bits) - 1), column % per_word * l->bits);
            if (l->scale_f32)
                memcpy(l->out[2] + (group * l->columns + column) * 4, &scale, 4);
            else
                memcpy(l->out[2] + (group * l->columns + column) * 2, &half, 2);
        }
        if (input >= 0)
            bits_or(l->out[0], input / per_word * l->columns + column, code_at(l, record, row, k),
                    input % per_word * l->bits);
    }
}

int64_t linear_groups(const Linear *l) {
    return ceil_div(l->k, l->group);
}

bool linear_write(const Extract *x, const Linear *l, bool v2, Error *err) {
    size_t weights = executable_segment(x->e, SEGMENT_WEIGHTS).size;
    uint64_t bytes =
        (uint64_t)(l->rows / TILE_ROWS * (l->k_padded / l->record_k) * l->record_bytes);
    if (l->rows % TILE_ROWS || (uint64_t)l->at > weights || bytes > weights - (uint64_t)l->at ||
        l->first_column + l->outputs > l->columns)
        return fail(err, ERR_CORRUPT, 1282, "module %s lies outside of the weights", l->module);
    for (int64_t row = 0; row < l->rows; row++) {
        int64_t n = feature_of(l, row);
        if (n < 0)
            continue;
        if (l->bits == 16)
            plain_row(x, l, row, n);
        else
            quant_row(x, l, row, n, v2);
    }
    for (int64_t k = 0; l->bits != 16 && k < l->k; k++) {
        int32_t group = (int32_t)(k / l->group);
        if (input_of(l, k) >= 0)
            memcpy(l->out[3] + input_of(l, k) * 4, &group, sizeof group);
    }
    return true;
}

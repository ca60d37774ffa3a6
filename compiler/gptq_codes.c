// The numbers of a quantized module: codes, zero points, scales, groups (compile.h, Weight).
//
//   W[n][k] = scales[g][n] * (code[k][n] - zero[g][n]),  g = g_idx[k], or k / group_size
//   qweight  int32 [ceil(K * bits / 32), N]   fields along K, of one column each
//   qzeros   int32 [G, ceil(N * bits / 32)]   fields along N
//
// Fields lie in their words in one of two ways: one stream of bits, low bits first; or in planes,
// where 32 fields take `bits` words, first 32 / 4 words of their low 4 bits and so on.
// Zero points are stored as they are (gptq_v2, gptq_p) or less 1 (gptq), and who subtracted the 1
// from whole words let a field of 0 borrow from its neighbour; ZeroRule is the exact inverse.
//
// Source: gptqmodel/nn_modules/qlinear/__init__.py (packing), gptqmodel/utils/planar_packing.py,
// gptqmodel/utils/model.py (zero points), auto_gptq/nn_modules/qlinear.
#include "gptq_words.h"

#include <math.h>
#include <string.h>

enum { WORD_BITS = 32, PLAIN_BITS = 16 };

// ---- fields -------------------------------------------------------------------------------------

// Word i is words[i * stride]; added to every word before it is taken apart: add[i % 3].
typedef struct Fields {
    const unsigned char *words;
    int64_t stride;
    int bits;
    bool planar;
    const uint32_t *add;
} Fields;

static uint32_t fields_word(const Fields *f, int64_t index) {
    return word_at(f->words, index * f->stride) + (f->add ? f->add[index % 3] : 0);
}

static uint32_t stream_field(const Fields *f, int64_t index) {
    int64_t bit = index * f->bits, word = bit / WORD_BITS, shift = bit % WORD_BITS;
    uint32_t value = fields_word(f, word) >> shift;
    if (shift + f->bits > WORD_BITS)
        value |= fields_word(f, word + 1) << (WORD_BITS - shift);
    return value & ((1u << f->bits) - 1);
}

static uint32_t planar_field(const Fields *f, int64_t index) {
    static const uint8_t planes[9][3] = {
        [2] = {2}, [3] = {2, 1}, [4] = {4}, [5] = {4, 1}, [6] = {4, 2}, [7] = {4, 2, 1}, [8] = {8},
    };
    int64_t word = index / WORD_BITS * f->bits;
    int in_block = (int)(index % WORD_BITS), have = 0;
    uint32_t value = 0;
    for (int plane = 0; plane < 3 && planes[f->bits][plane]; plane++) {
        int width = planes[f->bits][plane], per_word = WORD_BITS / width;
        uint32_t bits = fields_word(f, word + in_block / per_word) >> width * (in_block % per_word);
        value |= (bits & ((1u << width) - 1)) << have;
        have += width;
        word += width;
    }
    return value;
}

static uint32_t field_at(const Fields *f, int64_t index) {
    return f->planar ? planar_field(f, index) : stream_field(f, index);
}

// 5, 6 and 7 bits exist in planes only; of 3 bits the label alone tells.
static bool is_planar(const Weight *w) {
    return (w->bits >= 5 && w->bits <= 7) || (w->bits == 3 && w->format == QUANT_GPTQ_P);
}

static int64_t columns_of(const Weight *w) {
    return w->columns ? w->columns : w->out_features;
}

// ---- groups, zero points, scales ----------------------------------------------------------------

int64_t weight_group(const Weight *w, int64_t k) {
    if (!w->act_order)
        return w->group_size > 0 ? k / w->group_size : 0;
    int64_t group = g_idx_at(w->g_idx, k);
    return group < 0 ? group + w->groups : group; // negative ones count from the end, as Python's
}

int weight_zero(const Weight *w, int64_t group, int64_t n) {
    static const uint32_t ones[9][3] = {
        // what makes stored words those of gptq_v2 again
        [2] = {0x55555555, 0x55555555, 0x55555555},
        [3] = {0x24924924, 0x92492492, 0x49249249}, // GPTQModel before 7.0, misaligned as it was
        [4] = {0x11111111, 0x11111111, 0x11111111},
        [8] = {0x01010101, 0x01010101, 0x01010101},
    };
    if (w->zero_rule == ZERO_MIDDLE)
        return 1 << (w->bits - 1);
    int64_t row = w->qzeros->shape[1] * group * 4;
    Fields f = {.words = w->qzeros->data + row,
                .stride = 1,
                .bits = w->bits,
                .planar = is_planar(w),
                .add = w->zero_rule == ZERO_WORD_LESS_ONE ? ones[w->bits] : NULL};
    uint32_t value = field_at(&f, w->first_column + n);
    if (w->zero_rule == ZERO_FIELD_LESS_ONE)
        value = (value + 1) & ((1u << w->bits) - 1);
    return (int)value;
}

float weight_scale(const Weight *w, int64_t group, int64_t n) {
    float scale;
    tensor_read_f32(w->scales, group * columns_of(w) + w->first_column + n, 1, &scale);
    return scale;
}

float weight_bias(const Weight *w, int64_t n) {
    float value = 0;
    if (w->bias)
        tensor_read_f32(w->bias, w->first_column + n, 1, &value);
    return value;
}

// ---- codes --------------------------------------------------------------------------------------

void weight_codes(const Weight *w, int64_t n, int64_t k0, int64_t count, uint8_t *codes) {
    Fields f = {.words = w->qweight->data + (w->first_column + n) * 4,
                .stride = columns_of(w),
                .bits = w->bits,
                .planar = is_planar(w)};
    int64_t at = 0, per_word = WORD_BITS / w->bits;
    bool whole = !f.planar && WORD_BITS % w->bits == 0 && k0 % per_word == 0;
    for (; whole && at + per_word <= count; at += per_word) {
        uint32_t word = fields_word(&f, (k0 + at) / per_word);
        for (int64_t field = 0; field < per_word; field++, word >>= w->bits)
            codes[at + field] = (uint8_t)(word & ((1u << w->bits) - 1));
    }
    for (; at < count; at++)
        codes[at] = (uint8_t)field_at(&f, k0 + at);
}

// 4-bit fields of a word to bytes, low field first.
static uint64_t nibbles_spread(uint32_t word) {
    uint64_t x = word;
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
}

// The fields of one word of 2, 4 or 8 bits to bytes.
static void word_spread(uint32_t word, int bits, uint8_t *out) {
    if (bits == 8) {
        memcpy(out, &word, 4);
        return;
    }
    uint64_t spread = nibbles_spread(word);
    if (bits == 4) {
        memcpy(out, &spread, 8);
        return;
    }
    for (int i = 0; i < 8; i++, spread >>= 8) { // two 2-bit codes in each nibble
        out[2 * i] = spread & 3;
        out[2 * i + 1] = spread >> 2 & 3;
    }
}

// Can inputs [k0, k0 + count) be read a word at a time?
static bool whole_words(const Weight *w, int64_t k0, int64_t count) {
    int64_t per_word = WORD_BITS / w->bits;
    bool whole = w->bits == 2 || w->bits == 4 || w->bits == 8;
    return whole && k0 % per_word == 0 && count % per_word == 0;
}

// Word by word through all columns: columns in no order lie on as many pages as there are words.
void weight_code_columns(const Weight *w, const int64_t *n, int columns, int64_t k0, int64_t count,
                         uint8_t *codes, int64_t stride) {
    int64_t per_word = WORD_BITS / w->bits;
    if (!whole_words(w, k0, count)) {
        for (int column = 0; column < columns; column++)
            weight_codes(w, n[column], k0, count, codes + column * stride);
        return;
    }
    for (int64_t step = 0; step < count / per_word; step++) {
        const unsigned char *row =
            w->qweight->data + ((k0 / per_word + step) * columns_of(w) + w->first_column) * 4;
        for (int column = 0; column < columns; column++)
            word_spread(word_at(row, n[column]), w->bits,
                        codes + column * stride + step * per_word);
    }
}

void weight_code_block(const Weight *w, int64_t n0, int64_t columns, int64_t k0, int64_t count,
                       uint8_t *codes) {
    int64_t per_word = WORD_BITS / w->bits;
    if (!whole_words(w, k0, count)) {
        for (int64_t column = 0; column < columns; column++)
            weight_codes(w, n0 + column, k0, count, codes + column * count);
        return;
    }
    for (int64_t step = 0; step < count / per_word; step++) {
        const unsigned char *row =
            w->qweight->data + ((k0 / per_word + step) * columns_of(w) + w->first_column + n0) * 4;
        uint8_t *out = codes + step * per_word;
        for (int64_t column = 0; column < columns; column++, out += count)
            word_spread(word_at(row, column), w->bits, out);
    }
}

// ---- plain weights ------------------------------------------------------------------------------

void weight_halves(const Weight *w, int64_t n, int64_t k0, int64_t count, bool bf16,
                   uint16_t *out) {
    enum { CHUNK = 256 };
    float values[CHUNK];
    int64_t first = (w->first_column + n) * w->in_features + k0;
    if (w->weight->type == (bf16 ? TENSOR_BF16 : TENSOR_F16)) {
        memcpy(out, w->weight->data + first * 2, (size_t)count * 2);
        return;
    }
    for (int64_t at = 0; at < count; at += CHUNK) {
        int64_t some = count - at < CHUNK ? count - at : CHUNK;
        tensor_read_f32(w->weight, first + at, some, values);
        for (int64_t i = 0; i < some; i++)
            out[at + i] = bf16 ? bfloat_from_float(values[i]) : half_from_float(values[i]);
    }
}

// ---- whole rows ---------------------------------------------------------------------------------

void weight_row(const Weight *w, int64_t n, float *row) {
    enum { CHUNK = 64 };
    uint8_t codes[CHUNK];
    if (w->bits == PLAIN_BITS) {
        tensor_read_f32(w->weight, (w->first_column + n) * w->in_features, w->in_features, row);
        return;
    }
    int64_t known = -1, until = 0; // the group of the inputs before `until`
    float scale = 0;
    int zero = 0;
    for (int64_t k0 = 0; k0 < w->in_features; k0 += CHUNK) {
        int64_t count = w->in_features - k0 < CHUNK ? w->in_features - k0 : CHUNK;
        weight_codes(w, n, k0, count, codes);
        for (int64_t at = 0; at < count; at++) {
            int64_t group = k0 + at < until ? known : weight_group(w, k0 + at);
            if (group != known) {
                scale = weight_scale(w, group, n);
                zero = weight_zero(w, group, n);
                known = group;
                until = w->act_order || w->group_size <= 0 ? 0 : (group + 1) * w->group_size;
            }
            row[k0 + at] = scale * (float)(codes[at] - zero);
        }
    }
}

Weight weight_slice(const Weight *w, const char *module, int64_t first, int64_t count) {
    Weight slice = *w;
    slice.columns = columns_of(w);
    slice.module = module;
    slice.first_column = w->first_column + first;
    slice.out_features = count;
    return slice;
}

// Shared by writer and reader: the batch block's layout, the hashes, and the parser of the tail.
#include "payload.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

// ORDER SEGMENTS
static const char *const segment_names[SEGMENT_COUNT] = {
    "weights", "model",  "tokenizer", "template", "tool template", "special tokens", "targets",
    "kernels", "cubins", "explain",   "license",  "receipt",       "checks",
};

const char *segment_name(SegmentKind kind) {
    return kind < SEGMENT_COUNT ? segment_names[kind] : "unknown";
}

void payload_hash128(const void *data, size_t size, uint64_t out[2]) {
    XXH128_hash_t hash = XXH3_128bits(data, size);
    out[0] = hash.low64;
    out[1] = hash.high64;
}

uint64_t payload_hash64(const void *data, size_t size) {
    return XXH3_64bits(data, size);
}

// Advances *at by count elements of elem_bytes, keeping fields aligned to 64 bytes.
static int64_t take(int64_t *at, int64_t count, int64_t elem_bytes) {
    int64_t start = *at;
    *at = (int64_t)round_up((uint64_t)(start + count * elem_bytes), 64);
    return start;
}

BatchLayout batch_layout(const ModelInfo *info) {
    BatchLayout b = {0};
    int64_t at = 0;
    b.pages_per_seq = ceil_div(info->max_seq_len, info->page_tokens);
    b.seen_words = ceil_div(info->vocab_size, 32);
    b.token_ids = take(&at, info->max_num_tokens, 4);
    b.positions = take(&at, info->max_num_tokens, 4);
    b.slots = take(&at, info->max_num_tokens, 4);
    b.head_rows = take(&at, info->max_head_rows, 4);
    b.head_slots = take(&at, info->max_head_rows, 4);
    b.page_table = take(&at, info->max_batch_size * b.pages_per_seq, 4);
    b.sample = take(&at, info->max_batch_size, (int64_t)sizeof(SampleParams));
    b.sampled = take(&at, info->max_batch_size, 4);
    b.seen = take(&at, info->max_batch_size * b.seen_words, 4);
    b.bytes = at;
    return b;
}

// ---- reading ------------------------------------------------------------------------------------

static bool footer_read(Bytes whole, const char *file, PayloadFooter *f, Error *err) {
    if (whole.size < sizeof *f)
        return fail(err, ERR_CORRUPT, 701, "%s: %zu bytes, too short for a payload", file,
                    whole.size);
    memcpy(f, whole.data + whole.size - sizeof *f, sizeof *f);
    if (memcmp(f->magic, PAYLOAD_MAGIC, sizeof f->magic) != 0)
        return fail(err, ERR_CORRUPT, 702,
                    "%s: no payload at the end of the file: the copy is truncated, or text "
                    "conversion or strip changed it; copy it again",
                    file);
    if (f->version != PAYLOAD_VERSION)
        return fail(err, ERR_CORRUPT, 703, "%s: payload version %u, this runtime reads %d", file,
                    f->version, PAYLOAD_VERSION);
    if (f->sample_u32 != 0x01020304 || f->sample_f32 != 370.5f)
        return fail(err, ERR_CORRUPT, 704, "%s: the payload was written for another byte order",
                    file);
    if (f->check != payload_hash64(f, offsetof(PayloadFooter, check)))
        return fail(err, ERR_CORRUPT, 705, "%s: the payload's footer is damaged", file);
    if (f->file_size != whole.size)
        return fail(err, ERR_CORRUPT, 706, "%s: %zu bytes, expected %llu: copy it again", file,
                    whole.size, (unsigned long long)f->file_size);
    return true;
}

static bool segment_check(Bytes whole, const char *file, const Segment *s, Error *err) {
    const char *name = segment_name((SegmentKind)s->kind);
    if (s->offset > whole.size || s->size > whole.size - s->offset)
        return fail(err, ERR_CORRUPT, 708, "%s: segment %s lies outside the file", file, name);
    if (s->kind == SEGMENT_WEIGHTS)
        return true;
    uint64_t found[2];
    payload_hash128(whole.data + s->offset, (size_t)s->size, found);
    if (found[0] != s->check[0] || found[1] != s->check[1])
        return fail(err, ERR_CORRUPT, 709, "%s: segment %s is damaged: copy the file again", file,
                    name);
    return true;
}

bool payload_parse(Bytes whole, const char *file, Segment out[SEGMENT_COUNT], Error *err) {
    PayloadFooter f;
    TRY(footer_read(whole, file, &f, err));
    size_t table_bytes = 0;
    if (f.segment_count != SEGMENT_COUNT ||
        !size_mul(f.segment_count, sizeof(Segment), &table_bytes) || f.table_offset > whole.size ||
        table_bytes > whole.size - f.table_offset)
        return fail(err, ERR_CORRUPT, 707, "%s: the segment table is damaged", file);
    uint64_t found[2];
    payload_hash128(whole.data + f.table_offset, table_bytes, found);
    if (found[0] != f.table_check[0] || found[1] != f.table_check[1])
        return fail(err, ERR_CORRUPT, 707, "%s: the segment table is damaged", file);
    memcpy(out, whole.data + f.table_offset, table_bytes);
    for (uint32_t at = 0; at < SEGMENT_COUNT; at++) {
        if (out[at].kind != at)
            return fail(err, ERR_CORRUPT, 707, "%s: the segment table is damaged", file);
        TRY(segment_check(whole, file, &out[at], err));
    }
    return true;
}

// Shared by writer and reader: the batch block's layout, the hashes, and the parser of the tail.
#include "payload.h"
#include "payload_hash.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

// ORDER SEGMENTS
static const char *const segment_names[SEGMENT_COUNT] = {
    "weights", "model",    "tokenizer", "template", "tool template", "special tokens",
    "targets", "kernels",  "cubins",    "explain",  "license",       "receipt",
    "checks",  "defaults", "selftest",  "source",
};

const char *segment_name(SegmentKind kind) {
    return kind < SEGMENT_COUNT ? segment_names[kind] : "unknown";
}

void payload_hash128(const void *data, size_t size, uint64_t out[2]) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        payload_hash128_avx2(data, size, out);
        return;
    }
#endif
    XXH128_hash_t hash = XXH3_128bits(data, size);
    out[0] = hash.low64;
    out[1] = hash.high64;
}

uint64_t payload_hash64(const void *data, size_t size) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return payload_hash64_avx2(data, size);
#endif
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
    b.drawn = take(&at, info->max_head_rows, 4);
    b.sampled = take(&at, info->max_batch_size, 4);
    b.results = take(&at, info->max_batch_size, (int64_t)sizeof(SampleResult));
    b.seen = take(&at, info->max_batch_size * b.seen_words, 4);
    b.mask = take(&at, info->max_batch_size * b.seen_words, 4);
    b.biased = take(&at, info->max_batch_size * b.seen_words, 4);
    b.bias = take(&at, info->max_batch_size * SAMPLE_MAX_BIAS, (int64_t)sizeof(LogitBias));
    b.counts = take(&at, info->max_batch_size * info->vocab_size, 2);
    b.bytes = at;
    return b;
}

bool segment_replaceable(SegmentKind kind) {
    return kind == SEGMENT_MODEL || kind == SEGMENT_TEMPLATE || kind == SEGMENT_TOOL_TEMPLATE ||
           kind == SEGMENT_SPECIAL_TOKENS || kind == SEGMENT_LICENSE || kind == SEGMENT_DEFAULTS;
}

// ---- footers ------------------------------------------------------------------------------------

uint64_t payload_footer_offset(uint64_t file_size, int footer) {
    return file_size - (uint64_t)(PAYLOAD_FOOTERS - footer) * PAYLOAD_FOOTER_BYTES;
}

void payload_footer_seal(PayloadFooter *f) {
    memcpy(f->magic, PAYLOAD_MAGIC, sizeof f->magic);
    f->version = PAYLOAD_VERSION;
    f->segment_count = SEGMENT_COUNT;
    f->sample_u32 = 0x01020304;
    f->sample_f32 = 370.5f;
    f->check = payload_hash64(f, offsetof(PayloadFooter, check));
}

static bool all_zero(const unsigned char *data, size_t size) {
    return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

static bool footer_check(const PayloadFooter *f, uint64_t size, const char *file, Error *err) {
    if (memcmp(f->magic, PAYLOAD_MAGIC, sizeof f->magic) != 0)
        return fail(err, ERR_CORRUPT, 702,
                    "%s: no payload at the end of the file: the copy is truncated, or text "
                    "conversion or strip changed it; copy it again",
                    file);
    if (f->version != PAYLOAD_VERSION)
        return fail(err, ERR_CORRUPT, 703, "%s: payload version %u, this program reads %d", file,
                    f->version, PAYLOAD_VERSION);
    if (f->sample_u32 != 0x01020304 || f->sample_f32 != 370.5f)
        return fail(err, ERR_CORRUPT, 704, "%s: the payload was written for another byte order",
                    file);
    if (f->check != payload_hash64(f, offsetof(PayloadFooter, check)))
        return fail(err, ERR_CORRUPT, 705, "%s: the payload's footer is damaged: copy it again",
                    file);
    if (f->file_size != size)
        return fail(err, ERR_CORRUPT, 706, "%s: %llu bytes, expected %llu: copy it again", file,
                    (unsigned long long)size, (unsigned long long)f->file_size);
    return true;
}

// Both footers; at least one is there.
static bool footers_read(Bytes whole, const char *file, Payload *p, Error *err) {
    if (whole.size < PAYLOAD_BLOCK_BYTES)
        return fail(err, ERR_CORRUPT, 701, "%s: %zu bytes, too short for a payload", file,
                    whole.size);
    PayloadFooter none = {.generation = 0}, found[PAYLOAD_FOOTERS];
    bool there[PAYLOAD_FOOTERS];
    for (int at = 0; at < PAYLOAD_FOOTERS; at++) {
        const unsigned char *data = whole.data + payload_footer_offset(whole.size, at);
        memcpy(&found[at], data, sizeof found[at]);
        there[at] = !all_zero(data, PAYLOAD_FOOTER_BYTES);
        if (!there[at])
            continue;
        TRY(footer_check(&found[at], whole.size, file, err));
        if (!all_zero(data + sizeof none, PAYLOAD_FOOTER_BYTES - sizeof none))
            return fail(err, ERR_CORRUPT, 717,
                        "%s: the payload's footer is damaged (bytes behind it)", file);
    }
    if (!there[0] && !there[1])
        return footer_check(&none, whole.size, file, err);
    p->footer_at = !there[0] || (there[1] && found[1].generation > found[0].generation);
    p->footer = found[p->footer_at];
    p->other = there[!p->footer_at];
    return true;
}

// ---- segments -----------------------------------------------------------------------------------

static bool inside(uint64_t offset, uint64_t size, uint64_t first, uint64_t end) {
    return first <= end && offset >= first && offset <= end && size <= end - offset;
}

static bool extents_check(const PayloadFooter *f, Error *err, const char *file) {
    uint64_t room = f->file_size - PAYLOAD_BLOCK_BYTES;
    bool areas = f->area_bytes % PAYLOAD_BLOCK_BYTES == 0 &&
                 f->area_offset % PAYLOAD_BLOCK_BYTES == 0 && f->area_offset <= room &&
                 f->area_bytes == (room - f->area_offset) / 2;
    bool table = areas && (f->table_offset == f->area_offset ||
                           f->table_offset == f->area_offset + f->area_bytes);
    if (!table || f->segment_count != SEGMENT_COUNT ||
        f->area_bytes < SEGMENT_COUNT * sizeof(Segment) || f->elf_size > f->area_offset)
        return fail(err, ERR_CORRUPT, 718, "%s: the payload's footer contradicts itself", file);
    return true;
}

bool payload_segment_check(Bytes whole, const char *file, const Segment *s, Error *err) {
    uint64_t found[2];
    payload_hash128(whole.data + s->offset, (size_t)s->size, found);
    if (found[0] != s->check[0] || found[1] != s->check[1])
        return fail(err, ERR_CORRUPT, 709, "%s: segment %s is damaged: copy the file again", file,
                    segment_name((SegmentKind)s->kind));
    return true;
}

static bool segment_read(Bytes whole, const char *file, const PayloadFooter *f, const Segment *s,
                         Error *err) {
    SegmentKind kind = (SegmentKind)s->kind;
    bool replaceable = segment_replaceable(kind);
    if (kind == SEGMENT_WEIGHTS && s->reserved)
        return true; // in files of their own (payload_parts.h)
    uint64_t first = replaceable ? f->table_offset : f->elf_size;
    uint64_t end = replaceable ? f->table_offset + f->area_bytes : f->area_offset;
    if (!inside(s->offset, s->size, first, end))
        return fail(err, ERR_CORRUPT, 708, "%s: segment %s lies outside of its place", file,
                    segment_name(kind));
    if (kind == SEGMENT_WEIGHTS || kind == SEGMENT_SOURCE)
        return true; // large: checked when they are read
    return payload_segment_check(whole, file, s, err);
}

bool payload_parse(Bytes whole, const char *file, Payload *out, Error *err) {
    *out = (Payload){.footer_at = 0};
    TRY(footers_read(whole, file, out, err));
    const PayloadFooter *f = &out->footer;
    TRY(extents_check(f, err, file));
    uint64_t found[2];
    payload_hash128(whole.data, (size_t)f->elf_size, found);
    if (found[0] != f->elf_check[0] || found[1] != f->elf_check[1])
        return fail(err, ERR_CORRUPT, 719, "%s: the program code is damaged: copy the file again",
                    file);
    payload_hash128(whole.data + f->table_offset, sizeof out->segments, found);
    if (found[0] != f->table_check[0] || found[1] != f->table_check[1])
        return fail(err, ERR_CORRUPT, 707, "%s: the segment table is damaged", file);
    memcpy(out->segments, whole.data + f->table_offset, sizeof out->segments);
    for (uint32_t at = 0; at < SEGMENT_COUNT; at++) {
        if (out->segments[at].kind != at)
            return fail(err, ERR_CORRUPT, 698, "%s: the segment table is out of order", file);
        TRY(segment_read(whole, file, f, &out->segments[at], err));
    }
    return true;
}

// Areas and footers of the payload, for the compile and for `repack`.
#include "tail.h"

#include <string.h>

uint64_t area_content_bytes(const Bytes segments[SEGMENT_COUNT]) {
    uint64_t at = SEGMENT_COUNT * sizeof(Segment);
    for (int kind = 0; kind < SEGMENT_COUNT; kind++)
        if (segment_replaceable((SegmentKind)kind))
            at = round_up(at, PAYLOAD_SEGMENT_ALIGN) + segments[kind].size;
    return at;
}

Bytes area_make(Segment table[SEGMENT_COUNT], const Bytes segments[SEGMENT_COUNT], uint64_t offset,
                Arena *a) {
    size_t size = (size_t)area_content_bytes(segments);
    unsigned char *data = arena_alloc(a, size);
    uint64_t at = SEGMENT_COUNT * sizeof(Segment);
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        if (!segment_replaceable((SegmentKind)kind))
            continue;
        Bytes from = segments[kind];
        at = round_up(at, PAYLOAD_SEGMENT_ALIGN);
        table[kind] = (Segment){.kind = (uint32_t)kind, .offset = offset + at, .size = from.size};
        payload_hash128(from.data, from.size, table[kind].check);
        if (from.size)
            memcpy(data + at, from.data, from.size);
        at += from.size;
    }
    memcpy(data, table, SEGMENT_COUNT * sizeof(Segment));
    return (Bytes){data, size};
}

bool footer_write(Output *out, PayloadFooter *footer, uint64_t file_size, int place, Error *err) {
    unsigned char sector[PAYLOAD_FOOTER_BYTES] = {0};
    if (footer) {
        payload_footer_seal(footer);
        memcpy(sector, footer, sizeof *footer);
    }
    return output_write(out, (int64_t)payload_footer_offset(file_size, place), sector,
                        sizeof sector, err);
}

bool tail_write(Output *out, Segment table[SEGMENT_COUNT], const Bytes segments[SEGMENT_COUNT],
                uint64_t at, PayloadFooter *footer, Arena *a, Error *err) {
    at = round_up(at, PAYLOAD_BLOCK_BYTES);
    uint64_t wanted = 2 * area_content_bytes(segments) + PAYLOAD_AREA_SLACK;
    uint64_t area_bytes = round_up(wanted, PAYLOAD_BLOCK_BYTES);
    Bytes area = area_make(table, segments, at, a);
    TRY(output_write(out, (int64_t)at, area.data, area.size, err));
    footer->generation = 1;
    footer->table_offset = footer->area_offset = at;
    footer->area_bytes = area_bytes;
    footer->file_size = at + 2 * area_bytes + PAYLOAD_BLOCK_BYTES;
    payload_hash128(area.data, SEGMENT_COUNT * sizeof(Segment), footer->table_check);
    return footer_write(out, NULL, footer->file_size, 1, err) &&
           footer_write(out, footer, footer->file_size, 0, err);
}

// The end of an executable, which a compile writes and `repack` replaces (payload.h draws it).
#ifndef TAIL_H
#define TAIL_H

#include "compile.h"

// Bytes of an area that holds the table and these segments.
uint64_t area_content_bytes(const Bytes segments[SEGMENT_COUNT]);
// Sets the replaceable entries of `table` for an area at `offset`, and returns the area's content:
// table, then segments.
Bytes area_make(Segment table[SEGMENT_COUNT], const Bytes segments[SEGMENT_COUNT], uint64_t offset,
                Arena *a);
// Writes area 0 and footer 0 of a new file, whose areas start at `at`; the rest of the tail is zero.
// footer: elf_size and elf_check are set. table: the entries of fixed segments are set.
bool tail_write(Output *out, Segment table[SEGMENT_COUNT], const Bytes segments[SEGMENT_COUNT],
                uint64_t at, PayloadFooter *footer, Arena *a, Error *err);
// Writes a footer (sealed here) with the zeros behind it; NULL: zeros only.
bool footer_write(Output *out, PayloadFooter *footer, uint64_t file_size, int place, Error *err);

#endif

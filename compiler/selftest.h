// The golden self-test of an executable (selftest.c).
#ifndef SELFTEST_H
#define SELFTEST_H

#include "compile.h"

// SEGMENT_SELFTEST without its hash: tokens and the oracle's logits. Reads every weight once.
bool selftest_make(Bytes *out, const Graph *g, const Config *c, int64_t max_seq_len, int threads,
                   Arena *a, Error *err);
// Sets the hash, when all that it covers is there. parts: as selftest_golden wants them.
void selftest_seal(Bytes segment, const Bytes parts[SELFTEST_PARTS]);
// Runs `OUT selftest`. *ran = false: no device of the file is present here. ERR_MISMATCH.
bool selftest_execute(const char *path, bool *ran, Error *err);

#endif

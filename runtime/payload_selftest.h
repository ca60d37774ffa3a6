// SEGMENT_SELFTEST: a few tokens and the logits that the compiler's oracle (plain loops in doubles)
// has for them, and one hash of what the compiler wrote. `selftest` compares both on the machine
// where the file is.
#ifndef PAYLOAD_SELFTEST_H
#define PAYLOAD_SELFTEST_H

#include "payload.h"

enum { SELFTEST_MAX_TOKENS = 32, SELFTEST_CHECKS = 2, SELFTEST_PARTS = 5 };

// One sequence serves both checks, since a token's logits do not depend on later ones:
//   check 0: ids[0, first) prefilled: logits of the last
//   check 1: ids[0, token_count - 1) prefilled, the last one decoded: its logits
// Behind the header: float [SELFTEST_CHECKS][vocab_size].
typedef struct SelftestHeader {
    int64_t vocab_size;
    uint64_t golden[2]; // selftest_golden()
    float bound;        // |logits - oracle| / |oracle - its mean|, L2 norms, at most
    int32_t token_count, first;
    int32_t ids[SELFTEST_MAX_TOKENS];
    int32_t reserved;
} SelftestHeader;

// One hash of hashes: program code, CHECKS (and so the weights), KERNELS, CUBINS, TOKENIZER. A file
// whose parts were replaced together with their checks has another one.
static inline void selftest_golden(const Bytes parts[SELFTEST_PARTS], uint64_t out[2]) {
    uint64_t hashes[SELFTEST_PARTS][2];
    for (int at = 0; at < SELFTEST_PARTS; at++)
        payload_hash128(parts[at].data, parts[at].size, hashes[at]);
    payload_hash128(hashes, sizeof hashes, out);
}

#endif

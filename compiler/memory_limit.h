// --max-memory (memory_limit.c).
#ifndef MEMORY_LIMIT_H
#define MEMORY_LIMIT_H

#include "compile.h"

// "8G", "512M", "1.5T" or plain bytes, by powers of 1024. ERR_USAGE.
bool memory_parse(int64_t *bytes, const char *option, const char *text, Error *err);
// ERR_RESOURCE, after a table of what would fit on stderr, where a full batch of the longest
// sequences does not fit into `limit` bytes of any of the plans' devices.
bool memory_limit_check(const Plan *const *plans, int count, int64_t weights_bytes, int64_t limit,
                        Error *err);

#endif

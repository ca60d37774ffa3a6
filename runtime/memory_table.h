// What a run takes, for `info` (memory_table.c).
#ifndef MEMORY_TABLE_H
#define MEMORY_TABLE_H

#include "executable.h"

struct cJSON;

void memory_table_print(const Executable *e);
// An array of rows; the caller deletes it.
struct cJSON *memory_table_json(const Executable *e);

#endif

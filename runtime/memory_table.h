// What a run takes, for `info` (memory_table.c).
#ifndef MEMORY_TABLE_H
#define MEMORY_TABLE_H

#include "cli.h"

void memory_table_print(const Executable *e);
// An array of rows; the caller deletes it.
struct cJSON *memory_table_json(const Executable *e);
// Opens the engine for one sequence and prints what that took beside what the table promises.
// ERR_MISMATCH: they differ by more than the pages in which memory is given out.
bool memory_measure(Cli *cli, Error *err);

#endif

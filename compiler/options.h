// The command line of `gptq-compile MODEL -o OUT`, as data.
#ifndef OPTIONS_H
#define OPTIONS_H

#include "compile.h"

typedef struct Options {
    const char *model;
    const char *output;
    const char *target; // NULL: native
    const char *host;   // triple of the executable
    const char *cache_dir;
    const char *chat_template; // a file, "none"; NULL: the checkpoint's
    const char *license;       // a file; NULL: the program's only
    const char *name;          // of the model; NULL: its model_type
    const char *max_memory;    // "8G"; NULL: no limit
    const char *emit;          // "plan", "source", "ptx", "sass"; NULL: build the executable
    int64_t max_seq_len, max_batch_size, max_num_tokens; // 0: default
    int64_t jobs;                                        // 0: one per core
    int cache;                                           // CacheMode
    int progress;                                        // ProgressMode
    int explain;                                         // 0 no, 1 text, 2 JSON
    const char *split_size;                              // "2G"; NULL: that
    int weights;                                         // 0 embedded, 1 external
    int self_test;                                       // 0 store, 1 auto (and run it), 2 off
    int tune;                                            // 0 off, 1 measure
    const char *tuning_file;                             // NULL: none
    int dtype, kv_cache_dtype; // 0 auto, 1 fp16; others are refused by the parser
    bool batch_invariant, dry_run, verbose, quiet, help, version;
} Options;

// Fills *o from argv; ERR_USAGE names the word that is wrong.
bool options_parse(Options *o, int argc, char **argv, Error *err);
void options_help(FILE *out);

#endif

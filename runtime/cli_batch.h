// The two files of a batch: requests, and the replies that are there already.
#ifndef CLI_BATCH_H
#define CLI_BATCH_H

#include <stdio.h>

#include "openai_request.h"

typedef struct BatchLine {
    const char *custom_id; // in BatchFile.ids
    int64_t offset, size;  // of its line in the input
    int64_t number;        // of the line, from 1
    bool done;             // its reply is written
} BatchLine;

typedef struct BatchFile {
    FILE *in;
    int out;            // descriptor, locked; -1: none
    BatchLine *lines;   // [count], in the order of the input; owner: batch_file_close
    BatchLine **sorted; // [count], by custom_id
    int64_t count, done;
    char *text; // of a line that was read
    size_t room;
} BatchFile;

// Reads both: every line of the input has its own custom_id and a known url; a line of the output
// that was cut off by the end of a process is taken away.
bool batch_file_open(BatchFile *b, const char *input, const char *output, Error *err);
void batch_file_close(BatchFile *b);
// The request of a line: *body is JSON text, valid until the next call.
bool batch_file_read(BatchFile *b, const BatchLine *line, ApiKind *kind, char **body, Error *err);
// One whole line, with its newline.
bool batch_file_write(BatchFile *b, BatchLine *line, Bytes text, Error *err);

#endif

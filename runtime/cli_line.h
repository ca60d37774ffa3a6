// Lines from a terminal, with editing and history; from anything else, as they are.
#ifndef CLI_LINE_H
#define CLI_LINE_H

#include "base.h"

typedef struct LineReader LineReader;

typedef enum LineResult {
    LINE_TEXT,      // *line
    LINE_END,       // the end of the input, or Ctrl-D on an empty line
    LINE_INTERRUPT, // Ctrl-C
} LineResult;

// Reads standard input; prompts and echo go to standard error.
bool line_open(LineReader **out, Error *err);
void line_close(LineReader *r); // takes NULL
// Is there a person? Then lines are edited.
bool line_edited(const LineReader *r);
// *line: without its newline, zero-terminated, size bytes; valid until the next call. A paste may
// hold newlines.
bool line_read(LineReader *r, const char *prompt, LineResult *result, const char **line,
               size_t *size, Error *err);
// Up and down find it.
bool line_remember(LineReader *r, const char *line, size_t size, Error *err);

#endif

// Calls of tools in what a model writes, in the formats of three families, found as the text comes:
//
//   hermes  (Qwen, Hermes)  <tool_call>{"name": "f", "arguments": {...}}</tool_call>, any number
//   llama3                  {"name": "f", "parameters": {...}}, from the beginning, "; " between
//   mistral                 [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...], or, of newer
//                           models, [TOOL_CALLS]f[ARGS]{...}
//
// A call is given once its JSON is complete and right; what only looks like one stays text. So the
// result does not depend on how the text is cut.
#ifndef TOOL_CALL_H
#define TOOL_CALL_H

#include "base.h"
#include "tokenizer.h"

typedef enum ToolFormat { // ORDER TOOL_FORMATS (tool_call.c: names)
    TOOLS_NONE,
    TOOLS_HERMES,
    TOOLS_LLAMA3,
    TOOLS_MISTRAL,
    TOOL_FORMAT_COUNT,
} ToolFormat;

typedef struct ToolSink {
    bool (*text)(void *user, Bytes text, Error *err);
    // arguments: a JSON object, as the model wrote it
    bool (*call)(void *user, const char *name, Bytes arguments, Error *err);
    void *user;
} ToolSink;

typedef struct ToolParser {
    ToolFormat format;
    int state;  // of the format; 0: at the beginning
    char *held; // text that is not decided yet; owner: this
    size_t size, room;
    size_t scanned; // of it, up to here, no end was found
    int depth;      // of the JSON at `scanned`
    bool quoted;    // in a string there
} ToolParser;

// By the texts in the model's chat template (any bytes that hold them); TOOLS_NONE: none is known.
ToolFormat tool_format_find(Bytes chat_template);
bool tool_format_parse(ToolFormat *out, const char *name); // false: no such name
const char *tool_format_name(ToolFormat format);

// ToolParser{.format = f} is ready. The other one is for text that is a list of calls and nothing
// else: [{"name": "f", "arguments": {...}}, ...]
ToolParser tool_parser_list(void);
bool tool_parser_add(ToolParser *p, Bytes text, const ToolSink *sink, Error *err);
bool tool_parser_end(ToolParser *p, const ToolSink *sink, Error *err); // and frees
void tool_parser_free(ToolParser *p);

// ---- markers that are special tokens ------------------------------------------------------------

// Decoding leaves special tokens out; these are put back for the parser.
enum { TOOL_MARKERS = 5 };
typedef struct ToolMarkers {
    int32_t ids[TOOL_MARKERS]; // -1: is no special token here
} ToolMarkers;

ToolMarkers tool_markers_find(const Tokenizer *t);
const char *tool_marker_text(const ToolMarkers *m, int32_t id); // NULL: is none

#endif

// A finished executable as a file to look at: what inspect, verify and repack share, and the words
// of their command lines.
#ifndef ARTIFACT_H
#define ARTIFACT_H

#include "compile.h"

typedef struct Artifact {
    const char *path;
    Bytes whole;   // mapped read-only, until exit
    Bytes weights; // in it, or in files beside it
    Payload payload;
    ModelInfo info;
} Artifact;

// Maps and parses; everything but WEIGHTS and SOURCE is checked then. ERR_CORRUPT, ERR_USAGE.
bool artifact_open(Artifact *out, const char *path, Error *err);
Bytes artifact_segment(const Artifact *a, SegmentKind kind);

// One option of a subcommand. Exactly one of flag and text is set.
typedef struct Word {
    const char *name; // "--json"
    bool *flag;
    const char **text; // takes a value
    const char *value, *help;
} Word;

// Reads argv[2..): options and up to `plain_count` words without a dash into plain[].
// *help: --help was given. ERR_USAGE names the word that is wrong.
bool words_parse(const Word *words, int count, const char **plain, int plain_count, int argc,
                 char **argv, bool *help, Error *err);
void words_help(const char *usage, const Word *words, int count);
// Runs a subcommand's body and turns its error into a line on stderr and an exit code.
int subcommand_end(bool done, const Error *err);

int inspect_command(int argc, char **argv);
int verify_command(int argc, char **argv);
int repack_command(int argc, char **argv);

#endif

// `serve`: the command around the server.
#ifndef SERVE_H
#define SERVE_H

#include "cli.h"

// Opens what the scheduler runs on, in a thread of its own; the command's is cli_engine.
typedef bool ServeOpen(Cli *cli, Engine **out, Error *err);

bool serve(Cli *cli, ServeOpen *open, Error *err);

#endif

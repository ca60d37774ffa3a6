// `serve`: the command around the server.
#ifndef SERVE_H
#define SERVE_H

#include "api.h"
#include "cli.h"

// Opens what the scheduler runs on, in a thread of its own; the command's is cli_engine.
typedef bool ServeOpen(Cli *cli, Engine **out, Error *err);

// Room for as many sequences as the executable was made for.
bool engine_for_batch(Cli *cli, Engine **out, Error *err);
// What requests are checked against, from the model and the options; keeps base and inbox.
void api_set(Api *api, Cli *cli);

bool serve(Cli *cli, ServeOpen *open, Error *err);

#endif

// oracle_logits MODEL_DIR IDS OUT: the logits of every position by the oracle (interp.c, plain
// loops in doubles), as float64 little-endian [positions, vocab_size]. What check_logits.py compares
// an executable's `logits` with. Prints the positions at which a token's last expert won by so little
// that rounding decides, one a line.
#include "../compiler/compile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 4096 };

static int ids_parse(const char *text, int32_t ids[MAX_IDS]) {
    int count = 0;
    for (char *end; *text && count < MAX_IDS; text = *end == ',' ? end + 1 : end) {
        ids[count++] = (int32_t)strtol(text, &end, 10);
        if (end == text)
            return 0;
    }
    return count;
}

static void ties_print(const Graph *g, const Interp *in, int count) {
    const double close = 2e-3; // what fp16 keys and values may move a router's logit by
    for (int position = 0; position < count; position++) {
        bool tie = false;
        for (int at = 0; at < g->op_count; at++) {
            const Op *op = &g->ops[at];
            tie = tie || (op->kind == OP_ROUTE && interp_route_margin(in, op, position) < close);
        }
        if (tie)
            printf("%d\n", position);
    }
}

static bool run(const char *dir, const char *ids_text, const char *path, Arena *a, Error *err) {
    int32_t ids[MAX_IDS];
    int count = ids_parse(ids_text, ids);
    if (!count)
        return fail(err, ERR_USAGE, 0, "no ids in \"%s\"", ids_text);
    Checkpoint checkpoint;
    Config config;
    TRY(checkpoint_open(&checkpoint, dir, a, err));
    TRY(config_read(&config, dir, a, err));
    Graph graph = graph_new(a);
    TRY(arch_build(arch_find(config.architecture), &graph, &config, &checkpoint, MAX_IDS, a, err));
    size_t elems = (size_t)count * (size_t)config.vocab_size;
    double *logits = ARENA_NEW(a, double, elems);
    Interp *in = interp_new(&graph, &config, MAX_IDS, a);
    TRY(interp_run(in, ids, count, logits, err));
    ties_print(&graph, in, count);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(logits, sizeof *logits, elems, file) != elems || fclose(file) != 0)
        return fail(err, ERR_RESOURCE, 0, "cannot write %s", path);
    return true;
}

int main(int argc, char **argv) {
    Error err = {0};
    Arena arena = {0};
    if (argc != 4) {
        fputs("usage: oracle_logits MODEL_DIR IDS OUT\n", stderr);
        return ERR_USAGE;
    }
    bool done = run(argv[1], argv[2], argv[3], &arena, &err);
    if (!done)
        fprintf(stderr, "%s\n", err.message);
    arena_free(&arena);
    return done ? 0 : 1;
}

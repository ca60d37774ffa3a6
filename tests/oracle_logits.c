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

// By how much the last of the chosen experts won over the best of the others.
static double route_margin(const double *logits, int64_t experts, int64_t top_k) {
    double best_left = HUGE_VAL, limit = HUGE_VAL;
    for (int64_t j = 0; j <= top_k && j < experts; j++) { // one after the other, falling
        double next = -HUGE_VAL;
        for (int64_t e = 0; e < experts; e++)
            next = logits[e] < limit && logits[e] > next ? logits[e] : next;
        best_left = limit - next;
        limit = next;
    }
    return top_k < experts ? best_left : HUGE_VAL;
}

static void ties_print(const Graph *g, const Interp *in, int count) {
    const double close = 2e-3; // what fp16 keys and values may move a router's logit by
    for (int position = 0; position < count; position++) {
        bool tie = false;
        for (int at = 0; at < g->op_count; at++) {
            const Op *op = &g->ops[at];
            if (op->kind != OP_ROUTE)
                continue;
            const double *logits = interp_value(in, op->inputs[0]) + position * op->route.experts;
            tie = tie || route_margin(logits, op->route.experts, op->route.top_k) < close;
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

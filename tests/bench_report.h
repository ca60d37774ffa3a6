// Options and results of gpu_kernels_bench: lines as they come, geometric means against the bars at
// the end, and all of it as JSON.
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "tests/bench_lab.h"
#include "tests/bench_shapes.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <time.h>

// ---- options ------------------------------------------------------------------------------------

typedef struct Wanted {
    const char *set, *layer, *kernel, *variant, *json;
    bool counts[BENCH_COUNTS];
    bool all, chosen, check, print, compile, own_dense;
    uint64_t seed;
    int rest_ms; // before large products are timed
} Wanted;

static inline bool wanted_layer(const Wanted *w, const BenchLayer *l) {
    bool set = strcmp(w->set, "all") == 0 || strstr(w->set, l->set);
    return set && strstr(l->c.name, w->layer);
}

static inline bool wanted_counts(Wanted *w, const char *list) {
    memset(w->counts, 0, sizeof w->counts);
    for (const char *at = list; *at;) {
        char *end;
        long tokens = strtol(at, &end, 10);
        int found = 0;
        while (found < BENCH_COUNTS && bench_counts[found] != tokens)
            found++;
        if (end == at || found == BENCH_COUNTS)
            return false;
        w->counts[found] = true;
        at = *end == ',' ? end + 1 : end;
    }
    return true;
}

static inline bool wanted_parse(Wanted *w, int argc, char **argv) {
    const struct {
        const char *name, **text;
        bool *flag;
    } options[] = {{"--set", &w->set, NULL},         {"--layer", &w->layer, NULL},
                   {"--kernel", &w->kernel, NULL},   {"--variant", &w->variant, NULL},
                   {"--json", &w->json, NULL},
                   {"--all", NULL, &w->all},         {"--print", NULL, &w->print},
                   {"--chosen", NULL, &w->chosen},   {"--check", NULL, &w->check},
                   {"--compile", NULL, &w->compile}, {"--own-dense", NULL, &w->own_dense}};
    *w = (Wanted){
        .set = "peers,formats,fused", .layer = "", .kernel = "", .variant = "", .seed = (uint64_t)time(NULL),
        .rest_ms = 40};
    memset(w->counts, true, sizeof w->counts);
    for (int at = 1; at < argc; at++) {
        bool known = false;
        for (size_t option = 0; option < sizeof options / sizeof *options && !known; option++) {
            known = strcmp(argv[at], options[option].name) == 0;
            if (known && options[option].flag)
                *options[option].flag = true;
            else if (known)
                *options[option].text = at + 1 < argc ? argv[++at] : "";
        }
        if (!known && at + 1 < argc && strcmp(argv[at], "--seed") == 0)
            known = (w->seed = strtoull(argv[++at], NULL, 10)) > 0;
        else if (!known && at + 1 < argc && strcmp(argv[at], "--rest") == 0)
            known = (w->rest_ms = atoi(argv[++at])) >= 0;
        else if (!known && at + 1 < argc && strcmp(argv[at], "--tokens") == 0)
            known = wanted_counts(w, argv[++at]);
        if (!known) {
            fprintf(stderr,
                    "%s is not known here; the head of tests/gpu_kernels_bench.c tells "
                    "what is\n",
                    argv[at]);
            return false;
        }
    }
    return true;
}

// ---- results ------------------------------------------------------------------------------------

// One layer with one number of tokens.
typedef struct Cell {
    int layer, count;
    const PackedTensor *weight; // while its layer is measured
    double flops;
    double read_us, dense_us; // 0: not measured
    const Candidate *best;    // the fastest
    const Candidate *chosen;  // what the compiler would take
    double worst;             // of its bound, over all candidates
    double error, rounding;   // of the best
    // kept for comparisons between cells
    double best_us, chosen_us;
} Cell;

typedef struct Report {
    const Wanted *wanted;
    const char *dense; // who made the dense products
    Cell cells[BENCH_LAYERS][BENCH_COUNTS];
    cJSON *json, *json_cells;
} Report;

// Takes a timed candidate into account.
static inline void cell_take(Cell *cell, const Candidate *c, const Verdict *v) {
    if (!cell->best || c->us < cell->best->us) {
        cell->best = c;
        cell->best_us = c->us;
        cell->error = v->error;
        cell->rounding = v->rounding;
    }
    if (!cell->chosen || c->predicted_us < cell->chosen->predicted_us) {
        cell->chosen = c;
        cell->chosen_us = c->us;
    }
    cell->worst = fmax(cell->worst, v->worst);
}

static inline double cell_peer(const Cell *cell) {
    return bench_layers[cell->layer].peer_us[cell->count];
}

// device NULL: nothing will be timed.
static inline void report_open(Report *r, const Wanted *w, const char *device, int driver,
                               const char *dense) {
    time_t now = time(NULL);
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    r->wanted = w;
    r->dense = dense;
    r->json = cJSON_CreateObject();
    cJSON_AddStringToObject(r->json, "device", device ? device : "none");
    cJSON_AddNumberToObject(r->json, "driver_version", driver);
    cJSON_AddStringToObject(r->json, "date", date);
    cJSON_AddNumberToObject(r->json, "seed", (double)w->seed);
    cJSON_AddStringToObject(r->json, "dense", dense);
    cJSON_AddStringToObject(r->json, "peers",
                            "measured elsewhere on one H200: Marlin (a), Machete (e), cuBLAS (f)");
    r->json_cells = cJSON_AddArrayToObject(r->json, "cells");
    if (device)
        printf("%s, driver %d, %s; dense products by %s\n", device, driver, date, dense);
}

static inline void report_layer(const Report *r, const BenchLayer *l, const PackedTensor *w,
                                double read_us) {
    (void)r;
    printf("\n%s: %lld x %lld, %d bits, group %d%s%s%s, %.1f MB; read %.2f us, %.2f TB/s\n",
           l->c.name, (long long)w->in_features, (long long)w->out_features, w->bits, w->group,
           w->zeros ? ", zeros" : "", l->c.bf16 ? ", bf16" : "", w->input_order ? ", order" : "",
           (double)w->bytes * 1e-6, read_us, (double)w->bytes / read_us * 1e-6);
}

static inline double cell_tflops(const Cell *cell, double us) {
    return 1e-6 * cell->flops / us;
}

static inline void cell_print(const Cell *cell) {
    double us = cell->best->us, peer = cell_peer(cell);
    printf("  M %4lld %9.2f us %5.2f TB/s %6.1f TFLOP/s  read %.2f",
           (long long)bench_counts[cell->count], us, (double)cell->weight->bytes / us * 1e-6,
           cell_tflops(cell, us), cell->read_us / us);
    if (cell->dense_us > 0)
        printf("  dense %.2f", cell->dense_us / us);
    if (peer > 0)
        printf("  peer %.2f %c", peer / us, bench_layers[cell->layer].peer[cell->count]);
    printf("  %s %s", cell->best->run.kernel->name, cell->best->variant);
    if (cell->chosen != cell->best)
        printf("; chosen %.2f us: %s %s", cell->chosen->us, cell->chosen->run.kernel->name,
               cell->chosen->variant);
    printf("\n");
}

static inline cJSON *candidate_json(const Candidate *c) {
    cJSON *json = cJSON_CreateObject();
    const PhasePlan *phase = &c->run.phase;
    const Params *params = &phase->steps[phase->step_count - 1].params; // a norm may stand before
    cJSON_AddStringToObject(json, "kernel", c->run.kernel->name);
    cJSON_AddStringToObject(json, "variant", c->variant);
    cJSON_AddNumberToObject(json, "us", c->us);
    cJSON_AddNumberToObject(json, "predicted_us", c->predicted_us);
    cJSON_AddNumberToObject(json, "model_us", c->run.cost.us);
    cJSON *all = cJSON_AddObjectToObject(json, "params");
    for (int at = 0; at < params->count; at++)
        cJSON_AddNumberToObject(all, params->items[at].name, (double)params->items[at].value);
    return json;
}

static inline cJSON *cell_json(const Cell *cell, const Candidate *candidates, int count) {
    cJSON *json = cJSON_CreateObject();
    const BenchLayer *l = &bench_layers[cell->layer];
    char peer[2] = {l->peer[cell->count] ? l->peer[cell->count] : '-', 0};
    double us = cell->best->us;
    cJSON_AddStringToObject(json, "layer", l->c.name);
    cJSON_AddStringToObject(json, "set", l->set);
    cJSON_AddNumberToObject(json, "in_features", (double)cell->weight->in_features);
    cJSON_AddNumberToObject(json, "out_features", (double)cell->weight->out_features);
    cJSON_AddNumberToObject(json, "bytes", (double)cell->weight->bytes);
    cJSON_AddNumberToObject(json, "tokens", (double)bench_counts[cell->count]);
    cJSON_AddNumberToObject(json, "us", us);
    cJSON_AddNumberToObject(json, "chosen_us", cell->chosen->us);
    cJSON_AddNumberToObject(json, "tb_per_s", (double)cell->weight->bytes / us * 1e-6);
    cJSON_AddNumberToObject(json, "tflop_per_s", cell_tflops(cell, us));
    cJSON_AddNumberToObject(json, "read_us", cell->read_us);
    cJSON_AddNumberToObject(json, "read_ratio", cell->read_us / us);
    cJSON_AddNumberToObject(json, "dense_us", cell->dense_us);
    cJSON_AddNumberToObject(json, "dense_ratio", cell->dense_us / us);
    cJSON_AddNumberToObject(json, "peer_us", cell_peer(cell));
    cJSON_AddStringToObject(json, "peer", peer);
    cJSON_AddNumberToObject(json, "worst_of_bound", cell->worst);
    cJSON_AddNumberToObject(json, "mean_error_of_rounding",
                            cell->rounding > 0 ? cell->error / cell->rounding : 0);
    cJSON_AddItemToObject(json, "best", candidate_json(cell->best));
    cJSON_AddItemToObject(json, "chosen", candidate_json(cell->chosen));
    cJSON *all = cJSON_AddArrayToObject(json, "candidates");
    for (int at = 0; at < count; at++)
        if (candidates[at].layer == cell->layer && candidates[at].count == cell->count &&
            !candidates[at].dense)
            cJSON_AddItemToArray(all, candidate_json(&candidates[at]));
    return json;
}

static inline void report_cell(Report *r, const Cell *cell, const Candidate *candidates,
                               int count) {
    r->cells[cell->layer][cell->count] = *cell;
    cJSON_AddItemToArray(r->json_cells, cell_json(cell, candidates, count));
    if (cell->best->us <= 0)
        return;
    for (int at = 0; at < count && r->wanted->print; at++) {
        const Candidate *c = &candidates[at];
        if (c->layer == cell->layer && c->count == cell->count && !c->dense)
            printf("         %9.2f us, predicted %9.2f: %s %s\n", c->us, c->predicted_us,
                   c->run.kernel->name, c->variant);
    }
    cell_print(cell);
}

// ---- bars ---------------------------------------------------------------------------------------

typedef struct Mean {
    double logs, least;
    int count, layer, at; // where the least is
} Mean;

static inline void mean_take(Mean *m, double ratio, int layer, int at) {
    if (m->count++ == 0 || ratio < m->least)
        *m = (Mean){m->logs, ratio, m->count, layer, at};
    m->logs += log(ratio);
}

static inline void mean_print(Report *r, const BenchBar *bar, const Mean *m, const char *what) {
    double mean = exp(m->logs / m->count);
    cJSON *json = cJSON_CreateObject();
    printf("M %lld to %lld, %s: %.3f (bar %.2f), least %.3f (bar %.2f) at %s, M %lld; %d cells\n",
           (long long)bench_counts[bar->first],
           (long long)bench_counts[bar->first + bar->count - 1], what, mean, bar->mean, m->least,
           bar->least, bench_layers[m->layer].c.name, (long long)bench_counts[m->at], m->count);
    cJSON_AddStringToObject(json, "what", what);
    cJSON_AddNumberToObject(json, "first", (double)bench_counts[bar->first]);
    cJSON_AddNumberToObject(json, "last", (double)bench_counts[bar->first + bar->count - 1]);
    cJSON_AddNumberToObject(json, "mean", mean);
    cJSON_AddNumberToObject(json, "mean_bar", bar->mean);
    cJSON_AddNumberToObject(json, "least", m->least);
    cJSON_AddNumberToObject(json, "least_bar", bar->least);
    cJSON_AddStringToObject(json, "least_layer", bench_layers[m->layer].c.name);
    cJSON_AddNumberToObject(json, "least_tokens", (double)bench_counts[m->at]);
    cJSON_AddItemToArray(cJSON_GetObjectItem(r->json, "groups"), json);
}

// Flops per microsecond of the fastest dense product: those of few tokens only read their weights.
static inline double dense_peak(const Report *r) {
    double peak = 0;
    for (int layer = 0; layer < BENCH_LAYERS; layer++)
        for (int at = 0; at < BENCH_COUNTS; at++) {
            const Cell *cell = &r->cells[layer][at];
            if (cell->best && cell->dense_us > 0)
                peak = fmax(peak, cell->flops / cell->dense_us);
        }
    return peak;
}

// The time that bytes and flops imply against the base: by the longer of reading and multiplying.
static inline double implied_us(const Report *r, const Cell *cell, const Cell *base) {
    double products_us = base->flops / dense_peak(r);
    return base->best_us * fmax(cell->read_us, products_us) / fmax(base->read_us, products_us);
}

static inline const Cell *base_cell(const Report *r, const Cell *cell) {
    const char *base = bench_layers[cell->layer].base;
    for (int layer = 0; base && layer < BENCH_LAYERS; layer++)
        if (strcmp(bench_layers[layer].c.name, base) == 0 && r->cells[layer][cell->count].best)
            return &r->cells[layer][cell->count];
    return NULL;
}

static inline void formats_print(const Report *r) {
    for (int layer = 0; layer < BENCH_LAYERS; layer++) {
        bool first = true;
        for (int at = 0; at < BENCH_COUNTS; at++) {
            const Cell *cell = &r->cells[layer][at], *base = cell->best ? base_cell(r, cell) : NULL;
            if (!base)
                continue;
            if (first)
                printf("%s, time over what its bytes or flops imply (bar 1.10):",
                       bench_layers[layer].c.name);
            first = false;
            printf(" %lld: %.2f", (long long)bench_counts[at],
                   cell->best_us / implied_us(r, cell, base));
        }
        if (!first)
            printf("\n");
    }
}

static inline void report_groups(Report *r) {
    cJSON_AddArrayToObject(r->json, "groups");
    printf("\nbest peer's time over ours, geometric means\n");
    for (size_t group = 0; group < sizeof bench_bars / sizeof *bench_bars; group++) {
        const BenchBar *bar = &bench_bars[group];
        Mean best = {.count = 0}, chosen = {.count = 0};
        for (int layer = 0; layer < BENCH_LAYERS; layer++)
            for (int at = bar->first; at < bar->first + bar->count; at++) {
                const Cell *cell = &r->cells[layer][at];
                if (!cell->best || bench_layers[layer].peer_us[at] <= 0)
                    continue;
                mean_take(&best, cell_peer(cell) / cell->best_us, layer, at);
                mean_take(&chosen, cell_peer(cell) / cell->chosen_us, layer, at);
            }
        if (best.count) {
            mean_print(r, bar, &best, "fastest candidate");
            mean_print(r, bar, &chosen, "compiler's choice");
        }
    }
    formats_print(r);
}

static inline bool report_write(Report *r, const char *path, Error *err) {
    char *text = path ? cJSON_Print(r->json) : NULL;
    FILE *file = text ? fopen(path, "w") : NULL;
    bool written = !path || (file && fprintf(file, "%s\n", text) > 0);
    if (file)
        written = fclose(file) == 0 && written;
    cJSON_free(text);
    cJSON_Delete(r->json);
    return written || fail(err, ERR_RESOURCE, 0, "cannot write %s", path);
}

#endif

// What the server measures of itself, as text for Prometheus.
#ifndef METRICS_H
#define METRICS_H

#include "scheduler.h"
#include "writer.h"

typedef enum MetricHistogram {  // ORDER METRIC_HISTOGRAMS (metrics.c: names, bounds)
    METRIC_FIRST_TOKEN_SECONDS, // from the request to its first token
    METRIC_INTER_TOKEN_SECONDS,
    METRIC_REQUEST_SECONDS, // from the request to its last token
    METRIC_PROMPT_TOKENS,
    METRIC_OUTPUT_TOKENS,
    METRIC_HISTOGRAM_COUNT,
} MetricHistogram;

enum { METRIC_MAX_BOUNDS = 20 };

typedef struct Metrics {
    struct {
        int64_t counts[METRIC_MAX_BOUNDS + 1]; // [bounds + 1], not yet summed up
        double sum;
    } histograms[METRIC_HISTOGRAM_COUNT];
    int64_t refused_400, refused_429, refused_500, disconnects;
} Metrics;

void metrics_observe(Metrics *m, MetricHistogram which, double value);
// model: the label of all lines.
void metrics_print(const Metrics *m, const SchedulerStats *s, int64_t connections,
                   const char *model, Writer *out);

#endif

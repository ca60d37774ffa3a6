// Prometheus' text format, version 0.0.4. Names follow vLLM's, so that its dashboards need another
// prefix only.
#include "metrics.h"

#include <inttypes.h>
#include <string.h>

#define PREFIX "gptq_compile_"

typedef struct HistogramSpec {
    const char *name, *help;
    int count;
    double bounds[METRIC_MAX_BOUNDS];
} HistogramSpec;

// clang-format off
static const HistogramSpec specs[METRIC_HISTOGRAM_COUNT] = { // ORDER METRIC_HISTOGRAMS
    {"time_to_first_token_seconds", "From the request to its first token.", 17,
     {.001, .002, .005, .01, .02, .04, .06, .08, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}},
    {"inter_token_latency_seconds", "From one token of an answer to the next.", 16,
     {.0005, .001, .002, .003, .004, .006, .008, .01, .015, .025, .05, .1, .25, .5, 1, 2.5}},
    {"e2e_request_latency_seconds", "From the request to its last token.", 16,
     {.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600}},
    {"request_prompt_tokens", "Tokens of a prompt.", 16,
     {1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072}},
    {"request_generation_tokens", "Tokens of an answer.", 16,
     {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}},
};
// clang-format on

void metrics_observe(Metrics *m, MetricHistogram which, double value) {
    int at = 0;
    while (at < specs[which].count && value > specs[which].bounds[at])
        at++;
    m->histograms[which].counts[at]++;
    m->histograms[which].sum += value;
}

typedef struct Line {
    const char *name, *type, *help, *label; // label: one more, or ""
    double value;
} Line;

static void line_print(Writer *out, const Line *l, const char *model, bool first) {
    if (first)
        writer_print(out, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s %s\n", l->name, l->help,
                     l->name, l->type);
    writer_print(out, PREFIX "%s{model_name=\"%s\"%s} %.17g\n", l->name, model, l->label, l->value);
}

static void histogram_print(const Metrics *m, int which, const char *model, Writer *out) {
    const HistogramSpec *s = &specs[which];
    int64_t total = 0;
    writer_print(out, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s histogram\n", s->name, s->help,
                 s->name);
    for (int at = 0; at <= s->count; at++) {
        total += m->histograms[which].counts[at];
        writer_print(out, PREFIX "%s_bucket{model_name=\"%s\",le=\"", s->name, model);
        if (at < s->count)
            writer_print(out, "%g", s->bounds[at]);
        else
            writer_print(out, "+Inf");
        writer_print(out, "\"} %" PRId64 "\n", total);
    }
    writer_print(out, PREFIX "%s_sum{model_name=\"%s\"} %.17g\n", s->name, model,
                 m->histograms[which].sum);
    writer_print(out, PREFIX "%s_count{model_name=\"%s\"} %" PRId64 "\n", s->name, model, total);
}

// A label's value may hold no quote, backslash or line end.
static void label_copy(char *to, size_t room, const char *from) {
    size_t at = 0;
    for (; from[at] && at + 1 < room; at++)
        to[at] = (char)(strchr("\"\\\n", from[at]) ? '_' : from[at]);
    to[at] = 0;
}

void metrics_print(const Metrics *m, const SchedulerStats *s, int64_t connections,
                   const char *model, Writer *out) {
    char label[128];
    label_copy(label, sizeof label, model);
    const double pages = s->kv_pages > 0 ? (double)s->kv_pages : 1;
    // clang-format off
    const Line lines[] = {
        {"num_requests_running", "gauge", "Requests in the batch.", "", (double)s->running},
        {"num_requests_waiting", "gauge", "Requests in the queue.", "", (double)s->waiting},
        {"kv_cache_usage_perc", "gauge", "Pages of the KV cache in use, 1 = all.", "",
         (double)s->kv_pages_used / pages},
        {"kv_cache_pages", "gauge", "Pages of the KV cache.", "", (double)s->kv_pages},
        {"kv_cache_pages_cached", "gauge", "Pages kept for prompts to come.", "",
         (double)s->kv_pages_cached},
        {"connections", "gauge", "Open connections.", "", (double)connections},
        {"prompt_tokens_total", "counter", "Tokens of prompts.", "", (double)s->prompt_tokens},
        {"prefix_cache_hits_total", "counter", "Tokens of prompts that were in the KV cache.", "",
         (double)s->cached_tokens},
        {"generation_tokens_total", "counter", "Tokens of answers.", "", (double)s->output_tokens},
        {"steps_total", "counter", "Steps of the model.", "", (double)s->steps},
        {"device_idle_seconds_total", "counter",
         "Between one step and the next, while requests ran.", "", s->idle_seconds},
        {"num_preemptions_total", "counter", "Requests that lost their pages and began anew.", "",
         (double)s->preemptions},
        {"spec_decode_num_draft_tokens_total", "counter", "Tokens that speculation guessed.", "",
         (double)s->drafted},
        {"spec_decode_num_accepted_tokens_total", "counter", "Guessed tokens that were right.", "",
         (double)s->accepted},
        {"request_success_total", "counter", "Answers, by how they ended.",
         ",finished_reason=\"stop\"", (double)s->finished[FINISH_STOP]},
        {"request_success_total", NULL, NULL, ",finished_reason=\"length\"",
         (double)s->finished[FINISH_LENGTH]},
        {"request_success_total", NULL, NULL, ",finished_reason=\"abort\"",
         (double)s->finished[FINISH_CANCELLED]},
        {"request_success_total", NULL, NULL, ",finished_reason=\"error\"",
         (double)s->finished[FINISH_ERROR]},
        {"requests_refused_total", "counter", "Requests that were refused, by HTTP status.",
         ",status=\"4xx\"", (double)m->refused_400},
        {"requests_refused_total", NULL, NULL, ",status=\"429\"", (double)m->refused_429},
        {"requests_refused_total", NULL, NULL, ",status=\"5xx\"", (double)m->refused_500},
        {"disconnects_total", "counter", "Clients that left before their answer was complete.", "",
         (double)m->disconnects},
    };
    // clang-format on
    for (size_t at = 0; at < sizeof lines / sizeof *lines; at++)
        line_print(out, &lines[at], label, lines[at].type != NULL);
    for (int at = 0; at < METRIC_HISTOGRAM_COUNT; at++)
        histogram_print(m, at, label, out);
}

// Progress of a compile on stderr: numbered phases with totals and an estimate. On a terminal one
// line is redrawn; elsewhere each phase is one line; `json` prints one object a line.
#include "compile.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

static const double REDRAW_S = 0.1;

double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool redraws(const Progress *p) {
    return p->mode == PROGRESS_AUTO && isatty(STDERR_FILENO);
}

void progress_begin(Progress *p, const char *title) {
    p->phase++;
    p->title = title;
    p->phase_started_s = clock_seconds();
    p->drawn_s = 0;
    p->plain[0] = p->json[0] = 0;
    if (redraws(p))
        fprintf(stderr, "\r\033[K[%d/%d] %s", p->phase, p->phases, title);
}

void progress_at(Progress *p, int64_t done, int64_t total, const char *unit) {
    double now = clock_seconds();
    if (!redraws(p) || now - p->drawn_s < REDRAW_S || total <= 0)
        return;
    p->drawn_s = now;
    double spent = now - p->phase_started_s;
    double left = done > 0 ? spent * (double)(total - done) / (double)done : 0;
    fprintf(stderr, "\r\033[K[%d/%d] %s  %lld of %lld %s, %.0f s left", p->phase, p->phases,
            p->title, (long long)done, (long long)total, unit, left);
}

void progress_fact(Progress *p, const char *name, double value) {
    size_t plain = strlen(p->plain), json = strlen(p->json);
    snprintf(p->plain + plain, sizeof p->plain - plain, "%s%s %.6g", plain ? ", " : "", name,
             value);
    snprintf(p->json + json, sizeof p->json - json, ",\"%s\":%.10g", name, value);
}

void progress_end(Progress *p) {
    double seconds = clock_seconds() - p->phase_started_s;
    if (p->mode == PROGRESS_NONE)
        return;
    if (p->mode == PROGRESS_JSON)
        fprintf(stderr, "{\"phase\":%d,\"phases\":%d,\"title\":\"%s\",\"seconds\":%.3f%s}\n",
                p->phase, p->phases, p->title, seconds, p->json);
    else
        fprintf(stderr, "%s[%d/%d] %-10s %6.2f s  %s\n", redraws(p) ? "\r\033[K" : "", p->phase,
                p->phases, p->title, seconds, p->plain);
}

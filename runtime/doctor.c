// `doctor`: is this machine fit for this file, and if not, which command mends it? Looks only; changes
// nothing and opens no device. `selftest` then says whether it computes right, `bench` how fast.
#include "doctor.h"

#include "cli.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <string.h>

static const char *const verdict_names[] = {"good", "note", "bad"}; // ORDER VERDICTS

void doctor_add(Doctor *d, Verdict verdict, const char *what, const char *mend, const char *format,
                ...) {
    char detail[512];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "what", what);
    cJSON_AddStringToObject(item, "verdict", verdict_names[verdict]);
    cJSON_AddStringToObject(item, "detail", detail);
    if (mend)
        cJSON_AddStringToObject(item, "mend", mend);
    cJSON_AddItemToArray(d->findings, item);
    d->bad += verdict == VERDICT_BAD;
}

bool doctor_line(const Doctor *d, const char *path, char *out, int size) {
    char whole[600];
    snprintf(whole, sizeof whole, "%s%s", d->root, path);
    FILE *file = fopen(whole, "r");
    bool read = file && fgets(out, size, file);
    if (file)
        fclose(file);
    if (read)
        out[strcspn(out, "\n")] = 0;
    return read;
}

bool doctor_has(const Doctor *d, TargetDevice device) {
    for (int at = 0; at < d->e->target_count; at++)
        if (d->e->targets[at].device == (int32_t)device)
            return true;
    return false;
}

static void findings_print(const Doctor *d) {
    const cJSON *item;
    cJSON_ArrayForEach(item, d->findings) {
        const cJSON *mend = cJSON_GetObjectItem(item, "mend");
        printf("%-4s  %-12s %s\n", cJSON_GetObjectItem(item, "verdict")->valuestring,
               cJSON_GetObjectItem(item, "what")->valuestring,
               cJSON_GetObjectItem(item, "detail")->valuestring);
        if (mend)
            printf("                   -> %s\n", mend->valuestring);
    }
}

bool command_doctor(Cli *cli, Error *err) {
    Doctor d = {.e = &cli->executable, .root = cli->options.root ? cli->options.root : ""};
    d.findings = cJSON_CreateArray();
    doctor_host(&d);
    if (doctor_has(&d, DEVICE_CUDA))
        doctor_gpu(&d);
    if (cli->options.json) {
        char *text = cJSON_Print(d.findings);
        puts(text ? text : "[]");
        cJSON_free(text);
    } else {
        findings_print(&d);
    }
    cJSON_Delete(d.findings);
    if (!d.runs)
        return fail(err, ERR_DEVICE, 1280,
                    "this file cannot run on this machine: %d finding%s %s bad", d.bad,
                    d.bad == 1 ? "" : "s", d.bad == 1 ? "is" : "are");
    return true;
}

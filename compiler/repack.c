// `gptq-compile repack FILE [-o NEW]`: another chat template, system prompt, default arguments,
// sampling defaults, licence or name, without touching the weights.
//
// In place, in this order, each step on the disk before the next: the unused area gets the new
// metadata; the unused footer, one sector, gets a higher generation (from here on the file is the
// new one); the old footer and the old area become zero. Whenever it stops, the file opens. What an
// interrupted run left is cleared by the next. With -o the file is shared with the new one where the
// file system can (FICLONE), else copied by the kernel, and gets the same treatment before it has a
// name. Non-goal: replacing what the program code depends on (sizes, weights, tokenizer).
#include "artifact.h"
#include "chat_template.h"
#include "fd.h"
#include "metadata.h"
#include "tail.h"

#include "../runtime/payload_parts.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Request {
    const char *output; // NULL: in place
    const char *chat_template, *system, *arguments, *license, *name;
    const char *temperature, *top_k, *top_p, *min_p, *repetition_penalty;
} Request;

// ---- the new metadata ---------------------------------------------------------------------------

static bool number_read(const char *option, const char *text, double low, double high, double *out,
                        Error *err) {
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    if (errno || end == text || *end || !(*out >= low && *out <= high))
        return fail(err, ERR_USAGE, 686, "%s wants a number from %g to %g, found \"%s\"", option,
                    low, high, text);
    return true;
}

static bool float_set(float *field, const char *option, const char *text, double high, Error *err) {
    double value;
    if (!text)
        return true;
    TRY(number_read(option, text, 0, high, &value, err));
    *field = (float)value;
    return true;
}

static bool model_change(ModelInfo *m, const Request *r, Error *err) {
    double top_k;
    if (r->name) {
        if (!r->name[0] || strlen(r->name) >= sizeof m->name)
            return fail(err, ERR_USAGE, 687, "--name wants 1 to %zu bytes, found %zu",
                        sizeof m->name - 1, strlen(r->name));
        memset(m->name, 0, sizeof m->name);
        memcpy(m->name, r->name, strlen(r->name));
    }
    bool sampling = r->temperature || r->top_k || r->top_p || r->min_p || r->repetition_penalty;
    if (sampling && !m->default_sample) { // so far the model took the most likely token
        m->default_sample = 1;
        m->default_temperature = r->temperature ? m->default_temperature : 1;
    }
    if (r->top_k) {
        TRY(number_read("--top-k", r->top_k, 0, 1e9, &top_k, err));
        m->default_top_k = (int32_t)top_k;
    }
    TRY(float_set(&m->default_temperature, "--temp", r->temperature, 100, err));
    if (r->temperature && m->default_temperature == 0)
        m->default_sample = 0;
    return float_set(&m->default_top_p, "--top-p", r->top_p, 1, err) &&
           float_set(&m->default_min_p, "--min-p", r->min_p, 1, err) &&
           float_set(&m->default_repetition_penalty, "--repeat-penalty", r->repetition_penalty, 100,
                     err);
}

// The words of a line, separated by spaces, as a JSON array. No quoting.
static cJSON *words_json(const char *line) {
    cJSON *list = cJSON_CreateArray();
    for (const char *at = line; *at; at += strspn(at, " ")) {
        char word[256];
        size_t size = strcspn(at, " ");
        snprintf(word, sizeof word, "%.*s", (int)(size < 255 ? size : 255), at);
        if (size)
            cJSON_AddItemToArray(list, cJSON_CreateString(word));
        at += size;
    }
    return list;
}

static void member_set(cJSON *json, const char *name, cJSON *value, bool empty) {
    cJSON_DeleteItemFromObjectCaseSensitive(json, name);
    if (empty)
        cJSON_Delete(value);
    else
        cJSON_AddItemToObject(json, name, value);
}

// An empty text takes the default away.
static Bytes defaults_change(Bytes old, const Request *r, Arena *a) {
    if (!r->system && !r->arguments)
        return old;
    cJSON *json = cJSON_ParseWithLength((const char *)old.data, old.size);
    if (!cJSON_IsObject(json)) {
        cJSON_Delete(json);
        json = cJSON_CreateObject();
    }
    if (r->system)
        member_set(json, "system", cJSON_CreateString(r->system), !r->system[0]);
    if (r->arguments)
        member_set(json, "arguments", words_json(r->arguments), !r->arguments[0]);
    char *text = json->child ? cJSON_PrintUnformatted(json) : NULL;
    Bytes out = {NULL, 0};
    if (text)
        out = (Bytes){(unsigned char *)arena_strndup(a, text, strlen(text)), strlen(text)};
    cJSON_free(text);
    cJSON_Delete(json);
    return out;
}

static bool template_change(Bytes segments[SEGMENT_COUNT], const char *given, Arena *a,
                            Error *err) {
    Bytes tokens = segments[SEGMENT_SPECIAL_TOKENS];
    if (!given)
        return true;
    segments[SEGMENT_TEMPLATE] = segments[SEGMENT_TOOL_TEMPLATE] = (Bytes){NULL, 0};
    TRY(chat_templates_make(segments, "", given, a, err));
    segments[SEGMENT_SPECIAL_TOKENS] = tokens;
    return true;
}

static bool segments_change(const Artifact *f, const Request *r, ModelInfo *model,
                            Bytes segments[SEGMENT_COUNT], Arena *a, Error *err) {
    for (int kind = 0; kind < SEGMENT_COUNT; kind++)
        segments[kind] = artifact_segment(f, (SegmentKind)kind);
    *model = f->info;
    TRY(model_change(model, r, err));
    segments[SEGMENT_MODEL] = (Bytes){(const unsigned char *)model, sizeof *model};
    segments[SEGMENT_DEFAULTS] = defaults_change(segments[SEGMENT_DEFAULTS], r, a);
    TRY(template_change(segments, r->chat_template, a, err));
    return !r->license || license_make(&segments[SEGMENT_LICENSE], r->license, a, err);
}

// ---- in place -----------------------------------------------------------------------------------

static bool sync_file(const Output *out, Error *err) {
    if (fdatasync(out->fd) != 0)
        return fail(err, ERR_RESOURCE, 688, "cannot write %s: %s", out->path, strerror(errno));
    return true;
}

static bool zeros_write(Output *out, uint64_t at, uint64_t size, Error *err) {
    static const unsigned char zeros[64 << 10];
    while (size) {
        size_t part = size < sizeof zeros ? (size_t)size : sizeof zeros;
        TRY(output_write(out, (int64_t)at, zeros, part, err));
        at += part;
        size -= part;
    }
    return true;
}

static uint64_t other_area(const PayloadFooter *f) {
    return f->table_offset == f->area_offset ? f->area_offset + f->area_bytes : f->area_offset;
}

static bool tail_replace(Output *out, const Payload *p, const Bytes segments[SEGMENT_COUNT],
                         Arena *a, Error *err) {
    const PayloadFooter *old = &p->footer;
    PayloadFooter footer = *old;
    Segment table[SEGMENT_COUNT];
    uint64_t to = other_area(old);
    memcpy(table, p->segments, sizeof table);
    Bytes area = area_make(table, segments, to, a);
    if (p->other) // of an interrupted run; first, so that it cannot count again
        TRY(footer_write(out, NULL, old->file_size, !p->footer_at, err) && sync_file(out, err));
    TRY(output_write(out, (int64_t)to, area.data, area.size, err));
    TRY(zeros_write(out, to + area.size, old->area_bytes - area.size, err));
    TRY(sync_file(out, err));
    footer.generation++;
    footer.table_offset = to;
    payload_hash128(area.data, sizeof table, footer.table_check);
    TRY(footer_write(out, &footer, old->file_size, !p->footer_at, err) && sync_file(out, err));
    TRY(footer_write(out, NULL, old->file_size, p->footer_at, err) && sync_file(out, err));
    return zeros_write(out, old->table_offset, old->area_bytes, err) && sync_file(out, err);
}

static bool in_place(const Artifact *f, const Bytes segments[SEGMENT_COUNT], Arena *a, Error *err) {
    Output out = {.path = f->path, .fd = open(f->path, O_RDWR | O_CLOEXEC)};
    if (out.fd < 0 && errno == ETXTBSY)
        return fail(err, ERR_RESOURCE, 689,
                    "%s is running: stop it, or write a new file with -o and rename it", f->path);
    if (out.fd < 0)
        return fail(err, ERR_RESOURCE, 690, "%s: %s", f->path, strerror(errno));
    bool done = flock(out.fd, LOCK_EX | LOCK_NB) == 0 ||
                fail(err, ERR_RESOURCE, 691, "%s: another repack is at work on it", f->path);
    done = done && tail_replace(&out, &f->payload, segments, a, err);
    close(out.fd);
    return done;
}

// ---- to a new file ------------------------------------------------------------------------------

// The first `size` bytes: shared where the file system can, else copied by the kernel.
static bool bytes_share(Output *out, const Artifact *f, uint64_t size, Error *err) {
    int from = open(f->path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return fail(err, ERR_RESOURCE, 692, "%s: %s", f->path, strerror(errno));
    bool done = ioctl(out->fd, FICLONE, from) == 0 && ftruncate(out->fd, (off_t)size) == 0;
    int64_t to = done ? 0 : fd_copy(out->fd, from, 0, (int64_t)size);
    close(from);
    if (done || (uint64_t)to == size)
        return true;
    return output_write(out, to, f->whole.data + to, (size_t)(size - (uint64_t)to), err);
}

static bool new_file(const Artifact *f, const char *path, const Bytes segments[SEGMENT_COUNT],
                     Arena *a, Error *err) {
    Output out;
    Segment table[SEGMENT_COUNT];
    PayloadFooter footer = {.elf_size = f->payload.footer.elf_size};
    memcpy(footer.elf_check, f->payload.footer.elf_check, sizeof footer.elf_check);
    memcpy(table, f->payload.segments, sizeof table);
    uint64_t keep = f->payload.footer.area_offset;
    TRY(output_open(&out, path, err));
    out.size = (int64_t)keep;
    bool done = bytes_share(&out, f, keep, err) &&
                tail_write(&out, table, segments, keep, &footer, a, err) &&
                output_commit(&out, err);
    output_discard(&out);
    return done;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool repack(const char *path, const Request *r, Arena *a, Error *err) {
    Artifact f;
    ModelInfo model;
    Bytes segments[SEGMENT_COUNT];
    TRY(artifact_open(&f, path, err));
    TRY(segments_change(&f, r, &model, segments, a, err));
    bool fits = area_content_bytes(segments) <= f.payload.footer.area_bytes;
    if (fits && (!r->output || same_file(path, r->output)))
        return in_place(&f, segments, a, err);
    if (!fits && !r->output)
        fprintf(stderr, "%s has no room for so much metadata: writing it anew\n", path);
    if (r->output && weights_external(&f.payload.segments[SEGMENT_WEIGHTS]))
        fprintf(stderr, "note: the weights of %s lie in %s.weights.*; copy them to %s.weights.*\n",
                r->output, path, r->output);
    return new_file(&f, r->output ? r->output : path, segments, a, err);
}

int repack_command(int argc, char **argv) {
    Error err = {0};
    Arena arena = {0};
    bool help;
    const char *path = NULL;
    Request r = {.output = NULL};
    const Word words[] = {
        {"-o", NULL, &r.output, "NEW", "write a new file that shares the weights"},
        {"--name", NULL, &r.name, "NAME", "what the model is called"},
        {"--chat-template", NULL, &r.chat_template, "FILE|none", "Jinja, as in a checkpoint"},
        {"--system", NULL, &r.system, "TEXT", "the system prompt; empty: none"},
        {"--args", NULL, &r.arguments, "\"WORDS\"", "options that every start gets first"},
        {"--temp", NULL, &r.temperature, "T", "default of --temp; 0: the most likely token"},
        {"--top-k", NULL, &r.top_k, "K", "default of --top-k"},
        {"--top-p", NULL, &r.top_p, "P", "default of --top-p"},
        {"--min-p", NULL, &r.min_p, "P", "default of --min-p"},
        {"--repeat-penalty", NULL, &r.repetition_penalty, "R", "default of --repeat-penalty"},
        {"--license-file", NULL, &r.license, "FILE", "the model's licence"},
    };
    enum { COUNT = sizeof words / sizeof *words };
    bool done = words_parse(words, COUNT, &path, 1, argc, argv, &help, &err);
    if (done && help)
        words_help("gptq-compile repack FILE [-o NEW]   other metadata, same weights", words,
                   COUNT);
    else
        done = done && repack(path, &r, &arena, &err);
    arena_free(&arena);
    return subcommand_end(done, &err);
}

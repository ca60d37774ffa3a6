// A batch's files. What is done is what the output has, so a run that was ended at any moment goes
// on: a reply is one write at the end of the file, and a line without its newline was not written.
#include "cli_batch.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINES = 1 << 24, MAX_LINE_BYTES = 1 << 26 };

static const struct {
    const char *url;
    ApiKind kind;
} urls[] = {{"/v1/chat/completions", API_CHAT}, {"/v1/completions", API_COMPLETIONS}};

static int by_id(const void *a, const void *b) {
    const BatchLine *const *left = a, *const *right = b;
    return strcmp((*left)->custom_id, (*right)->custom_id);
}

static BatchLine *line_find(const BatchFile *b, const char *custom_id) {
    const BatchLine key = {.custom_id = custom_id}, *wanted = &key;
    BatchLine **found = bsearch(&wanted, b->sorted, (size_t)b->count, sizeof *b->sorted, by_id);
    return found ? *found : NULL;
}

static const char *text_of(const cJSON *json, const char *name) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
}

// ---- input --------------------------------------------------------------------------------------

static bool request_check(const cJSON *json, const char *path, int64_t number, ApiKind *kind,
                          Error *err) {
    const char *id = text_of(json, "custom_id"), *method = text_of(json, "method");
    const char *url = text_of(json, "url");
    if (!id || !*id)
        return fail(err, ERR_USAGE, 1258, "%s:%lld: no \"custom_id\", expected a string", path,
                    (long long)number);
    if (!method || strcmp(method, "POST") != 0)
        return fail(err, ERR_USAGE, 1259, "%s:%lld: \"method\" must be \"POST\"", path,
                    (long long)number);
    if (!cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(json, "body")))
        return fail(err, ERR_USAGE, 1260, "%s:%lld: no \"body\", expected an object", path,
                    (long long)number);
    for (size_t at = 0; url && at < sizeof urls / sizeof *urls; at++)
        if (strcmp(url, urls[at].url) == 0) {
            *kind = urls[at].kind;
            return true;
        }
    return fail(err, ERR_USAGE, 1261,
                "%s:%lld: \"url\" must be /v1/chat/completions or /v1/completions", path,
                (long long)number);
}

static bool line_add(BatchFile *b, const char *path, BatchLine line, size_t size, Error *err) {
    cJSON *json = cJSON_ParseWithLength(b->text, size);
    ApiKind kind;
    bool done = cJSON_IsObject(json) || fail(err, ERR_USAGE, 1262, "%s:%lld: not a JSON object",
                                             path, (long long)line.number);
    done = done && request_check(json, path, line.number, &kind, err);
    if (done && (b->count & (b->count - 1)) == 0) { // room doubles
        size_t room = b->count ? 2 * (size_t)b->count : 1;
        BatchLine *bigger = b->count < MAX_LINES ? realloc(b->lines, room * sizeof *bigger) : NULL;
        done = bigger || fail(err, ERR_RESOURCE, 1263, "%s: no memory for more than %lld lines",
                              path, (long long)b->count);
        b->lines = bigger ? bigger : b->lines;
    }
    if (done) {
        line.custom_id = strdup(text_of(json, "custom_id"));
        done = line.custom_id || fail(err, ERR_RESOURCE, 1264, "no memory for a batch's names");
    }
    if (done)
        b->lines[b->count++] = line;
    cJSON_Delete(json);
    return done;
}

static bool is_empty(const char *text, size_t size) {
    return strspn(text, " \t\r\n") >= size;
}

static bool input_read(BatchFile *b, const char *path, Error *err) {
    BatchLine line = {.offset = 0};
    b->in = fopen(path, "rbe");
    if (!b->in)
        return fail(err, ERR_USAGE, 1265, "%s: cannot open: %s", path, strerror(errno));
    for (ssize_t size; (size = getline(&b->text, &b->room, b->in)) >= 0; line.offset += size) {
        line.number++;
        line.size = size;
        if (size > MAX_LINE_BYTES)
            return fail(err, ERR_RESOURCE, 1266, "%s:%lld: longer than %d bytes", path,
                        (long long)line.number, MAX_LINE_BYTES);
        if (!is_empty(b->text, (size_t)size))
            TRY(line_add(b, path, line, (size_t)size, err));
    }
    b->sorted = calloc((size_t)b->count + 1, sizeof *b->sorted);
    if (!b->sorted)
        return fail(err, ERR_RESOURCE, 1267, "no memory to sort %lld lines", (long long)b->count);
    for (int64_t at = 0; at < b->count; at++)
        b->sorted[at] = &b->lines[at];
    qsort(b->sorted, (size_t)b->count, sizeof *b->sorted, by_id);
    for (int64_t at = 1; at < b->count; at++)
        if (by_id(&b->sorted[at - 1], &b->sorted[at]) == 0)
            return fail(err, ERR_USAGE, 1268,
                        "%s: lines %lld and %lld have the same \"custom_id\"; each needs its own",
                        path, (long long)b->sorted[at - 1]->number,
                        (long long)b->sorted[at]->number);
    return true;
}

bool batch_file_read(BatchFile *b, const BatchLine *line, ApiKind *kind, char **body, Error *err) {
    size_t size = (size_t)line->size;
    bool done = fseeko(b->in, line->offset, SEEK_SET) == 0 && size <= b->room &&
                fread(b->text, 1, size, b->in) == size;
    cJSON *json = done ? cJSON_ParseWithLength(b->text, size) : NULL;
    done = json && request_check(json, "batch", line->number, kind, err);
    *body = done ? cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(json, "body")) : NULL;
    cJSON_Delete(json);
    return *body || fail(err, ERR_CORRUPT, 1269, "the input changed while the batch ran: line %lld",
                         (long long)line->number);
}

// ---- output -------------------------------------------------------------------------------------

// Marks a line of the output as done.
static bool reply_take(BatchFile *b, const char *path, size_t size, int64_t number, Error *err) {
    cJSON *json = cJSON_ParseWithLength(b->text, size);
    const char *id = text_of(json, "custom_id");
    BatchLine *line = id ? line_find(b, id) : NULL;
    bool done = true;
    if (!line || line->done)
        done =
            fail(err, ERR_USAGE, 1088, "%s:%lld: %s; it belongs to another batch, give another -o",
                 path, (long long)number,
                 line ? "a second reply to one request" : "no reply to a request of this input");
    if (done) {
        line->done = true;
        b->done++;
    }
    cJSON_Delete(json);
    return done;
}

static bool output_read(BatchFile *b, const char *path, Error *err) {
    FILE *old = fopen(path, "rbe");
    int64_t whole = 0, number = 1;
    bool done = old || fail(err, ERR_RESOURCE, 1087, "%s: cannot read: %s", path, strerror(errno));
    for (ssize_t size; done && (size = getline(&b->text, &b->room, old)) >= 0; number++) {
        if (b->text[size - 1] != '\n')
            break; // its write did not come to its end
        done = reply_take(b, path, (size_t)size, number, err);
        whole += size;
    }
    if (old)
        fclose(old);
    if (!done)
        return false;
    return ftruncate(b->out, whole) == 0 ||
           fail(err, ERR_RESOURCE, 1086, "%s: cannot take away a line that was cut off: %s", path,
                strerror(errno));
}

bool batch_file_write(BatchFile *b, BatchLine *line, Bytes text, Error *err) {
    while (text.size) {
        ssize_t written = write(b->out, text.data, text.size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail(err, ERR_RESOURCE, 1085, "the output of the batch: %s", strerror(errno));
        text.data += written;
        text.size -= (size_t)written;
    }
    line->done = true;
    b->done++;
    return true;
}

bool batch_file_open(BatchFile *b, const char *input, const char *output, Error *err) {
    *b = (BatchFile){.out = -1};
    TRY(input_read(b, input, err));
    b->out = open(output, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (b->out < 0)
        return fail(err, ERR_RESOURCE, 1084, "%s: cannot open: %s", output, strerror(errno));
    struct stat in, out;
    if (fstat(fileno(b->in), &in) == 0 && fstat(b->out, &out) == 0 && in.st_dev == out.st_dev &&
        in.st_ino == out.st_ino)
        return fail(err, ERR_USAGE, 1039, "%s: input and output are one file", output);
    if (flock(b->out, LOCK_EX | LOCK_NB) != 0)
        return fail(err, ERR_USAGE, 1038, "%s: another process writes this batch", output);
    return output_read(b, output, err);
}

void batch_file_close(BatchFile *b) {
    if (b->in)
        fclose(b->in);
    if (b->out >= 0)
        close(b->out);
    for (int64_t at = 0; at < b->count; at++)
        free((void *)(uintptr_t)b->lines[at].custom_id);
    free(b->lines);
    free(b->sorted);
    free(b->text);
}

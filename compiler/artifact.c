// Opens finished executables, and reads the command lines of the commands that take one.
#include "artifact.h"

#include "../runtime/payload_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool file_map(Bytes *out, const char *path, Error *err) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        int code = errno;
        if (fd >= 0)
            close(fd);
        return fail(err, ERR_USAGE, 670, "%s: %s", path, strerror(code));
    }
    void *data = MAP_FAILED;
    if (S_ISREG(info.st_mode) && info.st_size > 0)
        data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return fail(err, ERR_CORRUPT, 671, "%s is no executable of gptq-compile", path);
    *out = (Bytes){data, (size_t)info.st_size};
    return true;
}

Bytes artifact_segment(const Artifact *a, SegmentKind kind) {
    const Segment *s = &a->payload.segments[kind];
    if (kind == SEGMENT_WEIGHTS)
        return a->weights;
    return (Bytes){a->whole.data + s->offset, (size_t)s->size};
}

bool artifact_open(Artifact *out, const char *path, Error *err) {
    *out = (Artifact){.path = path};
    TRY(file_map(&out->whole, path, err));
    TRY(payload_parse(out->whole, path, &out->payload, err));
    const Segment *weights = &out->payload.segments[SEGMENT_WEIGHTS];
    size_t mapped;
    out->weights = (Bytes){out->whole.data + weights->offset, (size_t)weights->size};
    if (weights_external(weights))
        TRY(payload_parts_map(path, weights, &out->weights, &mapped, err));
    Bytes model = artifact_segment(out, SEGMENT_MODEL);
    if (model.size != sizeof out->info)
        return fail(err, ERR_CORRUPT, 672, "%s: the model segment has %zu bytes, expected %zu",
                    path, model.size, sizeof out->info);
    memcpy(&out->info, model.data, sizeof out->info);
    return true;
}

// ---- command lines ------------------------------------------------------------------------------

static const Word *word_find(const Word *words, int count, const char *text, size_t size) {
    for (int at = 0; at < count; at++)
        if (strlen(words[at].name) == size && memcmp(words[at].name, text, size) == 0)
            return &words[at];
    return NULL;
}

static bool option_read(const Word *w, int argc, char **argv, int *at, Error *err) {
    const char *equals = strchr(argv[*at], '=');
    if (w->flag && equals)
        return fail(err, ERR_USAGE, 673, "%s takes no value", w->name);
    if (w->flag)
        *w->flag = true;
    else if (equals)
        *w->text = equals + 1;
    else if (*at + 1 < argc)
        *w->text = argv[++*at];
    else
        return fail(err, ERR_USAGE, 674, "%s wants a value: %s", w->name, w->value);
    return true;
}

bool words_parse(const Word *words, int count, const char **plain, int plain_count, int argc,
                 char **argv, bool *help, Error *err) {
    int found = 0;
    *help = false;
    for (int at = 2; at < argc; at++) {
        const char *text = argv[at];
        if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
            *help = true;
            return true;
        }
        if (text[0] == '-' && text[1]) {
            const Word *w = word_find(words, count, text, strcspn(text, "="));
            if (!w)
                return fail(err, ERR_USAGE, 675, "%s has no option %s; see %s --help", argv[1],
                            text, argv[1]);
            TRY(option_read(w, argc, argv, &at, err));
        } else if (found < plain_count) {
            plain[found++] = text;
        } else {
            return fail(err, ERR_USAGE, 676, "\"%s\" is one word too many; see %s --help", text,
                        argv[1]);
        }
    }
    if (found < plain_count)
        return fail(err, ERR_USAGE, 677, "%s wants a file; see %s --help", argv[1], argv[1]);
    return true;
}

void words_help(const char *usage, const Word *words, int count) {
    puts(usage);
    for (int at = 0; at < count; at++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", words[at].name, words[at].value ? " " : "",
                 words[at].value ? words[at].value : "");
        printf("  %-26s %s\n", left, words[at].help);
    }
}

int subcommand_end(bool done, const Error *err) {
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err->id, err->message);
    return done ? 0 : (int)err->code;
}

// What NVRTC is told about a kernel: a prologue of macros (the step's parameters and facts of the
// target), then its file from kernels/. Headers go to NVRTC from memory, no option holds a path, so
// that the same step gives the same bytes everywhere, and everything that decides them is in the
// key.
#include "nvrtc.h"

#include <limits.h>
#include <string.h>

typedef struct Text {
    char *data;
    size_t size, capacity;
    Arena *arena;
} Text;

static void text_add(Text *t, const char *data, size_t size) {
    if (t->size + size + 1 > t->capacity) {
        size_t capacity = 2 * (t->size + size + 1);
        char *grown = arena_alloc(t->arena, capacity);
        if (t->size)
            memcpy(grown, t->data, t->size);
        t->data = grown;
        t->capacity = capacity;
    }
    if (size)
        memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static void text_line(Text *t, const char *line) {
    text_add(t, line, strlen(line));
    text_add(t, "\n", 1);
}

static void text_define(Text *t, const char *name, int64_t value) {
    char line[128];
    snprintf(line, sizeof line, value < 0 ? "#define %s (%lld%s)" : "#define %s %lld%s", name,
             (long long)value, value > INT_MAX || value < -INT_MAX ? "LL" : "");
    text_line(t, line);
}

static size_t embedded_size(const EmbeddedFile *file) {
    return (size_t)(file->end - file->data);
}

char *kernel_source_text(const Step *kernel, const Target *t, Arena *a, Error *err) {
    const EmbeddedFile *file = embedded_find(kernel->source);
    if (!file) {
        fail(err, ERR_INTERNAL, 502, "this gptq-compile carries no %s", kernel->source);
        return NULL;
    }
    Text text = {.arena = a};
    text_define(&text, "TARGET_SM", t->compute_major * 10 + t->compute_minor);
    text_define(&text, "TARGET_EXACT", t->exact);
    for (int at = 0; at < kernel->params.count; at++)
        text_define(&text, kernel->params.items[at].name, kernel->params.items[at].value);
    text_line(&text, arena_printf(a, "#line 1 \"%s\"", kernel->source));
    text_add(&text, (const char *)file->data, embedded_size(file));
    return text.data;
}

static bool headers_have(const Headers *h, const char *name) {
    for (int at = 0; at < h->count; at++)
        if (strcmp(h->names[at], name) == 0)
            return true;
    return false;
}

// Adds the headers that `text` includes with quotes.
static bool headers_scan(Headers *h, const char *text, Arena *a, Error *err) {
    static const char word[] = "#include \"";
    for (const char *at = strstr(text, word); at; at = strstr(at, word)) {
        at += sizeof word - 1;
        size_t size = strcspn(at, "\"\n");
        const char *name = arena_strndup(a, at, size);
        if (headers_have(h, name))
            continue;
        const EmbeddedFile *file = embedded_find(arena_printf(a, "kernels/%s", name));
        if (!file || h->count == HEADERS_MAX)
            return fail(err, ERR_INTERNAL, 503, "kernel header %s is not carried in gptq-compile",
                        name);
        h->names[h->count] = name;
        h->texts[h->count++] = arena_strndup(a, (const char *)file->data, embedded_size(file));
    }
    return true;
}

// All headers that the text needs, each once, in the order of their first mention.
static bool headers_find(Headers *h, const char *text, Arena *a, Error *err) {
    h->count = 0;
    TRY(headers_scan(h, text, a, err));
    for (int at = 0; at < h->count; at++)
        TRY(headers_scan(h, h->texts[at], a, err));
    return true;
}

bool kernel_source_make(Source *s, const Step *kernel, const Target *t, Arena *a, Error *err) {
    s->name = kernel->source;
    s->text = kernel_source_text(kernel, t, a, err);
    if (!s->text)
        return false;
    s->options[0] = arena_printf(a, "--gpu-architecture=%s", t->name);
    s->options[1] = "--std=c++17";
    s->options[2] = "-default-device";
    s->options[3] = "--fmad=true";
    s->options[4] = "--ptxas-options=-v"; // stack and spills, in the log
    return headers_find(&s->headers, s->text, a, err);
}

Bytes kernel_source_key(const Source *s, const char *version, Arena *a) {
    Text key = {.arena = a};
    text_line(&key, "gptq-compile cubin 1");
    text_line(&key, arena_printf(a, "nvrtc %s", version));
    for (int at = 0; at < OPTION_COUNT; at++)
        text_line(&key, arena_printf(a, "option %s", s->options[at]));
    text_line(&key, arena_printf(a, "source %s", s->name));
    text_line(&key, s->text);
    for (int at = 0; at < s->headers.count; at++) {
        text_line(&key, arena_printf(a, "header %s", s->headers.names[at]));
        text_line(&key, s->headers.texts[at]);
    }
    return (Bytes){(const unsigned char *)key.data, key.size};
}

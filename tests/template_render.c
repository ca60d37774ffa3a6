// Renders a chat template for tests/check_templates.py: compiles it, then renders each line of
// standard input, a JSON context, at a given time.
//
//   template_render TEMPLATE SECONDS [marks]
//
// Per line: "ok BYTES", the text and a newline; or "error ID MESSAGE". With `marks`, the marks
// ('0', '1', one a byte) follow the text in a line of their own. A template that does not compile
// is one line "refused ID MESSAGE" and exit code 3.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/template.h"
#include "runtime/template.h"

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    char *data = malloc((8u << 20) + 1);
    if (data)
        *size = fread(data, 1, 8u << 20, file);
    fclose(file);
    return data;
}

static void show(const TemplateText *text, bool marks) {
    printf("ok %zu\n", text->size);
    fwrite(text->text, 1, text->size, stdout);
    putchar('\n');
    for (size_t at = 0; marks && at < text->size; at++)
        putchar('0' + text->user_marks[at]);
    if (marks)
        putchar('\n');
}

static void render_lines(const Template *t, time_t now, bool marks) {
    char *line = NULL;
    size_t capacity = 0;
    for (;;) {
        ssize_t size = getline(&line, &capacity, stdin);
        if (size <= 0)
            break;
        if (line[size - 1] == '\n')
            line[size - 1] = 0;
        Error err = {0};
        TemplateText text;
        if (template_render(t, line, &(TemplateOptions){.now = now}, &text, &err)) {
            show(&text, marks);
            free(text.text);
            free(text.user_marks);
        } else {
            printf("error %d %s\n", err.id, err.message);
        }
    }
    free(line);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: template_render TEMPLATE SECONDS [marks]\n");
        return 2;
    }
    Arena arena = {0};
    Error err = {0};
    Bytes blob;
    Template *t;
    size_t size = 0;
    char *source = read_file(argv[1], &size);
    bool done =
        source &&
        template_compile(argv[1], (Bytes){(unsigned char *)source, size}, &arena, &blob, &err) &&
        template_open(&t, blob, &err);
    if (!done)
        printf("refused %d %s\n", err.id, err.message);
    else {
        render_lines(t, (time_t)strtoll(argv[2], NULL, 10), argc > 3);
        template_close(t);
    }
    arena_free(&arena);
    free(source);
    return done ? 0 : 3;
}

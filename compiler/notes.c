// Remarks about the input that do not stop a compile.
#include "compile.h"

#include <stdarg.h>
#include <string.h>

enum { NOTE_BYTES = 512 };

void note(Notes *notes, Arena *a, const char *format, ...) {
    char text[NOTE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    notes->items =
        array_grow(a, notes->items, notes->count, &notes->capacity, sizeof *notes->items);
    notes->items[notes->count++] = arena_strndup(a, text, strlen(text));
}

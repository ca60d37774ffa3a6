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
    if (notes->count == notes->capacity) {
        int capacity = notes->capacity ? 2 * notes->capacity : 4;
        const char **items = ARENA_NEW(a, const char *, capacity);
        if (notes->count)
            memcpy(items, notes->items, (size_t)notes->count * sizeof *items);
        notes->items = items;
        notes->capacity = capacity;
    }
    notes->items[notes->count++] = arena_strndup(a, text, strlen(text));
}

// Look-up in the table of files that embed.S carries. A few dozen names: a linear search is enough.
#include "compile.h"

#include <string.h>

const EmbeddedFile *embedded_find(const char *name) {
    for (size_t at = 0; at < embedded_file_count; at++)
        if (strcmp(embedded_files[at].name, name) == 0)
            return &embedded_files[at];
    return NULL;
}

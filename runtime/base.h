// The few things that every file of compiler/ and runtime/ needs: one error idiom, one arena,
// checked size arithmetic, 16-bit floats, a clock. Nothing here knows about models.
#ifndef BASE_H
#define BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// ---- errors -------------------------------------------------------------------------------------

// The code is also the exit code of the process (ORDER EXIT, docs/overview.md).
typedef enum ErrorCode {
    ERR_NONE        = 0,
    ERR_INTERNAL    = 1, // our mistake, or a failure of the machine that has no better name
    ERR_USAGE       = 2, // wrong command line or request
    ERR_UNSUPPORTED = 3, // a legal model, setting or target that this version does not take
    ERR_CORRUPT     = 4, // a damaged or contradictory input file
    ERR_TOOLCHAIN   = 5, // no linker, no NVRTC
    ERR_RESOURCE    = 6, // disk, memory, context length
    ERR_DEVICE      = 7, // no usable GPU or driver
    ERR_MISMATCH    = 8, // a self-test found wrong numbers
} ErrorCode;

// Filled by the place that detects the failure. `id` is stable and printed as GQC-0312.
typedef struct Error {
    ErrorCode code;
    int id;
    char message[512];
} Error;

// Sets *err (printf style) and returns false, so that callers write `return fail(err, ...)`.
// The message says where (file and tensor or key), what was found, what was expected, what to do.
bool fail(Error *err, ErrorCode code, int id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// Passes a failure on: `TRY(checkpoint_open(...))`.
#define TRY(call)                                                                                  \
    do {                                                                                           \
        if (!(call))                                                                               \
            return false;                                                                          \
    } while (0)

// Copies text into out with everything unprintable written as \xNN, so that a hostile name cannot
// drive the terminal. Always terminates; returns out.
char *text_escape(char *out, size_t out_size, const char *text, size_t text_size);

// ---- memory -------------------------------------------------------------------------------------

// A bump allocator whose blocks live until arena_free. Zeroed memory. Out of memory prints one
// line and exits with ERR_RESOURCE (the only exit outside main). Not shared between threads.
typedef struct Arena {
    struct ArenaBlock *head; // owner: arena_free
} Arena;

void *arena_alloc(Arena *a, size_t bytes); // aligned to 16
void *arena_array(Arena *a, size_t count, size_t elem_bytes); // checked product
char *arena_strndup(Arena *a, const char *text, size_t size);
char *arena_printf(Arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void arena_free(Arena *a);

#define ARENA_NEW(a, Type, count) ((Type *)arena_array((a), (size_t)(count), sizeof(Type)))

// Returns false when the result does not fit. Every product of sizes that come from a file goes
// through these.
bool size_mul(size_t a, size_t b, size_t *out);
bool size_add(size_t a, size_t b, size_t *out);

static inline uint64_t round_up(uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}
static inline int64_t ceil_div(int64_t value, int64_t divisor) {
    return (value + divisor - 1) / divisor;
}

// A read-only byte range; does not own.
typedef struct Bytes {
    const unsigned char *data;
    size_t size;
} Bytes;

// ---- 16-bit floats ------------------------------------------------------------------------------

float half_to_float(uint16_t half);
uint16_t half_from_float(float value); // round to nearest even, overflow to infinity
float bfloat_to_float(uint16_t bfloat);
uint16_t bfloat_from_float(float value); // round to nearest even

// ---- time ---------------------------------------------------------------------------------------

double clock_seconds(void); // monotonic

#endif

// Chat templates to SEGMENT_TEMPLATE: lexer, parser, code, then the blob with the Unicode tables
// that the runtime needs to do as Python does: what repr() shows as it is, and, if the template
// uses them, upper and lower case. Unicode data: utf8proc, which the executable does not carry.
#include "compiler/template.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "compiler/template_ast.h"
#include "runtime/payload_template.h"
#include "runtime/utf8.h"

void *grow(Grow *g, size_t elem_bytes) {
    if (g->count == g->capacity) {
        uint32_t capacity = g->capacity ? g->capacity * 2 : 64;
        void *data = realloc(g->data, capacity * elem_bytes);
        if (!data)
            abort(); // as the arena does; a template has 1 MiB at most
        g->data = data;
        g->capacity = capacity;
    }
    void *place = (char *)g->data + g->count++ * elem_bytes;
    memset(place, 0, elem_bytes);
    return place;
}

// ---- Unicode tables -----------------------------------------------------------------------------

// Adds a code point to the last range if it continues it: steps of 1 or 2, same delta.
static void range_add(Grow *ranges, uint32_t code, int32_t delta) {
    TemplateRange *last =
        ranges->count ? &((TemplateRange *)ranges->data)[ranges->count - 1] : NULL;
    if (last && last->delta == delta) {
        uint32_t step = code - last->last;
        if (step == last->step || (last->first == last->last && step <= 2)) {
            last->step = step;
            last->last = code;
            return;
        }
    }
    *(TemplateRange *)grow(ranges, sizeof *last) =
        (TemplateRange){.first = code, .last = code, .delta = delta, .step = 1};
}

// Python's str.isprintable.
static bool is_printable(int32_t code) {
    utf8proc_category_t category = utf8proc_category(code);
    return code == ' ' || !(category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_ZS ||
                            category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP ||
                            category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
                            category == UTF8PROC_CATEGORY_CS || category == UTF8PROC_CATEGORY_CO);
}

enum { LAST_CASED = 0x20000 }; // no letter behind it has two cases

typedef struct UnicodeTables {
    Grow printable, upper, lower; // TemplateRange
} UnicodeTables;

static void tables_make(UnicodeTables *t, bool cased) {
    for (int32_t code = 0; code < 0x110000; code++) {
        if (is_printable(code))
            range_add(&t->printable, (uint32_t)code, 0);
    }
    for (int32_t code = 0; cased && code < LAST_CASED; code++) {
        int32_t upper = utf8proc_toupper(code), lower = utf8proc_tolower(code);
        // The runtime has the characters whose upper case is several characters in a table of its
        // own (runtime/template_case.c).
        if (upper != code && code != 0xdf)
            range_add(&t->upper, (uint32_t)code, upper - code);
        if (lower != code)
            range_add(&t->lower, (uint32_t)code, lower - code);
    }
}

// ---- the blob -----------------------------------------------------------------------------------

// Places an array behind what is there.
static TemplateArray place(size_t *size, const Grow *g, size_t elem_bytes) {
    TemplateArray array = {.offset = (uint32_t)*size, .count = g->count};
    *size = (size_t)round_up(*size + g->count * elem_bytes, 8);
    return array;
}

static void copy(unsigned char *blob, TemplateArray array, const Grow *g, size_t elem_bytes) {
    if (g->count)
        memcpy(blob + array.offset, g->data, g->count * elem_bytes);
}

static void write_blob(const TemplateCode *code, const UnicodeTables *tables, Arena *a,
                       Bytes *blob) {
    TemplateHeader header = {.magic = TEMPLATE_MAGIC};
    size_t size = sizeof header;
    header.consts = place(&size, &code->consts, sizeof(TemplateConst));
    header.functions = place(&size, &code->functions, sizeof(TemplateFunction));
    header.params = place(&size, &code->params, sizeof(TemplateParam));
    header.slot_names = place(&size, &code->slot_names, sizeof(uint32_t));
    header.code = place(&size, &code->code, sizeof(TemplateInstr));
    header.printable = place(&size, &tables->printable, sizeof(TemplateRange));
    header.upper = place(&size, &tables->upper, sizeof(TemplateRange));
    header.lower = place(&size, &tables->lower, sizeof(TemplateRange));
    header.text = place(&size, &code->text, 1);
    header.size = (uint32_t)size;
    unsigned char *data = arena_alloc(a, size);
    memcpy(data, &header, sizeof header);
    copy(data, header.consts, &code->consts, sizeof(TemplateConst));
    copy(data, header.functions, &code->functions, sizeof(TemplateFunction));
    copy(data, header.params, &code->params, sizeof(TemplateParam));
    copy(data, header.slot_names, &code->slot_names, sizeof(uint32_t));
    copy(data, header.code, &code->code, sizeof(TemplateInstr));
    copy(data, header.printable, &tables->printable, sizeof(TemplateRange));
    copy(data, header.upper, &tables->upper, sizeof(TemplateRange));
    copy(data, header.lower, &tables->lower, sizeof(TemplateRange));
    copy(data, header.text, &code->text, 1);
    *blob = (Bytes){data, size};
}

bool template_compile(const char *name, Bytes source, Arena *a, Bytes *blob, Error *err) {
    if (source.size > TEMPLATE_MAX_SOURCE)
        return fail(err, ERR_UNSUPPORTED, 943, "%s: the chat template has %zu bytes, more than %d",
                    name, source.size, TEMPLATE_MAX_SOURCE);
    if (!utf8_valid(source.data, source.size))
        return fail(err, ERR_CORRUPT, 944, "%s: the chat template is not UTF-8", name);
    TokenList tokens;
    Node *body;
    TRY(template_lex(name, source, a, &tokens, err));
    TRY(template_parse(name, &tokens, a, &body, err));
    TemplateCode code = {0};
    bool done = template_emit(name, body, a, &code, err);
    if (done) {
        UnicodeTables tables = {0};
        tables_make(&tables, code.cased);
        write_blob(&code, &tables, a, blob);
        free(tables.printable.data);
        free(tables.upper.data);
        free(tables.lower.data);
    }
    free(code.consts.data);
    free(code.functions.data);
    free(code.params.data);
    free(code.slot_names.data);
    free(code.code.data);
    free(code.text.data);
    return done;
}

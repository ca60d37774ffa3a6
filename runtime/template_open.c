// Opens the blob of a chat template. It is checked once and as a whole: every offset, operand and
// jump. What depends on the way that is taken (the height of a stack) is checked where it is used.
#include <stdlib.h>
#include <string.h>

#include "template_value.h"
#include "utf8.h"

// ---- opening ------------------------------------------------------------------------------------

bool template_damaged(Error *err, const char *what) {
    return fail(err, ERR_CORRUPT, 1060, "the chat template of this executable is damaged: %s",
                what);
}

static bool check_array(Bytes blob, TemplateArray array, size_t elem_bytes) {
    size_t bytes;
    return array.offset % 8 == 0 && array.offset <= blob.size &&
           size_mul(array.count, elem_bytes, &bytes) && bytes <= blob.size - array.offset;
}

static bool check_header(Bytes blob, Error *err) {
    const TemplateHeader *h = (const TemplateHeader *)(const void *)blob.data;
    if (blob.size < sizeof *h || (uintptr_t)blob.data % 8 != 0 ||
        memcmp(h->magic, TEMPLATE_MAGIC, sizeof h->magic) != 0 || h->size != blob.size)
        return template_damaged(err, "no header");
    const struct {
        TemplateArray array;
        size_t elem_bytes;
    } arrays[] = {
        {h->consts, sizeof(TemplateConst)},
        {h->functions, sizeof(TemplateFunction)},
        {h->params, sizeof(TemplateParam)},
        {h->slot_names, sizeof(uint32_t)},
        {h->code, sizeof(TemplateInstr)},
        {h->printable, sizeof(TemplateRange)},
        {h->upper, sizeof(TemplateRange)},
        {h->lower, sizeof(TemplateRange)},
        {h->text, 1},
    };
    for (size_t which = 0; which < sizeof arrays / sizeof arrays[0]; which++) {
        if (!check_array(blob, arrays[which].array, arrays[which].elem_bytes))
            return template_damaged(err, "a table reaches beyond its end");
    }
    return h->functions.count ? true : template_damaged(err, "no code");
}

static bool check_ranges(const TemplateRange *ranges, uint32_t count, Error *err) {
    for (uint32_t at = 0; at < count; at++) {
        bool good = ranges[at].step > 0 && ranges[at].first <= ranges[at].last &&
                    ranges[at].last < 0x110000 && ranges[at].delta > -0x110000 &&
                    ranges[at].delta < 0x110000;
        int64_t low = (int64_t)ranges[at].first + ranges[at].delta;
        int64_t high = (int64_t)ranges[at].last + ranges[at].delta;
        if (!good || low < 0 || high >= 0x110000)
            return template_damaged(err, "a range of characters");
    }
    return true;
}

static bool read_consts(Template *t, const unsigned char *blob, Error *err) {
    const TemplateHeader *h = t->header;
    const TemplateConst *consts = (const void *)(blob + h->consts.offset);
    const char *text = (const char *)blob + h->text.offset;
    t->const_count = h->consts.count;
    t->consts = calloc(t->const_count + 1u, sizeof *t->consts);
    t->texts = calloc(t->const_count + 1u, sizeof *t->texts);
    if (!t->consts || !t->texts)
        return fail(err, ERR_RESOURCE, 1074, "no memory for the chat template");
    for (uint32_t at = 0; at < t->const_count; at++) {
        const TemplateConst *c = &consts[at];
        Value *v = &t->consts[at];
        if (c->kind >= TEMPLATE_CONST_KINDS)
            return template_damaged(err, "the kind of a constant");
        *v = value_none();
        if (c->kind == TEMPLATE_CONST_BOOL)
            *v = value_bool(c->value != 0);
        else if (c->kind == TEMPLATE_CONST_INT)
            *v = value_int((int64_t)c->value);
        else if (c->kind == TEMPLATE_CONST_FLOAT) {
            *v = value_float(0);
            memcpy(&v->number, &c->value, sizeof v->number);
        } else if (c->kind == TEMPLATE_CONST_TEXT) {
            if (c->value > h->text.count || c->size > h->text.count - c->value ||
                !utf8_valid(text + c->value, c->size))
                return template_damaged(err, "the text of a constant");
            t->texts[at] = (Text){.data = text + c->value, .size = c->size};
            *v = value_text(&t->texts[at]);
        }
    }
    return true;
}

static bool is_text_const(const Template *t, uint32_t at) {
    return at < t->const_count && t->consts[at].kind == VALUE_TEXT;
}

static bool check_slot(uint32_t slot, const TemplateFunction *f) {
    return slot == TEMPLATE_NONE || slot < f->slot_count;
}

static bool check_function(const Template *t, const TemplateFunction *f) {
    const TemplateHeader *h = t->header;
    bool inside =
        f->code_first <= h->code.count && f->code_count <= h->code.count - f->code_first &&
        f->code_count > 0 && f->slot_name_first <= h->slot_names.count &&
        f->slot_count <= h->slot_names.count - f->slot_name_first &&
        f->param_first <= h->params.count && f->param_count <= h->params.count - f->param_first &&
        f->slot_count <= TEMPLATE_MAX_SLOTS && f->param_count <= TEMPLATE_MAX_ARGS;
    if (!inside || !is_text_const(t, f->name) || !check_slot(f->caller_slot, f) ||
        !check_slot(f->kwargs_slot, f) || !check_slot(f->varargs_slot, f))
        return false;
    for (uint32_t at = 0; at < f->slot_count; at++) {
        if (!is_text_const(t, t->slot_names[f->slot_name_first + at]))
            return false;
    }
    for (uint32_t at = 0; at < f->param_count; at++) {
        const TemplateParam *param = &t->params[f->param_first + at];
        if (!is_text_const(t, param->name) || param->slot >= f->slot_count)
            return false;
    }
    return t->code[f->code_first + f->code_count - 1].op == TEMPLATE_OP_RETURN;
}

static bool check_call(TemplateInstr instr) {
    uint32_t id = instr.value >> TEMPLATE_CALL_ID_SHIFT;
#define COUNT_ONE(name, c_name) +1
    uint32_t limit = instr.op == TEMPLATE_OP_FILTER ? 0 TEMPLATE_FILTERS(COUNT_ONE)
                     : instr.op == TEMPLATE_OP_TEST ? 0 TEMPLATE_TESTS(COUNT_ONE)
                                                    : 1;
#undef COUNT_ONE
    return id < limit;
}

static bool check_instr(const Template *t, const TemplateFunction *f, TemplateInstr instr) {
#define OP_KIND(name, kind) #kind[0],
    static const char kinds[] = {TEMPLATE_OPS(OP_KIND)};
#undef OP_KIND
    if (instr.op >= TEMPLATE_OP_COUNT)
        return false;
    char kind = kinds[instr.op];
    bool names = instr.op == TEMPLATE_OP_RESOLVE || instr.op == TEMPLATE_OP_SET_ATTR ||
                 instr.op == TEMPLATE_OP_GET_ATTR || instr.op == TEMPLATE_OP_TEXT;
    if (kind == 'c')
        return names ? is_text_const(t, instr.value) : instr.value < t->const_count;
    if (kind == 'j')
        return instr.value < f->code_count;
    if (kind == 's')
        return instr.value < f->slot_count;
    if (kind == 'f')
        return instr.value < t->header->functions.count;
    if (kind == 'a')
        return check_call(instr);
    return true; // p, n: checked when it runs
}

static bool check_code(const Template *t, Error *err) {
    for (uint32_t which = 0; which < t->header->functions.count; which++) {
        const TemplateFunction *f = &t->functions[which];
        if (!check_function(t, f))
            return template_damaged(err, "a function");
        for (uint32_t at = 0; at < f->code_count; at++) {
            if (!check_instr(t, f, t->code[f->code_first + at]))
                return template_damaged(err, "an instruction");
        }
    }
    return true;
}

static bool open_tables(Template *t, const unsigned char *blob, Error *err) {
    const TemplateHeader *h = t->header;
    t->functions = (const void *)(blob + h->functions.offset);
    t->params = (const void *)(blob + h->params.offset);
    t->slot_names = (const void *)(blob + h->slot_names.offset);
    t->code = (const void *)(blob + h->code.offset);
    t->tables = (CaseTables){
        .printable = (const void *)(blob + h->printable.offset),
        .upper = (const void *)(blob + h->upper.offset),
        .lower = (const void *)(blob + h->lower.offset),
        .printable_count = h->printable.count,
        .upper_count = h->upper.count,
        .lower_count = h->lower.count,
    };
    TRY(check_ranges(t->tables.printable, t->tables.printable_count, err));
    TRY(check_ranges(t->tables.upper, t->tables.upper_count, err));
    TRY(check_ranges(t->tables.lower, t->tables.lower_count, err));
    TRY(read_consts(t, blob, err));
    return check_code(t, err);
}

bool template_open(Template **out, Bytes blob, Error *err) {
    TRY(check_header(blob, err));
    Template *t = calloc(1, sizeof *t);
    if (!t)
        return fail(err, ERR_RESOURCE, 1075, "no memory to open the chat template");
    t->header = (const void *)blob.data;
    if (!open_tables(t, blob.data, err)) {
        template_close(t);
        return false;
    }
    *out = t;
    return true;
}

void template_close(Template *t) {
    if (!t)
        return;
    free(t->consts);
    free(t->texts);
    free(t);
}

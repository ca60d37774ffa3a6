// SEGMENT_TEMPLATE: a chat template as code for a small stack machine. The compiler parses the
// Jinja text, resolves every name to a slot as jinja2 does, and writes this; the runtime checks it
// when it opens it and runs it with limits on steps, depth, memory and output.
//
//   [TemplateHeader] [TemplateConst...] [TemplateFunction...] [TemplateParam...] [slot names]
//   [TemplateInstr...] [TemplateRange...] [text]
//
// All offsets are bytes from the start of the segment, all arrays are aligned to 8. An empty
// segment means: no template.
#ifndef PAYLOAD_TEMPLATE_H
#define PAYLOAD_TEMPLATE_H

#include <stdint.h>

#define TEMPLATE_MAGIC "GQCTMPL\1"
#define TEMPLATE_NONE  UINT32_MAX // no constant, no slot

enum {
    TEMPLATE_MAX_SOURCE = 1 << 20, // bytes; the longest published template has 30 KB
    TEMPLATE_MAX_SLOTS = 4096,     // of one function
    TEMPLATE_MAX_CONSTS = 16384,
    TEMPLATE_MAX_ARGS = 255, // of one call, keyword arguments included
};

typedef struct TemplateArray {
    uint32_t offset;
    uint32_t count; // elements
} TemplateArray;

typedef struct TemplateHeader {
    char magic[8];
    uint32_t size; // bytes of the segment
    uint32_t reserved;
    TemplateArray consts;
    TemplateArray functions; // the first one is the template itself
    TemplateArray params;
    TemplateArray slot_names; // uint32_t: constant with the name of each slot, all functions
    TemplateArray code;
    TemplateArray printable; // TemplateRange: what Python's repr() shows as it is, by code point
    TemplateArray upper;     // TemplateRange: code points with another upper case; empty if unused
    TemplateArray lower;
    TemplateArray text; // bytes of all string constants
} TemplateHeader;

typedef enum TemplateConstKind {
    TEMPLATE_CONST_NONE,
    TEMPLATE_CONST_BOOL,
    TEMPLATE_CONST_INT,
    TEMPLATE_CONST_FLOAT,
    TEMPLATE_CONST_TEXT,
    TEMPLATE_CONST_KINDS,
} TemplateConstKind;

typedef struct TemplateConst {
    uint32_t kind;
    uint32_t size;  // TEXT: bytes
    uint64_t value; // BOOL, INT: the number; FLOAT: its bits; TEXT: offset from text.offset
} TemplateConst;

// The template, a macro, or the body of a call block.
typedef struct TemplateFunction {
    uint32_t name; // constant
    uint32_t code_first, code_count;
    uint32_t slot_count;
    uint32_t slot_name_first;
    uint32_t param_first, param_count;
    uint32_t caller_slot, kwargs_slot, varargs_slot; // or TEMPLATE_NONE: not taken
} TemplateFunction;

typedef struct TemplateParam {
    uint32_t name; // constant
    uint32_t slot;
} TemplateParam;

// first..last map to themselves + delta; every `step`-th code point only.
typedef struct TemplateRange {
    uint32_t first, last;
    int32_t delta;
    uint32_t step;
} TemplateRange;

typedef struct TemplateInstr {
    uint8_t op;
    uint8_t count;
    uint16_t line; // of the template's source; 65535 and above are one
    uint32_t value;
} TemplateInstr;

// CALL, FILTER and TEST: `count` positional arguments, then keyword arguments as pairs of name and
// value, then a list and a dict if the flags say so. FILTER and TEST have their id in the high
// half.
enum {
    TEMPLATE_CALL_KEYWORDS = 0xff, // mask: number of keyword arguments
    TEMPLATE_CALL_LIST = 0x100,
    TEMPLATE_CALL_DICT = 0x200,
    TEMPLATE_CALL_ID_SHIFT = 16,
};

// ORDER TEMPLATE OPS: what `value` is. c: constant, j: instruction of the same function to jump
// to, s: slot of this function, n: number, f: function, a: call, p: slot of the function `count`
// outside clang-format off
#define TEMPLATE_OPS(X)                                                                            \
    X(TEXT, c)            /* writes a constant                                                  */ \
    X(PRINT, n)           /* pops a value and writes it                                         */ \
    X(CONST, c)           /* pushes                                                             */ \
    X(LOAD, p)            /* pushes a variable; one without a value is undefined                */ \
    X(LOAD_RAW, p)        /* pushes a variable as it is                                         */ \
    X(RESOLVE, c)         /* pushes the context's value of a name, a global, or no value        */ \
    X(STORE, s)           /* pops into a variable                                               */ \
    X(CLEAR, s)           /* takes the value of a variable away                                 */ \
    X(SET_ATTR, c)        /* pops a namespace, then its new value                               */ \
    X(GET_ATTR, c)                                                                                 \
    X(GET_ITEM, n)                                                                                 \
    X(SLICE, n)           /* pops step, stop, start and the sequence                            */ \
    X(CALL, a)                                                                                     \
    X(FILTER, a)                                                                                   \
    X(TEST, a)                                                                                     \
    X(NOT, n) X(NEG, n) X(POS, n)                                                                  \
    X(ADD, n) X(SUB, n) X(MUL, n) X(DIV, n) X(FLOORDIV, n) X(MOD, n) X(POW, n)                     \
    X(EQ, n) X(NE, n) X(LT, n) X(LE, n) X(GT, n) X(GE, n) X(IN, n) X(NOT_IN, n)                    \
    X(CONCAT, n)          /* pops n values, pushes their texts joined                           */ \
    X(LIST, n)                                                                                     \
    X(TUPLE, n)                                                                                    \
    X(DICT, n)            /* pops n pairs                                                       */ \
    X(UNPACK, n)          /* pops a sequence of n, pushes its items, the first one on top       */ \
    X(JUMP, j)                                                                                     \
    X(JUMP_FALSE, j)      /* pops                                                               */ \
    X(JUMP_FALSE_KEEP, j) /* pops only if it does not jump                                      */ \
    X(JUMP_TRUE_KEEP, j)                                                                           \
    X(JUMP_PRESENT, j)    /* pops; jumps if it is a value                                       */ \
    X(FOR_BEGIN, n)       /* pops what to go through, opens a loop                              */ \
    X(FOR_NEXT, j)        /* pushes the next item, or jumps                                     */ \
    X(FOR_KEEP, n)        /* the current item passes the loop's filter                          */ \
    X(FOR_FILTERED, n)    /* starts again with the items that passed                            */ \
    X(FOR_LOOP, n)        /* pushes the `loop` object                                           */ \
    X(FOR_DONE, n)        /* one round came to its end                                          */ \
    X(FOR_END, j)         /* closes the loop; jumps if a round came to its end                  */ \
    X(MACRO, f)           /* pushes a macro that sees the variables of this call                */ \
    X(CAPTURE, n)         /* output goes aside                                                  */ \
    X(CAPTURE_END, n)     /* pushes what went aside                                             */ \
    X(RETURN, n)
// clang-format on

#define TEMPLATE_OP_ENUM(name, kind) TEMPLATE_OP_##name,
typedef enum TemplateOp { TEMPLATE_OPS(TEMPLATE_OP_ENUM) TEMPLATE_OP_COUNT } TemplateOp;
#undef TEMPLATE_OP_ENUM

// ORDER TEMPLATE FILTERS: the name in a template, then the name in C.
// clang-format off
#define TEMPLATE_FILTERS(X)                                                                        \
    X("abs", abs) X("attr", attr) X("batch", batch) X("capitalize", capitalize)                    \
    X("center", center) X("count", length) X("d", default) X("default", default)                   \
    X("dictsort", dictsort) X("e", escape) X("escape", escape) X("first", first)                   \
    X("float", float) X("forceescape", forceescape) X("format", format) X("indent", indent)        \
    X("int", int) X("items", items) X("join", join) X("last", last) X("length", length)            \
    X("list", list) X("lower", lower) X("map", map) X("max", max) X("min", min)                    \
    X("reject", reject) X("rejectattr", rejectattr) X("replace", replace) X("reverse", reverse)    \
    X("round", round) X("safe", safe) X("select", select) X("selectattr", selectattr)              \
    X("slice", slice) X("sort", sort) X("string", string) X("sum", sum) X("title", title)          \
    X("tojson", tojson) X("trim", trim) X("truncate", truncate) X("unique", unique)                \
    X("upper", upper) X("urlencode", urlencode)

// ORDER TEMPLATE TESTS
#define TEMPLATE_TESTS(X)                                                                          \
    X("!=", ne) X("<", lt) X("<=", le) X("==", eq) X(">", gt) X(">=", ge) X("boolean", boolean)    \
    X("callable", callable) X("defined", defined) X("divisibleby", divisibleby) X("eq", eq)        \
    X("equalto", eq) X("escaped", escaped) X("even", even) X("false", false) X("filter", filter)   \
    X("float", float) X("ge", ge) X("greaterthan", gt) X("gt", gt) X("in", in)                     \
    X("integer", integer) X("iterable", iterable) X("le", le) X("lessthan", lt)                    \
    X("lower", lower) X("lt", lt) X("mapping", mapping) X("ne", ne) X("none", none)                \
    X("number", number) X("odd", odd) X("sameas", sameas) X("sequence", sequence)                  \
    X("string", string) X("test", test) X("true", true) X("undefined", undefined)                  \
    X("upper", upper)

// ORDER TEMPLATE METHODS: of strings, then of dicts, lists and tuples (one name may be in both).
#define TEMPLATE_METHODS(X)                                                                        \
    X("capitalize", capitalize) X("center", center) X("count", count) X("endswith", endswith)      \
    X("find", find_first) X("format", format) X("get", get) X("index", index)                      \
    X("isdigit", isdigit) X("islower", islower) X("isspace", isspace) X("isupper", isupper)        \
    X("items", items) X("join", join) X("keys", keys) X("ljust", ljust) X("lower", lower)          \
    X("lstrip", lstrip) X("partition", partition) X("removeprefix", removeprefix)                  \
    X("removesuffix", removesuffix) X("replace", replace) X("rfind", rfind) X("rjust", rjust)      \
    X("rpartition", rpartition) X("rsplit", rsplit) X("rstrip", rstrip) X("split", split)          \
    X("splitlines", splitlines) X("startswith", startswith) X("strip", strip) X("title", title)    \
    X("upper", upper) X("values", values) X("zfill", zfill)
// clang-format on

#endif

// Sets of code points, and what Unicode says of them.
//
// Categories come from utf8proc (Unicode 15), scripts and other names from PCRE2. What Unicode 16
// and 17 added since, and the engine of Hugging Face's tokenizers knows, is a table here.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer_regex.h"

#include "../runtime/utf8.h"

#include <ctype.h>
#include <pcre2.h>
#include <string.h>
#include <utf8proc.h>

// ---- categories ---------------------------------------------------------------------------------

// Assigned since utf8proc's Unicode 15 (up to 16), and one that changed.
typedef struct Newer {
    uint32_t first, last;
    utf8proc_category_t category;
} Newer;

// clang-format off
#define LU UTF8PROC_CATEGORY_LU
#define LL UTF8PROC_CATEGORY_LL
#define LM UTF8PROC_CATEGORY_LM
#define LO UTF8PROC_CATEGORY_LO
#define MN UTF8PROC_CATEGORY_MN
#define MC UTF8PROC_CATEGORY_MC
#define ND UTF8PROC_CATEGORY_ND
#define PD UTF8PROC_CATEGORY_PD
#define PO UTF8PROC_CATEGORY_PO
#define SM UTF8PROC_CATEGORY_SM
#define SO UTF8PROC_CATEGORY_SO
static const Newer newer[] = { // ascending
    {0x897, 0x897, MN}, {0x1b4e, 0x1b4f, PO}, {0x1b7f, 0x1b7f, PO}, {0x1c89, 0x1c89, LU},
    {0x1c8a, 0x1c8a, LL}, {0x2427, 0x2429, SO}, {0x2ffc, 0x2fff, SO}, {0x31e4, 0x31e5, SO},
    {0x31ef, 0x31ef, SO}, {0xa7cb, 0xa7cc, LU}, {0xa7cd, 0xa7cd, LL}, {0xa7da, 0xa7da, LU},
    {0xa7db, 0xa7db, LL}, {0xa7dc, 0xa7dc, LU}, {0x105c0, 0x105f3, LO}, {0x10d40, 0x10d49, ND},
    {0x10d4a, 0x10d4d, LO}, {0x10d4e, 0x10d4e, LM}, {0x10d4f, 0x10d4f, LO}, {0x10d50, 0x10d65, LU},
    {0x10d69, 0x10d6d, MN}, {0x10d6e, 0x10d6e, PD}, {0x10d6f, 0x10d6f, LM}, {0x10d70, 0x10d85, LL},
    {0x10d8e, 0x10d8f, SM}, {0x10ec2, 0x10ec4, LO}, {0x10efc, 0x10efc, MN}, {0x11380, 0x11389, LO},
    {0x1138b, 0x1138b, LO}, {0x1138e, 0x1138e, LO}, {0x11390, 0x113b5, LO}, {0x113b7, 0x113b7, LO},
    {0x113b8, 0x113ba, MC}, {0x113bb, 0x113c0, MN}, {0x113c2, 0x113c2, MC}, {0x113c5, 0x113c5, MC},
    {0x113c7, 0x113ca, MC}, {0x113cc, 0x113cd, MC}, {0x113ce, 0x113ce, MN}, {0x113cf, 0x113cf, MC},
    {0x113d0, 0x113d0, MN}, {0x113d1, 0x113d1, LO}, {0x113d2, 0x113d2, MN}, {0x113d3, 0x113d3, LO},
    {0x113d4, 0x113d5, PO}, {0x113d7, 0x113d8, PO}, {0x113e1, 0x113e2, MN}, {0x116d0, 0x116e3, ND},
    {0x1171e, 0x1171e, MC}, {0x11bc0, 0x11be0, LO}, {0x11be1, 0x11be1, PO}, {0x11bf0, 0x11bf9, ND},
    {0x11f5a, 0x11f5a, MN}, {0x13460, 0x143fa, LO}, {0x16100, 0x1611d, LO}, {0x1611e, 0x16129, MN},
    {0x1612a, 0x1612c, MC}, {0x1612d, 0x1612f, MN}, {0x16130, 0x16139, ND}, {0x16d40, 0x16d42, LM},
    {0x16d43, 0x16d6a, LO}, {0x16d6b, 0x16d6c, LM}, {0x16d6d, 0x16d6f, PO}, {0x16d70, 0x16d79, ND},
    {0x18cff, 0x18cff, LO}, {0x1cc00, 0x1ccef, SO}, {0x1ccf0, 0x1ccf9, ND}, {0x1cd00, 0x1ceb3, SO},
    {0x1e5d0, 0x1e5ed, LO}, {0x1e5ee, 0x1e5ef, MN}, {0x1e5f0, 0x1e5f0, LO}, {0x1e5f1, 0x1e5fa, ND},
    {0x1e5ff, 0x1e5ff, PO}, {0x1f8b2, 0x1f8bb, SO}, {0x1f8c0, 0x1f8c1, SO}, {0x1fa89, 0x1fa89, SO},
    {0x1fa8f, 0x1fa8f, SO}, {0x1fabe, 0x1fabe, SO}, {0x1fac6, 0x1fac6, SO}, {0x1fadc, 0x1fadc, SO},
    {0x1fadf, 0x1fadf, SO}, {0x1fae9, 0x1fae9, SO}, {0x1fbcb, 0x1fbef, SO}, {0x2ebf0, 0x2ee5d, LO},
};
// clang-format on

static utf8proc_category_t category_of(uint32_t code) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    if (category != UTF8PROC_CATEGORY_CN && code != 0x1171e)
        return category;
    size_t low = 0, high = sizeof newer / sizeof *newer;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code < newer[middle].first)
            high = middle;
        else if (code > newer[middle].last)
            low = middle + 1;
        else
            return newer[middle].category;
    }
    return category;
}

// What \w holds beside letters, marks, decimal digits and connectors: letters of other categories
// (Other_Alphabetic).
static bool is_other_word(uint32_t code, utf8proc_category_t c) {
    return c == UTF8PROC_CATEGORY_NL || (code >= 0x24b6 && code <= 0x24e9) ||
           (code >= 0x1f130 && code <= 0x1f149) || (code >= 0x1f150 && code <= 0x1f169) ||
           (code >= 0x1f170 && code <= 0x1f189);
}

static bool is_letter(utf8proc_category_t c) {
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_mark(utf8proc_category_t c) {
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

static bool is_word(uint32_t code) {
    utf8proc_category_t c = category_of(code);
    return is_letter(c) || is_mark(c) || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_PC ||
           is_other_word(code, c);
}

static bool is_ascii_punctuation(uint32_t code) {
    return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') ||
           (code >= '[' && code <= '`') || (code >= '{' && code <= '~');
}

uint8_t code_class(uint32_t code) {
    utf8proc_category_t c = category_of(code);
    bool number = c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
    bool punctuation =
        (c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO) || is_ascii_punctuation(code);
    bool joiner = code == 0x200c || code == 0x200d; // Join_Control: of \w of Rust's regex
    return (uint8_t)((is_letter(c) ? CLASS_LETTER : 0) | (number ? CLASS_NUMBER : 0) |
                     (utf8_is_space(code) ? CLASS_SPACE : 0) |
                     (is_word(code) || joiner ? CLASS_WORD : 0) |
                     (punctuation ? CLASS_PUNCTUATION : 0));
}

// ---- sets ---------------------------------------------------------------------------------------

void set_add_range(CodeSet *s, uint32_t first, uint32_t last) {
    for (uint32_t code = first; code <= last; code++)
        set_add(s, code);
}

void set_join(CodeSet *s, const CodeSet *other) {
    for (size_t at = 0; at < SET_WORDS; at++)
        s->words[at] |= other->words[at];
    s->end |= other->end;
}

void set_meet(CodeSet *s, const CodeSet *other) {
    for (size_t at = 0; at < SET_WORDS; at++)
        s->words[at] &= other->words[at];
    s->end &= other->end;
}

void set_invert(CodeSet *s) {
    for (size_t at = 0; at < SET_WORDS; at++)
        s->words[at] = ~s->words[at];
}

// Simple case folding; what folds to several characters stays alone.
static uint32_t code_fold(uint32_t code) {
    utf8proc_int32_t out[8];
    int boundary = 0;
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + 32 : code;
    utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)code, out, 8, UTF8PROC_CASEFOLD, &boundary);
    return count == 1 ? (uint32_t)out[0] : code;
}

uint32_t *folds_make(Arena *a) {
    uint32_t *folds = ARENA_NEW(a, uint32_t, FOLDED);
    for (uint32_t code = 0; code < FOLDED; code++)
        folds[code] = code_fold(code);
    return folds;
}

void set_fold(CodeSet *s, const uint32_t *folds) {
    CodeSet folded = {.end = false};
    for (uint32_t code = 0; code < FOLDED; code++)
        if (set_has(s, code))
            set_add(&folded, folds[code]);
    for (uint32_t code = 0; code < FOLDED; code++)
        if (set_has(&folded, folds[code]))
            set_add(s, code);
}

void set_space(CodeSet *s) {
    for (uint32_t code = 0; code <= 0x3000; code++)
        if (utf8_is_space(code))
            set_add(s, code);
}

void set_digit(CodeSet *s) {
    for (uint32_t code = 0; code < TOKENIZER_CODE_POINTS; code++)
        if (category_of(code) == UTF8PROC_CATEGORY_ND)
            set_add(s, code);
}

// With the numbers of Latin-1, as Oniguruma's \w has them.
void set_word(CodeSet *s) {
    static const uint8_t numbers[] = {0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe};
    for (size_t at = 0; at < sizeof numbers; at++)
        set_add(s, numbers[at]);
    for (uint32_t code = 0; code < TOKENIZER_CODE_POINTS; code++)
        if (is_word(code))
            set_add(s, code);
}

// ---- properties ---------------------------------------------------------------------------------

typedef struct Category {
    const char *name, *long_name; // without blanks and signs, lower case
    utf8proc_category_t first, last;
} Category;

static const Category categories[] = {
    {"l", "letter", UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO},
    {"lu", "uppercaseletter", UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LU},
    {"ll", "lowercaseletter", UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LL},
    {"lt", "titlecaseletter", UTF8PROC_CATEGORY_LT, UTF8PROC_CATEGORY_LT},
    {"lc", "casedletter", UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LT},
    {"lm", "modifierletter", UTF8PROC_CATEGORY_LM, UTF8PROC_CATEGORY_LM},
    {"lo", "otherletter", UTF8PROC_CATEGORY_LO, UTF8PROC_CATEGORY_LO},
    {"m", "mark", UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME},
    {"mn", "nonspacingmark", UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_MN},
    {"mc", "spacingmark", UTF8PROC_CATEGORY_MC, UTF8PROC_CATEGORY_MC},
    {"me", "enclosingmark", UTF8PROC_CATEGORY_ME, UTF8PROC_CATEGORY_ME},
    {"n", "number", UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO},
    {"nd", "decimalnumber", UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_ND},
    {"nl", "letternumber", UTF8PROC_CATEGORY_NL, UTF8PROC_CATEGORY_NL},
    {"no", "othernumber", UTF8PROC_CATEGORY_NO, UTF8PROC_CATEGORY_NO},
    {"p", "punctuation", UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO},
    {"pc", "connectorpunctuation", UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PC},
    {"pd", "dashpunctuation", UTF8PROC_CATEGORY_PD, UTF8PROC_CATEGORY_PD},
    {"ps", "openpunctuation", UTF8PROC_CATEGORY_PS, UTF8PROC_CATEGORY_PS},
    {"pe", "closepunctuation", UTF8PROC_CATEGORY_PE, UTF8PROC_CATEGORY_PE},
    {"pi", "initialpunctuation", UTF8PROC_CATEGORY_PI, UTF8PROC_CATEGORY_PI},
    {"pf", "finalpunctuation", UTF8PROC_CATEGORY_PF, UTF8PROC_CATEGORY_PF},
    {"po", "otherpunctuation", UTF8PROC_CATEGORY_PO, UTF8PROC_CATEGORY_PO},
    {"s", "symbol", UTF8PROC_CATEGORY_SM, UTF8PROC_CATEGORY_SO},
    {"sm", "mathsymbol", UTF8PROC_CATEGORY_SM, UTF8PROC_CATEGORY_SM},
    {"sc", "currencysymbol", UTF8PROC_CATEGORY_SC, UTF8PROC_CATEGORY_SC},
    {"sk", "modifiersymbol", UTF8PROC_CATEGORY_SK, UTF8PROC_CATEGORY_SK},
    {"so", "othersymbol", UTF8PROC_CATEGORY_SO, UTF8PROC_CATEGORY_SO},
    {"z", "separator", UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZP},
    {"zs", "spaceseparator", UTF8PROC_CATEGORY_ZS, UTF8PROC_CATEGORY_ZS},
    {"zl", "lineseparator", UTF8PROC_CATEGORY_ZL, UTF8PROC_CATEGORY_ZL},
    {"zp", "paragraphseparator", UTF8PROC_CATEGORY_ZP, UTF8PROC_CATEGORY_ZP},
    {"cc", "control", UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CC},
    {"cf", "format", UTF8PROC_CATEGORY_CF, UTF8PROC_CATEGORY_CF},
};

static void set_categories(CodeSet *s, const Category *c) {
    for (uint32_t code = 0; code < TOKENIZER_CODE_POINTS; code++) {
        utf8proc_category_t category = category_of(code);
        if (category >= c->first && category <= c->last)
            set_add(s, code);
    }
}

// "\p{name}" by PCRE2: scripts. Names are letters only, so that the pattern stays what it is.
static bool set_script(CodeSet *s, const char *name) {
    char pattern[80];
    int error;
    PCRE2_SIZE place;
    snprintf(pattern, sizeof pattern, "\\p{%s}", name);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &place, NULL);
    if (!code)
        return false;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    for (uint32_t at = 0; data && at < TOKENIZER_CODE_POINTS; at++) {
        unsigned char text[4];
        bool surrogate = at >= 0xd800 && at < 0xe000;
        if (!surrogate &&
            pcre2_match(code, text, utf8_write(text, at), 0, PCRE2_NO_UTF_CHECK, data, NULL) > 0)
            set_add(s, at);
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return true;
}

static bool set_ascii_name(CodeSet *s, const char *name) {
    if (strcmp(name, "ascii") == 0)
        set_add_range(s, 0, 0x7f);
    else if (strcmp(name, "any") == 0)
        set_add_range(s, 0, TOKENIZER_CODE_POINTS - 1);
    else if (strcmp(name, "space") == 0)
        set_space(s);
    else if (strcmp(name, "digit") == 0)
        set_digit(s);
    else if (strcmp(name, "word") == 0)
        set_word(s);
    else
        return false;
    return true;
}

bool set_property(CodeSet *s, const char *name) {
    char plain[64];
    size_t size = 0;
    for (; *name; name++) {
        if (*name == ' ' || *name == '_' || *name == '-')
            continue;
        if (size + 1 == sizeof plain || !isalpha((unsigned char)*name))
            return false;
        plain[size++] = (char)tolower((unsigned char)*name);
    }
    plain[size] = 0;
    for (size_t at = 0; at < sizeof categories / sizeof *categories; at++)
        if (strcmp(plain, categories[at].name) == 0 ||
            strcmp(plain, categories[at].long_name) == 0) {
            set_categories(s, &categories[at]);
            return true;
        }
    return set_ascii_name(s, plain) || (size > 2 && set_script(s, plain));
}

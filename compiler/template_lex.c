// Text of a chat template to tokens, with the white space rules of jinja2 as transformers sets it
// up: trim_blocks (the newline after a block tag goes), lstrip_blocks (so does the white space of a
// line before one), and the signs - and + in tags. Source: jinja2/lexer.py, whose regular
// expressions are written out here.
//
// Not taken: identifiers beyond ASCII, named characters (\N{...}) and integers beyond 64 bits.
#include "compiler/template_ast.h"

#include "runtime/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const token_names[TOKEN_KINDS] = {
    // ORDER TOKENS
    "the end of the template",
    "text",
    "'{{'",
    "'}}'",
    "'{%'",
    "'%}'",
    "a name",
    "a string",
    "an integer",
    "a number",
    "'+'",
    "'-'",
    "'*'",
    "'**'",
    "'/'",
    "'//'",
    "'%'",
    "'~'",
    "'=='",
    "'!='",
    "'<'",
    "'<='",
    "'>'",
    "'>='",
    "'='",
    "'.'",
    "':'",
    "','",
    "';'",
    "'|'",
    "'('",
    "')'",
    "'['",
    "']'",
    "'{'",
    "'}'",
};

const char *token_describe(TokenKind kind) {
    return token_names[kind];
}

typedef struct Lexer {
    const char *name;
    const char *text; // newlines are \n
    size_t size;
    size_t at;
    size_t line_start; // of the line that `counted` is in
    size_t counted;    // line and line_start are right for this place
    int line;
    bool line_starting; // the last match ended with a newline
    Arena *arena;
    Token *tokens; // owner: malloc
    int count, capacity;
    char brackets[TEMPLATE_MAX_NESTING]; // the closing ones that are expected
    int bracket_count;
    Error *err;
} Lexer;

static void lexer_count_to(Lexer *l, size_t at) {
    for (; l->counted < at; l->counted++) {
        if (l->text[l->counted] == '\n') {
            l->line++;
            l->line_start = l->counted + 1;
        }
    }
}

static bool lexer_fail(Lexer *l, const char *what) {
    lexer_count_to(l, l->at);
    return fail(l->err, ERR_CORRUPT, 930, "%s: line %d, column %zu: %s", l->name, l->line,
                l->at - l->line_start + 1, what);
}

static Token *lexer_add(Lexer *l, TokenKind kind, size_t at) {
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? l->capacity * 2 : 256;
        Token *grown = realloc(l->tokens, (size_t)l->capacity * sizeof *grown);
        if (!grown)
            abort(); // the arena does the same: a template has 1 MiB at most
        l->tokens = grown;
    }
    lexer_count_to(l, at);
    Token *token = &l->tokens[l->count++];
    *token = (Token){.kind = kind, .line = l->line, .column = (int)(at - l->line_start) + 1};
    return token;
}

// ---- characters ---------------------------------------------------------------------------------

// Length in bytes of the white space character at `at` (Python's \s), or 0.
static size_t space_size(const char *text, size_t size, size_t at) {
    unsigned char c = (unsigned char)text[at];
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    static const char wide[][4] = {
        "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8", "\xe2\x80\xa9",
        "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80", "\xe2\x80\x80", "\xe2\x80\x81",
        "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
        "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a",
    };
    for (size_t which = 0; which < sizeof wide / sizeof wide[0]; which++) {
        size_t length = strlen(wide[which]);
        if (size - at >= length && memcmp(text + at, wide[which], length) == 0)
            return length;
    }
    return 0;
}

static void skip_space(Lexer *l) {
    size_t length;
    while (l->at < l->size && (length = space_size(l->text, l->size, l->at)) > 0)
        l->at += length;
}

// End of text[from..to) without its trailing white space.
static size_t strip_end(const char *text, size_t from, size_t to) {
    while (to > from) {
        size_t last = to - 1;
        while (last > from && ((unsigned char)text[last] & 0xc0) == 0x80)
            last--;
        if (space_size(text, to, last) != to - last)
            break;
        to = last;
    }
    return to;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_word(char c) {
    return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (unsigned char)c >= 0x80;
}

static bool starts(const Lexer *l, size_t at, const char *text) {
    size_t length = strlen(text);
    return l->size - at >= length && memcmp(l->text + at, text, length) == 0;
}

// ---- numbers and strings ------------------------------------------------------------------------

// (\d+_)*\d+ from `at`; returns its end, or `at` if there is none.
static size_t digits_end(const Lexer *l, size_t at) {
    while (at < l->size && is_digit(l->text[at])) {
        at++;
        if (at + 1 < l->size && l->text[at] == '_' && is_digit(l->text[at + 1]))
            at++;
    }
    return at;
}

// End of a float that starts at `at`, or 0: a fraction or an exponent makes it one.
static size_t float_end(const Lexer *l, size_t at) {
    if (at > 0 && l->text[at - 1] == '.')
        return 0;
    size_t end = digits_end(l, at);
    bool is_float = false;
    if (end < l->size && l->text[end] == '.' && digits_end(l, end + 1) > end + 1) {
        end = digits_end(l, end + 1);
        is_float = true;
    }
    if (end < l->size && (l->text[end] == 'e' || l->text[end] == 'E')) {
        size_t digits = end + 1;
        if (digits < l->size && (l->text[digits] == '+' || l->text[digits] == '-'))
            digits++;
        if (digits_end(l, digits) > digits)
            return digits_end(l, digits);
    }
    return is_float ? end : 0;
}

static int digit_value(char c) {
    if (is_digit(c))
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

static bool lex_integer(Lexer *l, size_t start) {
    int base = 10;
    if (l->text[l->at] == '0' && l->at + 2 < l->size) {
        static const struct {
            char letter;
            int base;
        } prefixes[] = {{'b', 2}, {'o', 8}, {'x', 16}};
        for (size_t which = 0; which < 3; which++) {
            size_t digit = l->at + 2;
            digit += l->text[digit] == '_' && digit + 1 < l->size;
            if ((l->text[l->at + 1] | 0x20) == prefixes[which].letter &&
                digit_value(l->text[digit]) < prefixes[which].base)
                base = prefixes[which].base;
        }
    }
    bool zero = base == 10 && l->text[l->at] == '0'; // 0012 is 00, then 12
    l->at += base == 10 ? 0 : 2;
    uint64_t value = 0;
    for (; l->at < l->size; l->at++) {
        char c = l->text[l->at];
        bool joined = c == '_' && l->at + 1 < l->size;
        int digit = digit_value(joined ? l->text[l->at + 1] : c);
        if (digit >= (zero ? 1 : base))
            break;
        l->at += joined;
        if (value > ((uint64_t)INT64_MAX - (uint64_t)digit) / (uint64_t)base) {
            lexer_count_to(l, start);
            return fail(l->err, ERR_UNSUPPORTED, 931,
                        "%s: line %d, column %zu: integers beyond 64 bits are not supported",
                        l->name, l->line, start - l->line_start + 1);
        }
        value = value * (uint64_t)base + (uint64_t)digit;
    }
    lexer_add(l, TOKEN_INTEGER, start)->integer = (int64_t)value;
    return true;
}

static bool lex_number(Lexer *l) {
    size_t start = l->at, end = float_end(l, l->at);
    if (!end)
        return lex_integer(l, start);
    char *digits = arena_alloc(l->arena, end - start + 1);
    size_t used = 0;
    for (size_t at = start; at < end; at++) {
        if (l->text[at] != '_')
            digits[used++] = l->text[at];
    }
    l->at = end;
    lexer_add(l, TOKEN_FLOAT, start)->number = strtod(digits, NULL);
    return true;
}

// The hexadecimal escapes: \xhh, \uhhhh, \Uhhhhhhhh. `at` is behind the letter.
static bool escape_hex(Lexer *l, size_t end, int count, char *out, size_t *used) {
    uint32_t code = 0;
    for (int digit = 0; digit < count; digit++, l->at++) {
        if (l->at >= end || digit_value(l->text[l->at]) > 15)
            return lexer_fail(l, "a \\x, \\u or \\U in a string lacks hexadecimal digits");
        code = code << 4 | (uint32_t)digit_value(l->text[l->at]);
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return lexer_fail(l, "an escape in a string stands for no character");
    *used += utf8_write((unsigned char *)out + *used, code);
    return true;
}

// One escape; `at` is at the backslash. Unknown ones stay as they are, as in Python. A character
// beyond ASCII has become its own \x, \u or \U by then, which a backslash before it takes apart.
static bool lex_escape(Lexer *l, size_t end, char *out, size_t *used) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->text[l->at + 1];
    const char *known = strchr(from, c);
    l->at += 2;
    if (c == '\n')
        return true;
    if (c && known) {
        out[(*used)++] = to[known - from];
        return true;
    }
    if (c == 'x' || c == 'u' || c == 'U')
        return escape_hex(l, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, out, used);
    if (c == 'N')
        return lexer_fail(l, "named characters (\\N{...}) are not supported; write \\u");
    if (c >= '0' && c <= '7') {
        uint32_t code = (uint32_t)(c - '0');
        for (int digit = 0;
             digit < 2 && l->at < end && l->text[l->at] >= '0' && l->text[l->at] <= '7'; digit++)
            code = code * 8 + (uint32_t)(l->text[l->at++] - '0');
        *used += utf8_write((unsigned char *)out + *used, code);
        return true;
    }
    if ((unsigned char)c >= 0x80)
        return lexer_fail(l, "a backslash before a character beyond ASCII");
    out[(*used)++] = '\\';
    out[(*used)++] = c;
    return true;
}

static bool lex_string(Lexer *l) {
    size_t start = l->at, end = start + 1;
    char quote = l->text[start];
    while (end < l->size && l->text[end] != quote)
        end += l->text[end] == '\\' && end + 1 < l->size ? 2 : 1;
    if (end >= l->size)
        return lexer_fail(l, "a string without its closing quote");
    // No escape is shorter than what it stands for.
    char *out = arena_alloc(l->arena, end - start + 4);
    size_t used = 0;
    for (l->at = start + 1; l->at < end;) {
        if (l->text[l->at] != '\\')
            out[used++] = l->text[l->at++];
        else
            TRY(lex_escape(l, end, out, &used));
    }
    l->at = end + 1;
    lexer_add(l, TOKEN_STRING, start)->text = (Bytes){(unsigned char *)out, used};
    return true;
}

// ---- inside of tags -----------------------------------------------------------------------------

static bool lex_bracket(Lexer *l, char c) {
    static const char opening[] = "([{", closing[] = ")]}";
    const char *open = strchr(opening, c);
    if (open) {
        if (l->bracket_count == TEMPLATE_MAX_NESTING)
            return lexer_fail(l, "more than 64 brackets inside each other");
        l->brackets[l->bracket_count++] = closing[open - opening];
    } else if (strchr(closing, c)) {
        if (!l->bracket_count || l->brackets[--l->bracket_count] != c)
            return lexer_fail(l, "a closing bracket without its opening one");
    }
    return true;
}

static bool lex_operator(Lexer *l) {
    static const struct {
        char text[3];
        TokenKind kind;
    } operators[] = {
        // the longer ones first
        {"**", TOKEN_POW},   {"//", TOKEN_FLOORDIV}, {"==", TOKEN_EQ},       {"!=", TOKEN_NE},
        {"<=", TOKEN_LE},    {">=", TOKEN_GE},       {"+", TOKEN_ADD},       {"-", TOKEN_SUB},
        {"*", TOKEN_MUL},    {"/", TOKEN_DIV},       {"%", TOKEN_MOD},       {"~", TOKEN_TILDE},
        {"<", TOKEN_LT},     {">", TOKEN_GT},        {"=", TOKEN_ASSIGN},    {".", TOKEN_DOT},
        {":", TOKEN_COLON},  {",", TOKEN_COMMA},     {";", TOKEN_SEMICOLON}, {"|", TOKEN_PIPE},
        {"(", TOKEN_LPAREN}, {")", TOKEN_RPAREN},    {"[", TOKEN_LBRACKET},  {"]", TOKEN_RBRACKET},
        {"{", TOKEN_LBRACE}, {"}", TOKEN_RBRACE},
    };
    for (size_t which = 0; which < sizeof operators / sizeof operators[0]; which++) {
        if (!starts(l, l->at, operators[which].text))
            continue;
        TRY(lex_bracket(l, l->text[l->at]));
        lexer_add(l, operators[which].kind, l->at);
        l->at += strlen(operators[which].text);
        return true;
    }
    return lexer_fail(l, "a character that means nothing in a tag");
}

// The end of a tag at `at`: -}} takes all white space behind it, %} one newline.
static bool lex_tag_end(Lexer *l, const char *end, bool trim_newline) {
    size_t at = l->at;
    char sign = l->text[at];
    bool minus = sign == '-', plus = sign == '+' && trim_newline;
    if (!starts(l, at + (minus || plus), end))
        return false;
    l->at = at + (minus || plus) + 2;
    if (minus)
        skip_space(l);
    else if (!plus && trim_newline && l->at < l->size && l->text[l->at] == '\n')
        l->at++;
    l->line_starting = l->text[l->at - 1] == '\n';
    return true;
}

static bool lex_tag(Lexer *l, bool block) {
    const char *end = block ? "%}" : "}}";
    for (;;) {
        if (l->at >= l->size)
            return lexer_fail(l, block ? "a {% without its %}" : "a {{ without its }}");
        size_t start = l->at;
        if (!l->bracket_count && lex_tag_end(l, end, block)) {
            lexer_add(l, block ? TOKEN_BLOCK_END : TOKEN_PRINT_END, start);
            return true;
        }
        char c = l->text[l->at];
        if (space_size(l->text, l->size, l->at)) {
            skip_space(l);
        } else if (is_digit(c)) {
            TRY(lex_number(l));
        } else if (is_word(c)) {
            while (l->at < l->size && is_word(l->text[l->at])) {
                if ((unsigned char)l->text[l->at] >= 0x80)
                    return lexer_fail(l, "a name with a character beyond ASCII");
                l->at++;
            }
            lexer_add(l, TOKEN_NAME, start)->text =
                (Bytes){(const unsigned char *)l->text + start, l->at - start};
        } else if (c == '\'' || c == '"') {
            TRY(lex_string(l));
        } else {
            TRY(lex_operator(l));
        }
    }
}

// ---- between tags -------------------------------------------------------------------------------

static void add_data(Lexer *l, size_t from, size_t to) {
    if (to > from)
        lexer_add(l, TOKEN_DATA, from)->text =
            (Bytes){(const unsigned char *)l->text + from, to - from};
}

// Where text[from..to) ends when a tag with this sign follows it.
static size_t stripped_end(const Lexer *l, size_t from, size_t to, char sign, bool is_print) {
    if (sign == '-')
        return strip_end(l->text, from, to);
    if (sign == '+' || is_print)
        return to;
    size_t line = to;
    while (line > from && l->text[line - 1] != '\n')
        line--;
    if (line == from && !l->line_starting)
        return to;
    return strip_end(l->text, line, to) == line ? line : to;
}

// Place behind "{% [sign] WORD" and white space, or 0.
static size_t match_word_tag(const Lexer *l, size_t at, const char *word, char *sign) {
    Lexer probe = *l;
    probe.at = at + 2;
    *sign = 0;
    if (probe.at < l->size && (l->text[probe.at] == '-' || l->text[probe.at] == '+'))
        *sign = l->text[probe.at++];
    skip_space(&probe);
    if (!starts(l, probe.at, word))
        return 0;
    probe.at += strlen(word);
    skip_space(&probe);
    return probe.at;
}

// {% raw %}: text up to {% endraw %}. Returns false with no error set if this is no such tag.
static bool lex_raw(Lexer *l, size_t text_from, size_t tag, bool *is_raw) {
    char sign;
    size_t at = match_word_tag(l, tag, "raw", &sign);
    bool minus = at && starts(l, at, "-%}");
    *is_raw = at && (minus || starts(l, at, "%}"));
    if (!*is_raw)
        return true;
    add_data(l, text_from, stripped_end(l, text_from, tag, sign, false));
    l->at = at + (minus ? 3 : 2);
    if (minus)
        skip_space(l);
    l->line_starting = l->text[l->at - 1] == '\n';
    size_t from = l->at;
    for (size_t end = from; end + 1 < l->size; end++) {
        if (!starts(l, end, "{%"))
            continue;
        size_t behind = match_word_tag(l, end, "endraw", &sign);
        if (!behind || behind >= l->size)
            continue;
        size_t data_end = stripped_end(l, from, end, sign, false);
        l->at = behind;
        if (!lex_tag_end(l, "%}", true)) {
            l->at = from;
            continue;
        }
        add_data(l, from, data_end);
        return true;
    }
    return lexer_fail(l, "a {% raw %} without its {% endraw %}");
}

static bool lex_comment(Lexer *l) {
    size_t start = l->at;
    for (l->at += 2; l->at + 1 < l->size; l->at++) {
        if ((l->text[l->at] == '-' || l->text[l->at] == '+' || l->text[l->at] == '#') &&
            lex_tag_end(l, "#}", true))
            return true;
    }
    l->at = start;
    return lexer_fail(l, "a {# without its #}");
}

static bool lex_template(Lexer *l) {
    while (l->at < l->size) {
        size_t from = l->at, tag = from;
        while (tag < l->size && !(l->text[tag] == '{' && tag + 1 < l->size &&
                                  strchr("{%#", l->text[tag + 1]) && l->text[tag + 1]))
            tag++;
        if (tag >= l->size) {
            add_data(l, from, l->size);
            break;
        }
        char kind = l->text[tag + 1];
        bool is_raw = false;
        if (kind == '%')
            TRY(lex_raw(l, from, tag, &is_raw));
        if (is_raw)
            continue;
        char sign = tag + 2 < l->size ? l->text[tag + 2] : 0;
        bool has_sign = sign == '-' || sign == '+';
        add_data(l, from, stripped_end(l, from, tag, has_sign ? sign : 0, kind == '{'));
        l->at = tag;
        if (kind == '#') {
            l->at += has_sign;
            TRY(lex_comment(l));
            continue;
        }
        lexer_add(l, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, tag);
        l->at = tag + 2 + has_sign;
        TRY(lex_tag(l, kind == '%'));
    }
    return true;
}

// \r\n and \r become \n; one newline at the end goes.
static void normalize(Lexer *l, Bytes source) {
    char *text = arena_alloc(l->arena, source.size + 1);
    size_t used = 0;
    for (size_t at = 0; at < source.size; at++) {
        char c = (char)source.data[at];
        if (c == '\r') {
            c = '\n';
            at += at + 1 < source.size && source.data[at + 1] == '\n';
        }
        text[used++] = c;
    }
    used -= used > 0 && text[used - 1] == '\n';
    l->text = text;
    l->size = used;
}

bool template_lex(const char *name, Bytes source, Arena *a, TokenList *out, Error *err) {
    Lexer l = {.name = name, .arena = a, .line = 1, .line_starting = true, .err = err};
    normalize(&l, source);
    bool done = lex_template(&l);
    if (done) {
        lexer_add(&l, TOKEN_EOF, l.size);
        out->count = l.count;
        out->tokens = ARENA_NEW(a, Token, l.count);
        memcpy(out->tokens, l.tokens, (size_t)l.count * sizeof *l.tokens);
    }
    free(l.tokens);
    return done;
}

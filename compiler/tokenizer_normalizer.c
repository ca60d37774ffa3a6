// The normalizer of tokenizer.json as a list of steps, with the tables of Unicode's forms, of lower
// case and of SentencePiece's map.
//
// Sources: Hugging Face tokenizers, normalizers/*; UAX 15; utf8proc for the data of Unicode.
#include "tokenizer_build.h"
#include "tokenizer_regex.h"

#include "../runtime/tokenizer_normalize.h"
#include "../runtime/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool normal_add(TokenizerBuild *b, const Node *node, NormalStep step) {
    if (b->h.normal_count == TOKENIZER_MAX_STEPS)
        return fail(b->err, ERR_UNSUPPORTED, 985, "%s: %s: more than %d steps", b->file, node->path,
                    TOKENIZER_MAX_STEPS);
    b->h.normals[b->h.normal_count++] = step;
    return true;
}

static void from_add(TokenizerBuild *b, NormalStep *step, const void *data, size_t size) {
    step->from = blob_add(b, data, size);
    step->from_size = size;
}

static void to_add(TokenizerBuild *b, NormalStep *step, const char *text) {
    step->to_size = strlen(text);
    step->to = blob_add(b, text, (size_t)step->to_size);
}

// ---- tables of characters -----------------------------------------------------------------------

typedef struct FormBuild {
    Arena *arena;
    FormRecord *records; // [records]
    FormPair *pairs;
    uint32_t *points;
    uint32_t record_count, pair_count, point_count, page_count;
    uint16_t index[TOKENIZER_CODE_POINTS / 256];
    uint16_t (*pages)[256];
    uint8_t second[TOKENIZER_CODE_POINTS / 8]; // a composition has it as its second part
} FormBuild;

// Room for every decomposition that utf8proc knows (Unicode 15: 16,700 characters of all kinds but
// Hangul, 24,000 parts).
enum { FORM_RECORDS = 1 << 15, FORM_PARTS = 1 << 17, FORM_LONGEST = 18 };

// Characters that the tables of Hugging Face's tokenizers (of an older Unicode) do not know: no
// marks, without decomposition.
typedef struct Range {
    uint32_t first, last;
} Range;

// clang-format off
static const Range unknown[] = { // ascending
    {0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c}, {0xd3b, 0xd3c},
    {0xeba, 0xeba}, {0x1715, 0x1715}, {0x1abf, 0x1ace}, {0x1df6, 0x1dfa}, {0x32ff, 0x32ff},
    {0xa7f2, 0xa7f4}, {0xa82c, 0xa82c}, {0xab69, 0xab69}, {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b},
    {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};
// clang-format on

static bool is_unknown(uint32_t code) {
    for (size_t at = 0; at < sizeof unknown / sizeof *unknown && unknown[at].first <= code; at++)
        if (code <= unknown[at].last)
            return true;
    return false;
}

// No character from here on has a decomposition or is a mark.
enum { FORM_CODES = 0x30000 };

static bool is_hangul(uint32_t code) {
    return code >= 0xac00 && code < 0xac00 + 11172;
}

// The parts of a character by utf8proc; returns how many.
static int code_parts(uint32_t code, int options, uint32_t parts[FORM_LONGEST]) {
    int boundary = 0;
    utf8proc_int32_t out[FORM_LONGEST];
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)code, out, FORM_LONGEST,
                                                     (utf8proc_option_t)options, &boundary);
    if (count < 0 || count > FORM_LONGEST || is_unknown(code)) {
        parts[0] = code;
        return 1;
    }
    for (int at = 0; at < count; at++)
        parts[at] = (uint32_t)out[at];
    return (int)count;
}

static uint8_t code_order(uint32_t code) {
    return is_unknown(code)
               ? 0
               : (uint8_t)utf8proc_get_property((utf8proc_int32_t)code)->combining_class;
}

// The number of a record equal to this one, whose parts are compared too.
static uint16_t record_number(FormBuild *f, FormRecord r, const uint32_t *parts) {
    if (r.itself || r.count == FORM_HANGUL) { // few of them, at the front
        for (uint32_t at = 0; at < f->record_count; at++)
            if (f->records[at].itself == r.itself && f->records[at].order == r.order &&
                f->records[at].quiet == r.quiet && f->records[at].count == r.count)
                return (uint16_t)at;
    } else {
        r.first = f->point_count;
        memcpy(f->points + f->point_count, parts, r.count * sizeof *parts);
        f->point_count += r.count;
    }
    f->records[f->record_count] = r;
    return (uint16_t)f->record_count++;
}

typedef FormRecord (*RecordOf)(const FormBuild *f, uint32_t code, uint32_t *parts);

static void form_pages(FormBuild *f, RecordOf record_of) {
    uint16_t page[256];
    f->pages = arena_array(f->arena, TOKENIZER_CODE_POINTS / 256, sizeof page);
    for (uint32_t at = 0; at < TOKENIZER_CODE_POINTS / 256; at++) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t parts[FORM_LONGEST];
            page[i] = record_number(f, record_of(f, at * 256 + i, parts), parts);
        }
        uint32_t same = 0;
        while (same < f->page_count && memcmp(f->pages[same], page, sizeof page) != 0)
            same++;
        if (same == f->page_count)
            memcpy(f->pages[f->page_count++], page, sizeof page);
        f->index[at] = (uint16_t)same;
    }
}

static FormBuild *form_new(Arena *a) {
    FormBuild *f = ARENA_NEW(a, FormBuild, 1);
    f->arena = a;
    f->records = ARENA_NEW(a, FormRecord, FORM_RECORDS);
    f->points = ARENA_NEW(a, uint32_t, FORM_PARTS);
    f->pairs = ARENA_NEW(a, FormPair, 4096);
    return f;
}

static Bytes form_tables(const FormBuild *f) {
    FormHeader h = {f->record_count, f->pair_count, f->point_count, f->page_count};
    const struct {
        const void *data;
        size_t size;
    } parts[] = {{&h, sizeof h},
                 {f->records, f->record_count * sizeof *f->records},
                 {f->pairs, f->pair_count * sizeof *f->pairs},
                 {f->points, f->point_count * sizeof *f->points},
                 {f->index, sizeof f->index},
                 {f->pages, f->page_count * sizeof *f->pages}};
    size_t size = 0, count = sizeof parts / sizeof *parts;
    for (size_t at = 0; at < count; at++)
        size += parts[at].size;
    unsigned char *tables = arena_alloc(f->arena, size), *to = tables;
    for (size_t at = 0; at < count; at++) {
        if (parts[at].size)
            memcpy(to, parts[at].data, parts[at].size);
        to += parts[at].size;
    }
    return (Bytes){tables, size};
}

// ---- Unicode's forms ----------------------------------------------------------------------------

// The one character that text of these composes to; 0: none.
static uint32_t parts_compose(const uint32_t *parts, int count) {
    unsigned char text[4 * FORM_LONGEST + 1];
    size_t size = 0, length;
    for (int at = 0; at < count; at++)
        size += utf8_write(text + size, parts[at]);
    text[size] = 0;
    utf8proc_uint8_t *composed = utf8proc_NFC(text);
    if (!composed)
        return 0;
    size_t all = strlen((char *)composed);
    uint32_t code = all ? utf8_read(composed, all, &length) : 0;
    bool one = all && length == all;
    free(composed);
    return one ? code : 0;
}

static int pair_order(const void *left, const void *right) {
    const FormPair *l = left, *r = right;
    if (l->first != r->first)
        return l->first < r->first ? -1 : 1;
    return (l->second > r->second) - (l->second < r->second);
}

// A character with a canonical decomposition that composes to it again: what all but the last part
// compose to, and the last.
static void pairs_make(FormBuild *f) {
    uint32_t parts[FORM_LONGEST];
    for (uint32_t code = 0x80; code < FORM_CODES; code++) {
        if (is_hangul(code) || (code >= 0xd800 && code < 0xe000))
            continue;
        int count = code_parts(code, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, parts);
        if (count < 2 || parts_compose(parts, count) != code)
            continue;
        uint32_t first = parts_compose(parts, count - 1);
        if (first)
            f->pairs[f->pair_count++] = (FormPair){first, parts[count - 1], code};
    }
    qsort(f->pairs, f->pair_count, sizeof *f->pairs, pair_order);
    for (uint32_t at = 0; at < f->pair_count; at++)
        f->second[f->pairs[at].second / 8] |= (uint8_t)(1u << f->pairs[at].second % 8);
    for (uint32_t code = 0x1161; code < 0x11c3; code++) // Hangul's vowels and tails
        f->second[code / 8] |= (uint8_t)(1u << code % 8);
}

static bool is_second(const FormBuild *f, uint32_t code) {
    return f->second[code / 8] >> code % 8 & 1;
}

static FormRecord record_form(uint32_t code, int options, uint32_t *parts) {
    FormRecord r = {.order = code < FORM_CODES ? code_order(code) : 0};
    if (is_hangul(code)) {
        r.count = FORM_HANGUL;
        return r;
    }
    bool alone = code >= FORM_CODES || (code >= 0xd800 && code < 0xe000);
    int count = alone ? 1 : code_parts(code, options, parts);
    r.itself = alone || (count == 1 && parts[0] == code);
    r.count = r.itself ? 0 : (uint8_t)count;
    return r;
}

static FormRecord record_decomposed(const FormBuild *f, uint32_t code, uint32_t *parts) {
    (void)f;
    FormRecord r = record_form(code, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, parts);
    r.quiet = r.itself && !r.order;
    return r;
}

static FormRecord record_decomposed_k(const FormBuild *f, uint32_t code, uint32_t *parts) {
    (void)f;
    FormRecord r = record_form(code, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT | UTF8PROC_STABLE, parts);
    r.quiet = r.itself && !r.order;
    return r;
}

// Quiet: it is what its parts compose to, and neither it nor its first part joins what precedes.
static void quiet_composed(const FormBuild *f, FormRecord *r, uint32_t code,
                           const uint32_t *parts) {
    r->quiet = !r->order && !is_second(f, code);
    if (r->count == FORM_HANGUL || r->itself || !r->quiet)
        return;
    r->quiet = r->count > 0 && !is_second(f, parts[0]) && !code_order(parts[0]) &&
               parts_compose(parts, r->count) == code;
}

static FormRecord record_composed(const FormBuild *f, uint32_t code, uint32_t *parts) {
    FormRecord r = record_form(code, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, parts);
    quiet_composed(f, &r, code, parts);
    return r;
}

static FormRecord record_composed_k(const FormBuild *f, uint32_t code, uint32_t *parts) {
    FormRecord r = record_form(code, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT | UTF8PROC_STABLE, parts);
    quiet_composed(f, &r, code, parts);
    return r;
}

static bool form_add(TokenizerBuild *b, const Node *node, RecordOf record_of, bool compose) {
    FormBuild *f = form_new(b->arena);
    NormalStep step = {.kind = NORMAL_FORM, .option = compose};
    if (compose)
        pairs_make(f);
    form_pages(f, record_of);
    Bytes tables = form_tables(f);
    from_add(b, &step, tables.data, tables.size);
    return normal_add(b, node, step);
}

static bool nfc_read(TokenizerBuild *b, const Node *node) {
    return form_add(b, node, record_composed, true);
}

static bool nfd_read(TokenizerBuild *b, const Node *node) {
    return form_add(b, node, record_decomposed, false);
}

static bool nfkc_read(TokenizerBuild *b, const Node *node) {
    return form_add(b, node, record_composed_k, true);
}

static bool nfkd_read(TokenizerBuild *b, const Node *node) {
    return form_add(b, node, record_decomposed_k, false);
}

// ---- maps of characters -------------------------------------------------------------------------

// Letters that have a small one since utf8proc's Unicode.
static const struct {
    uint32_t first, last, lower; // of the first
} newer_lower[] = {
    {0x1c89, 0x1c89, 0x1c8a},    {0xa7cb, 0xa7cb, 0x264},  {0xa7cc, 0xa7cc, 0xa7cd},
    {0xa7ce, 0xa7ce, 0xa7cf},    {0xa7d2, 0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d4, 0xa7d5},
    {0xa7da, 0xa7da, 0xa7db},    {0xa7dc, 0xa7dc, 0x19b},  {0x10d50, 0x10d65, 0x10d70},
    {0x16ea0, 0x16eb8, 0x16ebb},
};

static uint32_t code_lower(uint32_t code) {
    for (size_t at = 0; at < sizeof newer_lower / sizeof *newer_lower; at++)
        if (code >= newer_lower[at].first && code <= newer_lower[at].last)
            return newer_lower[at].lower + code - newer_lower[at].first;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
}

static FormRecord record_lower(const FormBuild *f, uint32_t code, uint32_t *parts) {
    (void)f;
    parts[0] = code_lower(code);
    if (code == 0x130) { // the only one that becomes two: i with a dot above
        parts[0] = 'i';
        parts[1] = 0x307;
        return (FormRecord){.count = 2};
    }
    bool itself = parts[0] == code;
    return (FormRecord){.itself = itself, .count = !itself};
}

static bool map_add(TokenizerBuild *b, const Node *node, RecordOf record_of) {
    FormBuild *f = form_new(b->arena);
    NormalStep step = {.kind = NORMAL_MAP};
    form_pages(f, record_of);
    Bytes tables = form_tables(f);
    from_add(b, &step, tables.data, tables.size);
    return normal_add(b, node, step);
}

static bool lowercase_read(TokenizerBuild *b, const Node *node) {
    return map_add(b, node, record_lower);
}

// ---- text ---------------------------------------------------------------------------------------

static bool prepend_read(TokenizerBuild *b, const Node *node) {
    NormalStep step = {.kind = NORMAL_PREPEND};
    to_add(b, &step, member_text(node->json, "prepend"));
    return normal_add(b, node, step);
}

static bool replace_read(TokenizerBuild *b, const Node *node) {
    const cJSON *pattern = member(node->json, "pattern"), *regex = member(pattern, "Regex");
    const char *text = member_text(pattern, "String");
    NormalStep step = {.kind = NORMAL_REPLACE};
    to_add(b, &step, member_text(node->json, "content"));
    if (cJSON_IsString(regex)) {
        Bytes tables;
        step.kind = NORMAL_PATTERN;
        TRY(pattern_compile(&tables, regex->valuestring,
                            arena_printf(b->arena, "%s: %s.pattern.Regex", b->file, node->path),
                            b->arena, b->err));
        if (pattern_matches_nothing(tables))
            return refuse(b, 990, node_path(b, node, "pattern.Regex"), regex->valuestring,
                          "expressions that match at least one character");
        from_add(b, &step, tables.data, tables.size);
    } else if (text[0]) {
        from_add(b, &step, text, strlen(text));
    } else {
        return refuse(b, 986, node_path(b, node, "pattern"), "neither Regex nor String",
                      "{\"Regex\": ...} or {\"String\": ...}");
    }
    return normal_add(b, node, step);
}

static bool strip_read(TokenizerBuild *b, const Node *node) {
    uint32_t left = member_true(node->json, "strip_left") ? 1 : 0;
    uint32_t right = member_true(node->json, "strip_right") ? 2 : 0;
    return normal_add(b, node, (NormalStep){.kind = NORMAL_STRIP, .option = left | right});
}

// ---- SentencePiece's map ------------------------------------------------------------------------

static uint8_t break_of(uint32_t code) {
    switch (utf8proc_get_property((utf8proc_int32_t)code)->boundclass) {
    case UTF8PROC_BOUNDCLASS_CR:
        return BREAK_RETURN;
    case UTF8PROC_BOUNDCLASS_LF:
        return BREAK_FEED;
    case UTF8PROC_BOUNDCLASS_CONTROL:
        return BREAK_CONTROL;
    case UTF8PROC_BOUNDCLASS_EXTEND:
        return BREAK_EXTEND;
    case UTF8PROC_BOUNDCLASS_ZWJ:
        return BREAK_JOINER;
    case UTF8PROC_BOUNDCLASS_SPACINGMARK:
        return BREAK_SPACING;
    case UTF8PROC_BOUNDCLASS_PREPEND:
        return BREAK_PREPEND;
    case UTF8PROC_BOUNDCLASS_EXTENDED_PICTOGRAPHIC:
        return BREAK_PICTURE;
    default:
        return BREAK_OTHER;
    }
}

// map: uint32 bytes of the array, the array, the texts.
bool charsmap_add(TokenizerBuild *b, const Node *node, Bytes map) {
    uint32_t trie_bytes = 0;
    if (map.size >= 4)
        memcpy(&trie_bytes, map.data, 4);
    if (map.size < 4 || trie_bytes % 4 || trie_bytes > map.size - 4)
        return fail(b->err, ERR_CORRUPT, 987, "%s: %s.precompiled_charsmap has no double array",
                    b->file, node->path);
    CharsmapHeader h = {.units = trie_bytes / 4, .texts = (uint32_t)(map.size - 4 - trie_bytes)};
    uint16_t index[TOKENIZER_CODE_POINTS / 256];
    uint8_t(*pages)[256] = arena_array(b->arena, TOKENIZER_CODE_POINTS / 256, 256);
    for (uint32_t at = 0; at < TOKENIZER_CODE_POINTS / 256; at++) {
        uint8_t *page = pages[h.pages];
        uint32_t same = 0;
        for (uint32_t i = 0; i < 256; i++)
            page[i] = break_of(at * 256 + i);
        while (memcmp(pages[same], page, 256) != 0)
            same++;
        h.pages += same == h.pages;
        index[at] = (uint16_t)same;
    }
    size_t size = sizeof h + trie_bytes + sizeof index + 256 * (size_t)h.pages + h.texts;
    unsigned char *tables = arena_alloc(b->arena, size), *to = tables;
    memcpy(to, &h, sizeof h);
    memcpy(to += sizeof h, map.data + 4, trie_bytes);
    memcpy(to += trie_bytes, index, sizeof index);
    memcpy(to += sizeof index, pages, 256 * (size_t)h.pages);
    memcpy(to + 256 * (size_t)h.pages, map.data + 4 + trie_bytes, h.texts);
    NormalStep step = {.kind = NORMAL_CHARSMAP};
    from_add(b, &step, tables, size);
    return normal_add(b, node, step);
}

static int base64_value(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c ? strchr(digits, c) : NULL;
    return found ? (int)(found - digits) : -1;
}

static bool precompiled_read(TokenizerBuild *b, const Node *node) {
    const char *text = member_text(node->json, "precompiled_charsmap");
    unsigned char *map = arena_alloc(b->arena, strlen(text) + 1);
    size_t size = 0;
    uint32_t bits = 0;
    int count = 0;
    if (!text[0]) // null: the identity
        return true;
    for (; *text && *text != '='; text++) {
        int value = base64_value(*text);
        if (value < 0)
            return fail(b->err, ERR_CORRUPT, 988, "%s: %s.precompiled_charsmap is no base 64",
                        b->file, node->path);
        bits = bits << 6 | (uint32_t)value;
        if ((count += 6) >= 8)
            map[size++] = (unsigned char)(bits >> (count -= 8));
    }
    return charsmap_add(b, node, (Bytes){map, size});
}

// ---- the list -----------------------------------------------------------------------------------

static const NodeType types[] = {
    {"NFC", nfc_read},
    {"NFD", nfd_read},
    {"NFKC", nfkc_read},
    {"NFKD", nfkd_read},
    {"Lowercase", lowercase_read},
    {"Prepend", prepend_read},
    {"Replace", replace_read},
    {"Strip", strip_read},
    {"Precompiled", precompiled_read},
    {NULL, NULL},
};

static bool normalizer_step(TokenizerBuild *b, const Node *node) {
    return node_typed(b, node, types, 989,
                      "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, "
                      "Precompiled");
}

bool normalizer_read(TokenizerBuild *b, const cJSON *json) {
    return !json || nodes_read(b, node_of(json, "normalizer"), "normalizers", normalizer_step);
}

bool normalized_text(TokenizerBuild *b, Bytes *text) {
    MarkedText out = {{NULL, 0, 0}, {NULL, 0, 0}};
    bool done = normalize_run(b->data, b->h.normals, b->h.normal_count, *text, NULL, &out, b->err);
    if (done) {
        text->data =
            (unsigned char *)arena_strndup(b->arena, (char *)out.bytes.data, out.bytes.size);
        text->size = out.bytes.size;
    }
    free(out.bytes.data);
    free(out.marks.data);
    return done;
}

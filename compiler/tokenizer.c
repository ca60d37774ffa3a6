// tokenizer.json to tables (runtime/payload_tokenizer.h): nothing is parsed when an executable
// starts. Byte-level BPE in this version; everything else is refused by name.
//
// Pieces are stored as the bytes that they stand for, not in the alphabet of printable characters
// that GPT-2 gave to bytes and that the file uses.
// Sources: Hugging Face tokenizers, models/bpe, pre_tokenizers/{split,byte_level}, processors.
#include "compile.h"

#include "../runtime/payload_tokenizer.h"

#include <cjson/cJSON.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_TOKENS = 1 << 21, MAX_PIECE_BYTES = 1 << 16 };

typedef struct Piece {
    const unsigned char *bytes; // NULL: no token has this id
    uint32_t size;
    uint8_t flags; // TOKEN_*
} Piece;

typedef struct Build {
    const char *file; // for messages
    Arena *arena;
    Error *err;
    TokenizerHeader h;
    Piece *pieces; // [vocab_size]
    int32_t *piece_table;
    MergeEntry *merges;
    AddedToken *added;
    int32_t byte_of[0x144]; // code point of the alphabet -> byte, -1
} Build;

static const cJSON *get(const cJSON *object, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const char *text_of(const cJSON *object, const char *key) {
    const cJSON *item = get(object, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

// ---- the byte alphabet --------------------------------------------------------------------------

// GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the rest for U+0100 and up.
static void alphabet_make(Build *b) {
    for (size_t at = 0; at < sizeof b->byte_of / sizeof *b->byte_of; at++)
        b->byte_of[at] = -1;
    int next = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        b->byte_of[plain ? byte : next++] = byte;
    }
}

// The bytes of a piece written in the alphabet. A character outside of it stands for itself.
static Piece piece_decode(const Build *b, const char *text) {
    size_t size = strlen(text), used = 0;
    unsigned char *bytes = arena_alloc(b->arena, size + 1);
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                   (utf8proc_ssize_t)(size - at), &code);
        if (length > 0 && code < 0x144 && b->byte_of[code] >= 0) {
            bytes[used++] = (unsigned char)b->byte_of[code];
        } else {
            length = length > 0 ? length : 1;
            memcpy(bytes + used, text + at, (size_t)length);
            used += (size_t)length;
        }
        at += (size_t)length;
    }
    return (Piece){.bytes = bytes, .size = (uint32_t)used};
}

// ---- vocabulary ---------------------------------------------------------------------------------

static bool id_valid(const Build *b, const cJSON *item, const char *what, int32_t *id) {
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(value >= 0 && value < (double)b->h.vocab_size) || value != (double)(int32_t)value) {
        char name[80];
        text_escape(name, sizeof name, what, strlen(what));
        return fail(b->err, ERR_CORRUPT, 901,
                    "%s: token \"%s\" has id %g, expected 0 to %d (vocab_size of config.json)",
                    b->file, name, value, b->h.vocab_size - 1);
    }
    *id = (int32_t)value;
    return true;
}

static int32_t piece_find(const Build *b, const unsigned char *bytes, size_t size) {
    uint32_t mask = b->h.piece_slots - 1;
    for (uint32_t slot = piece_hash(bytes, size) & mask;; slot = (slot + 1) & mask) {
        int32_t id = b->piece_table[slot];
        if (id < 0)
            return -1;
        if (b->pieces[id].size == size && memcmp(b->pieces[id].bytes, bytes, size) == 0)
            return id;
    }
}

static void piece_insert(Build *b, int32_t id) {
    uint32_t mask = b->h.piece_slots - 1;
    uint32_t slot = piece_hash(b->pieces[id].bytes, b->pieces[id].size) & mask;
    while (b->piece_table[slot] >= 0)
        slot = (slot + 1) & mask;
    b->piece_table[slot] = id;
}

static uint32_t slots_for(int64_t count) {
    uint32_t slots = 16;
    while ((int64_t)slots < 2 * count)
        slots *= 2;
    return slots;
}

static bool vocabulary_read(Build *b, const cJSON *model) {
    const cJSON *vocab = get(model, "vocab");
    if (!cJSON_IsObject(vocab))
        return fail(b->err, ERR_CORRUPT, 902, "%s: model.vocab is no object", b->file);
    int64_t count = 0;
    for (const cJSON *item = vocab->child; item; item = item->next)
        count++;
    b->h.piece_slots = slots_for(count);
    b->piece_table = ARENA_NEW(b->arena, int32_t, b->h.piece_slots);
    memset(b->piece_table, 0xff, b->h.piece_slots * sizeof *b->piece_table);
    for (const cJSON *item = vocab->child; item; item = item->next) {
        int32_t id;
        TRY(id_valid(b, item, item->string, &id));
        Piece piece = piece_decode(b, item->string);
        if (b->pieces[id].bytes)
            return fail(b->err, ERR_CORRUPT, 903, "%s: two tokens have id %d", b->file, id);
        if (piece.size > MAX_PIECE_BYTES)
            return fail(b->err, ERR_CORRUPT, 904, "%s: token %d has %u bytes, at most %d are sane",
                        b->file, id, piece.size, MAX_PIECE_BYTES);
        b->pieces[id] = piece;
        piece_insert(b, id);
    }
    return true;
}

// ---- merges -------------------------------------------------------------------------------------

// "a b" or ["a", "b"].
static bool merge_parts(const Build *b, const cJSON *item, Piece *left, Piece *right) {
    if (cJSON_IsArray(item) && cJSON_IsString(item->child) && cJSON_IsString(item->child->next)) {
        *left = piece_decode(b, item->child->valuestring);
        *right = piece_decode(b, item->child->next->valuestring);
        return true;
    }
    const char *blank = cJSON_IsString(item) ? strchr(item->valuestring, ' ') : NULL;
    if (!blank)
        return false;
    size_t size = (size_t)(blank - item->valuestring);
    *left = piece_decode(b, arena_strndup(b->arena, item->valuestring, size));
    *right = piece_decode(b, blank + 1);
    return true;
}

static bool merge_add(Build *b, const cJSON *item, int32_t rank) {
    Piece left, right;
    if (!merge_parts(b, item, &left, &right))
        return fail(b->err, ERR_CORRUPT, 905, "%s: merge %d is neither \"a b\" nor [\"a\", \"b\"]",
                    b->file, rank);
    unsigned char *joined = arena_alloc(b->arena, (size_t)left.size + right.size + 1);
    memcpy(joined, left.bytes, left.size);
    memcpy(joined + left.size, right.bytes, right.size);
    MergeEntry m = {.left = piece_find(b, left.bytes, left.size),
                    .right = piece_find(b, right.bytes, right.size),
                    .rank = rank,
                    .id = piece_find(b, joined, (size_t)left.size + right.size)};
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return fail(b->err, ERR_CORRUPT, 906,
                    "%s: merge %d names a piece that is not in the vocabulary", b->file, rank);
    uint32_t mask = b->h.merge_slots - 1, slot = merge_hash(m.left, m.right) & mask;
    for (; b->merges[slot].id >= 0; slot = (slot + 1) & mask)
        if (b->merges[slot].left == m.left && b->merges[slot].right == m.right)
            break; // listed twice: tokenizers keeps the last
    b->merges[slot] = m;
    return true;
}

static bool merges_read(Build *b, const cJSON *model) {
    const cJSON *merges = get(model, "merges");
    if (!cJSON_IsArray(merges))
        return fail(b->err, ERR_CORRUPT, 907, "%s: model.merges is no array", b->file);
    b->h.merge_slots = slots_for(cJSON_GetArraySize(merges));
    b->merges = ARENA_NEW(b->arena, MergeEntry, b->h.merge_slots);
    memset(b->merges, 0xff, b->h.merge_slots * sizeof *b->merges);
    int32_t rank = 0;
    for (const cJSON *item = merges->child; item; item = item->next)
        TRY(merge_add(b, item, rank++));
    return true;
}

// ---- model --------------------------------------------------------------------------------------

static bool refuse(const Build *b, int id, const char *key, const char *found, const char *supported) {
    char name[120];
    text_escape(name, sizeof name, found, strlen(found));
    return fail(b->err, ERR_UNSUPPORTED, id, "%s: %s is \"%s\"; supported: %s", b->file, key, name,
                supported);
}

static bool model_read(Build *b, const cJSON *model) {
    const char *type = text_of(model, "type");
    if (!cJSON_IsObject(model))
        return fail(b->err, ERR_CORRUPT, 908, "%s: it has no model", b->file);
    if (strcmp(type, "BPE") != 0 && type[0])
        return refuse(b, 909, "model.type", type, "BPE");
    if (cJSON_IsTrue(get(model, "byte_fallback")))
        return refuse(b, 910, "model.byte_fallback", "true", "byte-level BPE without fallback");
    if (text_of(model, "continuing_subword_prefix")[0] || text_of(model, "end_of_word_suffix")[0])
        return refuse(b, 911, "model.continuing_subword_prefix or end_of_word_suffix", "set", "null");
    b->h.model = TOKENIZER_BYTE_BPE;
    b->h.ignore_merges = cJSON_IsTrue(get(model, "ignore_merges"));
    return vocabulary_read(b, model) && merges_read(b, model);
}

// ---- pre-tokenizer ------------------------------------------------------------------------------

typedef struct SplitPattern {
    const char *regex;
    SplitKind kind;
} SplitPattern;

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define WORDS_THEN(digits)                                                                         \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                                       \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const SplitPattern split_patterns[] = { // ORDER SPLITS
    {CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", SPLIT_GPT2},
    {"(?i:" CONTRACTIONS ")" WORDS_THEN("\\p{N}{1,3}"), SPLIT_LLAMA3},
    {"(?i:" CONTRACTIONS ")" WORDS_THEN("\\p{N}"), SPLIT_QWEN2},
};

static bool split_read(Build *b, const cJSON *step) {
    const char *regex = text_of(get(step, "pattern"), "Regex");
    const char *behavior = text_of(step, "behavior");
    if (strcmp(behavior, "Isolated") != 0 || cJSON_IsTrue(get(step, "invert")))
        return refuse(b, 912, "the Split's behavior", behavior, "Isolated, not inverted");
    for (size_t at = 0; at < sizeof split_patterns / sizeof *split_patterns; at++)
        if (strcmp(split_patterns[at].regex, regex) == 0) {
            b->h.split = split_patterns[at].kind;
            return true;
        }
    return refuse(b, 913, "the Split's pattern", regex, "the patterns of GPT-2, Llama 3 and Qwen 2");
}

static bool pre_tokenizer_step(Build *b, const cJSON *step, bool *byte_level) {
    const char *type = text_of(step, "type");
    if (strcmp(type, "Split") == 0)
        return split_read(b, step);
    if (strcmp(type, "ByteLevel") != 0)
        return refuse(b, 914, "pre_tokenizer.type", type, "Split, ByteLevel, a Sequence of them");
    *byte_level = true;
    if (cJSON_IsTrue(get(step, "add_prefix_space")))
        return refuse(b, 915, "pre_tokenizer.add_prefix_space", "true", "false");
    const cJSON *use_regex = get(step, "use_regex");
    if (!cJSON_IsFalse(use_regex)) {
        if (b->h.split != SPLIT_NONE)
            return refuse(b, 916, "pre_tokenizer", "Split, then ByteLevel with use_regex",
                          "one pattern");
        b->h.split = SPLIT_GPT2;
    }
    return true;
}

static bool pre_tokenizer_read(Build *b, const cJSON *json) {
    bool byte_level = false;
    if (strcmp(text_of(json, "type"), "Sequence") == 0) {
        for (const cJSON *step = cJSON_IsArray(get(json, "pretokenizers"))
                                     ? get(json, "pretokenizers")->child
                                     : NULL;
             step; step = step->next)
            TRY(pre_tokenizer_step(b, step, &byte_level));
    } else {
        TRY(pre_tokenizer_step(b, json, &byte_level));
    }
    if (!byte_level)
        return refuse(b, 917, "pre_tokenizer", "without ByteLevel", "byte-level BPE");
    return true;
}

// ---- normalizer, post-processor -----------------------------------------------------------------

static bool normalizer_read(Build *b, const cJSON *json) {
    if (!json || cJSON_IsNull(json))
        return true;
    return refuse(b, 918, "normalizer.type", text_of(json, "type"), "null");
}

// One entry of TemplateProcessing.single.
static bool template_entry(Build *b, const cJSON *root, const cJSON *entry, bool *behind) {
    const cJSON *special = get(entry, "SpecialToken");
    if (get(entry, "Sequence")) {
        *behind = true;
        return true;
    }
    const char *name = text_of(special, "id");
    const cJSON *ids = get(get(get(root, "special_tokens"), name), "ids");
    if (!special || !cJSON_IsArray(ids))
        return fail(b->err, ERR_CORRUPT, 919, "%s: post_processor names a special token without ids",
                    b->file);
    for (const cJSON *id = ids->child; id; id = id->next) {
        int32_t *count = *behind ? &b->h.suffix_count : &b->h.prefix_count;
        if (*count == TOKENIZER_MAX_TEMPLATE)
            return fail(b->err, ERR_UNSUPPORTED, 920, "%s: post_processor adds more than %d tokens",
                        b->file, TOKENIZER_MAX_TEMPLATE);
        TRY(id_valid(b, id, name, &(*behind ? b->h.suffix : b->h.prefix)[*count]));
        ++*count;
    }
    return true;
}

static bool post_processor_step(Build *b, const cJSON *step) {
    const char *type = text_of(step, "type");
    bool behind = false;
    if (strcmp(type, "ByteLevel") == 0) // changes offsets only
        return true;
    if (strcmp(type, "TemplateProcessing") != 0)
        return refuse(b, 921, "post_processor.type", type, "TemplateProcessing, ByteLevel");
    const cJSON *single = get(step, "single");
    for (const cJSON *entry = cJSON_IsArray(single) ? single->child : NULL; entry;
         entry = entry->next)
        TRY(template_entry(b, step, entry, &behind));
    return true;
}

static bool post_processor_read(Build *b, const cJSON *json) {
    if (!json || cJSON_IsNull(json))
        return true;
    if (strcmp(text_of(json, "type"), "Sequence") != 0)
        return post_processor_step(b, json);
    const cJSON *steps = get(json, "processors");
    for (const cJSON *step = cJSON_IsArray(steps) ? steps->child : NULL; step; step = step->next)
        TRY(post_processor_step(b, step));
    return true;
}

// ---- added tokens -------------------------------------------------------------------------------

// By first byte; the longest first, so that the first match is the longest.
static void added_insert(Build *b, AddedToken token) {
    const Piece *new = &b->pieces[token.id];
    int32_t at = b->h.added_count++;
    for (; at > 0; at--) {
        const Piece *old = &b->pieces[b->added[at - 1].id];
        if (old->bytes[0] < new->bytes[0] ||
            (old->bytes[0] == new->bytes[0] && old->size >= new->size))
            break;
        b->added[at] = b->added[at - 1];
    }
    b->added[at] = token;
}

static bool added_read(Build *b, const cJSON *list) {
    if (!cJSON_IsArray(list))
        return true;
    b->added = ARENA_NEW(b->arena, AddedToken, cJSON_GetArraySize(list));
    for (const cJSON *item = list->child; item; item = item->next) {
        int32_t id;
        const char *content = text_of(item, "content");
        TRY(id_valid(b, get(item, "id"), content, &id));
        if (!content[0])
            return fail(b->err, ERR_CORRUPT, 922, "%s: added token %d has no content", b->file, id);
        if (b->pieces[id].flags & TOKEN_ADDED)
            return fail(b->err, ERR_CORRUPT, 923, "%s: two added tokens have id %d", b->file, id);
        // An added token is written as text, not in the byte alphabet.
        b->pieces[id].bytes = (const unsigned char *)arena_strndup(b->arena, content, strlen(content));
        b->pieces[id].size = (uint32_t)strlen(content);
        b->pieces[id].flags =
            (uint8_t)(TOKEN_ADDED | (cJSON_IsTrue(get(item, "special")) ? TOKEN_SPECIAL : 0));
        added_insert(b, (AddedToken){
                            .id = id,
                            .flags = (cJSON_IsTrue(get(item, "lstrip")) ? ADDED_LSTRIP : 0u) |
                                     (cJSON_IsTrue(get(item, "rstrip")) ? ADDED_RSTRIP : 0u) |
                                     (cJSON_IsTrue(get(item, "single_word")) ? ADDED_SINGLE_WORD : 0u),
                        });
    }
    return true;
}

// ---- Unicode classes ----------------------------------------------------------------------------

// The White_Space property, which is not one of the general categories.
static bool is_space(int32_t code) {
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static uint8_t class_of(int32_t code) {
    utf8proc_category_t c = utf8proc_category(code);
    bool letter = c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
    bool number = c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
    bool mark = c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
    bool word = letter || mark || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_PC;
    return (uint8_t)((letter ? CLASS_LETTER : 0) | (number ? CLASS_NUMBER : 0) |
                     (is_space(code) ? CLASS_SPACE : 0) | (word ? CLASS_WORD : 0));
}

// Pages of 256 code points, equal ones stored once.
static uint8_t *classes_make(Build *b, uint16_t *index) {
    uint8_t *pages = arena_alloc(b->arena, TOKENIZER_CODE_POINTS), page[256];
    for (int32_t at = 0; at < TOKENIZER_CODE_POINTS / 256; at++) {
        for (int32_t i = 0; i < 256; i++)
            page[i] = class_of(at * 256 + i);
        uint32_t same = 0;
        while (same < b->h.class_pages && memcmp(pages + same * 256, page, 256) != 0)
            same++;
        if (same == b->h.class_pages)
            memcpy(pages + 256 * b->h.class_pages++, page, 256);
        index[at] = (uint16_t)same;
    }
    return pages;
}

// ---- the blob -----------------------------------------------------------------------------------

typedef struct Blob {
    Arena *arena;
    unsigned char *data;
    size_t size, room;
} Blob;

static uint64_t blob_add(Blob *out, const void *data, size_t size) {
    size_t at = (size_t)round_up(out->size, 8);
    if (at + size > out->room) {
        size_t room = 2 * (at + size);
        unsigned char *bigger = arena_alloc(out->arena, room);
        if (out->size)
            memcpy(bigger, out->data, out->size);
        out->data = bigger;
        out->room = room;
    }
    memcpy(out->data + at, data, size);
    out->size = at + size;
    return at;
}

static void pieces_add(Build *b, Blob *out) {
    size_t vocab = (size_t)b->h.vocab_size, size = 0;
    uint32_t *offsets = ARENA_NEW(b->arena, uint32_t, vocab + 1);
    uint8_t *flags = ARENA_NEW(b->arena, uint8_t, vocab);
    for (size_t id = 0; id < vocab; id++) {
        offsets[id] = (uint32_t)size;
        size += b->pieces[id].size;
        flags[id] = b->pieces[id].flags;
    }
    offsets[vocab] = (uint32_t)size;
    unsigned char *bytes = arena_alloc(b->arena, size + 1);
    for (size_t id = 0; id < vocab; id++)
        if (b->pieces[id].size)
            memcpy(bytes + offsets[id], b->pieces[id].bytes, b->pieces[id].size);
    b->h.piece_offsets = blob_add(out, offsets, (vocab + 1) * sizeof *offsets);
    b->h.pieces = blob_add(out, bytes, size);
    b->h.token_flags = blob_add(out, flags, vocab);
}

static Bytes blob_make(Build *b) {
    Blob out = {.arena = b->arena};
    uint16_t index[TOKENIZER_CODE_POINTS / 256];
    int32_t byte_ids[256], first[257] = {0};
    for (int byte = 0; byte < 256; byte++)
        byte_ids[byte] = piece_find(b, &(unsigned char){(unsigned char)byte}, 1);
    for (int32_t at = 0; at < b->h.added_count; at++)
        first[b->pieces[b->added[at].id].bytes[0] + 1]++;
    for (int byte = 0; byte < 256; byte++)
        first[byte + 1] += first[byte];
    uint8_t *classes = classes_make(b, index);
    blob_add(&out, &b->h, sizeof b->h);
    pieces_add(b, &out);
    b->h.byte_ids = blob_add(&out, byte_ids, sizeof byte_ids);
    b->h.merges = blob_add(&out, b->merges, b->h.merge_slots * sizeof *b->merges);
    b->h.piece_table = blob_add(&out, b->piece_table, b->h.piece_slots * sizeof *b->piece_table);
    b->h.added = blob_add(&out, b->added, (size_t)b->h.added_count * sizeof *b->added);
    b->h.added_first = blob_add(&out, first, sizeof first);
    b->h.class_index = blob_add(&out, index, sizeof index);
    b->h.classes = blob_add(&out, classes, 256 * (size_t)b->h.class_pages);
    b->h.size = out.size;
    memcpy(out.data, &b->h, sizeof b->h);
    return (Bytes){out.data, out.size};
}

static bool build(Build *b, const cJSON *json) {
    alphabet_make(b);
    b->added = ARENA_NEW(b->arena, AddedToken, 1);
    TRY(model_read(b, get(json, "model")));
    TRY(normalizer_read(b, get(json, "normalizer")));
    TRY(pre_tokenizer_read(b, get(json, "pre_tokenizer")));
    TRY(post_processor_read(b, get(json, "post_processor")));
    return added_read(b, get(json, "added_tokens"));
}

bool tokenizer_compile(const char *dir, int64_t vocab_size, Arena *a, Bytes *blob, Error *err) {
    cJSON *json;
    bool found;
    const char *path = arena_printf(a, "%s/tokenizer.json", dir);
    TRY(json_read(&json, &found, path, err));
    if (!found)
        return fail(err, ERR_CORRUPT, 924, "%s is missing (tokenizer.model alone is not supported)",
                    path);
    if (vocab_size < 1 || vocab_size > MAX_TOKENS)
        return fail(err, ERR_UNSUPPORTED, 925, "%s: vocab_size %lld of config.json; at most %d",
                    path, (long long)vocab_size, MAX_TOKENS);
    Build *b = ARENA_NEW(a, Build, 1);
    *b = (Build){.file = path, .arena = a, .err = err};
    b->h.magic = TOKENIZER_MAGIC;
    b->h.version = TOKENIZER_VERSION;
    b->h.vocab_size = (int32_t)vocab_size;
    b->pieces = ARENA_NEW(a, Piece, vocab_size);
    bool done = build(b, json);
    cJSON_Delete(json);
    if (done)
        *blob = blob_make(b);
    return done;
}

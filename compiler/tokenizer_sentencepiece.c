// tokenizer.model, a SentencePiece model, to what tokenizer.json would say: pieces, scores or
// merges, added tokens, and the settings that transformers gives to the tokenizer's class.
//
// A BPE of SentencePiece has scores instead of merges. The merges are all ways to cut a piece into
// two, best score first, as transformers' generate_merges orders them.
// Sources: SentencePiece's sentencepiece_model.proto; transformers 4, convert_slow_tokenizer.py
// (SpmConverter, LlamaConverter, GemmaConverter).
#include "tokenizer_build.h"

#include <stdlib.h>
#include <string.h>

// ---- protocol buffers ---------------------------------------------------------------------------

typedef enum WireType { WIRE_VARINT, WIRE_64, WIRE_BYTES, WIRE_32 = 5 } WireType;

typedef struct Field {
    uint32_t number;
    WireType type;
    uint64_t value; // numbers
    Bytes bytes;    // WIRE_BYTES
} Field;

typedef struct Message {
    Bytes rest;
    bool damaged;
} Message;

static uint64_t varint_read(Message *m) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (!m->rest.size)
            break;
        unsigned char byte = *m->rest.data++;
        m->rest.size--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    m->damaged = true;
    return 0;
}

static Bytes bytes_take(Message *m, uint64_t size) {
    Bytes taken = {m->rest.data, (size_t)size};
    if (size > m->rest.size) {
        m->damaged = true;
        return (Bytes){m->rest.data, 0};
    }
    m->rest.data += size;
    m->rest.size -= (size_t)size;
    return taken;
}

// The next field; false: the message ends here, or is damaged.
static bool field_next(Message *m, Field *f) {
    if (!m->rest.size)
        return false;
    uint64_t tag = varint_read(m);
    *f = (Field){.number = (uint32_t)(tag >> 3), .type = (WireType)(tag & 7)};
    if (f->type == WIRE_VARINT)
        f->value = varint_read(m);
    else if (f->type == WIRE_BYTES)
        f->bytes = bytes_take(m, varint_read(m));
    else if (f->type == WIRE_32 || f->type == WIRE_64) {
        Bytes fixed = bytes_take(m, f->type == WIRE_32 ? 4 : 8);
        if (fixed.size)
            memcpy(&f->value, fixed.data, fixed.size); // little-endian on both sides
    } else {
        m->damaged = true;
    }
    return !m->damaged;
}

// ---- the model ----------------------------------------------------------------------------------

enum { PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4 }; // SentencePiece.Type
enum { TRAINED_UNIGRAM = 1, TRAINED_BPE = 2 };                 // TrainerSpec.ModelType

typedef struct SpmPiece {
    const char *text;
    float score;
    uint32_t type;
} SpmPiece;

typedef struct Spm {
    SpmPiece *pieces;
    int32_t count, room;
    uint64_t model_type;
    bool byte_fallback, dummy_prefix, fewer_blanks;
    int32_t unknown_id, bos_id, eos_id;
    Bytes charsmap;
    bool damaged;
} Spm;

static const char *text_of(TokenizerBuild *b, const Field *f) {
    return arena_strndup(b->arena, (const char *)f->bytes.data, f->bytes.size);
}

static void piece_read(TokenizerBuild *b, Spm *s, Bytes bytes) {
    Message m = {bytes, false};
    SpmPiece piece = {.text = "", .type = 1};
    for (Field f; field_next(&m, &f);) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.type == WIRE_BYTES)
            piece.text = text_of(b, &f);
        if (f.number == 2 && f.type == WIRE_32)
            memcpy(&piece.score, &bits, sizeof bits);
        if (f.number == 3 && f.type == WIRE_VARINT)
            piece.type = bits;
    }
    s->damaged |= m.damaged;
    if (s->count == s->room) {
        int32_t room = s->room ? 2 * s->room : 4096;
        SpmPiece *bigger = ARENA_NEW(b->arena, SpmPiece, room);
        if (s->count)
            memcpy(bigger, s->pieces, (size_t)s->count * sizeof *bigger);
        s->pieces = bigger;
        s->room = room;
    }
    s->pieces[s->count++] = piece;
}

static void trainer_read(Spm *s, Bytes bytes) {
    Message m = {bytes, false};
    for (Field f; field_next(&m, &f);) {
        if (f.type != WIRE_VARINT)
            continue;
        if (f.number == 3)
            s->model_type = f.value;
        if (f.number == 35)
            s->byte_fallback = f.value;
        if (f.number == 40)
            s->unknown_id = (int32_t)f.value;
        if (f.number == 41)
            s->bos_id = (int32_t)f.value;
        if (f.number == 42)
            s->eos_id = (int32_t)f.value;
    }
    s->damaged |= m.damaged;
}

static void normalizer_spec_read(Spm *s, Bytes bytes) {
    Message m = {bytes, false};
    for (Field f; field_next(&m, &f);) {
        if (f.number == 2 && f.type == WIRE_BYTES)
            s->charsmap = f.bytes;
        if (f.number == 3 && f.type == WIRE_VARINT)
            s->dummy_prefix = f.value;
        if (f.number == 4 && f.type == WIRE_VARINT)
            s->fewer_blanks = f.value;
    }
    s->damaged |= m.damaged;
}

static bool model_parse(TokenizerBuild *b, Spm *s, Bytes bytes) {
    Message m = {bytes, false};
    *s = (Spm){.model_type = TRAINED_UNIGRAM,
               .dummy_prefix = true,
               .fewer_blanks = true,
               .bos_id = 1,
               .eos_id = 2};
    for (Field f; s->count < MAX_TOKENS && field_next(&m, &f);) {
        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == 1)
            piece_read(b, s, f.bytes);
        if (f.number == 2)
            trainer_read(s, f.bytes);
        if (f.number == 3)
            normalizer_spec_read(s, f.bytes);
    }
    if (s->damaged || m.damaged || !s->count)
        return fail(b->err, ERR_CORRUPT, 991, "%s: it is no SentencePiece model, or a damaged one",
                    b->file);
    if (s->model_type != TRAINED_BPE && s->model_type != TRAINED_UNIGRAM)
        return refuse(b, 992, "model_type", s->model_type == 3 ? "WORD" : "CHAR", "BPE, UNIGRAM");
    return true;
}

// ---- merges from scores -------------------------------------------------------------------------

typedef struct SpmMerge {
    float score;
    int32_t left_length, right_length; // characters
    int32_t order;                     // as found
    MergeEntry entry;
} SpmMerge;

typedef struct SpmMerges {
    SpmMerge *items;
    int32_t count, room;
} SpmMerges;

static void merge_push(TokenizerBuild *b, SpmMerges *m, SpmMerge merge) {
    if (m->count == m->room) {
        int32_t room = m->room ? 2 * m->room : 1 << 16;
        SpmMerge *bigger = ARENA_NEW(b->arena, SpmMerge, room);
        if (m->count)
            memcpy(bigger, m->items, (size_t)m->count * sizeof *bigger);
        m->items = bigger;
        m->room = room;
    }
    merge.order = m->count;
    m->items[m->count++] = merge;
}

// The ways to cut one piece, by the ids of their parts.
static int by_parts(const void *left, const void *right) {
    const MergeEntry *l = &((const SpmMerge *)left)->entry, *r = &((const SpmMerge *)right)->entry;
    if (l->left != r->left)
        return l->left < r->left ? -1 : 1;
    return (l->right > r->right) - (l->right < r->right);
}

// Best score, then longest parts first.
static int by_score(const void *left, const void *right) {
    const SpmMerge *l = left, *r = right;
    if (l->score < r->score || l->score > r->score)
        return l->score > r->score ? -1 : 1;
    if (l->left_length != r->left_length)
        return l->left_length > r->left_length ? -1 : 1;
    if (l->right_length != r->right_length)
        return l->right_length > r->right_length ? -1 : 1;
    return (l->order > r->order) - (l->order < r->order);
}

static int32_t part_find(const TokenizerBuild *b, const unsigned char *bytes, size_t size) {
    return piece_find(b, (Piece){.bytes = bytes, .size = (uint32_t)size, .in_model = true});
}

static void piece_cut(TokenizerBuild *b, SpmMerges *m, int32_t id) {
    const Piece *p = &b->pieces[id];
    int32_t length = 0, all = 0, first = m->count;
    for (uint32_t at = 0; at < p->size; at++)
        all += (p->bytes[at] & 0xc0) != 0x80;
    for (uint32_t at = 0; at < p->size; at++) {
        if ((p->bytes[at] & 0xc0) == 0x80)
            continue;
        int32_t left = at ? part_find(b, p->bytes, at) : -1;
        int32_t right = left >= 0 ? part_find(b, p->bytes + at, p->size - at) : -1;
        if (right >= 0)
            merge_push(b, m,
                       (SpmMerge){.score = (float)p->score,
                                  .left_length = length,
                                  .right_length = all - length,
                                  .entry = {.left = left, .right = right, .id = id}});
        length++;
    }
    if (m->count - first < 2)
        return;
    qsort(m->items + first, (size_t)(m->count - first), sizeof *m->items, by_parts);
    for (int32_t at = first; at < m->count; at++)
        m->items[at].order = at;
}

static void merges_make(TokenizerBuild *b, int32_t count) {
    SpmMerges m = {NULL, 0, 0};
    for (int32_t id = 0; id < count; id++)
        piece_cut(b, &m, id);
    if (m.count)
        qsort(m.items, (size_t)m.count, sizeof *m.items, by_score);
    merges_open(b, m.count);
    for (int32_t rank = 0; rank < m.count; rank++) {
        m.items[rank].entry.rank = rank;
        merge_insert(b, m.items[rank].entry);
    }
}

// ---- what transformers makes of it --------------------------------------------------------------

typedef enum SpmClass { SPM_LLAMA, SPM_GEMMA, SPM_PLAIN } SpmClass;

// The class decides on blanks. Without one it is Llama's.
static SpmClass class_of(const cJSON *config) {
    const char *name = member_text(config, "tokenizer_class");
    if (strncmp(name, "Gemma", 5) == 0)
        return SPM_GEMMA;
    return !name[0] || strncmp(name, "Llama", 5) == 0 || strncmp(name, "PreTrained", 10) == 0
               ? SPM_LLAMA
               : SPM_PLAIN;
}

#define REPLACE(from, to) \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define META              "\xe2\x96\x81"
#define PREPEND           "{\"type\":\"Prepend\",\"prepend\":\"" META "\"},"
#define NORMALIZERS(list) "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" list "]},"
#define DECODERS(more)                                           \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" REPLACE( \
        META, " ") ",{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}" more "]}"
#define STRIP ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define METASPACE(scheme)                                               \
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" META \
    "\",\"prepend_scheme\":\"" scheme "\",\"split\":false},"
#define FEWER                                                                              \
    "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"Replace\"," \
    "\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"},"

static const char *llama_settings(const cJSON *config) {
    bool prefix = !cJSON_IsFalse(member(config, "add_prefix_space"));
    if (!cJSON_IsFalse(member(config, "legacy"))) // legacy: a blank before each part of a text
        return prefix ? "{" NORMALIZERS(PREPEND REPLACE(" ", META)) DECODERS(STRIP) "}"
                      : "{" NORMALIZERS(REPLACE(" ", META)) DECODERS("") "}";
    return prefix ? "{" METASPACE("first") DECODERS(STRIP) "}"
                  : "{" METASPACE("never") DECODERS("") "}";
}

// SentencePiece's own settings, for classes that transformers does not know.
static const char *plain_settings(const Spm *s) {
    static const char *const settings[2][2] = {
        {"{" NORMALIZERS(REPLACE(" ", META)) DECODERS("") "}",
         "{" NORMALIZERS(FEWER REPLACE(" ", META)) DECODERS("") "}"},
        {"{" NORMALIZERS(PREPEND REPLACE(" ", META)) DECODERS(STRIP) "}",
         "{" NORMALIZERS(FEWER PREPEND REPLACE(" ", META)) DECODERS(STRIP) "}"}};
    return settings[s->dummy_prefix][s->fewer_blanks];
}

static const char gemma_settings[] = "{" NORMALIZERS(
    REPLACE(" ", META)) "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
                        "{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\"}," DECODERS("") "}";

// Gemma's first models have no piece for a tab but its byte.
static void tab_restore(Spm *s) {
    int32_t tab = -1;
    for (int32_t id = 0; id < s->count; id++) {
        if (strcmp(s->pieces[id].text, "\t") == 0)
            return;
        if (strcmp(s->pieces[id].text, "<0x09>") == 0)
            tab = id;
    }
    if (tab >= 0)
        s->pieces[tab] = (SpmPiece){"\t", 0, 1};
}

static bool pieces_read(TokenizerBuild *b, const Spm *s, SpmClass class) {
    TRY(pieces_open(b, s->count));
    for (int32_t id = 0; id < s->count; id++) {
        bool named = class != SPM_PLAIN && id < 3; // these come without their scores
        TRY(piece_add(b, id, s->pieces[id].text, named ? 0 : (double)s->pieces[id].score));
    }
    return true;
}

static bool added_pieces_read(TokenizerBuild *b, const Spm *s) {
    for (int32_t id = 0; id < s->count; id++) {
        const SpmPiece *p = &s->pieces[id];
        bool special = p->type == PIECE_CONTROL || p->type == PIECE_UNKNOWN ||
                       strcmp(p->text, "<start_of_turn>") == 0 ||
                       strcmp(p->text, "<end_of_turn>") == 0;
        if (p->type >= PIECE_UNKNOWN && p->type <= PIECE_USER)
            TRY(added_put(b, (Added){.content = p->text,
                                     .flags = special ? ADDED_SPECIAL : 0,
                                     .normalized = false}));
    }
    return true;
}

static const char *piece_text(const Spm *s, int32_t id) {
    return id >= 0 && id < s->count ? s->pieces[id].text : NULL;
}

bool spm_read(TokenizerBuild *b, Bytes model, const cJSON *config, const char **settings) {
    Spm s;
    SpmClass class = class_of(config);
    TRY(model_parse(b, &s, model));
    if (class == SPM_GEMMA)
        tab_restore(&s);
    b->byte_fallback = class != SPM_PLAIN || s.byte_fallback;
    b->h.flags |= MODEL_FUSE_UNKNOWN;
    b->h.model = s.model_type == TRAINED_BPE ? TOKENIZER_BPE : TOKENIZER_UNIGRAM;
    b->h.unknown_id = s.unknown_id >= 0 && s.unknown_id < s.count ? s.unknown_id : -1;
    TRY(pieces_read(b, &s, class));
    if (s.model_type == TRAINED_BPE)
        merges_make(b, s.count);
    else
        merges_open(b, 0);
    b->bos = piece_text(&s, s.bos_id);
    b->eos = piece_text(&s, s.eos_id);
    b->unknown = piece_text(&s, s.unknown_id);
    b->default_bos = true;
    *settings = class == SPM_GEMMA   ? gemma_settings
                : class == SPM_LLAMA ? llama_settings(config)
                                     : plain_settings(&s);
    Node node = {.path = "normalizer_spec"};
    if (class == SPM_PLAIN && s.charsmap.size)
        TRY(charsmap_add(b, &node, s.charsmap));
    return added_pieces_read(b, &s);
}

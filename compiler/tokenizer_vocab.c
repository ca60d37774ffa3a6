// The model of tokenizer.json: BPE (pieces and merges) and Unigram (pieces and scores).
//
// Byte-level pieces are stored as the bytes that they stand for, not in the alphabet of printable
// characters that GPT-2 gave to bytes and that the file uses.
// Source: Hugging Face tokenizers, models/{bpe,unigram}.
#include "tokenizer_build.h"

#include <math.h>
#include <string.h>
#include <utf8proc.h>

// ---- the byte alphabet --------------------------------------------------------------------------

// GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the rest for U+0100 and up.
void alphabet_make(TokenizerBuild *b) {
    for (size_t at = 0; at < sizeof b->byte_of / sizeof *b->byte_of; at++)
        b->byte_of[at] = -1;
    int next = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        b->byte_of[plain ? byte : next++] = byte;
    }
}

// The bytes of a piece written in the alphabet. A piece with a character outside of it stands for
// itself, and the model cannot find it.
Piece piece_decode(const TokenizerBuild *b, const char *text) {
    size_t size = strlen(text), used = 0;
    Piece plain = {.bytes = (const unsigned char *)arena_strndup(b->arena, text, size),
                   .size = (uint32_t)size,
                   .in_model = !(b->h.flags & MODEL_BYTE_LEVEL)};
    if (plain.in_model)
        return plain;
    unsigned char *bytes = arena_alloc(b->arena, size + 1);
    for (size_t at = 0; at < size;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                                                   (utf8proc_ssize_t)(size - at), &code);
        if (length <= 0 || code >= 0x144 || b->byte_of[code] < 0)
            return plain;
        bytes[used++] = (unsigned char)b->byte_of[code];
        at += (size_t)length;
    }
    return (Piece){.bytes = bytes, .size = (uint32_t)used, .in_model = true};
}

// ---- pieces -------------------------------------------------------------------------------------

// Where a piece is or belongs. One inside and one outside of the byte alphabet may have the same
// bytes; they are two.
static PieceSlot *piece_slot(const TokenizerBuild *b, const Piece *p, uint32_t hash) {
    uint32_t mask = b->h.piece_slots - 1, slot = hash & mask;
    for (; b->piece_table[slot].id >= 0; slot = (slot + 1) & mask) {
        const Piece *old = &b->pieces[b->piece_table[slot].id];
        if (b->piece_table[slot].hash == hash && old->in_model == p->in_model &&
            old->size == p->size && memcmp(old->bytes, p->bytes, p->size) == 0)
            break;
    }
    return &b->piece_table[slot];
}

int32_t piece_find(const TokenizerBuild *b, Piece piece) {
    return piece_slot(b, &piece, piece_hash(piece.bytes, piece.size))->id;
}

static int32_t bytes_find(const TokenizerBuild *b, const unsigned char *bytes, size_t size) {
    return piece_find(b, (Piece){.bytes = bytes, .size = (uint32_t)size, .in_model = true});
}

uint32_t slots_for(int64_t count) {
    uint32_t slots = 16;
    while (3 * (int64_t)slots < 5 * count)
        slots *= 2;
    return slots;
}

bool pieces_open(TokenizerBuild *b, int64_t count) {
    if (count < 1 || count > MAX_TOKENS)
        return fail(b->err, ERR_CORRUPT, 904,
                    "%s: the vocabulary has %lld tokens, expected 1 to %d", b->file,
                    (long long)count, MAX_TOKENS);
    b->h.piece_slots = slots_for(count);
    b->piece_table = ARENA_NEW(b->arena, PieceSlot, b->h.piece_slots);
    memset(b->piece_table, 0xff, b->h.piece_slots * sizeof *b->piece_table);
    return true;
}

bool piece_add(TokenizerBuild *b, double id, const char *text, double score) {
    char name[80];
    text_escape(name, sizeof name, text, strlen(text));
    if (!(id >= 0 && id < (double)b->h.vocab_size) || id != (double)(int32_t)id)
        return fail(b->err, ERR_CORRUPT, 901,
                    "%s: token \"%s\" has id %g, expected 0 to %d (vocab_size of config.json)",
                    b->file, name, id, b->h.vocab_size - 1);
    Piece piece = piece_decode(b, text);
    Piece *place = &b->pieces[(int32_t)id];
    if (place->bytes)
        return fail(b->err, ERR_CORRUPT, 903, "%s: two tokens have id %d", b->file, (int)id);
    if (piece.size > MAX_PIECE_BYTES)
        return fail(b->err, ERR_CORRUPT, 902, "%s: token %d has %u bytes, at most %d are sane",
                    b->file, (int)id, piece.size, MAX_PIECE_BYTES);
    if (!isfinite(score))
        return fail(b->err, ERR_CORRUPT, 909, "%s: token %d has a score that is no number", b->file,
                    (int)id);
    piece.score = score;
    piece.flags = TOKEN_EXISTS;
    *place = piece;
    b->model_tokens = (int64_t)id + 1 > b->model_tokens ? (int64_t)id + 1 : b->model_tokens;
    b->model_count++;
    uint32_t hash = piece_hash(piece.bytes, piece.size);
    *piece_slot(b, &piece, hash) = (PieceSlot){(int32_t)id, hash}; // of equal pieces the last one
    return true;
}

// ---- BPE ----------------------------------------------------------------------------------------

void merges_open(TokenizerBuild *b, int64_t count) {
    b->h.merge_slots = slots_for(count);
    b->merges = ARENA_NEW(b->arena, MergeEntry, b->h.merge_slots);
    memset(b->merges, 0xff, b->h.merge_slots * sizeof *b->merges);
}

// Listed twice: tokenizers keeps the last.
void merge_insert(TokenizerBuild *b, MergeEntry m) {
    uint32_t mask = b->h.merge_slots - 1, slot = merge_hash(m.left, m.right) & mask;
    while (b->merges[slot].id >= 0 &&
           (b->merges[slot].left != m.left || b->merges[slot].right != m.right))
        slot = (slot + 1) & mask;
    b->merges[slot] = m;
}

// "a b" or ["a", "b"].
static bool merge_parts(const TokenizerBuild *b, const cJSON *item, Piece *left, Piece *right) {
    if (cJSON_IsArray(item) && cJSON_IsString(item->child) && cJSON_IsString(item->child->next) &&
        !item->child->next->next) {
        *left = piece_decode(b, item->child->valuestring);
        *right = piece_decode(b, item->child->next->valuestring);
        return true;
    }
    const char *blank = cJSON_IsString(item) ? strchr(item->valuestring, ' ') : NULL;
    if (!blank || strchr(blank + 1, ' '))
        return false;
    size_t size = (size_t)(blank - item->valuestring);
    *left = piece_decode(b, arena_strndup(b->arena, item->valuestring, size));
    *right = piece_decode(b, blank + 1);
    return true;
}

// A merge of pieces outside of the byte alphabet can never happen.
static bool merge_add(TokenizerBuild *b, const cJSON *item, int32_t rank) {
    Piece left, right;
    if (!merge_parts(b, item, &left, &right))
        return fail(b->err, ERR_CORRUPT, 905,
                    "%s: model.merges[%d] is neither \"a b\" nor [\"a\", \"b\"]", b->file, rank);
    if (!left.in_model || !right.in_model)
        return true;
    unsigned char *joined = arena_alloc(b->arena, (size_t)left.size + right.size + 1);
    memcpy(joined, left.bytes, left.size);
    memcpy(joined + left.size, right.bytes, right.size);
    MergeEntry m = {.left = piece_find(b, left),
                    .right = piece_find(b, right),
                    .rank = rank,
                    .id = bytes_find(b, joined, (size_t)left.size + right.size)};
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return fail(b->err, ERR_CORRUPT, 906,
                    "%s: model.merges[%d] names a piece that is not in the vocabulary", b->file,
                    rank);
    merge_insert(b, m);
    return true;
}

static bool bpe_pieces_read(TokenizerBuild *b, const cJSON *vocab) {
    if (!cJSON_IsObject(vocab))
        return fail(b->err, ERR_CORRUPT, 907, "%s: model.vocab is no object", b->file);
    TRY(pieces_open(b, cJSON_GetArraySize(vocab)));
    for (const cJSON *item = vocab->child; item; item = item->next)
        TRY(piece_add(b, cJSON_IsNumber(item) ? item->valuedouble : -1, item->string, 0));
    return true;
}

static bool bpe_merges_read(TokenizerBuild *b, const cJSON *merges) {
    if (!cJSON_IsArray(merges))
        return fail(b->err, ERR_CORRUPT, 910, "%s: model.merges is no array", b->file);
    merges_open(b, cJSON_GetArraySize(merges));
    int32_t rank = 0;
    for (const cJSON *item = merges->child; item; item = item->next)
        if (!cJSON_IsString(item) || strncmp(item->valuestring, "#version", 8) != 0)
            TRY(merge_add(b, item, rank++));
    return true;
}

static bool bpe_unknown_read(TokenizerBuild *b, const cJSON *model) {
    const char *text = member_text(model, "unk_token");
    b->h.unknown_id = -1;
    if (!text[0])
        return true;
    Piece piece = piece_decode(b, text);
    // Not found: an error of tokenizers as soon as a text needs it.
    b->h.unknown_id = piece_find(b, piece);
    return true;
}

static bool bpe_read(TokenizerBuild *b, const cJSON *model) {
    const cJSON *dropout = member(model, "dropout");
    if (dropout && !(cJSON_IsNumber(dropout) && dropout->valuedouble == 0))
        return refuse(b, 911, "model.dropout", "set", "null");
    const char *parts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int at = 0; at < 2; at++)
        if (member_text(model, parts[at])[0])
            return refuse(b, 912, arena_printf(b->arena, "model.%s", parts[at]),
                          member_text(model, parts[at]), "null");
    b->h.model = TOKENIZER_BPE;
    b->h.flags |= member_true(model, "ignore_merges") ? MODEL_IGNORE_MERGES : 0u;
    b->h.flags |= member_true(model, "fuse_unk") ? MODEL_FUSE_UNKNOWN : 0u;
    b->byte_fallback = member_true(model, "byte_fallback");
    return bpe_pieces_read(b, member(model, "vocab")) &&
           bpe_merges_read(b, member(model, "merges")) && bpe_unknown_read(b, model);
}

// ---- Unigram ------------------------------------------------------------------------------------

static bool unigram_read(TokenizerBuild *b, const cJSON *model) {
    const cJSON *vocab = member(model, "vocab"), *unknown = member(model, "unk_id");
    if (!cJSON_IsArray(vocab))
        return fail(b->err, ERR_CORRUPT, 913, "%s: model.vocab is no array", b->file);
    if (b->h.flags & MODEL_BYTE_LEVEL)
        return refuse(b, 914, "model.type with a ByteLevel pre_tokenizer", "Unigram", "BPE");
    b->h.model = TOKENIZER_UNIGRAM;
    b->byte_fallback = member_true(model, "byte_fallback");
    merges_open(b, 0);
    TRY(pieces_open(b, cJSON_GetArraySize(vocab)));
    int32_t id = 0;
    for (const cJSON *item = vocab->child; item; item = item->next, id++) {
        const cJSON *text = item->child, *score = text ? text->next : NULL;
        if (!cJSON_IsArray(item) || !cJSON_IsString(text) || !cJSON_IsNumber(score))
            return fail(b->err, ERR_CORRUPT, 915, "%s: model.vocab[%d] is not [\"piece\", score]",
                        b->file, id);
        TRY(piece_add(b, id, text->valuestring, score->valuedouble));
    }
    b->h.unknown_id = -1;
    if (!unknown)
        return true;
    if (!cJSON_IsNumber(unknown) || !(unknown->valuedouble >= 0 && unknown->valuedouble < id))
        return fail(b->err, ERR_CORRUPT, 916, "%s: model.unk_id is not in the vocabulary", b->file);
    b->h.unknown_id = (int32_t)unknown->valuedouble;
    return true;
}

bool model_read(TokenizerBuild *b, const cJSON *model) {
    const char *type = member_text(model, "type");
    if (!cJSON_IsObject(model))
        return fail(b->err, ERR_CORRUPT, 908, "%s: it has no model", b->file);
    if (strcmp(type, "Unigram") == 0)
        return unigram_read(b, model);
    if (strcmp(type, "BPE") != 0 && (type[0] || !member(model, "merges")))
        return refuse(b, 917, "model.type", type, "BPE, Unigram");
    return bpe_read(b, model);
}

// ---- what follows from the pieces ---------------------------------------------------------------

// Tokens <0xNN>; MODEL_BYTE_LEVEL: tokens of single bytes.
static bool byte_ids_make(TokenizerBuild *b) {
    int32_t ids[256];
    int missing = 0;
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        ids[byte] = b->h.flags & MODEL_BYTE_LEVEL
                        ? bytes_find(b, &(unsigned char){(unsigned char)byte}, 1)
                        : bytes_find(b, (unsigned char *)name, 6);
        missing += ids[byte] < 0;
    }
    if (b->byte_fallback && b->h.flags & MODEL_BYTE_LEVEL && missing)
        return refuse(b, 918, "model.byte_fallback", "true",
                      "false with a ByteLevel pre_tokenizer whose alphabet is not whole");
    if (b->byte_fallback && !(b->h.flags & MODEL_BYTE_LEVEL))
        b->h.flags |= MODEL_BYTE_FALLBACK;
    b->h.byte_ids = blob_add(b, ids, sizeof ids);
    return true;
}

// Marks the bytes that stand before a U+2581 in a piece that a merge makes.
static void cuts_mark(const Piece *p, uint8_t cuts[256]) {
    for (uint32_t at = 1; at + 3 <= p->size; at++)
        if (memcmp(p->bytes + at, "\xe2\x96\x81", 3) == 0)
            cuts[p->bytes[at - 1]] = 0;
}

// Without a pre-tokenizer a whole text is one word. Where no merge makes a piece with "x" before
// U+2581 inside, the text can be cut there without any difference, and short words are faster.
static void cuts_make(TokenizerBuild *b) {
    uint8_t cuts[256];
    memset(cuts, 1, sizeof cuts);
    bool useful = b->h.model == TOKENIZER_BPE && !(b->h.flags & MODEL_BYTE_LEVEL) &&
                  bytes_find(b, (const unsigned char *)"\xe2\x96\x81", 3) >= 0;
    for (uint32_t slot = 0; useful && slot < b->h.merge_slots; slot++)
        if (b->merges[slot].id >= 0)
            cuts_mark(&b->pieces[b->merges[slot].id], cuts);
    if (useful)
        b->h.flags |= MODEL_CUT_SPACES;
    b->h.cuts = blob_add(b, cuts, sizeof cuts);
}

static void unigram_finish(TokenizerBuild *b) {
    size_t count = (size_t)b->model_tokens;
    TrieKey *keys = ARENA_NEW(b->arena, TrieKey, count);
    double *scores = ARENA_NEW(b->arena, double, b->h.vocab_size), least = (double)INFINITY;
    for (size_t id = 0; id < count; id++) {
        const Piece *p = &b->pieces[id];
        keys[id] = (TrieKey){p->bytes, p->size, (int32_t)id};
        scores[id] = p->score;
        least = p->score < least ? p->score : least;
    }
    b->h.unknown_score = least - 10; // K_UNK_PENALTY
    b->h.scores = blob_add(b, scores, (size_t)b->h.vocab_size * sizeof *scores);
    b->h.vocabulary = trie_make(b, keys, count);
}

bool model_finish(TokenizerBuild *b) {
    TRY(byte_ids_make(b));
    cuts_make(b);
    if (b->h.model == TOKENIZER_UNIGRAM)
        unigram_finish(b);
    return true;
}

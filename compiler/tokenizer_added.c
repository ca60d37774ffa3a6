// Added tokens: of tokenizer.json, then what transformers adds when it loads a tokenizer:
// added_tokens_decoder, added_tokens.json, special_tokens_map.json and the named tokens of
// tokenizer_config.json; and add_bos_token, add_eos_token.
//
// Sources: Hugging Face tokenizers, tokenizer/added_vocabulary.rs (add_tokens); transformers 5,
// tokenization_utils_base.py (_from_pretrained), tokenization_utils_tokenizers.py (__init__,
// _post_init, update_post_processor).
#include "tokenizer_build.h"

#include <stdlib.h>
#include <string.h>

// ---- one token ----------------------------------------------------------------------------------

static Added *added_find(const TokenizerBuild *b, const char *content) {
    uint32_t mask = b->added_slots - 1, slot;
    slot = piece_hash((const unsigned char *)content, strlen(content)) & mask;
    for (; b->added_table[slot]; slot = (slot + 1) & mask)
        if (strcmp(b->added[b->added_table[slot] - 1].content, content) == 0)
            return &b->added[b->added_table[slot] - 1];
    return NULL;
}

static int32_t id_find(const TokenizerBuild *b, const char *content) {
    const Added *a = added_find(b, content);
    return a ? a->id : piece_find(b, piece_decode(b, content));
}

static bool added_grow(TokenizerBuild *b) {
    if (b->added_count == MAX_ADDED)
        return fail(b->err, ERR_CORRUPT, 919, "%s: more than %d added tokens", b->file, MAX_ADDED);
    if (b->added_count < b->added_room)
        return true;
    int room = b->added_room ? 2 * b->added_room : 64;
    Added *bigger = ARENA_NEW(b->arena, Added, room);
    if (b->added_count)
        memcpy(bigger, b->added, (size_t)b->added_count * sizeof *bigger);
    b->added = bigger;
    b->added_room = room;
    b->added_slots = slots_for(room);
    b->added_table = ARENA_NEW(b->arena, int32_t, b->added_slots);
    for (int at = 0; at < b->added_count; at++) {
        const char *content = b->added[at].content;
        uint32_t slot = piece_hash((const unsigned char *)content, strlen(content));
        for (slot &= b->added_slots - 1; b->added_table[slot]; slot = (slot + 1) % b->added_slots)
            ;
        b->added_table[slot] = at + 1;
    }
    return true;
}

bool added_put(TokenizerBuild *b, Added token) {
    if (!token.content[0])
        return true; // tokenizers leaves it out
    TRY(added_grow(b));
    Added *old = added_find(b, token.content);
    if (old) {
        token.id = old->id;
        token.content = old->content;
        *old = token;
        return true;
    }
    token.id = id_find(b, token.content);
    if (token.id < 0)
        token.id = (int32_t)(b->added_next > b->model_count ? b->added_next : b->model_count);
    token.content = arena_strndup(b->arena, token.content, strlen(token.content));
    b->added_next = token.id + 1 > b->added_next ? token.id + 1 : b->added_next;
    uint32_t slot = piece_hash((const unsigned char *)token.content, strlen(token.content));
    for (slot &= b->added_slots - 1; b->added_table[slot]; slot = (slot + 1) % b->added_slots)
        ;
    b->added[b->added_count++] = token;
    b->added_table[slot] = b->added_count;
    return true;
}

// {"content": ..., "lstrip": ..., ...}; `normalized` is by default what `special` is not.
static Added added_from(const cJSON *item) {
    const cJSON *normalized = member(item, "normalized");
    Added token = {.content = member_text(item, "content")};
    bool special = member_true(item, "special");
    token.flags = (member_true(item, "lstrip") ? ADDED_LSTRIP : 0u) |
                  (member_true(item, "rstrip") ? ADDED_RSTRIP : 0u) |
                  (member_true(item, "single_word") ? ADDED_SINGLE_WORD : 0u) |
                  (special ? ADDED_SPECIAL : 0u);
    token.normalized = normalized ? cJSON_IsTrue(normalized) : !special;
    return token;
}

bool added_read(TokenizerBuild *b, const cJSON *list) {
    if (list && !cJSON_IsArray(list))
        return fail(b->err, ERR_CORRUPT, 920, "%s: added_tokens is no array", b->file);
    int at = 0;
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next, at++) {
        if (!cJSON_IsObject(item) || !cJSON_IsString(member(item, "content")))
            return fail(b->err, ERR_CORRUPT, 922, "%s: added_tokens[%d] has no content", b->file,
                        at);
        TRY(added_put(b, added_from(item)));
    }
    return true;
}

// ---- tokenizer_config.json ----------------------------------------------------------------------

typedef struct Indexed {
    long index;
    const cJSON *item;
} Indexed;

static int by_index(const void *left, const void *right) {
    const Indexed *l = left, *r = right;
    return (l->index > r->index) - (l->index < r->index);
}

// added_tokens_decoder: {"32000": {"content": ...}}, in the order of the numbers.
static bool decoder_apply(TokenizerBuild *b, const cJSON *decoder) {
    int count = cJSON_GetArraySize(decoder), at = 0;
    Indexed *list = ARENA_NEW(b->arena, Indexed, count + 1);
    for (const cJSON *item = decoder->child; item; item = item->next)
        list[at++] = (Indexed){strtol(item->string, NULL, 10), item};
    qsort(list, (size_t)count, sizeof *list, by_index);
    for (at = 0; at < count; at++) {
        Added token = added_from(list[at].item);
        token.described = true;
        TRY(added_put(b, token));
    }
    return true;
}

static const char *token_content(const cJSON *item) {
    return cJSON_IsString(item) ? item->valuestring : member_text(item, "content");
}

// A named token: special from now on. A plain string takes its settings from where it is described.
static bool named_apply(TokenizerBuild *b, const cJSON *item, bool decoder) {
    const char *content = token_content(item);
    if (!content[0])
        return true;
    const Added *known = added_find(b, content);
    Added token = {.content = content};
    if (known && (known->described || !decoder))
        token = *known;
    else if (cJSON_IsObject(item))
        token = added_from(item);
    token.flags |= ADDED_SPECIAL;
    return added_put(b, token);
}

static bool is_named(const cJSON *item) {
    size_t size = item->string ? strlen(item->string) : 0;
    return size > 6 && strcmp(item->string + size - 6, "_token") == 0 &&
           (cJSON_IsString(item) || cJSON_IsObject(item));
}

// decoder: added_tokens_decoder says what the tokens are.
static bool names_apply(TokenizerBuild *b, const cJSON *config, bool decoder) {
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    for (const cJSON *item = config ? config->child : NULL; item; item = item->next)
        if (is_named(item))
            TRY(named_apply(b, item, decoder));
    for (int at = 0; at < 2; at++) {
        const cJSON *list = member(config, lists[at]);
        for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
            TRY(named_apply(b, item, decoder));
    }
    return true;
}

static bool names_hold(const cJSON *names, const char *content) {
    for (const cJSON *item = names ? names->child : NULL; item; item = item->next) {
        if (strcmp(token_content(item), content) == 0)
            return true;
        for (const cJSON *one = cJSON_IsArray(item) ? item->child : NULL; one; one = one->next)
            if (strcmp(token_content(one), content) == 0)
                return true;
    }
    return false;
}

// added_tokens.json: {"<content>": id}, in the order of the numbers, which count for nothing else.
static bool legacy_apply(TokenizerBuild *b, const cJSON *tokens, const cJSON *names) {
    int count = tokens ? cJSON_GetArraySize(tokens) : 0, at = 0;
    Indexed *list = ARENA_NEW(b->arena, Indexed, count + 1);
    for (const cJSON *item = tokens ? tokens->child : NULL; item; item = item->next)
        list[at++] = (Indexed){cJSON_IsNumber(item) ? item->valueint : 0, item};
    qsort(list, (size_t)count, sizeof *list, by_index);
    for (at = 0; at < count; at++) {
        const char *content = list[at].item->string;
        bool special = names_hold(names, content);
        if (!added_find(b, content))
            TRY(added_put(b, (Added){.content = content,
                                     .flags = special ? ADDED_SPECIAL : 0u,
                                     .normalized = !special}));
    }
    return true;
}

// SentencePiece's own three, where tokenizer_config.json does not name others.
static bool defaults_apply(TokenizerBuild *b, const cJSON *config) {
    const char *contents[] = {b->bos, b->eos, b->unknown};
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token"};
    for (int at = 0; at < 3; at++)
        if (contents[at] && !token_content(member(config, keys[at]))[0])
            TRY(added_put(b, (Added){.content = contents[at], .flags = ADDED_SPECIAL}));
    return true;
}

// Classes of transformers for which add_bos_token and add_eos_token count.
static bool class_adds(const cJSON *config) {
    static const char *const names[] = {"Llama", "CodeLlama", "Gemma", "Cohere"};
    const char *class = member_text(config, "tokenizer_class");
    for (size_t at = 0; at < sizeof names / sizeof *names; at++)
        if (strncmp(class, names[at], strlen(names[at])) == 0)
            return true;
    return false;
}

// What add_bos_token and add_eos_token ask for.
static void template_apply(TokenizerBuild *b, const cJSON *config) {
    static const char *const names[][2] = {{"add_bos_token", "bos_token"},
                                           {"add_eos_token", "eos_token"}};
    int32_t ids[2] = {-1, -1};
    for (int at = 0; at < 2; at++) {
        const char *content = token_content(member(config, names[at][1]));
        const char *own = at ? b->eos : b->bos;
        const cJSON *key = member(config, names[at][0]);
        bool wanted = cJSON_IsTrue(key) || (!key && at == 0 && b->default_bos);
        if (!content[0] && own)
            content = own;
        if (wanted && content[0])
            ids[at] = id_find(b, content);
    }
    b->h.prefix_count = ids[0] >= 0 && ids[0] < b->h.vocab_size;
    b->h.suffix_count = ids[1] >= 0 && ids[1] < b->h.vocab_size;
    b->h.prefix[0] = b->h.prefix_count ? ids[0] : 0;
    b->h.suffix[0] = b->h.suffix_count ? ids[1] : 0;
}

bool config_apply(TokenizerBuild *b, const ConfigFiles *files) {
    const cJSON *config = files->config, *decoder = member(config, "added_tokens_decoder");
    if (decoder && !cJSON_IsObject(decoder))
        return fail(b->err, ERR_CORRUPT, 921,
                    "%s/tokenizer_config.json: added_tokens_decoder is no object", b->dir);
    if (decoder) {
        TRY(decoder_apply(b, decoder));
    } else {
        TRY(legacy_apply(b, files->added_tokens, files->special_tokens_map));
        TRY(names_apply(b, files->special_tokens_map, false));
    }
    TRY(names_apply(b, config, decoder != NULL));
    TRY(defaults_apply(b, config));
    if (b->bos || (!b->has_template && class_adds(config)))
        template_apply(b, config);
    return true;
}

// ---- tables -------------------------------------------------------------------------------------

// A token whose id is outside of the model (Gemma 3's image token) is none: its text stays text.
static bool added_inside(const TokenizerBuild *b, const Added *a) {
    return a->id < b->h.vocab_size;
}

static bool added_text(TokenizerBuild *b, const Added *a, Bytes *text) {
    *text = (Bytes){(const unsigned char *)a->content, strlen(a->content)};
    return !a->normalized || !b->h.normal_count || normalized_text(b, text);
}

// The token's piece is what it decodes to: tokenizers keeps the normalized text for that.
static void added_piece(TokenizerBuild *b, const Added *a, Bytes text) {
    Piece *place = &b->pieces[a->id];
    bool own = place->flags & TOKEN_EXISTS && text.size == strlen(a->content);
    if (!own) {
        *place = piece_decode(b, arena_strndup(b->arena, (const char *)text.data, text.size));
        place->in_model = false;
    }
    place->flags |=
        (uint8_t)(TOKEN_EXISTS | TOKEN_ADDED | (a->flags & ADDED_SPECIAL ? TOKEN_SPECIAL : 0));
}

bool added_finish(TokenizerBuild *b) {
    AddedToken *tokens = ARENA_NEW(b->arena, AddedToken, b->added_count + 1);
    TrieKey *keys[2] = {ARENA_NEW(b->arena, TrieKey, b->added_count + 1),
                        ARENA_NEW(b->arena, TrieKey, b->added_count + 1)};
    size_t counts[2] = {0, 0};
    for (int at = 0; at < b->added_count; at++) {
        const Added *a = &b->added[at];
        Bytes text;
        if (!added_inside(b, a))
            continue;
        TRY(added_text(b, a, &text));
        added_piece(b, a, text);
        int set = a->normalized;
        keys[set][counts[set]++] = (TrieKey){text.data, (uint32_t)text.size, b->h.added_count};
        tokens[b->h.added_count++] = (AddedToken){.id = a->id, .flags = a->flags};
    }
    b->h.added = blob_add(b, tokens, (size_t)b->h.added_count * sizeof *tokens);
    b->h.raw = trie_make(b, keys[0], counts[0]);
    b->h.normalized = trie_make(b, keys[1], counts[1]);
    return true;
}

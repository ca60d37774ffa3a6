// What compiler/tokenizer*.c share: the tokenizer while its tables are made.
//
//   tokenizer.c                the order of the work; which files of a directory are read
//   tokenizer_vocab.c          model.* of tokenizer.json: pieces, merges, scores
//   tokenizer_added.c          added tokens of tokenizer.json and of tokenizer_config.json
//   tokenizer_normalizer.c     normalizer
//   tokenizer_steps.c          pre_tokenizer, post_processor, decoder
//   tokenizer_regex.c, _dfa.c  regular expressions to automata
//   tokenizer_unicode.c        sets and classes of characters
//   tokenizer_sentencepiece.c  tokenizer.model to the same
//   tokenizer_blob.c           the tables: tries, hashes
#ifndef TOKENIZER_BUILD_H
#define TOKENIZER_BUILD_H

#include "compile.h"

#include "../runtime/payload_tokenizer.h"

#include <cjson/cJSON.h>

enum { MAX_TOKENS = 1 << 21, MAX_PIECE_BYTES = 1 << 16, MAX_ADDED = 1 << 17 };

typedef struct Piece {
    const unsigned char *bytes; // NULL: no token has this id
    uint32_t size;
    uint8_t flags; // TOKEN_*
    bool in_model; // the model may find it
    double score;  // Unigram
} Piece;

// An added token before it has its place in a trie.
typedef struct Added {
    const char *content;
    int32_t id;
    uint32_t flags;  // ADDED_*
    bool normalized; // is sought in normalized text
    bool described;  // by added_tokens_decoder
} Added;

typedef struct TokenizerBuild {
    const char *dir, *file; // file: for messages
    Arena *arena;
    Error *err;
    TokenizerHeader h;
    Piece *pieces;          // [vocab_size]
    int64_t model_tokens;   // ids of the model are below this
    int64_t model_count;    // tokens of the model
    PieceSlot *piece_table; // [h.piece_slots]
    MergeEntry *merges;
    bool byte_fallback; // of the model, before its tokens are looked up
    Added *added;       // [added_count]
    int added_count, added_room;
    int32_t *added_table; // [added_slots]: 1 + index by content, 0: empty
    uint32_t added_slots;
    int64_t added_next;     // one above the largest id of an added token
    int32_t byte_of[0x144]; // code point of the byte alphabet -> byte, -1
    unsigned char *data; // the segment's bytes behind the header, offsets from the segment's start
    size_t data_size, data_room;
    bool decodes_bytes;              // the decoder is ByteLevel
    const char *bos, *eos, *unknown; // of SentencePiece, else NULL
    bool default_bos;                // BOS is added where no key says whether
    bool has_template;               // the post-processor says what is added
} TokenizerBuild;

// ---- tokenizer.c: reading -----------------------------------------------------------------------

// The member of an object, NULL if absent or null.
const cJSON *member(const cJSON *object, const char *key);
const char *member_text(const cJSON *object, const char *key); // "" if it is no string
bool member_true(const cJSON *object, const char *key);
// ERR_UNSUPPORTED: "FILE: KEY is "FOUND"; supported: ...".
bool refuse(const TokenizerBuild *b, int id, const char *key, const char *found,
            const char *supported);

// ---- tokenizer_vocab.c --------------------------------------------------------------------------

bool model_read(TokenizerBuild *b, const cJSON *model);
// The bytes of a piece as the file writes it.
Piece piece_decode(const TokenizerBuild *b, const char *text);
void alphabet_make(TokenizerBuild *b);
// Room for pieces, then pieces by id, then merges by rank.
bool pieces_open(TokenizerBuild *b, int64_t count);
bool piece_add(TokenizerBuild *b, double id, const char *text, double score);
int32_t piece_find(const TokenizerBuild *b, Piece piece); // -1: none
uint32_t slots_for(int64_t count); // of an open hash: a power of two, at most 60 % full
void merges_open(TokenizerBuild *b, int64_t count);
void merge_insert(TokenizerBuild *b, MergeEntry merge);
// What follows from the pieces: tokens of bytes, cuts, the Unigram's unknown score. After all of
// the above.
bool model_finish(TokenizerBuild *b);

// ---- tokenizer_added.c --------------------------------------------------------------------------

bool added_read(TokenizerBuild *b, const cJSON *list);
// As add_tokens() of tokenizers: the id is that of the vocabulary or the next free one.
bool added_put(TokenizerBuild *b, Added token);
typedef struct ConfigFiles {   // each NULL: there is no such file
    cJSON *config;             // tokenizer_config.json
    cJSON *added_tokens;       // added_tokens.json
    cJSON *special_tokens_map; // special_tokens_map.json
} ConfigFiles;
bool config_apply(TokenizerBuild *b, const ConfigFiles *files);
bool added_finish(TokenizerBuild *b);

// ---- tokenizer_steps.c --------------------------------------------------------------------------

// One object of the file that has a "type", and its place for messages.
typedef struct Node {
    const cJSON *json;
    const char *path, *type;
} Node;

typedef bool (*NodeRead)(TokenizerBuild *b, const Node *node);

typedef struct NodeType {
    const char *type;
    NodeRead read;
} NodeType;

Node node_of(const cJSON *json, const char *path);
const char *node_path(const TokenizerBuild *b, const Node *node, const char *key); // of a member
// Calls `read` for the object, or, if its type is Sequence, for each member of its list `key`;
// Sequences may lie in Sequences.
bool nodes_read(TokenizerBuild *b, Node root, const char *key, NodeRead read);
// Reads a node by the table's row for its type; without one it is refused.
bool node_typed(TokenizerBuild *b, const Node *node, const NodeType *types, int id,
                const char *supported);
bool pre_tokenizer_read(TokenizerBuild *b, const cJSON *json);
bool post_processor_read(TokenizerBuild *b, const cJSON *json);
bool decoder_read(TokenizerBuild *b, const cJSON *json);

// ---- tokenizer_normalizer.c ---------------------------------------------------------------------

bool normalizer_read(TokenizerBuild *b, const cJSON *json);
// SentencePiece's precompiled map.
bool charsmap_add(TokenizerBuild *b, const Node *node, Bytes map);
// *text as the normalizer makes it.
bool normalized_text(TokenizerBuild *b, Bytes *text);

// ---- tokenizer_sentencepiece.c ------------------------------------------------------------------

// Fills model and added tokens; *settings: what tokenizer.json would say of everything else.
bool spm_read(TokenizerBuild *b, Bytes model, const cJSON *config, const char **settings);

// ---- tokenizer_blob.c ---------------------------------------------------------------------------

// Adds bytes to the segment; returns where they lie.
uint64_t blob_add(TokenizerBuild *b, const void *data, size_t size);
typedef struct TrieKey {
    const unsigned char *bytes;
    uint32_t size;
    int32_t value;
} TrieKey;
// Of several equal keys the last one counts.
TrieTable trie_make(TokenizerBuild *b, TrieKey *keys, size_t count);
Bytes blob_make(TokenizerBuild *b);

#endif

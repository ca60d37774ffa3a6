// SEGMENT_TOKENIZER: the tables of a byte-level BPE, made by compiler/tokenizer.c and used in place.
// Offsets are bytes from the start of the segment, multiples of 8.
#ifndef PAYLOAD_TOKENIZER_H
#define PAYLOAD_TOKENIZER_H

#include <stdint.h>

#define TOKENIZER_MAGIC 0x4b4f5447u // "GTOK"

enum { TOKENIZER_VERSION = 1, TOKENIZER_MAX_TEMPLATE = 8, TOKENIZER_CODE_POINTS = 0x110000 };

typedef enum TokenizerModel { TOKENIZER_BYTE_BPE } TokenizerModel;

// How text is cut into words before merging. Each is one published pattern.
typedef enum SplitKind { // ORDER SPLITS (tokenizer.c of both sides)
    SPLIT_NONE,
    SPLIT_GPT2,   // 's|'t|... | ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    SPLIT_LLAMA3, // contractions in any case, [^\r\n\p{L}\p{N}]?\p{L}+, \p{N}{1,3}, ...
    SPLIT_QWEN2,  // the same with single digits
} SplitKind;

// Classes of code points.
enum { CLASS_LETTER = 1, CLASS_NUMBER = 2, CLASS_SPACE = 4, CLASS_WORD = 8 };

enum { TOKEN_SPECIAL = 1, TOKEN_ADDED = 2 };

enum { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4 };

// A merge of the table: open addressing, empty when id is -1; slot of (left, right) from
// merge_hash, then linear.
typedef struct MergeEntry {
    int32_t left, right, rank, id;
} MergeEntry;

static inline uint32_t merge_hash(int32_t left, int32_t right) {
    uint64_t mixed = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15;
    return (uint32_t)(mixed >> 32);
}

// FNV-1a of a piece's bytes.
static inline uint32_t piece_hash(const unsigned char *bytes, uint64_t size) {
    uint32_t hash = 2166136261u;
    for (uint64_t at = 0; at < size; at++)
        hash = (hash ^ bytes[at]) * 16777619u;
    return hash ^ hash >> 15;
}

typedef struct AddedToken {
    int32_t id;
    uint32_t flags; // ADDED_*
} AddedToken;

typedef struct TokenizerHeader {
    uint32_t magic, version;
    uint32_t model; // TokenizerModel
    uint32_t split; // SplitKind
    int32_t vocab_size;
    int32_t ignore_merges;    // a whole word of the vocabulary needs no merges
    int32_t add_prefix_space; // ByteLevel
    int32_t prefix_count, suffix_count; // what the post-processor adds
    int32_t prefix[TOKENIZER_MAX_TEMPLATE], suffix[TOKENIZER_MAX_TEMPLATE];
    int32_t added_count;
    uint32_t merge_slots; // power of two
    uint32_t piece_slots; // power of two
    uint32_t class_pages;
    uint64_t size;          // of the segment
    uint64_t piece_offsets; // uint32 [vocab_size + 1] into pieces
    uint64_t pieces;        // bytes of all tokens
    uint64_t token_flags;   // uint8 [vocab_size]: TOKEN_*
    uint64_t byte_ids;      // int32 [256]: token of a single byte, -1: none
    uint64_t merges;        // MergeEntry [merge_slots]
    uint64_t piece_table;   // int32 [piece_slots]: id or -1; slot from piece_hash, then linear
    uint64_t added;         // AddedToken [added_count], by first byte, then longest first
    uint64_t added_first;   // int32 [257]: range of `added` for each first byte
    uint64_t class_index;   // uint16 [TOKENIZER_CODE_POINTS / 256]
    uint64_t classes;       // uint8 [class_pages][256]: CLASS_*
} TokenizerHeader;

#endif

// SEGMENT_TOKENIZER: tables made by compiler/tokenizer*.c and used in place: nothing is parsed or
// built when an executable starts. Offsets are bytes from the start of the segment, multiples of 8.
//
// A text's way, and the tables it meets (Hugging Face's names in brackets):
//
//   bytes -> UTF-8 -> raw trie (added tokens) -> normalizer -> normalized trie (added tokens whose
//   `normalized` is set) -> steps (pre_tokenizer) -> words -> model -> ids -> prefix, suffix
//   (post_processor);  ids -> pieces -> decode steps (decoder) -> text
#ifndef PAYLOAD_TOKENIZER_H
#define PAYLOAD_TOKENIZER_H

#include <stdint.h>

#define TOKENIZER_MAGIC 0x4b4f5447u // "GTOK"

enum {
    TOKENIZER_VERSION = 2,
    TOKENIZER_MAX_TEMPLATE = 8,
    TOKENIZER_MAX_STEPS = 16, // of the pre-tokenizer, of the decoder
    TOKENIZER_CODE_POINTS = 0x110000,
};

typedef enum TokenizerModel { // ORDER TOKENIZER_MODELS (tokenizer_model.c of both sides)
    TOKENIZER_BPE,
    TOKENIZER_UNIGRAM,
} TokenizerModel;

// TokenizerHeader.flags
enum {
    MODEL_BYTE_LEVEL = 1,    // pieces are bytes; a text's symbols are its bytes, not its characters
    MODEL_IGNORE_MERGES = 2, // a whole word of the vocabulary needs no merges
    MODEL_BYTE_FALLBACK = 4, // characters without a token become tokens of their bytes
    MODEL_FUSE_UNKNOWN = 8,  // neighbouring characters without a token are one unknown token
    MODEL_CUT_SPACES = 16,   // no merge crosses the place before a U+2581 (`cuts`)
};

// Classes of code points.
enum {
    CLASS_LETTER = 1,      // \p{L}
    CLASS_NUMBER = 2,      // \p{N}
    CLASS_SPACE = 4,       // White_Space
    CLASS_WORD = 8,        // \w
    CLASS_PUNCTUATION = 16 // \p{P} and all of ASCII's
};

// token_flags
enum { TOKEN_SPECIAL = 1, TOKEN_ADDED = 2, TOKEN_EXISTS = 4 };

// A merge of the table: open addressing, empty when id is -1; slot of (left, right) from
// merge_hash, then linear.
typedef struct MergeEntry {
    int32_t left, right, rank, id;
} MergeEntry;

static inline uint32_t merge_hash(int32_t left, int32_t right) {
    uint64_t mixed = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15;
    return (uint32_t)(mixed >> 32);
}

// A piece of the vocabulary by its bytes: open addressing, empty when id is -1.
typedef struct PieceSlot {
    int32_t id;
    uint32_t hash;
} PieceSlot;

// FNV-1a of a piece's bytes.
static inline uint32_t piece_hash(const unsigned char *bytes, uint64_t size) {
    uint32_t hash = 2166136261u;
    for (uint64_t at = 0; at < size; at++)
        hash = (hash ^ bytes[at]) * 16777619u;
    return hash ^ hash >> 15;
}

// A trie over bytes. Nodes are in breadth-first order, so the children of a node lie side by side,
// ascending by label, behind the node itself.
typedef struct TrieNode {
    uint32_t first, count; // children
    int32_t value;         // -1: nothing ends here
} TrieNode;

typedef struct TrieTable {
    uint64_t nodes;  // TrieNode [count]; 0 is the root
    uint64_t labels; // uint8 [count]: the byte on the edge to each node
    uint64_t root;   // int32 [256]: the root's child by byte, 0: none
    uint32_t count;  // 0: an empty set
    uint32_t unused;
} TrieTable;

enum { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4, ADDED_SPECIAL = 8 };

typedef struct AddedToken {
    int32_t id;
    uint32_t flags; // ADDED_*
} AddedToken;

// ---- pre-tokenizer ------------------------------------------------------------------------------

typedef enum StepKind { // ORDER STEPS (runtime/tokenizer_split.c)
    STEP_PATTERN,       // cuts at matches of a regular expression: `data` holds its tables
    STEP_TEXT,          // cuts at a literal text: `data`
    STEP_CLASS,         // cuts at single characters of the classes in `option`
    STEP_WORDS,         // cuts at \w+|[^\w\s]+
    STEP_METASPACE,     // blanks become `data`, which is put in front (`option`: PREPEND_*)
    STEP_PREFIX_SPACE,  // a blank in front if there is none
    STEP_KIND_COUNT,
} StepKind;

typedef enum Behavior { // what becomes of a match; tokenizers' SplitDelimiterBehavior
    BEHAVIOR_ISOLATED,
    BEHAVIOR_REMOVED,
    BEHAVIOR_MERGED_WITH_PREVIOUS,
    BEHAVIOR_MERGED_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS,
    BEHAVIOR_COUNT,
} Behavior;

enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

typedef struct SplitStep {
    uint32_t kind;     // StepKind
    uint32_t behavior; // Behavior
    uint32_t invert;   // matches and what lies between change their parts
    uint32_t option;
    uint64_t data, size; // bytes
} SplitStep;

// A regular expression (STEP_PATTERN): this header, then uint16 next[states][columns], uint16
// index[TOKENIZER_CODE_POINTS / 256], uint8 pages[pages][256]. A column is a class of characters;
// the last one is the end of the text. Entries of `next`: the next state (0: none), with
// PATTERN_MATCH if a match ends before this character.
enum { PATTERN_MATCH = 0x8000, PATTERN_MAX_STATES = 4096, PATTERN_START = 1 };

typedef struct PatternHeader {
    uint32_t states, columns, pages, unused;
    uint8_t ascii[128]; // classes of ASCII
} PatternHeader;

// ---- normalizer ---------------------------------------------------------------------------------

typedef enum NormalKind { // ORDER NORMALS (runtime/tokenizer_normalize.c)
    NORMAL_PREPEND,       // `to` in front of a text that is not empty
    NORMAL_REPLACE,       // `from` becomes `to`
    NORMAL_PATTERN,       // matches of the expression whose tables are `from` become `to`
    NORMAL_FORM,          // decomposition, order of marks, composition if `option`: a FormHeader
    NORMAL_MAP,           // each character becomes what it decomposes to: a FormHeader
    NORMAL_STRIP,         // takes off white space: option 1: in front, 2: at the end
    NORMAL_CHARSMAP,      // SentencePiece's precompiled map: a CharsmapHeader
    NORMAL_KIND_COUNT,
} NormalKind;

typedef struct NormalStep {
    uint32_t kind, option;
    uint64_t from, from_size, to, to_size; // bytes
} NormalStep;

// What a character becomes: this header, then FormRecord records[records], FormPair
// pairs[pair_count] ascending, uint32 points[points], uint16 index[TOKENIZER_CODE_POINTS / 256],
// uint16 pages[pages][256]: numbers of records.
typedef struct FormHeader {
    uint32_t records, pairs, points, pages;
} FormHeader;

enum { FORM_HANGUL = 255 }; // decomposed by arithmetic

typedef struct FormRecord {
    uint32_t first; // of `points`: the decomposition
    uint8_t count;  // its length, FORM_HANGUL; 0 and not `itself`: the character vanishes
    uint8_t order;  // canonical combining class
    uint8_t itself; // it decomposes to itself
    uint8_t quiet;  // it stays as it is, and nothing in front of it changes because of it
} FormRecord;

typedef struct FormPair {
    uint32_t first, second, composed;
} FormPair;

// SentencePiece's map: this header, then uint32 units[units] (a double array), uint16
// index[TOKENIZER_CODE_POINTS / 256], uint8 pages[pages][256] (BREAK_*), and the texts that the
// array's values point to, each ended by a zero.
enum { // grapheme breaking
    BREAK_OTHER,
    BREAK_RETURN,
    BREAK_FEED,
    BREAK_CONTROL,
    BREAK_EXTEND,
    BREAK_JOINER,
    BREAK_SPACING,
    BREAK_PREPEND,
    BREAK_PICTURE,
};

typedef struct CharsmapHeader {
    uint32_t units, texts, pages, unused;
} CharsmapHeader;

// ---- decoder ------------------------------------------------------------------------------------

typedef enum DecodeKind { // ORDER DECODES (runtime/tokenizer_decode.c)
    DECODE_REPLACE,       // `from` becomes `to` in each token
    DECODE_BYTES,         // tokens <0xNN> become bytes (ByteFallback)
    DECODE_STRIP,         // `from` is taken off each token's ends, `start` and `stop` times at most
    DECODE_METASPACE,     // `from` becomes a blank, nothing in the first token if `start`
    DECODE_JOIN,          // a blank between tokens
    DECODE_FUSE,          // the steps behind see the whole text as one token
    DECODE_KIND_COUNT,
} DecodeKind;

typedef struct DecodeStep {
    uint32_t kind; // DecodeKind
    uint32_t start, stop;
    uint32_t unused;
    uint64_t from, from_size, to, to_size; // bytes
} DecodeStep;

// ---- header -------------------------------------------------------------------------------------

typedef struct TokenizerHeader {
    uint32_t magic, version;
    uint32_t model; // TokenizerModel
    uint32_t flags; // MODEL_*
    int32_t vocab_size;
    int32_t unknown_id;                 // -1: characters without a token are left out
    int32_t prefix_count, suffix_count; // what the post-processor adds
    int32_t prefix[TOKENIZER_MAX_TEMPLATE], suffix[TOKENIZER_MAX_TEMPLATE];
    int32_t added_count;
    uint32_t step_count, decode_count, normal_count;
    uint32_t merge_slots; // power of two
    uint32_t piece_slots; // power of two
    uint32_t class_pages, unused;
    NormalStep normals[TOKENIZER_MAX_STEPS];
    SplitStep steps[TOKENIZER_MAX_STEPS];
    DecodeStep decodes[TOKENIZER_MAX_STEPS];
    uint64_t size;             // of the segment
    uint64_t pieces_size;      // bytes of all pieces
    uint64_t piece_offsets;    // uint32 [vocab_size + 1] into pieces
    uint64_t pieces;           // what each token decodes to, before the decoder's steps
    uint64_t token_flags;      // uint8 [vocab_size]: TOKEN_*
    uint64_t byte_ids;         // int32 [256]: MODEL_BYTE_LEVEL: token of a byte, -1: none;
                               // MODEL_BYTE_FALLBACK: token <0xNN>
    uint64_t merges;           // MergeEntry [merge_slots]
    uint64_t piece_table;      // PieceSlot [piece_slots]: what the model may find; from piece_hash
    uint64_t added;            // AddedToken [added_count]: the values of the two tries
    uint64_t scores;           // Unigram: double [vocab_size]
    uint64_t cuts;             // uint8 [256]: 1: a word may be cut between this byte and U+2581
    uint64_t class_index;      // uint16 [TOKENIZER_CODE_POINTS / 256]
    uint64_t classes;          // uint8 [class_pages][256]: CLASS_*
    double unknown_score;      // Unigram: of a character without a token
    TrieTable raw, normalized; // added tokens, in the text as given and in normalized text
    TrieTable vocabulary;      // Unigram: pieces; values are ids
} TokenizerHeader;

#endif

// The payload: everything of an executable that is data. The compiler writes it behind the ELF
// image, the runtime reads it from its own file. docs/payload.md draws it. All integers are
// little-endian; all offsets are bytes from the start of the file unless a comment says otherwise.
//
//   [ELF image] [pad to 2 MiB] WEIGHTS [fixed segments] [area 0] [area 1] [footer 0] [footer 1]
//
// An area holds the segment table and the segments that `repack` replaces; one of the two is in use,
// the other is zero. So a repack writes the unused area, then one footer, and at every moment the
// file has a whole table: the footer of the higher generation counts. A footer is zero or right: one
// that is neither is damage, never an older state (docs/payload.md).
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include "base.h"

enum {
    PAYLOAD_VERSION       = 5,
    PAYLOAD_WEIGHTS_ALIGN = 2 << 20,
    PAYLOAD_SEGMENT_ALIGN = 64,
    PAYLOAD_PAGE_BYTES    = 1 << 20, // unit of the XXH3-64 checks
    PAYLOAD_MAX_STOP_IDS  = 16,
    PAYLOAD_NAME_BYTES    = 96,
    PAYLOAD_BLOCK_BYTES   = 4096, // areas and the end of the file are multiples of it
    PAYLOAD_FOOTER_BYTES  = 512,  // a footer and zeros: a sector, which disks write as a whole
    PAYLOAD_FOOTERS       = 2,
    PAYLOAD_AREA_SLACK    = 64 << 10, // room that an area has for more than it holds at first
};

// A byte string that every text-mode conversion damages (the idea of the PNG signature).
#define PAYLOAD_MAGIC "\x89GPTQC\r\n\x1a\n\0\xff\xfe\x01\x02"

typedef enum SegmentKind { // ORDER SEGMENTS (payload.c: names)
    SEGMENT_WEIGHTS,   // one region, addressed by the offsets in the generated code
    SEGMENT_MODEL,     // ModelInfo
    SEGMENT_TOKENIZER, // payload_tokenizer.h
    SEGMENT_TEMPLATE,  // payload_template.h; empty: the model has no chat template
    SEGMENT_TOOL_TEMPLATE,  // its template for conversations with tools, where that is another one
    SEGMENT_SPECIAL_TOKENS, // JSON: what templates call bos_token, eos_token ...
    SEGMENT_TARGETS,   // TargetInfo[]
    SEGMENT_KERNELS,   // KernelInfo[], grouped by target
    SEGMENT_CUBINS,    // cubin and PTX images, each aligned to 64
    SEGMENT_EXPLAIN,   // the text that `explain` prints
    SEGMENT_LICENSE,   // licences of what is inside, UTF-8
    SEGMENT_RECEIPT,   // JSON: how this file was built
    SEGMENT_CHECKS,    // uint64_t XXH3-64 of every PAYLOAD_PAGE_BYTES page of SEGMENT_WEIGHTS
    SEGMENT_DEFAULTS,  // JSON: {"system": TEXT, "arguments": [TEXT, ...]}; empty: none
    SEGMENT_SELFTEST,  // SelftestHeader, then its arrays; empty: none
    SEGMENT_SOURCE,    // what `extract` needs of the checkpoint (source.h); empty: none
    SEGMENT_COUNT,
} SegmentKind;

typedef struct Segment {
    uint32_t kind; // SegmentKind
    uint32_t reserved; // SEGMENT_WEIGHTS: files that hold it (payload_parts.h), 0: this one
    uint64_t offset;
    uint64_t size;     // bytes, without padding
    uint64_t check[2]; // XXH3-128 of the segment (low, high); 0, 0 for SEGMENT_WEIGHTS, whose
                       // pages are checked one by one while they are read
} Segment;

// Each of the last PAYLOAD_FOOTERS * PAYLOAD_FOOTER_BYTES bytes of the file starts with one.
typedef struct PayloadFooter {
    char magic[16]; // PAYLOAD_MAGIC
    uint32_t version;
    uint32_t segment_count;
    uint64_t generation;     // of two footers the one with the higher number counts
    uint64_t table_offset;   // Segment[segment_count], at the start of an area
    uint64_t area_offset;    // of area 0; area 1 follows it
    uint64_t area_bytes;     // of each
    uint64_t file_size;      // a truncated or extended copy is seen at once
    uint64_t elf_size;       // of the ELF image at the start of the file
    uint64_t elf_check[2];   // XXH3-128 of it
    uint64_t table_check[2]; // XXH3-128 of the segment table
    uint32_t sample_u32;     // 0x01020304
    float sample_f32;        // 370.5f
    uint64_t check;          // XXH3-64 of this struct up to here
} PayloadFooter;

typedef enum ModelDType { DTYPE_FP16, DTYPE_BF16, DTYPE_FP32 } ModelDType;

// What the runtime must know about the model; nothing here is needed to run a step, the shapes are
// constants of the generated code.
typedef struct ModelInfo {
    char name[PAYLOAD_NAME_BYTES];         // zero-terminated
    char architecture[PAYLOAD_NAME_BYTES]; // config.json: architectures[0]
    int64_t vocab_size;
    int64_t hidden_size;
    int64_t num_hidden_layers;
    int64_t num_attention_heads;
    int64_t num_key_value_heads;
    int64_t head_dim;
    int64_t weights_bytes;    // of SEGMENT_WEIGHTS
    int64_t linear_params;    // weights of all linear layers, head included (for flops)
    int64_t streamed_bytes;   // bytes of weights that one decode step reads
    int64_t max_seq_len;      // tokens of one sequence, prompt and answer
    int64_t max_batch_size;   // sequences in one decode step
    int64_t max_num_tokens;   // tokens of one prefill step
    int64_t max_head_rows;    // rows of one head step
    int64_t page_tokens;      // tokens of one KV page
    int64_t kv_page_bytes;    // all layers, keys and values, one page
    int64_t kv_layer_stride;  // see KV layout below, in bytes
    int64_t arena_bytes;      // activations of the largest step; same layout for all targets
    int64_t logits_offset;    // in REGION_ARENA: fp32 [max_head_rows, vocab_size]
    int32_t kv_dtype;         // ModelDType
    int32_t activation_dtype; // ModelDType of GPU activations
    int32_t bos_id;           // -1: none
    int32_t stop_count;
    int32_t stop_ids[PAYLOAD_MAX_STOP_IDS];
    int32_t default_sample; // generation_config.do_sample
    int32_t default_top_k;  // 0: off
    float default_temperature;
    float default_top_p;
    float default_min_p;
    float default_repetition_penalty;
} ModelInfo;

// ---- KV cache layout ----------------------------------------------------------------------------
//
// REGION_KV holds pages; page p of layer L, for keys (which = 0) and values (which = 1):
//   base + p * kv_page_bytes + L * kv_layer_stride + which * kv_layer_stride / 2
//   then [kv_head][page_tokens][head_dim] elements of kv_dtype; GPUs exchange the order of 16-byte
//   pieces inside of a row (kernels/kv_layout.cuh).
// Page 0 is scratch: rows of a batch that stand for no sequence write there.

typedef enum TargetDevice { DEVICE_CPU, DEVICE_CUDA } TargetDevice;

typedef struct TargetInfo {
    char name[32];        // "cpu:x86-64-v4-vnni", "sm_90a": also the name in model_steps (step.h)
    int32_t device;       // TargetDevice
    int32_t compute_major, compute_minor;
    int32_t exact;        // 1: only this compute capability (the "a" targets)
    int32_t first_kernel; // in SEGMENT_KERNELS
    int32_t kernel_count;
    int32_t same_rows;    // decode steps of 1 to so many rows add in one order: a row has the bits that
                          // it has alone
} TargetInfo;

typedef struct KernelInfo {
    char name[64];        // kernel family, for --stats and profiles
    char entry[64];       // symbol in the cubin
    uint64_t key[2];      // XXH3-128 of the cache key, for `info`
    uint64_t image_offset; // from the start of SEGMENT_CUBINS
    uint64_t image_size;
    uint64_t image_check[2]; // XXH3-128 of the image
    int32_t shared_bytes; // dynamic shared memory
    int32_t block;        // threads
    int32_t is_ptx;       // 1: image is PTX text
    int32_t argument_count; // all arguments are 8-byte slots (pointers or int64_t)
    int32_t map_columns;    // > 0: but the first, a tensor map of as many columns (tensor_map.h)
    int32_t map_rows;       // of its boxes
    int32_t cluster_blocks; // > 0: its clusters take work in turn, so no more start than the chip holds at
                            // once
    int32_t reserved;
} KernelInfo;

// ---- the batch block ----------------------------------------------------------------------------
//
// REGION_BATCH: what changes from step to step, in one block that is copied to the device as a
// whole. Everything is int32_t or float. Rows are the tokens of the step: row r is token
// token_ids[r] at position positions[r] of the sequence in slot slots[r]; -1 = an empty row.

// How a slot draws. ORDER SAMPLE (kernels/sample.cu, whose first comment says what each does).
typedef struct SampleParams {
    float temperature; // 0: greedy
    float top_p;       // 1: off
    float min_p;       // 0: off
    float repetition_penalty; // 1: off; of tokens that `seen` has
    float presence_penalty;   // 0: off; of tokens that `counts` has
    float frequency_penalty;  // 0: off
    int32_t top_k;            // 0: off
    uint32_t seed_low, seed_high;
    int32_t step;        // counter of the random numbers of this sequence; the sampler adds 1
    int32_t token_count; // ids from here on are never drawn; 0: vocab_size
    int32_t bias_count;  // of `bias`
    int32_t masked;      // 1: only tokens whose bit of `mask` is set
    int32_t logprobs;    // 0: none; n: of the drawn token and of the n - 1 most likely
    int32_t first_row;   // 0: the slot has one row in a step; else it has several, drafts: the number of
                         // their first one, + 1
    int32_t reserved;
} SampleParams;

typedef struct LogitBias {
    int32_t id;
    float bias; // added to the logit after the penalties
} LogitBias;

enum { SAMPLE_MAX_BIAS = 300, SAMPLE_MAX_TOP = 20 };

// What a slot that asked for logprobs drew last: natural logarithms of the softmax of the model's
// logits, before penalties, temperature and filters.
typedef struct SampleResult {
    float logprob;
    int32_t top_count;
    int32_t top_ids[SAMPLE_MAX_TOP]; // most likely first, the lower id among equals
    float top_logprobs[SAMPLE_MAX_TOP];
} SampleResult;

// Byte offsets inside REGION_BATCH.
typedef struct BatchLayout {
    int64_t token_ids;  // int32 [max_num_tokens]; decode: the sampler writes the next token here
    int64_t positions;  // int32 [max_num_tokens]; decode: the sampler adds 1
    int64_t slots;      // int32 [max_num_tokens]
    int64_t head_rows;  // int32 [max_head_rows]: row of the last step whose logits are wanted
    int64_t head_slots; // int32 [max_head_rows]: slot of that row, -1: none
    int64_t page_table; // int32 [max_batch_size, pages_per_seq]
    int64_t sample;     // SampleParams [max_batch_size], by slot
    int64_t drawn;      // int32 [max_head_rows]: what rows of drafts drew
    int64_t sampled;    // int32 [max_batch_size], by slot: the token that was drawn last
    int64_t results;    // SampleResult [max_batch_size], by slot
    int64_t seen;       // uint32 [max_batch_size, seen_words]: tokens of prompt and answer, by slot
    int64_t mask;       // uint32 [max_batch_size, seen_words]: tokens that may be drawn, by slot
    int64_t biased;     // uint32 [max_batch_size, seen_words]: tokens that `bias` has, by slot
    int64_t bias;       // LogitBias [max_batch_size, SAMPLE_MAX_BIAS], by slot
    int64_t counts;     // uint16 [max_batch_size, vocab_size]: of tokens in the answer, by slot; only
                        // kept where a slot has a presence or frequency penalty
    int64_t pages_per_seq;
    int64_t seen_words; // ceil(vocab_size / 32)
    int64_t bytes;      // of the whole block
} BatchLayout;

// Needs max_num_tokens, max_head_rows, max_batch_size, max_seq_len, page_tokens, vocab_size.
BatchLayout batch_layout(const ModelInfo *info);

// ---- reading ------------------------------------------------------------------------------------

const char *segment_name(SegmentKind kind);
// Does it lie in an area, so that `repack` can replace it?
bool segment_replaceable(SegmentKind kind);

typedef struct Payload {
    PayloadFooter footer; // the one that counts
    int footer_at;        // 0 or 1: which
    bool other;           // the other one is not zero: a repack was interrupted
    Segment segments[SEGMENT_COUNT];
} Payload;

// Reads the tail of a file. `file` names it in messages. Checks footers, table, bounds, the ELF image
// and every segment but WEIGHTS and SOURCE, whose extent is bounded only. ERR_CORRUPT.
bool payload_parse(Bytes whole, const char *file, Payload *out, Error *err);
// Compares a segment with its check. ERR_CORRUPT.
bool payload_segment_check(Bytes whole, const char *file, const Segment *s, Error *err);
// Where footer 0 or 1 of a file of that size starts.
uint64_t payload_footer_offset(uint64_t file_size, int footer);
// Sets magic, samples and the footer's own check.
void payload_footer_seal(PayloadFooter *f);

// XXH3 through one place, so that both sides agree on seed and order.
void payload_hash128(const void *data, size_t size, uint64_t out[2]);
uint64_t payload_hash64(const void *data, size_t size);

#endif

// Fills the batch block, keeps page tables, and calls the device. The host's copy of the block is
// always complete; a GPU's copy gets only what changed.
#include "engine.h"

#include "sampler.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Sequence {
    int64_t length;                // tokens in the KV cache
    int32_t last;                  // drawn, not yet in the cache
    int32_t step;                  // SampleParams.step of the next draw
    int32_t drafts[SPECULATE_MAX]; // for the next decode step, [draft_count]
    int32_t draft_count;
    int32_t drawn[SPECULATE_MAX + 1]; // by the last step, [drawn_count]
    int32_t drawn_count;
} Sequence;

struct Engine {
    const Executable *e;
    Device *device;
    KvCache *kv;
    unsigned char *block; // the batch block
    Sequence *sequences;  // [max_batch_size]
    float *logits;        // [max_head_rows, vocab_size], for visits
    int64_t context;
    int32_t last_row;   // row of the last prefill step whose token was the prompt's last
    int32_t row_count;  // rows that the device's block holds for decode; 0: none
    int32_t *row_slots; // [max_batch_size]
    // slots whose tokens were drawn since engine_finish, each once; [max_batch_size]
    int32_t *drawn_slots;
    int32_t drawn_count;
};

static int32_t *ints(const Engine *en, int64_t offset) {
    return (int32_t *)(void *)(en->block + offset);
}

Device *engine_device(Engine *en) {
    return en->device;
}

int64_t engine_context(const Engine *en) {
    return en->context;
}

int64_t engine_length(const Engine *en, int32_t slot) {
    return en->sequences[slot].length;
}

const ModelInfo *engine_model(const Engine *en) {
    return &en->e->info;
}

KvCache *engine_cache(Engine *en) {
    return en->kv;
}

bool engine_attach(Engine *en, Error *err) {
    return en->device->type->attach(en->device, err);
}

// ---- open ---------------------------------------------------------------------------------------

static bool device_pick(Engine *en, const DeviceType *type, const DeviceOptions *o, Error *err) {
    bool gpu = executable_has(en->e, DEVICE_CUDA), cpu = executable_has(en->e, DEVICE_CPU);
    if (type == &device_cpu && !cpu)
        return fail(err, ERR_USAGE, 840,
                    "this file holds no code for a CPU: compile with "
                    "--target cpu,...");
    if (type == &device_cuda && !gpu)
        return fail(err, ERR_USAGE, 841,
                    "this file holds no code for a GPU: compile with a GPU "
                    "target, such as --target cpu,sm_90a");
    if (type)
        return type->open(&en->device, en->e, en->block, o, err);
    if (!gpu)
        return device_cpu.open(&en->device, en->e, en->block, o, err);
    // A GPU that is there but cannot be used is the user's to decide about: with --device cpu.
    if (!cpu || !device_cuda.absent())
        return device_cuda.open(&en->device, en->e, en->block, o, err);
    fprintf(stderr, "no NVIDIA GPU in this machine; running on the CPU\n");
    return device_cpu.open(&en->device, en->e, en->block, o, err);
}

bool engine_choice(const Executable *e, char *text, size_t size, Error *err) {
    const DeviceOptions defaults = {0};
    bool gpu = executable_has(e, DEVICE_CUDA), cpu = executable_has(e, DEVICE_CPU);
    const DeviceType *type = gpu && (!cpu || !device_cuda.absent()) ? &device_cuda : &device_cpu;
    return type->choice(e, &defaults, text, size, err);
}

static bool engine_allocate(Engine *en, Error *err) {
    const ModelInfo *m = &en->e->info;
    en->block = calloc(1, (size_t)en->e->batch.bytes);
    en->sequences = calloc((size_t)m->max_batch_size, sizeof *en->sequences);
    en->row_slots = calloc((size_t)m->max_batch_size, sizeof *en->row_slots);
    en->logits = calloc((size_t)m->max_head_rows * (size_t)m->vocab_size, sizeof *en->logits);
    en->drawn_slots = calloc((size_t)m->max_batch_size, sizeof *en->drawn_slots);
    if (!en->block || !en->sequences || !en->row_slots || !en->drawn_slots || !en->logits)
        return fail(err, ERR_RESOURCE, 842, "no memory for the batch");
    return true;
}

bool engine_open(Engine **out, const Executable *e, const DeviceType *type, const DeviceOptions *o,
                 Error *err) {
    Engine *en = calloc(1, sizeof *en);
    if (!en)
        return fail(err, ERR_RESOURCE, 843, "no memory for the engine");
    en->e = e;
    bool done =
        engine_allocate(en, err) && device_pick(en, type, o, err) &&
        kvcache_open(&en->kv, en->device->kv_pages, e->info.max_batch_size, e->batch.pages_per_seq,
                     e->info.page_tokens, ints(en, e->batch.page_table), err);
    if (!done) {
        engine_close(en);
        return false;
    }
    int64_t room = (en->device->kv_pages - 1) * e->info.page_tokens;
    int64_t most = o->context ? o->context : e->info.max_seq_len;
    en->context = room < most ? room : most;
    *out = en;
    return true;
}

void engine_close(Engine *en) {
    if (!en)
        return;
    if (en->device)
        en->device->type->close(en->device);
    kvcache_close(en->kv);
    free(en->block);
    free(en->sequences);
    free(en->row_slots);
    free(en->drawn_slots);
    free(en->logits);
    free(en);
}

// ---- sequences ----------------------------------------------------------------------------------

static bool upload(Engine *en, int64_t offset, int64_t size, Error *err) {
    return en->device->type->upload(en->device, offset, size, err);
}

static uint32_t *seen_bits(Engine *en, int32_t slot) {
    return (uint32_t *)(void *)ints(en, en->e->batch.seen) + slot * en->e->batch.seen_words;
}

static void seen_add(Engine *en, int32_t slot, int32_t token) {
    seen_bits(en, slot)[token / 32] |= 1u << (token % 32);
}

static bool seen_upload(Engine *en, int32_t slot, Error *err) {
    int64_t bytes = en->e->batch.seen_words * 4;
    return upload(en, en->e->batch.seen + slot * bytes, bytes, err);
}

static SampleParams *params_of(Engine *en, int32_t slot) {
    return (SampleParams *)(void *)(en->block + en->e->batch.sample) + slot;
}

static bool params_upload(Engine *en, int32_t slot, Error *err) {
    int64_t size = (int64_t)sizeof(SampleParams);
    params_of(en, slot)->step = en->sequences[slot].step; // a GPU counts its own copy
    return upload(en, en->e->batch.sample + slot * size, size, err);
}

bool engine_start(Engine *en, int32_t slot, const SampleParams *params, Error *err) {
    engine_end(en, slot);
    *params_of(en, slot) = *params;
    params_of(en, slot)->bias_count = params_of(en, slot)->masked = 0;
    en->sequences[slot].step = params->step;
    memset(seen_bits(en, slot), 0, (size_t)en->e->batch.seen_words * 4);
    return params_upload(en, slot, err) && engine_counts(en, slot, NULL, 0, err);
}

bool engine_counts(Engine *en, int32_t slot, const int32_t *ids, int64_t count, Error *err) {
    int64_t bytes = en->e->info.vocab_size * 2, offset = en->e->batch.counts + slot * bytes;
    uint16_t *counts = (uint16_t *)(void *)(en->block + offset);
    if (!sample_counts(params_of(en, slot)))
        return true;
    memset(counts, 0, (size_t)bytes);
    for (int64_t at = 0; at < count; at++)
        counts[ids[at]] = (uint16_t)(counts[ids[at]] + (counts[ids[at]] < UINT16_MAX));
    return upload(en, offset, bytes, err);
}

// Ordered by id, as the sampler wants it; the last entry of an id counts.
static int32_t bias_sort(LogitBias *to, const LogitBias *bias, int32_t count) {
    int32_t kept = 0;
    for (int32_t from = 0; from < count; from++) {
        int32_t at = kept;
        while (at > 0 && to[at - 1].id >= bias[from].id)
            at--;
        bool again = at < kept && to[at].id == bias[from].id;
        if (!again)
            memmove(&to[at + 1], &to[at], (size_t)(kept++ - at) * sizeof *to);
        to[at] = bias[from];
    }
    return kept;
}

bool engine_bias(Engine *en, int32_t slot, const LogitBias *bias, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    int64_t bits_bytes = b->seen_words * 4, list_bytes = SAMPLE_MAX_BIAS * (int64_t)sizeof *bias;
    int64_t bits_at = b->biased + slot * bits_bytes, list_at = b->bias + slot * list_bytes;
    uint32_t *bits = (uint32_t *)(void *)(en->block + bits_at);
    LogitBias *list = (LogitBias *)(void *)(en->block + list_at);
    int32_t kept = params_of(en, slot)->bias_count = bias_sort(list, bias, count);
    memset(bits, 0, (size_t)bits_bytes);
    for (int32_t at = 0; at < kept; at++)
        bits[list[at].id / 32] |= 1u << list[at].id % 32;
    return upload(en, bits_at, bits_bytes, err) && upload(en, list_at, list_bytes, err) &&
           params_upload(en, slot, err);
}

uint32_t *engine_mask(Engine *en, int32_t slot) {
    const BatchLayout *b = &en->e->batch;
    return (uint32_t *)(void *)(en->block + b->mask) + slot * b->seen_words;
}

bool engine_mask_set(Engine *en, int32_t slot, bool masked, Error *err) {
    int64_t bytes = en->e->batch.seen_words * 4;
    bool changed = params_of(en, slot)->masked != masked;
    params_of(en, slot)->masked = masked;
    return (!masked || upload(en, en->e->batch.mask + slot * bytes, bytes, err)) &&
           (!changed || params_upload(en, slot, err));
}

void engine_end(Engine *en, int32_t slot) {
    int32_t kept = 0; // a draw of a step that failed half-way is forgotten
    for (int32_t at = 0; at < en->drawn_count; at++)
        if (en->drawn_slots[at] != slot)
            en->drawn_slots[kept++] = en->drawn_slots[at];
    en->drawn_count = kept;
    kvcache_release(en->kv, slot);
    en->sequences[slot] = (Sequence){0};
    en->row_count = 0;
}

static bool table_upload(Engine *en, int32_t slot, Error *err) {
    int64_t row_bytes = en->e->batch.pages_per_seq * 4;
    return upload(en, en->e->batch.page_table + slot * row_bytes, row_bytes, err);
}

bool engine_reserve(Engine *en, int32_t slot, int64_t tokens, Error *err) {
    bool changed;
    if (tokens > en->context)
        return fail(err, ERR_RESOURCE, 844, "%lld tokens do not fit into the context of %lld",
                    (long long)tokens, (long long)en->context);
    TRY(kvcache_reserve(en->kv, slot, tokens, &changed, err));
    return !changed || table_upload(en, slot, err);
}

bool engine_reuse(Engine *en, int32_t slot, const int32_t *ids, int64_t count, Error *err) {
    int64_t reused = kvcache_match(en->kv, slot, ids, count);
    en->sequences[slot].length = reused;
    for (int64_t at = 0; at < reused; at++)
        seen_add(en, slot, ids[at]);
    return reused == 0 || table_upload(en, slot, err);
}

void engine_know(Engine *en, int32_t slot, const int32_t *ids, int64_t count) {
    int64_t length = en->sequences[slot].length;
    kvcache_know(en->kv, slot, ids, length < count ? length : count);
}

// ---- prefill ------------------------------------------------------------------------------------

// Logits of rows [first, rows) of the step that just ran, a few at a time. Row 0 is at `position`.
static bool rows_visit(Engine *en, int64_t position, int32_t first, int32_t rows,
                       const LogitsVisit *v, Error *err) {
    const BatchLayout *b = &en->e->batch;
    int32_t most = (int32_t)en->e->info.max_head_rows;
    for (; first < rows; first += most) {
        int32_t count = rows - first < most ? rows - first : most;
        for (int32_t at = 0; at < count; at++) {
            ints(en, b->head_rows)[at] = first + at;
            ints(en, b->head_slots)[at] = -1;
        }
        TRY(upload(en, b->head_rows, count * 4, err) && upload(en, b->head_slots, count * 4, err));
        TRY(en->device->type->run(en->device, PHASE_HEAD, count, err));
        TRY(en->device->type->logits(en->device, count, en->logits, err));
        for (int32_t at = 0; at < count; at++)
            TRY(v->visit(v->user, position + first + at, en->logits + at * en->e->info.vocab_size,
                         err));
    }
    return true;
}

// Tokens that follow a sequence, into the batch block from row `row` on.
static void rows_put(Engine *en, int32_t row, int32_t slot, const int32_t *ids, int32_t count) {
    const BatchLayout *b = &en->e->batch;
    Sequence *s = &en->sequences[slot];
    for (int32_t at = 0; at < count; at++) {
        ints(en, b->token_ids)[row + at] = ids[at];
        ints(en, b->positions)[row + at] = (int32_t)s->length++;
        ints(en, b->slots)[row + at] = slot;
    }
}

static bool rows_run(Engine *en, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    TRY(upload(en, b->token_ids, count * 4, err) && upload(en, b->positions, count * 4, err));
    TRY(upload(en, b->slots, count * 4, err));
    TRY(en->device->type->run(en->device, PHASE_PREFILL, count, err));
    en->last_row = count - 1;
    en->row_count = 0;
    return true;
}

static bool chunk_run(Engine *en, int32_t slot, const int32_t *ids, int32_t count, Error *err) {
    rows_put(en, 0, slot, ids, count);
    return rows_run(en, count, err);
}

static bool ids_check(const Engine *en, const int32_t *ids, int64_t count, Error *err) {
    for (int64_t at = 0; at < count; at++)
        if (ids[at] < 0 || ids[at] >= en->e->info.vocab_size)
            return fail(err, ERR_USAGE, 845, "token id %d is outside the vocabulary of %lld",
                        ids[at], (long long)en->e->info.vocab_size);
    return true;
}

bool engine_prefill(Engine *en, int32_t slot, const int32_t *ids, int64_t count,
                    const LogitsVisit *visit, Error *err) {
    int64_t most = en->e->info.max_num_tokens;
    TRY(ids_check(en, ids, count, err));
    TRY(engine_reserve(en, slot, en->sequences[slot].length + count, err));
    for (int64_t first = 0; first < count; first += most) {
        int32_t rows = (int32_t)(count - first < most ? count - first : most);
        int64_t position = en->sequences[slot].length;
        for (int32_t row = 0; row < rows; row++)
            seen_add(en, slot, ids[first + row]);
        TRY(seen_upload(en, slot, err) && chunk_run(en, slot, ids + first, rows, err));
        int64_t skipped = visit && visit->first > position ? visit->first - position : 0;
        int64_t end =
            visit && visit->end && visit->end - position < rows ? visit->end - position : rows;
        if (visit && skipped < end)
            TRY(rows_visit(en, position, (int32_t)skipped, (int32_t)end, visit, err));
    }
    return true;
}

// ---- drawn tokens -------------------------------------------------------------------------------

// Which of a slot's rows count: each but the first fed a draft, which must be what the one before it
// drew. The device kept nothing of them; lengths were counted as if all were good.
static void drawn_take(Engine *en, int32_t slot) {
    const BatchLayout *b = &en->e->batch;
    Sequence *s = &en->sequences[slot];
    int32_t first_row = params_of(en, slot)->first_row;
    const int32_t *drawn =
        first_row ? ints(en, b->drawn) + first_row - 1 : ints(en, b->sampled) + slot;
    int32_t count = 1;
    while (count <= s->draft_count && drawn[count - 1] == s->drafts[count - 1])
        count++;
    memcpy(s->drawn, drawn, (size_t)count * sizeof *drawn);
    for (int32_t at = 0; at < count; at++)
        seen_add(en, slot, drawn[at]);
    s->length -= s->draft_count + 1 - count;
    s->draft_count = 0;
    s->drawn_count = count;
    s->last = drawn[count - 1];
    s->step += count;
}

bool engine_finish(Engine *en, Error *err) {
    int32_t count = en->drawn_count;
    en->drawn_count = 0;
    const BatchLayout *b = &en->e->batch;
    int64_t slots = en->e->info.max_batch_size, begin = b->sampled, end = b->sampled + slots * 4;
    for (int32_t at = 0; at < count; at++) {
        const SampleParams *p = params_of(en, en->drawn_slots[at]);
        if (p->logprobs > 0)
            end = b->results + slots * (int64_t)sizeof(SampleResult);
        if (p->first_row > 0)
            begin = b->drawn;
    }
    TRY(en->device->type->download(en->device, begin, end - begin, err));
    for (int32_t at = 0; at < count; at++)
        drawn_take(en, en->drawn_slots[at]);
    return true;
}

const SampleResult *engine_result(const Engine *en, int32_t slot) {
    return (const SampleResult *)(const void *)(en->block + en->e->batch.results) + slot;
}

void engine_force(Engine *en, int32_t slot, int32_t token) {
    en->sequences[slot].last = token;
    en->row_count = 0; // the device's rows hold the other token
}

int32_t engine_token(const Engine *en, int32_t slot) {
    return en->sequences[slot].last;
}

int32_t engine_drawn(const Engine *en, int32_t slot, int32_t tokens[SPECULATE_MAX + 1]) {
    const Sequence *s = &en->sequences[slot];
    memcpy(tokens, s->drawn, (size_t)s->drawn_count * sizeof *tokens);
    return s->drawn_count;
}

// Before a step in which the slot's first row of several is first_row - 1, or it has one: 0. What a
// step with drafts drew, the device does not know yet.
static bool slot_rows(Engine *en, int32_t slot, int32_t first_row, Error *err) {
    SampleParams *p = params_of(en, slot);
    bool drafted = p->first_row > 0;
    if (!drafted && !first_row)
        return true;
    p->first_row = first_row;
    return params_upload(en, slot, err) &&
           (!drafted || p->repetition_penalty == 1 || seen_upload(en, slot, err));
}

// A token after each of so many head rows, which are in the block.
static bool rows_sample(Engine *en, int32_t rows, Error *err) {
    const BatchLayout *b = &en->e->batch;
    const DeviceType *type = en->device->type;
    for (int32_t row = 0; row < rows; row++)
        TRY(slot_rows(en, ints(en, b->head_slots)[row], 0, err));
    TRY(upload(en, b->head_rows, rows * 4, err) && upload(en, b->head_slots, rows * 4, err));
    TRY(type->run(en->device, PHASE_HEAD, rows, err));
    TRY(type->run(en->device, PHASE_SAMPLE, rows, err));
    for (int32_t row = 0; row < rows; row++)
        en->drawn_slots[en->drawn_count++] = ints(en, b->head_slots)[row];
    en->row_count = 0;
    return true;
}

bool engine_sample_begin(Engine *en, int32_t slot, Error *err) {
    ints(en, en->e->batch.head_rows)[0] = en->last_row;
    ints(en, en->e->batch.head_slots)[0] = slot;
    return rows_sample(en, 1, err);
}

// max_head_rows is max_batch_size or more: every chunk may draw.
bool engine_prompts_begin(Engine *en, const PromptChunk *chunks, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    int32_t rows = 0, draws = 0;
    for (int32_t at = 0; at < count; at++) {
        const PromptChunk *c = &chunks[at];
        TRY(ids_check(en, c->ids, c->count, err));
        TRY(engine_reserve(en, c->slot, en->sequences[c->slot].length + c->count, err));
    }
    for (int32_t at = 0; at < count; at++) {
        const PromptChunk *c = &chunks[at];
        for (int32_t id = 0; id < c->count; id++)
            seen_add(en, c->slot, c->ids[id]);
        TRY(seen_upload(en, c->slot, err));
        rows_put(en, rows, c->slot, c->ids, c->count);
        rows += c->count;
        if (!c->draw)
            continue;
        ints(en, b->head_rows)[draws] = rows - 1;
        ints(en, b->head_slots)[draws++] = c->slot;
    }
    assert(rows <= en->e->info.max_num_tokens && draws <= en->e->info.max_head_rows);
    return rows_run(en, rows, err) && (!draws || rows_sample(en, draws, err));
}

bool engine_sample(Engine *en, int32_t slot, int32_t *token, Error *err) {
    TRY(engine_sample_begin(en, slot, err) && engine_finish(en, err));
    *token = engine_token(en, slot);
    return true;
}

// ---- decode -------------------------------------------------------------------------------------

static bool rows_upload(Engine *en, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    const int64_t fields[] = {b->token_ids, b->positions, b->slots, b->head_rows, b->head_slots};
    for (size_t at = 0; at < sizeof fields / sizeof *fields; at++)
        TRY(upload(en, fields[at], count * 4, err));
    return true;
}

// After a step the device's rows are already those of the next one (the sampler saw to it), unless
// other slots take part now.
static bool rows_fill(Engine *en, const int32_t *slots, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    bool same =
        en->row_count == count && memcmp(en->row_slots, slots, (size_t)count * sizeof *slots) == 0;
    for (int32_t row = 0; row < count; row++) {
        Sequence *s = &en->sequences[slots[row]];
        rows_put(en, row, slots[row], &s->last, 1);
        ints(en, b->head_rows)[row] = row;
        ints(en, b->head_slots)[row] = slots[row];
    }
    if (same)
        return true;
    for (int32_t row = 0; row < count; row++)
        TRY(slot_rows(en, slots[row], 0, err));
    memcpy(en->row_slots, slots, (size_t)count * sizeof *slots);
    en->row_count = count;
    return rows_upload(en, count, err);
}

// The same with drafts behind the tokens of some slots, then rows of no sequence.
static bool drafts_fill(Engine *en, const int32_t *slots, int32_t count, Error *err) {
    const BatchLayout *b = &en->e->batch;
    int32_t row = 0, end = en->device->target->same_rows;
    for (int32_t at = 0; at < count; at++) {
        Sequence *s = &en->sequences[slots[at]];
        int32_t first = row;
        TRY(slot_rows(en, slots[at], s->draft_count ? first + 1 : 0, err));
        rows_put(en, row, slots[at], &s->last, 1);
        rows_put(en, row + 1, slots[at], s->drafts, s->draft_count);
        for (; row <= first + s->draft_count; row++) {
            ints(en, b->head_rows)[row] = row;
            ints(en, b->head_slots)[row] = slots[at];
        }
    }
    for (; row < end; row++) {
        ints(en, b->token_ids)[row] = ints(en, b->positions)[row] = 0;
        ints(en, b->head_rows)[row] = row;
        ints(en, b->slots)[row] = ints(en, b->head_slots)[row] = -1;
    }
    en->row_count = 0;
    return rows_upload(en, end, err);
}

bool engine_decode_begin(Engine *en, const int32_t *slots, int32_t count, Error *err) {
    int32_t rows = 0;
    for (int32_t at = 0; at < count; at++) {
        const Sequence *s = &en->sequences[slots[at]];
        TRY(engine_reserve(en, slots[at], s->length + 1 + s->draft_count, err));
        rows += 1 + s->draft_count;
    }
    bool drafts = rows > count;
    assert(!drafts || rows <= en->device->target->same_rows);
    TRY(drafts ? drafts_fill(en, slots, count, err) : rows_fill(en, slots, count, err));
    TRY(en->device->type->decode(en->device, rows, drafts, err));
    for (int32_t at = 0; at < count; at++)
        en->drawn_slots[en->drawn_count++] = slots[at];
    return true;
}

bool engine_decode(Engine *en, const int32_t *slots, int32_t count, int32_t *tokens, Error *err) {
    TRY(engine_decode_begin(en, slots, count, err) && engine_finish(en, err));
    for (int32_t row = 0; row < count; row++)
        tokens[row] = engine_token(en, slots[row]);
    return true;
}

// ---- speculation --------------------------------------------------------------------------------

bool engine_drafts(const SampleParams *p) {
    return !sample_counts(p) && p->logprobs <= 0;
}

int32_t engine_draft_rows(const Engine *en, int32_t sequences) {
    int32_t rows = en->device->target->same_rows - sequences;
    return rows > 0 ? rows : 0;
}

bool engine_draft(Engine *en, int32_t slot, const int32_t *drafts, int32_t count, Error *err) {
    Sequence *s = &en->sequences[slot];
    assert(count <= SPECULATE_MAX);
    for (int32_t at = 0; at < count; at++)
        assert(seen_bits(en, slot)[drafts[at] / 32] >> drafts[at] % 32 & 1);
    TRY(engine_reserve(en, slot, s->length + 1 + count, err));
    memcpy(s->drafts, drafts, (size_t)count * sizeof *drafts);
    s->draft_count = count;
    return true;
}

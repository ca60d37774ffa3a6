// The scheduler on a model whose logits tell what the KV cache holds: every answer must be the one
// that a plain loop gives alone, whatever else runs, however full the cache is.
#include "scheduler_lab.h"

#include <math.h>
#include <stdatomic.h>
#include <unistd.h>

// ---- allocations are counted --------------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__)
#define COUNTS_ALLOCATIONS 0 // the sanitizers bring their own
#else
#define COUNTS_ALLOCATIONS 1
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);

static atomic_long allocations;

void *malloc(size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *block, size_t size) {
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(block, size);
}
#endif

// In the place of grammar.c: the text is `length` tokens that are multiples of `factor`; then stop
// tokens may follow, if there are any.
struct Grammar {
    int32_t factor, length, stop; // stop < 0: none
};
struct GrammarState {
    const Grammar *g;
    int32_t count;
};

bool grammar_state_open(GrammarState **out, const Grammar *g, Error *err) {
    (void)err;
    *out = malloc(sizeof **out);
    **out = (GrammarState){.g = g};
    return true;
}

void grammar_state_close(GrammarState *s) {
    free(s);
}

void grammar_mask(const GrammarState *s, uint32_t *mask) {
    memset(mask, 0, (FAKE_VOCAB + 31) / 32 * sizeof *mask);
    for (int32_t id = 0; id < FAKE_VOCAB && s->count < s->g->length; id += s->g->factor)
        mask[id / 32] |= 1u << id % 32;
    if (s->count == s->g->length && s->g->stop >= 0)
        mask[s->g->stop / 32] |= 1u << s->g->stop % 32;
}

bool grammar_advance(GrammarState *s, int32_t token) {
    bool allowed = s->count < s->g->length && token % s->g->factor == 0;
    s->count += allowed;
    return allowed;
}

// Some take time.
static atomic_int tries;

bool grammar_mask_try(const GrammarState *s, uint32_t *mask) {
    if (atomic_fetch_add(&tries, 1) % 3 == 1)
        return false;
    grammar_mask(s, mask);
    return true;
}

bool grammar_advance_try(GrammarState *s, int32_t token, bool *taken) {
    if (atomic_fetch_add(&tries, 1) % 5 == 3)
        return false;
    *taken = grammar_advance(s, token);
    return true;
}

static void expected_ids(const int32_t *prompt, int64_t count, const GenerateParams *p,
                         int32_t *out) {
    const SampleParams sample = {.temperature = p->temperature,
                                 .top_p = p->top_p,
                                 .min_p = p->min_p,
                                 .repetition_penalty = p->repetition_penalty,
                                 .presence_penalty = p->presence_penalty,
                                 .frequency_penalty = p->frequency_penalty,
                                 .bias_count = p->bias_count,
                                 .top_k = p->top_k,
                                 .seed_low = (uint32_t)p->seed,
                                 .seed_high = (uint32_t)(p->seed >> 32)};
    fake_expected(prompt, count, sample, p->bias, out, p->max_tokens);
}

static void check_text(Lab *lab, const LabAnswer *a, int64_t count) {
    Error err = {0};
    char *text;
    size_t size;
    assert_true(tokenizer_decode(lab->tokenizer, a->ids, count, TOKENIZER_SKIP_SPECIAL, &text,
                                 &size, &err));
    assert_int_equal(size, a->size);
    assert_memory_equal(text, a->text, size);
    free(text);
}

typedef struct Case {
    int32_t prompt[FAKE_MAX_SEQ], expected[FAKE_MAX_SEQ];
    int64_t count;
    GenerateParams params;
    LabAnswer answer;
} Case;

// Few tokens, so that n-grams come again.
static const LogitBias repeating[] = {{3, 7}, {17, 6}, {40, 7}};
static const LogitBias biases[] = {{3, 2.5f}, {17, -100}, {40, 1}};
// The same as it may come: in any order, and of two for one token the last one counts.
static const LogitBias biases_given[] = {{40, 1}, {3, -50}, {17, -100}, {3, 2.5f}};

static Case case_of(uint32_t seed) {
    Case c = {.count = 1 + fake_hash(seed, 1) % 40};
    fake_prompt(c.prompt, c.count, seed);
    if (seed % 2) // begins as others do
        fake_prompt(c.prompt, c.count * 2 / 3, seed % 8);
    int64_t room = FAKE_MAX_SEQ - c.count, tokens = 1 + fake_hash(seed, 2) % 30;
    c.params = lab_params(tokens < room ? tokens : room);
    if (seed % 3) {
        c.params.temperature = 0.4f + 0.2f * (float)(seed % 5);
        c.params.top_p = seed % 2 ? 1 : 0.8f;
        c.params.top_k = seed % 4 ? 0 : 12;
        c.params.repetition_penalty = seed % 5 ? 1 : 1.4f;
        c.params.seed = 0x100000001 * seed;
    }
    c.params.presence_penalty = seed % 7 ? 0 : 1.5f;
    c.params.frequency_penalty = seed % 4 ? 0 : 0.75f;
    c.params.bias = biases;
    c.params.bias_count = seed % 6 ? 0 : 3;
    expected_ids(c.prompt, c.count, &c.params, c.expected);
    c.params.bias = biases_given;
    c.params.bias_count = seed % 6 ? 0 : 4;
    return c;
}

static void check_case(Lab *lab, Case *c) {
    lab_wait(lab, &c->answer);
    assert_int_equal(c->answer.finish, FINISH_LENGTH);
    assert_int_equal(c->answer.count, c->params.max_tokens);
    assert_memory_equal(c->answer.ids, c->expected, (size_t)c->answer.count * 4);
    assert_int_equal(c->answer.last.prompt_tokens, c->count);
    check_text(lab, &c->answer, c->answer.count);
}

static SchedulerStats stats_of(Lab *lab) {
    SchedulerStats stats;
    scheduler_stats(lab->scheduler, &stats);
    return stats;
}

// A device that runs nothing while the gate is held, so that requests are there together.
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static bool gated_run(Device *d, StepPhase phase, int32_t rows, Error *err) {
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return device_cpu.run(d, phase, rows, err);
}

static void gate_hold(Lab *lab, DeviceType *type) {
    *type = lab_type;
    type->run = gated_run;
    engine_device(lab->engine)->type = type;
    pthread_mutex_lock(&gate);
}

// ---- answers ------------------------------------------------------------------------------------

// All at once and in bursts, with room for all, for some, and for hardly more than one.
static void test_together_as_alone(void **state) {
    static Case cases[ANSWERS_MAX];
    static const int64_t rooms[] = {0, 128, 64};
    (void)state;
    for (size_t room = 0; room < sizeof rooms / sizeof *rooms; room++)
        for (int64_t budget = 0; budget < 5; budget += 2) {
            Lab lab;
            DeviceType type;
            int64_t prompt_tokens = 0, output_tokens = 0;
            lab_open_scheduler(
                &lab, &device_cpu, &(DeviceOptions){.threads = 1, .kv_tokens = rooms[room]},
                &(SchedulerOptions){.token_budget = budget, .no_prefix_cache = budget == 2});
            gate_hold(&lab, &type);
            for (uint32_t at = 0; at < ANSWERS_MAX; at++) {
                Case *c = &cases[at];
                *c = case_of(at + 100 * (uint32_t)room);
                lab_submit(&lab, &c->answer, c->prompt, c->count, &c->params);
                prompt_tokens += c->count;
                output_tokens += c->params.max_tokens;
                if (at == ANSWERS_MAX / 2)
                    pthread_mutex_unlock(&gate);
            }
            for (int at = 0; at < ANSWERS_MAX; at++)
                check_case(&lab, &cases[at]);
            assert_true(scheduler_drain(lab.scheduler, 10));
            SchedulerStats stats = stats_of(&lab);
            assert_int_equal(stats.prompt_tokens, prompt_tokens);
            assert_int_equal(stats.output_tokens, output_tokens);
            assert_int_equal(stats.finished[FINISH_LENGTH], ANSWERS_MAX);
            assert_int_equal(stats.running + stats.waiting, 0);
            assert_true(budget == 2 ? stats.cached_tokens == 0 : stats.cached_tokens > 0);
            assert_true(room == 0 ? stats.preemptions == 0 : stats.preemptions > 3);
            lab_close(&lab);
        }
}

// A long prompt goes in chunks; the answer that runs gets a token in every step meanwhile.
static void test_chunks_beside_decode(void **state) {
    static LabAnswer one, other;
    Lab lab;
    DeviceType type;
    (void)state;
    int32_t prompt[FAKE_MAX_SEQ];
    GenerateParams p = lab_params(40);
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1},
                       &(SchedulerOptions){.token_budget = 4});
    fake_prompt(prompt, FAKE_MAX_SEQ, 3);
    gate_hold(&lab, &type);
    lab_submit(&lab, &one, prompt, 4, &p);
    lab_submit(&lab, &other, prompt, 60, &p);
    pthread_mutex_unlock(&gate);
    assert_true(scheduler_drain(lab.scheduler, 10));
    assert_int_equal(other.count, 4); // the context ends
    assert_int_equal(other.finish, FINISH_LENGTH);
    assert_int_equal(stats_of(&lab).steps, 40);
    lab_close(&lab);
}

// A device that stops in its first step until it is released, and writes down how many rows of
// prompts each step takes.
static struct {
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool reached, released;
    int32_t rows[16];
    int count;
} recorder = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};

static bool recorded_run(Device *d, StepPhase phase, int32_t rows, Error *err) {
    pthread_mutex_lock(&recorder.lock);
    recorder.reached = true;
    pthread_cond_broadcast(&recorder.change);
    while (!recorder.released)
        pthread_cond_wait(&recorder.change, &recorder.lock);
    if (phase == PHASE_PREFILL && recorder.count < 16)
        recorder.rows[recorder.count++] = rows;
    pthread_mutex_unlock(&recorder.lock);
    return device_cpu.run(d, phase, rows, err);
}

static void recorder_wait(void) {
    pthread_mutex_lock(&recorder.lock);
    while (!recorder.reached)
        pthread_cond_wait(&recorder.change, &recorder.lock);
    pthread_mutex_unlock(&recorder.lock);
}

static void recorder_release(void) {
    pthread_mutex_lock(&recorder.lock);
    recorder.released = true;
    pthread_cond_broadcast(&recorder.change);
    pthread_mutex_unlock(&recorder.lock);
}

// A prompt of 4 tokens, and behind its first step one more and three of 60: a step takes of them what
// the sequences that run leave of its budget, but never less than 64.
static void budget_check(int64_t budget, const int32_t expected[4]) {
    enum { CASES = 5 };
    static Case cases[CASES];
    Lab lab;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1},
                       &(SchedulerOptions){.token_budget = budget, .no_prefix_cache = true});
    DeviceType type = lab_type;
    type.run = recorded_run;
    recorder.reached = recorder.released = false;
    recorder.count = 0;
    engine_device(lab.engine)->type = &type;
    for (uint32_t at = 0; at < CASES; at++) {
        Case *c = &cases[at];
        *c = (Case){.count = at < 2 ? 4 : 60, .params = lab_params(at < 2 ? 40 : 4)};
        fake_prompt(c->prompt, c->count, at + 1);
        expected_ids(c->prompt, c->count, &c->params, c->expected);
        lab_submit(&lab, &c->answer, c->prompt, c->count, &c->params);
        if (at == 0)
            recorder_wait();
    }
    recorder_release();
    for (int at = 0; at < CASES; at++)
        check_case(&lab, &cases[at]);
    assert_true(scheduler_drain(lab.scheduler, 10));
    assert_int_equal(recorder.count, 4);
    for (int at = 0; at < 4; at++)
        assert_int_equal(recorder.rows[at], expected[at]);
    lab_close(&lab);
}

static void test_token_budget(void **state) {
    (void)state;
    fake_chunk = FAKE_CHUNK_MOST;
    budget_check(80, (const int32_t[]){4, 79, 77, 28});
    budget_check(66, (const int32_t[]){4, 65, 64, 55});
    fake_chunk = FAKE_CHUNK;
}

static void test_stops(void **state) {
    static LabAnswer a;
    Lab lab;
    int32_t prompt[4] = {1, 2, 3, 4}, expected[30];
    char *text;
    size_t size;
    Error err = {0};
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    GenerateParams p = lab_params(30);
    expected_ids(prompt, 4, &p, expected);
    assert_true(
        tokenizer_decode(lab.tokenizer, expected, 30, TOKENIZER_SKIP_SPECIAL, &text, &size, &err));
    // A stop token that is the tenth at first: it has no text.
    p.stop_ids = &expected[9];
    p.stop_id_count = 1;
    int first = 0;
    while (expected[first] != expected[9])
        first++;
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.finish, FINISH_STOP);
    assert_int_equal(a.count, first + 1);
    check_text(&lab, &a, first);
    // A stop string of two tokens.
    char stop[3] = {text[11], text[12], 0};
    const char *stops[] = {"no such text", stop};
    p = lab_params(30);
    p.stops = stops;
    p.stop_count = 2;
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.finish, FINISH_STOP);
    assert_string_equal(a.stop, stop);
    assert_int_equal(a.size, (size_t)(strstr(text, stop) - text));
    assert_memory_equal(a.text, text, a.size);
    // The model's own stop token, taken and ignored.
    lab.file.e.info.stop_count = 1;
    lab.file.e.info.stop_ids[0] = expected[9];
    p = lab_params(30);
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.count, first + 1);
    p.ignore_eos = true;
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.count, 30);
    free(text);
    lab_close(&lab);
}

// The second of two equal prompts is computed but for the pages that the first left.
static void test_prefix_cache(void **state) {
    static Case first, second;
    Lab lab;
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    first = case_of(2);
    second = first;
    lab_submit(&lab, &first.answer, first.prompt, first.count, &first.params);
    check_case(&lab, &first);
    lab_submit(&lab, &second.answer, second.prompt, second.count, &second.params);
    check_case(&lab, &second);
    assert_in_range(first.count, FAKE_PAGE_TOKENS + 1, FAKE_MAX_SEQ);
    assert_int_equal(first.answer.last.cached_tokens, 0);
    assert_int_equal(second.answer.last.cached_tokens,
                     (second.count - 1) / FAKE_PAGE_TOKENS * FAKE_PAGE_TOKENS);
    assert_true(scheduler_drain(lab.scheduler, 10));
    lab_close(&lab);
}

// The page that an answer's last step fills is kept for what goes on from there.
static void test_prefix_of_answer(void **state) {
    enum { PROMPT = 2 * FAKE_PAGE_TOKENS + 1, ANSWER = 4 };
    static LabAnswer first, second;
    Lab lab;
    int32_t ids[PROMPT + ANSWER];
    GenerateParams p = lab_params(ANSWER);
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    fake_prompt(ids, PROMPT, 4);
    lab_submit(&lab, &first, ids, PROMPT, &p);
    lab_wait(&lab, &first);
    memcpy(ids + PROMPT, first.ids, ANSWER * sizeof *ids);
    lab_submit(&lab, &second, ids, PROMPT + ANSWER, &p);
    lab_wait(&lab, &second);
    assert_int_equal(second.last.cached_tokens, PROMPT + ANSWER - 1); // whole pages
    lab_close(&lab);
}

// The latest place is the best guess, the longest n-gram before it; a bad one halves the length.
static void test_drafts(void **state) {
    (void)state;
    const int32_t ids[] = {1, 2, 7, 7, 9, 3, 1, 2, 8, 8, 1, 2},
                  tail[] = {3, 1, 2, 5, 1, 2, 6, 3, 1, 2};
    int32_t drafts[SPECULATE_MAX];
    Speculate s = {.most = 4, .length = 4};
    assert_int_equal(speculate_draft(&s, ids, 12, 9, drafts), 4);
    assert_memory_equal(drafts, ((int32_t[]){8, 8, 1, 2}), 16);
    assert_int_equal(speculate_draft(&s, ids, 12, 1, drafts), 1); // no more room
    assert_int_equal(speculate_draft(&s, tail, 10, 9, drafts), 4);
    assert_memory_equal(drafts, ((int32_t[]){5, 1, 2, 6}), 16);
    assert_int_equal(speculate_draft(&s, ids, 6, 9, drafts), 0);
    speculate_learn(&s, 4, 0);
    assert_int_equal(s.length, 2);
    speculate_learn(&s, 2, 1);
    assert_int_equal(s.length, 2);
    speculate_learn(&s, 2, 2);
    assert_int_equal(s.length, 4);
    assert_int_equal(s.drafted, 8);
    assert_int_equal(s.accepted, 3);
}

// device_cpu as if it were a GPU: it has a batch block of its own, which gets what is uploaded, and
// drafts are rows of decode, with those of no sequence behind them.
static struct {
    DeviceType type;
    unsigned char *host, *own, *away;
    size_t bytes;
} apart;

static void apart_open(Engine *en, const BatchLayout *b) {
    apart.bytes = (size_t)b->bytes;
    apart.host = (unsigned char *)engine_mask(en, 0) - b->mask;
    apart.own = calloc(2, apart.bytes);
    apart.away = apart.own + apart.bytes;
}

static bool apart_upload(Device *d, int64_t offset, int64_t size, Error *err) {
    (void)d, (void)err;
    memcpy(apart.own + offset, apart.host + offset, (size_t)size);
    return true;
}

static bool apart_download(Device *d, int64_t offset, int64_t size, Error *err) {
    (void)d, (void)err;
    memcpy(apart.host + offset, apart.own + offset, (size_t)size);
    return true;
}

static bool apart_run(Device *d, StepPhase phase, int32_t rows, Error *err) {
    memcpy(apart.away, apart.host, apart.bytes);
    memcpy(apart.host, apart.own, apart.bytes);
    bool done = device_cpu.run(d, phase, rows, err);
    memcpy(apart.own, apart.host, apart.bytes);
    memcpy(apart.host, apart.away, apart.bytes);
    return done;
}

static bool apart_decode(Device *d, int32_t rows, bool drafts, Error *err) {
    rows = drafts ? d->target->same_rows : rows;
    return apart_run(d, PHASE_DECODE, rows, err) && apart_run(d, PHASE_SAMPLE, rows, err);
}

// Texts that repeat themselves, with drafts and without: the same ids, in fewer steps.
static void speculation_check(bool as_gpu) {
    int64_t accepted = 0, rejected = 0;
    Lab lab;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 2}, &(SchedulerOptions){0});
    if (as_gpu) {
        apart_open(lab.engine, &lab.file.e.batch);
        engine_device(lab.engine)->type = &apart.type;
    }
    for (uint32_t seed = 0; seed < 60; seed++) {
        static Case c[3];
        for (uint32_t at = 0; at < 3; at++) {
            c[at] = case_of(3 * seed + at);
            c[at].params.bias = repeating;
            c[at].params.bias_count = 3;
            c[at].params.speculate = (int32_t)(seed % 4 == 3 ? SPECULATE_MAX : 1 + seed % 3);
            expected_ids(c[at].prompt, c[at].count, &c[at].params, c[at].expected);
            lab_submit(&lab, &c[at].answer, c[at].prompt, c[at].count, &c[at].params);
        }
        for (uint32_t at = 0; at < 3; at++) {
            check_case(&lab, &c[at]);
            accepted += c[at].answer.last.accepted;
            rejected += c[at].answer.last.drafted - c[at].answer.last.accepted;
        }
    }
    assert_true(scheduler_drain(lab.scheduler, 10));
    SchedulerStats stats = stats_of(&lab);
    assert_true(accepted > 150 && rejected > 150);
    assert_int_equal(stats.accepted, accepted);
    assert_int_equal(stats.drafted, accepted + rejected);
    lab_close(&lab);
}

// A stop token that is drawn in the middle of good drafts ends the answer there.
static void test_speculation_stops(void **state) {
    (void)state;
    static Case c;
    int64_t accepted = 0;
    Lab lab;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    for (uint32_t seed = 0; seed < 100; seed++) {
        c = (Case){.count = 30, .params = lab_params(30)};
        for (uint32_t at = 0; at < 30; at++)
            c.prompt[at] = repeating[fake_hash(seed, at) % 3].id;
        c.params.bias = repeating;
        c.params.bias_count = 3;
        c.params.speculate = 4;
        expected_ids(c.prompt, c.count, &c.params, c.expected);
        c.params.stop_ids = &repeating[1].id;
        c.params.stop_id_count = 1;
        int32_t count = 1;
        while (count < 30 && c.expected[count - 1] != repeating[1].id)
            count++;
        lab_submit(&lab, &c.answer, c.prompt, c.count, &c.params);
        lab_wait(&lab, &c.answer);
        assert_int_equal(c.answer.count, count);
        assert_memory_equal(c.answer.ids, c.expected, (size_t)count * 4);
        accepted += c.answer.last.accepted;
    }
    assert_true(accepted > 50);
    lab_close(&lab);
}

static void test_speculation(void **state) {
    (void)state;
    apart.type = device_cpu;
    apart.type.queues = true;
    apart.type.upload = apart_upload;
    apart.type.download = apart_download;
    apart.type.run = apart_run;
    apart.type.decode = apart_decode;
    speculation_check(false);
    speculation_check(true);
    free(apart.own);
}

// ---- parameters of sampling ---------------------------------------------------------------------

static void test_logprobs(void **state) {
    static LabAnswer a;
    Lab lab;
    int32_t prompt[4] = {9, 2, 3, 4};
    uint32_t hash = 1;
    GenerateParams p = lab_params(20);
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    p.temperature = 1;
    p.logprobs = 5;
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    for (int at = 0; at < 4; at++)
        hash = fake_hash(hash, (uint32_t)prompt[at]);
    for (int at = 0; at < 20; at++) {
        double total = 0;
        for (int32_t id = 0; id < FAKE_VOCAB; id++)
            total += exp((double)fake_logit(hash, id));
        assert_int_equal(a.logprobs[at].id, a.ids[at]);
        double own = (double)fake_logit(hash, a.ids[at]) - log(total);
        assert_true(fabs((double)a.logprobs[at].logprob - own) < 1e-5);
        for (int rank = 0; rank < 5; rank++) {
            double of_rank = (double)fake_logit(hash, a.top[at][rank].id) - log(total);
            assert_true(fabs((double)a.top[at][rank].logprob - of_rank) < 1e-5);
            assert_true(rank == 0 || a.top[at][rank].logprob <= a.top[at][rank - 1].logprob);
        }
        hash = fake_hash(hash, (uint32_t)a.ids[at]);
    }
    assert_int_equal(a.last.top_count, 5);
    p.logprobs = 0; // of the drawn token only
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.last.top_count, 0);
    assert_int_equal(a.logprobs[19].id, a.ids[19]);
    lab_close(&lab);
}

// Before min_tokens no stop token is drawn and no stop string counts.
static void test_min_tokens(void **state) {
    static LabAnswer a;
    Lab lab;
    int32_t prompt[4] = {9, 2, 3, 4}, stops[FAKE_VOCAB - 2];
    GenerateParams p = lab_params(20);
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    for (int32_t id = 0; id < FAKE_VOCAB - 2; id++) // all but 7 and 8
        stops[id] = id < 7 ? id : id + 2;
    p.stop_ids = stops;
    p.stop_id_count = FAKE_VOCAB - 2;
    p.temperature = 1;
    for (int64_t least = 0; least < 20; least += 6) {
        p.min_tokens = least;
        p.seed = (uint64_t)least;
        lab_submit(&lab, &a, prompt, 4, &p);
        lab_wait(&lab, &a);
        assert_int_equal(a.finish, FINISH_STOP);
        assert_in_range(a.count, least + 1, 20);
        for (int at = 0; at < a.count; at++)
            assert_int_equal(a.ids[at] == 7 || a.ids[at] == 8, at + 1 < a.count);
    }
    const char *const text[] = {"(", ")"}; // tokens 7 and 8
    p = lab_params(20);
    p.min_tokens = 9;
    p.stops = text;
    p.stop_count = 2;
    p.bias = (LogitBias[]){{7, 50}, {8, 50}};
    p.bias_count = 2;
    lab_submit(&lab, &a, prompt, 4, &p);
    lab_wait(&lab, &a);
    assert_int_equal(a.finish, FINISH_STOP);
    assert_int_equal(a.count, 9); // the first that may end it
    assert_int_equal(a.size, 8);
    lab_close(&lab);
}

static void test_grammar(void **state) {
    static LabAnswer answers[ANSWERS_MAX];
    const Grammar grammars[] = {{7, 9, 3}, {5, 1, 3}, {4, 20, -1}, {2, 0, -1}};
    Lab lab;
    int32_t prompt[20];
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1, .kv_tokens = 128},
                       &(SchedulerOptions){0});
    lab.file.e.info.stop_count = 1;
    lab.file.e.info.stop_ids[0] = 3;
    fake_prompt(prompt, 20, 5);
    for (int at = 0; at < ANSWERS_MAX; at++) {
        GenerateParams p = lab_params(30);
        p.temperature = at % 3 ? 1 : 0;
        p.seed = (uint64_t)at;
        p.speculate = 4;
        p.min_tokens = at % 2 ? 30 : 0; // where only a stop token is left it may be drawn
        p.grammar = &grammars[at % 4];
        p.bias = (LogitBias[]){{0, 40}}; // what repeats itself asks for drafts
        p.bias_count = at % 8 >= 4;
        lab_submit(&lab, &answers[at], prompt, 1 + at % 20, &p);
    }
    for (int at = 0; at < ANSWERS_MAX; at++) {
        const Grammar *g = &grammars[at % 4];
        const LabAnswer *a = &answers[at];
        lab_wait(&lab, &answers[at]);
        assert_int_equal(a->finish, FINISH_STOP);
        assert_int_equal(a->count, g->length + (g->stop >= 0));
        for (int32_t token = 0; token < g->length; token++)
            assert_int_equal(a->ids[token] % g->factor, 0);
        if (g->stop >= 0)
            assert_int_equal(a->ids[g->length], g->stop);
        check_text(&lab, a, g->length);
    }
    lab_close(&lab);
}

#if COUNTS_ALLOCATIONS
enum { WARM = 12 }; // tokens after which buffers have their size

typedef struct Counted {
    long before, after; // allocations when the answer had WARM tokens, and all but one
    atomic_bool ended;
} Counted;

static void count_event(void *user, uint64_t request, const GenerateEvent *e) {
    Counted *c = user;
    (void)request;
    if (e->output_tokens >= WARM && !c->before)
        c->before = atomic_load(&allocations);
    if (e->finish == FINISH_NONE)
        c->after = atomic_load(&allocations);
    else
        atomic_store(&c->ended, true);
}

// Neither a token nor a page nor a chunk of a prompt allocates.
static void test_no_allocation(void **state) {
    Counted counted[FAKE_BATCH] = {{0}};
    const Grammar grammar = {2, 50, -1};
    const char *stops[] = {"never", "!!!!!!"};
    Lab lab;
    DeviceType type;
    int32_t prompt[16];
    uint64_t number;
    Error err = {0};
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    fake_prompt(prompt, 16, 3);
    gate_hold(&lab, &type);
    for (int at = 0; at < FAKE_BATCH; at++) {
        GenerateParams p = lab_params(45);
        p.temperature = (float)(at % 2);
        p.frequency_penalty = (float)(at % 3);
        p.logprobs = at % 4 ? -1 : 3;
        p.grammar = at % 5 ? NULL : &grammar;
        p.stops = stops;
        p.stop_count = 2;
        p.speculate = 4;
        assert_true(scheduler_submit(lab.scheduler, prompt, 2 + 2 * at, &p, count_event,
                                     &counted[at], &number, &err));
    }
    pthread_mutex_unlock(&gate);
    assert_true(scheduler_drain(lab.scheduler, 10));
    long warm = 0, last = 0; // when all buffers had their size; at the last token
    for (int at = 0; at < FAKE_BATCH; at++) {
        assert_true(counted[at].ended && counted[at].before > 0);
        warm = counted[at].before > warm ? counted[at].before : warm;
        last = counted[at].after > last ? counted[at].after : last;
    }
    assert_int_equal(last, warm);
    lab_close(&lab);
}
#else
static void test_no_allocation(void **state) {
    (void)state;
    puts("skipped: the sanitizers count allocations themselves");
    skip();
}
#endif

// ---- ends before the end ------------------------------------------------------------------------

static DeviceType slow; // device_cpu, but

static bool slow_decode(Device *d, int32_t rows, bool drafts, Error *err) {
    usleep(200);
    return device_cpu.decode(d, rows, drafts, err);
}

static void test_cancel(void **state) {
    static Case cases[ANSWERS_MAX];
    Lab lab;
    (void)state;
    slow = device_cpu;
    slow.decode = slow_decode;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1, .kv_tokens = 128},
                       &(SchedulerOptions){0});
    engine_device(lab.engine)->type = &slow;
    int cancelled = 0;
    for (uint32_t at = 0; at < ANSWERS_MAX; at++) {
        Case *c = &cases[at];
        *c = case_of(at);
        lab_submit(&lab, &c->answer, c->prompt, c->count, &c->params);
    }
    for (uint32_t at = 0; at < ANSWERS_MAX; at += 3) {
        scheduler_cancel(lab.scheduler, cases[at].answer.number);
        usleep(at % 4 * 100);
    }
    scheduler_cancel(lab.scheduler, 1 << 30); // nobody's
    for (uint32_t at = 0; at < ANSWERS_MAX; at++) {
        Case *c = &cases[at];
        lab_wait(&lab, &c->answer);
        bool is = c->answer.finish == FINISH_CANCELLED;
        assert_true(is ? at % 3 == 0 : c->answer.finish == FINISH_LENGTH);
        assert_memory_equal(c->answer.ids, c->expected, (size_t)c->answer.count * 4);
        check_text(&lab, &c->answer, c->answer.count);
        cancelled += is;
    }
    assert_true(cancelled > 5);
    assert_true(scheduler_drain(lab.scheduler, 10));
    assert_int_equal(kvcache_free_pages(engine_cache(lab.engine)), 32); // all pages came back
    lab_close(&lab);
}

static void test_close_and_drain(void **state) {
    static Case cases[20];
    Lab lab;
    Error err = {0};
    uint64_t number;
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    cases[0] = case_of(1);
    lab_submit(&lab, &cases[0].answer, cases[0].prompt, cases[0].count, &cases[0].params);
    assert_true(scheduler_drain(lab.scheduler, 10));
    check_case(&lab, &cases[0]);
    assert_false(scheduler_submit(lab.scheduler, cases[0].prompt, 1, &cases[0].params, lab_event,
                                  &cases[1].answer, &number, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    lab_close(&lab);

    slow = device_cpu;
    slow.decode = slow_decode;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    engine_device(lab.engine)->type = &slow;
    for (uint32_t at = 0; at < 20; at++) {
        cases[at] = case_of(at);
        lab_submit(&lab, &cases[at].answer, cases[at].prompt, cases[at].count, &cases[at].params);
    }
    assert_false(scheduler_drain(lab.scheduler, 0));
    lab_close(&lab);
    int cancelled = 0;
    for (int at = 0; at < 20; at++) { // every answer has had its last event
        FinishReason f = cases[at].answer.finish;
        assert_true(f == FINISH_LENGTH || f == FINISH_CANCELLED);
        cancelled += f == FINISH_CANCELLED;
    }
    assert_true(cancelled > 5);
}

// ---- refusals -----------------------------------------------------------------------------------

static void refuse(Lab *lab, const int32_t *ids, int64_t count, const GenerateParams *p,
                   ErrorCode code, int id, const char *words) {
    Error err = {0};
    uint64_t number;
    assert_false(scheduler_submit(lab->scheduler, ids, count, p, lab_event, NULL, &number, &err));
    if (err.code != code || err.id != id || !strstr(err.message, words))
        failed("%d %d \"%s\", expected %d %d \"%s\"", (int)err.code, err.id, err.message, (int)code,
               id, words);
}

static void test_refusals(void **state) {
    Lab lab;
    const int32_t prompt[FAKE_MAX_SEQ] = {0}, bad_ids[] = {1, FAKE_VOCAB}, bad_id = -1;
    const char *const empty[] = {"x", ""}, *const half[] = {"\x80y"};
    const LogitBias not_number = {.id = 1, .bias = -1.0f / 0.0f}, outside = {.id = FAKE_VOCAB};
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    const GenerateParams good = lab_params(1);
    GenerateParams p = good;
    refuse(&lab, prompt, 0, &p, ERR_USAGE, 1109, "no tokens");
    refuse(&lab, prompt, FAKE_MAX_SEQ, &p, ERR_RESOURCE, 1101, "64 tokens");
    refuse(&lab, bad_ids, 2, &p, ERR_USAGE, 1105, "token id 70");
    p.temperature = 0.0f / 0.0f;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1104, "temperature");
    p = good;
    p.top_p = 1.5f;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1104, "top_p");
    p = good;
    p.logprobs = 21;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1104, "logprobs");
    p = good;
    p.bias_count = 301;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1104, "biases");
    p = good;
    p.stop_ids = &bad_id;
    p.stop_id_count = 1;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1105, "stop tokens");
    p = good;
    p.stops = empty;
    p.stop_count = 2;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1106, "empty");
    p.stops = half;
    p.stop_count = 1;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1106, "character");
    p = good;
    p.bias = &not_number;
    p.bias_count = 1;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1107, "no number");
    p.bias = &outside;
    refuse(&lab, prompt, 1, &p, ERR_USAGE, 1105, "logit_bias");
    lab_close(&lab);
}

// While one runs, max_queue may wait and no more.
static void test_full_queue(void **state) {
    enum { QUEUE = 2, TAKEN = 1 + QUEUE };
    static LabAnswer answers[TAKEN];
    Lab lab;
    DeviceType type;
    int32_t prompt[1] = {5};
    GenerateParams p = lab_params(60);
    (void)state;
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1, .kv_tokens = 64},
                       &(SchedulerOptions){.max_queue = QUEUE});
    gate_hold(&lab, &type);
    lab_submit(&lab, &answers[0], prompt, 1, &p);
    while (stats_of(&lab).running == 0)
        usleep(100);
    for (int at = 1; at < TAKEN; at++)
        lab_submit(&lab, &answers[at], prompt, 1, &p);
    refuse(&lab, prompt, 1, &p, ERR_RESOURCE, 1102, "the queue is full");
    pthread_mutex_unlock(&gate);
    assert_true(scheduler_drain(lab.scheduler, 10));
    assert_int_equal(stats_of(&lab).finished[FINISH_LENGTH], TAKEN);
    lab_close(&lab);
}

// ---- a device that fails ------------------------------------------------------------------------

static DeviceType failing;       // device_cpu, but
static atomic_int steps_to_fail; // decode fails when it reaches 0

static bool failing_decode(Device *d, int32_t rows, bool drafts, Error *err) {
    if (atomic_fetch_sub(&steps_to_fail, 1) == 1)
        return fail(err, ERR_DEVICE, 852, "the device is gone");
    return device_cpu.decode(d, rows, drafts, err);
}

static void test_failing_device(void **state) {
    static Case cases[12];
    Lab lab;
    int failures = 0;
    (void)state;
    atomic_store(&steps_to_fail, 1 << 30);
    lab_open_scheduler(&lab, &device_cpu, &(DeviceOptions){.threads = 1}, &(SchedulerOptions){0});
    failing = lab_type;
    failing.decode = failing_decode;
    engine_device(lab.engine)->type = &failing;
    atomic_store(&steps_to_fail, 5);
    for (uint32_t at = 0; at < 12; at++) {
        cases[at] = case_of(at);
        lab_submit(&lab, &cases[at].answer, cases[at].prompt, cases[at].count, &cases[at].params);
    }
    for (int at = 0; at < 12; at++) {
        lab_wait(&lab, &cases[at].answer);
        if (cases[at].answer.finish == FINISH_ERROR) {
            assert_non_null(strstr(cases[at].answer.error.message, "the device is gone"));
            failures++;
        } else {
            check_case(&lab, &cases[at]); // those that waited go on
        }
    }
    assert_in_range(failures, 1, FAKE_BATCH);
    engine_device(lab.engine)->type = &lab_type;
    lab_close(&lab);
}

// Everything once more with a device that says that it queues: text is made a step later then.
static int queues_set(void **state) {
    (void)state;
    lab_queues = true;
    return 0;
}

#define TESTS(_)                 \
    _(test_together_as_alone)    \
    _(test_chunks_beside_decode) \
    _(test_token_budget)         \
    _(test_stops)                \
    _(test_no_allocation)        \
    _(test_grammar)              \
    _(test_speculation)          \
    _(test_speculation_stops)    \
    _(test_prefix_cache)         \
    _(test_prefix_of_answer)     \
    _(test_drafts)               \
    _(test_logprobs)             \
    _(test_min_tokens)           \
    _(test_cancel)               \
    _(test_close_and_drain)      \
    _(test_refusals)             \
    _(test_full_queue)           \
    _(test_failing_device)
#define TEST(name)        cmocka_unit_test(name),
#define TEST_QUEUED(name) {"queued_" #name, name, queues_set, NULL, NULL},

int main(void) {
    const struct CMUnitTest tests[] = {TESTS(TEST) TESTS(TEST_QUEUED)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// The engine and the CPU back end on a model whose logits tell what the KV cache holds.
// before cmocka, which has a macro fail
#include "../../runtime/engine.h"
#include "fake_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};

static Engine *open_engine(FakeFile *f, const DeviceOptions *o) {
    Engine *en = NULL;
    Error err = {0};
    fake_open(f);
    if (!engine_open(&en, &f->e, &device_cpu, o, &err))
        fail_msg("%s", err.message);
    return en;
}

static void close_engine(FakeFile *f, Engine *en) {
    engine_close(en);
    fake_close(f);
}

static void begin(Engine *en, int32_t slot, const SampleParams *p, const int32_t *prompt,
                  int64_t count, int32_t *first) {
    Error err = {0};
    assert_true(engine_start(en, slot, p, &err));
    assert_true(engine_prefill(en, slot, prompt, count, NULL, &err));
    assert_int_equal(engine_length(en, slot), count);
    assert_true(engine_sample(en, slot, first, &err));
}

// ---- one sequence -------------------------------------------------------------------------------

static void check_alone(Engine *en, int64_t count, SampleParams p) {
    enum { TOKENS = 12 };
    int32_t prompt[FAKE_MAX_SEQ], expected[TOKENS], found[TOKENS];
    const int32_t slot = 2;
    Error err = {0};
    fake_prompt(prompt, count, (uint32_t)count);
    fake_expected(prompt, count, p, NULL, expected, TOKENS);
    begin(en, slot, &p, prompt, count, &found[0]);
    for (int at = 1; at < TOKENS; at++)
        assert_true(engine_decode(en, &slot, 1, &found[at], &err));
    assert_memory_equal(found, expected, sizeof found);
    engine_end(en, slot);
}

static void test_alone(void **state) {
    (void)state;
    const SampleParams sampled = {.temperature = 0.7f,
                                  .top_p = 0.9f,
                                  .min_p = 0.01f,
                                  .repetition_penalty = 1.3f,
                                  .top_k = 20,
                                  .seed_low = 5};
    for (int threads = 1; threads <= 3; threads++) {
        FakeFile f;
        Engine *en = open_engine(&f, &(DeviceOptions){.threads = threads});
        for (int64_t count = 1; count < 30; count++) { // chunks of 5, pages of 4
            check_alone(en, count, greedy);
            check_alone(en, count, sampled);
        }
        close_engine(&f, en);
    }
}

// ---- batches ------------------------------------------------------------------------------------

enum { SEQS = FAKE_BATCH, STEPS = 30 };

// Sequences come and go, in sets of any order; each must write what it writes alone.
static void test_batch_changes_nothing(void **state) {
    (void)state;
    FakeFile f;
    Engine *en = open_engine(&f, &(DeviceOptions){.threads = 2});
    int32_t prompts[SEQS][20], expected[SEQS][STEPS + 1];
    int64_t made[SEQS] = {0};
    uint32_t random = 3;
    Error err = {0};
    for (int32_t seq = 0; seq < SEQS; seq++) {
        SampleParams p = {.temperature = seq % 2 ? 0.8f : 0,
                          .top_p = 1,
                          .repetition_penalty = 1,
                          .seed_low = (uint32_t)seq};
        int32_t first;
        fake_prompt(prompts[seq], 3 + 3 * seq, (uint32_t)seq + 100);
        fake_expected(prompts[seq], 3 + 3 * seq, p, NULL, expected[seq], STEPS + 1);
        begin(en, seq, &p, prompts[seq], 3 + 3 * seq, &first);
        assert_int_equal(first, expected[seq][made[seq]++]);
    }
    for (int step = 0; step < 100; step++) {
        int32_t slots[SEQS], tokens[SEQS], count = 0;
        int32_t turn = (int32_t)(random % SEQS);
        for (int32_t at = 0; at < SEQS; at++) {
            int32_t slot = (at + turn) % SEQS;
            random = fake_hash(random, (uint32_t)step);
            if ((step % 7 < 3 || random % 3) && made[slot] < STEPS)
                slots[count++] = slot;
        }
        if (count)
            assert_true(engine_decode(en, slots, count, tokens, &err));
        for (int32_t row = 0; row < count; row++)
            assert_int_equal(tokens[row], expected[slots[row]][made[slots[row]]++]);
    }
    for (int32_t seq = 0; seq < SEQS; seq++)
        assert_int_equal(made[seq], STEPS);
    close_engine(&f, en);
}

// ---- drafts -------------------------------------------------------------------------------------

// After a step with drafts a sequence is given more text and sampled: in a row, and with a random
// number, that its drafts did not have.
static void test_prompt_after_drafts(void **state) {
    (void)state;
    enum { PROMPT = 9, MORE = 4 };
    FakeFile f;
    Engine *en = open_engine(&f, &(DeviceOptions){.threads = 2});
    const int32_t slots[] = {0, 1};
    int32_t ids[2][PROMPT + SPECULATE_MAX + 2 + MORE], tokens[2], expected;
    int64_t known = PROMPT + 1;
    SampleParams p = {.temperature = 1, .top_p = 1, .repetition_penalty = 1.3f};
    Error err = {0};
    for (int32_t slot = 0; slot < 2; slot++) {
        p.seed_low = (uint32_t)slot;
        fake_prompt(ids[slot], PROMPT, (uint32_t)slot + 50);
        begin(en, slot, &p, ids[slot], PROMPT, &ids[slot][PROMPT]);
        assert_true(engine_draft(en, slot, ids[slot], 1, &err));
    }
    assert_true(engine_decode(en, slots, 2, tokens, &err));
    known += engine_drawn(en, 1, ids[1] + known);
    fake_expected(ids[1], PROMPT, p, NULL, tokens, 2);
    assert_memory_equal(ids[1] + PROMPT, tokens, sizeof tokens);
    fake_prompt(ids[1] + known, MORE, 60);
    assert_true(engine_prefill(en, 1, ids[1] + known - 1, MORE + 1, NULL, &err));
    assert_true(engine_sample(en, 1, tokens, &err));
    p.step = (int32_t)(known - PROMPT);
    fake_expected(ids[1], known + MORE, p, NULL, &expected, 1);
    assert_int_equal(tokens[0], expected);
    close_engine(&f, en);
}

// What is drawn after a draft has no log probabilities and no counts.
static void test_who_drafts(void **state) {
    (void)state;
    SampleParams logprobs = greedy, presence = greedy, frequency = greedy;
    logprobs.logprobs = 1;
    presence.presence_penalty = 0.5f;
    frequency.frequency_penalty = -0.5f;
    assert_true(engine_drafts(&greedy));
    assert_false(engine_drafts(&logprobs));
    assert_false(engine_drafts(&presence) || engine_drafts(&frequency));
}

// ---- logits of a prompt -------------------------------------------------------------------------

typedef struct Visited {
    const int32_t *prompt;
    int64_t next; // position that must come next
} Visited;

static bool visit_check(void *user, int64_t position, const float *logits, Error *err) {
    Visited *v = user;
    (void)err;
    assert_int_equal(position, v->next);
    v->next++;
    uint32_t hash = 1;
    for (int64_t at = 0; at <= position; at++)
        hash = fake_hash(hash, (uint32_t)v->prompt[at]);
    for (int32_t id = 0; id < FAKE_VOCAB; id++)
        assert_true(logits[id] == fake_logit(hash, id));
    return true;
}

static void test_visits(void **state) {
    (void)state;
    FakeFile f;
    Engine *en = open_engine(&f, &(DeviceOptions){.threads = 2});
    int32_t prompt[23];
    Error err = {0};
    fake_prompt(prompt, 23, 9);
    for (int64_t first = 0; first <= 23; first++) {
        Visited v = {.prompt = prompt, .next = first};
        LogitsVisit visit = {.visit = visit_check, .user = &v, .first = first};
        assert_true(engine_start(en, 0, &greedy, &err));
        assert_true(engine_prefill(en, 0, prompt, 23, &visit, &err));
        assert_int_equal(v.next, 23);
    }
    close_engine(&f, en);
}

// ---- refusals -----------------------------------------------------------------------------------

static void test_context(void **state) {
    (void)state;
    FakeFile f;
    Engine *en =
        open_engine(&f, &(DeviceOptions){.threads = 1, .kv_tokens = 16, .kv_required = true});
    int32_t prompt[FAKE_MAX_SEQ + 1] = {0}, token;
    const int32_t slot = 0;
    Error err = {0};
    assert_int_equal(engine_context(en), 16);
    assert_true(engine_start(en, slot, &greedy, &err));
    assert_false(engine_prefill(en, slot, prompt, 17, NULL, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    assert_non_null(strstr(err.message, "17 tokens"));
    assert_non_null(strstr(err.message, "16"));
    begin(en, slot, &greedy, prompt, 15, &token);
    assert_false(engine_draft(en, slot, prompt, 1, &err)); // it would be the 17th
    assert_int_equal(err.code, ERR_RESOURCE);
    assert_true(engine_decode(en, &slot, 1, &token, &err)); // the 16th
    assert_false(engine_decode(en, &slot, 1, &token, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    engine_end(en, slot);
    check_alone(en, 4, greedy); // and it lives on
    close_engine(&f, en);
}

static void test_full_cache(void **state) {
    (void)state;
    FakeFile f;
    Engine *en = open_engine(&f, &(DeviceOptions){.threads = 1, .kv_tokens = 40});
    int32_t prompt[32], token;
    Error err = {0};
    fake_prompt(prompt, 32, 1);
    begin(en, 0, &greedy, prompt, 32, &token);
    assert_true(engine_start(en, 1, &greedy, &err));
    assert_false(engine_prefill(en, 1, prompt, 9, NULL, &err));
    assert_int_equal(err.code, ERR_RESOURCE);
    assert_non_null(strstr(err.message, "the KV cache is full"));
    engine_end(en, 0);
    assert_true(engine_prefill(en, 1, prompt, 9, NULL, &err));
    close_engine(&f, en);
}

static void test_bad_id(void **state) {
    (void)state;
    FakeFile f;
    Engine *en = open_engine(&f, &(DeviceOptions){.threads = 1});
    const int32_t bad[] = {FAKE_VOCAB, -1, INT32_MAX};
    Error err = {0};
    assert_true(engine_start(en, 0, &greedy, &err));
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        int32_t prompt[2] = {1, bad[at]};
        assert_false(engine_prefill(en, 0, prompt, 2, NULL, &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_int_equal(engine_length(en, 0), 0);
    }
    close_engine(&f, en);
}

static void refuse(FakeFile *f, const DeviceOptions *o) {
    Engine *en = NULL;
    Error err = {0};
    assert_false(engine_open(&en, &f->e, &device_cpu, o, &err));
    assert_int_equal(err.code, ERR_CORRUPT);
    assert_non_null(strstr(err.message, "weights are damaged"));
}

// What no step asks for, and with check_first everything, is checked before the engine opens.
static void test_damaged_weights(void **state) {
    (void)state;
    const size_t always[] = {0, PAYLOAD_PAGE_BYTES - 1, 3 * PAYLOAD_PAGE_BYTES, FAKE_WEIGHTS - 1};
    const size_t first[] = {PAYLOAD_PAGE_BYTES, 2 * PAYLOAD_PAGE_BYTES, 3 * PAYLOAD_PAGE_BYTES - 1};
    FakeFile f;
    fake_open(&f);
    for (size_t at = 0; at < sizeof always / sizeof *always; at++) {
        f.weights[always[at]] ^= 1;
        refuse(&f, &(DeviceOptions){.threads = 2});
        f.weights[always[at]] ^= 1;
    }
    for (size_t at = 0; at < sizeof first / sizeof *first; at++) {
        f.weights[first[at]] ^= 1;
        refuse(&f, &(DeviceOptions){.threads = 2, .check_first = true});
        f.weights[first[at]] ^= 1;
    }
    fake_close(&f);
}

// A page that is damaged counts from the step on that needs it; that step and all later ones fail.
static void test_damaged_later(void **state) {
    (void)state;
    for (int64_t page = 1; page <= 2; page++) {
        FakeFile f;
        Engine *en = open_engine(&f, &(DeviceOptions){.threads = 2});
        const int32_t good[] = {(int32_t)(page % 2), 8 + (int32_t)(page % 2)};
        const int32_t bad[] = {good[0], good[0] + 1};
        assert_int_equal(fake_token_page(good[1]), 3 - page);
        f.weights[page * PAYLOAD_PAGE_BYTES + 77] ^= 4;
        int32_t token, expected;
        Error err = {0};
        fake_expected(good, 2, greedy, NULL, &expected, 1);
        begin(en, 0, &greedy, good, 2, &token);
        assert_int_equal(token, expected);
        assert_true(engine_start(en, 1, &greedy, &err));
        assert_false(engine_prefill(en, 1, bad, 2, NULL, &err));
        assert_int_equal(err.code, ERR_CORRUPT);
        assert_non_null(strstr(err.message, "weights are damaged (MiB "));
        err = (Error){0};
        assert_true(engine_start(en, 2, &greedy, &err));
        assert_false(engine_prefill(en, 2, good, 2, NULL, &err));
        assert_int_equal(err.code, ERR_CORRUPT);
        close_engine(&f, en);
    }
}

static void test_no_target(void **state) {
    (void)state;
    FakeFile f;
    Engine *en = NULL;
    Error err = {0};
    fake_open(&f);
    assert_false(engine_open(&en, &f.e, &device_cuda, &(DeviceOptions){0}, &err));
    assert_int_equal(err.code, ERR_USAGE);
    snprintf(f.targets[0].name, sizeof f.targets[0].name, "cpu:of-the-future");
    assert_false(engine_open(&en, &f.e, NULL, &(DeviceOptions){0}, &err));
    assert_int_equal(err.code, ERR_DEVICE);
    fake_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),           cmocka_unit_test(test_batch_changes_nothing),
        cmocka_unit_test(test_visits),          cmocka_unit_test(test_context),
        cmocka_unit_test(test_full_cache),      cmocka_unit_test(test_bad_id),
        cmocka_unit_test(test_damaged_weights), cmocka_unit_test(test_damaged_later),
        cmocka_unit_test(test_no_target),       cmocka_unit_test(test_prompt_after_drafts),
        cmocka_unit_test(test_who_drafts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

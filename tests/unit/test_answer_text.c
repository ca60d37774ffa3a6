// The text of an answer: whatever the tokens are, what comes out is what a search through the whole
// text would leave, in whole characters, and nothing is given that a stop string takes back.
#include "tests/tokenizer_lab.h"

#include "runtime/answer_text.h"

#include <limits.h>

enum { MAX_IDS = 64, STOPS = 3 };

typedef struct Fixture {
    Tokenizer *t;
    Arena arena;
} Fixture;

static int set_up(void **state) {
    static Fixture f;
    f.t = lab_open("samples/storyteller", 8192, &f.arena);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    Fixture *f = *state;
    tokenizer_close(f->t);
    arena_free(&f->arena);
    return 0;
}

// The first place at which the text, read byte by byte, ends with a stop string.
static size_t expected_size(const char *text, size_t size, const char *const *stops, int count,
                            bool include, const char **stop) {
    *stop = NULL;
    for (size_t end = 1; end <= size; end++) {
        for (int at = 0; at < count; at++) {
            size_t length = strlen(stops[at]);
            if (length <= end && memcmp(text + end - length, stops[at], length) == 0 &&
                (!*stop || length > strlen(*stop)))
                *stop = stops[at];
        }
        if (*stop)
            return end - (include ? 0 : strlen(*stop));
    }
    return size;
}

static bool whole(Bytes part, const char *text, size_t at, size_t size) {
    return part.size == 0 || at + part.size == size ||
           starts_character((const unsigned char *)text + at + part.size);
}

// Feeds ids; compares the sum of all parts with the text that must come out.
static void check(const Fixture *f, const int32_t *ids, int64_t count, const char *const *stops,
                  int stop_count, bool include) {
    Error err = {0};
    AnswerText a;
    char *text, out[8192];
    size_t size, got = 0;
    const char *stop;
    assert_true(tokenizer_decode(f->t, ids, count, TOKENIZER_SKIP_SPECIAL, &text, &size, &err));
    size_t expected = expected_size(text, size, stops, stop_count, include, &stop);
    assert_true(answer_text_open(&a, f->t, stops, stop_count, include, &err));
    for (int64_t at = 0; at <= count; at++) {
        bool more = at < count && !a.stop;
        assert_true(more ? answer_text_add(&a, ids[at], true, &err) : answer_text_end(&a, &err));
        Bytes part = answer_text_take(&a);
        assert_true(part.size <= sizeof out - got);
        memcpy(out + got, part.data, part.size);
        assert_true(whole(part, text, got, size));
        got += part.size;
        assert_true(got <= expected); // nothing that must be taken back
        if (!more)
            break;
    }
    if (got != expected || memcmp(out, text, got) != 0)
        failed("found \"%.*s\", expected \"%.*s\" of \"%s\"", (int)got, out, (int)expected, text,
               text);
    assert_true(a.stop == stop);
    answer_text_close(&a);
    free(text);
}

static uint32_t next(uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    return *random >> 8;
}

// Few letters, so that stop strings and their beginnings are frequent.
static void test_random_texts(void **state) {
    const Fixture *f = *state;
    static const char *const pieces[] = {"a",   "b",        "ab", "ba",
                                         "aab", "\xc3\xa4", " a", "\xf0\x9f\x99\x82"};
    int found = 0;
    uint32_t random = 5;
    for (int round = 0; round < 3000; round++) {
        char text[512] = "", stops[STOPS][64] = {""};
        const char *list[STOPS];
        int stop_count = (int)(next(&random) % (STOPS + 1));
        for (int at = 0; at < 30; at++)
            strcat(text, pieces[next(&random) % 8]);
        for (int at = 0; at < stop_count; at++) {
            for (uint32_t part = 0; part < 1 + next(&random) % 4; part++)
                strcat(stops[at], pieces[next(&random) % 8]);
            list[at] = stops[at];
            found += strstr(text, stops[at]) != NULL;
        }
        int32_t *ids;
        int64_t count;
        Error err = {0};
        assert_true(tokenizer_encode(f->t, text_bytes(text), 0, &ids, &count, &err));
        check(f, ids, count, list, stop_count, round % 2);
        free(ids);
    }
    assert_in_range(found, 500, INT_MAX);
}

// Any ids: broken characters and special tokens too.
static void test_random_ids(void **state) {
    const Fixture *f = *state;
    static const char *const stops[] = {"\xef\xbf\xbd\xef\xbf\xbd", "e", " the"};
    uint32_t random = 9;
    for (int round = 0; round < 2000; round++) {
        int32_t ids[MAX_IDS];
        for (int at = 0; at < MAX_IDS; at++)
            ids[at] = (int32_t)(next(&random) % (round % 3 ? 8192 : 256));
        check(f, ids, MAX_IDS, stops, round % 4, round % 2);
    }
}

// A character that never becomes whole: what stands for it comes with the end, and may complete a stop
// string.
static void test_broken_end(void **state) {
    const Fixture *f = *state;
    static const char *const stops[] = {"b\xef\xbf\xbd", "\xef\xbf\xbd"};
    Error err = {0};
    int32_t *ids, broken = 0;
    int64_t count;
    while (broken < 8192 && (tokenizer_piece(f->t, broken).size != 1 ||
                             tokenizer_piece(f->t, broken).data[0] != 0xc3))
        broken++;
    assert_true(tokenizer_encode(f->t, text_bytes("aab "), 0, &ids, &count, &err));
    assert_int_equal(tokenizer_piece(f->t, ids[count - 1]).size, 1);
    assert_in_range(broken, 0, 8191);
    ids[count - 1] = broken; // "aab", then half of a character
    for (int first = 0; first < 2; first++)
        for (int include = 0; include < 2; include++)
            check(f, ids, count, stops + first, 1, include);
    free(ids);
}

// Stop strings do not count in the text of the first tokens.
static void test_not_before(void **state) {
    const Fixture *f = *state;
    static const char *const stops[] = {"ab"};
    Error err = {0};
    AnswerText a;
    int32_t *ids;
    int64_t count;
    char out[64] = "";
    assert_true(tokenizer_encode(f->t, text_bytes("abababab"), 0, &ids, &count, &err));
    assert_in_range(count, 2, 8);
    assert_true(answer_text_open(&a, f->t, stops, 1, false, &err));
    for (int64_t at = 0; at < count && !a.stop; at++) {
        assert_true(answer_text_add(&a, ids[at], at > 0, &err));
        Bytes part = answer_text_take(&a);
        strncat(out, (const char *)part.data, part.size);
    }
    Bytes first = tokenizer_piece(f->t, ids[0]);
    assert_true(a.stop == stops[0]);
    assert_int_equal(strlen(out), first.size / 2 * 2);
    answer_text_close(&a);
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_random_ids),
        cmocka_unit_test(test_broken_end),
        cmocka_unit_test(test_not_before),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

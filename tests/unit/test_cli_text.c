// Bytes of tokens to valid UTF-8, however they are cut into pieces. Expected texts are those of
// Python's bytes.decode("utf-8", "replace"), which follows the same rule.
#include "../../runtime/cli_text.h" // before cmocka, which has a macro fail

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define BAD "\xef\xbf\xbd"

static const struct {
    const char *bytes, *text;
} rows[] = {
    {"plain", "plain"},
    {"caf\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80"},
    {"\xc3", BAD},                            // ends inside of a character
    {"\xe4\xbd", BAD},                        // one mark for both bytes
    {"\xf0\x9f\x98 x", BAD " x"},             // and for three
    {"\xff\xfe", BAD BAD},                    // bytes that start nothing
    {"\x80\xbf", BAD BAD},                    // continuations of nothing
    {"\xc0\xaf", BAD BAD},                    // overlong
    {"\xe0\x80\x80", BAD BAD BAD},            // overlong
    {"\xf0\x80\x80\x80", BAD BAD BAD BAD},    // overlong
    {"\xed\xa0\x80", BAD BAD BAD},            // a surrogate
    {"\xed\x9f\xbf", "\xed\x9f\xbf"},         // the last before them
    {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"}, // U+10FFFF
    {"\xf4\x90\x80\x80", BAD BAD BAD BAD},    // above it
    {"\xf5\x80", BAD BAD},
    {"\xc3\xc3\xa9", BAD "\xc3\xa9"},
    {"\xe4\xc3\xa9\xe4", BAD "\xc3\xa9" BAD},
};

// Feeds pieces of `step` bytes.
static void check(const char *bytes, const char *text, size_t step) {
    TextStream s = {.out = NULL};
    Error err = {0};
    size_t size = strlen(bytes);
    for (size_t at = 0; at < size; at += step) {
        size_t part = size - at < step ? size - at : step;
        assert_true(text_add(&s, (Bytes){(const unsigned char *)bytes + at, part}, &err));
    }
    assert_true(text_end(&s, &err));
    assert_string_equal(s.text ? s.text : "", text);
    free(s.text);
}

static void test_rows(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++)
        for (size_t step = 1; step <= 5; step++)
            check(rows[at].bytes, rows[at].text, step);
}

// What is complete is written at once; the rest waits.
static void test_streams(void **state) {
    (void)state;
    TextStream s = {.out = NULL};
    Error err = {0};
    assert_true(text_add(&s, (Bytes){(const unsigned char *)"a\xe4\xbd", 3}, &err));
    assert_string_equal(s.text, "a");
    assert_true(text_add(&s, (Bytes){(const unsigned char *)"\xa0", 1}, &err));
    assert_string_equal(s.text, "a\xe4\xbd\xa0");
    free(s.text);
}

static void test_long_text(void **state) {
    (void)state;
    TextStream s = {.out = NULL};
    Error err = {0};
    for (int at = 0; at < 20000; at++)
        assert_true(text_add(&s, (Bytes){(const unsigned char *)"0123456789", 10}, &err));
    assert_int_equal(s.size, 200000);
    assert_int_equal(strlen(s.text), 200000);
    free(s.text);
}

static void test_json(void **state) {
    (void)state;
    static const char text[] = "a\"b\\c\n\0\x1f\x7f\xc3\xa9\t";
    char *json = text_json(text, sizeof text - 1), *empty = text_json(NULL, 0);
    assert_string_equal(json, "\"a\\\"b\\\\c\\n\\u0000\\u001f\x7f\xc3\xa9\\t\"");
    assert_string_equal(empty, "\"\"");
    free(json);
    free(empty);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_long_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// Chat templates: every construct against what jinja2 makes of it (tests/make_template_vectors.py),
// marks of what a user wrote, limits, refusals at compile time, and damaged blobs.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#undef fail
#include "compiler/template.h"
#include "runtime/payload_template.h"
#include "runtime/template.h"

enum { NOW = 1717243445 };

// cmocka's fail_msg needs its macro `fail`, which is ours here.
#define test_fail(...)            \
    do {                          \
        print_error(__VA_ARGS__); \
        assert_true(0);           \
    } while (0)

// Compiles and opens; false with the error set.
static bool make(const char *source, size_t size, Arena *a, Bytes *blob, Template **t, Error *err) {
    TRY(template_compile("chat_template.jinja", (Bytes){(const unsigned char *)source, size}, a,
                         blob, err));
    return template_open(t, *blob, err);
}

static bool render_with(const char *source, const char *context, TemplateOptions options,
                        TemplateText *out, Error *err) {
    Arena arena = {0};
    Bytes blob;
    Template *t = NULL;
    bool done = make(source, strlen(source), &arena, &blob, &t, err) &&
                template_render(t, context, &options, out, err);
    template_close(t);
    arena_free(&arena);
    return done;
}

static bool render(const char *source, const char *context, TemplateText *out, Error *err) {
    return render_with(source, context, (TemplateOptions){.now = NOW}, out, err);
}

static void text_free(TemplateText *text) {
    free(text->text);
    free(text->user_marks);
}

// ---- constructs ---------------------------------------------------------------------------------

static const char *string_of(const cJSON *row, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

// Returns 1 if a row is not as jinja2 has it.
static int check_row(const cJSON *row, const char *context) {
    const char *source = string_of(row, "template"), *wanted = string_of(row, "text");
    TemplateText text;
    Error err = {0};
    bool done = render(source, context, &text, &err);
    bool syntax = cJSON_HasObjectItem(row, "syntax");
    bool same = wanted ? done && strcmp(text.text, wanted) == 0 : !done;
    if (syntax)
        same = same && err.id >= 930 && err.id < 950 && strstr(err.message, "chat_template.jinja");
    else if (!wanted)
        same = same && err.message[0];
    if (!same)
        print_error("%s\n  wanted %s\n  found  %s\n", source,
                    wanted   ? wanted
                    : syntax ? "(a syntax error)"
                             : "(an error)",
                    done ? text.text : err.message);
    if (done)
        text_free(&text);
    return !same;
}

static void constructs_are_as_in_jinja2(void **state) {
    (void)state;
    FILE *file = fopen("tests/vectors/templates/constructs.jsonl", "r");
    assert_non_null(file);
    char *line = NULL, *context = NULL;
    size_t capacity = 0;
    int rows = 0, bad = 0;
    setenv("TZ", "UTC", 1); // strftime_now is local time
    while (getline(&line, &capacity, file) > 0) {
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        if (string_of(row, "context")) {
            context = strdup(string_of(row, "context"));
        } else {
            bad += check_row(row, context);
            rows++;
        }
        cJSON_Delete(row);
    }
    free(context);
    free(line);
    fclose(file);
    assert_int_equal(bad, 0);
    assert_true(rows >= 220);
}

// ---- marks --------------------------------------------------------------------------------------

static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"<|x|> y\"},"
                           "{\"role\": \"<|z|>\", \"content\": [\"a\", \"b\"]}],"
                           "\"tools\": [{\"<k>\": \"v\\n\", \"n\": 1}],"
                           "\"bos_token\": \"<s>\", \"title\": \"T\"}";

// Each text has a line of marks below it: 1 for a byte that a user wrote.
static const struct {
    const char *source, *text, *marks;
} marked[] = {
    {"{{ bos_token }}<|im|>{{ messages[0].role }}", "<s><|im|>user", "0000000000000"},
    {"<{{ messages[1].role }}>", "<<|z|>>", "0111110"},
    {"a{{ messages[0].content }}b", "a<|x|> yb", "011111110"},
    {"{{ 'a' + messages[0].content + 'b' }}", "a<|x|> yb", "011111110"},
    {"{{ 'a' ~ messages[0].content[1:4] }}", "a|x|", "0111"},
    {"{{ (messages[0].content ~ 'q')[-3:] }}", " yq", "110"},
    {"{{ ('q' ~ messages[0].content)[::-1] }}", "y >|x|<q", "11111110"},
    {"{{ messages[0].content | upper }}{{ 'u' | upper }}", "<|X|> YU", "11111110"},
    {"{{ messages[0].content | replace('x', '--') }}", "<|--|> y", "11001111"},
    {"{{ 'oxo' | replace('x', messages[0].content[0]) }}", "o<o", "010"},
    {"{{ messages[1].content | join('-') }}", "a-b", "101"},
    {"{{ '-'.join(messages[1].content) }}", "a-b", "101"},
    {"{{ messages[0].content.split(' ')[0] }}|", "<|x|>|", "111110"},
    {"{{ (' ' ~ messages[0].content ~ ' ') | trim }}!", "<|x|> y!", "11111110"},
    {"{{ tools[0] | tojson }}", "{\"<k>\": \"v\\n\", \"n\": 1}", "0011100001110000100000"},
    {"{{ tools[0] }}", "{'<k>': 'v\\n', 'n': 1}", "0011100001110000100000"},
    {"{{ '%s;' % messages[0].content }}", "<|x|> y;", "11111110"},
    {"{{ '[{}]'.format(messages[0].content) }}", "[<|x|> y]", "011111110"},
    {"{% set x %}a{{ messages[0].content }}{% endset %}{{ x }}b", "a<|x|> yb", "011111110"},
    {"{% macro m(t) %}<{{ t }}>{% endmacro %}{{ m(messages[0].content) }}", "<<|x|> y>",
     "011111110"},
    {"{{ messages[0].content | e }}", "&lt;|x|&gt; y", "1111111111111"},
    {"{{ 'x' if messages[0].content == '<|x|> y' else 'y' }}", "x", "0"},
    {"{{ title }}{{ 'in ' ~ title | lower }}", "Tin t", "10001"},
    {"{{ messages[0].content | indent(2, true) }}", "  <|x|> y", "001111111"},
};

static void marks_follow_texts(void **state) {
    (void)state;
    for (size_t which = 0; which < sizeof marked / sizeof marked[0]; which++) {
        TemplateText text;
        Error err = {0};
        if (!render(marked[which].source, chat, &text, &err))
            test_fail("%s: %s", marked[which].source, err.message);
        assert_string_equal(text.text, marked[which].text);
        for (size_t at = 0; at < text.size; at++) {
            if (text.user_marks[at] != marked[which].marks[at] - '0')
                test_fail("%s: the mark of byte %zu is %d", marked[which].source, at,
                          text.user_marks[at]);
        }
        assert_int_equal(strlen(marked[which].marks), text.size);
        text_free(&text);
    }
}

// ---- refusals -----------------------------------------------------------------------------------

static const struct {
    const char *source;
    int id;
    const char *words;
} refused[] = {
    {"a\n {{ x y }}", 932, "line 2, column 7: expected '}}', found a name"},
    {"{{ 99999999999999999999 }}", 931, "line 1, column 4: integers beyond 64 bits"},
    {"{% include 'x' %}", 933, "this statement is not supported"},
    {"{% for x in y recursive %}{% endfor %}", 933, "a recursive loop is"},
    {"{{ 1 < a.b.c.d.e.f.g.h.i < 3 }}", 933, "a chain of comparisons of long"},
    {"\n{{ x | nope }}", 936, "line 2, column 8: the filter \"nope\""},
    {"{{ x is nope }}", 937, "the test \"nope\""},
    {"{% nope %}", 938, "the statement \"nope\""},
    {"{% if x %}", 939, "ends where elif is expected"},
    {"{{ lipsum(3) }}", 940, "lipsum"},
    {"{{ x.encode('utf8') }}", 942, "the method \"encode\""},
    {"\xff", 944, "not UTF-8"},
    {"{{ 'x", 930, "closing quote"},
};

static void refusals_have_line_and_column(void **state) {
    (void)state;
    for (size_t which = 0; which < sizeof refused / sizeof refused[0]; which++) {
        TemplateText text;
        Error err = {0};
        assert_false(render(refused[which].source, "{}", &text, &err));
        if (err.id != refused[which].id || !strstr(err.message, refused[which].words))
            test_fail("%s: found %d %s", refused[which].source, err.id, err.message);
        assert_non_null(strstr(err.message, "chat_template.jinja"));
    }
}

static const struct {
    const char *source, *context;
    int id;
    const char *words;
} failing[] = {
    {"\n{{ raise_exception('No \x1b' ~ x) }}", "{\"x\": 1}", 1062, "No \\x1b1"},
    {"\n\n{{ x.y }}", "{}", 1067, "line 3: 'x' is undefined"},
    {"{{ x.y.z }}", "{\"x\": {}}", 1071, "the dict has no 'y'"},
    {"{{ 1 + 'a' }}", "{}", 1068, "+ is not supported between int and str"},
    {"{{ 1 / 0 }}", "{}", 1069, "division by zero"},
    {"x", "{\"a\": }", 1061, "byte 6"},
    {"x", "[1]", 1061, "expected an object"},
    {"x", "{\"a\": 01}", 1061, "expected a value"},
    {"x", "{\"a\": \"\\u12\"}", 1061, "four digits"},
    {"x", "{\"a\": 1", 1061, "closing bracket"},
    {"x", "{} x", 1061, "behind the object"},
    {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{}", 1063,
     "steps"},
    {"{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
     "{% endfor %}",
     "{}", 1064, "memory"},
    {"{{ [0] * 999999999999 }}", "{}", 1064, "memory"},
    {"{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxx' }}{% endfor %}", "{}", 1065, "grows"},
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{}", 1076, "macro calls"},
    {"{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}"
     "{{ n.x }}",
     "{}", 1072, "nested"},
    {"{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}"
     "{{ n.x | tojson }}",
     "{}", 1073, "nested"},
    {"{% set n = namespace(x=[], y=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}"
     "{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
     "{}", 1066, "nested"},
    {"{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "{}", 1070, "\"b\""},
};

static void renderings_fail_clearly_and_end(void **state) {
    (void)state;
    TemplateOptions options = {
        .now = NOW, .max_steps = 1000000, .max_memory = 16 << 20, .max_text_bytes = 1 << 20};
    for (size_t which = 0; which < sizeof failing / sizeof failing[0]; which++) {
        TemplateText text;
        Error err = {0};
        if (render_with(failing[which].source, failing[which].context, options, &text, &err))
            test_fail("%s: did not fail", failing[which].source);
        if (err.id != failing[which].id || !strstr(err.message, failing[which].words))
            test_fail("%s: found %d %s", failing[which].source, err.id, err.message);
    }
}

// A source of `count` times `piece`, between `before` and `after`.
static char *repeated(const char *before, const char *piece, int count, const char *after) {
    size_t size = strlen(before) + strlen(piece) * (size_t)count + strlen(after) + 1, used;
    char *out = malloc(size);
    assert_non_null(out);
    used = (size_t)snprintf(out, size, "%s", before);
    for (int at = 0; at < count; at++)
        used += (size_t)snprintf(out + used, size - used, "%s", piece);
    snprintf(out + used, size - used, "%s", after);
    return out;
}

static void big_templates_end(void **state) {
    (void)state;
    static const struct {
        const char *before, *piece, *after;
        int count;
        int id; // 0: compiles
    } big[] = {
        {"", "{{ ((((((", "", 1000, 930},
        {"{{ ", "(", "", 90, 930},
        {"{{ x", " + x", " }}", 5000, 934},
        {"{{ x", "|trim", " }}", 5000, 934},
        {"{{ ", "- ", "1 }}", 5000, 935},
        {"{{ ", "not ", "1 }}", 500, 0},
        {"{{ 1", " < 2", " }}", 900, 0},
        {"{{ ", "(1 < ", "2))))))))))) }}", 11, 0},
        {"{{ ", "1 if x else ", "1 }}", 5000, 935},
        {"", "{% if x %}", "", 5000, 935},
        {"{% if x %}", "{% elif y %}z", "{% endif %}", 30000, 0},
        {"", "{{ x }}y", "", 100000, 0},
        {"{{ '", "\\n", "' }}", 100000, 0},
        {"{{ [", "1,", "] }}", 100000, 0},
        {"{% raw %}", "{% raw %}", "", 100000, 930},
        {"", "{#", "", 200000, 930},
        {"", "\n", "", 2000000, 943},
    };
    for (size_t which = 0; which < sizeof big / sizeof big[0]; which++) {
        char *source =
            repeated(big[which].before, big[which].piece, big[which].count, big[which].after);
        Arena arena = {0};
        Bytes blob;
        Template *t = NULL;
        Error err = {0};
        bool done = make(source, strlen(source), &arena, &blob, &t, &err);
        if (done != (big[which].id == 0) || err.id != big[which].id)
            test_fail("%s...: found %d %s", big[which].piece, err.id, err.message);
        template_close(t);
        arena_free(&arena);
        free(source);
    }
}

// ---- damage -------------------------------------------------------------------------------------

static uint32_t random_next(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static const char rich[] =
    "{% macro m(a, b=1) %}{{ a }}{{ caller(a) if caller else b }}{{ varargs }}{% endmacro %}"
    "{% set ns = namespace(n=0) %}{% for x in messages if x.role %}{% set ns.n = ns.n + 1 %}"
    "{{ loop.index ~ x['content'][::-1] }}{% if loop.last %}{% break %}{% endif %}{% else %}e"
    "{% endfor %}{% call(y) m(1, 2, 3) %}<{{ y }}>{% endcall %}{{ m(b='q', a=[1, 2.5, none]) }}"
    "{% set t | upper %}x{{ ns.n }}{% endset %}{{ t }}{% filter trim %} z {% endfilter %}"
    "{{ {'k': [1, 'v']} | tojson(indent=2) }}{{ 'a,b'.split(',') | map('title') | join('-') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{% with q = 5 %}{{ q ** 2 // 3 }}{% endwith %}{{ '%s' % 'x' }}{{ 1 < 2 and 'a' in 'abc' }}";

// Opens and, if that works, renders a blob with limits that keep it short.
static int try_blob(const unsigned char *data, size_t size) {
    static const TemplateOptions limits = {
        .now = NOW, .max_steps = 20000, .max_memory = 4 << 20, .max_text_bytes = 1 << 16};
    unsigned char *copy = aligned_alloc(8, (size + 8) / 8 * 8);
    assert_non_null(copy);
    memcpy(copy, data, size);
    Template *t;
    TemplateText text;
    Error err = {0};
    int rendered = 0;
    if (template_open(&t, (Bytes){copy, size}, &err)) {
        if (template_render(t, chat, &limits, &text, &err)) {
            text_free(&text);
            rendered = 1;
        }
        template_close(t);
    }
    assert_true(rendered || err.message[0]);
    free(copy);
    return rendered;
}

static void damaged_blobs_are_safe(void **state) {
    (void)state;
    Arena arena = {0};
    Bytes blob;
    Template *t;
    Error err = {0};
    assert_true(make(rich, strlen(rich), &arena, &blob, &t, &err));
    const TemplateHeader *header = (const TemplateHeader *)(const void *)blob.data;
    size_t code = header->printable.offset; // tables of characters are most of the rest
    unsigned char *copy = arena_alloc(&arena, blob.size);
    assert_int_equal(try_blob(blob.data, blob.size), 1);
    for (size_t size = 0; size < code; size += 3)
        assert_int_equal(try_blob(blob.data, size), 0);
    uint32_t seed = 1;
    int rendered = 0;
    for (int round = 0; round < 4000; round++) {
        memcpy(copy, blob.data, blob.size);
        for (uint32_t changes = 1 + random_next(&seed) % 3; changes > 0; changes--) {
            size_t at = random_next(&seed) % (round % 8 ? code : blob.size);
            copy[at] = (unsigned char)(random_next(&seed) % 4 ? copy[at] + random_next(&seed) % 5
                                                              : random_next(&seed));
        }
        rendered += try_blob(copy, blob.size);
    }
    assert_true(rendered > 100); // the checks let the rest through
    template_close(t);
    arena_free(&arena);
}

static void damaged_sources_are_safe(void **state) {
    (void)state;
    static const char pieces[] = "{}%#-+'\"()[]|.,:=~ \nifelsendforsetraw0x1e\\u";
    uint32_t seed = 2;
    int compiled = 0;
    for (int round = 0; round < 2500; round++) {
        char source[sizeof rich];
        memcpy(source, rich, sizeof rich);
        for (uint32_t changes = 1 + random_next(&seed) % 2; changes > 0; changes--)
            source[random_next(&seed) % (sizeof rich - 1)] =
                pieces[random_next(&seed) % (sizeof pieces - 1)];
        size_t from = round % 4 ? 0 : random_next(&seed) % 100, size = sizeof rich - 1 - from;
        TemplateText text;
        Error err = {0};
        source[from + (round % 3 ? size : random_next(&seed) % size)] = 0;
        if (render_with(source + from, chat, (TemplateOptions){.now = NOW, .max_steps = 20000},
                        &text, &err)) {
            text_free(&text);
            compiled++;
        } else {
            assert_true(err.message[0]);
        }
    }
    assert_true(compiled > 20);
}

static void damaged_contexts_are_safe(void **state) {
    (void)state;
    static const char pieces[] = "{}[]\":,\\u0d8e+-.truefalsnl \xc3\xf0\xed\xff";
    Arena arena = {0};
    Bytes blob;
    Template *t;
    Error err = {0};
    uint32_t seed = 3;
    assert_true(make(rich, strlen(rich), &arena, &blob, &t, &err));
    for (int round = 0; round < 6000; round++) {
        char context[sizeof chat];
        memcpy(context, chat, sizeof chat);
        for (uint32_t changes = 1 + random_next(&seed) % 4; changes > 0; changes--)
            context[random_next(&seed) % (sizeof chat - 1)] =
                pieces[random_next(&seed) % (sizeof pieces - 1)];
        TemplateText text;
        if (template_render(t, context, &(TemplateOptions){.now = NOW}, &text, &err))
            text_free(&text);
    }
    template_close(t);
    arena_free(&arena);
}

static void same_source_same_blob(void **state) {
    (void)state;
    Arena arena = {0};
    Bytes blobs[2];
    Error err = {0};
    for (int which = 0; which < 2; which++)
        assert_true(template_compile("x", (Bytes){(const unsigned char *)rich, sizeof rich - 1},
                                     &arena, &blobs[which], &err));
    assert_int_equal(blobs[0].size, blobs[1].size);
    assert_memory_equal(blobs[0].data, blobs[1].data, blobs[0].size);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs_are_as_in_jinja2),
        cmocka_unit_test(marks_follow_texts),
        cmocka_unit_test(refusals_have_line_and_column),
        cmocka_unit_test(renderings_fail_clearly_and_end),
        cmocka_unit_test(big_templates_end),
        cmocka_unit_test(damaged_blobs_are_safe),
        cmocka_unit_test(damaged_sources_are_safe),
        cmocka_unit_test(damaged_contexts_are_safe),
        cmocka_unit_test(same_source_same_blob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

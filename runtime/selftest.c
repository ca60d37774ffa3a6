// `selftest`: does this machine compute this model right? Says for the file whether it is what the
// compiler wrote, and for each back end how far its logits are from the oracle's, which the compiler
// stored (payload_selftest.h). Prefill and decode are both run. Non-goal: speed; see `bench`.
#include "selftest.h"
#include "cli.h"

#include <cjson/cJSON.h>
#include <string.h>

typedef struct Selftest {
    Cli *cli;
    SelftestHeader header;
    const float *expected; // [SELFTEST_CHECKS][vocab_size]
    cJSON *report;         // array of findings
    bool wrong;            // something is not as it should be
    bool ran;              // a back end was tested
} Selftest;

static void finding_add(Selftest *s, const char *what, const char *verdict, const char *detail) {
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "what", what);
    cJSON_AddStringToObject(item, "verdict", verdict);
    cJSON_AddStringToObject(item, "detail", detail);
    cJSON_AddItemToArray(s->report, item);
    if (!s->cli->options.json) {
        printf("%-28s %-6s %s\n", what, verdict, detail);
        fflush(stdout);
    }
    s->wrong = s->wrong || strcmp(verdict, "WRONG") == 0;
}

// ---- the file -----------------------------------------------------------------------------------

static bool segment_open(Selftest *s, Error *err) {
    const Executable *e = &s->cli->executable;
    Bytes segment = executable_segment(e, SEGMENT_SELFTEST);
    if (!segment.size)
        return fail(err, ERR_UNSUPPORTED, 1270,
                    "this file holds no self-test: it was compiled with --self-test off");
    size_t logits = SELFTEST_CHECKS * (size_t)e->info.vocab_size * sizeof(float);
    if (segment.size != sizeof s->header + logits)
        return fail(err, ERR_CORRUPT, 1271, "the self-test has %zu bytes, expected %zu",
                    segment.size, sizeof s->header + logits);
    memcpy(&s->header, segment.data, sizeof s->header);
    const SelftestHeader *h = &s->header;
    if (h->token_count < 1 || h->token_count > SELFTEST_MAX_TOKENS || h->first < 1 ||
        h->first > h->token_count || h->vocab_size != e->info.vocab_size)
        return fail(err, ERR_CORRUPT, 1272, "the self-test contradicts the model");
    s->expected = (const float *)(const void *)(segment.data + sizeof s->header);
    return true;
}

static void file_check(Selftest *s) {
    static const SegmentKind kinds[SELFTEST_PARTS - 1] = {SEGMENT_CHECKS, SEGMENT_KERNELS,
                                                          SEGMENT_CUBINS, SEGMENT_TOKENIZER};
    const Executable *e = &s->cli->executable;
    Bytes parts[SELFTEST_PARTS] = {{e->whole.data, e->elf_size}};
    uint64_t found[2];
    for (int at = 1; at < SELFTEST_PARTS; at++)
        parts[at] = executable_segment(e, kinds[at - 1]);
    selftest_golden(parts, found);
    bool same = memcmp(found, s->header.golden, sizeof found) == 0;
    finding_add(s, "file", same ? "good" : "WRONG",
                same ? "program, kernels, tokenizer and checks of the weights are the compiler's"
                     : "program, kernels, tokenizer or weights are not what the compiler wrote");
}

static bool kernels_check(Selftest *s) {
    const Executable *e = &s->cli->executable;
    Bytes images = executable_segment(e, SEGMENT_CUBINS);
    bool good = true;
    for (int at = 0; good && at < e->kernel_count; at++) {
        const KernelInfo *k = &e->kernels[at];
        uint64_t found[2] = {0, 0};
        good = k->image_offset <= images.size && k->image_size <= images.size - k->image_offset;
        if (good)
            payload_hash128(images.data + k->image_offset, (size_t)k->image_size, found);
        good = good && memcmp(found, k->image_check, sizeof found) == 0;
        if (!good)
            finding_add(s, "kernels", "WRONG", "a kernel has another kernel's image");
    }
    return good;
}

// ---- one back end -------------------------------------------------------------------------------

// A device that is not here is a finding, not a failure, unless it was asked for.
static bool device_test(Selftest *s, const char *name, Error *err) {
    const char *asked = s->cli->options.device;
    double started = clock_seconds();
    SelftestResult found;
    Engine *en = NULL;
    char detail[600];
    s->cli->options.device = name;
    bool opened = cli_engine(s->cli, &en, selftest_tokens(&s->cli->executable), err);
    s->cli->options.device = asked;
    if (!opened && err->code == ERR_DEVICE && !asked) {
        finding_add(s, name, "absent", err->message);
        *err = (Error){0};
        return true;
    }
    bool done = opened && selftest_run(&s->header, s->expected, en, &found, err);
    if (done) {
        double worst = found.prefill > found.decode ? found.prefill : found.decode;
        bool good = worst <= (double)s->header.bound && !found.wrong_draws;
        snprintf(detail, sizeof detail,
                 "error %.1e in prefill, %.1e in decode, bound %.3f; %d step functions%s; %.2f s; "
                 "%s (%s)",
                 found.prefill, found.decode, (double)s->header.bound, found.functions,
                 found.wrong_draws ? ", tokens drawn that are not the most likely" : "",
                 clock_seconds() - started, engine_device(en)->target->name,
                 engine_device(en)->description);
        finding_add(s, name, good ? "good" : "WRONG", detail);
    } else if (opened && err->code == ERR_DEVICE) { // a kernel that ran into the wall
        finding_add(s, name, "WRONG", err->message);
        *err = (Error){0};
        done = true;
    }
    s->ran = s->ran || done;
    engine_close(en);
    return done;
}

static bool devices_test(Selftest *s, Error *err) {
    const Executable *e = &s->cli->executable;
    if (s->cli->options.device)
        return device_test(s, s->cli->options.device, err);
    if (executable_has(e, DEVICE_CPU))
        TRY(device_test(s, "cpu", err));
    return !executable_has(e, DEVICE_CUDA) || device_test(s, "cuda", err);
}

bool command_selftest(Cli *cli, Error *err) {
    Selftest s = {.cli = cli};
    TRY(segment_open(&s, err));
    s.report = cJSON_CreateArray();
    file_check(&s);
    bool done = !kernels_check(&s) || devices_test(&s, err); // wrong images are not run
    if (cli->options.json) {
        char *text = cJSON_Print(s.report);
        puts(text ? text : "[]");
        cJSON_free(text);
    }
    cJSON_Delete(s.report);
    if (s.wrong)
        return fail(err, ERR_MISMATCH, 1274,
                    "this machine does not compute what the compiler's oracle did; `gptq-compile "
                    "verify` and `doctor` tell more");
    if (done && !s.ran)
        return fail(err, ERR_DEVICE, 1275, "no device that this file was compiled for is here");
    return done;
}

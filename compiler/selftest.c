// Writes what `OUT selftest` compares: a few tokens and the oracle's logits for them.
//
// The oracle is interp.c. It costs every weight once, however few the tokens are, so large models get
// fewer of them. Tokens are drawn by a fixed rule: any will do, since what is compared is arithmetic,
// not text. Non-goal: quality of the model.
#include "selftest.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// Tokens by size of the model: of 8 G weights 4 tokens take the oracle 11 s of a core with AVX2.
typedef struct Length {
    int64_t weights; // at most
    int tokens;
} Length;
static const Length lengths[] = {{300000000, SELFTEST_MAX_TOKENS}, {3000000000, 8}, {INT64_MAX, 4}};

// The largest errors of the tests' models on a CPU are 0.0013 and 0.02.
static const float BOUND_FP16 = 0.01f, BOUND_BF16 = 0.08f;
// Where a token's last expert wins over the next by less than this in the router's logits, rounding
// may choose another one, and the result differs by a whole expert.
static const double MARGIN = 0.05;
static const float BOUND_TIE = 0.6f;
enum { SHORT_TOKENS = 4, ATTEMPTS = 16 }; // sequences that are tried for one without such a tie

static int64_t weight_count(const Graph *g) {
    int64_t count = 0;
    for (int at = 0; at < g->packed_count; at++) {
        const PackedTensor *t = &g->packed[at];
        if (t->kind == PACKED_LINEAR)
            count += t->experts * t->out_features * t->in_features;
    }
    return count;
}

// The smallest of the run that `in` has done; HUGE_VAL for a model without experts.
static double least_margin(const Graph *g, const Interp *in, int tokens) {
    double least = HUGE_VAL;
    for (int at = 0; at < g->op_count; at++) {
        const Op *op = &g->ops[at];
        if (op->kind != OP_ROUTE)
            continue;
        for (int token = 0; token < tokens; token++)
            least = fmin(least, interp_route_margin(in, op, token));
    }
    return least;
}

static void tokens_choose(SelftestHeader *h, int tokens, const Config *c, int64_t max_seq_len,
                          int attempt) {
    h->token_count = tokens;
    if (h->token_count > max_seq_len)
        h->token_count = (int32_t)max_seq_len;
    h->first = h->token_count > 3 ? 3 : 1;
    for (int at = 0; at < h->token_count; at++)
        h->ids[at] = (int32_t)((int64_t)(at + 1) * (7919 + 2 * attempt) % c->vocab_size);
    if (c->bos_token_id >= 0 && c->bos_token_id < c->vocab_size)
        h->ids[0] = c->bos_token_id;
}

// One attempt: tokens into *h, logits of the checked positions behind it.
static bool attempt_run(SelftestHeader *h, const Graph *g, const Config *c, int threads,
                        double *margin, Error *err) {
    size_t vocab = (size_t)c->vocab_size;
    const int positions[SELFTEST_CHECKS] = {h->first - 1, h->token_count - 1};
    float *stored = (float *)(void *)(h + 1);
    Arena scratch = {0};
    double *logits = ARENA_NEW(&scratch, double, (size_t)h->token_count *vocab);
    Interp *in = interp_new(g, c, h->token_count, &scratch);
    interp_stream(in, threads);
    bool done = interp_run(in, h->ids, h->token_count, logits, err);
    for (size_t at = 0; done && at < SELFTEST_CHECKS * vocab; at++) {
        double logit = logits[(size_t)positions[at / vocab] * vocab + at % vocab];
        stored[at] = (float)logit;
        if (!isfinite(logit))
            done = fail(err, ERR_UNSUPPORTED, 693,
                        "the model's logits are not finite for token %d: its weights are not "
                        "usable; --self-test off compiles it all the same",
                        h->ids[positions[at / vocab]]);
    }
    *margin = done ? least_margin(g, in, h->token_count) : 0;
    arena_free(&scratch);
    return done;
}

bool selftest_make(Bytes *out, const Graph *g, const Config *c, int64_t max_seq_len, int threads,
                   Arena *a, Error *err) {
    size_t logits = SELFTEST_CHECKS * (size_t)c->vocab_size * sizeof(float), row = 0;
    *out =
        (Bytes){arena_alloc(a, sizeof(SelftestHeader) + logits), sizeof(SelftestHeader) + logits};
    SelftestHeader *h = (SelftestHeader *)(void *)(uintptr_t)out->data;
    int64_t weights = weight_count(g);
    while (weights > lengths[row].weights)
        row++;
    int attempts = row == 0 ? ATTEMPTS : 1;
    double margin = 0;
    for (int attempt = 0; attempt < attempts && margin < MARGIN; attempt++) {
        *h = (SelftestHeader){.vocab_size = c->vocab_size};
        tokens_choose(h, margin > 0 ? SHORT_TOKENS : lengths[row].tokens, c, max_seq_len, attempt);
        TRY(attempt_run(h, g, c, threads, &margin, err));
    }
    h->bound = margin < MARGIN ? BOUND_TIE : g->dtype == DTYPE_BF16 ? BOUND_BF16 : BOUND_FP16;
    return true;
}

void selftest_seal(Bytes segment, const Bytes parts[SELFTEST_PARTS]) {
    SelftestHeader h;
    if (segment.size < sizeof h)
        return;
    memcpy(&h, segment.data, sizeof h);
    selftest_golden(parts, h.golden);
    memcpy((unsigned char *)(uintptr_t)segment.data, &h, sizeof h);
}

bool selftest_execute(const char *path, bool *ran, Error *err) {
    int status;
    char absolute[4100];
    snprintf(absolute, sizeof absolute, "%s%s", strchr(path, '/') ? "" : "./", path);
    pid_t child = fork();
    if (child == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execl(absolute, absolute, "selftest", (char *)NULL);
        _exit(127);
    }
    *ran = false;
    if (child < 0)
        return fail(err, ERR_RESOURCE, 694, "cannot start %s: %s", path, strerror(errno));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail(err, ERR_INTERNAL, 695, "lost %s: %s", path, strerror(errno));
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == ERR_DEVICE || code == 126 || code == 127) // no device, or another machine's program
        return true;
    *ran = true;
    if (code != 0)
        return fail(err, ERR_MISMATCH, 696,
                    "%s was written, but its self-test on this machine fails (status %d)", path,
                    code);
    return true;
}

// Random walks through the masks of a grammar, for tests/cases/grammar.sh, which shows the texts to
// Python; and how long a mask takes.
//
//   grammar_walk MODEL_DIR VOCAB_SIZE VECTORS COUNT SEED
//
// VECTORS: a JSON list of {"schema": TEXT}, {"regex": TEXT} or {}, which is any object. Writes COUNT
// lines [index, text] for each; texts to which chance finds no end are left out.
#include "tokenizer_lab.h"

#include "../runtime/cli_text.h"
#include "../runtime/grammar.h"

enum { PATIENCE = 30, MAX_TOKENS = 1200 };

static uint64_t draw(uint64_t *seed) { // xorshift64*
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 0x2545f4914f6cdd1du >> 16;
}

static bool allowed(const uint32_t *mask, int32_t id) {
    return mask[id / 32] >> (id % 32) & 1;
}

// A token of the mask: any; once it takes long, one that closes something.
static int32_t pick(const Tokenizer *t, const uint32_t *mask, int32_t vocab, bool hurry,
                    uint64_t *seed) {
    static const char closing[] = "\"}]";
    int32_t count = 0, wanted, chosen = -1;
    for (int32_t id = 0; id < vocab; id++)
        count += allowed(mask, id);
    for (size_t at = 0; hurry && at < sizeof closing - 1; at++)
        for (int32_t id = 0; id < vocab; id++) {
            Bytes piece = tokenizer_piece(t, id);
            if (allowed(mask, id) && piece.size == 1 && piece.data[0] == closing[at])
                return id;
        }
    wanted = count ? (int32_t)(draw(seed) % (uint64_t)count) : -1;
    for (int32_t id = 0; id < vocab && wanted >= 0; id++)
        if (allowed(mask, id) && wanted-- == 0)
            chosen = id;
    return chosen;
}

typedef struct Times { // of masks
    double slowest, sum;
    int64_t count;
} Times;

static void walk(const Tokenizer *t, const Grammar *g, int32_t vocab, int32_t stop, int index,
                 uint64_t *seed, Times *all) {
    Error err = {0};
    GrammarState *s;
    uint32_t *mask = calloc((size_t)vocab / 32 + 1, sizeof *mask);
    int32_t *ids = calloc(MAX_TOKENS, sizeof *ids), count = 0;
    if (!mask || !ids || !grammar_state_open(&s, g, &err))
        failed("%s", err.message);
    for (;;) {
        double start = clock_seconds();
        grammar_mask(s, mask);
        double took = clock_seconds() - start;
        all->slowest = took > all->slowest ? took : all->slowest;
        all->sum += took;
        all->count++;
        bool ends = allowed(mask, stop);
        if (ends != grammar_may_end(s))
            failed("the mask has%s the stop token, the text may%s end", ends ? "" : " not",
                   ends ? " not" : "");
        if (ends && (count > PATIENCE || draw(seed) % 4 == 0))
            break;
        mask[stop / 32] &= ~(1u << (stop % 32));
        int32_t id = pick(t, mask, vocab, count > PATIENCE, seed);
        if (id < 0 && ends)
            break;
        if (id < 0)
            failed("nothing is allowed after %d tokens", count);
        if (count == MAX_TOKENS)
            break; // chance did not find the end
        if (!grammar_advance(s, id))
            failed("token %d was allowed and is not taken", id);
        ids[count++] = id;
    }
    char *text, *json;
    size_t size;
    if (!tokenizer_decode(t, ids, count, 0, &text, &size, &err))
        failed("%s", err.message);
    json = text_json(text, size);
    if (count < MAX_TOKENS)
        printf("[%d, %s]\n", index, json);
    free(json);
    free(text);
    free(mask);
    free(ids);
    grammar_state_close(s);
}

static bool grammar_of(const Tokenizer *t, const cJSON *v, Grammar **g, Error *err) {
    const cJSON *regex = cJSON_GetObjectItem(v, "regex");
    const cJSON *schema = cJSON_GetObjectItem(v, "schema");
    return regex    ? grammar_regex(g, t, text_bytes(regex->valuestring), err)
           : schema ? grammar_json_schema(g, t, text_bytes(schema->valuestring), err)
                    : grammar_json_object(g, t, err);
}

int main(int argc, char **argv) {
    Arena arena = {0};
    Error err = {0};
    if (argc != 6) {
        fputs("usage: grammar_walk DIR VOCAB VECTORS COUNT SEED\n", stderr);
        return 2;
    }
    int32_t vocab = (int32_t)strtol(argv[2], NULL, 10), stop = 0;
    cJSON *vectors = vectors_read(argv[3], &arena);
    uint64_t seed = strtoull(argv[5], NULL, 10) * 2 + 1;
    Tokenizer *t = lab_open(argv[1], vocab, &arena);
    while (stop < vocab - 1 && !tokenizer_is_special(t, stop))
        stop++;
    tokenizer_set_stops(t, &stop, 1);
    int index = 0;
    for (const cJSON *v = vectors->child; v; v = v->next, index++) {
        Grammar *g;
        Times all = {0};
        double start = clock_seconds();
        if (!grammar_of(t, v, &g, &err)) {
            fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
            return (int)err.code;
        }
        double opened = clock_seconds() - start;
        for (long count = strtol(argv[4], NULL, 10); count > 0; count--)
            walk(t, g, vocab, stop, index, &seed, &all);
        fprintf(stderr, "%d: grammar %.2f ms, slowest mask %.3f ms, mean %.1f us of %lld\n", index,
                opened * 1e3, all.slowest * 1e3, all.sum / (double)all.count * 1e6,
                (long long)all.count);
        grammar_free(g);
    }
    cJSON_Delete(vectors);
    tokenizer_close(t);
    arena_free(&arena);
    return 0;
}

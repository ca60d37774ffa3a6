// `gptq-compile check DIR`: everything that is wrong with a checkpoint, at once.
//
// Idea: a compile stops at the first error; this command reads every linear module by itself and
// prints one line for each, then the messages, then remarks: what was ignored, and which tensors no
// part of the model uses (a wrong name in a checkpoint shows up there).
//
// Exit code: 0, or that of the worst finding: 4 a damaged file, 3 something not supported.
#include "compile.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_SAME_ID = 3, FINDINGS_MAX = 4096 };

#define ROW_FORMAT "%-44s %-16s %4s %6s %-4s %-10s %-9s %-5s %-22s %s\n"

typedef struct Finding {
    const char *module;
    Error err;
} Finding;

typedef struct Check {
    Arena *arena;
    Checkpoint checkpoint;
    Config config;
    Finding *findings; // [count], at most FINDINGS_MAX
    int count;
    bool *used;  // [checkpoint.count]
    int misread; // modules whose rules vLLM reads in another way
    Notes notes;
} Check;

static void usage(FILE *out) {
    fputs("usage: gptq-compile check DIR\n"
          "Reads the checkpoint in DIR and says whether it can be compiled, module by module.\n"
          "Exit code: 0 yes, 3 something is not supported, 4 a file is damaged.\n",
          out);
}

static void finding_add(Check *c, const char *module, const Error *err) {
    if (c->count < FINDINGS_MAX)
        c->findings[c->count++] = (Finding){module, *err};
}

static void use(Check *c, const Tensor *t) {
    if (t)
        c->used[t - c->checkpoint.tensors] = true;
}

// ---- one module ---------------------------------------------------------------------------------

// How the module would be stored, if by itself.
static const char *stored_text(char *out, size_t size, const Weight *w, Arena *a) {
    const Weight *part = w;
    PackedTensor t = {.kind = PACKED_LINEAR,
                      .parts = &part,
                      .part_count = 1,
                      .experts = 1,
                      .out_features = w->out_features};
    if (!packed_choose(&t, DTYPE_FP16, a))
        return "-";
    if (t.bits == 16)
        snprintf(out, size, "16-bit");
    else
        snprintf(out, size, "%d-bit g%d%s%s%s", t.bits, t.group, t.zeros ? " zeros" : "",
                 t.scale_f32 ? " f32" : "", t.input_order ? " ordered" : "");
    return out;
}

static void row_print(const Weight *w, const char *stored, const char *verdict) {
    char shape[48], bits[16] = "?", group[24] = "-";
    int64_t size[2] = {w->in_features, w->out_features};
    bool quantized = w->qweight && w->groups; // read far enough to know
    if (w->bits)
        snprintf(bits, sizeof bits, "%d", w->bits);
    if (quantized)
        snprintf(group, sizeof group, "%lld", (long long)w->group_size);
    const char *sym = w->sym ? "yes" : "no", *order = w->act_order ? "act-order" : "in order";
    const char *bias = w->bias ? "yes" : w->spurious_bias ? "zero" : "-";
    printf(ROW_FORMAT, w->module, shape_text(shape, sizeof shape, size, 2), bits, group,
           quantized ? sym : "-", w->zeros, quantized ? order : "-", bias, stored, verdict);
}

static bool same_setting(const QuantEffective *a, const QuantEffective *b) {
    if (a->negative || b->negative)
        return a->negative == b->negative;
    return a->bits == b->bits && a->group_size == b->group_size && a->sym == b->sym;
}

static const char *setting_text(char *out, size_t size, const QuantEffective *e) {
    if (e->negative)
        return "not quantized";
    snprintf(out, size, "%d bits, group_size %lld, %s", e->bits, (long long)e->group_size,
             e->sym ? "symmetric" : "asymmetric");
    return out;
}

// vLLM matches rules in another order and with other names than GPTQModel, whose way is ours.
static void rules_compare(Check *c, const char *module) {
    QuantEffective ours, theirs;
    Error err;
    const char *name;
    char our_text[80], their_text[80];
    if (!c->config.quant.rule_count || !quant_effective(&ours, &c->config.quant, module, &err) ||
        !quant_effective_vllm(&theirs, &c->config.quant, module, &name, c->arena, &err) ||
        same_setting(&ours, &theirs) || ++c->misread > MAX_SAME_ID)
        return;
    note(&c->notes, c->arena, "%s: \"dynamic\" means %s; vLLM, which calls it %s, reads %s", module,
         setting_text(our_text, sizeof our_text, &ours), name,
         setting_text(their_text, sizeof their_text, &theirs));
}

static void module_check(Check *c, const LinearSpec *spec) {
    Weight w;
    Error err = {0};
    char verdict[32] = "ok", stored[64];
    bool done = weight_open(&w, &c->checkpoint, &c->config.quant, spec->module, spec->in_features,
                            spec->out_features, spec->wants_bias, c->arena, &err);
    if (!done) {
        snprintf(verdict, sizeof verdict, "GQC-%04d", err.id);
        finding_add(c, w.module, &err);
    }
    const Tensor *const tensors[] = {w.qweight, w.qzeros, w.scales,       w.g_idx,
                                     w.weight,  w.bias,   w.spurious_bias};
    for (size_t at = 0; at < sizeof tensors / sizeof tensors[0]; at++)
        use(c, tensors[at]);
    if (w.spurious_bias)
        note(&c->notes, c->arena, "%s: %s is all zero and not part of the model; dropped",
             w.spurious_bias->file, w.spurious_bias->name);
    for (int at = 0; at < w.notes.count; at++)
        note(&c->notes, c->arena, "%s", w.notes.items[at]);
    if (w.qweight)
        rules_compare(c, w.module);
    row_print(&w, done ? stored_text(stored, sizeof stored, &w, c->arena) : "-", verdict);
}

// ---- the model ----------------------------------------------------------------------------------

// Builds the graph, which checks what is no linear module, and marks the vectors that it uses.
static void graph_check(Check *c, const Arch *arch) {
    Graph g = graph_new(c->arena);
    Error err = {0};
    if (!arch_build(arch, &g, &c->config, &c->checkpoint, c->config.max_position_embeddings,
                    c->arena, &err)) {
        bool known = false;
        for (int at = 0; at < c->count; at++)
            known = known || strcmp(c->findings[at].err.message, err.message) == 0;
        if (!known)
            finding_add(c, "model", &err);
        return;
    }
    for (int at = 0; at < g.packed_count; at++)
        if (g.packed[at].kind == PACKED_VECTOR)
            use(c, checkpoint_find(&c->checkpoint, g.packed[at].name));
    for (int at = 0; at < c->checkpoint.count; at++) {
        const Tensor *t = &c->checkpoint.tensors[at];
        char name[160];
        if (!c->used[at] && !strstr(t->name, "rotary_emb.inv_freq"))
            note(&c->notes, c->arena, "%s: tensor %s is not used", t->file,
                 text_escape(name, sizeof name, t->name, strlen(t->name)));
    }
}

// Errors of one kind often come with every module: the first few say enough.
static void findings_print(const Check *c) {
    for (int at = 0; at < c->count; at++) {
        int before = 0, after = 0;
        for (int other = 0; other < c->count; other++) {
            bool same = c->findings[other].err.id == c->findings[at].err.id;
            before += same && other < at;
            after += same && other > at;
        }
        if (before < MAX_SAME_ID)
            printf("error GQC-%04d: %s\n", c->findings[at].err.id, c->findings[at].err.message);
        if (before == MAX_SAME_ID - 1 && after)
            printf("error GQC-%04d: and %d more of this kind\n", c->findings[at].err.id, after);
    }
}

static void notes_print(const Notes *notes) {
    for (int at = 0; at < notes->count; at++)
        printf("note: %s\n", notes->items[at]);
}

static bool check_run(Check *c, const char *dir, Error *err) {
    TRY(checkpoint_open(&c->checkpoint, dir, c->arena, err));
    TRY(config_read(&c->config, dir, c->arena, err));
    const Arch *arch = arch_find(c->config.architecture); // config_read refuses unknown ones
    c->used = ARENA_NEW(c->arena, bool, c->checkpoint.count);
    c->findings = ARENA_NEW(c->arena, Finding, FINDINGS_MAX);
    printf("%s: %s, %d tensors in %d files, %.1f MB\n\n", c->config.name, c->config.architecture,
           c->checkpoint.count, c->checkpoint.shards, (double)c->checkpoint.bytes * 1e-6);
    printf(ROW_FORMAT, "module", "[in, out]", "bits", "group", "sym", "zeros", "order", "bias",
           "stored as", "verdict");
    int count;
    LinearSpec *specs;
    TRY(arch_linears(arch, &c->config, &c->checkpoint, c->arena, &specs, &count, err));
    for (int at = 0; at < count; at++)
        module_check(c, &specs[at]);
    if (c->misread > MAX_SAME_ID)
        note(&c->notes, c->arena, "and %d more modules whose rules vLLM reads in another way",
             c->misread - MAX_SAME_ID);
    graph_check(c, arch);
    putchar('\n');
    findings_print(c);
    notes_print(&c->checkpoint.notes);
    notes_print(&c->config.notes);
    notes_print(&c->notes);
    return true;
}

int check_command(int argc, char **argv) {
    if (argc != 3 || strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0) {
        bool asked = argc == 3;
        usage(asked ? stdout : stderr);
        return asked ? 0 : ERR_USAGE;
    }
    Arena arena = {0};
    Error err = {0};
    Check check = {.arena = &arena};
    int code = 0;
    if (!check_run(&check, argv[2], &err)) {
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
        code = (int)err.code;
    }
    for (int at = 0; at < check.count; at++)
        if ((int)check.findings[at].err.code > code)
            code = (int)check.findings[at].err.code;
    if (code == 0)
        puts("this checkpoint can be compiled");
    arena_free(&arena);
    return code;
}

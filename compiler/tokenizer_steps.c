// pre_tokenizer, post_processor and decoder of tokenizer.json as lists of steps.
//
// Source: Hugging Face tokenizers, pre_tokenizers/*, processors/*, decoders/*.
#include "tokenizer_build.h"
#include "tokenizer_regex.h"

#include <string.h>

static const char *const META = "\xe2\x96\x81"; // U+2581

Node node_of(const cJSON *json, const char *path) {
    return (Node){json, path, member_text(json, "type")};
}

const char *node_path(const TokenizerBuild *b, const Node *node, const char *key) {
    return arena_printf(b->arena, "%s.%s", node->path, key);
}

enum { MAX_NODES = 64, MAX_NESTING = 8 };

bool nodes_read(TokenizerBuild *b, Node root, const char *key, NodeRead read) {
    struct {
        Node list;
        const cJSON *next;
        int index;
    } stack[MAX_NESTING];
    int depth = 0, count = 0;
    for (Node node = root;;) {
        if (++count > MAX_NODES || depth == MAX_NESTING)
            return fail(b->err, ERR_UNSUPPORTED, 923, "%s: %s has more than %d parts", b->file,
                        root.path, MAX_NODES);
        if (strcmp(node.type, "Sequence") == 0) {
            const cJSON *list = member(node.json, key);
            stack[depth].list = node;
            stack[depth].next = cJSON_IsArray(list) ? list->child : NULL;
            stack[depth++].index = 0;
        } else {
            TRY(read(b, &node));
        }
        while (depth && !stack[depth - 1].next)
            depth--;
        if (!depth)
            return true;
        const cJSON *json = stack[depth - 1].next;
        node = node_of(json, arena_printf(b->arena, "%s.%s[%d]", stack[depth - 1].list.path, key,
                                          stack[depth - 1].index++));
        stack[depth - 1].next = json->next;
    }
}

// ---- pre-tokenizer ------------------------------------------------------------------------------

static bool step_add(TokenizerBuild *b, const Node *node, SplitStep step) {
    if (b->h.flags & MODEL_BYTE_LEVEL)
        return refuse(b, 924, node_path(b, node, "type"), node->type, "ByteLevel as the last one");
    if (b->h.step_count == TOKENIZER_MAX_STEPS)
        return fail(b->err, ERR_UNSUPPORTED, 925, "%s: %s: more than %d steps", b->file, node->path,
                    TOKENIZER_MAX_STEPS);
    b->h.steps[b->h.step_count++] = step;
    return true;
}

static void step_text(TokenizerBuild *b, SplitStep *step, const char *text) {
    step->size = strlen(text);
    step->data = blob_add(b, text, (size_t)step->size);
}

static bool step_pattern(TokenizerBuild *b, SplitStep *step, const char *regex, const char *path) {
    Bytes tables;
    step->kind = STEP_PATTERN;
    TRY(pattern_compile(&tables, regex, arena_printf(b->arena, "%s: %s", b->file, path), b->arena,
                        b->err));
    step->size = tables.size;
    step->data = blob_add(b, tables.data, tables.size);
    return true;
}

static bool behavior_read(TokenizerBuild *b, const Node *node, const char *fallback,
                          uint32_t *behavior) {
    static const char *const names[BEHAVIOR_COUNT][2] = {
        [BEHAVIOR_ISOLATED] = {"Isolated", "isolated"},
        [BEHAVIOR_REMOVED] = {"Removed", "removed"},
        [BEHAVIOR_MERGED_WITH_PREVIOUS] = {"MergedWithPrevious", "merged_with_previous"},
        [BEHAVIOR_MERGED_WITH_NEXT] = {"MergedWithNext", "merged_with_next"},
        [BEHAVIOR_CONTIGUOUS] = {"Contiguous", "contiguous"},
    };
    const char *found = member_text(node->json, "behavior");
    found = found[0] ? found : fallback;
    for (uint32_t at = 0; at < BEHAVIOR_COUNT; at++)
        if (strcmp(found, names[at][0]) == 0 || strcmp(found, names[at][1]) == 0) {
            *behavior = at;
            return true;
        }
    return refuse(b, 926, node_path(b, node, "behavior"), found,
                  "Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
}

static bool split_read(TokenizerBuild *b, const Node *node) {
    const cJSON *pattern = member(node->json, "pattern");
    const cJSON *regex = member(pattern, "Regex"), *text = member(pattern, "String");
    SplitStep step = {.kind = STEP_TEXT, .invert = member_true(node->json, "invert")};
    TRY(behavior_read(b, node, "", &step.behavior));
    if (cJSON_IsString(regex))
        TRY(step_pattern(b, &step, regex->valuestring, node_path(b, node, "pattern.Regex")));
    else if (cJSON_IsString(text) && text->valuestring[0])
        step_text(b, &step, text->valuestring);
    else
        return refuse(b, 927, node_path(b, node, "pattern"), "neither Regex nor String",
                      "{\"Regex\": ...} or {\"String\": ...}");
    return step_add(b, node, step);
}

#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static bool byte_level_read(TokenizerBuild *b, const Node *node) {
    const cJSON *use_regex = member(node->json, "use_regex");
    SplitStep step = {.behavior = BEHAVIOR_ISOLATED};
    if (member_true(node->json, "add_prefix_space"))
        TRY(step_add(b, node, (SplitStep){.kind = STEP_PREFIX_SPACE}));
    if (!use_regex || cJSON_IsTrue(use_regex)) {
        TRY(step_pattern(b, &step, GPT2_PATTERN, node->path));
        TRY(step_add(b, node, step));
    }
    b->h.flags |= MODEL_BYTE_LEVEL;
    return true;
}

// The scheme of a Metaspace; add_prefix_space is its older form.
static bool prepend_read(TokenizerBuild *b, const Node *node, uint32_t *scheme) {
    static const char *const names[] = {"always", "first", "never"}; // PREPEND_*
    const char *found = member_text(node->json, "prepend_scheme");
    if (cJSON_IsFalse(member(node->json, "add_prefix_space")))
        found = "never";
    *scheme = 0;
    while (*scheme < 3 && strcmp(found[0] ? found : "always", names[*scheme]) != 0)
        ++*scheme;
    return *scheme < 3 ||
           refuse(b, 928, node_path(b, node, "prepend_scheme"), found, "always, first, never");
}

static const char *replacement_of(const Node *node) {
    const char *text = member_text(node->json, "replacement");
    return text[0] ? text : META;
}

static bool metaspace_read(TokenizerBuild *b, const Node *node) {
    const cJSON *split = member(node->json, "split");
    SplitStep step = {.kind = STEP_METASPACE};
    TRY(prepend_read(b, node, &step.option));
    step_text(b, &step, replacement_of(node));
    TRY(step_add(b, node, step));
    if (split && !cJSON_IsTrue(split))
        return true;
    step.kind = STEP_TEXT;
    step.behavior = BEHAVIOR_MERGED_WITH_NEXT;
    return step_add(b, node, step);
}

static bool class_step(TokenizerBuild *b, const Node *node, uint32_t class, Behavior behavior) {
    return step_add(b, node, (SplitStep){STEP_CLASS, behavior, 0, class, 0, 0});
}

static bool digits_read(TokenizerBuild *b, const Node *node) {
    return class_step(b, node, CLASS_NUMBER,
                      member_true(node->json, "individual_digits") ? BEHAVIOR_ISOLATED
                                                                   : BEHAVIOR_CONTIGUOUS);
}

static bool punctuation_read(TokenizerBuild *b, const Node *node) {
    uint32_t behavior;
    TRY(behavior_read(b, node, "Isolated", &behavior));
    return class_step(b, node, CLASS_PUNCTUATION, (Behavior)behavior);
}

static bool whitespace_split_read(TokenizerBuild *b, const Node *node) {
    return class_step(b, node, CLASS_SPACE, BEHAVIOR_REMOVED);
}

static bool whitespace_read(TokenizerBuild *b, const Node *node) {
    return step_add(b, node,
                    (SplitStep){.kind = STEP_WORDS, .behavior = BEHAVIOR_REMOVED, .invert = 1});
}

static bool bert_read(TokenizerBuild *b, const Node *node) {
    return class_step(b, node, CLASS_SPACE, BEHAVIOR_REMOVED) &&
           class_step(b, node, CLASS_PUNCTUATION, BEHAVIOR_ISOLATED);
}

static bool delimiter_read(TokenizerBuild *b, const Node *node) {
    SplitStep step = {.kind = STEP_TEXT, .behavior = BEHAVIOR_REMOVED};
    const char *text = member_text(node->json, "delimiter");
    if (!text[0])
        return refuse(b, 929, node_path(b, node, "delimiter"), "", "a character");
    step_text(b, &step, text);
    return step_add(b, node, step);
}

static const NodeType splitters[] = {
    {"Split", split_read},
    {"ByteLevel", byte_level_read},
    {"Metaspace", metaspace_read},
    {"Digits", digits_read},
    {"Punctuation", punctuation_read},
    {"Whitespace", whitespace_read},
    {"WhitespaceSplit", whitespace_split_read},
    {"BertPreTokenizer", bert_read},
    {"CharDelimiterSplit", delimiter_read},
    {NULL, NULL},
};

bool node_typed(TokenizerBuild *b, const Node *node, const NodeType *types, int id,
                const char *supported) {
    for (; types->type; types++)
        if (strcmp(types->type, node->type) == 0)
            return types->read(b, node);
    return refuse(b, id, node_path(b, node, "type"), node->type, supported);
}

static bool splitter_read(TokenizerBuild *b, const Node *node) {
    return node_typed(b, node, splitters, 962,
                      "Sequence, Split, ByteLevel, Metaspace, Digits, Punctuation, Whitespace, "
                      "WhitespaceSplit, BertPreTokenizer, CharDelimiterSplit");
}

bool pre_tokenizer_read(TokenizerBuild *b, const cJSON *json) {
    return !json || nodes_read(b, node_of(json, "pre_tokenizer"), "pretokenizers", splitter_read);
}

// ---- post-processor -----------------------------------------------------------------------------

typedef struct Affix {
    int32_t ids[TOKENIZER_MAX_TEMPLATE];
    int32_t count;
} Affix;

static bool affix_add(TokenizerBuild *b, const Node *node, Affix *affix, const cJSON *id) {
    double value = cJSON_IsNumber(id) ? id->valuedouble : -1;
    if (!(value >= 0 && value < (double)b->h.vocab_size))
        return fail(b->err, ERR_CORRUPT, 963, "%s: %s adds token %g, expected 0 to %d", b->file,
                    node->path, value, b->h.vocab_size - 1);
    if (affix->count == TOKENIZER_MAX_TEMPLATE)
        return fail(b->err, ERR_UNSUPPORTED, 964, "%s: %s adds more than %d tokens", b->file,
                    node->path, TOKENIZER_MAX_TEMPLATE);
    affix->ids[affix->count++] = (int32_t)value;
    return true;
}

// What a processor puts around goes outside of what the one before put around.
static bool affixes_apply(TokenizerBuild *b, const Node *node, const Affix *front,
                          const Affix *back) {
    b->has_template = true;
    Affix prefix = *front, suffix = {.count = b->h.suffix_count};
    memcpy(suffix.ids, b->h.suffix, sizeof suffix.ids);
    if (prefix.count + b->h.prefix_count > TOKENIZER_MAX_TEMPLATE ||
        suffix.count + back->count > TOKENIZER_MAX_TEMPLATE)
        return fail(b->err, ERR_UNSUPPORTED, 965, "%s: %s adds too many tokens; at most %d",
                    b->file, node->path, TOKENIZER_MAX_TEMPLATE);
    for (int32_t at = 0; at < b->h.prefix_count; at++)
        prefix.ids[prefix.count++] = b->h.prefix[at];
    for (int32_t at = 0; at < back->count; at++)
        suffix.ids[suffix.count++] = back->ids[at];
    memcpy(b->h.prefix, prefix.ids, sizeof prefix.ids);
    memcpy(b->h.suffix, suffix.ids, sizeof suffix.ids);
    b->h.prefix_count = prefix.count;
    b->h.suffix_count = suffix.count;
    return true;
}

static bool template_read(TokenizerBuild *b, const Node *node) {
    const cJSON *single = member(node->json, "single");
    Affix front = {.count = 0}, back = {.count = 0};
    int texts = 0;
    for (const cJSON *entry = cJSON_IsArray(single) ? single->child : NULL; entry;
         entry = entry->next) {
        const cJSON *sequence = member(entry, "Sequence");
        const char *name = member_text(member(entry, "SpecialToken"), "id");
        texts += sequence && strcmp(member_text(sequence, "id"), "A") == 0;
        if (sequence)
            continue;
        const cJSON *ids = member(member(member(node->json, "special_tokens"), name), "ids");
        if (!cJSON_IsArray(ids))
            return fail(b->err, ERR_CORRUPT, 966, "%s: %s names a special token without ids",
                        b->file, node_path(b, node, "single"));
        for (const cJSON *id = ids->child; id; id = id->next)
            TRY(affix_add(b, node, texts ? &back : &front, id));
    }
    if (texts != 1)
        return refuse(b, 967, node_path(b, node, "single"),
                      texts ? "more than one text" : "no text", "one Sequence A");
    return affixes_apply(b, node, &front, &back);
}

// [cls] text [sep]: ["text", id].
static bool bert_processing_read(TokenizerBuild *b, const Node *node) {
    Affix front = {.count = 0}, back = {.count = 0};
    const cJSON *cls = member(node->json, "cls"), *sep = member(node->json, "sep");
    TRY(affix_add(b, node, &front, cJSON_GetArrayItem(cls, 1)));
    TRY(affix_add(b, node, &back, cJSON_GetArrayItem(sep, 1)));
    return affixes_apply(b, node, &front, &back);
}

static bool offsets_read(TokenizerBuild *b, const Node *node) { // changes offsets only
    (void)b;
    (void)node;
    return true;
}

static const NodeType processors[] = {
    {"TemplateProcessing", template_read},
    {"ByteLevel", offsets_read},
    {"BertProcessing", bert_processing_read},
    {"RobertaProcessing", bert_processing_read},
    {NULL, NULL},
};

static bool processor_read(TokenizerBuild *b, const Node *node) {
    return node_typed(b, node, processors, 968,
                      "Sequence, TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing");
}

bool post_processor_read(TokenizerBuild *b, const cJSON *json) {
    return !json || nodes_read(b, node_of(json, "post_processor"), "processors", processor_read);
}

// ---- decoder ------------------------------------------------------------------------------------

static bool has_decode(const TokenizerBuild *b, DecodeKind kind) {
    for (uint32_t at = 0; at < b->h.decode_count; at++)
        if (b->h.decodes[at].kind == kind)
            return true;
    return false;
}

// Behind a fuse the text comes in parts: only what needs one character at a time works there.
static bool decode_add(TokenizerBuild *b, const Node *node, DecodeStep step) {
    bool fused = has_decode(b, DECODE_FUSE);
    bool one = step.from_size > 0 && step.from_size <= 4;
    if (fused && step.kind == DECODE_FUSE)
        return true;
    if (fused && !((step.kind == DECODE_STRIP || step.kind == DECODE_REPLACE) && one))
        return refuse(b, 969, node_path(b, node, "type"), node->type,
                      "Strip, or Replace of one character, behind Fuse or ByteLevel");
    if (step.kind == DECODE_BYTES && has_decode(b, DECODE_BYTES))
        return refuse(b, 970, node_path(b, node, "type"), node->type, "one ByteFallback");
    if (b->h.decode_count == TOKENIZER_MAX_STEPS)
        return fail(b->err, ERR_UNSUPPORTED, 971, "%s: %s: more than %d steps", b->file, node->path,
                    TOKENIZER_MAX_STEPS);
    b->h.decodes[b->h.decode_count++] = step;
    return true;
}

static uint64_t text_add(TokenizerBuild *b, const char *text, uint64_t *size) {
    *size = strlen(text);
    return blob_add(b, text, (size_t)*size);
}

// Characters of UTF-8 text.
static size_t characters_of(const char *text) {
    size_t count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static bool replace_decoder(TokenizerBuild *b, const Node *node) {
    const char *from = member_text(member(node->json, "pattern"), "String");
    DecodeStep step = {.kind = DECODE_REPLACE};
    bool fused = has_decode(b, DECODE_FUSE);
    if (!from[0] || (fused && characters_of(from) > 1))
        return refuse(b, 972, node_path(b, node, "pattern"), from[0] ? from : "no String",
                      fused ? "{\"String\": one character}" : "{\"String\": text}");
    step.from = text_add(b, from, &step.from_size);
    step.to = text_add(b, member_text(node->json, "content"), &step.to_size);
    return decode_add(b, node, step);
}

static bool strip_decoder(TokenizerBuild *b, const Node *node) {
    const char *keys[] = {"start", "stop"}, *from = member_text(node->json, "content");
    uint32_t values[2];
    for (int at = 0; at < 2; at++) {
        const cJSON *item = member(node->json, keys[at]);
        double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(value >= 0 && value <= 1 << 20))
            return refuse(b, 973, node_path(b, node, keys[at]), "no count", "0 to 1048576");
        values[at] = (uint32_t)value;
    }
    if (characters_of(from) != 1)
        return refuse(b, 974, node_path(b, node, "content"), from, "one character");
    DecodeStep step = {.kind = DECODE_STRIP, .start = values[0], .stop = values[1]};
    step.from = text_add(b, from, &step.from_size);
    return decode_add(b, node, step);
}

static bool metaspace_decoder(TokenizerBuild *b, const Node *node) {
    DecodeStep step = {.kind = DECODE_METASPACE};
    uint32_t scheme;
    TRY(prepend_read(b, node, &scheme));
    step.start = scheme != PREPEND_NEVER;
    step.from = text_add(b, replacement_of(node), &step.from_size);
    return decode_add(b, node, step);
}

static bool bytes_decoder(TokenizerBuild *b, const Node *node) {
    return decode_add(b, node, (DecodeStep){.kind = DECODE_BYTES});
}

static bool fuse_decoder(TokenizerBuild *b, const Node *node) {
    return decode_add(b, node, (DecodeStep){.kind = DECODE_FUSE});
}

// The pieces are bytes already; what is left is to see them as one text.
static bool byte_level_decoder(TokenizerBuild *b, const Node *node) {
    if (b->h.decode_count)
        return refuse(b, 975, node_path(b, node, "type"), node->type, "ByteLevel as the first one");
    b->decodes_bytes = true;
    return fuse_decoder(b, node);
}

static const NodeType decoders[] = {
    {"ByteLevel", byte_level_decoder},
    {"ByteFallback", bytes_decoder},
    {"Fuse", fuse_decoder},
    {"Metaspace", metaspace_decoder},
    {"Replace", replace_decoder},
    {"Strip", strip_decoder},
    {NULL, NULL},
};

static bool decoder_step(TokenizerBuild *b, const Node *node) {
    return node_typed(b, node, decoders, 976,
                      "Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip");
}

bool decoder_read(TokenizerBuild *b, const cJSON *json) {
    bool bytes = b->h.flags & MODEL_BYTE_LEVEL;
    if (json)
        TRY(nodes_read(b, node_of(json, "decoder"), "decoders", decoder_step));
    else
        b->h.decodes[b->h.decode_count++] = (DecodeStep){.kind = DECODE_JOIN};
    if (bytes != b->decodes_bytes)
        return refuse(b, 977, "decoder", bytes ? "without ByteLevel" : "ByteLevel",
                      "ByteLevel exactly if the pre_tokenizer has it");
    return true;
}

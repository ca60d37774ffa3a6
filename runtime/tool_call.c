// Finds calls of tools. Each format is a function that looks at the held text and either consumes
// some of it, or wants more.
#include "tool_call.h"

#include "json_input.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Step {
    STEP_MORE,  // nothing can be decided before more text comes
    STEP_AGAIN, // something was consumed
    STEP_FAIL,
} Step;

typedef struct Work {
    ToolParser *p;
    const ToolSink *sink;
    Error *err;
    bool end; // no more text comes
} Work;

static const char begin_call[] = "<tool_call>", end_call[] = "</tool_call>";
static const char python_tag[] = "<|python_tag|>", calls_tag[] = "[TOOL_CALLS]";
static const char args_tag[] = "[ARGS]";

// ---- the held text ------------------------------------------------------------------------------

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void drop(ToolParser *p, size_t size) {
    p->size -= size;
    memmove(p->held, p->held + size, p->size);
    p->scanned = 0;
    p->depth = 0;
    p->quoted = false;
}

static Step text_out(Work *w, size_t size) {
    if (size && !w->sink->text(w->sink->user, (Bytes){(unsigned char *)w->p->held, size}, w->err))
        return STEP_FAIL;
    drop(w->p, size);
    return STEP_AGAIN;
}

static size_t blanks_of(const ToolParser *p, const char *more) {
    size_t at = 0;
    while (at < p->size && (is_blank(p->held[at]) || (p->held[at] && strchr(more, p->held[at]))))
        at++;
    return at;
}

static const char *find(const ToolParser *p, const char *marker) {
    return memmem(p->held, p->size, marker, strlen(marker));
}

static bool begins(const ToolParser *p, const char *marker) {
    return p->size >= strlen(marker) && memcmp(p->held, marker, strlen(marker)) == 0;
}

// May more text make it begin so?
static bool may_begin(const ToolParser *p, const char *marker) {
    return p->size < strlen(marker) && memcmp(p->held, marker, p->size) == 0;
}

// Bytes at the end that may become the marker.
static size_t marker_start(const ToolParser *p, const char *marker) {
    size_t most = strlen(marker) - 1;
    for (size_t size = most < p->size ? most : p->size; size; size--)
        if (memcmp(p->held + p->size - size, marker, size) == 0)
            return size;
    return 0;
}

// Text up to a marker, which is consumed and leads to `next`. Blanks before a marker belong to it.
static Step text_until(Work *w, const char *marker, int next) {
    ToolParser *p = w->p;
    const char *found = find(p, marker);
    size_t size = found ? (size_t)(found - p->held) : p->size - marker_start(p, marker);
    if (w->end && !found)
        return p->size ? text_out(w, p->size) : STEP_MORE;
    while (size && is_blank(p->held[size - 1]))
        size--;
    if (size && text_out(w, size) == STEP_FAIL)
        return STEP_FAIL;
    if (!found)
        return STEP_MORE;
    drop(p, (size_t)(find(p, marker) - p->held) + strlen(marker));
    p->state = next;
    return STEP_AGAIN;
}

// The end of the JSON object at the start of the held text; 0: it is not complete.
static size_t object_end(ToolParser *p) {
    for (; p->scanned < p->size; p->scanned++) {
        char c = p->held[p->scanned];
        if (p->quoted && c == '\\') {
            if (p->scanned + 1 == p->size)
                return 0; // looked at again with what follows
            p->scanned++;
        } else if (c == '"') {
            p->quoted = !p->quoted;
        } else if (!p->quoted && (c == '{' || c == '[')) {
            p->depth++;
        } else if (!p->quoted && (c == '}' || c == ']') && --p->depth <= 0) {
            return p->scanned + 1;
        }
    }
    return 0;
}

// ---- one call -----------------------------------------------------------------------------------

// The arguments of a call: an object, also where it is in a string; {} where there are none.
static bool arguments_of(Bytes text, const cJSON *call, Bytes *out) {
    static const char *const names[] = {"arguments", "parameters"};
    *out = (Bytes){(const unsigned char *)"{}", 2};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        const cJSON *value = json_member(call, names[at]);
        cJSON *inner = NULL;
        Error err;
        if (!value)
            continue;
        if (cJSON_IsObject(value))
            return json_member_text(text, names[at], out);
        if (!cJSON_IsString(value))
            return false;
        *out = (Bytes){(const unsigned char *)value->valuestring, strlen(value->valuestring)};
        bool object = json_input(&inner, *out, &err) && cJSON_IsObject(inner);
        cJSON_Delete(inner);
        return object;
    }
    return true;
}

// Gives the call that a text is; *is_call tells whether it is one.
static bool call_out(const Work *w, Bytes text, bool *is_call) {
    cJSON *call = NULL;
    Error err;
    Bytes arguments;
    bool done = true;
    const cJSON *name =
        json_input(&call, text, &err) && cJSON_IsObject(call) ? json_member(call, "name") : NULL;
    *is_call = cJSON_IsString(name) && name->valuestring[0] && arguments_of(text, call, &arguments);
    if (*is_call)
        done = w->sink->call(w->sink->user, name->valuestring, arguments, w->err);
    cJSON_Delete(call);
    return done;
}

typedef struct CallPlace {
    size_t size;        // bytes of the held text
    const char *before; // what was consumed before it
    int next, other;    // the state after a call, and after what is none
} CallPlace;

// A call, or else text.
static Step call_or_text(Work *w, Bytes call, CallPlace at) {
    bool is_call;
    if (!call_out(w, call, &is_call))
        return STEP_FAIL;
    w->p->state = is_call ? at.next : at.other;
    if (is_call) {
        drop(w->p, at.size);
        return STEP_AGAIN;
    }
    Bytes marker = {(const unsigned char *)at.before, strlen(at.before)};
    if (marker.size && !w->sink->text(w->sink->user, marker, w->err))
        return STEP_FAIL;
    return text_out(w, at.size);
}

// ---- the formats --------------------------------------------------------------------------------

enum { OUTSIDE, INSIDE, LIST, TEXT };

static Step step_text(Work *w) {
    return w->p->size ? text_out(w, w->p->size) : STEP_MORE;
}

static Step step_hermes(Work *w) {
    ToolParser *p = w->p;
    if (p->state == OUTSIDE)
        return text_until(w, begin_call, INSIDE);
    const char *found = find(p, end_call);
    if (!found && !w->end)
        return STEP_MORE;
    size_t size = found ? (size_t)(found - p->held) : p->size;
    Bytes body = {(unsigned char *)p->held, size};
    CallPlace place = {found ? size + strlen(end_call) : size, begin_call, OUTSIDE, OUTSIDE};
    return call_or_text(w, body, place);
}

static Step step_llama3(Work *w) {
    ToolParser *p = w->p;
    if (p->state == TEXT)
        return step_text(w);
    size_t blanks = blanks_of(p, p->state == INSIDE ? ";," : "");
    if (blanks == p->size)
        return w->end && blanks && p->state == OUTSIDE ? text_out(w, blanks) : STEP_MORE;
    if (p->held[blanks] == '{') {
        if (blanks)
            drop(p, blanks);
        size_t size = object_end(p);
        Bytes call = {(unsigned char *)p->held, size};
        if (size)
            return call_or_text(w, call, (CallPlace){size, "", INSIDE, TEXT});
        if (!w->end)
            return STEP_MORE;
    }
    if (p->state == OUTSIDE && begins(p, python_tag)) {
        drop(p, strlen(python_tag));
        p->state = INSIDE;
        return STEP_AGAIN;
    }
    if (p->state == OUTSIDE && !w->end && may_begin(p, python_tag))
        return STEP_MORE;
    p->state = TEXT;
    return STEP_AGAIN;
}

// name[ARGS]{...}
static Step step_mistral_name(Work *w) {
    ToolParser *p = w->p;
    const char *brace = memchr(p->held, '{', p->size);
    if (!brace && !w->end)
        return STEP_MORE;
    size_t start = brace ? (size_t)(brace - p->held) : 0;
    size_t name = start;
    const char *tag = brace ? memmem(p->held, start, args_tag, strlen(args_tag)) : NULL;
    if (tag)
        name = (size_t)(tag - p->held);
    ToolParser object = {.held = p->held + start, .size = p->size - start};
    size_t size = brace ? object_end(&object) : 0;
    if (!size && !w->end)
        return STEP_MORE;
    bool plain =
        name > 0 && name < 128 && !memchr(p->held, '"', name) && !memchr(p->held, '\\', name);
    char text[160];
    snprintf(text, sizeof text, "{\"name\":\"%.*s\",\"arguments\":", plain ? (int)name : 0,
             p->held);
    size_t head = strlen(text);
    char *call = size && plain ? malloc(head + size + 1) : NULL;
    if (!call) {
        p->state = TEXT;
        return STEP_AGAIN;
    }
    memcpy(call, text, head);
    memcpy(call + head, p->held + start, size);
    call[head + size] = '}';
    CallPlace place = {start + size, calls_tag, OUTSIDE, OUTSIDE};
    Step step = call_or_text(w, (Bytes){(unsigned char *)call, head + size + 1}, place);
    free(call);
    return step;
}

static Step step_mistral(Work *w) {
    ToolParser *p = w->p;
    if (p->state == TEXT)
        return step_text(w);
    if (p->state == OUTSIDE)
        return text_until(w, calls_tag, INSIDE);
    size_t blanks = p->scanned ? 0 : blanks_of(p, p->state == LIST ? "," : "");
    if (blanks == p->size)
        return STEP_MORE;
    if (blanks)
        drop(p, blanks);
    if (p->state == INSIDE && p->held[0] != '[')
        return step_mistral_name(w);
    if (p->state == INSIDE || p->held[0] == ']') {
        p->state = p->state == INSIDE ? LIST : OUTSIDE;
        drop(p, 1);
        return STEP_AGAIN;
    }
    size_t size = p->held[0] == '{' ? object_end(p) : 0;
    Bytes call = {(unsigned char *)p->held, size};
    if (size)
        return call_or_text(w, call, (CallPlace){size, "", LIST, TEXT});
    if (p->held[0] == '{' && !w->end)
        return STEP_MORE;
    p->state = TEXT;
    return STEP_AGAIN;
}

static const struct {
    const char *name;
    Step (*step)(Work *w);
    const char *words[3]; // in a chat template of this format
} formats[TOOL_FORMAT_COUNT] = {
    // ORDER TOOL_FORMATS
    {"none", step_text, {NULL}},
    {"hermes", step_hermes, {begin_call}},
    {"llama3", step_llama3, {python_tag, "<|eom_id|>", "\"parameters\": "}},
    {"mistral", step_mistral, {calls_tag}},
};

// ---- the parser ---------------------------------------------------------------------------------

ToolFormat tool_format_find(Bytes chat_template) {
    static const ToolFormat order[] = {TOOLS_HERMES, TOOLS_MISTRAL, TOOLS_LLAMA3};
    for (size_t at = 0; at < sizeof order / sizeof *order; at++)
        for (int word = 0; word < 3 && formats[order[at]].words[word]; word++) {
            const char *text = formats[order[at]].words[word];
            if (memmem(chat_template.data, chat_template.size, text, strlen(text)))
                return order[at];
        }
    return TOOLS_NONE;
}

bool tool_format_parse(ToolFormat *out, const char *name) {
    for (int at = 0; at < TOOL_FORMAT_COUNT; at++)
        if (strcmp(formats[at].name, name) == 0) {
            *out = (ToolFormat)at;
            return true;
        }
    return false;
}

const char *tool_format_name(ToolFormat format) {
    return formats[format].name;
}

static bool run(ToolParser *p, const ToolSink *sink, bool end, Error *err) {
    Work w = {.p = p, .sink = sink, .err = err, .end = end};
    Step step;
    do
        step = formats[p->format].step(&w);
    while (step == STEP_AGAIN);
    return step != STEP_FAIL;
}

ToolParser tool_parser_list(void) {
    return (ToolParser){.format = TOOLS_MISTRAL, .state = INSIDE};
}

bool tool_parser_add(ToolParser *p, Bytes text, const ToolSink *sink, Error *err) {
    if (p->room - p->size < text.size) {
        size_t room = 2 * (p->size + text.size) + 64;
        char *bigger = realloc(p->held, room);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 1145, "no memory for an answer");
        p->held = bigger;
        p->room = room;
    }
    if (!text.size)
        return true;
    memcpy(p->held + p->size, text.data, text.size);
    p->size += text.size;
    return run(p, sink, false, err);
}

bool tool_parser_end(ToolParser *p, const ToolSink *sink, Error *err) {
    bool done = !p->held || run(p, sink, true, err);
    tool_parser_free(p);
    return done;
}

void tool_parser_free(ToolParser *p) {
    free(p->held);
    *p = (ToolParser){.format = p->format};
}

// ---- markers ------------------------------------------------------------------------------------

static const char *const markers[TOOL_MARKERS] = {begin_call, end_call, python_tag, calls_tag,
                                                  args_tag};

ToolMarkers tool_markers_find(const Tokenizer *t) {
    ToolMarkers m;
    for (int at = 0; at < TOOL_MARKERS; at++) {
        int32_t *ids = NULL;
        int64_t count = 0;
        Error err;
        Bytes text = {(const unsigned char *)markers[at], strlen(markers[at])};
        bool one = tokenizer_encode(t, text, 0, &ids, &count, &err) && count == 1;
        m.ids[at] = one && tokenizer_is_special(t, ids[0]) ? ids[0] : -1;
        free(ids);
    }
    return m;
}

const char *tool_marker_text(const ToolMarkers *m, int32_t id) {
    for (int at = 0; at < TOOL_MARKERS; at++)
        if (m->ids[at] == id)
            return markers[at];
    return NULL;
}

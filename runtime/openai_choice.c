// One choice of an answer: what its events give, as text, calls of tools and logprobs.
#include "openai_job.h"

#include <stdio.h>
#include <string.h>

enum { CALL_ID_BYTES = 40 };

static bool text_out(void *user, Bytes text, Error *err) {
    Choice *c = user;
    writer_add(&c->part.text, text.data, text.size);
    return !c->part.text.failed || fail(err, ERR_RESOURCE, 1146, "no memory for an answer");
}

// Mistral's templates want nine letters or digits.
static void call_id(const Api *api, char out[CALL_ID_BYTES]) {
    char name[25];
    bool shorter = api->tool_format == TOOLS_MISTRAL;
    api_random_name(name, shorter ? 10 : sizeof name);
    snprintf(out, CALL_ID_BYTES, "%s%s", shorter ? "" : "call_", name);
}

static bool call_out(void *user, const char *name, Bytes arguments, Error *err) {
    Choice *c = user;
    const Job *j = c->job;
    char id[CALL_ID_BYTES];
    if (c->calls && !j->request.parallel_tool_calls)
        return true;
    call_id(j->api, id);
    api_call_add(&c->part, j->request.stream ? c->calls : -1, id, name, arguments);
    c->calls++;
    return !c->part.calls.failed || fail(err, ERR_RESOURCE, 1147, "no memory for an answer");
}

// A tool was named: all of the answer is its arguments. Whole replies have them at the end.
static void named_add(Choice *c, Bytes text, bool end) {
    const Job *j = c->job;
    char id[CALL_ID_BYTES];
    if (!j->request.stream) {
        writer_add(&c->part.text, text.data, text.size);
        if (!end)
            return;
        Writer arguments = c->part.text;
        c->part.text = (Writer){.data = NULL};
        call_id(j->api, id);
        api_call_add(&c->part, -1, id, j->request.tool_name, writer_bytes(&arguments));
        writer_free(&arguments);
        return;
    }
    if (!text.size && c->calls)
        return;
    call_id(j->api, id);
    api_call_add(&c->part, 0, id, c->calls ? NULL : j->request.tool_name, text);
    c->calls = 1;
}

// Text of an event, with the special tokens put back that calls begin with.
static bool parsed_add(Choice *c, const GenerateEvent *e, Error *err) {
    const ToolSink sink = {.text = text_out, .call = call_out, .user = c};
    const ToolMarkers *markers = &c->job->api->tool_markers;
    const char *before = NULL, *after = NULL;
    for (int32_t at = 0; at < e->id_count; at++) {
        const char *marker = tool_marker_text(markers, e->ids[at]);
        if (marker && at == 0 && e->id_count > 1)
            before = marker;
        else if (marker)
            after = marker;
    }
    if (before)
        TRY(tool_parser_add(&c->parser, (Bytes){(const unsigned char *)before, strlen(before)},
                            &sink, err));
    TRY(tool_parser_add(&c->parser, (Bytes){(const unsigned char *)e->text, e->text_size}, &sink,
                        err));
    if (after)
        TRY(tool_parser_add(&c->parser, (Bytes){(const unsigned char *)after, strlen(after)}, &sink,
                            err));
    return e->finish == FINISH_NONE || tool_parser_end(&c->parser, &sink, err);
}

bool choice_content_add(Choice *c, const GenerateEvent *e, Error *err) {
    const Job *j = c->job;
    Bytes text = {(const unsigned char *)e->text, e->text_size};
    if (j->request.tool_choice == TOOL_CHOICE_NAMED) {
        named_add(c, text, e->finish != FINISH_NONE);
        return true;
    }
    if (c->parser.format != TOOLS_NONE)
        return parsed_add(c, e, err);
    return text_out(c, text, err);
}

// The token that ends an answer is no part of it.
static bool is_end(const Choice *c, const GenerateEvent *e, int32_t at) {
    const ApiModel *m = &c->job->api->model;
    const GenerateParams *p = &c->job->request.params;
    if (e->finish != FINISH_STOP || e->stop || at != e->id_count - 1)
        return false;
    for (int32_t stop = 0; stop < m->stop_count; stop++)
        if (m->stop_ids[stop] == e->ids[at])
            return true;
    for (int32_t stop = 0; stop < p->stop_id_count; stop++)
        if (p->stop_ids[stop] == e->ids[at])
            return true;
    return false;
}

void choice_logprobs_add(Choice *c, const GenerateEvent *e) {
    const Job *j = c->job;
    for (int32_t at = 0; e->logprobs && at < e->id_count; at++)
        if (!is_end(c, e, at))
            api_logprobs_add(&c->part, j->request.kind, j->api->model.tokenizer, e, at,
                             &c->characters);
}

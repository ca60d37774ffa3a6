// Objects of OpenAI's API, written as text: a chunk per token is the hot path of the server.
#include "openai_response.h"

#include "cli_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void api_random_name(char *out, size_t size) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char bytes[32];
    // The system call, since the C library's function is newer than some machines.
    if (syscall(SYS_getrandom, bytes, sizeof bytes, 0) != (long)sizeof bytes) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        payload_hash128(&now, sizeof now, (uint64_t *)(void *)bytes);
    }
    size_t at = 0;
    for (; at + 1 < size && at < sizeof bytes; at++)
        out[at] = letters[bytes[at] % (sizeof letters - 1)];
    out[at] = 0;
}

void api_identity_make(ApiIdentity *id, ApiKind kind, const char *model) {
    char name[25];
    api_random_name(name, sizeof name);
    *id = (ApiIdentity){.created = time(NULL), .model = model, .kind = kind};
    snprintf(id->id, sizeof id->id, "%s-%s", kind == API_CHAT ? "chatcmpl" : "cmpl", name);
}

static Writer *const *part_buffers(ApiPart *p, Writer *out[6]) {
    out[0] = &p->text;
    out[1] = &p->calls;
    out[2] = &p->logprobs;
    out[3] = &p->token_logprobs;
    out[4] = &p->top_logprobs;
    out[5] = &p->text_offset;
    return out;
}

void api_part_free(ApiPart *p) {
    Writer *buffers[6];
    part_buffers(p, buffers);
    for (int at = 0; at < 6; at++)
        writer_free(buffers[at]);
}

void api_part_clear(ApiPart *p) {
    Writer *buffers[6];
    part_buffers(p, buffers);
    for (int at = 0; at < 6; at++)
        buffers[at]->size = 0;
    p->role = false;
    p->finish_reason = NULL;
}

// ---- probabilities ------------------------------------------------------------------------------

static void comma(Writer *b) {
    if (b->size)
        writer_add(b, ",", 1);
}

// The bytes that a token stands for: blanks of SentencePiece are blanks, <0x0A> is one byte.
static size_t token_bytes(const Tokenizer *t, int32_t id, unsigned char *out, size_t room) {
    Bytes piece = tokenizer_piece(t, id);
    unsigned value;
    char end;
    char copy[8] = {0};
    if (piece.size == 6)
        memcpy(copy, piece.data, 6);
    if (piece.size == 6 && sscanf(copy, "<0x%2x%c", &value, &end) == 2 && end == '>') {
        out[0] = (unsigned char)value;
        return 1;
    }
    size_t size = 0;
    for (size_t at = 0; at < piece.size && size < room; at++)
        if (piece.size - at >= 3 && memcmp(piece.data + at, "\xe2\x96\x81", 3) == 0) {
            out[size++] = ' ';
            at += 2;
        } else {
            out[size++] = piece.data[at];
        }
    return size;
}

static void token_json(Writer *b, const unsigned char *bytes, size_t size) {
    TextStream valid = {.out = NULL};
    Error err;
    if (text_add(&valid, (Bytes){bytes, size}, &err) && text_end(&valid, &err))
        writer_json(b, valid.text ? valid.text : "", valid.size);
    else
        b->failed = true;
    free(valid.text);
}

// JSON knows no infinity.
static double finite_logprob(float logprob) {
    return isfinite(logprob) ? (double)logprob : -9999.0;
}

enum { TOKEN_MAX_BYTES = 512 };

static void entry_chat(Writer *b, const Tokenizer *t, TokenLogprob token) {
    unsigned char bytes[TOKEN_MAX_BYTES];
    size_t size = token_bytes(t, token.id, bytes, sizeof bytes);
    writer_print(b, "{\"token\":");
    token_json(b, bytes, size);
    writer_print(b, ",\"logprob\":%.9g,\"bytes\":[", finite_logprob(token.logprob));
    for (size_t at = 0; at < size; at++)
        writer_print(b, at ? ",%d" : "%d", bytes[at]);
    writer_add(b, "]", 1);
}

static int64_t characters(const unsigned char *bytes, size_t size) {
    int64_t count = 0;
    for (size_t at = 0; at < size; at++)
        count += (bytes[at] & 0xc0) != 0x80;
    return count;
}

static void logprobs_completion(ApiPart *p, const Tokenizer *t, const GenerateEvent *e, int32_t at,
                                int64_t *offset) {
    unsigned char bytes[TOKEN_MAX_BYTES];
    size_t size = token_bytes(t, e->logprobs[at].id, bytes, sizeof bytes);
    comma(&p->logprobs);
    token_json(&p->logprobs, bytes, size);
    comma(&p->token_logprobs);
    writer_print(&p->token_logprobs, "%.9g", finite_logprob(e->logprobs[at].logprob));
    comma(&p->text_offset);
    writer_print(&p->text_offset, "%" PRId64, *offset);
    *offset += characters(bytes, size);
    comma(&p->top_logprobs);
    writer_add(&p->top_logprobs, "{", 1);
    for (int32_t rank = 0; e->top && rank < e->top_count; rank++) {
        TokenLogprob top = e->top[at * e->top_count + rank];
        size = token_bytes(t, top.id, bytes, sizeof bytes);
        if (rank)
            writer_add(&p->top_logprobs, ",", 1);
        token_json(&p->top_logprobs, bytes, size);
        writer_print(&p->top_logprobs, ":%.9g", finite_logprob(top.logprob));
    }
    writer_add(&p->top_logprobs, "}", 1);
}

void api_logprobs_add(ApiPart *p, ApiKind kind, const Tokenizer *t, const GenerateEvent *e,
                      int32_t at, int64_t *offset) {
    if (kind == API_COMPLETIONS) {
        logprobs_completion(p, t, e, at, offset);
        return;
    }
    comma(&p->logprobs);
    entry_chat(&p->logprobs, t, e->logprobs[at]);
    writer_print(&p->logprobs, ",\"top_logprobs\":[");
    for (int32_t rank = 0; e->top && rank < e->top_count; rank++) {
        if (rank)
            writer_add(&p->logprobs, ",", 1);
        entry_chat(&p->logprobs, t, e->top[at * e->top_count + rank]);
        writer_add(&p->logprobs, "}", 1);
    }
    writer_add(&p->logprobs, "]}", 2);
}

// ---- parts --------------------------------------------------------------------------------------

static void json_word(Writer *b, const char *word) {
    writer_json(b, word, strlen(word));
}

static void buffer_add(Writer *b, const Writer *from) {
    writer_add(b, from->data, from->size);
    b->failed |= from->failed;
}

void api_call_add(ApiPart *p, int64_t index, const char *id, const char *name, Bytes arguments) {
    Writer *b = &p->calls;
    comma(b);
    writer_add(b, "{", 1);
    if (index >= 0)
        writer_print(b, "\"index\":%" PRId64 ",", index);
    if (name) {
        writer_print(b, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", id);
        json_word(b, name);
        writer_print(b, ",\"arguments\":");
    } else {
        writer_print(b, "\"function\":{\"arguments\":");
    }
    writer_json(b, (const char *)arguments.data, arguments.size);
    writer_add(b, "}}", 2);
}

static void logprobs_print(Writer *out, ApiKind kind, const ApiPart *p) {
    if (!p->logprobs.size) {
        writer_print(out, ",\"logprobs\":null");
    } else if (kind == API_CHAT) {
        writer_print(out, ",\"logprobs\":{\"content\":[");
        buffer_add(out, &p->logprobs);
        writer_print(out, "],\"refusal\":null}");
    } else {
        const struct {
            const char *name;
            const Writer *list;
        } lists[] = {{",\"logprobs\":{\"tokens\":[", &p->logprobs},
                     {"],\"token_logprobs\":[", &p->token_logprobs},
                     {"],\"top_logprobs\":[", &p->top_logprobs},
                     {"],\"text_offset\":[", &p->text_offset}};
        for (size_t at = 0; at < sizeof lists / sizeof *lists; at++) {
            writer_print(out, "%s", lists[at].name);
            buffer_add(out, lists[at].list);
        }
        writer_print(out, "]}");
    }
}

static void finish_print(Writer *out, const ApiPart *p) {
    writer_print(out, p->finish_reason ? ",\"finish_reason\":\"%s\"}" : ",\"finish_reason\":null}",
                 p->finish_reason);
}

static void message_print(Writer *out, const ApiPart *p) {
    writer_print(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (p->calls.size && !p->text.size)
        writer_print(out, "null");
    else
        writer_json(out, p->text.data, p->text.size);
    writer_print(out, ",\"refusal\":null");
    if (p->calls.size) {
        writer_print(out, ",\"tool_calls\":[");
        buffer_add(out, &p->calls);
        writer_add(out, "]", 1);
    }
    writer_add(out, "}", 1);
}

static void delta_print(Writer *out, const ApiPart *p) {
    const char *next = "";
    writer_print(out, "\"delta\":{");
    if (p->role) {
        writer_print(out, "\"role\":\"assistant\"");
        next = ",";
    }
    if (p->text.size || p->role) {
        writer_print(out, "%s\"content\":", next);
        writer_json(out, p->text.data, p->text.size);
        next = ",";
    }
    if (p->calls.size) {
        writer_print(out, "%s\"tool_calls\":[", next);
        buffer_add(out, &p->calls);
        writer_add(out, "]", 1);
    }
    writer_add(out, "}", 1);
}

static void choice_print(Writer *out, ApiKind kind, const ApiPart *p, bool chunk) {
    writer_print(out, "{\"index\":%" PRId64 ",", p->index);
    if (kind == API_COMPLETIONS) {
        writer_print(out, "\"text\":");
        writer_json(out, p->text.data, p->text.size);
    } else if (chunk) {
        delta_print(out, p);
    } else {
        message_print(out, p);
    }
    logprobs_print(out, kind, p);
    finish_print(out, p);
    out->failed |= p->text.failed | p->calls.failed | p->logprobs.failed;
}

// ---- whole objects ------------------------------------------------------------------------------

static void head_print(Writer *out, const ApiIdentity *id, bool chunk) {
    const char *object = id->kind == API_COMPLETIONS ? "text_completion"
                         : chunk                     ? "chat.completion.chunk"
                                                     : "chat.completion";
    writer_print(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", id->id,
                 object, id->created);
    json_word(out, id->model);
    writer_print(out, ",\"system_fingerprint\":null,\"choices\":[");
}

static void usage_print(Writer *out, const ApiUsage *u) {
    writer_print(
        out,
        ",\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
        ",\"total_tokens\":%" PRId64 ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
        u->prompt_tokens, u->output_tokens, u->prompt_tokens + u->output_tokens, u->cached_tokens);
}

void api_reply_print(Writer *out, const ApiIdentity *id, const ApiPart *parts, int64_t count,
                     const ApiUsage *usage) {
    head_print(out, id, false);
    for (int64_t at = 0; at < count; at++) {
        if (at)
            writer_add(out, ",", 1);
        choice_print(out, id->kind, &parts[at], false);
    }
    writer_add(out, "]", 1);
    usage_print(out, usage);
    writer_add(out, "}", 1);
}

void api_chunk_print(Writer *out, const ApiIdentity *id, const ApiPart *part, const ApiUsage *usage,
                     bool usage_null) {
    writer_print(out, "data: ");
    head_print(out, id, true);
    choice_print(out, id->kind, part, true);
    writer_add(out, "]", 1);
    if (usage)
        usage_print(out, usage);
    else if (usage_null)
        writer_print(out, ",\"usage\":null");
    writer_print(out, "}\n\n");
}

void api_usage_chunk_print(Writer *out, const ApiIdentity *id, const ApiUsage *usage) {
    writer_print(out, "data: ");
    head_print(out, id, true);
    writer_add(out, "]", 1);
    usage_print(out, usage);
    writer_print(out, "}\n\n");
}

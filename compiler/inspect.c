// `gptq-compile inspect FILE`: what is in an executable, for people or as JSON. Runs on any machine,
// whatever the file was built for.
#include "artifact.h"

#include "../runtime/payload_parts.h"

#include <cjson/cJSON.h>
#include <string.h>

static const char *const dtype_names[] = {"fp16", "bf16", "fp32"}; // ORDER ModelDType

static const char *dtype_name(int32_t dtype) {
    return dtype >= 0 && dtype <= DTYPE_FP32 ? dtype_names[dtype] : "unknown";
}

static TargetInfo target_at(const Artifact *a, size_t index) {
    TargetInfo t;
    memcpy(&t, artifact_segment(a, SEGMENT_TARGETS).data + index * sizeof t, sizeof t);
    t.name[sizeof t.name - 1] = 0;
    return t;
}

static size_t target_count_of(const Artifact *a) {
    return artifact_segment(a, SEGMENT_TARGETS).size / sizeof(TargetInfo);
}

static KernelInfo kernel_at(const Artifact *a, size_t index) {
    KernelInfo k;
    memcpy(&k, artifact_segment(a, SEGMENT_KERNELS).data + index * sizeof k, sizeof k);
    k.name[sizeof k.name - 1] = k.entry[sizeof k.entry - 1] = 0;
    return k;
}

// Image bytes that no earlier target has: what the target adds to the file.
static uint64_t target_bytes(const Artifact *a, const TargetInfo *t) {
    size_t all = artifact_segment(a, SEGMENT_KERNELS).size / sizeof(KernelInfo);
    uint64_t bytes = 0;
    for (int at = 0; at < t->kernel_count; at++) {
        size_t index = (size_t)(t->first_kernel + at);
        if (index >= all)
            break;
        KernelInfo k = kernel_at(a, index);
        bool seen = false;
        for (size_t before = 0; before < index && !seen; before++)
            seen = kernel_at(a, before).image_offset == k.image_offset;
        bytes += seen ? 0 : k.image_size;
    }
    return bytes;
}

// ---- JSON ---------------------------------------------------------------------------------------

static cJSON *segments_json(const Artifact *a) {
    cJSON *list = cJSON_CreateArray();
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        const Segment *s = &a->payload.segments[kind];
        cJSON *item = cJSON_CreateObject();
        char check[33];
        snprintf(check, sizeof check, "%016llx%016llx", (unsigned long long)s->check[1],
                 (unsigned long long)s->check[0]);
        cJSON_AddStringToObject(item, "name", segment_name((SegmentKind)kind));
        cJSON_AddNumberToObject(item, "offset", (double)s->offset);
        cJSON_AddNumberToObject(item, "bytes", (double)s->size);
        if (kind != SEGMENT_WEIGHTS)
            cJSON_AddStringToObject(item, "xxh3_128", check);
        cJSON_AddBoolToObject(item, "replaceable", segment_replaceable((SegmentKind)kind));
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *targets_json(const Artifact *a) {
    cJSON *list = cJSON_CreateArray();
    for (size_t at = 0; at < target_count_of(a); at++) {
        TargetInfo t = target_at(a, at);
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", t.name);
        cJSON_AddNumberToObject(item, "kernels", t.kernel_count);
        cJSON_AddNumberToObject(item, "bytes", (double)target_bytes(a, &t));
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

static cJSON *kernels_json(const Artifact *a) {
    cJSON *list = cJSON_CreateArray();
    for (size_t at = 0; at < artifact_segment(a, SEGMENT_KERNELS).size / sizeof(KernelInfo); at++) {
        KernelInfo k = kernel_at(a, at);
        cJSON *item = cJSON_CreateObject();
        char key[33];
        snprintf(key, sizeof key, "%016llx%016llx", (unsigned long long)k.key[1],
                 (unsigned long long)k.key[0]);
        cJSON_AddStringToObject(item, "source", k.name);
        cJSON_AddStringToObject(item, "entry", k.entry);
        cJSON_AddStringToObject(item, "key", key);
        cJSON_AddNumberToObject(item, "bytes", (double)k.image_size);
        cJSON_AddNumberToObject(item, "shared_bytes", k.shared_bytes);
        cJSON_AddNumberToObject(item, "threads", k.block);
        cJSON_AddItemToArray(list, item);
    }
    return list;
}

// A segment that holds JSON, as a member; null: empty.
static void segment_json_add(cJSON *to, const char *name, const Artifact *a, SegmentKind kind) {
    Bytes text = artifact_segment(a, kind);
    cJSON *json = cJSON_ParseWithLength((const char *)text.data, text.size);
    cJSON_AddItemToObject(to, name, json ? json : cJSON_CreateNull());
}

static void print_json(const Artifact *a) {
    const ModelInfo *m = &a->info;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", m->name);
    cJSON_AddStringToObject(json, "architecture", m->architecture);
    cJSON_AddNumberToObject(json, "file_bytes", (double)a->whole.size);
    cJSON_AddNumberToObject(json, "program_bytes", (double)a->payload.footer.elf_size);
    cJSON_AddNumberToObject(json, "weights_bytes", (double)m->weights_bytes);
    cJSON_AddNumberToObject(json, "table_offset", (double)a->payload.footer.table_offset);
    cJSON_AddNumberToObject(json, "generation", (double)a->payload.footer.generation);
    cJSON_AddNumberToObject(json, "max_seq_len", (double)m->max_seq_len);
    cJSON_AddNumberToObject(json, "max_batch_size", (double)m->max_batch_size);
    cJSON_AddStringToObject(json, "kv_dtype", dtype_name(m->kv_dtype));
    cJSON_AddItemToObject(json, "targets", targets_json(a));
    cJSON_AddItemToObject(json, "segments", segments_json(a));
    cJSON_AddItemToObject(json, "kernels", kernels_json(a));
    segment_json_add(json, "defaults", a, SEGMENT_DEFAULTS);
    segment_json_add(json, "receipt", a, SEGMENT_RECEIPT);
    char *text = cJSON_Print(json);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(json);
}

// ---- text ---------------------------------------------------------------------------------------

static void print_text(const Artifact *a) {
    const ModelInfo *m = &a->info;
    char name[4 * PAYLOAD_NAME_BYTES];
    text_escape(name, sizeof name, m->name, strnlen(m->name, sizeof m->name));
    printf("model     %s (%.95s)\n", name, m->architecture);
    printf("context   %lld tokens, %lld sequences, KV cache %s\n", (long long)m->max_seq_len,
           (long long)m->max_batch_size, dtype_name(m->kv_dtype));
    printf("file      %.2f MB, program %.2f MB, metadata of generation %llu\n",
           (double)a->whole.size * 1e-6, (double)a->payload.footer.elf_size * 1e-6,
           (unsigned long long)a->payload.footer.generation);
    puts("targets");
    for (size_t at = 0; at < target_count_of(a); at++) {
        TargetInfo t = target_at(a, at);
        printf("  %-22s %4d kernels, adds %.1f KB\n", t.name, t.kernel_count,
               (double)target_bytes(a, &t) * 1e-3);
    }
    puts("segments                    offset          bytes");
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        const Segment *s = &a->payload.segments[kind];
        printf("  %-18s %13llu %14llu%s%s\n", segment_name((SegmentKind)kind),
               (unsigned long long)s->offset, (unsigned long long)s->size,
               weights_external(s) ? "  in files beside this one" : "",
               segment_replaceable((SegmentKind)kind) ? "  repack can replace it" : "");
    }
    Bytes defaults = artifact_segment(a, SEGMENT_DEFAULTS);
    if (defaults.size)
        printf("defaults  %.*s\n", (int)defaults.size, (const char *)defaults.data);
}

int inspect_command(int argc, char **argv) {
    Error err = {0};
    bool help, json = false;
    const char *path = NULL;
    const Word words[] = {{.name = "--json",
                           .flag = &json,
                           .help = "one JSON object, with kernels and the build receipt"}};
    Artifact a;
    bool done = words_parse(words, 1, &path, 1, argc, argv, &help, &err);
    if (done && help) {
        words_help("gptq-compile inspect FILE      what is in an executable", words, 1);
        return 0;
    }
    done = done && artifact_open(&a, path, &err);
    if (done)
        (json ? print_json : print_text)(&a);
    return subcommand_end(done, &err);
}

// The table of `info`: what a run takes for so many sequences of so many tokens, on each kind of
// device that the file has code for (payload_memory.h).
#include "memory_table.h"
#include "payload_memory.h"

#include <cjson/cJSON.h>

static const char *const dtype_names[] = {"fp16", "bf16", "fp32"}; // ORDER ModelDType

static const char *kv_name(const ModelInfo *m) {
    return m->kv_dtype >= 0 && m->kv_dtype <= DTYPE_FP32 ? dtype_names[m->kv_dtype] : "fp8";
}

typedef void Row(void *user, const char *device, int64_t context, int64_t sequences,
                 const MemoryUse *use);

static void rows_visit(const Executable *e, Row *row, void *user) {
    static const char *const names[] = {"cpu", "cuda"}; // ORDER TargetDevice
    for (int device = DEVICE_CPU; device <= DEVICE_CUDA; device++)
        for (int r = 0; executable_has(e, (TargetDevice)device) && r < MEMORY_ROWS; r++)
            for (int c = 0; c < MEMORY_ROWS; c++) {
                int64_t sequences = memory_step(e->info.max_batch_size, MEMORY_ROWS - 1 - r);
                int64_t context = memory_step(e->info.max_seq_len, c);
                bool seen = r && sequences == memory_step(e->info.max_batch_size, MEMORY_ROWS - r);
                seen = seen || (c && context == memory_step(e->info.max_seq_len, c - 1));
                MemoryUse use = memory_use(&e->info, (TargetDevice)device, context, sequences);
                if (!seen)
                    row(user, names[device], context, sequences, &use);
            }
}

static void row_print(void *user, const char *device, int64_t context, int64_t sequences,
                      const MemoryUse *use) {
    (void)user;
    printf("  %-6s %9lld %9lld %13.2f %11.2f\n", device, (long long)sequences, (long long)context,
           (double)use->device_bytes * 1e-6, (double)use->host_bytes * 1e-6);
}

void memory_table_print(const Executable *e) {
    printf("memory in MB (KV cache %s)\n  device sequences    tokens     on device     on host\n",
           kv_name(&e->info));
    rows_visit(e, row_print, NULL);
}

static void row_json(void *user, const char *device, int64_t context, int64_t sequences,
                     const MemoryUse *use) {
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "device", device);
    cJSON_AddNumberToObject(item, "context", (double)context);
    cJSON_AddNumberToObject(item, "sequences", (double)sequences);
    cJSON_AddNumberToObject(item, "weights_bytes", (double)use->weights);
    cJSON_AddNumberToObject(item, "arena_bytes", (double)use->arena);
    cJSON_AddNumberToObject(item, "kv_bytes", (double)use->kv);
    cJSON_AddNumberToObject(item, "batch_bytes", (double)use->batch);
    cJSON_AddNumberToObject(item, "device_bytes", (double)use->device_bytes);
    cJSON_AddNumberToObject(item, "host_bytes", (double)use->host_bytes);
    cJSON_AddItemToArray(user, item);
}

cJSON *memory_table_json(const Executable *e) {
    cJSON *rows = cJSON_CreateArray();
    rows_visit(e, row_json, rows);
    return rows;
}

// ---- what a run really takes --------------------------------------------------------------------

typedef struct Measured {
    int64_t planned, taken; // bytes of the device, or of this process
    int64_t allowed;        // by which they may differ: each allocation begins and ends in a page
    bool good;
} Measured;

static Measured memory_compare(const Executable *e, const Device *d, int64_t context) {
    bool cuda = d->type == &device_cuda;
    MemoryUse use = memory_use(&e->info, cuda ? DEVICE_CUDA : DEVICE_CPU, context, 1);
    Measured m = {.planned = cuda ? use.device_bytes : use.arena + use.kv,
                  .taken = d->memory.taken,
                  .allowed = d->memory.pieces * d->memory.page};
    int64_t off = m.taken - m.planned;
    m.good = off < m.allowed && -off < m.allowed;
    return m;
}

static void measured_print(const Device *d, const Measured *m, int64_t context, bool json) {
    if (json)
        printf("{\"device\":\"%s\",\"context\":%lld,\"planned_bytes\":%lld,\"taken_bytes\":%lld,"
               "\"page_bytes\":%lld}\n",
               d->type->name, (long long)context, (long long)m->planned, (long long)m->taken,
               (long long)d->memory.page);
    else
        printf("%s, 1 sequence of %lld tokens: planned %lld bytes, taken %lld, %+lld in %d "
               "allocations of pages of %lld\n",
               d->description, (long long)context, (long long)m->planned, (long long)m->taken,
               (long long)(m->taken - m->planned), d->memory.pieces, (long long)d->memory.page);
}

bool memory_measure(Cli *cli, Error *err) {
    Engine *engine = NULL;
    TRY(cli_engine(cli, &engine, 0, err));
    const Device *d = engine_device(engine);
    int64_t context = engine_context(engine);
    Measured m = memory_compare(&cli->executable, d, context);
    bool known = d->memory.taken >= 0;
    if (known)
        measured_print(d, &m, context, cli->options.json);
    engine_close(engine);
    if (!known)
        return fail(err, ERR_UNSUPPORTED, 1311,
                    "--measure: this device's memory is taken page by page as it is used");
    return m.good ||
           fail(err, ERR_MISMATCH, 1312, "a run takes %lld bytes, the table of `info` says %lld",
                (long long)m.taken, (long long)m.planned);
}

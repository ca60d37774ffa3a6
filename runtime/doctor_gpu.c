// What `doctor` says about NVIDIA's driver and GPUs: libcuda for the version and what fits, NVML
// (libnvidia-ml, where there is one) for memory, errors and clocks. No context is made, so nothing on
// the GPU changes. Source: the documentation of both libraries.
#include "doctor.h"

#include "payload_memory.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 }; // CUdevice_attribute
enum { OLDEST_CUDA = 12000 };

// The CUDA version whose driver first knows a chip.
typedef struct ChipNeed {
    int capability; // 10 * major + minor
    int cuda;       // 1000 * major + 10 * minor
    const char *driver;
} ChipNeed;

static const ChipNeed chip_needs[] = {
    {80, OLDEST_CUDA, "525"}, {86, OLDEST_CUDA, "525"}, {87, OLDEST_CUDA, "525"},
    {89, OLDEST_CUDA, "525"}, {90, OLDEST_CUDA, "525"}, {100, 12080, "570"},
    {103, 12090, "575"},      {110, 13000, "580"},      {120, 12080, "570"},
    {121, 12090, "575"},
};

// ---- libcuda ------------------------------------------------------------------------------------

typedef struct Cuda {
    int (*init)(unsigned flags);
    int (*driver_version)(int *version);
    int (*device_count)(int *count);
    int (*device_get)(int *device, int index);
    int (*device_name)(char *name, int size, int device);
    int (*device_attribute)(int *value, int attribute, int device);
} Cuda;

typedef struct Symbol {
    const char *name;
    size_t offset;
} Symbol;

static bool library_open(void **library, const char *file, const Symbol *symbols, size_t count,
                         void *out) {
    *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    for (size_t at = 0; *library && at < count; at++) {
        void *function = dlsym(*library, symbols[at].name);
        if (!function)
            return false;
        memcpy((unsigned char *)out + symbols[at].offset, &function, sizeof function);
    }
    return *library != NULL;
}

static const Symbol cuda_symbols[] = {
    {"cuInit", offsetof(Cuda, init)},
    {"cuDriverGetVersion", offsetof(Cuda, driver_version)},
    {"cuDeviceGetCount", offsetof(Cuda, device_count)},
    {"cuDeviceGet", offsetof(Cuda, device_get)},
    {"cuDeviceGetName", offsetof(Cuda, device_name)},
    {"cuDeviceGetAttribute", offsetof(Cuda, device_attribute)},
};

// ---- NVML ---------------------------------------------------------------------------------------

typedef struct NvmlMemory {
    unsigned long long total, free, used;
} NvmlMemory;

typedef void *NvmlDevice;

typedef struct Nvml {
    int (*init)(void);
    int (*shutdown)(void);
    int (*driver_version)(char *version, unsigned size);
    int (*device)(unsigned index, NvmlDevice *device);
    int (*memory)(NvmlDevice device, NvmlMemory *memory);
    int (*ecc_mode)(NvmlDevice device, unsigned *current, unsigned *pending);
    int (*ecc_errors)(NvmlDevice device, int type, int counter, unsigned long long *count);
    int (*max_clock)(NvmlDevice device, int type, unsigned *mhz);
    int (*power_limit)(NvmlDevice device, unsigned *milliwatts);
    int (*power_default)(NvmlDevice device, unsigned *milliwatts);
    int (*throttle)(NvmlDevice device, unsigned long long *reasons);
    int (*persistence)(NvmlDevice device, unsigned *mode);
} Nvml;

static const Symbol nvml_symbols[] = {
    {"nvmlInit_v2", offsetof(Nvml, init)},
    {"nvmlShutdown", offsetof(Nvml, shutdown)},
    {"nvmlSystemGetDriverVersion", offsetof(Nvml, driver_version)},
    {"nvmlDeviceGetHandleByIndex_v2", offsetof(Nvml, device)},
    {"nvmlDeviceGetMemoryInfo", offsetof(Nvml, memory)},
    {"nvmlDeviceGetEccMode", offsetof(Nvml, ecc_mode)},
    {"nvmlDeviceGetTotalEccErrors", offsetof(Nvml, ecc_errors)},
    {"nvmlDeviceGetMaxClockInfo", offsetof(Nvml, max_clock)},
    {"nvmlDeviceGetPowerManagementLimit", offsetof(Nvml, power_limit)},
    {"nvmlDeviceGetPowerManagementDefaultLimit", offsetof(Nvml, power_default)},
    {"nvmlDeviceGetCurrentClocksThrottleReasons", offsetof(Nvml, throttle)},
    {"nvmlDeviceGetPersistenceMode", offsetof(Nvml, persistence)},
};

enum { NVML_UNCORRECTED = 1, NVML_VOLATILE = 0, NVML_CLOCK_SM = 1 };
// Reasons that a person can do something about: power cap, slowdown by hardware, heat, power brake.
static const unsigned long long THROTTLE_MASK = 0x4 | 0x8 | 0x20 | 0x40 | 0x80;

static void gpu_memory_check(Doctor *d, const Nvml *nvml, NvmlDevice gpu) {
    NvmlMemory memory;
    const ModelInfo *m = &d->e->info;
    if (nvml->memory(gpu, &memory) != 0)
        return;
    int64_t needed = memory_use(m, DEVICE_CUDA, m->max_seq_len, 1).device_bytes;
    int64_t least = memory_use(m, DEVICE_CUDA, m->page_tokens, 1).device_bytes;
    bool all = (int64_t)memory.free >= needed, some = (int64_t)memory.free >= least;
    doctor_add(d,
               all    ? VERDICT_GOOD
               : some ? VERDICT_NOTE
                      : VERDICT_BAD,
               "GPU memory",
               all ? NULL : "nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
               "%.2f of %.2f GB are free, one sequence of %" PRId64
               " tokens takes %.2f GB, of %" PRId64 " tokens %.2f GB",
               (double)memory.free * 1e-9, (double)memory.total * 1e-9, m->max_seq_len,
               (double)needed * 1e-9, m->page_tokens, (double)least * 1e-9);
}

static void ecc_check(Doctor *d, const Nvml *nvml, NvmlDevice gpu) {
    unsigned current = 0, pending = 0;
    unsigned long long errors = 0;
    if (nvml->ecc_mode(gpu, &current, &pending) != 0)
        return; // the chip has none
    if (!current) {
        doctor_add(d, VERDICT_NOTE, "ECC", "sudo nvidia-smi -e 1 # then restart",
                   "off: a flipped bit in the GPU's memory stays unseen");
        return;
    }
    nvml->ecc_errors(gpu, NVML_UNCORRECTED, NVML_VOLATILE, &errors);
    doctor_add(d, errors ? VERDICT_BAD : VERDICT_GOOD, "ECC",
               errors ? "sudo nvidia-smi -r # or have the card replaced" : NULL,
               "on, %llu uncorrected errors since the driver was loaded", errors);
}

static void power_check(Doctor *d, const Nvml *nvml, NvmlDevice gpu) {
    unsigned limit = 0, normal = 0, clock = 0, persistent = 1;
    unsigned long long reasons = 0;
    if (nvml->power_limit(gpu, &limit) == 0 && nvml->power_default(gpu, &normal) == 0) {
        bool less = limit < normal;
        char mend[64];
        snprintf(mend, sizeof mend, "sudo nvidia-smi -pl %u", normal / 1000);
        doctor_add(d, less ? VERDICT_NOTE : VERDICT_GOOD, "power", less ? mend : NULL,
                   "limit %u W, the card's own is %u W", limit / 1000, normal / 1000);
    }
    nvml->max_clock(gpu, NVML_CLOCK_SM, &clock);
    if (nvml->throttle(gpu, &reasons) == 0) {
        bool slow = reasons & THROTTLE_MASK;
        doctor_add(d, slow ? VERDICT_NOTE : VERDICT_GOOD, "clocks",
                   slow ? "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER" : NULL,
                   "up to %u MHz, %s (reasons 0x%llx)", clock, slow ? "slowed down" : "free",
                   reasons);
    }
    if (nvml->persistence(gpu, &persistent) == 0 && !persistent)
        doctor_add(d, VERDICT_NOTE, "persistence", "sudo nvidia-smi -pm 1",
                   "off: every start waits for the driver to wake the GPU");
}

static void nvml_check(Doctor *d, int count) {
    Nvml nvml;
    void *library = NULL;
    bool open = library_open(&library, "libnvidia-ml.so.1", nvml_symbols,
                             sizeof nvml_symbols / sizeof *nvml_symbols, &nvml) &&
                nvml.init() == 0;
    if (!open) {
        doctor_add(d, VERDICT_NOTE, "NVML", NULL,
                   "libnvidia-ml.so.1 is not here: nothing about memory, ECC and clocks");
        if (library)
            dlclose(library);
        return;
    }
    char version[80] = "";
    if (nvml.driver_version(version, sizeof version) == 0)
        doctor_add(d, VERDICT_GOOD, "driver", NULL, "version %s", version);
    for (int index = 0; index < count; index++) {
        NvmlDevice gpu;
        if (nvml.device((unsigned)index, &gpu) != 0)
            continue;
        gpu_memory_check(d, &nvml, gpu);
        ecc_check(d, &nvml, gpu);
        power_check(d, &nvml, gpu);
    }
    nvml.shutdown();
    dlclose(library);
}

// ---- what fits ----------------------------------------------------------------------------------

static const TargetInfo *target_fitting(const Executable *e, int major, int minor) {
    const TargetInfo *best = NULL;
    for (int at = 0; at < e->target_count; at++) {
        const TargetInfo *t = &e->targets[at];
        bool fits = t->device == DEVICE_CUDA && t->compute_major == major &&
                    (t->exact ? t->compute_minor == minor : t->compute_minor <= minor);
        if (fits && (!best || t->compute_minor >= best->compute_minor))
            best = t;
    }
    return best;
}

static void version_check(Doctor *d, int version, int capability) {
    int needed = OLDEST_CUDA;
    const char *driver = "525";
    for (size_t at = 0; at < sizeof chip_needs / sizeof *chip_needs; at++)
        if (chip_needs[at].capability == capability) {
            needed = chip_needs[at].cuda;
            driver = chip_needs[at].driver;
        }
    char mend[96];
    snprintf(mend, sizeof mend, "sudo apt-get install nvidia-driver-%s # or newer", driver);
    bool old = version < needed;
    doctor_add(d, old ? VERDICT_BAD : VERDICT_GOOD, "driver", old ? mend : NULL,
               "for CUDA %d.%d; this file needs %d.%d", version / 1000, version % 1000 / 10,
               needed / 1000, needed % 1000 / 10);
}

static void gpu_check(Doctor *d, const Cuda *cuda, int index, int version) {
    int gpu = 0, major = 0, minor = 0;
    char name[96] = "GPU", mend[96];
    if (cuda->device_get(&gpu, index) != 0)
        return;
    cuda->device_name(name, sizeof name, gpu);
    cuda->device_attribute(&major, CAPABILITY_MAJOR, gpu);
    cuda->device_attribute(&minor, CAPABILITY_MINOR, gpu);
    const TargetInfo *t = target_fitting(d->e, major, minor);
    snprintf(mend, sizeof mend, "gptq-compile MODEL -o OUT --target sm_%d%d", major, minor);
    doctor_add(d, t ? VERDICT_GOOD : VERDICT_BAD, "GPU", t ? NULL : mend,
               "cuda:%d is %s, compute capability %d.%d: %s%s", index, name, major, minor,
               t ? "runs " : "this file has no code for it", t ? t->name : "");
    version_check(d, version, 10 * major + minor);
    d->runs = d->runs || (t && version >= OLDEST_CUDA);
}

void doctor_gpu(Doctor *d) {
    Cuda cuda;
    void *library = NULL;
    int version = 0, count = 0;
    if (!library_open(&library, "libcuda.so.1", cuda_symbols,
                      sizeof cuda_symbols / sizeof *cuda_symbols, &cuda)) {
        doctor_add(d, VERDICT_BAD, "driver", "sudo apt-get install nvidia-driver-570",
                   "no NVIDIA driver: libcuda.so.1 was not found");
        return;
    }
    int result = cuda.init(0);
    cuda.driver_version(&version);
    if (result == 0)
        result = cuda.device_count(&count);
    if (result != 0 || count == 0) {
        doctor_add(d, VERDICT_BAD, "GPU", "nvidia-smi # and: ls -l /dev/nvidia*",
                   "the driver (CUDA %d.%d) finds no GPU (error %d)", version / 1000,
                   version % 1000 / 10, result);
        return;
    }
    for (int index = 0; index < count; index++)
        gpu_check(d, &cuda, index, version);
    nvml_check(d, count);
}

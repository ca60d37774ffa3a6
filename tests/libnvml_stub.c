// A stand-in for NVIDIA's management library, libnvidia-ml.so.1, for `doctor`: one GPU whose state is
// set by environment variables: STUB_NVML_FREE (bytes), STUB_NVML_ECC (0 or 1), STUB_NVML_ERRORS,
// STUB_NVML_POWER (watts of 700), STUB_NVML_THROTTLE (reasons), STUB_NVML_FAIL (1: no driver).
// Source: the documentation of NVML. Non-goal: every function.
#include <stdio.h>
#include <stdlib.h>

#define NVML(name, parameters) \
    int name parameters;       \
    int name parameters

enum { ERROR_DRIVER = 9, ERROR_ARGUMENT = 2 };

static unsigned long long setting(const char *name, unsigned long long otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

NVML(nvmlInit_v2, (void)) {
    return setting("STUB_NVML_FAIL", 0) ? ERROR_DRIVER : 0;
}

NVML(nvmlShutdown, (void)) {
    return 0;
}

NVML(nvmlSystemGetDriverVersion, (char *version, unsigned size)) {
    snprintf(version, size, "580.00.stand-in");
    return 0;
}

NVML(nvmlDeviceGetHandleByIndex_v2, (unsigned index, void **device)) {
    static int gpu;
    *device = &gpu;
    return index ? ERROR_ARGUMENT : 0;
}

typedef struct Memory {
    unsigned long long total, free, used;
} Memory;

NVML(nvmlDeviceGetMemoryInfo, (void *device, Memory *memory)) {
    (void)device;
    memory->total = 8000000000;
    memory->free = setting("STUB_NVML_FREE", 7000000000);
    memory->used = memory->total - memory->free;
    return 0;
}

NVML(nvmlDeviceGetEccMode, (void *device, unsigned *current, unsigned *pending)) {
    (void)device;
    *current = *pending = (unsigned)setting("STUB_NVML_ECC", 1);
    return 0;
}

NVML(nvmlDeviceGetTotalEccErrors,
     (void *device, int type, int counter, unsigned long long *count)) {
    (void)device, (void)counter;
    *count = type == 1 ? setting("STUB_NVML_ERRORS", 0) : 0;
    return 0;
}

NVML(nvmlDeviceGetMaxClockInfo, (void *device, int type, unsigned *mhz)) {
    (void)device, (void)type;
    *mhz = 1980;
    return 0;
}

NVML(nvmlDeviceGetPowerManagementLimit, (void *device, unsigned *milliwatts)) {
    (void)device;
    *milliwatts = 1000 * (unsigned)setting("STUB_NVML_POWER", 700);
    return 0;
}

NVML(nvmlDeviceGetPowerManagementDefaultLimit, (void *device, unsigned *milliwatts)) {
    (void)device;
    *milliwatts = 700000;
    return 0;
}

NVML(nvmlDeviceGetCurrentClocksThrottleReasons, (void *device, unsigned long long *reasons)) {
    (void)device;
    *reasons = setting("STUB_NVML_THROTTLE", 1);
    return 0;
}

NVML(nvmlDeviceGetPersistenceMode, (void *device, unsigned *mode)) {
    (void)device;
    *mode = 1;
    return 0;
}

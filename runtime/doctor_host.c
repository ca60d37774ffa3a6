// What `doctor` says about the machine around the GPU: processor, memory, C library, huge pages, file
// system, and a Jetson's power mode.
#include "doctor.h"

#include "device.h"
#include "payload_memory.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

// ---- processor, C library -----------------------------------------------------------------------

static void processor_check(Doctor *d) {
    char governor[64];
    const char *level = cpu_target_name(d->e);
    if (doctor_has(d, DEVICE_CPU) && level) {
        doctor_add(d, VERDICT_GOOD, "processor", NULL, "runs %s", level);
        d->runs = true;
    } else if (doctor_has(d, DEVICE_CPU)) {
        doctor_add(d, VERDICT_BAD, "processor", "gptq-compile MODEL -o OUT --target cpu",
                   "none of the CPU levels in this file runs here");
    }
    if (doctor_line(d, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", governor,
                    sizeof governor)) {
        bool slow = strcmp(governor, "powersave") == 0;
        doctor_add(d, slow ? VERDICT_NOTE : VERDICT_GOOD, "governor",
                   slow ? "cpupower frequency-set -g performance" : NULL, "the clock follows %s",
                   governor);
    }
}

static void library_check(Doctor *d) {
    struct utsname system;
    uname(&system);
    doctor_add(d, VERDICT_GOOD, "system", NULL, "glibc %s, Linux %s, %s", gnu_get_libc_version(),
               system.release, system.machine);
}

// ---- memory -------------------------------------------------------------------------------------

// A line "Key:  123 kB" of /proc/meminfo in bytes; -1: there is none.
static int64_t meminfo(const Doctor *d, const char *key) {
    char path[600], line[128];
    int64_t bytes = -1;
    snprintf(path, sizeof path, "%s/proc/meminfo", d->root);
    FILE *file = fopen(path, "r");
    while (file && bytes < 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            bytes = strtoll(line + strlen(key) + 1, NULL, 10) * 1024;
    if (file)
        fclose(file);
    return bytes;
}

static void memory_check(Doctor *d) {
    const ModelInfo *m = &d->e->info;
    int64_t available = meminfo(d, "MemAvailable");
    bool cpu = doctor_has(d, DEVICE_CPU);
    MemoryUse use = memory_use(m, cpu ? DEVICE_CPU : DEVICE_CUDA, m->max_seq_len, 1);
    int64_t needed = use.host_bytes + (cpu ? use.device_bytes : 0);
    if (available < 0)
        return;
    bool enough = available >= needed;
    doctor_add(d, enough ? VERDICT_GOOD : VERDICT_BAD, "memory",
               enough ? NULL : "OUT run -c 2048 ... # a shorter context takes less",
               "%.2f GB are free, one sequence of %" PRId64 " tokens takes %.2f GB",
               (double)available * 1e-9, m->max_seq_len, (double)needed * 1e-9);
}

static void huge_pages_check(Doctor *d) {
    char line[128];
    if (!doctor_line(d, "/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line))
        return;
    bool off = strstr(line, "[never]") != NULL;
    doctor_add(d, off ? VERDICT_NOTE : VERDICT_GOOD, "huge pages",
               off ? "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
               "transparent huge pages: %s", line);
}

// ---- file system --------------------------------------------------------------------------------

typedef struct FileSystem {
    int64_t type; // statfs(2)
    const char *name;
    bool slow; // weights come over a network or through a program
} FileSystem;

static const FileSystem file_systems[] = {
    {0xef53, "ext4", false},      {0x58465342, "xfs", false},     {0x9123683e, "btrfs", false},
    {0x01021994, "tmpfs", false}, {0x794c7630, "overlay", false}, {0x2fc12fc1, "zfs", false},
    {0xf2f52010, "f2fs", false},  {0x6969, "NFS", true},          {0xff534d42, "CIFS", true},
    {0xfe534d42, "SMB2", true},   {0x65735546, "FUSE", true},     {0x01021997, "9p", true},
    {0x4d44, "FAT", false},       {0x2011bab0, "exFAT", false},
};

static void file_system_check(Doctor *d) {
    struct statfs info;
    if (fstatfs(d->e->fd, &info) != 0)
        return;
    const FileSystem *found = NULL;
    for (size_t at = 0; at < sizeof file_systems / sizeof *file_systems; at++)
        if ((int64_t)info.f_type == file_systems[at].type)
            found = &file_systems[at];
    bool slow = found && found->slow;
    doctor_add(d, slow ? VERDICT_NOTE : VERDICT_GOOD, "file system",
               slow ? "cp OUT /var/lib/ # a local disk" : NULL, "%.2f GB on %s%s",
               (double)d->e->whole.size * 1e-9, found ? found->name : "another file system",
               slow ? ": every start reads it again" : "");
}

// ---- Jetson -------------------------------------------------------------------------------------

static void jetson_check(Doctor *d) {
    char model[128], mode[64];
    if (!doctor_line(d, "/proc/device-tree/model", model, sizeof model) || !strstr(model, "Jetson"))
        return;
    doctor_add(d, VERDICT_GOOD, "board", NULL, "%s", model);
    if (doctor_line(d, "/var/lib/nvpmodel/status", mode, sizeof mode)) {
        bool most = strcmp(mode, "pmode:0000") == 0;
        doctor_add(d, most ? VERDICT_GOOD : VERDICT_NOTE, "power mode",
                   most ? NULL : "sudo nvpmodel -m 0", "%s%s", mode,
                   most ? ": all power" : ": less than the board can do");
    }
    char now[32], top[32];
    if (doctor_line(d, "/sys/class/devfreq/17000000.gpu/min_freq", now, sizeof now) &&
        doctor_line(d, "/sys/class/devfreq/17000000.gpu/max_freq", top, sizeof top)) {
        bool fixed = strcmp(now, top) == 0;
        doctor_add(d, fixed ? VERDICT_GOOD : VERDICT_NOTE, "clocks",
                   fixed ? NULL : "sudo jetson_clocks", "GPU clock %s to %s Hz", now, top);
    }
}

void doctor_host(Doctor *d) {
    library_check(d);
    processor_check(d);
    memory_check(d);
    huge_pages_check(d);
    file_system_check(d);
    jetson_check(d);
}

// What a cubin (or PTX text) says about its kernels: parameters, launch bounds, registers, shared
// memory. For libcuda_stub.c; the layout of .nv.info is what `cuobjdump -elf` of CUDA 13.0 prints.
#ifndef CUBIN_INFO_H
#define CUBIN_INFO_H

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CUBIN_MAX_PARAMS = 32, CUBIN_NAME_BYTES = 96 };

typedef struct CubinKernel {
    char name[CUBIN_NAME_BYTES];
    int params;
    int sizes[CUBIN_MAX_PARAMS]; // bytes
    unsigned max_threads;        // __launch_bounds__, 0: none
    unsigned registers;          // of one thread, 0: unknown
    unsigned shared_bytes;       // static
} CubinKernel;

// Attributes of .nv.info that matter here; an entry is format, attribute, then 16 bits that are the
// value or, for format 4, the size of what follows.
enum { NV_SIZED = 4, NV_MAX_THREADS = 0x05, NV_KPARAM_INFO = 0x17 };

static bool cubin_is_elf(const unsigned char *image) {
    return memcmp(image, ELFMAG, SELFMAG) == 0;
}

// The chip's number, 90 for sm_90. ABI 8 (CUDA 13) has it in the second byte of the flags.
static unsigned cubin_sm(const unsigned char *image) {
    Elf64_Ehdr header;
    memcpy(&header, image, sizeof header);
    return header.e_ident[EI_ABIVERSION] >= 8 ? header.e_flags >> 8 & 0xff : header.e_flags & 0xff;
}

static bool cubin_section(const unsigned char *image, const char *prefix, const char *name,
                          Elf64_Shdr *out) {
    Elf64_Ehdr header;
    Elf64_Shdr names;
    char wanted[CUBIN_NAME_BYTES + 32];
    snprintf(wanted, sizeof wanted, "%s%s", prefix, name);
    memcpy(&header, image, sizeof header);
    memcpy(&names, image + header.e_shoff + (uint64_t)header.e_shstrndx * sizeof names,
           sizeof names);
    for (unsigned at = 0; at < header.e_shnum; at++) {
        memcpy(out, image + header.e_shoff + (uint64_t)at * sizeof *out, sizeof *out);
        if (strcmp((const char *)image + names.sh_offset + out->sh_name, wanted) == 0)
            return true;
    }
    return false;
}

static void cubin_attribute(CubinKernel *k, unsigned attribute, const unsigned char *value) {
    uint32_t words[3];
    memcpy(words, value, sizeof words);
    unsigned ordinal = words[1] & 0xffff;
    if (attribute == NV_MAX_THREADS)
        k->max_threads = words[0] * words[1] * words[2];
    if (attribute == NV_KPARAM_INFO && ordinal < CUBIN_MAX_PARAMS) {
        k->sizes[ordinal] = (int)(words[2] >> 18);
        k->params = (int)ordinal + 1 > k->params ? (int)ordinal + 1 : k->params;
    }
}

static bool cubin_elf_kernel(const unsigned char *image, CubinKernel *k) {
    Elf64_Shdr text, info, shared;
    if (!cubin_section(image, ".text.", k->name, &text) ||
        !cubin_section(image, ".nv.info.", k->name, &info))
        return false;
    k->registers = text.sh_info >> 24;
    if (cubin_section(image, ".nv.shared.", k->name, &shared))
        k->shared_bytes = (unsigned)shared.sh_size;
    for (uint64_t at = 0; at + 4 <= info.sh_size;) {
        const unsigned char *entry = image + info.sh_offset + at;
        unsigned size = entry[0] == NV_SIZED ? entry[2] | (unsigned)entry[3] << 8 : 0;
        if (size >= 12)
            cubin_attribute(k, entry[1], entry + 4);
        at += 4 + size;
    }
    return true;
}

// PTX: ".entry NAME(.param .u64 a, .param .u32 b)".
static bool cubin_ptx_kernel(const char *text, CubinKernel *k) {
    char wanted[CUBIN_NAME_BYTES + 8];
    snprintf(wanted, sizeof wanted, ".entry %s(", k->name);
    const char *at = strstr(text, wanted);
    const char *end = at ? strchr(at, ')') : NULL;
    if (!end)
        return false;
    while ((at = strstr(at, ".param .")) && at < end && k->params < CUBIN_MAX_PARAMS) {
        at += strlen(".param .");
        k->sizes[k->params++] = (int)strtol(at + 1, NULL, 10) / 8;
    }
    return true;
}

// Fills *k of the kernel k->name; false: the image has none of that name.
static bool cubin_kernel(const unsigned char *image, CubinKernel *k) {
    return cubin_is_elf(image) ? cubin_elf_kernel(image, k)
                               : cubin_ptx_kernel((const char *)image, k);
}

#endif

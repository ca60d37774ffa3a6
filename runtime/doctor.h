// What `doctor` finds out about this machine (doctor.c), one file for each side of it.
#ifndef DOCTOR_H
#define DOCTOR_H

#include "executable.h"

typedef enum Verdict { VERDICT_GOOD, VERDICT_NOTE, VERDICT_BAD } Verdict; // ORDER VERDICTS

typedef struct Doctor {
    const Executable *e;
    const char *root; // where /proc, /sys and /etc are looked for; "" outside of tests
    struct cJSON *findings;
    int bad;
    bool runs; // on at least one device of this file
} Doctor;

// what: "driver"; detail: what was found; mend: one command, NULL when nothing is to be done.
void doctor_add(Doctor *d, Verdict verdict, const char *what, const char *mend, const char *format,
                ...) __attribute__((format(printf, 5, 6)));
// The first line of a small file below root, without newline; false: there is none.
bool doctor_line(const Doctor *d, const char *path, char *out, int size);
bool doctor_has(const Doctor *d, TargetDevice device);

void doctor_host(Doctor *d);
void doctor_gpu(Doctor *d);

#endif

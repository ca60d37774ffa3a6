// How fast this CPU multiplies.
#ifndef BENCH_PEAK_H
#define BENCH_PEAK_H

#include "base.h"

// Operations per second (a multiply-add is two) of the fastest kind of product that this CPU has,
// by `threads` threads; *how says which.
bool peak_measure(int threads, double *ops_per_s, const char **how, Error *err);

#endif

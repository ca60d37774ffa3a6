// Checks of weights that are mapped: each page before its first use.
//
// A page's bytes come from memory once: the thread that needs them checks the page and then multiplies
// with what is in its cache (StepRun.ready). What a step gives counts only if page_checks_good says so
// after it, so nobody waits for a page that another thread is checking.
// Pages of tables that lead to other addresses (orders, slots), and whatever else no kernel asks for,
// are checked before the first step.
#ifndef PAGE_CHECKS_H
#define PAGE_CHECKS_H

#include "executable.h"
#include "step.h"
#include "threads.h"

typedef struct PageChecks PageChecks;

// For the CPU target of that name. The owner calls page_checks_close.
bool page_checks_open(PageChecks **out, const Executable *e, const char *target, Error *err);
void page_checks_close(PageChecks *c);
// By all threads of the pool: the pages that must be right before the first step, or all of them.
void page_checks_run(PageChecks *c, Pool *pool, bool all);
// The state of the checks in run->ready and run->checks: nothing, once all pages were checked.
void page_checks_offer(PageChecks *c, StepRun *run);
// No page so far was damaged. Between steps. ERR_CORRUPT.
bool page_checks_good(const PageChecks *c, Error *err);

#endif

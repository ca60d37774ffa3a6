// What: how the work of linear_wgmma is cut: tiles of the result, each STEPS steps along K, over clusters
//     that run at the same time.
// Idea: clusters take whole tiles in turn. With EVEN the last turn that is full and the one that is not
//     are split evenly instead: their steps, one tile behind the other, are cut into as many ranges as
//     there are clusters (stream-K, arXiv:2301.03598). Every cluster then has the end of one tile,
//     perhaps whole ones, and the beginning of another, in this order; so what others have of its last
//     tile was left by them at their beginning.
// Parameters: STEPS; CLUSTER, parts of K that blocks of a cluster have; EVEN 0 or 1, not with CLUSTER.
//     Plain C: tests/unit/test_turns.c runs it.
#ifndef TURNS_CUH
#define TURNS_CUH

// Steps [first, last) of tile `id`.
typedef struct Segment {
    int id, first, last;
} Segment;

// All work of cluster `at`.
typedef struct Turns {
    int clusters, tiles;
    int whole;     // tiles that one cluster makes alone
    int next;      // of those
    int unit, end; // EVEN: steps of the tiles behind them, one tile behind the other
    int part;      // of K, without EVEN
} Turns;

// The first unit of cluster `at`. Ends are GRAIN steps apart.
__device__ __forceinline__ int unit_first(const Turns *t, int at) {
    enum { GRAIN = 4 };
    int units = (t->tiles - t->whole) * STEPS;
    // at most 2 clusters^2 STEPS: 32 bits hold 180 clusters of 65,536 steps
    return at < t->clusters ? (int)((unsigned)units * (unsigned)at / (unsigned)t->clusters) / GRAIN *
                                  GRAIN
                            : units;
}

__device__ __forceinline__ Turns turns_open(int at, int clusters, int tiles, int part) {
    Turns t = {clusters, tiles, tiles, at, 0, 0, part};
    if (EVEN) {
        int rest = tiles < clusters ? tiles : tiles % clusters ? tiles % clusters + clusters : 0;
        t.whole = tiles - rest;
        t.unit = unit_first(&t, at);
        t.end = unit_first(&t, at + 1);
    }
    return t;
}

// Is there another segment?
__device__ __forceinline__ int turns_more(const Turns *t) {
    return t->next < t->whole || (EVEN && t->unit < t->end);
}

// 0: there is none. The tile is chosen by a mask: a branch on it would hide from the compiler that the
// threads of a warp stay together, and what they agree on would no longer be in uniform registers.
__device__ __forceinline__ int turns_next(Turns *t, Segment *s) {
    if (!EVEN) {
        s->id = t->next;
        s->first = STEPS * t->part / CLUSTER;
        s->last = STEPS * (t->part + 1) / CLUSTER;
        t->next += t->clusters;
        return s->id < t->whole;
    }
    int whole = t->next < t->whole, mask = -whole, even_first = t->unit % STEPS;
    int even_last = even_first + t->end - t->unit, more = turns_more(t);
    s->id = (t->next & mask) | ((t->whole + t->unit / STEPS) & ~mask);
    s->first = whole ? 0 : even_first;
    s->last = whole || even_last > STEPS ? STEPS : even_last;
    t->next += whole ? t->clusters : 0;
    t->unit += whole ? 0 : s->last - s->first;
    return more;
}

// EVEN: the next cluster behind `other` that has steps of the tile whose first ones are `s`; first asked
// with the cluster of `s`. -1: there is none.
__device__ __forceinline__ int turns_other(const Turns *t, Segment s, int other) {
    int end = (s.id - t->whole + 1) * STEPS;
    if (s.last == STEPS) {
        return -1;
    }
    do {
        other++;
        if (unit_first(t, other) >= end) {
            return -1;
        }
    } while (unit_first(t, other) == unit_first(t, other + 1)); // has none at all
    return other;
}

#endif

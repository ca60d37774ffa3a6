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
    return at < t->clusters ? (int)((long long)units * at / t->clusters) / GRAIN * GRAIN : units;
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

// 0: there is none.
__device__ __forceinline__ int turns_next(Turns *t, Segment *s) {
    if (t->next < t->whole) {
        s->id = t->next;
        s->first = STEPS * t->part / CLUSTER;
        s->last = STEPS * (t->part + 1) / CLUSTER;
        t->next += t->clusters;
        return 1;
    }
    if (!EVEN || t->unit >= t->end) {
        return 0;
    }
    int first = t->unit % STEPS, last = first + t->end - t->unit;
    s->id = t->whole + t->unit / STEPS;
    s->first = first;
    s->last = last < STEPS ? last : STEPS;
    t->unit += s->last - s->first;
    return 1;
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

// How the work of linear_wgmma is cut over clusters (kernels/turns.cuh): each step of each tile is made
// once, and who begins a tile finds all who have the rest of it.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int steps, even, cluster; // of the case
#define STEPS           steps
#define EVEN            even
#define CLUSTER         cluster
#define __device__      static
#define __forceinline__ inline
#include "kernels/turns.cuh"

enum { TILES_MAX = 700, STEPS_MAX = 448 };

static unsigned char made[TILES_MAX][STEPS_MAX];
static bool split[TILES_MAX]; // into more than one segment

static void segment_make(Segment s) {
    assert_in_range(s.first, 0, s.last - 1);
    assert_in_range(s.last, 1, steps);
    for (int step = s.first; step < s.last; step++)
        made[s.id][step]++;
    split[s.id] = split[s.id] || s.last - s.first < steps;
}

// Steps that others have of the tile that `s` begins, in the order in which they are found.
static void others_check(const Turns *t, Segment s, int at, int tiles) {
    int next = s.last;
    for (int other = turns_other(t, s, at); other >= 0; other = turns_other(t, s, other)) {
        Turns theirs = turns_open(other, t->clusters, tiles, 0);
        Segment first;
        theirs.next = theirs.whole; // what they leave in memory is the first of their range
        assert_true(turns_next(&theirs, &first));
        assert_int_equal(first.id, s.id);
        assert_int_equal(first.first, next);
        next = first.last;
    }
    assert_int_equal(next, steps);
}

static void cluster_check(int at, int clusters, int tiles, int part) {
    Turns t = turns_open(at, clusters, tiles, part);
    Segment s;
    int parts = 0;
    while (turns_more(&t)) {
        assert_true(turns_next(&t, &s));
        segment_make(s);
        parts += even && s.first > 0;
        if (even && s.first == 0)
            others_check(&t, s, at, tiles);
    }
    assert_false(turns_next(&t, &s));
    assert_true(parts <= 1); // there is room for one
}

// Where all turns are full nothing is split; else no more than the last two turns.
static void splits_check(int clusters, int tiles) {
    int count = 0;
    for (int tile = 0; tile < tiles; tile++)
        count += split[tile];
    assert_in_range(count, 0, tiles % clusters ? clusters + tiles % clusters : 0);
}

static void case_check(int clusters, int tiles) {
    memset(made, 0, sizeof made);
    memset(split, 0, sizeof split);
    for (int at = 0; at < clusters; at++)
        for (int part = 0; part < cluster; part++)
            cluster_check(at, clusters, tiles, part);
    for (int tile = 0; tile < tiles; tile++)
        for (int step = 0; step < steps; step++)
            assert_int_equal(made[tile][step], 1);
    if (even)
        splits_check(clusters, tiles);
}

static void test_every_step_once(void **state) {
    (void)state;
    static const int all_steps[] = {1, 3, 32, 56, 64, 86, 224, 448},
                     all_clusters[] = {1, 5, 66, 132};
    static const int all_tiles[] = {1, 2, 31, 48, 66, 131, 132, 133, 192, 263, 264, 265, 592, 700};
    for (size_t i = 0; i < sizeof all_steps / sizeof *all_steps; i++)
        for (size_t j = 0; j < sizeof all_clusters / sizeof *all_clusters; j++)
            for (size_t k = 0; k < sizeof all_tiles / sizeof *all_tiles; k++)
                for (int form = 0; form < 3; form++) {
                    steps = all_steps[i];
                    even = form == 1;
                    cluster = form == 2 && steps > 1 ? 2 : 1;
                    case_check(all_clusters[j], all_tiles[k]);
                }
}

// No cluster has more than a grain above its share of what is split; shares begin at a grain.
static void test_even(void **state) {
    (void)state;
    static const int all_steps[] = {64, 86, 65536}, all_clusters[] = {132, 132, 180};
    even = cluster = 1;
    for (size_t i = 0; i < sizeof all_steps / sizeof *all_steps; i++)
        for (int tiles = all_clusters[i] + 1; tiles < 2 * all_clusters[i]; tiles++)
            for (int at = 0; at < all_clusters[i]; at++) {
                steps = all_steps[i];
                Turns t = turns_open(at, all_clusters[i], tiles, 0);
                int share = (t.tiles - t.whole) * steps / all_clusters[i];
                assert_in_range(t.end - t.unit, share - 4, share + 4 + 1);
                assert_int_equal(t.unit % 4, 0);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_step_once),
                                       cmocka_unit_test(test_even)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

// The longest n-gram at the end that stands in the text before, at its latest place, wins.
#include "speculate.h"

#include <string.h>

enum { LONGEST = 4, SHORTEST = 2 }; // n-grams

// The end of the latest place before the last token at which the last n tokens stand; 0: none.
static int64_t place_find(const int32_t *ids, int64_t count, int64_t n) {
    const int32_t *last = ids + count - n;
    for (int64_t end = count - 1; end >= n; end--)
        if (ids[end - 1] == last[n - 1] && memcmp(ids + end - n, last, (size_t)n * 4) == 0)
            return end;
    return 0;
}

int32_t speculate_draft(const Speculate *s, const int32_t *ids, int64_t count, int64_t room,
                        int32_t drafts[SPECULATE_MAX]) {
    int64_t length = s->length < s->most ? s->length : s->most, place = 0;
    length = length < room ? length : room;
    for (int64_t n = LONGEST; n >= SHORTEST && !place && length > 0; n--)
        place = n < count ? place_find(ids, count, n) : 0;
    if (!place)
        return 0;
    length = length < count - place ? length : count - place;
    memcpy(drafts, ids + place, (size_t)length * sizeof *drafts);
    return (int32_t)length;
}

void speculate_learn(Speculate *s, int32_t drafted, int32_t accepted) {
    s->drafted += drafted;
    s->accepted += accepted;
    if (accepted == drafted)
        s->length = 2 * s->length < s->most ? 2 * s->length : s->most;
    else if (accepted == 0 && s->length > 1)
        s->length /= 2;
}

// Subset construction by need (as in K. Thompson's cache and RE2's DFA), with stacks: frames are
// hash-consed, so equal stacks are equal numbers and a state is a sorted list of pairs.
//
// What is bounded: places in a state (more are forgotten: the text then stays valid, but some
// valid texts are lost, which only grammars meet that are very ambiguous), states, masks.
#include "grammar_walk.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_PLACES = 256,     // of a state
    MAX_WORK = 1 << 12,   // places met while one state is made
    MANY_STATES = 4096,   // a walk starts anew above these
    MAX_STATES = 1 << 15, // within one step or mask
    MAX_MASK_BYTES = 8 << 20,
    SLOTS = 1 << 12, // of each hash table at first
    UNKNOWN = -1,
    NO_STACK = 0,
};

typedef struct Frame {
    int32_t node;   // CALL or REPEAT
    int32_t count;  // REPEAT: turns that are complete
    int32_t parent; // NO_STACK: none
    int32_t depth;
} Frame;

typedef struct Place {
    int32_t node, stack;
} Place;

typedef struct State {
    int32_t first, count; // of `places`; those of the nodes BYTES
    bool accepts;
    uint32_t *mask[2]; // of later and of the first token; NULL: not made; owner: tables_free
} State;

// All that is thrown away together.
typedef struct Tables {
    Frame *frames; // 0 is unused
    State *states; // WALK_DEAD comes first
    Place *places;
    int32_t *next; // [states][classes]
    int32_t frame_count, frame_room, state_count, state_room, place_count, place_room;
    int32_t *frame_slots, *state_slots; // numbers by hash; 0: empty
    uint32_t frame_slot_count, state_slot_count;
    size_t mask_bytes;
} Tables;

// A place while a state is made. `floor`: frames above this depth were pushed since the last byte.
typedef struct Work {
    int32_t node, stack, floor;
} Work;

struct Walk {
    const Nfa *nfa;
    const Vocabulary *v;
    Tables t;
    Walker *walkers; // all that live
    Work work[MAX_WORK];
    int32_t work_count;
    uint16_t seen[2 * MAX_WORK]; // of `work` by hash, 0: empty, else its number + 1
    Place places[MAX_PLACES];
    int32_t place_count;
    bool accepts;
    int32_t path[VOCABULARY_MAX_BYTES + 1]; // states along a branch of the trie
};

// ---- tables -------------------------------------------------------------------------------------

// NULL, and nothing is changed: no memory.
static void *grown(void *items, int32_t *room, int64_t count, size_t elem_bytes) {
    int64_t wanted = 2 * (int64_t)*room > count ? 2 * (int64_t)*room : count + 256;
    if (count <= *room)
        return items;
    void *bigger = wanted < INT32_MAX ? realloc(items, (size_t)wanted * elem_bytes) : NULL;
    *room = bigger ? (int32_t)wanted : *room;
    return bigger;
}

static uint32_t hash_of(const void *data, size_t bytes) {
    const int32_t *words = data;
    uint64_t hash = 0x9e3779b97f4a7c15;
    for (size_t at = 0; at < bytes / sizeof *words; at++)
        hash = (hash ^ (uint32_t)words[at]) * 0xff51afd7ed558ccd;
    return (uint32_t)(hash >> 32);
}

static void masks_free(Tables *t) {
    for (int32_t at = 0; at < t->state_count; at++)
        for (int which = 0; which < 2; which++) {
            free(t->states[at].mask[which]);
            t->states[at].mask[which] = NULL;
        }
    t->mask_bytes = 0;
}

static void tables_free(Tables *t) {
    masks_free(t);
    free(t->frames);
    free(t->states);
    free(t->places);
    free(t->next);
    free(t->frame_slots);
    free(t->state_slots);
}

static bool tables_open(Tables *t, int32_t classes) {
    *t = (Tables){.frame_slot_count = SLOTS, .state_slot_count = SLOTS, .frame_count = 1};
    t->frames = grown(NULL, &t->frame_room, 1, sizeof *t->frames);
    t->states = grown(NULL, &t->state_room, 1, sizeof *t->states);
    t->next = malloc((size_t)t->state_room * (size_t)classes * sizeof *t->next);
    t->frame_slots = calloc(SLOTS, sizeof *t->frame_slots);
    t->state_slots = calloc(SLOTS, sizeof *t->state_slots);
    if (!t->frames || !t->states || !t->next || !t->frame_slots || !t->state_slots) {
        tables_free(t);
        return false;
    }
    t->frames[NO_STACK] = (Frame){.depth = 0};
    t->states[t->state_count++] = (State){.count = 0};
    for (int32_t class = 0; class < classes; class ++)
        t->next[class] = WALK_DEAD;
    return true;
}

// Puts number `id` of the given hash into slots that were grown to twice as many.
static void slot_put(int32_t *slots, uint32_t count, uint32_t hash, int32_t id) {
    uint32_t at = hash & (count - 1);
    while (slots[at])
        at = (at + 1) & (count - 1);
    slots[at] = id;
}

static uint32_t frame_hash(const Frame *f) {
    return hash_of(f, offsetof(Frame, depth));
}

static uint32_t state_hash(const Tables *t, const State *s) {
    return hash_of(t->places + s->first, (size_t)s->count * sizeof(Place));
}

static bool frame_slots_grow(Tables *t) {
    if ((uint32_t)t->frame_count * 2 < t->frame_slot_count)
        return true;
    uint32_t count = 2 * t->frame_slot_count;
    int32_t *slots = calloc(count, sizeof *slots);
    if (!slots)
        return false;
    for (int32_t id = 1; id < t->frame_count; id++)
        slot_put(slots, count, frame_hash(&t->frames[id]), id);
    free(t->frame_slots);
    t->frame_slots = slots;
    t->frame_slot_count = count;
    return true;
}

static bool state_slots_grow(Tables *t) {
    if ((uint32_t)t->state_count * 2 < t->state_slot_count)
        return true;
    uint32_t count = 2 * t->state_slot_count;
    int32_t *slots = calloc(count, sizeof *slots);
    if (!slots)
        return false;
    for (int32_t id = 1; id < t->state_count; id++)
        slot_put(slots, count, state_hash(t, &t->states[id]), id);
    free(t->state_slots);
    t->state_slots = slots;
    t->state_slot_count = count;
    return true;
}

// The stack of `parent` with one more frame; NO_STACK: no memory.
static int32_t frame_push(Tables *t, int32_t node, int32_t count, int32_t parent) {
    Frame f = {node, count, parent, t->frames[parent].depth + 1};
    uint32_t hash = frame_hash(&f), at = hash & (t->frame_slot_count - 1);
    for (; t->frame_slots[at]; at = (at + 1) & (t->frame_slot_count - 1))
        if (memcmp(&t->frames[t->frame_slots[at]], &f, sizeof f) == 0)
            return t->frame_slots[at];
    Frame *frames = grown(t->frames, &t->frame_room, (int64_t)t->frame_count + 1, sizeof f);
    if (!frames)
        return NO_STACK;
    t->frames = frames;
    if (!frame_slots_grow(t))
        return NO_STACK;
    t->frames[t->frame_count] = f;
    slot_put(t->frame_slots, t->frame_slot_count, hash, t->frame_count);
    return t->frame_count++;
}

// ---- one state ----------------------------------------------------------------------------------

static void work_add(Walk *w, int32_t node, int32_t stack, int32_t floor) {
    Work item = {node, stack, floor};
    enum { SLOTS_SEEN = sizeof w->seen / sizeof *w->seen };
    if (w->work_count == MAX_WORK ||
        w->t.frames[stack].depth + w->nfa->nodes[node].need > NFA_MAX_DEPTH)
        return; // it would not come to its end
    uint32_t at = hash_of(&item, sizeof item) % SLOTS_SEEN;
    for (; w->seen[at]; at = (at + 1) % SLOTS_SEEN)
        if (memcmp(&w->work[w->seen[at] - 1], &item, sizeof item) == 0)
            return;
    w->work[w->work_count++] = item;
    w->seen[at] = (uint16_t)w->work_count;
}

static void work_push(Walk *w, int32_t node, int32_t count, int32_t stack, int32_t start,
                      int32_t floor) {
    int32_t inside = frame_push(&w->t, node, count, stack);
    if (inside != NO_STACK)
        work_add(w, start, inside, floor);
}

// Behind `count` complete turns of a repeat.
static void turns(Walk *w, int32_t node, int32_t count, int32_t stack, int32_t floor) {
    const Node *v = &w->nfa->nodes[node];
    if (v->max == NFA_UNBOUNDED && count > v->min)
        count = v->min;
    if (count >= v->min)
        work_add(w, v->next, stack, floor);
    if (v->max == NFA_UNBOUNDED || count < v->max)
        work_push(w, node, count, stack, v->other, floor);
}

static void frame_return(Walk *w, const Work *item) {
    const Frame f = w->t.frames[item->stack];
    bool empty = f.depth > item->floor; // nothing was read since it was pushed
    int32_t floor = empty ? item->floor : f.depth - 1;
    const Node *v = &w->nfa->nodes[f.node];
    if (v->kind == NODE_CALL)
        work_add(w, v->next, f.parent, floor);
    else if (!(empty && v->nullable)) // more empty turns lead nowhere new
        turns(w, f.node, f.count + 1, f.parent, floor);
}

static void call(Walk *w, const Work *item) {
    const Node *v = &w->nfa->nodes[item->node];
    int32_t start = w->nfa->rules[v->other];
    if (w->nfa->nodes[v->next].kind == NODE_RETURN) // needs no frame of its own
        work_add(w, start, item->stack, item->floor);
    else
        work_push(w, item->node, 0, item->stack, start, item->floor);
}

// What follows without reading a byte.
static void work_run(Walk *w, Work item) {
    const Node *v = &w->nfa->nodes[item.node];
    switch ((NodeKind)v->kind) {
    case NODE_RETURN:
        if (item.stack == NO_STACK)
            w->accepts = true;
        else
            frame_return(w, &item);
        break;
    case NODE_BYTES:
        if (w->place_count < MAX_PLACES)
            w->places[w->place_count++] = (Place){item.node, item.stack};
        break;
    case NODE_EMPTY:
        work_add(w, v->next, item.stack, item.floor);
        break;
    case NODE_SPLIT:
        work_add(w, v->next, item.stack, item.floor);
        work_add(w, v->other, item.stack, item.floor);
        break;
    case NODE_CALL:
        call(w, &item);
        break;
    case NODE_REPEAT:
        turns(w, item.node, 0, item.stack, item.floor);
        break;
    case NODE_NEVER:
        break;
    }
}

static int by_place(const void *a, const void *b) {
    const Place *left = a, *right = b;
    int order = (left->node > right->node) - (left->node < right->node);
    return order ? order : (left->stack > right->stack) - (left->stack < right->stack);
}

static void work_start(Walk *w) {
    w->work_count = w->place_count = 0;
    w->accepts = false;
    memset(w->seen, 0, sizeof w->seen);
}

static bool state_is(const Walk *w, const State *s) {
    return s->count == w->place_count && s->accepts == w->accepts &&
           memcmp(w->t.places + s->first, w->places, (size_t)s->count * sizeof(Place)) == 0;
}

static bool state_room(Tables *t, int32_t places, int32_t classes) {
    int32_t room = t->state_room;
    State *states = grown(t->states, &room, (int64_t)t->state_count + 1, sizeof *states);
    if (!states)
        return false;
    t->states = states;
    if (room != t->state_room) {
        int32_t *next = realloc(t->next, (size_t)room * (size_t)classes * sizeof *next);
        if (!next)
            return false;
        t->next = next;
        t->state_room = room;
    }
    Place *all =
        grown(t->places, &t->place_room, (int64_t)t->place_count + places + 1, sizeof *all);
    if (all)
        t->places = all;
    return all && state_slots_grow(t);
}

// The state of w->places, which it sorts; WALK_DEAD: no room, or nothing follows.
static int32_t state_find(Walk *w) {
    Tables *t = &w->t;
    int32_t kept = 0, classes = w->nfa->class_count;
    qsort(w->places, (size_t)w->place_count, sizeof *w->places, by_place);
    for (int32_t at = 0; at < w->place_count; at++)
        if (!at || by_place(&w->places[at], &w->places[at - 1]) != 0)
            w->places[kept++] = w->places[at];
    w->place_count = kept;
    if (!kept && !w->accepts)
        return WALK_DEAD;
    uint32_t hash = hash_of(w->places, (size_t)kept * sizeof(Place));
    uint32_t at = hash & (t->state_slot_count - 1);
    for (; t->state_slots[at]; at = (at + 1) & (t->state_slot_count - 1))
        if (state_is(w, &t->states[t->state_slots[at]]))
            return t->state_slots[at];
    if (t->state_count >= MAX_STATES || !state_room(t, kept, classes))
        return WALK_DEAD;
    int32_t id = t->state_count++;
    t->states[id] = (State){.first = t->place_count, .count = kept, .accepts = w->accepts};
    memcpy(t->places + t->place_count, w->places, (size_t)kept * sizeof(Place));
    t->place_count += kept;
    for (int32_t class = 0; class < classes; class ++)
        t->next[id * classes + class] = UNKNOWN;
    slot_put(t->state_slots, t->state_slot_count, hash, id);
    return id;
}

static int32_t state_start(Walk *w) {
    work_start(w);
    work_add(w, w->nfa->start, NO_STACK, 0);
    for (int32_t at = 0; at < w->work_count; at++)
        work_run(w, w->work[at]);
    return state_find(w);
}

static int32_t state_next(Walk *w, int32_t state, int class) {
    const unsigned char byte = w->nfa->class_byte[class];
    State s = w->t.states[state];
    work_start(w);
    for (int32_t at = s.first; at < s.first + s.count; at++) {
        Place p = w->t.places[at];
        const Node *v = &w->nfa->nodes[p.node];
        if (byte >= v->low && byte <= v->high)
            work_add(w, v->next, p.stack, w->t.frames[p.stack].depth);
    }
    for (int32_t at = 0; at < w->work_count; at++)
        work_run(w, w->work[at]);
    int32_t to = state_find(w);
    bool nothing = !w->place_count && !w->accepts;
    if (to != WALK_DEAD || nothing)
        w->t.next[state * w->nfa->class_count + class] = to;
    return to;
}

int32_t walk_step(Walk *w, int32_t state, unsigned char byte) {
    int class = w->nfa->classes[byte];
    int32_t to = w->t.next[state * w->nfa->class_count + class];
    return to == UNKNOWN ? state_next(w, state, class) : to;
}

bool walk_accepts(const Walk *w, int32_t state) {
    return w->t.states[state].accepts;
}

// ---- masks --------------------------------------------------------------------------------------

static void trie_walk(Walk *w, const TokenTrie *trie, int32_t state, uint32_t *mask) {
    int32_t *path = w->path;
    path[0] = state;
    for (int32_t at = 0; at < trie->first[0]; at++)
        mask[trie->ids[at] / 32] |= 1u << (trie->ids[at] % 32);
    for (int32_t node = 0; node < trie->count;) {
        int depth = trie->depth[node];
        int32_t to = walk_step(w, path[depth], trie->byte[node]);
        path[depth + 1] = to;
        if (to == WALK_DEAD) {
            node = trie->skip[node];
            continue;
        }
        for (int32_t at = trie->first[node]; at < trie->first[node + 1]; at++)
            mask[trie->ids[at] / 32] |= 1u << (trie->ids[at] % 32);
        node++;
    }
}

static const TokenTrie *trie_of(const Walk *w, bool opening) {
    return opening && w->v->opening.count ? &w->v->opening : &w->v->trie;
}

const uint32_t *walk_mask_kept(const Walk *w, int32_t state, bool opening) {
    return w->t.states[state].mask[trie_of(w, opening) == &w->v->opening];
}

const uint32_t *walk_mask(Walk *w, int32_t state, bool opening) {
    const TokenTrie *trie = trie_of(w, opening);
    int which = trie == &w->v->opening;
    size_t words = ((size_t)w->v->size + 31) / 32;
    uint32_t *mask = w->t.states[state].mask[which];
    if (mask)
        return mask;
    mask = calloc(words, sizeof *mask);
    if (!mask)
        return NULL;
    trie_walk(w, trie, state, mask);
    w->t.mask_bytes += words * sizeof *mask;
    w->t.states[state].mask[which] = mask;
    return mask;
}

// ---- walkers ------------------------------------------------------------------------------------

// A stack of the old tables in the new ones; -1: no memory.
static int32_t stack_move(Walk *w, const Tables *old, int32_t stack) {
    int32_t chain[NFA_MAX_DEPTH + 1], count = 0, moved = NO_STACK;
    for (; stack != NO_STACK; stack = old->frames[stack].parent)
        chain[count++] = stack;
    while (count--) {
        const Frame *f = &old->frames[chain[count]];
        moved = frame_push(&w->t, f->node, f->count, moved);
        if (moved == NO_STACK)
            return -1;
    }
    return moved;
}

static int32_t state_move(Walk *w, const Tables *old, int32_t state) {
    const State *s = &old->states[state];
    w->place_count = 0;
    w->accepts = s->accepts;
    for (int32_t at = s->first; at < s->first + s->count; at++) {
        int32_t stack = stack_move(w, old, old->places[at].stack);
        if (stack >= 0)
            w->places[w->place_count++] = (Place){old->places[at].node, stack};
    }
    return state_find(w);
}

void walk_tidy(Walk *w) {
    if (w->t.mask_bytes > MAX_MASK_BYTES)
        masks_free(&w->t);
    if (w->t.state_count < MANY_STATES && w->t.frame_count < MANY_STATES)
        return;
    Tables old = w->t;
    if (!tables_open(&w->t, w->nfa->class_count)) {
        w->t = old;
        return;
    }
    for (Walker *k = w->walkers; k; k = k->next)
        k->state = state_move(w, &old, k->state);
    tables_free(&old);
}

bool walk_open(Walk **out, const Nfa *nfa, const Vocabulary *v, Error *err) {
    Walk *w = calloc(1, sizeof *w);
    if (!w || !tables_open(&w->t, nfa->class_count)) {
        free(w);
        return fail(err, ERR_RESOURCE, 1217, "no memory for the states of a grammar");
    }
    w->nfa = nfa;
    w->v = v;
    *out = w;
    return true;
}

void walk_close(Walk *w) {
    if (!w)
        return;
    tables_free(&w->t);
    free(w);
}

bool walker_start(Walk *w, Walker *k, Error *err) {
    walk_tidy(w);
    *k = (Walker){.opening = true, .state = state_start(w)};
    if (k->state == WALK_DEAD)
        return fail(err, ERR_RESOURCE, 1218, "no memory for the first state of a grammar");
    k->next = w->walkers;
    if (k->next)
        k->next->previous = k;
    w->walkers = k;
    return true;
}

void walker_copy(Walker *to, const Walker *from) {
    to->state = from->state;
    to->opening = from->opening;
    to->ended = from->ended;
}

void walker_end(Walk *w, Walker *k) {
    if (k->next)
        k->next->previous = k->previous;
    if (k->previous)
        k->previous->next = k->next;
    else
        w->walkers = k->next;
}

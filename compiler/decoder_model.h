// Between decoder.c and decoder_graph.c: a description together with what it describes.
#ifndef DECODER_MODEL_H
#define DECODER_MODEL_H

#include "decoder.h"

typedef struct Model {
    const Config *config;
    const Checkpoint *checkpoint;
    Decoder d;
    Arena *arena;
} Model;

typedef enum Width {
    WIDTH_HIDDEN, WIDTH_QUERIES, WIDTH_KEYS, WIDTH_QKV, WIDTH_INTERMEDIATE, WIDTH_GATE_UP,
    WIDTH_EXPERTS, WIDTH_EXPERT, WIDTH_COUNT,
} Width;

typedef enum ModuleRole { // ORDER ROLES (module_spec); those of experts stand last
    ROLE_Q, ROLE_K, ROLE_V, ROLE_QKV, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_GATE_UP, ROLE_DOWN,
    ROLE_ROUTER, ROLE_EXPERT_GATE, ROLE_EXPERT_UP, ROLE_EXPERT_DOWN, ROLE_COUNT,
} ModuleRole;

bool model_open(Model *m, const Arch *arch, const Config *c, const Checkpoint *checkpoint, Arena *a,
                Error *err);
bool model_has(const Model *m, const char *module); // quantized or plain
// expert: of ROLE_EXPERT_*.
LinearSpec module_spec(const Model *m, int layer, ModuleRole role, int expert);
// Is ROLE_QKV or ROLE_GATE_UP one module in this checkpoint?
bool model_fused(const Model *m, int layer, ModuleRole role);
LinearSpec embed_spec(const Model *m);
// false: the head is the embedding.
bool head_spec(const Model *m, LinearSpec *out);

#endif

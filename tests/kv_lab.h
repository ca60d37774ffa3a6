// The twin of kernels/kv_layout.cuh: element e of the key or value of `position` lies at e ^ flip.
#ifndef KV_LAB_H
#define KV_LAB_H

#include <stdint.h>

static inline int64_t kv_lab_flip(int64_t head_dim, int64_t position) {
    int64_t chunks = head_dim / 8;
    int64_t spread = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : chunks % 2 == 0 ? 2 : 1;
    return position / (8 / spread) % spread * 8;
}

#endif

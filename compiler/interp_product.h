// The oracle's products (interp.c): y = W x in doubles, with weights made from the checkpoint's.
#ifndef INTERP_PRODUCT_H
#define INTERP_PRODUCT_H

#include "compile.h"

enum { PRODUCT_MAX_THREADS = 64 };

// All rows as floats, [experts][N, K]: parts below each other, in the order of their features (no
// row order).
float *weights_dequantize(const PackedTensor *t, Arena *a);

// y[token][row] = W x[token].
typedef struct Product {
    const PackedTensor *t;
    const float *weights; // [N, K]; NULL: dequantize the rows of `expert` when they are needed
    int64_t expert;
    const double *x; // [tokens, K]
    double *y;       // [tokens, N]
    int64_t tokens;
    int64_t first, end; // rows; set by product()
} Product;

// threads: 1 to PRODUCT_MAX_THREADS.
void product(const Product *whole, int threads);

#endif

// Linear layers: INT8 weights, per-channel scales, times a quantized image's rows; what follows takes the results from the
// registers.

#pragma once

#include <algorithm>

#include "rows.h"

constexpr int PANEL = LINEAR_VECTORS * LANES;  // output channels whose weights are packed together
constexpr int64_t BAND = 4 * LINEAR_ROWS;      // rows that are multiplied and used up while they lie in the cache

struct Layer {
    const int8_t* packed;  // by panels; of each, the first four inputs of all its outputs, then the next four
    const int32_t* start;  // of each output's sum: -ZERO_POINT times the sum of its weights
    const float *scale, *bias;
    int64_t width, outputs;  // inputs, a multiple of 8 and of LANES; outputs, a multiple of PANEL
};

struct Ahead {  // weights that come next: each tile brings a part of them to the cache
    const int8_t *from, *end;
};

INLINE Ahead panel(const Layer& layer, int64_t column) {
    const int8_t* from = layer.packed + column * layer.width;
    return {from, from + PANEL * layer.width};
}

// The panel after that of `column`, or the first one of the layer that is next.
INLINE Ahead panel_after(const Layer& layer, int64_t column, const Layer& next) {
    return column + PANEL < layer.outputs ? panel(layer, column + PANEL) : panel(next, 0);
}

// use(r, v, x) for each of R rows and each vector of a panel: x = sum over k of (values[r][k] - ZERO_POINT) * weight[k],
// times both scales, plus bias. IS_CLASS: rows 0 and 1 are the class token's, and their sum is row 1's result.
template <int R, bool IS_CLASS, class Use>
NOINLINE void linear_tile(const Layer& layer, int64_t column, const uint8_t* values, const float* scale,
                          const int8_t* ahead, Use use) {
    constexpr int N = LINEAR_VECTORS;
    const int64_t width = layer.width;
    const int8_t* weights = layer.packed + column * width;
    Ints sum[R][N];
    UNROLL for (int r = IS_CLASS; r < R; r++) use.prefetch(r);
    UNROLL for (int v = 0; v < N; v++) {
        const Ints start = ints_at(layer.start + column + v * LANES);
        UNROLL for (int r = 0; r < R; r++) sum[r][v] = start;
    }
    for (int64_t k = 0; k < width; k += 8) {
        Ints weight[2 * N];  // of the first four inputs, then of the other four
        __builtin_prefetch(ahead + 8 * k);
        UNROLL for (int v = 0; v < 2 * N; v++) {
            weight[v] = ints_at(weights + PANEL * k + v * sizeof(Ints));
            IN_REGISTER(weight[v]);
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < N; v++) {
                sum[r][v] = eight_products(sum[r][v], values + r * width + k, weight[v], weight[N + v]);
                IN_REGISTER(sum[r][v]);  // and one row after another
            }
    }
    UNROLL for (int v = 0; v < N; v++) {
        const int64_t at = column + v * LANES;
        const Floats factor = floats_at(layer.scale + at), bias = floats_at(layer.bias + at);
        if constexpr (IS_CLASS) {
            const Floats low = fma(to_floats(sum[0][v]) * factor, every(scale[0]), bias);
            use(1, v, fma(to_floats(sum[1][v]) * factor, every(scale[1]), low));
        }
        UNROLL for (int r = 2 * IS_CLASS; r < R; r++)
            use(r, v, fma(to_floats(sum[r][v]) * factor, every(scale[r]), bias));
    }
}

// Rows [first, last) of a layer's panel. use_from(row) gives what takes the results of the rows from `row` on.
template <class UseFrom>
INLINE void linear_panel(const Layer& layer, int64_t column, const Rows& input, int64_t first, int64_t last, Ahead next,
                         UseFrom use_from) {
    const int64_t part = 8 * layer.width;  // bytes that a tile brings
    for (int64_t row = first, rows; row < last; row += rows) {
        const uint8_t* values = input.values + row * layer.width;
        const float* scale = input.scale + row;
        rows = std::min<int64_t>(last - row, LINEAR_ROWS);
        if (row == 0 && rows < LINEAR_ROWS) rows = 2;
        const auto use = use_from(row);
        if (row == 0) {
            if (rows == 2) linear_tile<2, true>(layer, column, values, scale, next.from, use);
            else linear_tile<LINEAR_ROWS, true>(layer, column, values, scale, next.from, use);
        } else
            with_constant<LINEAR_ROWS>(rows, [&](auto R) {
                linear_tile<R(), false>(layer, column, values, scale, next.from, use);
            });
        if (next.from + 2 * part <= next.end) next.from += part;
    }
}

struct Store {  // results as they are; `to` is where row 0's would go
    float* to;
    int64_t stride;
    INLINE void prefetch(int) const {}
    INLINE void operator()(int r, int v, Floats x) const { store(to + r * stride + v * LANES, x); }
};

struct Add {  // to what is there
    float* to;
    int64_t stride;
    INLINE void prefetch(int r) const {
        for (int v = 0; v < LINEAR_VECTORS; v++) __builtin_prefetch(to + r * stride + v * LANES, 1);
    }
    INLINE void operator()(int r, int v, Floats x) const {
        float* place = to + r * stride + v * LANES;
        store(place, floats_at(place) + x);
    }
};

// GELU, x times the normal distribution's integral up to x, which is 0.5 + x p(x^2) between -4 and 4: a polynomial fitted
// to the least largest error, 2e-4, a hundredth of a quantization step.
INLINE Floats gelu(Floats x) {
    const Floats z = smaller(larger(x, every(-4.0f)), every(4.0f)), u = z * z;
    Floats p = fma(u, every(2.27750228e-8f), every(-1.5982514e-6f));
    p = fma(p, u, every(4.79480332e-5f));
    p = fma(p, u, every(-8.13937106e-4f));
    p = fma(p, u, every(8.77197459e-3f));
    p = fma(p, u, every(-6.45721108e-2f));
    p = fma(p, u, every(3.97882551e-1f));
    return x * fma(z, p, every(0.5f));
}

struct Gelu {  // GELU(result) * factor + shift; largest[r] keeps the largest magnitudes of row r's lanes
    float* to;
    Floats* largest;
    int64_t stride;
    const float *factor, *shift;
    INLINE void prefetch(int) const {}
    INLINE void operator()(int r, int v, Floats x) const {
        const Floats result = fma(gelu(x), floats_at(factor + v * LANES), floats_at(shift + v * LANES));
        largest[r] = larger(largest[r], magnitude(result));
        store(to + r * stride + v * LANES, result);
    }
};

// From an image's tokens, after the blocks, to what the head reads: floating point, since it is little.
//
// Attention pooling has one query for all images, so that the key's weights are multiplied into it when it is packed: a
// token's logit is one dot product, and the values' weights are multiplied by a mean of tokens, not by each.

#pragma once

#include "activations.h"

enum Pooling : int64_t { CLASS_AND_MEAN, TOKEN, MEAN, ATTENTION };  // as description.py names them, in this order

struct Pool {            // of tokens by attention, then an MLP; all rows are filled up with zeros to whole vectors
    const float* query;  // (heads, stride), to base 2
    const float *value, *value_bias, *proj, *proj_bias;  // (width, stride) and (width) each
    Norm norm;
    const float *fc1, *fc1_bias, *fc2, *fc2_bias;  // (hidden, stride), (width, hidden)
    int64_t heads, hidden, activation;             // hidden: a multiple of LANES
};

INLINE float dot(const float* a, const float* b, int64_t count) {  // a multiple of LANES
    Floats line[4]{};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        UNROLL for (int j = 0; j < 4; j++) line[j] = fma(floats_at(a + i + j * LANES), floats_at(b + i + j * LANES), line[j]);
    for (; i < count; i += LANES) line[0] = fma(floats_at(a + i), floats_at(b + i), line[0]);
    return sum_of((line[0] + line[1]) + (line[2] + line[3]));
}

// Outputs [first, last) of a linear layer whose rows have `count` weights.
inline void dense(const float* weight, const float* bias, const float* x, int64_t count, int64_t first, int64_t last,
                  float* out) {
    for (int64_t o = first; o < last; o++) out[o] = dot(weight + o * count, x, count) + bias[o];
}

// The mean of `count` tokens, `stride` apart, by the weights that a head's query gives them.
inline void mean_by_attention(const float* query, const float* tokens, int64_t count, int64_t stride, float* weights,
                              float* mean) {
    float top = -3e38f, total = 0;
    for (int64_t t = 0; t < count; t++) {
        weights[t] = dot(query, tokens + t * stride, stride);
        top = std::fmax(top, weights[t]);
    }
    std::fill_n(mean, stride, 0.0f);
    for (int64_t t = 0; t < count; t++) {
        const Floats weight = exp2_of(larger(every(weights[t] - top), every(-126.0f)));
        total += weight[0];
        for (int64_t i = 0; i < stride; i += LANES)
            store(mean + i, fma(weight, floats_at(tokens + t * stride + i), floats_at(mean + i)));
    }
    for (int64_t i = 0; i < stride; i += LANES) store(mean + i, floats_at(mean + i) * (1.0f / total));
}

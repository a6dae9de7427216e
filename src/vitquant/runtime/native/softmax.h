// Attention weights as 16-bit integers, exact for attention sinks: keys so strong that the others' weights would be
// rounded away beside theirs.

#pragma once

#include "pairs.h"

constexpr float MOST = 32767;  // of an attention weight, as a whole number

// What the attention weights of a row, the largest about 1 and all together `total`, are multiplied by: all that 16 bits
// hold, and more where a few keys (attention sinks) take so much that the mean of the others would be less than FINEST,
// which rounds it by 0.5 %. The sum of the whole numbers stays below `most`. `padded` weights, a multiple of LANES, those
// beyond `tokens` 0.
inline float weight_levels(const float* weights, float total, int64_t tokens, int64_t padded, float most) {
    constexpr float STRONG = 1 / 64.0f, FINEST = 100, NOTHING = 1e-6f;
    const float room = most - tokens, usual = std::fmin(MOST, room / total);  // rounding adds less than 1 each
    if (total * MOST > room) return usual;  // more keys than a few are strong
    int strong = 0;
    Floats sum{};
    for (int64_t j = 0; j < padded; j += LANES) {
        const Floats weight = floats_at(weights + j);
        strong += __builtin_popcount(above(weight, every(STRONG)));
        sum += weight > STRONG ? Floats{} : weight;
    }
    const float weak = sum_of(sum);
    if (weak < NOTHING) return usual;
    return std::fmax(usual, std::fmin(FINEST * tokens, room - strong * MOST) / weak);
}

// Softmax to base 2 of scale * logits, `padded` of them, of which the largest is scale * top, in two steps, so that those
// of several queries overlap. First, in place of the logits, their exponentials; gives what these sum up to.
INLINE float exponentials(float* logits, float scale, float top, int64_t padded) {
    const Floats factor = every(scale), shift = every(-top * scale);
    Floats sum{};
    for (int64_t j = 0; j < padded; j += LANES) {
        const Floats weight = exp2_of(larger(fma(floats_at(logits + j), factor, shift), every(-126.0f)));
        sum += weight;
        store(logits + j, weight);
    }
    return sum_of(sum);
}

struct Weights {  // of one query
    float levels;  // one that is 1 has so many; what is more than MOST has to be added in floating point
    float factor;  // brings the sum of whole numbers times values back to their mean
};

// Then whole numbers, at most MOST each, together less than `most`.
INLINE Weights whole_weights(const float* weights, float total, int64_t tokens, int64_t padded, float most,
                             int16_t* numbers) {
    const float levels = weight_levels(weights, total, tokens, padded, most);
    for (int64_t j = 0; j < padded; j += LANES)
        store_numbers(numbers + j, nearest(smaller(floats_at(weights + j) * levels, every(MOST))));
    return {levels, 1.0f / (total * levels)};
}

// Adds to out, of `depth` columns, what the weights of a query have beyond MOST, times their keys' values.
inline void add_excess(const Weights& query, const float* weights, int64_t padded, const float* values, int64_t stride,
                       int64_t depth, float* out) {
    for (int64_t first = 0; first < padded; first += LANES) {
        uint32_t found = above(floats_at(weights + first) * query.levels, every(MOST));
        for (; found; found &= found - 1) {
            const int64_t key = first + __builtin_ctz(found);
            const Floats more = every((weights[key] * query.levels - MOST) * query.factor);
            for (int64_t i = 0; i < depth; i += LANES)
                store(out + i, fma(more, floats_at(values + key * stride + i), floats_at(out + i)));
        }
    }
}

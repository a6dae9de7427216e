// What is made of queries and keys before they are packed: a LayerNorm of their own, and a rotation by each patch's
// position (RoPE: Su et al. 2021, arXiv:2104.09864). It is done once to each, not where they are multiplied.

#pragma once

#include "rows.h"

struct Turning {
    Norm query, key;        // over a head; gain is null where there is none
    const float* rotation;  // of each patch, half a head of sines and half a head of cosines; null where there is none
    int64_t step;           // from one head's rotation to the next one's, floats; 0 where all share one
    int64_t prefix;         // tokens before the patches: they are not rotated

    bool is_any() const { return query.gain || rotation; }
};

// LayerNorm over the `norm.width` numbers of a head, which lie among `filled`, a multiple of LANES: the others are 0.
INLINE void normalize_head(float* x, int64_t filled, const Norm& norm) {
    const Floats total = over_vectors(filled, [=](int64_t i) { return floats_at(x + i); }, plus);
    const Floats mean = every(sum_of(total) / norm.width);
    const auto square = [=](int64_t i) {
        const Floats off = floats_at(x + i) - mean;
        return off * off;
    };
    const float squares = sum_of(over_vectors(filled, square, plus)) - (filled - norm.width) * (mean[0] * mean[0]);
    const Floats inverse = every(1.0f / std::sqrt(std::fmax(squares, 0.0f) / norm.width + norm.epsilon));
    for (int64_t i = 0; i < filled; i += LANES)
        store(x + i, fma((floats_at(x + i) - mean) * inverse, floats_at(norm.gain + i), floats_at(norm.shift + i)));
}

// Number i of the first half and number i of the second turn by angle i.
INLINE void rotate(float* x, int64_t half, const float* sine, const float* cosine) {
    for (int64_t i = 0; i < half; i += LANES) {
        const Floats a = floats_at(x + i), b = floats_at(x + half + i), s = floats_at(sine + i), c = floats_at(cosine + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
}

// Tokens [first, last) of a head, `filled` numbers each, from `x`, token 0's, on.
inline void turn(const Turning& turning, const Norm& norm, int64_t head, int64_t first, int64_t last, int64_t filled,
                 float* x, int64_t stride) {
    const float* rotation = turning.rotation ? turning.rotation + head * turning.step : nullptr;
    for (int64_t t = first; t < last; t++) {
        if (norm.gain) normalize_head(x + t * stride, filled, norm);
        if (!rotation || t < turning.prefix) continue;
        const float* sine = rotation + (t - turning.prefix) * filled;
        rotate(x + t * stride, filled / 2, sine, sine + filled / 2);
    }
}

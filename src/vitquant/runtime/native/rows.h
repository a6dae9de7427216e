// Rows of activations: LayerNorm, and quantization to bytes.
//
// A token is a row of bytes around ZERO_POINT with a scale of its own (per-token, symmetric). The class token carries what
// the classifier reads, so it is quantized twice as finely, as a high and a low part, one row more in 257. An image of
// `tokens` tokens so has tokens + 1 rows: row 0 is the class token's low part, row t + 1 is token t.

#pragma once

#include <cmath>

#include "vectors.h"

constexpr float LEVELS = ZERO_POINT - 1;
constexpr float LOW_STEPS = 2 * LEVELS;  // of the low part within one step of the high part, half of them each way
constexpr float SMALLEST = 1e-12f;       // of a row's largest magnitude, so that a row of zeros has a scale

struct Rows {  // of an image, quantized: the input of a linear layer
    uint8_t* values;
    float* scale;
    int64_t width;  // a multiple of LANES
};

// What `combine` makes of term(i) for all i below `count`, LANES at a time: in four lines, so that none waits for the other.
template <class Term, class Combine>
INLINE Floats over_vectors(int64_t count, Term term, Combine combine) {
    Floats line[4]{};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        UNROLL for (int j = 0; j < 4; j++) line[j] = combine(line[j], term(i + j * LANES));
    for (; i < count; i += LANES) line[0] = combine(line[0], term(i));
    return combine(combine(line[0], line[1]), combine(line[2], line[3]));
}
INLINE Floats plus(Floats a, Floats b) { return a + b; }

// Row `row` of `rows` becomes x, whose largest magnitude is `largest`; with row 1, the class token's high part, row 0.
INLINE void quantize(const float* x, float largest, const Rows& rows, int64_t row) {
    const int64_t width = rows.width;
    largest = std::fmax(largest, SMALLEST);
    const Floats inverse = every(LEVELS / largest);
    uint8_t* q = rows.values + row * width;
    rows.scale[row] = largest / LEVELS;
    if (row != 1) {
        for (int64_t i = 0; i < width; i += LANES)
            store_bytes(q + i, nearest(floats_at(x + i) * inverse) + ZERO_POINT);
        return;
    }
    rows.scale[0] = rows.scale[1] / LOW_STEPS;
    for (int64_t i = 0; i < width; i += LANES) {
        const Floats value = floats_at(x + i) * inverse;
        const Ints high = nearest(value);
        store_bytes(q + i, high + ZERO_POINT);
        store_bytes(rows.values + i, nearest((value - to_floats(high)) * LOW_STEPS) + ZERO_POINT);
    }
}

INLINE float largest_magnitude(const float* x, int64_t count) {  // a multiple of LANES
    return largest_of(over_vectors(count, [=](int64_t i) { return magnitude(floats_at(x + i)); }, larger));
}

struct Norm {  // LayerNorm; gain and shift are 0 beyond `width`, up to a multiple of LANES
    const float *gain, *shift;
    int64_t width;
    float epsilon;
};

struct Moments {
    Floats mean, inverse;  // of the standard deviation; the same in all lanes
};

// Of x, which is 0 beyond the norm's width.
INLINE Moments moments(const float* x, const Norm& norm) {
    const int64_t whole = norm.width / LANES * LANES;
    const Floats total = over_vectors(norm.width, [=](int64_t i) { return floats_at(x + i); }, plus);
    const Floats mean = every(sum_of(total) / norm.width);
    const auto square = [=](int64_t i) {
        const Floats off = floats_at(x + i) - mean;
        return off * off;
    };
    float variance = sum_of(over_vectors(whole, square, plus));
    for (int64_t i = whole; i < norm.width; i++) variance += (x[i] - mean[0]) * (x[i] - mean[0]);
    return {mean, every(1.0f / std::sqrt(variance / norm.width + norm.epsilon))};
}

// LayerNorm of x into out; gives its largest magnitude.
INLINE float normalize(const float* x, const Norm& norm, float* out) {
    const Moments own = moments(x, norm);
    Floats largest{};
    for (int64_t i = 0; i < norm.width; i += LANES) {
        const Floats standard = (floats_at(x + i) - own.mean) * own.inverse;
        const Floats result = fma(standard, floats_at(norm.gain + i), floats_at(norm.shift + i));
        largest = larger(largest, magnitude(result));
        store(out + i, result);
    }
    return largest_of(largest);
}

// Activation functions, row by row: what linear.h's Gelu does not make of fc1's results while they are in registers.

#pragma once

#include "linear.h"

enum Activation : int64_t { GELU, GELU_TANH, QUICK_GELU, SILU };  // as description.py names them, in this order

INLINE Floats sigmoid(Floats x) {
    const Floats power = smaller(larger(x * -1.442695041f, every(-126.0f)), every(126.0f));
    return 1.0f / (1.0f + exp2_of(power));
}

// Makes a row's `count` numbers, a multiple of LANES, function(x) * factor + shift, each times that of `gated` first where
// that is not null; gives the largest magnitude.
template <class Function>
INLINE float activate_by(float* x, const float* gated, int64_t count, const float* factor, const float* shift,
                         Function function) {
    Floats largest{};
    for (int64_t i = 0; i < count; i += LANES) {
        Floats result = function(floats_at(x + i));
        if (gated) result *= floats_at(gated + i);
        if (factor) result = fma(result, floats_at(factor + i), floats_at(shift + i));
        largest = larger(largest, magnitude(result));
        store(x + i, result);
    }
    return largest_of(largest);
}

inline float activate(int64_t activation, float* x, const float* gated, int64_t count, const float* factor,
                      const float* shift) {
    const auto by = [=](auto function) { return activate_by(x, gated, count, factor, shift, function); };
    switch (activation) {
        case GELU_TANH:  // (1 + tanh z) / 2 is the sigmoid of 2 z
            return by([](Floats x) { return x * sigmoid(x * fma(x * x, every(0.0713548163f), every(1.595769122f))); });
        case QUICK_GELU: return by([](Floats x) { return x * sigmoid(x * 1.702f); });
        case SILU: return by([](Floats x) { return x * sigmoid(x); });
        default: return by([](Floats x) { return gelu(x); });
    }
}

// What this CPU can multiply at most: loops whose sums stay in registers (but in the portable code) and which read a few
// cache lines or nothing. Each takes `steps` steps and gives the number of products. With AVX-512 on AMD's Zen 4 each
// takes 99 % of the most there is, one instruction per cycle.

#pragma once

#include "linear.h"

template <class T>
INLINE T unknown(T x) {  // to the compiler, which can neither compute with it beforehand nor leave it out
    asm volatile("" : "+m"(x));
    return x;
}

// sum[r][n] = step(sum[r][n], r, n) for R × N sums, `steps` times; each time anew what `step` reads from memory.
template <int R, int N, class Register, class Step>
INLINE void in_registers(int64_t steps, Step step) {
    Register sum[R][N];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) sum[r][n] = unknown(Register{});
    for (; steps; steps--) {
        asm volatile("" ::: "memory");
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int n = 0; n < N; n++) sum[r][n] = step(sum[r][n], r, n);
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) unknown(sum[r][n]);
}

// The step of linear_tile, with weights that stay.
NOINLINE int64_t int8_products(int64_t steps) {
    constexpr int R = LINEAR_ROWS, N = LINEAR_VECTORS;
    uint8_t memory[R * 8];
    std::memset(memory, 85, sizeof memory);
    const uint8_t* values = unknown((const uint8_t*)memory);
    Ints weights[2 * N];
    UNROLL for (int v = 0; v < 2 * N; v++) weights[v] = unknown(every(0x3fc13fc1));  // 63, -63: sums stay small
    in_registers<R, N, Ints>(steps, [&](Ints sum, int r, int n) {
        sum = eight_products(sum, values + 8 * r, weights[n], weights[N + n]);
        IN_REGISTER(sum);
        return sum;
    });
    return steps * R * PANEL * 8;
}

constexpr int TALL = 7, WIDE = 2;  // sums that fill 16 registers, two of them left for what they are multiplied by

NOINLINE int64_t float32_products(int64_t steps) {
#if defined(__AVX512F__)
    typedef float Widest __attribute__((vector_size(64)));
#elif defined(__AVX__)
    typedef float Widest __attribute__((vector_size(32)));
#else
    typedef float Widest __attribute__((vector_size(16)));
#endif
    in_registers<TALL, WIDE, Widest>(steps, [](Widest sum, int, int) {
#if defined(__AVX512F__)
        return (Widest)_mm512_fmadd_ps(sum, _mm512_set1_ps(0.7f), _mm512_set1_ps(0.3f));
#elif defined(__FMA__)
        return (Widest)_mm256_fmadd_ps(sum, _mm256_set1_ps(0.7f), _mm256_set1_ps(0.3f));
#else
        return sum * 0.7f + 0.3f;
#endif
    });
    return steps * TALL * WIDE * (sizeof(Widest) / sizeof(float));
}

NOINLINE int64_t bfloat16_products([[maybe_unused]] int64_t steps) {
#if defined(__AVX512BF16__)
    const __m512bh pairs = (__m512bh)_mm512_set1_epi32(0x3f333f33);  // 0.7
    in_registers<TALL, WIDE, __m512>(steps, [=](__m512 sum, int, int) { return _mm512_dpbf16_ps(sum, pairs, pairs); });
    return steps * TALL * WIDE * 32;
#else
    return 0;  // no such instruction
#endif
}

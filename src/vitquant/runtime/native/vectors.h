// Vectors of this CPU's width, and all that differs from one instruction set to another: AVX-512 with VNNI, AVX2 with
// FMA, or what the compiler makes of GCC's own vectors. All vectors have LANES numbers of 32 bits.
//
// No sum is contracted or reordered by the compiler: a result is the same in tiles of any size, on any thread.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 24")  // or the sums would not stay in registers
#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))  // a tile by itself: within a large function GCC spills its sums

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define HAS_AVX512
constexpr int LANES = 16, LINEAR_ROWS = 12, LINEAR_VECTORS = 2, PAIR_ROWS = 6, PAIR_VECTORS = 4;
#define IN_REGISTER(vector) asm("" : "+v"(vector))
#elif defined(__AVX2__) && defined(__FMA__)
#define HAS_AVX2
constexpr int LANES = 8, LINEAR_ROWS = 8, LINEAR_VECTORS = 1, PAIR_ROWS = 6, PAIR_VECTORS = 2;
#define IN_REGISTER(vector) asm("" : "+x"(vector))
#else
constexpr int LANES = 4, LINEAR_ROWS = 4, LINEAR_VECTORS = 1, PAIR_ROWS = 4, PAIR_VECTORS = 1;
#define IN_REGISTER(vector)
#endif
// LINEAR_ROWS × LINEAR_VECTORS registers of sums fill the file where bytes are multiplied, PAIR_ROWS × PAIR_VECTORS where
// pairs of 16-bit numbers are.

// Of the quantized activations, bytes: without VNNI four products must fit into 16 bits, whose room activations and weights
// share so that they add about the same noise.
#if defined(HAS_AVX512)
constexpr int ZERO_POINT = 128;
#else
constexpr int ZERO_POINT = 86;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

INLINE Floats floats_at(const float* memory) {
    Floats vector;
    std::memcpy(&vector, memory, sizeof vector);
    return vector;
}
INLINE Ints ints_at(const void* memory) {
    Ints vector;
    std::memcpy(&vector, memory, sizeof vector);
    return vector;
}
template <class Vector>
INLINE void store(void* memory, Vector vector) {
    std::memcpy(memory, &vector, sizeof vector);
}
INLINE Floats every(float x) { return x - Floats{}; }
INLINE Ints every(int32_t x) { return x - Ints{}; }
INLINE Ints every_four(const void* memory) {  // bytes, in all lanes
    int32_t x;
    std::memcpy(&x, memory, 4);
    return every(x);
}
INLINE Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }
INLINE Floats magnitude(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

#if defined(HAS_AVX512)

INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm512_cvtps_epi32(x); }
INLINE float sum_of(Floats x) { return _mm512_reduce_add_ps(x); }
INLINE float largest_of(Floats x) { return _mm512_reduce_max_ps(x); }
INLINE void store_bytes(uint8_t* memory, Ints x) {  // each 0 to 255
    const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)x);
    std::memcpy(memory, &bytes, sizeof bytes);
}
INLINE void store_numbers(int16_t* memory, Ints x) {  // each of 16 bits
    const __m256i numbers = _mm512_cvtepi32_epi16((__m512i)x);
    std::memcpy(memory, &numbers, sizeof numbers);
}
INLINE uint32_t above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }  // a bit for each lane
// sum + unsigned bytes times signed bytes, four a lane, of eight inputs
INLINE Ints eight_products(Ints sum, const uint8_t* values, Ints first, Ints second) {
    const __m512i four = _mm512_dpbusd_epi32((__m512i)sum, (__m512i)every_four(values), (__m512i)first);
    return (Ints)_mm512_dpbusd_epi32(four, (__m512i)every_four(values + 4), (__m512i)second);
}
// sum + signed 16-bit numbers times others, two a lane
INLINE Ints pair_products(Ints sum, Ints row, Ints column) {
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)row, (__m512i)column);
}

#elif defined(HAS_AVX2)

INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
INLINE Ints nearest(Floats x) { return (Ints)_mm256_cvtps_epi32(x); }
INLINE float sum_of(Floats x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return two[0] + two[1];
}
INLINE float largest_of(Floats x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return two[0] > two[1] ? two[0] : two[1];
}
INLINE __m128i numbers_of(Ints x) {
    return _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
}
INLINE void store_bytes(uint8_t* memory, Ints x) {
    const __m128i numbers = numbers_of(x), bytes = _mm_packus_epi16(numbers, numbers);
    std::memcpy(memory, &bytes, LANES);
}
INLINE void store_numbers(int16_t* memory, Ints x) {
    const __m128i numbers = numbers_of(x);
    std::memcpy(memory, &numbers, sizeof numbers);
}
INLINE uint32_t above(Floats a, Floats b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
// Two products are added in 16 bits, then two such sums: the weights keep within what that can hold.
INLINE Ints eight_products(Ints sum, const uint8_t* values, Ints first, Ints second) {
    const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)every_four(values), (__m256i)first),
                                          _mm256_maddubs_epi16((__m256i)every_four(values + 4), (__m256i)second));
    return sum + (Ints)_mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}
INLINE Ints pair_products(Ints sum, Ints row, Ints column) {
    return sum + (Ints)_mm256_madd_epi16((__m256i)row, (__m256i)column);
}

#else

INLINE Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
INLINE Ints nearest(Floats x) {  // below 2^22: the sum's last bit is worth 1
    return (Ints)(x + 12582912.0f) - 0x4b400000;
}
INLINE float sum_of(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float largest_of(Floats x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}
INLINE void store_bytes(uint8_t* memory, Ints x) {
    for (int i = 0; i < LANES; i++) memory[i] = (uint8_t)x[i];
}
INLINE void store_numbers(int16_t* memory, Ints x) {
    for (int i = 0; i < LANES; i++) memory[i] = (int16_t)x[i];
}
INLINE uint32_t above(Floats a, Floats b) {
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(a[i] > b[i]) << i;
    return bits;
}
INLINE Ints eight_products(Ints sum, const uint8_t* values, Ints first, Ints second) {
    for (int i = 0; i < 4; i++) {
        const int left = 8 * (3 - i);  // moves byte i of each lane to the top
        sum += values[i] * ((first << left) >> 24) + values[4 + i] * ((second << left) >> 24);
    }
    return sum;
}
INLINE Ints pair_products(Ints sum, Ints row, Ints column) {
    return sum + ((row << 16) >> 16) * ((column << 16) >> 16) + (row >> 16) * (column >> 16);
}

#endif

// 2^x for -126 <= x < 127, to a relative 3e-6: a polynomial fitted to 2^f, 0 <= f < 1, for the least largest error.
INLINE Floats exp2_of(Floats x) {
#if defined(HAS_AVX512)
    const Floats f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
#else
    const Ints n = nearest(x - 0.5f);
    const Floats f = x - to_floats(n);
#endif
    Floats p = fma(f, every(1.3534168e-2f), every(5.2011461e-2f));
    p = fma(f, p, every(2.41442757e-1f));
    p = fma(f, p, every(6.93003834e-1f));
    p = fma(f, p, every(1.00000259f));
#if defined(HAS_AVX512)
    return _mm512_scalef_ps(p, x);  // p times 2^floor(x)
#else
    return (Floats)((Ints)p + (n << 23));
#endif
}

// Calls use(std::integral_constant<int, count>) where 1 <= count <= MOST.
template <int MOST, class Use>
INLINE void with_constant(int64_t count, Use use) {
    if (count == MOST) return use(std::integral_constant<int, MOST>{});
    if constexpr (MOST > 1) with_constant<MOST - 1>(count, use);
}

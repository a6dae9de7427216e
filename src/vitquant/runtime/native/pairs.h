// Products of 16-bit integers: attention and the patches' embedding. Finer than bfloat16, and twice as fast as FP32.

#pragma once

#include <algorithm>
#include <cmath>

#include "rows.h"

// Two 16-bit numbers in 32 bits are what one instruction multiplies and adds. Columns are packed by blocks of LANES, of
// each block the first pair of all columns, then the next.
//
// sum[r][n] = the sum over `pairs` pairs of row r of `rows` times those of column n * LANES + lane.
template <int R, int N>
INLINE void sums_of_pairs(const int16_t* rows, int64_t stride, int64_t pairs, const int32_t* columns, int64_t block,
                          Ints (&sum)[R][N]) {
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) sum[r][n] = Ints{};
    for (int64_t p = 0; p < pairs; p++) {
        Ints column[N];
        UNROLL for (int n = 0; n < N; n++) {
            column[n] = ints_at(columns + n * block + p * LANES);
            IN_REGISTER(column[n]);  // loaded once, and not again for each row
        }
        UNROLL for (int r = 0; r < R; r++) {
            const Ints row = every_four(rows + r * stride + 2 * p);
            UNROLL for (int n = 0; n < N; n++) {
                sum[r][n] = pair_products(sum[r][n], row, column[n]);
                IN_REGISTER(sum[r][n]);
            }
        }
    }
}

// use(constant N, first) for as many blocks at a time as a tile takes.
template <class Use>
INLINE void by_blocks(int64_t blocks, Use use) {
    for (int64_t first = 0; first < blocks; first += PAIR_VECTORS)
        with_constant<PAIR_VECTORS>(std::min<int64_t>(PAIR_VECTORS, blocks - first), [&](auto N) { use(N, first); });
}

// The largest whole number, at most `most`, such that the sum of `count` products of two stays below 2^31.
INLINE float levels_for(int64_t count, float most) {
    return std::fmin(most, std::floor(std::sqrt(2147483647.0 / count)));
}

// `count` numbers, a multiple of LANES, as 16-bit integers of at most `levels`; gives their scale.
INLINE float to_numbers(const float* x, int64_t count, float levels, int16_t* numbers) {
    const float scale = std::fmax(largest_magnitude(x, count), SMALLEST) / levels;
    const Floats inverse = every(1.0f / scale);
    for (int64_t i = 0; i < count; i += LANES) store_numbers(numbers + i, nearest(floats_at(x + i) * inverse));
    return scale;
}

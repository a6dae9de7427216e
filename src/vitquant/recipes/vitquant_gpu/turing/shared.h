// What the kernels share: where a value lies in shared memory, and sums and peaks of a warp.
#pragma once
#include <instructions.h>

constexpr float TOP = 127.0f;    // what a row's largest magnitude becomes
constexpr float TINY = 1e-12f;   // that it is taken for at least

// Where 16 bytes of a matrix with WIDTH bytes a row lie: eight neighbouring rows' do not share banks.
template <int WIDTH>
__device__ inline int place_of(int row, int chunk) {
    constexpr int CHUNKS = WIDTH / 16;
    static_assert(CHUNKS >= 4 && (CHUNKS & (CHUNKS - 1)) == 0, "64 bytes, 128, 256 …");
    return row * CHUNKS + (chunk ^ (CHUNKS == 4 ? row / 2 % 4 : row % 8));
}

// The largest value of LANES neighbouring lanes; all of them get it.
template <int LANES>
__device__ inline float largest(float value) {
    for (int bits = LANES / 2; bits > 0; bits /= 2) value = fmaxf(value, from_lane(value, bits));
    return value;
}

template <int LANES, typename Number>
__device__ inline Number sum(Number value) {
    for (int bits = LANES / 2; bits > 0; bits /= 2) value += from_lane(value, bits);
    return value;
}

// Add to `clipped` how many values of a warp were beyond INT8; each lane gives its own number.
__device__ inline void count_clipped(unsigned long long* clipped, int beyond) {
    beyond = sum<32>(beyond);
    if (threadIdx.x % 32 == 0 && beyond > 0) atomicAdd(clipped, static_cast<unsigned long long>(beyond));
}

__device__ inline bool is_beyond(float value) { return fabsf(value) > TOP + 0.5f; }

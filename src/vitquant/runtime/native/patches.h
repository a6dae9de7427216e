// The patches' embedding: a linear layer over each patch's pixels, both as 16-bit integers, plus bias and position.

#pragma once

#include "memory.h"
#include "pairs.h"

struct Patches {
    const int32_t* weight;  // pairs of 16-bit numbers, by blocks of LANES outputs
    const float* scale;     // of each output
    const float* tokens;    // (tokens, outputs): prefix tokens; of each patch, bias and position
    int64_t channels, side, size, prefix, outputs;  // side: pixels of the image; size: of a patch; outputs: whole blocks

    int64_t grid() const { return side / size; }
    int64_t inputs() const { return channels * size * size; }
    int64_t padded() const { return (inputs() + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }
    int64_t tiles() const { return (grid() * grid() + PAIR_ROWS - 1) / PAIR_ROWS; }
};

struct PatchBuffers {
    float* pixels;
    int16_t* numbers;  // PAIR_ROWS patches

    PatchBuffers(Memory& memory, const Patches& patches) {
        pixels = memory.take<float>(patches.padded());
        numbers = memory.take<int16_t>(PAIR_ROWS * patches.padded());
    }
};

template <int R, int N>
NOINLINE void patch_tile(const int16_t* numbers, int64_t stride, const int32_t* weight, const float* scale,
                         const float* weight_scale, const float* tokens, float* out, int64_t out_stride) {
    Ints sum[R][N];
    sums_of_pairs(numbers, stride, stride / 2, weight, stride / 2 * LANES, sum);
    UNROLL for (int n = 0; n < N; n++) {
        const Floats factor = floats_at(weight_scale + n * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            const int64_t at = r * out_stride + n * LANES;
            store(out + at, fma(to_floats(sum[r][n]) * factor, every(scale[r]), floats_at(tokens + at)));
        }
    }
}

// Patches of tile `tile`, from an image (channels, side, side), to rows of `out`, (tokens, outputs).
inline void embed(const Patches& patches, const float* image, int64_t tile, const PatchBuffers& own, float* out) {
    const int64_t size = patches.size, side = patches.side, grid = patches.grid(), padded = patches.padded();
    const int64_t first = tile * PAIR_ROWS, count = std::min<int64_t>(PAIR_ROWS, grid * grid - first);
    const float levels = levels_for(patches.inputs(), 2047.0f);
    float scale[PAIR_ROWS];
    for (int64_t i = patches.inputs(); i < padded; i++) own.pixels[i] = 0;
    for (int64_t r = 0; r < count; r++) {
        const float* corner = image + (first + r) / grid * size * side + (first + r) % grid * size;
        float* to = own.pixels;
        for (int64_t channel = 0; channel < patches.channels; channel++)
            for (int64_t y = 0; y < size; y++, to += size)
                std::memcpy(to, corner + (channel * side + y) * side, size * sizeof(float));
        scale[r] = to_numbers(own.pixels, padded, levels, own.numbers + r * padded);
    }
    const int64_t token = patches.prefix + first, outputs = patches.outputs;
    by_blocks(outputs / LANES, [&](auto N, int64_t block) {
        const int64_t at = block * LANES;
        with_constant<PAIR_ROWS>(count, [&](auto R) {
            patch_tile<R(), N()>(own.numbers, padded, patches.weight + at * (padded / 2), scale, patches.scale + at,
                                 patches.tokens + token * outputs + at, out + token * outputs + at, outputs);
        });
    });
}

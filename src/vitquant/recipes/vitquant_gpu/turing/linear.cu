// A linear layer of 8-bit values in one kernel, with all that follows up to the next kernel's input.
#include <shared.h>

enum Follows { PLAIN, GELU, GELU_SCALED, RESIDUAL };  // as linear.py has them

constexpr int STEP = 64;  // bytes of a row that are multiplied at a time; depths are multiples of it
constexpr int HIDDEN_GROUP = 128;  // columns that share a scale with GELU_SCALED

// ROWS × STEP bytes on their way from memory to shared memory, by so many THREADS.
template <int ROWS, int THREADS>
struct Tile {
    static constexpr int COUNT = ROWS * STEP / 16 / THREADS;
    static_assert(COUNT * THREADS * 16 == ROWS * STEP, "all threads copy alike");
    uint4 values[COUNT];

    // From row `first` of a matrix with `rows`; zeros beyond its end.
    __device__ void fetch(const signed char* matrix, int first, int rows, int depth, int at) {
        for (int number = 0; number < COUNT; ++number) {
            const int index = threadIdx.x + number * THREADS, row = first + index / 4;
            const signed char* from = matrix + static_cast<long long>(row) * depth + at + index % 4 * 16;
            values[number] = row < rows ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
        }
    }

    __device__ void put(uint4* to) const {
        for (int number = 0; number < COUNT; ++number) {
            const int index = threadIdx.x + number * THREADS;
            to[place_of<STEP>(index / 4, index % 4)] = values[number];
        }
    }
};

// GELU by its tanh form (Hendrycks & Gimpel 2016, arXiv:1606.08415), within 0.0005 of the exact one.
__device__ inline float gelu(float x) {
    const float half = 0.5f * x;
    return half * hyperbolic_tangent(x * (0.7978845608028654f + 0.035677408136300125f * x * x)) + half;
}

__device__ inline float2 pair_at(const float* values, int column, int width) {
    return column < width ? *reinterpret_cast<const float2*>(values + column) : float2{0.0f, 0.0f};
}

// x (rows, depth) · weight (width, depth)ᵀ, both INT8, × scales + bias, and then, by FOLLOWS:
//   PLAIN        nothing; `out` is FP16 (rows, width)
//   GELU         × multiplier + offset, to INT8; `clipped`, where given, counts what does not fit
//   GELU_SCALED  the same with a scale for each row and HIDDEN_GROUP columns, written to out_scale (groups, rows)
//   RESIDUAL     + residual, FP16, which may be `out`
// The scales of x: `row_scale` (rows,), or none (null: they are in `scale`), or, with a GROUP, for each row and so many
// columns, (groups, rows). A block of DOWN × ACROSS warps makes ROWS × COLUMNS results.
template <int ROWS, int COLUMNS, int DOWN, int ACROSS, int GROUP, int FOLLOWS>
__global__ void __launch_bounds__(32 * DOWN * ACROSS, 512 / (32 * DOWN * ACROSS))
linear(const signed char* x, const signed char* weight, const float* row_scale, const float* scale, const float* bias,
       const float* multiplier, const float* offset, const unsigned* residual, unsigned char* out, float* out_scale,
       unsigned long long* clipped, int rows, int width, int depth) {
    constexpr int THREADS = 32 * DOWN * ACROSS, TALL = ROWS / DOWN, WIDE = COLUMNS / ACROSS;  // of a warp
    constexpr int BYTES = FOLLOWS == GELU || FOLLOWS == GELU_SCALED ? 1 : 2;  // of a result
    constexpr int STAGE = (ROWS + COLUMNS) * STEP / 16;
    static_assert(TALL % 32 == 0 && WIDE % 32 == 0, "a warp loads four matrices of eight rows at a time");
    static_assert(2 * STAGE * 16 >= ROWS * COLUMNS * BYTES, "results take the place of what was multiplied");
    static_assert(FOLLOWS != GELU_SCALED || COLUMNS == HIDDEN_GROUP, "a block makes whole groups");
    __shared__ uint4 shared[2 * STAGE];

    const int across = (width + COLUMNS - 1) / COLUMNS;
    const int first_row = blockIdx.x / across * ROWS, first_column = blockIdx.x % across * COLUMNS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
    const int warp_row = warp / ACROSS * TALL, warp_column = warp % ACROSS * WIDE;

    int total[TALL / 8][WIDE / 8][2] = {};
    float value[TALL / 8][WIDE / 8][2] = {};  // the total so far, with scales
    Tile<ROWS, THREADS> left;
    Tile<COLUMNS, THREADS> right;
    left.fetch(x, first_row, rows, depth, 0);
    right.fetch(weight, first_column, width, depth, 0);
    left.put(shared);
    right.put(shared + ROWS * STEP / 16);
    __syncthreads();
    for (int at = 0, stage = 0; at < depth; at += STEP, stage = STAGE - stage) {
        const bool more = at + STEP < depth;
        if (more) {
            left.fetch(x, first_row, rows, depth, at + STEP);
            right.fetch(weight, first_column, width, depth, at + STEP);
        }
        const uint4* const lefts = shared + stage;
        const uint4* const rights = lefts + ROWS * STEP / 16;
#pragma unroll
        for (int part = 0; part < STEP / 16; ++part) {
            unsigned a[TALL / 8], b[WIDE / 8];
#pragma unroll
            for (int i = 0; i < TALL / 32; ++i)
                load_matrices(a + 4 * i, lefts + place_of<STEP>(warp_row + 32 * i + lane, part));
#pragma unroll
            for (int j = 0; j < WIDE / 32; ++j)
                load_matrices(b + 4 * j, rights + place_of<STEP>(warp_column + 32 * j + lane, part));
#pragma unroll
            for (int i = 0; i < TALL / 8; ++i)
#pragma unroll
                for (int j = 0; j < WIDE / 8; ++j) multiply(total[i][j], a[i], b[j]);
            if constexpr (GROUP > 0) {
                const int end = at + 16 * (part + 1);
                if (end % GROUP == 0 || end == depth) {
                    const float* const scales = row_scale + static_cast<long long>((end - 1) / GROUP) * rows;
#pragma unroll
                    for (int i = 0; i < TALL / 8; ++i) {
                        const int row = first_row + warp_row + 8 * i + group;
                        const float factor = row < rows ? scales[row] : 0.0f;
#pragma unroll
                        for (int j = 0; j < WIDE / 8; ++j)
#pragma unroll
                            for (int k = 0; k < 2; ++k) {
                                value[i][j][k] += factor * static_cast<float>(total[i][j][k]);
                                total[i][j][k] = 0;
                            }
                    }
                }
            }
        }
        if (more) {
            left.put(shared + (STAGE - stage));
            right.put(shared + (STAGE - stage) + ROWS * STEP / 16);
        }
        __syncthreads();
    }

    float factor[TALL / 8];  // of a row
    int beyond = 0;
#pragma unroll
    for (int i = 0; i < TALL / 8; ++i) {
        const int row = first_row + warp_row + 8 * i + group;
        factor[i] = GROUP > 0 || row_scale == nullptr || row >= rows ? 1.0f : row_scale[row];
    }
#pragma unroll
    for (int j = 0; j < WIDE / 8; ++j) {
        const int column = first_column + warp_column + 8 * j + 2 * place;
        const float2 scales = pair_at(scale, column, width), biases = pair_at(bias, column, width);
#pragma unroll
        for (int i = 0; i < TALL / 8; ++i) {
            const int row = first_row + warp_row + 8 * i + group;
            float* const both = value[i][j];
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                if (GROUP == 0) both[k] = static_cast<float>(total[i][j][k]) * factor[i];
                both[k] = both[k] * (k == 0 ? scales.x : scales.y) + (k == 0 ? biases.x : biases.y);
            }
            if constexpr (FOLLOWS == GELU || FOLLOWS == GELU_SCALED) {
                const float2 multipliers = pair_at(multiplier, column, width), offsets = pair_at(offset, column, width);
                both[0] = gelu(both[0]) * multipliers.x + offsets.x;
                both[1] = gelu(both[1]) * multipliers.y + offsets.y;
                if (FOLLOWS == GELU && clipped != nullptr && row < rows && column < width)
                    beyond += is_beyond(both[0]) + is_beyond(both[1]);
            }
            if constexpr (FOLLOWS == RESIDUAL) {
                if (row < rows && column < width) {
                    const float2 before = from_halves(residual[(static_cast<long long>(row) * width + column) / 2]);
                    both[0] += before.x;
                    both[1] += before.y;
                }
            }
        }
    }
    if (FOLLOWS == GELU && clipped != nullptr) count_clipped(clipped, beyond);
    if constexpr (FOLLOWS == GELU_SCALED) {
        __shared__ float peaks[ACROSS][ROWS];
#pragma unroll
        for (int i = 0; i < TALL / 8; ++i) {
            float peak = 0.0f;
#pragma unroll
            for (int j = 0; j < WIDE / 8; ++j) peak = fmaxf(peak, fmaxf(fabsf(value[i][j][0]), fabsf(value[i][j][1])));
            peak = largest<4>(peak);
            if (place == 0) peaks[warp % ACROSS][warp_row + 8 * i + group] = peak;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TALL / 8; ++i) {
            const int within = warp_row + 8 * i + group, row = first_row + within;
            float peak = TINY;
#pragma unroll
            for (int one = 0; one < ACROSS; ++one) peak = fmaxf(peak, peaks[one][within]);
            if (place == 0 && warp % ACROSS == 0 && row < rows)
                out_scale[static_cast<long long>(first_column / HIDDEN_GROUP) * rows + row] = peak / TOP;
            factor[i] = TOP / peak;
        }
    }

    unsigned char* const results = reinterpret_cast<unsigned char*>(shared);  // so that whole rows are written
#pragma unroll
    for (int i = 0; i < TALL / 8; ++i)
#pragma unroll
        for (int j = 0; j < WIDE / 8; ++j) {
            const int within = warp_row + 8 * i + group, byte = (warp_column + 8 * j + 2 * place) * BYTES;
            unsigned char* const to = results + 16 * place_of<COLUMNS * BYTES>(within, byte / 16) + byte % 16;
            const float scaled = FOLLOWS == GELU_SCALED ? factor[i] : 1.0f;
            if constexpr (BYTES == 1)
                *reinterpret_cast<unsigned short*>(to) = to_bytes(value[i][j][0] * scaled, value[i][j][1] * scaled);
            else
                *reinterpret_cast<unsigned*>(to) = to_halves(value[i][j][0], value[i][j][1]);
        }
    __syncthreads();
    constexpr int CHUNKS = COLUMNS * BYTES / 16;
    for (int index = threadIdx.x; index < ROWS * CHUNKS; index += THREADS) {
        const int row = first_row + index / CHUNKS, column = first_column + index % CHUNKS * (16 / BYTES);
        if (row < rows && column < width)
            *reinterpret_cast<uint4*>(out + (static_cast<long long>(row) * width + column) * BYTES) =
                shared[place_of<COLUMNS * BYTES>(index / CHUNKS, index % CHUNKS)];
    }
}

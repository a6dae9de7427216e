// LayerNorm to INT8 with a scale for each row.
#include <shared.h>

// x, FP16 (rows, WIDTH), to out, INT8, and out_scale (rows,). A warp takes a row, its lanes pairs of columns.
template <int WIDTH>
__global__ void norm(const unsigned* x, const float2* gain, const float2* shift, unsigned short* out, float* out_scale,
                     float epsilon, int rows) {
    constexpr int PAIRS = WIDTH / 64;  // of a lane
    static_assert(PAIRS * 64 == WIDTH, "widths are multiples of 64");
    const int lane = threadIdx.x % 32, row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;
    const long long start = static_cast<long long>(row) * (WIDTH / 2) + lane;
    float2 value[PAIRS];
    float total = 0.0f, squares = 0.0f, peak = TINY;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        value[i] = from_halves(x[start + 32 * i]);
        total += value[i].x + value[i].y;
    }
    const float mean = sum<32>(total) / WIDTH;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        value[i].x -= mean;
        value[i].y -= mean;
        squares += value[i].x * value[i].x + value[i].y * value[i].y;
    }
    const float inverse = rsqrtf(sum<32>(squares) / WIDTH + epsilon);
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
        const float2 gains = gain[lane + 32 * i], shifts = shift[lane + 32 * i];
        value[i].x = value[i].x * inverse * gains.x + shifts.x;
        value[i].y = value[i].y * inverse * gains.y + shifts.y;
        peak = fmaxf(peak, fmaxf(fabsf(value[i].x), fabsf(value[i].y)));
    }
    peak = largest<32>(peak);
    const float factor = TOP / peak;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) out[start + 32 * i] = to_bytes(value[i].x * factor, value[i].y * factor);
    if (lane == 0) out_scale[row] = peak / TOP;
}

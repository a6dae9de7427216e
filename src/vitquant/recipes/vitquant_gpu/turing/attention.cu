// Attention of FP16 queries, keys and values, softmax in base 2, with INT8 output.
#include <shared.h>

constexpr int WARPS = 4;  // of a block; each has QUERIES of its own
constexpr int QUERIES = 16;
constexpr int KEYS = 64;  // at a time
constexpr float LOWEST = -1e30f;  // a score that gets no share

// qkv, FP16 (images × tokens, 3 × width), to out, INT8 (images × tokens, width). A block takes a head of an image
// (blockIdx.x) and WARPS × QUERIES of its queries (blockIdx.y). Softmax is taken tile by tile (Milakov & Gimelshein
// 2018, arXiv:1805.02867), as in FlashAttention (Dao et al. 2022, arXiv:2205.14135). The results' scale is 1 over
// `multiplier`; or, where out_scale is given (heads, images × tokens), one for each token and head. `clipped`, where
// given, counts what does not fit.
template <int HEAD>
__global__ void __launch_bounds__(32 * WARPS)
attention(const unsigned char* qkv, unsigned char* out, const float* multiplier, float* out_scale,
          unsigned long long* clipped, int tokens, int heads, int images) {
    constexpr int ROW = 2 * HEAD, CHUNKS = ROW / 16;  // bytes of a head's row; and 16 of them
    constexpr int PARTS = HEAD / 8;                   // of a head, in products
    __shared__ uint4 keys[KEYS * CHUNKS];
    __shared__ uint4 values[KEYS * CHUNKS];
    const int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4, warp = threadIdx.x / 32;
    const int head = blockIdx.x % heads, image = blockIdx.x / heads;
    const int first = (blockIdx.y * WARPS + warp) * QUERIES;  // of the warp's queries
    const long long stride = 3ll * heads * ROW;               // bytes
    const unsigned char* const start = qkv + static_cast<long long>(image) * tokens * stride + head * ROW;

    unsigned query[PARTS][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int token = first + 8 * half + group;
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
            query[part][half] = token < tokens ? *reinterpret_cast<const unsigned*>(
                start + token * stride + 16 * part + 4 * place) : 0;
    }
    float result[PARTS][4] = {};
    float peak[2] = {LOWEST, LOWEST}, total[2] = {};  // of the rows `group` and `group` + 8; a lane's part
    for (int tile = 0; tile < tokens; tile += KEYS) {
        __syncthreads();  // all have read the tile before
        for (int index = threadIdx.x; index < KEYS * CHUNKS; index += 32 * WARPS) {
            const int row = index / CHUNKS, chunk = index % CHUNKS;
            const unsigned char* const from = start + (tile + row) * stride + heads * ROW + 16 * chunk;
            const bool inside = tile + row < tokens;
            keys[place_of<ROW>(row, chunk)] = inside ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
            values[place_of<ROW>(row, chunk)] =
                inside ? *reinterpret_cast<const uint4*>(from + heads * ROW) : uint4{0, 0, 0, 0};
        }
        __syncthreads();
        float score[KEYS / 8][4] = {};
#pragma unroll
        for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
            for (int part = 0; part < PARTS; part += 4) {
                unsigned key[4];  // 8 keys, 32 values of each
                load_matrices(key, keys + place_of<ROW>(8 * i + lane % 8, part + lane / 8));
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply(score[i], query[part + j][0], query[part + j][1], key[j]);
            }
        if (tile + KEYS > tokens) {
#pragma unroll
            for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (tile + 8 * i + 2 * place + k % 2 >= tokens) score[i][k] = LOWEST;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = peak[half];
#pragma unroll
            for (int i = 0; i < KEYS / 8; ++i)
                highest = fmaxf(highest, fmaxf(score[i][2 * half], score[i][2 * half + 1]));
            highest = largest<4>(highest);
            const float shrink = power_of_2(peak[half] - highest);
            peak[half] = highest;
            total[half] *= shrink;
#pragma unroll
            for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
                for (int k = 2 * half; k < 2 * half + 2; ++k) {
                    score[i][k] = power_of_2(score[i][k] - highest);
                    total[half] += score[i][k];
                }
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                result[part][2 * half] *= shrink;
                result[part][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int i = 0; i < KEYS / 8; ++i) {
            const unsigned upper = to_halves(score[i][0], score[i][1]), lower = to_halves(score[i][2], score[i][3]);
#pragma unroll
            for (int part = 0; part < PARTS; part += 4) {
                unsigned value[4];  // 8 values' 32 columns
                load_transposed(value, values + place_of<ROW>(8 * i + lane % 8, part + lane / 8));
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply(result[part + j], upper, lower, value[j]);
            }
        }
    }

    __syncthreads();
    unsigned char* const own = reinterpret_cast<unsigned char*>(keys) + warp * QUERIES * HEAD;
    int beyond = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int token = first + 8 * half + group;
        const float share = 1.0f / sum<4>(total[half]);
        float factor = out_scale == nullptr ? share * multiplier[0] : share;
        if (out_scale != nullptr) {
            float most = 0.0f;
#pragma unroll
            for (int part = 0; part < PARTS; ++part)
                most = fmaxf(most, fmaxf(fabsf(result[part][2 * half]), fabsf(result[part][2 * half + 1])));
            most = fmaxf(largest<4>(most) * share, TINY);
            if (place == 0 && token < tokens)
                out_scale[(static_cast<long long>(head) * images + image) * tokens + token] = most / TOP;
            factor *= TOP / most;
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const float one = result[part][2 * half] * factor, two = result[part][2 * half + 1] * factor;
            if (clipped != nullptr && token < tokens) beyond += is_beyond(one) + is_beyond(two);
            *reinterpret_cast<unsigned short*>(own + (8 * half + group) * HEAD + 8 * part + 2 * place) =
                to_bytes(one, two);
        }
    }
    if (clipped != nullptr) count_clipped(clipped, beyond);
    __syncwarp();
    const long long at = (static_cast<long long>(image) * tokens + first) * heads * HEAD + head * HEAD;
    for (int index = lane; index < QUERIES * HEAD / 16; index += 32) {
        const int row = index / (HEAD / 16), chunk = index % (HEAD / 16);
        if (first + row < tokens)
            *reinterpret_cast<uint4*>(out + at + static_cast<long long>(row) * heads * HEAD + 16 * chunk) =
                reinterpret_cast<const uint4*>(own)[index];
    }
}

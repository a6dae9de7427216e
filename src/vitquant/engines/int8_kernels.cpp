// What stands between the INT8 linear layers of a ViT: LayerNorm, GELU and attention, each fused with the
// residual sum, dequantization and quantization next to it, so that activations cross memory once; and, for CPUs
// with AVX2 and no more, the linear layers.
//
// Linear layers give acc, float32 (rows, width): the integer product times the weight's scale of each output
// channel. A row's true value is acc * scale[row] + bias. Rows are the tokens of all images, image by image
// (images * tokens of them), and then one more per image: the low part of its class token. The class token
// carries what the classifier reads, so it is quantized twice as finely: value = high + low, both 8 bits; that
// costs one row in 257.
//
// Quantized values are unsigned 8-bit integers around ZERO_POINT, one scale per row (per-token, symmetric).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define LINEAR 1
constexpr int LINEAR_ROWS = 12, LINEAR_VECTORS = 2;
#elif defined(__AVX2__) && !defined(__AVX512BW__) && ZERO_POINT < 128  // else the weights are not kept within 16 bits
#define LINEAR 1  // faster than oneDNN's, which adds one sum of two products at a time
constexpr int LINEAR_ROWS = 8, LINEAR_VECTORS = 1;
#else
#define LINEAR 0
#endif
#define UNROLL _Pragma("GCC unroll 12")  // or the sums would not stay in registers

namespace {

template <class T>
struct CacheLines {  // allocates whole cache lines, so that no vector crosses from one to the next
    using value_type = T;
    CacheLines() = default;
    template <class U>
    CacheLines(const CacheLines<U>&) {}
    T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), std::align_val_t(64)); }
    void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t(64)); }
    bool operator==(const CacheLines&) const { return true; }
    bool operator!=(const CacheLines&) const { return false; }
};

template <class T>
using Buffer = std::vector<T, CacheLines<T>>;

constexpr float LEVELS = ZERO_POINT - 1;
constexpr float LOW_STEPS = 2 * LEVELS;  // of the low part within one step of the high part, half of them each way

struct Rows {  // the result of a linear layer
    const float* acc;
    const float* scale;
    const float* bias;
    int64_t images, tokens, width;

    // Values of columns [from, from + count) of a row, dequantized.
    inline void read(int64_t image, int64_t token, int64_t from, int64_t count, float* out) const {
        const int64_t row = image * tokens + token;
        const float* high = acc + row * width + from;
        const float s = scale[row];
        const float* b = bias + from;
        if (token == 0) {
            const int64_t low_row = images * tokens + image;
            const float* low = acc + low_row * width + from;
            const float t = scale[low_row];
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] = high[i] * s + low[i] * t + b[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] = high[i] * s + b[i];
        }
    }
};

struct Quantized {  // the input of the next linear layer
    uint8_t* values;
    float* scale;
    int64_t images, tokens, width;

    inline void write(int64_t image, int64_t token, const float* x) const {
        const int64_t row = image * tokens + token;
        float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < width; i++) largest = std::fmax(largest, std::fabs(x[i]));
        const float inverse = LEVELS / largest;
        uint8_t* q = values + row * width;
        scale[row] = largest / LEVELS;
        if (token) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) q[i] = (uint8_t)((int32_t)__builtin_rintf(x[i] * inverse) + ZERO_POINT);
            return;
        }
        const int64_t low_row = images * tokens + image;
        uint8_t* low = values + low_row * width;
        scale[low_row] = scale[row] / LOW_STEPS;
        for (int64_t i = 0; i < width; i++) {
            const float high = __builtin_rintf(x[i] * inverse);
            q[i] = (uint8_t)((int32_t)high + ZERO_POINT);
            low[i] = (uint8_t)((int32_t)__builtin_rintf((x[i] * inverse - high) * LOW_STEPS) + ZERO_POINT);
        }
    }
};

// 2^x for -126 <= x <= 0, to a relative 5e-5, which is finer than attention weights are stored.
inline float exp2_coarse(float x) {
    const float n = __builtin_rintf(x), f = x - n;
    const float p = (((9.6181e-3f * f + 5.5504e-2f) * f + 2.402265e-1f) * f + 6.931472e-1f) * f + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &p, 4);
    bits += (int32_t)n << 23;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

// GELU, x times the normal distribution's integral up to x, which is 0.5 + x p(x^2) between -4 and 4: a polynomial
// fitted to the least largest error, 2e-4, a hundredth of a quantization step.
inline float gelu(float x) {
    const float z = std::fmin(std::fmax(x, -4.0f), 4.0f), u = z * z;
    float p = 2.27750228e-8f;
    p = p * u - 1.5982514e-6f;
    p = p * u + 4.79480332e-5f;
    p = p * u - 8.13937106e-4f;
    p = p * u + 8.77197459e-3f;
    p = p * u - 6.45721108e-2f;
    p = p * u + 3.97882551e-1f;
    return x * (0.5f + z * p);
}

using Number = int16_t;
using Sum = int32_t;

// A register of sums, and of pairs of 16-bit numbers: LANES columns. ROWS × COLUMNS registers of sums fill the file.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
using Vector = __m512i;
constexpr int LANES = 16, ROWS = 4, COLUMNS = 6;
inline Vector zeros() { return _mm512_setzero_si512(); }
inline Vector load(const void* memory) { return _mm512_load_si512(memory); }
inline Vector every_lane(int32_t pair) { return _mm512_set1_epi32(pair); }
inline Vector multiply_add(Vector sum, Vector row, Vector column) { return _mm512_dpwssd_epi32(sum, row, column); }
inline void store(void* memory, Vector sum) { _mm512_storeu_si512(memory, sum); }
#define IN_REGISTER(vector) asm("" : "+v"(vector))
#elif defined(__AVX2__)
using Vector = __m256i;
constexpr int LANES = 8, ROWS = 6, COLUMNS = 2;
inline Vector zeros() { return _mm256_setzero_si256(); }
inline Vector load(const void* memory) { return _mm256_load_si256((const Vector*)memory); }
inline Vector every_lane(int32_t pair) { return _mm256_set1_epi32(pair); }
inline Vector multiply_add(Vector sum, Vector row, Vector column) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(row, column));
}
inline void store(void* memory, Vector sum) { _mm256_storeu_si256((Vector*)memory, sum); }
#define IN_REGISTER(vector) asm("" : "+x"(vector))
#else
constexpr int LANES = 8, ROWS = 4, COLUMNS = 1;
struct Vector {
    int32_t lane[LANES];
};
inline Vector zeros() { return {}; }
inline Vector load(const void* memory) { return *(const Vector*)memory; }
inline Vector every_lane(int32_t pair) {
    Vector result;
    for (int32_t& lane : result.lane) lane = pair;
    return result;
}
inline Vector multiply_add(Vector sum, Vector row, Vector column) {
    for (int i = 0; i < LANES; i++) {
        Number a[2], b[2];
        std::memcpy(a, row.lane + i, 4), std::memcpy(b, column.lane + i, 4);
        sum.lane[i] += (int32_t)a[0] * b[0] + (int32_t)a[1] * b[1];
    }
    return sum;
}
inline void store(void* memory, Vector sum) { std::memcpy(memory, &sum, sizeof sum); }
#define IN_REGISTER(vector)
#endif

// out[r][block * LANES + lane] = sum over k of a[r][k] * b[k][block * LANES + lane]; b is packed in blocks of LANES
// columns, two k at a time.
template <int R, int N>
inline void product(const Number* a, int64_t lda, int64_t k, const Number* b, Sum* out, int64_t ldo) {
    Vector sum[R][N];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) sum[r][n] = zeros();
    for (int64_t p = 0; p < k / 2; p++) {
        Vector column[N];
        UNROLL for (int n = 0; n < N; n++) {
            column[n] = load(b + n * k * LANES + p * 2 * LANES);
            IN_REGISTER(column[n]);  // loaded once, and not again for each row
        }
        UNROLL for (int r = 0; r < R; r++) {
            int32_t pair;
            std::memcpy(&pair, a + r * lda + 2 * p, 4);
            const Vector row = every_lane(pair);
            UNROLL for (int n = 0; n < N; n++) sum[r][n] = multiply_add(sum[r][n], row, column[n]);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) store(out + r * ldo + LANES * n, sum[r][n]);
}

template <int R, int N = COLUMNS>
void product_columns(const Number* a, int64_t lda, int64_t k, const Number* b, int64_t blocks, Sum* out, int64_t ldo) {
    for (; blocks >= N; blocks -= N, b += N * k * LANES, out += N * LANES) product<R, N>(a, lda, k, b, out, ldo);
    if constexpr (N > 1)
        if (blocks) product_columns<R, N - 1>(a, lda, k, b, blocks, out, ldo);
}

// Of up to ROWS rows.
template <int R = ROWS>
void product_rows(int64_t rows, const Number* a, int64_t lda, int64_t k, const Number* b, int64_t blocks, Sum* out,
                  int64_t ldo) {
    if (rows == R) return product_columns<R>(a, lda, k, b, blocks, out, ldo);
    if constexpr (R > 1) product_rows<R - 1>(rows, a, lda, k, b, blocks, out, ldo);
}

inline Number number(float x) { return (Number)(int32_t)__builtin_rintf(x); }

// The largest whole number, at most `most`, such that the sum of `count` products of two stays below 2^31.
inline float levels_for(int64_t count, float most) {
    return std::fmin(most, std::floor(std::sqrt(2147483647.0 / count)));
}

struct Pair {  // the two numbers that one instruction multiplies and adds
    Number first, second;
};

struct Scratch {
    Buffer<Number> query, numbers, weights;
    Buffer<Pair> key, value;
    Buffer<Sum> sums;
    Buffer<float> row, values, query_scale, key_scale, value_scale, logits;
};

// The factor that brings x to whole numbers of at most `levels`, and back.
inline float levels_scale(const float* x, int64_t count, float levels) {
    float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < count; i++) largest = std::fmax(largest, std::fabs(x[i]));
    return largest / levels;
}

// One head of one image: softmax(q k') v, the query already scaled. Queries, keys, values and attention weights are
// 16-bit integers (a scale for each token's query and key, for each channel of the values, one for all weights): finer
// than bfloat16, and twice as fast as FP32. Heads of any depth: zeros fill up the vectors.
void attend(const Rows& qkv, int64_t image, int64_t head, int64_t depth, float* out, Scratch& s) {
    const int64_t tokens = qkv.tokens, width = qkv.width / 3, blocks = (tokens + LANES - 1) / LANES;
    const int64_t depth_blocks = (depth + LANES - 1) / LANES, padded = LANES * blocks, padded_depth = LANES * depth_blocks;
    const float key_levels = levels_for(depth, 4095.0f), value_levels = levels_for(tokens, 1023.0f);
    s.query.assign(tokens * padded_depth, 0);
    s.key.assign(padded * padded_depth / 2, Pair{0, 0});
    s.value.assign(padded * padded_depth / 2, Pair{0, 0});
    s.numbers.assign(2 * padded_depth, 0);
    s.weights.assign(ROWS * padded, 0);
    s.sums.resize(ROWS * (padded > padded_depth ? padded : padded_depth));
    s.row.resize(depth);
    s.values.assign((tokens + 1) * padded_depth, 0);
    s.query_scale.resize(tokens);
    s.key_scale.assign(padded, 0);
    s.value_scale.assign(depth, 1e-12f);
    s.logits.resize(padded);
    float *row = s.row.data(), *value_scale = s.value_scale.data(), *key_scale = s.key_scale.data();
    Number* numbers = s.numbers.data();
    for (int64_t t = 0; t < tokens; t++) {
        qkv.read(image, t, head * depth, depth, row);
        float scale = s.query_scale[t] = levels_scale(row, depth, key_levels), inverse = 1.0f / scale;
        Number* q = s.query.data() + t * padded_depth;
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) q[i] = number(row[i] * inverse);
        qkv.read(image, t, width + head * depth, depth, row);
        scale = levels_scale(row, depth, key_levels), inverse = 1.0f / scale;
        key_scale[t] = scale * 1.44269504088896341f;  // the exponential is taken to base 2
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) numbers[i] = number(row[i] * inverse);
        Pair* k = s.key.data() + (t / LANES) * (LANES / 2) * padded_depth + t % LANES;
        for (int64_t i = 0; i < padded_depth / 2; i++) k[i * LANES] = Pair{numbers[2 * i], numbers[2 * i + 1]};
        float* v = s.values.data() + t * padded_depth;
        qkv.read(image, t, 2 * width + head * depth, depth, v);
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) value_scale[i] = std::fmax(value_scale[i], std::fabs(v[i]));
    }
    for (int64_t i = 0; i < depth; i++) row[i] = value_levels / value_scale[i];
    for (int64_t t = 0; t < tokens; t += 2) {
        const float* v = s.values.data() + t * padded_depth;
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) {
            numbers[i] = number(v[i] * row[i]);
            numbers[padded_depth + i] = number(v[padded_depth + i] * row[i]);
        }
        for (int64_t block = 0; block < depth_blocks; block++) {
            Pair* packed = s.value.data() + block * (LANES / 2) * padded + t * (LANES / 2);
            const Number* pair = numbers + LANES * block;
            for (int64_t i = 0; i < LANES; i++) packed[i] = Pair{pair[i], pair[padded_depth + i]};
        }
    }
    float* logits = s.logits.data();
    for (int64_t first = 0; first < tokens; first += ROWS) {
        const int64_t rows = tokens - first < ROWS ? tokens - first : ROWS;
        product_rows(rows, s.query.data() + first * padded_depth, padded_depth, padded_depth, &s.key.data()->first,
                     blocks, s.sums.data(), padded);
        float factor[ROWS];
        for (int64_t r = 0; r < rows; r++) {
            const Sum* sums = s.sums.data() + r * padded;
            Number* weights = s.weights.data() + r * padded;
            const float scale = s.query_scale[first + r];
            float largest = -3e38f, total = 0;
#pragma omp simd reduction(max : largest)
            for (int64_t j = 0; j < tokens; j++) {
                logits[j] = (float)sums[j] * (key_scale[j] * scale);
                largest = std::fmax(largest, logits[j]);
            }
#pragma omp simd reduction(+ : total)
            for (int64_t j = 0; j < tokens; j++) {
                const float weight = exp2_coarse(std::fmax(logits[j] - largest, -126.0f));
                total += weight;
                weights[j] = number(weight * value_levels);
            }
            factor[r] = 1.0f / (total * value_levels * value_levels);
        }
        product_rows(rows, s.weights.data(), padded, padded, &s.value.data()->first, depth_blocks, s.sums.data(),
                     padded_depth);
        for (int64_t r = 0; r < rows; r++) {
            float* target = out + (image * tokens + first + r) * width + head * depth;
            const Sum* sums = s.sums.data() + r * padded_depth;
#pragma omp simd
            for (int64_t i = 0; i < depth; i++) target[i] = (float)sums[i] * (factor[r] * value_scale[i]);
        }
    }
}

#if LINEAR
constexpr int LINEAR_OUTPUTS = LINEAR_VECTORS * LANES;  // of a panel of packed weights

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

inline Vector eight_inputs(Vector sum, const uint8_t* values, const Vector* weights, int vectors) {
    int32_t four[2];
    std::memcpy(four, values, 8);
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, every_lane(four[0]), weights[0]), every_lane(four[1]),
                               weights[vectors]);
}

inline void store_scaled(float* acc, Vector sum, const int32_t* offset, const float* weight_scale) {
    _mm512_storeu_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_loadu_si512(offset))),
                                        _mm512_loadu_ps(weight_scale)));
}

#else

// Two products are added in 16 bits, then two such sums: the weights keep within what that can hold.
inline Vector eight_inputs(Vector sum, const uint8_t* values, const Vector* weights, int vectors) {
    int32_t four[2];
    std::memcpy(four, values, 8);
    const Vector sums = _mm256_add_epi16(_mm256_maddubs_epi16(every_lane(four[0]), weights[0]),
                                         _mm256_maddubs_epi16(every_lane(four[1]), weights[vectors]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

inline void store_scaled(float* acc, Vector sum, const int32_t* offset, const float* weight_scale) {
    const Vector product = _mm256_sub_epi32(sum, _mm256_loadu_si256((const Vector*)offset));
    _mm256_storeu_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(product), _mm256_loadu_ps(weight_scale)));
}

#endif

// acc[r][n] = weight_scale[n] * (sum over k of values[r][k] * weight[n][k], less offset[n]), for one panel of weights.
template <int R>
void panel_rows(int64_t rows, const uint8_t* values, int64_t width, const int8_t* panel, const int32_t* offset,
                const float* weight_scale, float* acc, int64_t outputs) {
    if constexpr (R > 1)
        if (rows < R) return panel_rows<R - 1>(rows, values, width, panel, offset, weight_scale, acc, outputs);
    constexpr int N = LINEAR_VECTORS;
    Vector sum[R][N];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++) sum[r][n] = zeros();
    for (int64_t k = 0; k < width; k += 8) {
        Vector weights[2 * N];  // of the first four inputs, then of the other four
        UNROLL for (int n = 0; n < 2 * N; n++) {
            weights[n] = load(panel + LINEAR_OUTPUTS * k + n * sizeof(Vector));
            IN_REGISTER(weights[n]);
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int n = 0; n < N; n++) {
                sum[r][n] = eight_inputs(sum[r][n], values + r * width + k, weights + n, N);
                IN_REGISTER(sum[r][n]);  // and one row after another
            }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int n = 0; n < N; n++)
            store_scaled(acc + r * outputs + n * LANES, sum[r][n], offset + n * LANES, weight_scale + n * LANES);
}

#endif

}  // namespace

extern "C" {

// Each kernel runs on `threads` threads; the result does not depend on their number.

// residual += the linear layer's result (none where acc is null); then LayerNorm, quantized (not where values is null).
void add_norm_quantize(float* residual, const float* acc, const float* acc_scale, const float* bias, int64_t images,
                       int64_t tokens, int64_t width, const float* gain, const float* shift, float epsilon,
                       uint8_t* values, float* scale, int threads) {
    const Rows rows{acc, acc_scale, bias, images, tokens, width};
    const Quantized quantized{values, scale, images, tokens, width};
#pragma omp parallel num_threads(threads)
    {
        Buffer<float> buffer(width);
        float* x = buffer.data();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < images * tokens; r++) {
            float* own = residual + r * width;
            if (acc) {
                rows.read(r / tokens, r % tokens, 0, width, x);
#pragma omp simd
                for (int64_t i = 0; i < width; i++) own[i] += x[i];
            }
            if (!values) continue;
            float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
            for (int64_t i = 0; i < width; i++) mean += own[i];
            mean /= width;
#pragma omp simd reduction(+ : variance)
            for (int64_t i = 0; i < width; i++) variance += (own[i] - mean) * (own[i] - mean);
            const float inverse = 1.0f / std::sqrt(variance / width + epsilon);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) x[i] = (own[i] - mean) * inverse * gain[i] + shift[i];
            quantized.write(r / tokens, r % tokens, x);
        }
    }
}

// (GELU(the linear layer's result) - centre) * inverse, quantized.
void gelu_quantize(const float* acc, const float* acc_scale, const float* bias, int64_t images, int64_t tokens,
                   int64_t width, const float* centre, const float* inverse, uint8_t* values, float* scale,
                   int threads) {
    const Rows rows{acc, acc_scale, bias, images, tokens, width};
    const Quantized quantized{values, scale, images, tokens, width};
#pragma omp parallel num_threads(threads)
    {
        Buffer<float> buffer(width);
        float* x = buffer.data();
#pragma omp for schedule(static)
        for (int64_t r = 0; r < images * tokens; r++) {
            rows.read(r / tokens, r % tokens, 0, width, x);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) x[i] = (gelu(x[i]) - centre[i]) * inverse[i];
            quantized.write(r / tokens, r % tokens, x);
        }
    }
}

// Multi-head attention over query, key and value side by side in acc (width = 3 * heads * depth), quantized.
// `out`, float32 (images * tokens, heads * depth), is scratch.
void attention_quantize(const float* acc, const float* acc_scale, const float* bias, int64_t images, int64_t tokens,
                        int64_t heads, int64_t depth, float* out, uint8_t* values, float* scale, int threads) {
    const int64_t width = heads * depth;
    const Rows qkv{acc, acc_scale, bias, images, tokens, 3 * width};
    const Quantized quantized{values, scale, images, tokens, width};
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < images * heads; task++)
            attend(qkv, task / heads, task % heads, depth, out, scratch);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < images * tokens; r++) quantized.write(r / tokens, r % tokens, out + r * width);
    }
}

#if LINEAR

// What the number of outputs must be a multiple of.
int64_t linear_outputs() { return LINEAR_OUTPUTS; }

// Weights, int8 (outputs, width), as `linear` takes them: for each panel of outputs, the first four inputs of all of
// them, then the next four. width is a multiple of 8.
void pack(const int8_t* weight, int64_t outputs, int64_t width, int8_t* packed) {
    for (int64_t n = 0; n < outputs; n += LINEAR_OUTPUTS)
        for (int64_t k = 0; k < width; k += 4)
            for (int64_t i = n; i < n + LINEAR_OUTPUTS; i++, packed += 4) std::memcpy(packed, weight + i * width + k, 4);
}

// The integer product times the weight's scales, float32 (rows, outputs). offset: ZERO_POINT times each output's sum of
// weights.
void linear(const uint8_t* values, const int8_t* packed, const int32_t* offset, const float* weight_scale, int64_t rows,
            int64_t width, int64_t outputs, float* acc, int threads) {
    const int64_t band = std::max<int64_t>(LINEAR_ROWS, (1 << 18) / width / LINEAR_ROWS * LINEAR_ROWS);  // in the L2 cache
#pragma omp parallel num_threads(threads)
    for (int64_t from = 0; from < rows; from += band)
#pragma omp for schedule(static) nowait
        for (int64_t n = 0; n < outputs; n += LINEAR_OUTPUTS)
            for (int64_t r = from; r < std::min(from + band, rows); r += LINEAR_ROWS)
                panel_rows<LINEAR_ROWS>(std::min(from + band, rows) - r, values + r * width, width, packed + n * width,
                                        offset + n, weight_scale + n, acc + r * outputs + n, outputs);
}

#endif
}

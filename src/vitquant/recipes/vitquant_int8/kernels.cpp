// The INT8 blocks of a ViT: linear layers, each fused with what follows it (attention, GELU, or the residual sum and
// LayerNorm) and with the quantization of the next one's input. A band of rows is multiplied and used while it is in the
// cache.
//
// A linear layer gives acc, float32: the integer product times the weight's scale of each output channel. A row's true
// value is acc * scale[row] + bias. An image has tokens + 1 rows: the class token, its low part, and the other tokens.
// The class token carries what the classifier reads, so it is quantized twice as finely: value = high + low, both 8
// bits; that costs one row in 257.
//
// Quantized values are unsigned 8-bit integers around ZERO_POINT, one scale per row (per-token, symmetric).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <omp.h>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#define UNROLL _Pragma("GCC unroll 12")  // or the sums would not stay in registers

namespace {

template <class T>
struct CacheLines {  // allocates whole cache lines, so that no vector crosses from one to the next
    using value_type = T;
    CacheLines() = default;
    template <class U>
    CacheLines(const CacheLines<U>&) {}
    template <class U>
    void construct(U* memory) { ::new ((void*)memory) U; }  // no zeros that nothing reads
    T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), std::align_val_t(64)); }
    void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t(64)); }
    bool operator==(const CacheLines&) const { return true; }
    bool operator!=(const CacheLines&) const { return false; }
};

template <class T>
using Buffer = std::vector<T, CacheLines<T>>;

constexpr float LEVELS = ZERO_POINT - 1;
constexpr float LOW_STEPS = 2 * LEVELS;  // of the low part within one step of the high part, half of them each way

struct Rows {  // the result of a linear layer: rows of an image, from row `first` on
    const float* acc;
    const float* scale;
    const float* bias;
    int64_t first, stride;

    // Values of columns [from, from + count) of a row, dequantized; row 0 has its low part added.
    inline void read(int64_t row, int64_t from, int64_t count, float* out) const {
        const float* high = acc + (row - first) * stride + from;
        const float s = scale[row - first];
        const float* b = bias + from;
        if (row == 0) {
            const float* low = high + stride;
            const float t = scale[1];
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] = high[i] * s + low[i] * t + b[i];
        } else {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) out[i] = high[i] * s + b[i];
        }
    }
};

struct Quantized {  // the input of a linear layer
    uint8_t* values;
    float* scale;
    int64_t width;

    inline void write(int64_t row, const float* x, bool is_class) const {
        float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < width; i++) largest = std::fmax(largest, std::fabs(x[i]));
        const float inverse = LEVELS / largest;
        uint8_t* q = values + row * width;
        scale[row] = largest / LEVELS;
        if (!is_class) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) q[i] = (uint8_t)((int32_t)__builtin_rintf(x[i] * inverse) + ZERO_POINT);
            return;
        }
        uint8_t* low = q + width;
        scale[row + 1] = scale[row] / LOW_STEPS;
        for (int64_t i = 0; i < width; i++) {
            const float high = __builtin_rintf(x[i] * inverse);
            q[i] = (uint8_t)((int32_t)high + ZERO_POINT);
            low[i] = (uint8_t)((int32_t)__builtin_rintf((x[i] * inverse - high) * LOW_STEPS) + ZERO_POINT);
        }
    }
};

inline int64_t row_of(int64_t token) { return token ? token + 1 : 0; }

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
// `equal` gives a bit for each of 2 * LANES numbers.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
using Vector = __m512i;
constexpr int LANES = 16, ROWS = 4, COLUMNS = 6;
inline Vector zeros() { return _mm512_setzero_si512(); }
inline Vector load(const void* memory) { return _mm512_load_si512(memory); }
inline Vector every_lane(int32_t pair) { return _mm512_set1_epi32(pair); }
inline Vector multiply_add(Vector sum, Vector row, Vector column) { return _mm512_dpwssd_epi32(sum, row, column); }
inline void store(void* memory, Vector sum) { _mm512_storeu_si512(memory, sum); }
inline uint32_t equal(const Number* numbers, Number x) {
    return _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(numbers), _mm512_set1_epi16(x));
}
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
inline uint32_t equal(const Number* numbers, Number x) {
    const Vector same = _mm256_cmpeq_epi16(_mm256_loadu_si256((const Vector*)numbers), _mm256_set1_epi16(x));
    return _mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(same), _mm256_extracti128_si256(same, 1)));
}
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
inline uint32_t equal(const Number* numbers, Number x) {
    uint32_t bits = 0;
    for (int i = 0; i < 2 * LANES; i++) bits |= (uint32_t)(numbers[i] == x) << i;
    return bits;
}
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
    Buffer<float> row, values, query_scale, key_scale, value_scale, logits, excess;
};

// The factor that brings x to whole numbers of at most `levels`, and back.
inline float levels_scale(const float* x, int64_t count, float levels) {
    float largest = 1e-12f;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < count; i++) largest = std::fmax(largest, std::fabs(x[i]));
    return largest / levels;
}

constexpr float MOST = 32767;  // of an attention weight, as a whole number

// What the attention weights of a row, the largest 1 and all together `total`, are multiplied by: all that 16 bits hold,
// and more where a few keys (attention sinks) take so much that the mean of the others would be less than FINEST, which
// rounds it by 0.5 %. The sum of the whole numbers stays below `most`.
inline float weight_levels(const float* weights, float total, int64_t tokens, float most) {
    constexpr float STRONG = 1 / 64.0f, FINEST = 100, NOTHING = 1e-6f;
    const float room = most - tokens, usual = std::fmin(MOST, room / total);  // rounding adds less than 1 each
    if (total * MOST > room) return usual;  // more keys than a few are strong
    float strong = 0, weak = 0;
#pragma omp simd reduction(+ : strong, weak)
    for (int64_t j = 0; j < tokens; j++) {
        const bool is_strong = weights[j] > STRONG;
        strong += is_strong ? 1.0f : 0.0f;
        weak += is_strong ? 0.0f : weights[j];
    }
    if (weak < NOTHING) return usual;
    return std::fmax(usual, std::fmin(FINEST * tokens, room - strong * MOST) / weak);
}

// out = the sum over the keys of what weight * levels has beyond MOST, times the key's values, `depth` numbers. `numbers`
// are the weights as whole numbers, of which few are MOST.
inline void excess(const float* weights, float levels, const Number* numbers, int64_t tokens, const float* values,
                   int64_t depth, float* out) {
    std::fill_n(out, depth, 0.0f);
    for (int64_t first = 0; first < tokens; first += 2 * LANES) {
        uint32_t found = equal(numbers + first, MOST);
        for (; found; found &= found - 1) {
            const int64_t j = first + __builtin_ctz(found);
            if (j >= tokens) return;
            const float more = weights[j] * levels - MOST;
#pragma omp simd
            for (int64_t i = 0; i < depth; i++) out[i] += more * values[j * depth + i];
        }
    }
}

// One head of one image: softmax(q k') v, the query already scaled. Queries, keys, values and attention weights are
// 16-bit integers (a scale for each token's query and key, for each channel of the values, for each row of weights):
// finer than bfloat16, and twice as fast as FP32. What a weight has beyond 16 bits is multiplied in FP32. Heads of any
// depth: zeros fill up the vectors.
void attend(const Rows& qkv, int64_t tokens, int64_t width, int64_t head, int64_t depth, float* out, Scratch& s) {
    const int64_t blocks = (tokens + LANES - 1) / LANES;
    const int64_t depth_blocks = (depth + LANES - 1) / LANES, padded = LANES * blocks, padded_depth = LANES * depth_blocks;
    const float key_levels = levels_for(depth, 4095.0f), value_levels = levels_for(2 * tokens, 2047.0f);
    s.query.assign(tokens * padded_depth, 0);
    s.key.assign(padded * padded_depth / 2, Pair{0, 0});
    s.value.assign(padded * padded_depth / 2, Pair{0, 0});
    s.numbers.assign(2 * padded_depth, 0);
    s.weights.assign(ROWS * padded + LANES, 0);
    s.sums.resize(ROWS * (padded > padded_depth ? padded : padded_depth));
    s.row.resize(depth);
    s.values.assign((tokens + 1) * padded_depth, 0);
    s.query_scale.resize(tokens);
    s.key_scale.assign(padded, 0);
    s.value_scale.assign(depth, 1e-12f);
    s.logits.resize(padded);
    s.excess.resize(ROWS * padded_depth);
    float *row = s.row.data(), *value_scale = s.value_scale.data(), *key_scale = s.key_scale.data();
    Number* numbers = s.numbers.data();
    for (int64_t t = 0; t < tokens; t++) {
        qkv.read(row_of(t), head * depth, depth, row);
        float scale = s.query_scale[t] = levels_scale(row, depth, key_levels), inverse = 1.0f / scale;
        Number* q = s.query.data() + t * padded_depth;
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) q[i] = number(row[i] * inverse);
        qkv.read(row_of(t), width + head * depth, depth, row);
        scale = levels_scale(row, depth, key_levels), inverse = 1.0f / scale;
        key_scale[t] = scale * 1.44269504088896341f;  // the exponential is taken to base 2
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) numbers[i] = number(row[i] * inverse);
        Pair* k = s.key.data() + (t / LANES) * (LANES / 2) * padded_depth + t % LANES;
        for (int64_t i = 0; i < padded_depth / 2; i++) k[i * LANES] = Pair{numbers[2 * i], numbers[2 * i + 1]};
        float* v = s.values.data() + t * padded_depth;
        qkv.read(row_of(t), 2 * width + head * depth, depth, v);
#pragma omp simd
        for (int64_t i = 0; i < depth; i++) value_scale[i] = std::fmax(value_scale[i], std::fabs(v[i]));
    }
    for (int64_t i = 0; i < depth; i++) value_scale[i] /= value_levels, row[i] = 1.0f / value_scale[i];
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
        float factor[ROWS];
        bool exceeds[ROWS];
        const int64_t rows = tokens - first < ROWS ? tokens - first : ROWS;
        product_rows(rows, s.query.data() + first * padded_depth, padded_depth, padded_depth, &s.key.data()->first,
                     blocks, s.sums.data(), padded);
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
                logits[j] = exp2_coarse(std::fmax(logits[j] - largest, -126.0f));
                total += logits[j];
            }
            const float levels = weight_levels(logits, total, tokens, 2147483647.0f / value_levels);
#pragma omp simd
            for (int64_t j = 0; j < tokens; j++) weights[j] = number(std::fmin(logits[j] * levels, MOST));
            factor[r] = 1.0f / (total * levels);
            exceeds[r] = levels > MOST;
            if (exceeds[r])
                excess(logits, levels, weights, tokens, s.values.data(), padded_depth, s.excess.data() + r * padded_depth);
        }
        product_rows(rows, s.weights.data(), padded, padded, &s.value.data()->first, depth_blocks, s.sums.data(),
                     padded_depth);
        for (int64_t r = 0; r < rows; r++) {
            float* target = out + (first + r) * width + head * depth;
            const Sum* sums = s.sums.data() + r * padded_depth;
#pragma omp simd
            for (int64_t i = 0; i < depth; i++) target[i] = (float)sums[i] * (factor[r] * value_scale[i]);
            if (!exceeds[r]) continue;
            const float* more = s.excess.data() + r * padded_depth;
#pragma omp simd
            for (int64_t i = 0; i < depth; i++) target[i] += more[i] * factor[r];
        }
    }
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr int LINEAR_ROWS = 12, LINEAR_VECTORS = 2;

inline Vector eight_inputs(Vector sum, const uint8_t* values, const Vector* weights) {
    int32_t four[2];
    std::memcpy(four, values, 8);
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, every_lane(four[0]), weights[0]), every_lane(four[1]),
                               weights[LINEAR_VECTORS]);
}

inline void store_scaled(float* acc, Vector sum, const int32_t* offset, const float* weight_scale) {
    _mm512_storeu_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_loadu_si512(offset))),
                                        _mm512_loadu_ps(weight_scale)));
}
#elif defined(__AVX2__)
constexpr int LINEAR_ROWS = 8, LINEAR_VECTORS = 1;

// Two products are added in 16 bits, then two such sums: the weights keep within what that can hold.
inline Vector eight_inputs(Vector sum, const uint8_t* values, const Vector* weights) {
    int32_t four[2];
    std::memcpy(four, values, 8);
    const Vector sums = _mm256_add_epi16(_mm256_maddubs_epi16(every_lane(four[0]), weights[0]),
                                         _mm256_maddubs_epi16(every_lane(four[1]), weights[LINEAR_VECTORS]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

inline void store_scaled(float* acc, Vector sum, const int32_t* offset, const float* weight_scale) {
    const Vector product = _mm256_sub_epi32(sum, _mm256_loadu_si256((const Vector*)offset));
    _mm256_storeu_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(product), _mm256_loadu_ps(weight_scale)));
}
#else
constexpr int LINEAR_ROWS = 4, LINEAR_VECTORS = 1;

inline Vector eight_inputs(Vector sum, const uint8_t* values, const Vector* weights) {
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < LANES; i++) {
            int8_t four[4];
            std::memcpy(four, weights[half * LINEAR_VECTORS].lane + i, 4);
            for (int j = 0; j < 4; j++) sum.lane[i] += (int32_t)values[4 * half + j] * four[j];
        }
    return sum;
}

inline void store_scaled(float* acc, Vector sum, const int32_t* offset, const float* weight_scale) {
    for (int i = 0; i < LANES; i++) acc[i] = (float)(sum.lane[i] - offset[i]) * weight_scale[i];
}
#endif
constexpr int PANEL = LINEAR_VECTORS * LANES;  // output channels whose weights are packed together
constexpr int64_t BAND = 4;                    // times LINEAR_ROWS rows

struct Layer {  // a linear layer; outputs is a multiple of PANEL, width (the number of inputs) of 8
    const int8_t* packed;
    const int32_t* offset;  // ZERO_POINT times each output's sum of weights
    const float* weight_scale;
    const float* bias;
    int64_t width, outputs;
};

// acc[r][n] = weight_scale[n] * (sum over k of values[r][k] * weight[n][k], less offset[n]), for the panel from n on.
template <int R>
void panel_rows(int64_t rows, const Layer& layer, int64_t n, const uint8_t* values, float* acc) {
    if constexpr (R > 1)
        if (rows < R) return panel_rows<R - 1>(rows, layer, n, values, acc);
    constexpr int N = LINEAR_VECTORS;
    const int64_t width = layer.width;
    const int8_t* panel = layer.packed + n * width;
    Vector sum[R][N];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < N; v++) sum[r][v] = zeros();
    for (int64_t k = 0; k < width; k += 8) {
        Vector weights[2 * N];  // of the first four inputs, then of the other four
        UNROLL for (int v = 0; v < 2 * N; v++) {
            weights[v] = load(panel + PANEL * k + v * sizeof(Vector));
            IN_REGISTER(weights[v]);
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < N; v++) {
                sum[r][v] = eight_inputs(sum[r][v], values + r * width + k, weights + v);
                IN_REGISTER(sum[r][v]);  // and one row after another
            }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < N; v++) {
            const int64_t column = n + v * LANES;
            store_scaled(acc + r * layer.outputs + column, sum[r][v], layer.offset + column, layer.weight_scale + column);
        }
}

// The panel from n on, of any number of rows.
inline void multiply(const Layer& layer, int64_t n, int64_t rows, const uint8_t* values, float* acc) {
    for (int64_t r = 0; r < rows; r += LINEAR_ROWS)
        panel_rows<LINEAR_ROWS>(rows - r, layer, n, values + r * layer.width, acc + r * layer.outputs);
}

// Calls use(image, row, result, own) for every token's row, on `threads` threads: `result` is the linear layer's for a
// band of rows which this one is in (nothing where there is no layer), `own` a buffer of `width` numbers of the thread.
template <class Use>
void by_bands(const Layer* layer, const uint8_t* input, const float* input_scale, int64_t images, int64_t tokens,
              int64_t width, int threads, Use use) {
    const int64_t rows = tokens + 1, tiles = (rows + LINEAR_ROWS - 1) / LINEAR_ROWS;  // of an image
#pragma omp parallel num_threads(threads)
    {
        Buffer<float> acc(layer ? BAND * LINEAR_ROWS * layer->outputs : 0), own(width);
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
        const int64_t end = images * tiles * (thread + 1) / count;
        for (int64_t tile = images * tiles * thread / count, next; tile < end; tile = next) {
            const int64_t image = tile / tiles, first = tile % tiles * LINEAR_ROWS;
            next = std::min({tile + BAND, end, (image + 1) * tiles});
            const int64_t last = std::min(first + (next - tile) * LINEAR_ROWS, rows);
            Rows result{};
            if (layer) {
                const int64_t from = image * rows + first;
                for (int64_t n = 0; n < layer->outputs; n += PANEL)
                    multiply(*layer, n, last - first, input + from * layer->width, acc.data());
                result = Rows{acc.data(), input_scale + from, layer->bias, first, layer->outputs};
            }
            for (int64_t row = first; row < last; row++)
                if (row != 1) use(image, row, result, own.data());
        }
    }
}

// What this CPU can multiply at most: loops whose sums stay in registers (but in the portable code) and which read a few
// cache lines or nothing. Each takes `steps` steps and gives the number of products. With AVX-512 on AMD's Zen 4 each
// takes 99 % of the most there is, one instruction per cycle.

template <class T>
inline T unknown(T x) {  // to the compiler, which can neither compute with it beforehand nor leave it out
    asm volatile("" : "+m"(x));
    return x;
}

// sum[r][n] = step(sum[r][n], r, n) for R × N sums, `steps` times; each time anew what `step` reads from memory.
template <int R, int N, class Register, class Step>
inline void in_registers(int64_t steps, Step step) {
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

// The step of panel_rows, with weights that stay.
int64_t int8_products(int64_t steps) {
    constexpr int R = LINEAR_ROWS, N = LINEAR_VECTORS;
    uint8_t memory[R * 8];
    std::memset(memory, 85, sizeof memory);
    const uint8_t* values = unknown((const uint8_t*)memory);
    Vector weights[2 * N];
    UNROLL for (int v = 0; v < 2 * N; v++) weights[v] = unknown(every_lane(0x3fc13fc1));  // 63, -63: sums stay small
    in_registers<R, N, Vector>(steps, [&](Vector sum, int r, int n) {
        sum = eight_inputs(sum, values + 8 * r, weights + n);
        IN_REGISTER(sum);
        return sum;
    });
    return steps * R * PANEL * 8;
}

constexpr int TALL = 7, WIDE = 2;  // sums that fill 16 registers, two of them left for what they are multiplied by

int64_t float32_products(int64_t steps) {
#if defined(__AVX512F__)
    typedef float Floats __attribute__((vector_size(64)));
#elif defined(__AVX__)
    typedef float Floats __attribute__((vector_size(32)));
#else
    typedef float Floats __attribute__((vector_size(16)));
#endif
    in_registers<TALL, WIDE, Floats>(steps, [](Floats sum, int, int) { return sum * 0.7f + 0.3f; });
    return steps * TALL * WIDE * (sizeof(Floats) / sizeof(float));
}

int64_t bfloat16_products([[maybe_unused]] int64_t steps) {
#if defined(__AVX512BF16__)
    const __m512bh pairs = (__m512bh)_mm512_set1_epi32(0x3f333f33);  // 0.7
    in_registers<TALL, WIDE, __m512>(steps, [=](__m512 sum, int, int) { return _mm512_dpbf16_ps(sum, pairs, pairs); });
    return steps * TALL * WIDE * 32;
#else
    return 0;  // no such instruction
#endif
}

}  // namespace

extern "C" {

// Each kernel runs on `threads` threads; the result does not depend on their number.

// What `Layer.outputs` must be a multiple of.
int64_t panel() { return PANEL; }

// Takes `steps` steps in registers on each thread: int8, float32 or bfloat16 (0, 1, 2). Gives the products of all
// threads together, 0 where this CPU has no instruction for them.
int64_t multiply_in_registers(int arithmetic, int64_t steps, int threads) {
    int64_t (*const products[])(int64_t) = {int8_products, float32_products, bfloat16_products};
    int64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += products[arithmetic](steps);
    return total;
}

// Weights, int8 (outputs, width), as `Layer` holds them: for each panel of outputs, the first four inputs of all of
// them, then the next four.
void pack(const int8_t* weight, int64_t outputs, int64_t width, int8_t* packed) {
    for (int64_t n = 0; n < outputs; n += PANEL)
        for (int64_t k = 0; k < width; k += 4)
            for (int64_t i = n; i < n + PANEL; i++, packed += 4) std::memcpy(packed, weight + i * width + k, 4);
}

// residual += the linear layer's result (none where layer is null); then LayerNorm, quantized (not where values is null).
void add_norm_quantize(float* residual, const Layer* layer, const uint8_t* input, const float* input_scale,
                       int64_t images, int64_t tokens, int64_t width, const float* gain, const float* shift,
                       float epsilon, uint8_t* values, float* scale, int threads) {
    const Quantized quantized{values, scale, width};
    const auto use = [=](int64_t image, int64_t row, const Rows& result, float* x) {
        float* own = residual + (image * tokens + (row ? row - 1 : 0)) * width;
        if (layer) {
            result.read(row, 0, width, x);
#pragma omp simd
            for (int64_t i = 0; i < width; i++) own[i] += x[i];
        }
        if (!values) return;
        float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; i++) mean += own[i];
        mean /= width;
#pragma omp simd reduction(+ : variance)
        for (int64_t i = 0; i < width; i++) variance += (own[i] - mean) * (own[i] - mean);
        const float inverse = 1.0f / std::sqrt(variance / width + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) x[i] = (own[i] - mean) * inverse * gain[i] + shift[i];
        quantized.write(image * (tokens + 1) + row, x, row == 0);
    };
    by_bands(layer, input, input_scale, images, tokens, width, threads, use);
}

// (GELU(the linear layer's result) - centre) * inverse, quantized.
void gelu_quantize(const Layer* layer, const uint8_t* input, const float* input_scale, int64_t images, int64_t tokens,
                   int64_t width, const float* centre, const float* inverse, uint8_t* values, float* scale,
                   int threads) {
    const Quantized quantized{values, scale, width};
    const auto use = [=](int64_t image, int64_t row, const Rows& result, float* x) {
        result.read(row, 0, width, x);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) x[i] = (gelu(x[i]) - centre[i]) * inverse[i];
        quantized.write(image * (tokens + 1) + row, x, row == 0);
    };
    by_bands(layer, input, input_scale, images, tokens, width, threads, use);
}

// Multi-head attention over query, key and value side by side in the linear layer's result, 3 * heads * depth, quantized.
void attention_quantize(const Layer* layer, const uint8_t* input, const float* input_scale, int64_t images,
                        int64_t tokens, int64_t heads, int64_t depth, uint8_t* values, float* scale, int threads) {
    const int64_t width = heads * depth, rows = tokens + 1, panels = layer->outputs / PANEL;
    const Quantized quantized{values, scale, width};
    const int64_t most = std::min(images, (threads + heads - 1) / heads);  // images at once: a head for every thread
    Buffer<float> acc(most * rows * layer->outputs), out(most * tokens * width);
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch;
        for (int64_t first = 0; first < images; first += most) {
            const int64_t count = std::min(most, images - first);
#pragma omp for schedule(static)
            for (int64_t task = 0; task < count * panels; task++) {
                const int64_t image = task / panels;
                multiply(*layer, task % panels * PANEL, rows, input + (first + image) * rows * layer->width,
                         acc.data() + image * rows * layer->outputs);
            }
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < count * heads; task++) {
                const int64_t image = task / heads;
                const Rows qkv{acc.data() + image * rows * layer->outputs, input_scale + (first + image) * rows,
                               layer->bias, 0, layer->outputs};
                attend(qkv, tokens, width, task % heads, depth, out.data() + image * tokens * width, scratch);
            }
#pragma omp for schedule(static)
            for (int64_t token = 0; token < count * tokens; token++)
                quantized.write((first + token / tokens) * rows + row_of(token % tokens), out.data() + token * width,
                                token % tokens == 0);
        }
    }
}
}

// Multi-head attention, a head at a time: its queries, keys and values from the linear layer into a buffer that stays in
// the cache, then as 16-bit integers (a scale for each token's query and key, for each channel of the values, for each
// row of weights), then softmax(q k') v. Heads of any depth: zeros fill up the vectors.

#pragma once

#include <utility>

#include "linear.h"
#include "memory.h"
#include "softmax.h"
#include "turning.h"

struct Heads {
    int64_t count, tokens, depth;  // depth: a multiple of LANES
    // Of the linear layer, head by head: query (scaled by log2(e) over the square root of the depth), key and value of
    // `depth` columns each, then zeros up to a multiple of PANEL.
    Layer layer;
    Turning turning;    // its rotations are of `depth`, half and half
    const float* bias;  // of logits, to base 2: (count, tokens, blocks * LANES); null where there is none

    int64_t columns() const { return layer.outputs / count; }
    int64_t blocks() const { return (tokens + LANES - 1) / LANES; }
    int64_t pairs() const { return (tokens + 1) / 2; }
};

struct HeadBuffers {
    float* qkv;  // (tokens + 2, columns): row t + 1 is token t
    int16_t *query, *numbers, *weights;
    int32_t *key, *value;
    float *query_scale, *key_scale, *key_shift, *value_scale, *value_inverse, *logits;

    HeadBuffers(Memory& memory, const Heads& heads) {
        const int64_t depth = heads.depth, padded = heads.blocks() * LANES;
        qkv = memory.take<float>((heads.tokens + 2) * heads.columns());
        query = memory.take<int16_t>(heads.tokens * depth);
        numbers = memory.take<int16_t>(LANES * (depth + LANES));
        weights = memory.take<int16_t>(PAIR_ROWS * padded);
        key = memory.take<int32_t>(padded * depth / 2);
        value = memory.take<int32_t>(heads.pairs() * depth);
        query_scale = memory.take<float>(heads.tokens);
        key_scale = memory.take<float>(padded);
        key_shift = memory.take<float>(padded);
        value_scale = memory.take<float>(depth);
        value_inverse = memory.take<float>(depth);
        logits = memory.take<float>(PAIR_ROWS * padded);
    }
};

// One step of a transposition: rows a and b swap the lanes of which STEP is set and those of which it is not.
template <int STEP, int... LANE>
INLINE void swap_lanes(Ints& a, Ints& b, std::integer_sequence<int, LANE...>) {
    const Ints low = {(LANE & STEP ? LANES + LANE - STEP : LANE)...};
    const Ints high = {(LANE & STEP ? LANES + LANE : LANE + STEP)...};
    const Ints first = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = first;
}

template <int STEP = LANES / 2>
INLINE void transpose(Ints (&rows)[LANES]) {
    UNROLL for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) swap_lanes<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>());
    if constexpr (STEP > 1) transpose<STEP / 2>(rows);
}

inline void pack_queries(const Heads& heads, int64_t first, int64_t last, float levels, const HeadBuffers& own) {
    for (int64_t t = first; t < last; t++)
        own.query_scale[t] =
            to_numbers(own.qkv + (t + 1) * heads.columns(), heads.depth, levels, own.query + t * heads.depth);
}

inline void pack_keys(const Heads& heads, float levels, const HeadBuffers& own) {
    constexpr float NEVER = -1e30f;  // the logit of a key that there is not
    const int64_t depth = heads.depth, stride = depth + LANES, pairs = depth / 2;
    std::memset(own.numbers, 0, LANES * stride * sizeof(int16_t));
    for (int64_t block = 0; block < heads.blocks(); block++) {
        for (int64_t i = 0; i < LANES; i++) {
            const int64_t t = block * LANES + i;
            const bool is_there = t < heads.tokens;
            const float* key = own.qkv + (t + 1) * heads.columns() + depth;
            own.key_scale[t] = is_there ? to_numbers(key, depth, levels, own.numbers + i * stride) : 0.0f;
            own.key_shift[t] = is_there ? 0.0f : NEVER;
        }
        for (int64_t p = 0; p < pairs; p += LANES) {
            Ints square[LANES];
            UNROLL for (int i = 0; i < LANES; i++) square[i] = ints_at(own.numbers + i * stride + 2 * p);
            transpose(square);
            int32_t* packed = own.key + (block * pairs + p) * LANES;
            const int count = pairs - p < LANES ? LANES / 2 : LANES;
            UNROLL for (int i = 0; i < LANES; i++)
                if (i < count) store(packed + i * LANES, square[i]);
        }
    }
}

inline void pack_values(const Heads& heads, float levels, const HeadBuffers& own) {
    const int64_t depth = heads.depth, columns = heads.columns();
    float* values = own.qkv + columns + 2 * depth;
    for (int64_t i = 0; i < depth; i += LANES) store(own.value_scale + i, every(SMALLEST));
    for (int64_t t = 0; t < heads.tokens; t++)
        for (int64_t i = 0; i < depth; i += LANES) {
            float* most = own.value_scale + i;
            store(most, larger(floats_at(most), magnitude(floats_at(values + t * columns + i))));
        }
    for (int64_t i = 0; i < depth; i += LANES) {
        const Floats scale = floats_at(own.value_scale + i) * (1.0f / levels);
        store(own.value_scale + i, scale);
        store(own.value_inverse + i, 1.0f / scale);
        store(values + heads.tokens * columns + i, Floats{});  // with an odd number of tokens, the last one's pair
    }
    for (int64_t p = 0; p < heads.pairs(); p++)
        for (int64_t i = 0; i < depth; i += LANES) {
            const Floats inverse = floats_at(own.value_inverse + i);
            const Ints first = nearest(floats_at(values + 2 * p * columns + i) * inverse);
            const Ints second = nearest(floats_at(values + (2 * p + 1) * columns + i) * inverse);
            store(own.value + i * heads.pairs() + p * LANES, (first & 0xffff) | (second << 16));
        }
}

// Logits, but for the query's scale, of R queries and N blocks of keys, and the largest of each query's lanes so far.
template <int R, int N>
NOINLINE void key_tile(const int16_t* query, int64_t depth, const int32_t* key, const float* scale, const float* shift,
                       float* logits, int64_t stride, Floats* top) {
    Ints sum[R][N];
    sums_of_pairs(query, depth, depth / 2, key, depth / 2 * LANES, sum);
    UNROLL for (int r = 0; r < R; r++) {
        Floats most = top[r];
        UNROLL for (int n = 0; n < N; n++) {
            const Floats x = fma(to_floats(sum[r][n]), floats_at(scale + n * LANES), floats_at(shift + n * LANES));
            most = larger(most, x);
            store(logits + r * stride + n * LANES, x);
        }
        top[r] = most;
    }
}

// The mean of the values by R queries' weights, N blocks of columns.
template <int R, int N>
NOINLINE void value_tile(const int16_t* weights, int64_t stride, int64_t pairs, const int32_t* value,
                         const float* scale, const Weights* queries, float* out, int64_t out_stride) {
    Ints sum[R][N];
    sums_of_pairs(weights, stride, pairs, value, pairs * LANES, sum);
    UNROLL for (int n = 0; n < N; n++) {
        const Floats factor = floats_at(scale + n * LANES);
        UNROLL for (int r = 0; r < R; r++)
            store(out + r * out_stride + n * LANES, to_floats(sum[r][n]) * (factor * queries[r].factor));
    }
}

// Adds a query's row of biases to its logits, which are to be multiplied by `scale` yet; gives the lanes' largest.
inline Floats add_bias(float* logits, const float* bias, float scale, int64_t padded) {
    const Floats inverse = every(1.0f / scale);
    Floats most = every(-3e38f);
    for (int64_t j = 0; j < padded; j += LANES) {
        const Floats x = fma(floats_at(bias + j), inverse, floats_at(logits + j));
        most = larger(most, x);
        store(logits + j, x);
    }
    return most;
}

// R queries of a head, from `first` on; `out` is the first one's, `bias` token 0's.
template <int R>
NOINLINE void attend(const Heads& heads, int64_t first, float value_levels, const HeadBuffers& own, const float* bias,
                     float* out, int64_t out_stride) {
    const int64_t depth = heads.depth, padded = heads.blocks() * LANES, pairs = heads.pairs();
    Floats top[R];
    for (Floats& lanes : top) lanes = every(-3e38f);
    by_blocks(heads.blocks(), [&](auto N, int64_t block) {
        const int64_t at = block * LANES;
        key_tile<R, N()>(own.query + first * depth, depth, own.key + at * (depth / 2), own.key_scale + at,
                         own.key_shift + at, own.logits + at, padded, top);
    });
    for (int r = 0; bias && r < R; r++)
        top[r] = add_bias(own.logits + r * padded, bias + (first + r) * padded, own.query_scale[first + r], padded);
    float total[R];
    Weights queries[R];
    for (int r = 0; r < R; r++)
        total[r] = exponentials(own.logits + r * padded, own.query_scale[first + r], largest_of(top[r]), padded);
    for (int r = 0; r < R; r++)
        queries[r] = whole_weights(own.logits + r * padded, total[r], heads.tokens, padded, 2147483647.0f / value_levels,
                                   own.weights + r * padded);
    by_blocks(depth / LANES, [&](auto N, int64_t block) {
        const int64_t at = block * LANES;
        value_tile<R, N()>(own.weights, padded, pairs, own.value + at * pairs, own.value_scale + at, queries, out + at,
                           out_stride);
    });
    const float* values = own.qkv + heads.columns() + 2 * depth;
    for (int r = 0; r < R; r++)
        if (queries[r].levels > MOST)
            add_excess(queries[r], own.logits + r * padded, padded, values, heads.columns(), depth, out + r * out_stride);
}

// One head of an image, queries [first, last): out, of all tokens, has `depth` columns for each head. After the head's
// weights come those of the layer that is next.
inline void attend_head(const Heads& heads, int64_t head, int64_t first, int64_t last, const Rows& input,
                        const Layer& next, const HeadBuffers& own, float* out) {
    const Layer& layer = heads.layer;
    const int64_t columns = heads.columns(), depth = heads.depth, width = heads.count * depth;
    for (int64_t column = 0; column < columns; column += PANEL) {
        const bool only_queries = column + PANEL <= depth;
        const int64_t from = only_queries && first ? first + 1 : 0, to = only_queries ? last + 1 : heads.tokens + 1;
        linear_panel(layer, head * columns + column, input, from, to, panel_after(layer, head * columns + column, next),
                     [&](int64_t row) { return Store{own.qkv + row * columns + column, columns}; });
    }
    if (heads.turning.is_any()) {
        turn(heads.turning, heads.turning.query, head, first, last, depth, own.qkv + columns, columns);
        turn(heads.turning, heads.turning.key, head, 0, heads.tokens, depth, own.qkv + columns + depth, columns);
    }
    const float levels = levels_for(depth, 4095.0f), value_levels = levels_for(2 * heads.tokens, 2047.0f);
    pack_queries(heads, first, last, levels, own);
    pack_keys(heads, levels, own);
    pack_values(heads, value_levels, own);
    const float* bias = heads.bias ? heads.bias + head * heads.tokens * heads.blocks() * LANES : nullptr;
    for (int64_t query = first; query < last; query += PAIR_ROWS)
        with_constant<PAIR_ROWS>(std::min<int64_t>(PAIR_ROWS, last - query), [&](auto R) {
            attend<R()>(heads, query, value_levels, own, bias, out + query * width + head * depth, width);
        });
}

// How many parts of its queries each head is split into, so that the busiest thread has least to do: a thread that has any
// part of a head makes all its keys and values, which is about 0.4 of a head's work.
inline int64_t parts_of_heads(int64_t heads, int64_t threads) {
    constexpr int64_t MOST_PARTS = 8;
    int64_t best = 1;
    float least = 1e30f;
    for (int64_t parts = 1; parts <= MOST_PARTS; parts++) {
        float busiest = 0;
        for (int64_t thread = 0; thread < threads; thread++) {
            const int64_t first = heads * parts * thread / threads, last = heads * parts * (thread + 1) / threads;
            if (first == last) continue;
            const int64_t touched = (last - 1) / parts - first / parts + 1;
            busiest = std::max(busiest, 0.4f * touched + 0.6f * (last - first) / parts);
        }
        if (busiest < least - 1e-3f) least = busiest, best = parts;
    }
    return best;
}

// A whole ViT: images in, logits and class token out.
//
// Images are shared out one per thread, through all blocks, without a barrier. Those that are left over run one after the
// other on all threads: each has rows of its own, so that only attention, which reads all rows, is between barriers.

#pragma once

#include <omp.h>

#include "network.h"

// One image, on `count` threads of which this is `thread`.
class Pass {
   public:
    Pass(const Network& network, const ImageBuffers& image, const ThreadBuffers& own, int64_t thread, int64_t count)
        : network(network), image(image), own(own), thread(thread), count(count) {
        const int64_t rows = network.tokens + 1;
        first = std::min(rows, mine((rows + LINEAR_ROWS - 1) / LINEAR_ROWS, thread) * LINEAR_ROWS);
        last = std::min(rows, mine((rows + LINEAR_ROWS - 1) / LINEAR_ROWS, thread + 1) * LINEAR_ROWS);
    }

    void run(const float* pixels, float* outputs) const {
        embed_patches(pixels);
        barrier();
        const Block* end = network.blocks + network.block_count;
        for (int64_t row = std::max<int64_t>(first, 1); row < last; row++) {
            if (network.norm_before.gain) normalize(token(row), network.norm_before, token(row));
            normalize_quantize(row, network.blocks->norm1);
        }
        for (const Block* block = network.blocks; block < end; block++) {
            barrier();
            attend(*block);
            barrier();
            for (int64_t row = std::max<int64_t>(first, 1); row < last; row++) {
                const float* x = attended(*block, row);
                quantize(x, largest_magnitude(x, image.attended.width), image.attended, row);
            }
            add(block->proj, image.attended, block->fc1, &block->norm2);
            hidden(*block);
            const bool is_last = block + 1 == end;
            add(block->fc2, image.hidden, is_last ? block->fc2 : block[1].qkv, is_last ? nullptr : &block[1].norm1);
        }
        barrier();
        if (network.pooling == ATTENTION) pool_by_attention();
        if (thread == 0) classify(outputs);
        barrier();  // before the next image takes the buffers
    }

   private:
    int64_t mine(int64_t all, int64_t thread) const { return all * thread / count; }
    float* token(int64_t row) const { return image.tokens + (row - 1) * network.stride(); }

    void barrier() const {
        if (count > 1) {
#pragma omp barrier
        }
    }

    void embed_patches(const float* pixels) const {
        const Patches& patches = network.patches;
        for (int64_t tile = mine(patches.tiles(), thread); tile < mine(patches.tiles(), thread + 1); tile++)
            embed(patches, pixels, tile, own.patch, image.tokens);
        if (thread == 0) std::copy_n(patches.tokens, patches.prefix * patches.outputs, image.tokens);
    }

    void normalize_quantize(int64_t row, const Norm& norm) const {
        quantize(own.row, normalize(token(row), norm, own.row), image.normed, row);
    }

    void attend(const Block& block) const {
        const Heads heads = network.heads_of(block);
        const int64_t parts = parts_of_heads(heads.count, count), tiles = (heads.tokens + PAIR_ROWS - 1) / PAIR_ROWS;
        const int64_t begin = mine(heads.count * parts, thread), end = mine(heads.count * parts, thread + 1);
        for (int64_t at = begin, head, next; at < end; at = next) {
            head = at / parts, next = std::min(end, (head + 1) * parts);
            const int64_t query = tiles * (at - head * parts) / parts * PAIR_ROWS;
            const int64_t stop = tiles * (next - head * parts) / parts * PAIR_ROWS;
            attend_head(heads, head, query, std::min(stop, heads.tokens), image.normed, block.proj, own.head,
                        image.attention);
        }
    }

    // Attention's result for a row, head beside head, and after its norm.
    const float* attended(const Block& block, int64_t row) const {
        const int64_t depth = network.depth, filled = network.filled_depth;
        const float *heads = image.attention + (row - 1) * network.heads * filled, *x = heads;
        if (depth != filled || network.heads * depth != image.attended.width) {
            std::fill_n(own.row, image.attended.width, 0.0f);
            for (int64_t head = 0; head < network.heads; head++)
                std::copy_n(heads + head * filled, depth, own.row + head * depth);
            x = own.row;
        }
        if (!block.attention_norm.gain) return x;
        normalize(x, block.attention_norm, own.row);
        return own.row;
    }

    template <class Use>
    void by_bands(Use use) const {
        for (int64_t from = first; from < last; from += BAND) use(from, std::min(last, from + BAND));
    }

    // The layer's results to the tokens, and what LayerNorm, if there is one, makes of them.
    void add(const Layer& layer, const Rows& input, const Layer& next, const Norm* norm) const {
        by_bands([&](int64_t from, int64_t to) {
            for (int64_t column = 0; column < layer.outputs; column += PANEL)
                linear_panel(layer, column, input, from, to, panel_after(layer, column, to < last ? layer : next),
                             [&](int64_t row) { return Add{token(row) + column, network.stride()}; });
            for (int64_t row = std::max<int64_t>(from, 1); norm && row < to; row++) normalize_quantize(row, *norm);
        });
    }

    void hidden(const Block& block) const {
        const Layer& layer = block.fc1;
        const bool by_row = network.activation != GELU || network.gated || block.hidden_norm.gain;
        by_bands([&](int64_t from, int64_t to) {
            if (!by_row) std::fill(own.largest, own.largest + BAND, Floats{});
            for (int64_t column = 0; column < layer.outputs; column += PANEL) {
                const Ahead next = panel_after(layer, column, to < last ? layer : block.fc2);
                const auto place = [&](int64_t row) { return own.band + (row - from) * layer.outputs + column; };
                if (by_row)
                    linear_panel(layer, column, image.normed, from, to, next,
                                 [&](int64_t row) { return Store{place(row), layer.outputs}; });
                else
                    linear_panel(layer, column, image.normed, from, to, next, [&](int64_t row) {
                        return Gelu{place(row), own.largest + row - from, layer.outputs, block.factor + column,
                                    block.shift + column};
                    });
            }
            for (int64_t row = std::max<int64_t>(from, 1); row < to; row++) {
                float* x = own.band + (row - from) * layer.outputs;
                const float largest = by_row ? activated(block, x) : largest_of(own.largest[row - from]);
                quantize(x, largest, image.hidden, row);
            }
        });
    }

    // fc1's results for a row become fc2's inputs; gives their largest magnitude.
    float activated(const Block& block, float* x) const {
        const int64_t width = image.hidden.width;
        const float* gated = network.gated ? x + width : nullptr;
        const float largest = activate(network.activation, x, gated, width, block.factor, block.shift);
        return block.hidden_norm.gain ? normalize(x, block.hidden_norm, x) : largest;
    }

    const float* normed(int64_t t) const {
        const float* x = image.tokens + t * network.stride();
        if (!network.norm_after.gain) return x;
        normalize(x, network.norm_after, own.row);
        return own.row;
    }

    // On all threads; each output is one thread's.
    void pool_by_attention() const {
        const Pool& pool = network.pool;
        const int64_t stride = network.stride(), width = network.width, depth = width / pool.heads;
        const int64_t begin = mine(width, thread), end = mine(width, thread + 1), skipped = network.skipped;
        for (int64_t row = std::max<int64_t>(first, 1); row < last; row++)
            if (network.norm_after.gain) normalize(token(row), network.norm_after, token(row));
        if (thread == 0) std::fill_n(image.pooled, stride, 0.0f), std::fill_n(image.features, stride, 0.0f);
        barrier();
        for (int64_t head = mine(pool.heads, thread); head < mine(pool.heads, thread + 1); head++) {
            mean_by_attention(pool.query + head * stride, image.tokens + skipped * stride, network.averaged, stride,
                              own.head.logits, own.row);
            dense(pool.value, pool.value_bias, own.row, stride, head * depth, (head + 1) * depth, image.pooled);
        }
        barrier();
        dense(pool.proj, pool.proj_bias, image.pooled, stride, begin, end, image.features);
        barrier();
        if (pool.hidden) {
            const int64_t vectors = pool.hidden / LANES;
            const int64_t from = mine(vectors, thread) * LANES, to = mine(vectors, thread + 1) * LANES;
            std::fill_n(own.row, stride, 0.0f);
            if (pool.norm.gain) normalize(image.features, pool.norm, own.row);
            else std::copy_n(image.features, width, own.row);
            dense(pool.fc1, pool.fc1_bias, own.row, stride, from, to, image.pooled_hidden);
            activate(pool.activation, image.pooled_hidden + from, nullptr, to - from, nullptr, nullptr);
            barrier();
            dense(pool.fc2, pool.fc2_bias, image.pooled_hidden, pool.hidden, begin, end, image.pooled);
            for (int64_t i = begin; i < end; i++) image.features[i] += image.pooled[i];
            barrier();
        }
    }

    // What pooling makes of the tokens, but for attention's, which has been made.
    void pool() const {
        const int64_t stride = network.stride(), width = network.width;
        float *features = image.features, *mean = network.pooling == CLASS_AND_MEAN ? features + stride : features;
        if (network.pooling == ATTENTION) return;
        std::fill_n(features, 2 * stride, 0.0f);
        if (network.pooling != MEAN) std::copy_n(normed(0), width, features);
        if (network.pooling == TOKEN) return;
        for (int64_t t = network.skipped; t < network.skipped + network.averaged; t++) {
            const float* x = normed(t);
            for (int64_t i = 0; i < width; i += LANES) store(mean + i, floats_at(mean + i) + floats_at(x + i));
        }
        const float share = 1.0f / network.averaged;
        for (int64_t i = 0; i < width; i += LANES) store(mean + i, floats_at(mean + i) * share);
    }

    // The linear head over what has been pooled. Gives logits and the pooled token.
    void classify(float* outputs) const {
        pool();
        const int64_t count = network.features();
        if (network.norm_pooled.gain) normalize(image.features, network.norm_pooled, image.features);
        for (int64_t c = 0; c < network.classes; c++) {
            Floats sum{};
            for (int64_t i = 0; i < count; i += LANES)
                sum = fma(floats_at(image.features + i), floats_at(network.head_weight + c * count + i), sum);
            outputs[c] = sum_of(sum) + network.head_bias[c];
        }
        std::copy_n(image.features, network.width, outputs + network.classes);
    }

    const Network& network;
    const ImageBuffers& image;
    const ThreadBuffers& own;
    int64_t thread, count, first, last;
};

template <class Buffers>
Buffers buffers(const Network& network, Kept& kept) {
    Memory counted;
    Buffers(counted, network);
    Memory memory(kept.of(counted.bytes()));
    return Buffers(memory, network);
}

// `images` images, (channels, side, side) each, to logits and class token, (classes + width) each.
inline void forward(const Network& network, const float* pixels, float* outputs, int64_t images, int threads) {
    static thread_local Kept kept_team, kept_image, kept_own;
    const int64_t whole = images / threads * threads;  // that a thread runs by itself
    const bool team = whole < images && threads > 1;
    const ImageBuffers shared = buffers<ImageBuffers>(network, team ? kept_team : kept_image);
#pragma omp parallel num_threads(threads)
    {
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
        const ThreadBuffers own = buffers<ThreadBuffers>(network, kept_own);
        const auto run = [&](int64_t index, const ImageBuffers& image, int64_t thread, int64_t count) {
            Pass(network, image, own, thread, count)
                .run(pixels + index * network.pixels(), outputs + index * network.outputs());
        };
        if (whole) {
            const ImageBuffers image = buffers<ImageBuffers>(network, kept_image);
            for (int64_t i = whole * thread / count; i < whole * (thread + 1) / count; i++) run(i, image, 0, 1);
        }
        for (int64_t i = whole; i < images; i++) run(i, shared, thread, count);
    }
}

// A whole ViT: images in, logits and class token out.
//
// Images are shared out one per thread, through all blocks, without a barrier. Those that are left over run one after the
// other on all threads: each has rows of its own, so that only attention, which reads all rows, is between barriers.

#pragma once

#include <omp.h>

#include "attention.h"
#include "patches.h"

struct Block {
    Norm norm1;
    Layer qkv;  // as Heads has it
    Layer proj;
    Norm norm2;
    Layer fc1;
    const float *factor, *shift;  // that make fc2's inputs of GELU's results
    Layer fc2;
};

struct Network {
    Patches patches;
    Norm norm_before, norm_after;  // all blocks; there may be none before: its gain is null
    const Block* blocks;
    const float *head_weight, *head_bias;  // (classes, 2 * stride): of the class token, of the patches' mean
    int64_t block_count, heads, depth, tokens, width, classes;

    int64_t filled_depth() const { return (depth + LANES - 1) / LANES * LANES; }
    Heads heads_of(const Block& block) const { return {heads, tokens, filled_depth(), block.qkv}; }
    int64_t stride() const { return patches.outputs; }  // of a token
    int64_t pixels() const { return patches.channels * patches.side * patches.side; }
    int64_t outputs() const { return classes + width; }
};

struct ImageBuffers {
    float *tokens, *attention;  // row t is token t; attention's heads are filled up
    Rows normed, attended, hidden;

    ImageBuffers(Memory& memory, const Network& network) {
        const Block& block = network.blocks[0];
        const int64_t rows = network.tokens + 1;
        tokens = memory.take<float>(network.tokens * network.stride());
        attention = memory.take<float>(network.tokens * network.heads * network.filled_depth());
        for (auto [quantized, layer] : {std::pair{&normed, &block.qkv}, {&attended, &block.proj}, {&hidden, &block.fc2}})
            *quantized = {memory.take<uint8_t>(rows * layer->width), memory.take<float>(rows), layer->width};
    }
};

struct ThreadBuffers {
    HeadBuffers head;
    PatchBuffers patch;
    float *band, *row, *features;
    Floats* largest;

    ThreadBuffers(Memory& memory, const Network& network)
        : head(memory, network.heads_of(network.blocks[0])), patch(memory, network.patches) {
        band = memory.take<float>(BAND * network.blocks[0].fc1.outputs);
        row = memory.take<float>(std::max(network.stride(), network.blocks[0].proj.width));
        features = memory.take<float>(2 * network.stride());
        largest = memory.take<Floats>(BAND);
    }
};

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
                const float* x = attended(row);
                quantize(x, largest_magnitude(x, image.attended.width), image.attended, row);
            }
            add(block->proj, image.attended, block->fc1, &block->norm2);
            hidden(*block);
            const bool is_last = block + 1 == end;
            add(block->fc2, image.hidden, is_last ? block->fc2 : block[1].qkv, is_last ? nullptr : &block[1].norm1);
        }
        barrier();
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

    // Attention's result for a row, head beside head.
    const float* attended(int64_t row) const {
        const int64_t depth = network.depth, filled = network.filled_depth();
        const float* heads = image.attention + (row - 1) * network.heads * filled;
        if (depth == filled && network.heads * depth == image.attended.width) return heads;
        std::fill_n(own.row, image.attended.width, 0.0f);
        for (int64_t head = 0; head < network.heads; head++)
            std::copy_n(heads + head * filled, depth, own.row + head * depth);
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
        by_bands([&](int64_t from, int64_t to) {
            std::fill(own.largest, own.largest + BAND, Floats{});
            for (int64_t column = 0; column < layer.outputs; column += PANEL)
                linear_panel(layer, column, image.normed, from, to,
                             panel_after(layer, column, to < last ? layer : block.fc2), [&](int64_t row) {
                                 return Gelu{own.band + (row - from) * layer.outputs + column, own.largest + row - from,
                                             layer.outputs, block.factor + column, block.shift + column};
                             });
            for (int64_t row = std::max<int64_t>(from, 1); row < to; row++)
                quantize(own.band + (row - from) * layer.outputs, largest_of(own.largest[row - from]), image.hidden, row);
        });
    }

    // LayerNorm; the class token beside the patches' mean, the linear head over both. Gives logits and class token.
    void classify(float* outputs) const {
        const Patches& patches = network.patches;
        const int64_t stride = network.stride(), width = network.norm_after.width;
        float *features = own.features, *mean = features + stride;
        std::fill_n(features, 2 * stride, 0.0f);
        normalize(image.tokens, network.norm_after, features);
        for (int64_t t = patches.prefix; t < network.tokens; t++) {
            normalize(image.tokens + t * stride, network.norm_after, own.row);
            for (int64_t i = 0; i < width; i += LANES) store(mean + i, floats_at(mean + i) + floats_at(own.row + i));
        }
        for (int64_t i = 0; i < width; i += LANES) store(mean + i, floats_at(mean + i) * (1.0f / (network.tokens - patches.prefix)));
        for (int64_t c = 0; c < network.classes; c++) {
            Floats sum{};
            for (int64_t i = 0; i < 2 * stride; i += LANES)
                sum = fma(floats_at(features + i), floats_at(network.head_weight + c * 2 * stride + i), sum);
            outputs[c] = sum_of(sum) + network.head_bias[c];
        }
        std::copy_n(features, network.width, outputs + network.classes);
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

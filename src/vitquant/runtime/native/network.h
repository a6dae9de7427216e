// A whole ViT's parts, and the memory that running it takes.

#pragma once

#include "attention.h"
#include "patches.h"
#include "pooling.h"

struct Block {  // a norm that there is not has a gain of null
    Norm norm1;
    Layer qkv;  // as Heads has it
    Norm query_norm, key_norm;
    const float* rotation;  // as Turning has it
    int64_t rotation_step;
    const float* bias;    // as Heads has it
    Norm attention_norm;  // of what attention gives, before proj
    Layer proj;
    Norm norm2;
    Layer fc1;                     // with a gate: the function's inputs, filled up as fc2's, then what it is multiplied by
    const float *factor, *shift;  // that make fc2's inputs of the activation function's results
    Norm hidden_norm;             // of those
    Layer fc2;
};

struct Network {
    Patches patches;
    Norm norm_before, norm_after, norm_pooled;  // all blocks; the head
    const Block* blocks;
    const float *head_weight, *head_bias;  // (classes, features)
    Pool pool;
    int64_t block_count, heads, depth, filled_depth, tokens, width, classes, activation, gated, pooling;
    int64_t skipped, averaged;  // tokens that pooling leaves out, and how many after them it takes

    Heads heads_of(const Block& block) const {
        const Turning turning{block.query_norm, block.key_norm, block.rotation, block.rotation_step, patches.prefix};
        return {heads, tokens, filled_depth, block.qkv, turning, block.bias};
    }
    int64_t stride() const { return patches.outputs; }  // of a token
    int64_t features() const { return (pooling == CLASS_AND_MEAN ? 2 : 1) * stride(); }
    int64_t pixels() const { return patches.channels * patches.side * patches.side; }
    int64_t outputs() const { return classes + width; }
};

struct ImageBuffers {
    float *tokens, *attention;  // row t is token t; attention's heads are filled up
    Rows normed, attended, hidden;
    float *features, *pooled, *pooled_hidden;

    ImageBuffers(Memory& memory, const Network& network) {
        const Block& block = network.blocks[0];
        const int64_t rows = network.tokens + 1;
        tokens = memory.take<float>(network.tokens * network.stride());
        attention = memory.take<float>(network.tokens * network.heads * network.filled_depth);
        for (auto [quantized, layer] : {std::pair{&normed, &block.qkv}, {&attended, &block.proj}, {&hidden, &block.fc2}})
            *quantized = {memory.take<uint8_t>(rows * layer->width), memory.take<float>(rows), layer->width};
        features = memory.take<float>(2 * network.stride());
        pooled = memory.take<float>(network.stride());
        pooled_hidden = memory.take<float>(network.pool.hidden);
    }
};

struct ThreadBuffers {
    HeadBuffers head;
    PatchBuffers patch;
    float *band, *row;
    Floats* largest;

    ThreadBuffers(Memory& memory, const Network& network)
        : head(memory, network.heads_of(network.blocks[0])), patch(memory, network.patches) {
        band = memory.take<float>(BAND * network.blocks[0].fc1.outputs);
        row = memory.take<float>(std::max(network.stride(), network.blocks[0].proj.width));
        largest = memory.take<Floats>(BAND);
    }
};

// Parts of the native code by themselves, for test_pieces.py. Rows of a linear layer's input: row 0 is the class token's
// low part, row t + 1 is token t.

#include "forward.h"

#pragma GCC visibility push(default)
extern "C" {

// `count` is a multiple of 16.
void exponentials(const float* x, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES) store(out + i, exp2_of(floats_at(x + i)));
}

void gelus(const float* x, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES) store(out + i, gelu(floats_at(x + i)));
}

// x: (tokens, width), filled up; values: (tokens + 1, width), likewise.
void normalize_quantize(const Norm* norm, const float* x, int64_t tokens, int64_t width, uint8_t* values, float* scale) {
    Kept kept;
    float* row = (float*)kept.of(width * sizeof(float));
    const Rows rows{values, scale, width};
    for (int64_t t = 0; t < tokens; t++) quantize(row, normalize(x + t * width, *norm, row), rows, t + 1);
}

// out: (tokens + 1, outputs), rows as of the input; row 0 is left as it is.
void linear_layer(const Layer* layer, uint8_t* values, float* scale, int64_t tokens, float* out) {
    for (int64_t column = 0; column < layer->outputs; column += PANEL)
        linear_panel(*layer, column, Rows{values, scale, layer->width}, 0, tokens + 1, panel(*layer, column),
                     [&](int64_t row) { return Store{out + row * layer->outputs + column, layer->outputs}; });
}

// out: (tokens, heads * depth); each head's queries by themselves in `parts` parts.
void attention(const Layer* layer, int64_t heads, int64_t depth, uint8_t* values, float* scale, int64_t tokens,
               int64_t parts, float* out) {
    const Heads all{heads, tokens, depth, *layer, Turning{}, nullptr};
    Kept kept;
    const auto own = [&] {
        Memory counted;
        HeadBuffers(counted, all);
        Memory memory(kept.of(counted.bytes()));
        return HeadBuffers(memory, all);
    }();
    for (int64_t head = 0; head < heads; head++)
        for (int64_t part = 0; part < parts; part++)
            attend_head(all, head, tokens * part / parts, tokens * (part + 1) / parts, Rows{values, scale, layer->width},
                        *layer, own, out);
}

int64_t parts_of_heads_for(int64_t heads, int64_t threads) { return parts_of_heads(heads, threads); }
}
#pragma GCC visibility pop

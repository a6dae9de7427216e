// What Python calls. library.py and network.py hold the same version, functions and structures.

#include "forward.h"
#include "register_rate.h"

#pragma GCC visibility push(default)
extern "C" {

int64_t interface_version() { return 2; }

// Of this CPU's code: what packing has to know.
int64_t lanes() { return LANES; }
int64_t panel() { return PANEL; }
int64_t zero_point() { return ZERO_POINT; }

// A network's outputs, on `threads` threads, whose number changes nothing; may be called from several threads at once.
void forward_images(const Network* network, const float* pixels, float* outputs, int64_t images, int threads) {
    forward(*network, pixels, outputs, images, threads);
}

// Takes `steps` steps in registers on each thread: int8, float32 or bfloat16 (0, 1, 2). Gives the products of all
// threads together, 0 where this CPU has no instruction for them.
int64_t multiply_in_registers(int arithmetic, int64_t steps, int threads) {
    int64_t (*const products[])(int64_t) = {int8_products, float32_products, bfloat16_products};
    int64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += products[arithmetic](steps);
    return total;
}
}
#pragma GCC visibility pop

// CUDA's words and Turing's instructions on the CPU: takes the place of the kernels' own instructions.h.
//
// A block's threads are contexts (ucontext.h) of one thread, which take turns: whoever waits for others hands on to the
// next. A warp runs on until it must wait for other warps, far before them, so that a wait that is missing shows. An
// instruction of a warp leaves each lane's operands where the others find them, waits for all lanes, and takes from
// theirs what it needs.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct float2 { float x, y; };
struct uint4 { unsigned x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline dim3 threadIdx, blockIdx, blockDim;  // of the thread whose turn it is

namespace emulator {

struct Operands { unsigned words[2]; float halves[6]; const void* address; };

struct Meeting {  // of the threads that wait for each other
    int members = 0, arrived = 0;
    unsigned round = 0;
    Operands left[2][32] = {};  // by round, odd or even: some still read those of one when others write the next's
};

struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool ended = false;
};

inline std::vector<Thread> threads;
inline std::vector<Meeting> warps;
inline Meeting block;
inline ucontext_t outside;
inline void (*body)();

// Let the next of so many neighbouring threads run: of a warp, or of the block.
inline void hand_on(unsigned count) {
    const unsigned self = threadIdx.x, first = self / count * count;
    const auto after = [&](unsigned thread) { return first + (thread - first + 1) % count; };
    unsigned next = after(self);
    while (next != self && threads[next].ended) next = after(next);
    threadIdx.x = next;
    if (next != self) {
        swapcontext(&threads[self].context, &threads[next].context);
    } else if (threads[self].ended) {
        setcontext(&outside);
    }
}

inline void meet(Meeting& meeting) {
    const unsigned round = meeting.round;
    if (++meeting.arrived == meeting.members) {
        meeting.arrived = 0;
        ++meeting.round;
    }
    while (meeting.round == round) hand_on(meeting.members);
}

// Leave operands for the other lanes; all lanes' operands.
inline const Operands* exchange(const Operands& own) {
    Meeting& warp = warps[threadIdx.x / 32];
    Operands* const all = warp.left[warp.round % 2];
    all[threadIdx.x % 32] = own;
    meet(warp);
    return all;
}

inline void begin() {
    body();
    threads[threadIdx.x].ended = true;
    hand_on(blockDim.x);
}

inline int8_t byte(unsigned word, int index) { return static_cast<int8_t>(word >> (8 * index)); }

inline float half(unsigned word, int index) {
    uint16_t bits = static_cast<uint16_t>(word >> (16 * index));
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return static_cast<float>(value);
}

}  // namespace emulator

inline void __syncthreads() { emulator::meet(emulator::block); }
inline void __syncwarp() { emulator::exchange({}); }

inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
    return std::exchange(*to, *to + value);
}

inline float rsqrtf(float value) { return 1 / std::sqrt(value); }

inline void load_matrices(unsigned* to, const void* row) {
    const auto* all = emulator::exchange({{}, {}, row});
    const int lane = threadIdx.x % 32;
    for (int matrix = 0; matrix < 4; ++matrix)
        std::memcpy(to + matrix, static_cast<const char*>(all[8 * matrix + lane / 4].address) + 4 * (lane % 4), 4);
}

inline void load_transposed(unsigned* to, const void* row) {
    const auto* all = emulator::exchange({{}, {}, row});
    const int lane = threadIdx.x % 32;
    for (int matrix = 0; matrix < 4; ++matrix)
        for (int half = 0; half < 2; ++half)
            std::memcpy(reinterpret_cast<char*>(to + matrix) + 2 * half,
                        static_cast<const char*>(all[8 * matrix + 2 * (lane % 4) + half].address) + 2 * (lane / 4), 2);
}

inline void multiply(int* total, unsigned left, unsigned right) {
    const auto* all = emulator::exchange({{left, right}, {}, nullptr});
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    for (int column = 0; column < 2; ++column)
        for (int depth = 0; depth < 16; ++depth)
            total[column] += emulator::byte(all[4 * group + depth / 4].words[0], depth % 4) *
                             emulator::byte(all[4 * (2 * place + column) + depth / 4].words[1], depth % 4);
}

inline void multiply(float* total, unsigned left, unsigned lower, unsigned right) {
    using emulator::half;
    const auto* all = emulator::exchange(
        {{}, {half(left, 0), half(left, 1), half(lower, 0), half(lower, 1), half(right, 0), half(right, 1)}, nullptr});
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    for (int entry = 0; entry < 4; ++entry)
        for (int depth = 0; depth < 8; ++depth)
            total[entry] += all[4 * group + depth / 2].halves[entry / 2 * 2 + depth % 2] *
                            all[4 * (2 * place + entry % 2) + depth / 2].halves[4 + depth % 2];
}

template <typename Number>
Number from_lane(Number value, int bits) {
    unsigned word;
    std::memcpy(&word, &value, 4);
    word = emulator::exchange({{word}, {}, nullptr})[(threadIdx.x % 32) ^ bits].words[0];
    std::memcpy(&value, &word, 4);
    return value;
}

inline unsigned to_halves(float one, float two) {
    const _Float16 both[] = {static_cast<_Float16>(one), static_cast<_Float16>(two)};
    unsigned word;
    std::memcpy(&word, both, 4);
    return word;
}

inline float2 from_halves(unsigned both) { return {emulator::half(both, 0), emulator::half(both, 1)}; }

inline unsigned short to_bytes(float one, float two) {
    const auto byte = [](float value) {
        return static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(std::clamp(value, -128.0f, 127.0f))));
    };
    return static_cast<unsigned short>(byte(one) | byte(two) << 8);
}

inline float power_of_2(float value) { return std::exp2(value); }
inline float hyperbolic_tangent(float value) { return std::tanh(value); }

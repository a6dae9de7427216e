// Running a kernel, block by block.
#pragma once
#include <instructions.h>
#include <tuple>

namespace emulator {

// All blocks of a kernel; `arguments` are the addresses of its arguments, as CUDA's driver takes them.
template <typename... Arguments>
void run(void (*kernel)(Arguments...), unsigned across, unsigned down, unsigned count, void** arguments) {
    static std::tuple<Arguments...> given;
    static void (*called)(Arguments...);
    [&]<std::size_t... Index>(std::index_sequence<Index...>) {
        given = {*static_cast<Arguments*>(arguments[Index])...};
    }(std::index_sequence_for<Arguments...>{});
    called = kernel;
    body = [] { std::apply(called, given); };
    blockDim = {count, 1, 1};
    threads.resize(std::max<std::size_t>(threads.size(), count));
    for (blockIdx.y = 0; blockIdx.y < down; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < across; ++blockIdx.x) {
            warps.assign(count / 32, {32});
            block = {static_cast<int>(count)};
            for (unsigned index = 0; index < count; ++index) {
                Thread& thread = threads[index];
                thread.ended = false;
                getcontext(&thread.context);
                thread.context.uc_stack.ss_sp = thread.stack.data();
                thread.context.uc_stack.ss_size = thread.stack.size();
                makecontext(&thread.context, begin, 0);
            }
            threadIdx = {0, 0, 0};
            swapcontext(&outside, &threads[0].context);
        }
}

}  // namespace emulator

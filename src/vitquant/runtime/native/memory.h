// Memory of a thread that is kept from call to call, shared out to buffers of whole cache lines.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

// Counts what is taken where `from` is null; else hands it out.
class Memory {
   public:
    explicit Memory(char* from = nullptr) : from(from) {}

    template <class T>
    T* take(int64_t count) {
        T* place = from ? (T*)(from + used) : nullptr;
        used += (count * sizeof(T) + LINE - 1) / LINE * LINE;
        return place;
    }
    size_t bytes() const { return used; }

   private:
    static constexpr size_t LINE = 128;  // two cache lines, which are fetched together
    char* from;
    size_t used = 0;
};

class Kept {
   public:
    char* of(size_t bytes) {
        if (bytes > size) {
            ::operator delete(memory, PAGE);
            memory = nullptr, size = 0;
            memory = (char*)::operator new(bytes, PAGE);
            size = bytes;
        }
        return memory;
    }
    ~Kept() { ::operator delete(memory, PAGE); }

   private:
    static constexpr std::align_val_t PAGE{4096};
    char* memory = nullptr;
    size_t size = 0;
};

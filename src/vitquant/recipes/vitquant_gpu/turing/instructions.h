// What C++ has no words for: instructions of Turing, by their PTX names (NVIDIA, PTX ISA, chapter 9.7).
// A lane is a thread of a warp; `group` and `place` are lane / 4 and lane % 4.
#pragma once

// Four matrices of 8 rows of 16 bytes from shared memory: lane i gives the address of row i % 8 of matrix i / 8, and
// gets of each matrix 4 bytes of row `group`, from byte 4 × `place`.
__device__ inline void load_matrices(unsigned* to, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of 16-bit values, transposed: of each matrix the two of column `group` in rows 2 × `place` and the next.
__device__ inline void load_transposed(unsigned* to, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// total (8, 8) += left (8, 16) · right (8, 16)ᵀ in INT8. A lane holds of left and right 4 values of row `group` from
// 4 × `place`, and of the total 2 of row `group` from 2 × `place`.
__device__ inline void multiply(int* total, unsigned left, unsigned right) {
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(total[0]), "+r"(total[1])
        : "r"(left), "r"(right));
}

// total (16, 8), float32, += left (16, 8) · right (8, 8)ᵀ, FP16. A lane holds of left and right 2 values of row `group`
// from 2 × `place`, of the total likewise, and of left (in `lower`) and total the same 8 rows below.
__device__ inline void multiply(float* total, unsigned left, unsigned lower, unsigned right) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(total[0]), "+f"(total[1]), "+f"(total[2]), "+f"(total[3])
        : "r"(left), "r"(lower), "r"(right));
}

// The value of the lane whose number differs by `bits`.
__device__ inline float from_lane(float value, int bits) { return __shfl_xor_sync(0xffffffffu, value, bits); }
__device__ inline int from_lane(int value, int bits) { return __shfl_xor_sync(0xffffffffu, value, bits); }

// Two float32 to FP16, the first in the low bits.
__device__ inline unsigned to_halves(float one, float two) {
    unsigned both;
    asm("{ .reg .b16 low, high; cvt.rn.f16.f32 low, %1; cvt.rn.f16.f32 high, %2; mov.b32 %0, {low, high}; }"
        : "=r"(both) : "f"(one), "f"(two));
    return both;
}

__device__ inline float2 from_halves(unsigned both) {
    float2 values;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(values.x), "=f"(values.y) : "r"(both));
    return values;
}

// Two float32 to the nearest of INT8, ties to even, ends beyond the range; the first in the low byte.
__device__ inline unsigned short to_bytes(float one, float two) {
    unsigned both;
    asm("{ .reg .s32 low, high; cvt.rni.s32.f32 low, %1; cvt.rni.s32.f32 high, %2; "
        "cvt.pack.sat.s8.s32.b32 %0, high, low, 0; }"
        : "=r"(both) : "f"(one), "f"(two));
    return static_cast<unsigned short>(both);
}

__device__ inline float power_of_2(float value) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
    return power;
}

__device__ inline float hyperbolic_tangent(float value) {
    float tangent;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tangent) : "f"(value));
    return tangent;
}

// The CUDA kernels' sources as plain C++, run on the CPU thread by thread: what tests use where there is no GPU. Each thread of a block is a context of its own; shuffles, barriers
// and tensor-core instructions are meeting points. Two orders of threads and two times at which asynchronous copies land (as late and as early as they may) show a
// missing barrier or wait; shared memory begins as NaN, so that reading what nobody wrote shows, too. Threads of a warp that meet at different places are an error.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(n) alignas(n)

namespace skiff::cuda {

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 {
    std::uint32_t x, y;
};
struct uint4 {
    std::uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(std::uint32_t x, std::uint32_t y) { return {x, y}; }
inline uint4 make_uint4(std::uint32_t x, std::uint32_t y, std::uint32_t z, std::uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

enum cudaError_t : int { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid argument"; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class Mode : std::uint8_t { late_copies_forward, early_copies_backward };
void set_mode(Mode mode);

// What every GPU that the kernels are for allows: 99 KiB of shared memory a block (sm_86, sm_89), 48 KiB of it without asking, 65535 blocks in the second and third dimension.
void allow_shared(const void* kernel, std::size_t shared_bytes);
bool can_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t declared_bytes);
// Runs a grid, block after block. A deadlock or a divergence ends the program with what it was.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

// What the kernel in front does to memory, as each block sees it: predecessor(false) before the block begins, predecessor(true) once all its threads wait. So reading too early shows, and a thread
// that never waits.
void set_predecessor(std::function<void(bool has_ended)> predecessor);
void predecessor_ends();

unsigned char* shared_memory();
enum class Meeting : std::uint8_t { shuffle, sync_warp, matrices, product, byte_product, sparse_product, vote };
// All 32 lanes give `input` and get what `work` makes of all inputs: work(inputs, outputs), rows of 64 bytes.
void meet(Meeting kind, const void* input, std::size_t input_bytes, void* output, std::size_t output_bytes, void (*work)(const unsigned char (*inputs)[64], unsigned char (*outputs)[64], int argument), int argument);
void meet_block();
void meet_some(int barrier, int n_threads);
void copy_async(std::uint32_t shared, const void* global, int bytes);
void commit();
void wait(int n_pending);

template <class T>
T shuffle(T value, int argument, void (*work)(const unsigned char (*)[64], unsigned char (*)[64], int)) {
    T result;
    meet(Meeting::shuffle, &value, sizeof value, &result, sizeof result, work, argument);
    return result;
}

}  // namespace emulation

template <class T>
T __shfl_xor_sync(std::uint32_t, T value, int distance) {
    return emulation::shuffle(value, distance, [](const unsigned char (*in)[64], unsigned char (*out)[64], int d) {
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], in[lane ^ d], 64);
    });
}
template <class T>
T __shfl_sync(std::uint32_t, T value, int from) {
    return emulation::shuffle(value, from, [](const unsigned char (*in)[64], unsigned char (*out)[64], int lane_of_all) {
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], in[lane_of_all], 64);
    });
}
template <class T>
T __shfl_down_sync(std::uint32_t, T value, int distance) {
    return emulation::shuffle(value, distance, [](const unsigned char (*in)[64], unsigned char (*out)[64], int d) {
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], in[lane + d < 32 ? lane + d : lane], 64);
    });
}
inline int __any_sync(std::uint32_t, bool value) {
    const int number = value ? 1 : 0;
    return emulation::shuffle(number, 0, [](const unsigned char (*in)[64], unsigned char (*out)[64], int) {
        int any = 0;
        for (int lane = 0; lane < 32; ++lane) any |= in[lane][0];
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], &any, 4);
    });
}
inline std::uint32_t __reduce_max_sync(std::uint32_t, std::uint32_t value) {
    return emulation::shuffle(value, 0, [](const unsigned char (*in)[64], unsigned char (*out)[64], int) {
        std::uint32_t most = 0, one = 0;
        for (int lane = 0; lane < 32; ++lane) std::memcpy(&one, in[lane], 4), most = one > most ? one : most;
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], &most, 4);
    });
}
inline int __reduce_add_sync(std::uint32_t, int value) {
    return emulation::shuffle(value, 0, [](const unsigned char (*in)[64], unsigned char (*out)[64], int) {
        int sum = 0, one = 0;
        for (int lane = 0; lane < 32; ++lane) std::memcpy(&one, in[lane], 4), sum += one;
        for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane], &sum, 4);
    });
}
inline void __syncwarp() {
    emulation::meet(emulation::Meeting::sync_warp, nullptr, 0, nullptr, 0, [](const unsigned char (*)[64], unsigned char (*)[64], int) {}, 0);
}
inline void __syncthreads() { emulation::meet_block(); }
inline void __threadfence() {}
inline std::int32_t atomicAdd(std::int32_t* target, std::int32_t value) {
    const std::int32_t old = *target;
    *target += value;
    return old;
}
template <class T>
T __ldcg(const T* source) {
    return *source;
}
inline float __expf(float x) { return std::exp(x); }
inline void sincospif(float x, float* sine, float* cosine) {
    *sine = static_cast<float>(std::sin(static_cast<double>(x) * 3.14159265358979323846));
    *cosine = static_cast<float>(std::cos(static_cast<double>(x) * 3.14159265358979323846));
}
template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}

// ---- what device.cuh has as instructions
inline std::uint32_t shared_address(const void* pointer) { return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - emulation::shared_memory()); }
inline void copy_async16(std::uint32_t shared, const void* global) { emulation::copy_async(shared, global, 16); }
inline void copy_async16(std::uint32_t shared, const void* global, int bytes) { emulation::copy_async(shared, global, bytes); }
inline void copy_commit() { emulation::commit(); }
template <int n_pending>
void copy_wait() {
    emulation::wait(n_pending);
}
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void multiply_add_bytes(int (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void multiply_add_sparse(float (&c)[4], const std::uint32_t (&a)[4], const uint4& b, std::uint32_t positions, int selector);
template <int selector>
void multiply_add_sparse(float (&c)[4], const std::uint32_t (&a)[4], const uint4& b, std::uint32_t positions) {
    multiply_add_sparse(c, a, b, positions, selector);
}
void load_matrices(std::uint32_t (&r)[4], std::uint32_t row);
void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row);
inline float exp2_fast(float x) { return std::exp2(x); }
inline void touch(const void*) {}
inline float reciprocal_fast(float x) { return 1.0f / x; }
inline float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }
inline void sync_some(int barrier, int n_threads) { emulation::meet_some(barrier, n_threads); }
inline void wait_for_predecessor() { emulation::predecessor_ends(); }
inline void let_successor_start() {}

}  // namespace skiff::cuda

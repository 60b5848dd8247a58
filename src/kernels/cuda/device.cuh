// The instructions that C++ has no word for, and how kernels are launched.
#pragma once

#include <type_traits>

#include "kernels/cuda/lane.h"
#include "kernels/cuda/launch.h"

#if defined(SKIFF_EMULATED_GPU)
#include "kernels/cuda/emulation.h"
#define SKIFF_SHARED_MEMORY(name) unsigned char* name = emulation::shared_memory()
#else
#include <cuda_runtime.h>
#define SKIFF_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace skiff::cuda {

#if !defined(SKIFF_EMULATED_GPU)
__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer)); }

// 16 bytes past the L1: weights are read once.
__device__ __forceinline__ void copy_async16(std::uint32_t shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
// As above, but zeros where `bytes` is 0.
__device__ __forceinline__ void copy_async16(std::uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n_pending>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n_pending) : "memory");
}

// c += a b: 16 rows, 8 columns, depth 16.
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b of bytes with a sign: 16 rows, 8 columns, depth 32. Register j of `a` and `b` has columns 4 t and the next three of what j says in multiply_add, times two.
__device__ __forceinline__ void multiply_add_bytes(int (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b: 16 rows, 8 columns, depth 32, of which `a` has two of every four (two_of_four.h). Lanes 2 * selector and 2 * selector + 1 of every four say which.
template <int selector>
__device__ __forceinline__ void multiply_add_sparse(float (&c)[4], const std::uint32_t (&a)[4], const uint4& b, std::uint32_t positions) {
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1205
#define SKIFF_MMA_SP "mma.sp::ordered_metadata"  // positions ascend: since sm_90 the other is slow
#else
#define SKIFF_MMA_SP "mma.sp"
#endif
    asm(SKIFF_MMA_SP ".sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(positions), "n"(selector));
#undef SKIFF_MMA_SP
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory; each lane gives the address of a row.
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// Programmatic dependent launch. wait_for_predecessor() returns when everything that the kernel before wrote can be read; every thread of every kernel calls it
// before it touches what another kernel writes or reads, and before it returns. A no-op before sm_90.
//
// Two things may be read in front of it: weights, and (by attention) what was complete before the run. A kernel starts when each block of the one before has let it or has ended. Products of weights
// (gemv, gemm, experts) let it before they wait themselves, so that several kernels in a row may be under way. All others wait first: embedding, norms and what else works on rows, rotation, attention,
// sampling. Everything in front of such a kernel has ended before the kernel behind it starts, and so before all that follow do. A run that reads what a kernel of the run before has written (the
// sampler's tokens and positions) begins with its embedding; every other run begins with copies from the host, which its first kernel waits for in full, as it does for the kernels of another graph. So
// positions, page tables and the state of positions before this run's own are complete when attention starts. They are read past the L1 (__ldcg, cp.async.cg): nothing says that its lines are new.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// 2^x by the special function unit: 2 units in the last place; -infinity gives 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Brings the 128 bytes around an address to the L1, and waits for nothing.
__device__ __forceinline__ void touch(const void* address) {
    [[maybe_unused]] std::uint32_t unused;
    asm volatile("ld.global.ca.b32 %0, [%1];" : "=r"(unused) : "l"(address));
}
// 1 / x within an ulp or two; an infinity's is 0.
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// The larger, and NaN where one is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
// A barrier of some of a block's warps, which name it by a number from 1 to 15 and say how many threads come to it.
__device__ __forceinline__ void sync_some(int barrier, int n_threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(n_threads) : "memory"); }

#endif  // the emulated instructions are in emulation.h

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// One number of an operand.
struct OperandTarget {
    OperandForm form = OperandForm::rows;
    unsigned char* data = nullptr;
    std::int64_t n_columns = 0, n_slabs = 0;

    __device__ __forceinline__ void put(std::int64_t token, std::int64_t column, float value) const {
        const auto store = [&](std::int64_t byte, std::uint32_t bits) { *reinterpret_cast<unsigned short*>(data + byte) = static_cast<unsigned short>(bits); };
        if (form == OperandForm::split) {
            const std::uint32_t parts = split_bf16(value);
            const std::int64_t byte = fragment_byte(token >> 2, 2 * static_cast<int>(token & 3), column, n_slabs);
            store(byte, parts & 0xffffu);
            store(byte + 64, parts >> 16);  // the next n
        } else if (form == OperandForm::fragments) {
            store(fragment_byte(token >> 3, static_cast<int>(token & 7), column, n_slabs), float_bf16(value));
        } else {
            store((token * n_columns + column) * 2, float_bf16(value));
        }
    }

    // Columns `column` (a multiple of four) and the next three.
    __device__ __forceinline__ void put_four(std::int64_t token, std::int64_t column, const float (&v)[4]) const {
        if (form == OperandForm::rows && n_columns % 4 == 0) {
            *reinterpret_cast<uint2*>(data + (token * n_columns + column) * 2) = make_uint2(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]));
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (column + i < n_columns) put(token, column + i, v[i]);
    }
    // Columns `column` (even) and the next.
    __device__ __forceinline__ void put_pair(std::int64_t token, std::int64_t column, float first, float second) const {
        if (form == OperandForm::split || n_columns % 2 != 0) {
            put(token, column, first);
            put(token, column + 1, second);
            return;
        }
        const std::int64_t byte = form == OperandForm::fragments ? fragment_byte(token >> 3, static_cast<int>(token & 7), column, n_slabs) : (token * n_columns + column) * 2;
        *reinterpret_cast<std::uint32_t*>(data + byte) = pack_bf16x2(first, second);
    }
};
inline OperandTarget target_of(const Operand& operand) {
    return {operand.form, static_cast<unsigned char*>(operand.data), operand.n_columns, operand_columns(operand.n_columns) / slab_columns};
}

__device__ __forceinline__ float activate(Activation kind, float x) {
    switch (kind) {
        case Activation::silu: return x / (1.0f + __expf(-x));
        case Activation::gelu_erf: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
        case Activation::gelu_tanh: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
        case Activation::quick_gelu: return x / (1.0f + __expf(-1.702f * x));
        case Activation::relu: return x > 0 ? x : 0;
        case Activation::sigmoid: return 1.0f / (1.0f + __expf(-x));
        case Activation::tanh: return tanhf(x);
    }
    return x;
}

// A kernel has 48 KiB without asking, for what is launched with it and what it declares together. Those that are launched with some declare no more than this
// (tests/cuda/gates.sh), so that nobody has to look at each.
inline constexpr std::size_t shared_without_asking = 48 * 1024, most_declared_shared = 2048;

#if defined(SKIFF_EMULATED_GPU)
template <class Params>
int ask_shared(void (*kernel)(Params), std::size_t shared_bytes) {
    emulation::allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
    return cudaSuccess;
}
#else
template <class Params>
int ask_shared(void (*kernel)(Params), std::size_t shared_bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
}
#endif
template <class Params>
int allow_shared(void (*kernel)(Params), std::size_t shared_bytes) {
    return shared_bytes + most_declared_shared > shared_without_asking ? ask_shared(kernel, shared_bytes) : static_cast<int>(cudaSuccess);
}

// Shared memory that a block may have, in bytes.
inline std::size_t most_block_shared([[maybe_unused]] int arch) {
#if defined(SKIFF_EMULATED_GPU)
    return 97 * 1024;  // beside what kernels declare
#else
    return (arch == 80 || arch == 87 ? 163 : arch >= 90 && arch < 120 ? 227 : 99) * std::size_t{1024};
#endif
}

// What no GPU launches is refused here: a call of CUDA's that fails is an error to compute-sanitizer, whoever expects it.
inline bool grid_can_be(dim3 grid) { return grid.y <= 65535 && grid.z <= 65535; }

// Launches with the attribute that lets the kernel start while the one before ends.
#if defined(SKIFF_EMULATED_GPU)
template <class Params>
int launch_kernel(void (*kernel)(Params), dim3 grid, dim3 block, std::size_t shared_bytes, const Launch&, const Params& params) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
    if (!grid_can_be(grid)) return cudaErrorInvalidValue;
    if (const int error = allow_shared(kernel, shared_bytes)) return error;
    if (!emulation::can_launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, most_declared_shared)) return cudaErrorInvalidValue;
    emulation::run(grid, block, shared_bytes, [&] { kernel(params); });
    return 0;
}
template <class Params>
int blocks_per_sm(void (*)(Params), int, std::size_t shared_bytes) {
    return shared_bytes > 90 * 1024 ? 1 : 2;
}
#else
// Whether the code that runs waits for its predecessor. Where a GPU translates the PTX of an older one (compute_80), that code has no such instruction, and the attribute would let it read
// what is not written yet. All kernels are compiled for the same GPUs, so one is asked.
template <class Params>
bool waits_for_predecessor(void (*kernel)(Params)) {
    static const bool waits = [&] {
        cudaFuncAttributes attributes = {};
        return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
    }();
    return waits;
}
template <class Params>
int launch_kernel(void (*kernel)(Params), dim3 grid, dim3 block, std::size_t shared_bytes, const Launch& launch, const Params& params) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
    if (!grid_can_be(grid)) return cudaErrorInvalidValue;
    if (const int error = allow_shared(kernel, shared_bytes)) return error;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(launch.stream);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &attribute;
    config.numAttrs = launch.dependence == Dependence::programmatic && launch.arch >= 90 && waits_for_predecessor(kernel) ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, params);
}
// Blocks that an SM holds at once; at least 1.
template <class Params>
int blocks_per_sm(void (*kernel)(Params), int n_threads, std::size_t shared_bytes) {
    int resident = 0;
    if (allow_shared(kernel, shared_bytes) != cudaSuccess || cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, n_threads, shared_bytes) != cudaSuccess) return 1;
    return resident > 0 ? resident : 1;
}
#endif

}  // namespace skiff::cuda

// One kernel of CUTLASS for each kind of result and each of two tiles. They are those of sm_80 (mma.sync, cp.async), which every later GPU runs.
#include "kernels/cuda/cutlass_product.h"

#include <cutlass/gemm/device/gemm_universal_with_broadcast.h>

#include <limits>

#include "kernels/cuda/device.cuh"

namespace skiff::cuda {
namespace {

// The activation is an argument: as a type it would be a kernel for each.
struct Activate {
    static constexpr bool kIsHeavy = true;  // CUTLASS's word for: its loops around this are not unrolled
    struct Arguments {
        Activation kind = Activation::silu;
    };
    __device__ float operator()(float x, const Arguments& arguments) const { return activate(arguments.kind, x); }
};

using Rows = cutlass::layout::RowMajor;
using Turned = cutlass::layout::ColumnMajor;  // weight (n_rows, n_columns) as (n_columns, n_rows)
using Bf16 = cutlass::bfloat16_t;

// Out: what y is of. A residual is of the same type.
template <class Out, class Operation, class Block, class Warp, int stages>
using Product = cutlass::gemm::device::GemmUniversalWithBroadcast<
    Bf16, Rows, Bf16, Turned, Out, Rows, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, Block, Warp, cutlass::gemm::GemmShape<16, 8, 16>,
    cutlass::epilogue::thread::LinearCombinationBiasElementwise<Out, float, float, Out, Out, 16 / sizeof(Out), Operation, cutlass::plus<float>, false, float>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, stages, 8, 8>;

template <class Out, class Operation>
using LargeTiles = Product<Out, Operation, cutlass::gemm::GemmShape<128, 128, 32>, cutlass::gemm::GemmShape<64, 64, 32>, 4>;  // 64 KiB of shared memory
template <class Out, class Operation>
using SmallTiles = Product<Out, Operation, cutlass::gemm::GemmShape<64, 64, 64>, cutlass::gemm::GemmShape<32, 32, 64>, 3>;    // 48 KiB

template <class Gemm>
int run(const CutlassProductArgs& args, void* y, std::int64_t y_stride, const typename Gemm::EpilogueOutputOp::Params& epilogue, const Launch& launch) {
    const cutlass::gemm::GemmCoord shape(static_cast<int>(args.n_tokens), static_cast<int>(args.n_rows), static_cast<int>(args.n_columns));
    auto* const bias = const_cast<float*>(args.bias);
    const typename Gemm::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm, shape, 1, epilogue, args.x, args.weight, y, y, bias, nullptr, 0, 0, 0, 0, 0, 0,
                                             args.x_stride, args.weight_stride, y_stride, y_stride, 0, 0);  // the bias is one row for all tokens
    if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess) return static_cast<int>(cudaErrorInvalidValue);
    Gemm gemm;
    if (gemm(arguments, nullptr, static_cast<cudaStream_t>(launch.stream)) == cutlass::Status::kSuccess) return 0;
    const cudaError_t error = cudaGetLastError();
    return static_cast<int>(error != cudaSuccess ? error : cudaErrorLaunchFailure);
}

// Large tiles where there is one for each multiprocessor.
template <class Out, class Operation, class Params>
int run_in_tiles(const CutlassProductArgs& args, void* y, std::int64_t y_stride, const Params& params, const Launch& launch) {
    const std::int64_t n_large = (args.n_tokens + 127) / 128 * ((args.n_rows + 127) / 128);
    return n_large >= launch.n_sms ? run<LargeTiles<Out, Operation>>(args, y, y_stride, params, launch) : run<SmallTiles<Out, Operation>>(args, y, y_stride, params, launch);
}

bool is_aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; }

}  // namespace

int launch_cutlass_product(const CutlassProductArgs& args, const Launch& launch) {
    constexpr std::int64_t most = std::numeric_limits<int>::max();
    const bool activates = args.write == CutlassProductArgs::Write::activate;
    void* const y = activates ? static_cast<void*>(static_cast<std::uint16_t*>(args.operand.data) + args.first_row) : args.y;
    const std::int64_t y_stride = activates ? args.operand.n_columns : args.y_stride, of_16_bytes = activates ? 8 : 4;
    if (args.n_tokens < 1 || args.n_rows < 1 || args.n_columns < 1 || args.n_tokens > most || args.n_rows > most || args.n_columns > most) return static_cast<int>(cudaErrorInvalidValue);
    if (args.n_columns % 8 != 0 || args.weight_stride % 8 != 0 || args.x_stride % 8 != 0 || args.n_rows % of_16_bytes != 0 || y_stride % of_16_bytes != 0) return static_cast<int>(cudaErrorInvalidValue);
    if ((activates ? args.operand.data : args.y) == nullptr || (activates && args.operand.form != OperandForm::rows)) return static_cast<int>(cudaErrorInvalidValue);
    if (!is_aligned(args.weight) || !is_aligned(args.x) || !is_aligned(y) || !is_aligned(args.bias)) return static_cast<int>(cudaErrorInvalidValue);
    if (activates) {
        using Params = LargeTiles<Bf16, Activate>::EpilogueOutputOp::Params;
        return run_in_tiles<Bf16, Activate>(args, y, y_stride, Params(args.factor, 0.0f, {args.activation}), launch);
    }
    using Identity = cutlass::epilogue::thread::Identity<float>;
    using Params = LargeTiles<float, Identity>::EpilogueOutputOp::Params;
    return run_in_tiles<float, Identity>(args, y, y_stride, Params(args.factor, args.write == CutlassProductArgs::Write::add ? 1.0f : 0.0f), launch);
}

}  // namespace skiff::cuda

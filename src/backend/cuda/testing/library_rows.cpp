// The rows of cuDNN on the devices that are none: the graphs that a real device would get, by a library of that interface (fake_cudnn.cpp), when their turn in the stream comes.
#include "backend/cuda/cudnn/rows.h"

#include "backend/cuda/testing/fake_kernels.h"

namespace skiff::cuda::fake {
namespace {

int sequence_attention(const SequenceAttentionArgs& args, const Launch& launch) {
    const auto rows = static_cast<std::size_t>(args.n_rows * args.n_heads * args.state.head_dim) * 2;
    const std::size_t pool = static_cast<std::size_t>(args.n_pool_pages) * state_page_bytes(StateForm::bf16, args.state.n_kv_heads, args.state.head_dim);
    if (args.state.form != StateForm::bf16 || !here(args.q, rows) || !here(args.y, rows) || !here(args.state.keys, pool) || !here(args.state.values, pool) || args.n_pages > args.state.max_pages ||
        !here(args.state.page_table + args.sequence * args.state.max_pages, static_cast<std::size_t>(args.n_pages) * 4) || !here(args.n_tokens, 4) || !here(args.n_positions, 4) ||
        !here(args.workspace, args.workspace_bytes))
        return bad_value;
    return put(launch.stream, [args, launch]() -> int { return cudnn::attend(args, launch); });
}

int convolution(const ConvolutionArgs& args, const Launch& launch) {
    const std::int64_t n_weights = args.out_channels * args.kernel[0] * args.kernel[1] * args.channels / args.groups;
    if (!floats(args.x, args.n_images * args.height * args.width * args.channels) || !floats(args.weight, n_weights) || !floats(args.bias, args.out_channels) ||
        !floats(args.y, args.n_images * args.out_height * args.out_width * args.out_channels) || args.x == nullptr || args.weight == nullptr || args.y == nullptr || !here(args.workspace, args.workspace_bytes))
        return bad_value;
    return put(launch.stream, [args, launch]() -> int { return cudnn::convolve(args, launch); });
}

}  // namespace

void add_cudnn(Table& table) {
    table.open_cudnn = cudnn::open;
    table.prepare_sequence_attention = cudnn::prepare;
    table.sequence_attention = sequence_attention;
    table.prepare_convolution = cudnn::prepare;
    table.convolution = convolution;
}

}  // namespace skiff::cuda::fake

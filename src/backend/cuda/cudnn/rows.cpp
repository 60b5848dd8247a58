#include "backend/cuda/cudnn/rows.h"

#include <map>
#include <mutex>

#include "backend/cuda/cudnn/attention.h"
#include "backend/cuda/cudnn/convolution.h"

namespace skiff::cuda::cudnn {
namespace {

std::mutex lock;
// Never destroyed: when the program ends, the device may be gone before.
std::unique_ptr<Library>& library = *new std::unique_ptr<Library>();
thread_local std::string last_text;
constexpr std::size_t most_plans = 1024;  // prompts come in many lengths, though in few sizes of memory

int failed(Code status) {
    if (status == success) return 0;
    last_text = "cuDNN " + library->text(status);
    return errors + status;
}

// A plan, and the numbers of its tensors: those of memory without the addresses. A shape that the library refuses is asked for once.
template <class Numbers>
struct Kept {
    Numbers numbers;
    std::unique_ptr<Plan> plan;
    Code why = success;
    std::string text;
};
struct AttentionNumbers {
    int q, keys, values, key_pages, value_pages, n_tokens, n_positions, y, stats;
};
struct ConvolutionNumbers {
    int x, w, bias, y;
};
using Attentions = std::map<std::pair<AttentionShape, std::size_t>, Kept<AttentionNumbers>>;  // and the most workspace
using Convolutions = std::map<std::pair<ConvolutionShape, std::size_t>, Kept<ConvolutionNumbers>>;
Attentions& attentions = *new Attentions();
Convolutions& convolutions = *new Convolutions();

template <class Plans, class Shape, class Make>
int find(Plans& plans, const Shape& shape, std::size_t workspace_bytes, const Make& make, const typename Plans::mapped_type*& found) {
    if (library == nullptr || library->handle() == nullptr) return not_opened;
    const auto key = std::make_pair(shape, workspace_bytes);
    auto at = plans.find(key);
    if (at == plans.end()) {
        if (plans.size() >= most_plans) plans.clear();
        typename Plans::mapped_type kept;
        auto made = make();
        kept.numbers = made.second;
        kept.why = make_plan(*library, std::move(made.first), {library->handle(), nullptr}, workspace_bytes, kept.plan);
        if (kept.why != success) kept.text = "cuDNN " + library->text(kept.why);
        at = plans.emplace(key, std::move(kept)).first;
    }
    found = &at->second;
    if (found->why == success) return 0;
    last_text = found->text;
    return errors + found->why;
}

AttentionShape shape_of(const SequenceAttentionArgs& args) {
    AttentionShape shape;
    shape.n_heads = args.n_heads;
    shape.n_kv_heads = args.state.n_kv_heads;
    shape.head_dim = args.state.head_dim;
    shape.n_rows = args.n_rows;
    shape.n_pages = args.n_pages;
    shape.n_pool_pages = args.n_pool_pages;
    shape.page_positions = page_positions;
    shape.page_stride = static_cast<std::int64_t>(state_page_bytes(StateForm::bf16, args.state.n_kv_heads, args.state.head_dim) / 2);
    shape.scale = args.scale;
    shape.softcap = args.softcap;
    shape.window = args.window;
    return shape;
}
// The row sums take the workspace's end: what is left for a plan.
std::size_t plan_workspace(const SequenceAttentionArgs& args, const AttentionShape& shape) {
    const std::size_t stats_bytes = attention_stats_bytes(shape);
    return stats_bytes > args.workspace_bytes ? 0 : (args.workspace_bytes - stats_bytes) / 256 * 256;
}
int find(const SequenceAttentionArgs& args, const Kept<AttentionNumbers>*& found) {
    const AttentionShape shape = shape_of(args);
    if (attention_stats_bytes(shape) > args.workspace_bytes) {
        last_text = "cuDNN: the workspace does not hold the row sums";
        return errors + no_plan;
    }
    return find(attentions, shape, plan_workspace(args, shape), [&] {
        AttentionGraph made = attention_graph(*library, shape);
        const AttentionNumbers numbers = {made.q, made.keys, made.values, made.key_pages, made.value_pages, made.n_tokens, made.n_positions, made.y, made.stats};
        return std::make_pair(std::move(made.graph), numbers);
    }, found);
}

ConvolutionThen then_of(const ConvolutionArgs& args) {
    if (args.then == ConvolutionArgs::Then::nothing) return ConvolutionThen::nothing;
    switch (args.activation) {
        case Activation::silu: return ConvolutionThen::swish;
        case Activation::gelu_erf: return ConvolutionThen::gelu_erf;
        case Activation::gelu_tanh: return ConvolutionThen::gelu_tanh;
        case Activation::quick_gelu: return ConvolutionThen::swish_1702;
        case Activation::relu: return ConvolutionThen::relu;
        case Activation::sigmoid: return ConvolutionThen::sigmoid;
        case Activation::tanh: return ConvolutionThen::tanh;
    }
    return ConvolutionThen::nothing;
}

int find(const ConvolutionArgs& args, const Kept<ConvolutionNumbers>*& found) {
    ConvolutionShape shape;
    shape.n_images = args.n_images;
    shape.height = args.height, shape.width = args.width, shape.channels = args.channels;
    shape.out_height = args.out_height, shape.out_width = args.out_width, shape.out_channels = args.out_channels;
    shape.groups = args.groups;
    for (int i : {0, 1}) {
        shape.kernel[i] = args.kernel[i];
        shape.stride[i] = args.stride[i];
        shape.dilation[i] = args.dilation[i];
        shape.before[i] = args.before[i];
        shape.after[i] = args.after[i];
    }
    shape.bias = args.bias != nullptr ? ConvolutionShape::Bias::yes : ConvolutionShape::Bias::no;
    shape.then = then_of(args);
    return find(convolutions, shape, args.workspace_bytes, [&] {
        ConvolutionGraph made = convolution_graph(*library, shape);
        const ConvolutionNumbers numbers = {made.x, made.w, made.bias, made.y};
        return std::make_pair(std::move(made.graph), numbers);
    }, found);
}

void* address(const void* constant) { return const_cast<void*>(constant); }

}  // namespace

// Opened once for each path, for the device that is chosen then. Plans of another library go.
int open(const char* path) {
    const std::lock_guard held(lock);
    static std::string opened;
    if (library == nullptr || opened != path) {
        std::unique_ptr<Library> found = Library::open(path);
        if (found == nullptr) return not_opened;
        attentions.clear();
        convolutions.clear();
        library = std::move(found);
        opened = path;
    }
    return failed(library->make_handle());
}

int prepare(const SequenceAttentionArgs& args) {
    const std::lock_guard held(lock);
    const Kept<AttentionNumbers>* kept = nullptr;
    return find(args, kept);
}

int attend(const SequenceAttentionArgs& args, const Launch& launch) {
    const std::lock_guard held(lock);
    const Kept<AttentionNumbers>* kept = nullptr;
    if (const int error = find(args, kept); error != 0) return error;
    const AttentionNumbers& n = kept->numbers;
    void* stats = static_cast<std::byte*>(args.workspace) + plan_workspace(args, shape_of(args));
    const std::int32_t* pages = args.state.page_table + args.sequence * args.state.max_pages;
    return failed(kept->plan->execute(launch.stream,
                                      {{n.q, address(args.q)}, {n.keys, args.state.keys}, {n.values, args.state.values}, {n.key_pages, address(pages)}, {n.value_pages, address(pages)},
                                       {n.n_tokens, address(args.n_tokens)}, {n.n_positions, address(args.n_positions)}, {n.y, args.y}, {n.stats, stats}},
                                      args.workspace));
}

int prepare(const ConvolutionArgs& args) {
    const std::lock_guard held(lock);
    const Kept<ConvolutionNumbers>* kept = nullptr;
    return find(args, kept);
}

int convolve(const ConvolutionArgs& args, const Launch& launch) {
    const std::lock_guard held(lock);
    const Kept<ConvolutionNumbers>* kept = nullptr;
    if (const int error = find(args, kept); error != 0) return error;
    const ConvolutionNumbers& n = kept->numbers;
    std::vector<std::pair<int, void*>> tensors = {{n.x, address(args.x)}, {n.w, address(args.weight)}, {n.y, args.y}};
    if (n.bias >= 0) tensors.emplace_back(n.bias, address(args.bias));
    return failed(kept->plan->execute(launch.stream, tensors, args.workspace));
}

const char* error_text(int error) {
    if (error == not_opened) return "cuDNN cannot be opened, or lacks a function";
    return error >= errors && error < not_opened ? last_text.c_str() : nullptr;
}

}  // namespace skiff::cuda::cudnn

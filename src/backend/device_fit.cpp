#include "backend/device_fit.h"

#include <algorithm>
#include <numeric>

#include "base/progress.h"

namespace skiff {
namespace {

struct Taken {
    double bytes = 0, weight_bytes = 0;
};

// A session over some blocks, made for its size and thrown away.
Result<Taken> taken_by(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, cuda::DeviceSessionOptions options, std::size_t first, std::size_t last) {
    options.first_block = first;
    options.last_block = last;
    options.progress = nullptr;
    if (options.matmul == cuda::Matmul::fp8) {  // takes as much, and not every stretch has 8-bit floats
        options.matmul = cuda::Matmul::cublaslt;
        options.library = cuda::DeviceSessionOptions::Library::may;
    }
    SKIFF_TRY(const auto session, cuda::DeviceSession::create(table, spec, weights, options));
    return Taken{static_cast<double>(session->device_bytes()), static_cast<double>(session->plan().weight_bytes)};
}

double parameters_of(const ModelSpec& spec, const Block& block) {
    double total = 1;
    for (const Op& op : block.ops)
        if (std::holds_alternative<LinearOp>(op.detail)) total += static_cast<double>(spec.width(op.in[0])) * static_cast<double>(spec.width(op.out));
    return total;
}

// Whether all matrices of the head are the embedding's.
bool shares_table(const ModelSpec& spec) {
    const auto embedded = [&](const TensorRef& ref) {
        return std::any_of(spec.blocks.front().ops.begin(), spec.blocks.front().ops.end(), [&](const Op& op) {
            const auto* embed = std::get_if<EmbedOp>(&op.detail);
            return embed != nullptr && embed->table.key == ref.key;
        });
    };
    bool any = false;
    for (const Op& op : spec.blocks.back().ops)
        if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
            any = true;
            for (const LinearTerm& term : linear->terms)
                if (!embedded(term.weight)) return false;
        }
    return any;
}

constexpr double never = 1e30;  // more than there is

}  // namespace

std::int64_t n_layers_of(const ModelSpec& spec) { return std::max<std::int64_t>(0, static_cast<std::int64_t>(spec.blocks.size()) - 2); }

Result<DeviceNeeds> device_needs(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options) {
    const auto n_layers = static_cast<std::size_t>(n_layers_of(spec));
    DeviceNeeds needs;
    {
        SKIFF_TRY(const auto device, cuda::Device::open(table));
        SKIFF_TRY(const std::uint64_t free_bytes, device->free_bytes());
        // Kernels are loaded when they are first launched, and cuBLASLt takes some for itself.
        needs.available = static_cast<double>(free_bytes) - std::min<double>(512 << 20, static_cast<double>(free_bytes) / 16);
    }
    const auto measured = [&](std::size_t first, std::size_t last) -> Result<Taken> {
        auto taken = taken_by(table, spec, weights, options, first, last);
        if (!taken.ok() && taken.error().code == ErrorCode::resource && !cuda::lacks_host_memory(taken.error())) return Taken{never, 0};
        return taken;
    };
    needs.weights.assign(n_layers, never);
    SKIFF_TRY(const Taken one, measured(0, 1));
    needs.base = one.bytes;
    if (one.bytes > needs.available) return needs;
    needs.weights[0] = 0;  // its own are in the base, until two layers tell what a layer takes
    SKIFF_TRY(const Taken two, measured(0, 2));
    if (two.bytes > needs.available) return needs;
    const double of_layer = two.weight_bytes - one.weight_bytes, of_second = parameters_of(spec, spec.blocks[2]);
    needs.state_of_layer = std::max(0.0, two.bytes - one.bytes - of_layer);
    for (std::size_t layer = 0; layer < n_layers; ++layer) needs.weights[layer] = of_layer * parameters_of(spec, spec.blocks[layer + 1]) / of_second;
    needs.base = two.bytes - 2 * needs.state_of_layer - needs.weights[0] - needs.weights[1];
    SKIFF_TRY(const Taken head, measured(n_layers + 1, n_layers + 1));
    // A head that reads the embedding's table takes no memory for it.
    needs.head = head.bytes - (shares_table(spec) && head.bytes < never ? head.weight_bytes : 0);
    return needs;
}

std::size_t last_block_that_fits(const DeviceNeeds& needs) {
    double total = needs.base;
    for (std::size_t layer = 0; layer < needs.weights.size(); ++layer) {
        total += needs.state_of_layer + needs.weights[layer];
        if (total > needs.available) return layer;
    }
    return needs.weights.size() + (total + needs.head > needs.available ? 0 : 1);
}

std::size_t first_streamed_block(const DeviceNeeds& needs) {
    const std::size_t n_layers = needs.weights.size();
    const double largest = *std::max_element(needs.weights.begin(), needs.weights.end());
    double total = needs.base + needs.head + static_cast<double>(n_layers) * needs.state_of_layer + 2 * largest;
    if (total > needs.available) return 0;
    for (std::size_t layer = 0; layer < n_layers; ++layer) {
        total += needs.weights[layer];
        if (total > needs.available) return layer + 1;
    }
    return n_layers;  // all but one would fit beside the buffers
}

Result<LayerSpeeds> layer_speeds(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options, const PlanOptions& processor) {
    LayerSpeeds speeds;
    {
        cuda::DeviceSessionOptions one = options;
        one.first_block = 0;
        one.last_block = one.stream_from = 1;
        one.progress = nullptr;
        SKIFF_TRY(const auto session, cuda::DeviceSession::create(table, spec, weights, one));
        SKIFF_TRY(const double per_byte, session->seconds_per_streamed_byte());
        speeds.copy = per_byte;
    }
    PlanOptions plan_options = processor;
    plan_options.first_block = plan_options.last_block = 1;
    plan_options.pack_cache = {};
    plan_options.weight_pages = WeightPages::mapped;
    plan_options.progress = nullptr;
    SKIFF_TRY(const auto plan, lower(spec, weights, plan_options));
    constexpr std::int64_t prompt = 256;
    const SessionOptions small = {.n_threads = options.session.n_threads, .n_context = prompt + 8, .max_batch = prompt};
    SKIFF_TRY(const auto session, Session::create(plan, small));
    const std::int64_t n = std::min(prompt, session->state().capacity() - 4);
    const auto width = static_cast<std::size_t>(plan->input_width);
    const std::vector<float> hidden(static_cast<std::size_t>(n) * width, 0.01f);
    std::vector<float> output;
    for (int pass = 0; pass < 2; ++pass) {  // the first one warms up
        SKIFF_CHECK(session->state().truncate(0, 0));
        double begin = monotonic_seconds();
        SKIFF_CHECK(session->forward_hidden(0, hidden, output));
        speeds.prompt_token = (monotonic_seconds() - begin) / static_cast<double>(n);
        for (int token = 0; token < 3; ++token) {
            begin = monotonic_seconds();
            SKIFF_CHECK(session->forward_hidden(0, std::span(hidden).first(width), output));
            const double seconds = monotonic_seconds() - begin;
            speeds.token = token == 0 ? seconds : std::min(speeds.token, seconds);
        }
    }
    return speeds;
}

OffloadCost offload_cost(const DeviceNeeds& needs, const LayerSpeeds& speeds, std::size_t last, std::size_t first_streamed, std::int64_t max_batch) {
    constexpr double n_prompt = 512, n_answer = 128;
    const auto sum_from = [&](std::size_t layer) { return std::accumulate(needs.weights.begin() + static_cast<std::ptrdiff_t>(std::min(layer, needs.weights.size())), needs.weights.end(), 0.0); };
    // In layers as the second one; the head is the processor's, too, for tokens that are wanted.
    const double of_layer = std::max(1.0, needs.weights[needs.weights.size() > 1 ? 1 : 0]), n_layers = sum_from(last) / of_layer, n_heads = needs.head / of_layer;
    const double n_runs = static_cast<double>((static_cast<std::int64_t>(n_prompt) + max_batch - 1) / max_batch) + n_answer;
    OffloadCost cost;
    cost.processor = n_layers * (n_prompt * speeds.prompt_token + n_answer * speeds.token) + n_heads * n_answer * speeds.token;
    cost.stream = n_runs * sum_from(first_streamed - 1) * speeds.copy;
    return cost;
}

}  // namespace skiff

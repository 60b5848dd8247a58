#include "backend/device_fit.h"

#include <algorithm>

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
    SKIFF_TRY(const auto session, cuda::DeviceSession::create(table, spec, weights, options));
    return Taken{static_cast<double>(session->device_bytes()), static_cast<double>(session->plan().weight_bytes)};
}

double parameters_of(const ModelSpec& spec, const Block& block) {
    double total = 1;
    for (const Op& op : block.ops)
        if (std::holds_alternative<LinearOp>(op.detail)) total += static_cast<double>(spec.width(op.in[0])) * static_cast<double>(spec.width(op.out));
    return total;
}

}  // namespace

std::int64_t n_layers_of(const ModelSpec& spec) { return std::max<std::int64_t>(0, static_cast<std::int64_t>(spec.blocks.size()) - 2); }

Result<std::size_t> last_block_that_fits(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options) {
    const auto n_layers = static_cast<std::size_t>(n_layers_of(spec));
    if (n_layers < 3) return n_layers + 1;  // trying costs no more than measuring
    double available = 0;
    {
        SKIFF_TRY(const auto device, cuda::Device::open(table));
        SKIFF_TRY(const std::uint64_t free_bytes, device->free_bytes());
        // Kernels are loaded when they are first launched, and cuBLASLt takes some for itself.
        available = static_cast<double>(free_bytes) - std::min<double>(512 << 20, static_cast<double>(free_bytes) / 16);
    }
    const auto measured = [&](std::size_t first, std::size_t last) -> Result<Taken> {
        auto taken = taken_by(table, spec, weights, options, first, last);
        if (!taken.ok() && taken.error().code == ErrorCode::resource) return Taken{1e30, 0};  // more than there is
        return taken;
    };
    SKIFF_TRY(const Taken one, measured(0, 1));
    if (one.bytes > available) return std::size_t{0};
    SKIFF_TRY(const Taken two, measured(0, 2));
    if (two.bytes > available) return std::size_t{1};
    const double weights_of_layer = two.weight_bytes - one.weight_bytes, state_of_layer = std::max(0.0, two.bytes - one.bytes - weights_of_layer), of_second = parameters_of(spec, spec.blocks[2]);
    double total = two.bytes;
    for (std::size_t block = 3; block <= n_layers; ++block) {
        total += state_of_layer + weights_of_layer * parameters_of(spec, spec.blocks[block]) / of_second;
        if (total > available) return block - 1;
    }
    SKIFF_TRY(const Taken head, measured(n_layers + 1, n_layers + 1));
    return total + head.bytes > available ? n_layers : n_layers + 1;
}

}  // namespace skiff

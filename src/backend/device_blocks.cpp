#include "backend/device_blocks.h"

#include <algorithm>

#include "backend/cuda/device_session.h"
#include "backend/cuda/library.h"
#include "backend/device_options.h"

namespace skiff {
namespace {

constexpr std::int64_t run_tokens = 2048;  // longer runs are no faster, and take more memory

class DeviceBlocks final : public BlockRunner {
public:
    DeviceBlocks(const cuda::Table& table, cuda::DeviceSessionOptions options, std::string where) : table_(table), options_(std::move(options)), where_(std::move(where)) {}

    // Operators as the model has them, so that every value is there to be looked at; nothing is run often enough for a graph.
    Result<std::unique_ptr<Session>> open(const ModelSpec& spec, const WeightSource& weights, const BlockRun& run) override {
        cuda::DeviceSessionOptions options = options_;
        options.first_block = options.last_block = run.block;
        options.taps = run.taps;
        options.fuse = cuda::DeviceModelOptions::Fuse::off;
        options.graphs = cuda::DeviceSessionOptions::Graphs::off;
        options.session = {.n_threads = run.n_threads, .n_context = run.n_tokens, .max_batch = std::min(run.n_tokens, run_tokens)};
        SKIFF_TRY(auto session, cuda::DeviceSession::create(table_, spec, weights, options));
        return std::unique_ptr<Session>(std::move(session));
    }
    std::int64_t most_tokens() const override { return run_tokens; }
    std::string where() const override { return where_; }

private:
    const cuda::Table& table_;
    cuda::DeviceSessionOptions options_;
    std::string where_;
};

}  // namespace

Result<std::unique_ptr<BlockRunner>> make_device_blocks(const cuda::Table& table, const DeviceChoice& choice) {
    DeviceRequest request;
    request.choice = choice;
    SKIFF_TRY(auto options, device_options_of(request));
    SKIFF_TRY(const auto device, cuda::Device::open(table));
    return std::unique_ptr<BlockRunner>(std::make_unique<DeviceBlocks>(table, std::move(options), std::string(table.name) + " " + device->facts().name));
}

Result<std::unique_ptr<BlockRunner>> make_device_blocks(const DeviceChoice& choice) {
    auto plug_in = cuda::open_plug_in();
    if (!plug_in.ok()) return plug_in.take_error().with_context("--device cuda");
    auto blocks = make_device_blocks(*plug_in->table, choice);
    if (!blocks.ok()) return device_error(blocks.take_error());
    return blocks;
}

}  // namespace skiff

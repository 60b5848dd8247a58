// A Session whose layers run on a device: the same calls as on the processor. Programs are laid out per number of tokens (emit.h) and kept; those of decoding
// are captured into CUDA graphs and launched again. Nothing waits for the device until somebody asks for logits.
#pragma once

#include <memory>
#include <string>

#include "backend/cuda/emit.h"
#include "backend/cuda/page_table.h"
#include "plan/session.h"

namespace skiff::cuda {

struct DeviceSessionOptions {
    SessionOptions session;
    bool state_fp8 = false;  // keys and values as e4m3, which the processor's state does not have
    enum class Graphs : std::uint8_t { on, off } graphs = Graphs::on;
    DeviceModelOptions::Fuse fuse = DeviceModelOptions::Fuse::on;
    Matmul matmul = Matmul::own;
    std::string cublaslt;    // its path, of Matmul::cublaslt and fp8
    PromptAttention attention = PromptAttention::own;  // cudnn: of prompts, where it has a plan for them; else the own kernels, and a remark
    std::string cudnn;       // its path, of PromptAttention::cudnn
    enum class Library : std::uint8_t { may, must } library = Library::may;  // must: an error where `matmul` cannot be; may: the own kernels then
    Dependence dependence = Dependence::programmatic;
    enum class Feed : std::uint8_t { device, host } feed = Feed::device;  // device: where somebody wants it (Session::self_feeder), chosen tokens are fed there
    std::size_t first_block = 0, last_block = SIZE_MAX;
    std::size_t stream_from = SIZE_MAX;  // DeviceModelOptions
    std::vector<std::string> taps = {};  // values that each run keeps for tap() and tap_sums(); with Fuse::off
    std::string remark;                  // told with the session's own
    ProgressSink progress;
};

class DeviceSession : public Session {
public:
    static Result<std::unique_ptr<DeviceSession>> create(const Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceSessionOptions& options);

    // Launches of one token, by operator: what --fuse and docs/fusion.md count.
    virtual std::vector<std::pair<std::string, std::string>> decode_launches() = 0;  // (operators, kernel)
    virtual std::uint64_t device_bytes() const = 0;  // that it has allocated there
    virtual Result<double> seconds_per_streamed_byte() = 0;  // of weights that are copied there when they are used
};

}  // namespace skiff::cuda

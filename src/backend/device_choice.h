// Where a model runs, as the command line says it, and the session that follows: on a device, or on a device and the processor (split_session.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/progress.h"
#include "model/spec.h"
#include "model/weight_source.h"
#include "plan/fuse_set.h"
#include "plan/session.h"

namespace skiff {

struct DeviceChoice {
    enum class Kind : std::uint8_t { cpu, cuda, automatic } kind = Kind::cpu;  // automatic: CUDA where there is a device that has the model's operators and room for it
    bool state_fp8 = false;  // keys and values as 8-bit floats, which only the device has
    enum class Graphs : std::uint8_t { on, off } graphs = Graphs::on;
    enum class Gemm : std::uint8_t { automatic, own, cublaslt, fp8, cutlass } gemm = Gemm::automatic;  // of long prompts; automatic: cuBLASLt where it is found and works; fp8: it, with inputs of e4m3 weights as e4m3
    enum class Attention : std::uint8_t { own, cudnn } attention = Attention::own;  // to long prompts; cudnn: where it is found and has a plan for them
    enum class Overlap : std::uint8_t { on, off } overlap = Overlap::on;  // kernels begin while the one before ends (sm_90 and later)
    enum class Feed : std::uint8_t { device, host } feed = Feed::device;  // of chosen tokens; host: each goes through it
    std::optional<std::int64_t> n_layers = {};  // that the device has; the last ones and the head are the processor's
    // Of layers that the device does not keep. processor: they run there. stream: their weights are copied to the device when they are used. automatic: with `fit` what is faster by a
    // measurement, else the processor
    enum class Offload : std::uint8_t { automatic, processor, stream } offload = Offload::automatic;
    enum class Fit : std::uint8_t { all, what_fits } fit = Fit::all;  // what_fits: as many layers as its free memory has room for
};

struct DeviceRequest {
    DeviceChoice choice;
    SessionOptions session;
    FuseSet fuse = FuseSet::all();
    ProgressSink progress;
    PlanOptions processor;  // of the layers that stay there
};
// Errors say what is missing.
Result<std::unique_ptr<Session>> make_device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request);
namespace cuda {
struct Table;
}
// The same by a plug-in that is open.
Result<std::unique_ptr<Session>> make_device_session(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request);

}  // namespace skiff

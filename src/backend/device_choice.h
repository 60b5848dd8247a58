// Where a model runs, as the command line says it, and the session that follows.
#pragma once

#include <memory>
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
    enum class Gemm : std::uint8_t { automatic, own, cublaslt } gemm = Gemm::automatic;  // of long prompts; automatic: cuBLASLt where it is found and works
    enum class Overlap : std::uint8_t { on, off } overlap = Overlap::off;  // kernels begin while the one before ends (sm_90 and later)
};

struct DeviceRequest {
    DeviceChoice choice;
    SessionOptions session;
    FuseSet fuse = FuseSet::all();
    ProgressSink progress;
};
// On the device. Errors say what is missing.
Result<std::unique_ptr<Session>> make_device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request);

}  // namespace skiff

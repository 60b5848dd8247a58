#include "compress/calibrate/gradients.h"

namespace skiff {

Status check_gradients(const GradientSource* source, const std::string& what) {
    if (source != nullptr) return {};
    return unsupported(what + " needs the gradients of the loss, which training computes, and this program was built without LibTorch; install libtorch-dev (make test does) and build again, or choose another");
}

std::uint64_t gradient_memory_bytes(const ModelSpec& spec, const CalibrationText& text) {
    constexpr std::uint64_t library_bytes = std::uint64_t{192} << 20;  // LibTorch itself
    std::uint64_t floats = 2 * static_cast<std::uint64_t>(spec.n_parameters());
    for (std::size_t id = 0; id < spec.values.size(); ++id) floats += static_cast<std::uint64_t>(spec.width(static_cast<ValueId>(id)) * text.longest());
    return floats * sizeof(float) + library_bytes;
}

// A pass back is two forward.
double gradient_seconds(const ModelSpec& spec, const CalibrationText& text) {
    constexpr double multiply_adds_per_second = 4e10;
    return 3 * static_cast<double>(spec.n_parameters()) * static_cast<double>(text.n_tokens()) / multiply_adds_per_second;
}

}  // namespace skiff

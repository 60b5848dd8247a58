// What a measurement on one kind of device found (bench/gpu/cuda_sweep tune): choices of its kernels that change the speed and no bit of a sum. A file for each name of a device.
//
// Not among them, since sums would be added in another order and tokens could turn: how columns are cut among the warps of a GEMV, among the blocks of a GEMM (its splits), positions among
// the blocks of attention (its splits), tiles of GEMM and of prefill attention, from how many tokens on cuBLASLt multiplies. Those follow from shapes alone (kernels/cuda/tuning.h).
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "kernels/cuda/launch.h"

namespace skiff::cuda {

std::string_view code_form_name(CodeForm form);  // "bf16", "linear4"

Json tuning_json(const Tuning& tuning, const std::string& device);
// Names that are not known, and numbers that no device has, are errors: a table of another version is none.
Result<Tuning> read_tuning(const Json& json);

std::string tuning_file_name(const std::string& device);  // "gpu-nvidia-h200-tuning.json"
// $SKIFF_CUDA_TUNING names a file or, empty, none; else in the plug-in's folder, and in the bench/results of an archive or a checkout that it lies in. "": there is none.
std::string find_tuning(const std::string& plug_in_folder, const std::string& device);
// Of a file. Errors name it.
Result<Tuning> load_tuning(const std::string& path);

}  // namespace skiff::cuda

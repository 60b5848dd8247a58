// Single blocks of a model on a device, for a calibration (plan/block_runner.h).
#pragma once

#include "backend/device_choice.h"
#include "plan/block_runner.h"

namespace skiff {

// By the plug-in that is found. Errors say what is missing.
Result<std::unique_ptr<BlockRunner>> make_device_blocks(const DeviceChoice& choice);
// By one that is open.
Result<std::unique_ptr<BlockRunner>> make_device_blocks(const cuda::Table& table, const DeviceChoice& choice);

}  // namespace skiff

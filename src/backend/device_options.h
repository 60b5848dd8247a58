// From what was asked of a device to the options of its sessions; and its errors, with what the driver says.
#pragma once

#include "backend/cuda/device_session.h"
#include "backend/device_choice.h"

namespace skiff {

Result<cuda::DeviceSessionOptions> device_options_of(const DeviceRequest& request);
Error device_error(Error error);

}  // namespace skiff

// What Gemma 2 and Gemma 3 share.
#pragma once

#include "model/arch/families.h"

namespace skiff {

// Llama with norms behind the halves too, norm weights stored as w - 1, an embedding scaled by sqrt(d_model), its own attention scale,
// tanh GELU and a tied head. Without rope and windows.
DecoderFamily read_gemma_family(HfConfig& config);

}  // namespace skiff

#include "formats/gguf.h"
#include "model/checkpoint.h"

namespace skiff {

Result<Checkpoint> open_gguf_checkpoint(const std::string& path) { return unsupported(path + ": GGUF checkpoints are not read yet"); }

}  // namespace skiff

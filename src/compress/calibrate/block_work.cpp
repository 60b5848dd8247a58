#include "compress/calibrate/block_work.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

std::string states_path(const std::string& folder, std::size_t next) { return join_path(folder, "journal.hidden." + std::to_string(next)); }

}  // namespace

Status BlockWork::enter(std::size_t block) {
    inputs_.clear();
    if (!is_decoder_block(block)) return {};
    SKIFF_TRY(inputs_, walk_.observe(block, walk_.last_sharing(block), weights_, need_));
    return {};
}

const InputStatistics* BlockWork::inputs(const std::string& key) const {
    const auto found = inputs_.find(key);
    return found == inputs_.end() ? nullptr : found->second.get();
}

void BlockWork::replace(const std::string& key, const Weight& result, ThreadPool& pool) {
    const bool is_number = result.plain() == nullptr || dtype_info(result.plain()->dtype).is_float;
    if (is_number && !result.shape.empty()) weights_.replace(key, as_floats(result, pool));
}

Status BlockWork::leave(std::size_t block, std::size_t next) {
    if (block == 0) SKIFF_CHECK(walk_.embed(weights_));
    for (std::size_t at = block; at < std::max(next, block + 1); ++at)
        if (is_decoder_block(at)) SKIFF_CHECK(walk_.advance(at, weights_));
    weights_.clear();
    return {};
}

Status BlockWork::save(const std::string& folder, std::size_t next) const { return walk_.save(states_path(folder, next)); }

Status BlockWork::forget(const std::string& folder, std::size_t next) const { return remove_all(states_path(folder, next)); }

Status BlockWork::restore(const std::string& folder, std::size_t next) { return walk_.restore(states_path(folder, next)); }

}  // namespace skiff

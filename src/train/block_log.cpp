#include "train/block_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "train/training_log.h"

namespace skiff::train {
namespace {

constexpr const char* header = "block,step,loss,gradient_norm,seconds\n";

// All digits, so that what is added up is what a run that never stopped adds up.
std::string line_of(std::int64_t block, std::size_t step, const BlockLog::Row& row) {
    return fmt::format("{},{},{:.17g},{:.17g},{:.3f}\n", block, step, row.loss, row.gradient_norm, row.seconds);
}

}  // namespace

Result<BlockLog> BlockLog::open(const std::string& folder, const std::vector<std::int64_t>& first_blocks, const std::vector<std::int64_t>& steps) {
    BlockLog log;
    log.path_ = join_path(folder, file_name);
    log.first_blocks_ = first_blocks;
    log.rows_.resize(first_blocks.size());
    std::string kept = header;
    if (file_exists(log.path_)) {
        SKIFF_TRY(const auto text, read_text_file(log.path_, std::size_t{1} << 30));
        for (std::size_t at = text.find('\n'); at != std::string::npos;) {
            const std::size_t begin = at + 1, end = text.find('\n', begin);
            at = end;
            long long block = 0, step = 0;
            Row row;
            if (end == std::string::npos || std::sscanf(text.c_str() + begin, "%lld,%lld,%lf,%lf,%lf", &block, &step, &row.loss, &row.gradient_norm, &row.seconds) != 5) break;
            const auto unit = static_cast<std::size_t>(std::find(first_blocks.begin(), first_blocks.end(), block) - first_blocks.begin());
            if (unit == first_blocks.size() || step > steps[unit] || step != static_cast<long long>(log.rows_[unit].size()) + 1) continue;
            log.rows_[unit].push_back(row);
            kept.append(text, begin, end + 1 - begin);
        }
    }
    for (std::size_t unit = 0; unit < steps.size(); ++unit)
        if (static_cast<std::int64_t>(log.rows_[unit].size()) < steps[unit])
            return corrupt(fmt::format("{}: block {} has {} steps behind it, of which {} are listed; give --restart", log.path_, first_blocks[unit], steps[unit], log.rows_[unit].size()));
    SKIFF_CHECK(write_file_atomic(log.path_, kept));
    return log;
}

Status BlockLog::add(std::size_t unit, const Row& row) {
    rows_[unit].push_back(row);
    return append_line(path_, line_of(first_blocks_[unit], rows_[unit].size(), row));
}

Status BlockLog::sync() const {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    const bool synced = fd >= 0 && ::fsync(fd) == 0;
    const int reason = errno;
    if (fd >= 0) ::close(fd);
    if (!synced) return runtime_error(path_ + ": cannot sync: " + std::strerror(reason));
    return {};
}

BlockLog::Row BlockLog::sum(std::int64_t step) const {
    Row sum;
    for (const auto& rows : rows_) {
        const Row& row = rows[static_cast<std::size_t>(step)];
        sum.loss += row.loss;
        sum.gradient_norm += row.gradient_norm * row.gradient_norm;
        sum.seconds = std::max(sum.seconds, row.seconds);
    }
    sum.gradient_norm = std::sqrt(sum.gradient_norm);
    return sum;
}

}  // namespace skiff::train

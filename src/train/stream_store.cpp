#include "train/stream_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff::train {
namespace {

Error stream_error(const std::string& folder, const char* action) {
    const int reason = errno;
    const std::string text = folder + ": cannot " + action + " activations between blocks: " + std::strerror(reason);
    if (reason == ENOSPC || reason == EDQUOT || reason == EFBIG) return resource_error(text + "; free some disk space, give a larger --stream-mb, or a smaller --batch");
    return runtime_error(text);
}

}  // namespace

Result<StreamStore> StreamStore::create(std::int64_t n_rows, std::int64_t width, Place place, const std::string& folder) {
    StreamStore store(n_rows, width);
    if (place == Place::memory) {
        store.memory_ = at::empty({n_rows, width}, at::kFloat);
        return store;
    }
    SKIFF_TRY(const auto free_bytes, free_disk_bytes(folder));
    if (free_bytes < store.size_bytes())
        return resource_error(fmt::format("{}: activations between blocks take {} MiB there, and {} MiB are free; free some disk space, give a larger --stream-mb, or a smaller --batch", folder,
                                          store.size_bytes() >> 20, free_bytes >> 20));
    std::string path = join_path(folder, "streams.XXXXXX");
    const int fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0) return stream_error(folder, "make a file for");
    store.file_ = std::shared_ptr<const int>(new int(fd), [](const int* owned) {
        ::close(*owned);
        delete owned;
    });
    store.folder_ = folder;
    // Nobody finds it behind a process that was killed.
    if (::unlink(path.c_str()) != 0) return stream_error(folder, "hide the file of");
    return store;
}

Status StreamStore::write(std::int64_t first_row, const at::Tensor& rows) {
    if (rows.dim() != 2 || rows.size(1) != width_ || first_row < 0 || first_row + rows.size(0) > n_rows_)
        return runtime_error(fmt::format("a residual stream of {} columns does not fit where {} are expected", rows.dim() == 2 ? rows.size(1) : 0, width_));
    const at::NoGradGuard no_grad;
    if (memory_.defined()) {
        memory_.narrow(0, first_row, rows.size(0)).copy_(rows);
        return {};
    }
    const at::Tensor host = rows.to(at::kCPU, at::kFloat).contiguous();
    const char* bytes = reinterpret_cast<const char*>(host.data_ptr<float>());
    const std::size_t size = static_cast<std::size_t>(host.numel()) * sizeof(float);
    const std::size_t begin = static_cast<std::size_t>(first_row * width_) * sizeof(float);
    for (std::size_t done = 0; done < size;) {
        const ssize_t n = ::pwrite(*file_, bytes + done, size - done, static_cast<off_t>(begin + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return stream_error(folder_, "write");
        done += static_cast<std::size_t>(n);
    }
    return {};
}

Result<at::Tensor> StreamStore::read(std::int64_t first_row, std::int64_t n_wanted) const {
    if (memory_.defined()) return memory_.narrow(0, first_row, n_wanted);
    at::Tensor rows = at::empty({n_wanted, width_}, at::kFloat);
    char* bytes = reinterpret_cast<char*>(rows.data_ptr<float>());
    const std::size_t size = static_cast<std::size_t>(rows.numel()) * sizeof(float);
    const std::size_t begin = static_cast<std::size_t>(first_row * width_) * sizeof(float);
    for (std::size_t done = 0; done < size;) {
        const ssize_t n = ::pread(*file_, bytes + done, size - done, static_cast<off_t>(begin + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return stream_error(folder_, "read");
        if (n == 0) return runtime_error(folder_ + ": activations between blocks end before what was written of them");
        done += static_cast<std::size_t>(n);
    }
    return rows;
}

}  // namespace skiff::train

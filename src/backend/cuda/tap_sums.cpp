#include "backend/cuda/tap_sums.h"

#include <algorithm>

namespace skiff::cuda {

template <class T>
Status DeviceTapSums::clear_new(T*& target, std::int64_t n, const char* what) {
    const auto size = static_cast<std::size_t>(n) * sizeof(T);
    SKIFF_TRY(std::byte * address, device_.allocate(size, what));
    target = reinterpret_cast<T*>(address);
    return device_.check(device_.table().fill(target, 0, size, device_.stream()), "clearing sums");
}

Status DeviceTapSums::add(const std::string& tap, Pairs pairs) {
    SKIFF_CHECK(device_.enter());
    const auto found = taps_ == nullptr ? nullptr : [&]() -> const DeviceProgram::Tap* {
        const auto at = std::find_if(taps_->begin(), taps_->end(), [&](const auto& each) { return each.name == tap; });
        return at == taps_->end() ? nullptr : &*at;
    }();
    if (found == nullptr) return usage_error("no run has shown the value " + tap);
    Sums& sums = sums_[tap];
    sums.n_columns = found->width;
    if (sums.sums == nullptr) SKIFF_CHECK(clear_new(sums.sums, 3 * found->width, "sums of a calibration"));
    if (sums.largest == nullptr) SKIFF_CHECK(clear_new(sums.largest, found->width, "sums of a calibration"));
    if (pairs == Pairs::added && sums.gram == nullptr) SKIFF_CHECK(clear_new(sums.gram, found->width * found->width, "the second moments of a calibration"));
    const Table& table = device_.table();
    SKIFF_CHECK(device_.check(table.column_sums({found->x, found->stride, n_tokens_, found->width, sums.sums, sums.largest}, device_.launch()), "adding up " + tap));
    if (pairs == Pairs::added) SKIFF_CHECK(device_.check(table.gram({found->x, found->stride, n_tokens_, found->width, sums.gram}, device_.launch()), "adding up pairs of " + tap));
    sums.n_tokens += n_tokens_;
    return {};
}

Result<ColumnSums> DeviceTapSums::take(const std::string& tap) {
    SKIFF_CHECK(device_.enter());
    ColumnSums result;
    const auto found = sums_.find(tap);
    if (found == sums_.end()) return usage_error("nothing was added up of the value " + tap);
    const Sums sums = found->second;
    const auto n = static_cast<std::size_t>(sums.n_columns);
    result.n_tokens = sums.n_tokens;
    for (const auto& [target, at] : {std::pair{&result.sum, 0}, std::pair{&result.absolute, 1}, std::pair{&result.square, 2}}) {
        target->resize(n);
        SKIFF_CHECK(device_.download(target->data(), sums.sums + static_cast<std::size_t>(at) * n, n * sizeof(double)));
    }
    result.largest.resize(n);
    SKIFF_CHECK(device_.download(result.largest.data(), sums.largest, n * sizeof(float)));
    if (sums.gram != nullptr) {
        result.gram.resize(n * n);
        SKIFF_CHECK(device_.download(result.gram.data(), sums.gram, n * n * sizeof(float)));
    }
    for (void* address : {static_cast<void*>(sums.sums), static_cast<void*>(sums.largest), static_cast<void*>(sums.gram)})
        if (address != nullptr) device_.release(static_cast<std::byte*>(address));
    sums_.erase(found);
    return result;
}

}  // namespace skiff::cuda

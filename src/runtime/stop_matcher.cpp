#include "runtime/stop_matcher.h"

#include <algorithm>

namespace skiff {

std::string StopMatcher::push(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    std::size_t first = std::string::npos;
    for (const std::string& stop : stops_)
        if (!stop.empty()) first = std::min(first, held_.find(stop));
    if (first != std::string::npos) {
        stopped_ = true;
        std::string text = held_.substr(0, first);
        held_.clear();
        return text;
    }
    // The longest end of what is held that begins a stop text has to wait.
    std::size_t wait = 0;
    for (const std::string& stop : stops_)
        for (std::size_t n = std::min(held_.size(), stop.empty() ? 0 : stop.size() - 1); n > wait; --n)
            if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) wait = n;
    std::string text = held_.substr(0, held_.size() - wait);
    held_.erase(0, held_.size() - wait);
    return text;
}

std::string StopMatcher::finish() { return stopped_ ? std::string() : std::move(held_); }

}  // namespace skiff

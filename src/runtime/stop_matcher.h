// Holds back text that might become a stop text, so that no part of one is ever given out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace skiff {

class StopMatcher {
public:
    explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}
    // Text that is safe to give out after `piece` has come. Once stopped() it gives nothing more.
    std::string push(std::string_view piece);
    std::string finish();  // what was held back, at the end of the generation
    bool stopped() const { return stopped_; }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace skiff

// Which passes of fusion a plan is made with. The passes are rows of a table in fuse.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace skiff {

struct FusePassInfo {
    std::string_view name;
    std::string_view what;  // it joins, in a line
};
std::span<const FusePassInfo> fuse_passes();  // in the order in which they are applied

class FuseSet {
public:
    static FuseSet none() { return FuseSet(0); }
    static FuseSet all() { return FuseSet(~0u); }
    static FuseSet only(std::size_t pass) { return FuseSet(1u << pass); }
    static Result<FuseSet> parse(const std::string& list);  // "on", "off", or names separated by commas

    bool has(std::size_t pass) const { return (bits_ >> pass & 1u) != 0; }
    FuseSet with(std::size_t pass) const { return FuseSet(bits_ | 1u << pass); }
    FuseSet without(std::size_t pass) const { return FuseSet(bits_ & ~(1u << pass)); }

private:
    explicit FuseSet(std::uint32_t bits) : bits_(bits) {}
    std::uint32_t bits_;
};

}  // namespace skiff

// A bounded little-endian reader over bytes that came from outside. Every read is checked; nothing is allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/result.h"

namespace skiff {

class SpanReader {
public:
    explicit SpanReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    std::size_t position() const { return position_; }
    std::size_t remaining() const { return bytes_.size() - position_; }

    template <class T>
        requires std::is_trivially_copyable_v<T> Result<T> read(std::string_view what) {
            if (remaining() < sizeof(T)) return truncated(what, sizeof(T));
            T value;
            std::memcpy(&value, bytes_.data() + position_, sizeof(T));
            position_ += sizeof(T);
            return value;
        }

    Result<std::span<const std::byte>> take(std::uint64_t n_bytes, std::string_view what) {
        if (n_bytes > remaining()) return truncated(what, n_bytes);
        auto part = bytes_.subspan(position_, static_cast<std::size_t>(n_bytes));
        position_ += static_cast<std::size_t>(n_bytes);
        return part;
    }

    Result<std::string_view> take_string(std::uint64_t n_bytes, std::string_view what) {
        SKIFF_TRY(auto part, take(n_bytes, what));
        return std::string_view(reinterpret_cast<const char*>(part.data()), part.size());
    }

private:
    Error truncated(std::string_view what, std::uint64_t needed) const {
        return corrupt("truncated at byte " + std::to_string(position_) + ": " + std::string(what) + " needs " + std::to_string(needed) + " bytes, " +
                       std::to_string(remaining()) + " are left");
    }
    std::span<const std::byte> bytes_;
    std::size_t position_ = 0;
};

}  // namespace skiff

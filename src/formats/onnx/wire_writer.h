// Protobuf's wire format: a message is a list of (field number, wire type, value). https://protobuf.dev/programming-guides/encoding
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace skiff {

class WireWriter {
public:
    void integer(std::uint32_t field, std::int64_t value) {  // int32, int64, enum, bool
        varint(field << 3);
        varint(static_cast<std::uint64_t>(value));
    }
    void bytes(std::uint32_t field, std::string_view value) {  // string, bytes, message
        varint(field << 3 | 2);
        varint(value.size());
        out_.append(value);
    }
    void real(std::uint32_t field, float value) {
        varint(field << 3 | 5);
        const auto bits = std::bit_cast<std::uint32_t>(value);
        for (int shift = 0; shift < 32; shift += 8) out_.push_back(static_cast<char>(bits >> shift & 0xff));
    }
    std::string take() { return std::move(out_); }

private:
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>((value & 0x7f) | 0x80));
        out_.push_back(static_cast<char>(value));
    }
    std::string out_;
};

}  // namespace skiff

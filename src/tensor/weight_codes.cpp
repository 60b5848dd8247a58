// Packing of unsigned codes into rows of 32-bit words, lowest bits first, without gaps (codes may straddle two words).
#include "base/checked.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

template <class Code>
void pack(const Code* codes, int bits, std::int64_t n_codes, std::byte* packed_row) {
    const std::uint32_t mask = (1u << bits) - 1;
    std::uint64_t pending = 0;
    int n_pending = 0;
    for (std::int64_t i = 0; i < n_codes; ++i) {
        pending |= static_cast<std::uint64_t>(codes[i] & mask) << n_pending;
        n_pending += bits;
        if (n_pending >= 32) {
            auto word = static_cast<std::uint32_t>(pending);
            std::memcpy(packed_row, &word, 4);
            packed_row += 4;
            pending >>= 32;
            n_pending -= 32;
        }
    }
    if (n_pending > 0) {
        auto word = static_cast<std::uint32_t>(pending);
        std::memcpy(packed_row, &word, 4);
    }
}

template <class Code>
void unpack(const std::byte* bytes, int bits, std::int64_t n_codes, Code* codes) {
    const std::uint32_t mask = (1u << bits) - 1;
    std::uint64_t pending = 0;
    int n_pending = 0;
    for (std::int64_t i = 0; i < n_codes; ++i) {
        if (n_pending < bits) {
            std::uint32_t word;
            std::memcpy(&word, bytes, 4);
            bytes += 4;
            pending |= static_cast<std::uint64_t>(word) << n_pending;
            n_pending += 32;
        }
        codes[i] = static_cast<Code>(pending & mask);
        pending >>= bits;
        n_pending -= bits;
    }
}

}  // namespace

void pack_codes(const std::uint8_t* codes, int bits, std::int64_t n_columns, std::byte* packed_row) { pack(codes, bits, n_columns, packed_row); }

void pack_wide_codes(const std::uint16_t* codes, int bits, std::int64_t n_codes, std::byte* packed_row) { pack(codes, bits, n_codes, packed_row); }

void unpack_wide_codes(const std::byte* packed_row, int bits, std::int64_t n_codes, std::uint16_t* codes) { unpack(packed_row, bits, n_codes, codes); }

void unpack_codes(const std::byte* packed_row, int bits, std::int64_t n_columns, std::uint8_t* codes) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(packed_row);
    if (bits == 8) {
        std::memcpy(codes, bytes, static_cast<std::size_t>(n_columns));
        return;
    }
    std::int64_t column = 0;
    if (bits == 4) {
        for (; column + 1 < n_columns; column += 2) {
            codes[column] = bytes[column / 2] & 15;
            codes[column + 1] = bytes[column / 2] >> 4;
        }
        if (column < n_columns) codes[column] = bytes[column / 2] & 15;
        return;
    }
    unpack(packed_row, bits, n_columns, codes);
}

}  // namespace skiff

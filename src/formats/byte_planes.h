// Bytes of a tensor put in order for a code of single bytes: those of like meaning side by side. Without loss, whatever the bytes are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tensor/dtype.h"

namespace skiff {

inline constexpr std::size_t plane_symbols = std::size_t{1} << 17;  // of a whole block, in each plane: as much as one stretch of the coder takes
inline constexpr std::size_t max_planes = 4, plane_padding = 8;

struct PlaneForm {
    std::string_view name;
    std::uint8_t id;         // in files
    int n_planes;
    int symbol_bits;         // of the source, for one symbol of one plane
    bool (*fits)(DType dtype);
    // split() may write plane_padding bytes behind n_symbols(n_bytes); join() reads none behind them.
    void (*split)(const std::byte* source, std::size_t n_bytes, std::byte* const* planes);
    void (*join)(const std::byte* const* planes, std::size_t n_bytes, std::byte* target);

    std::size_t block_bytes() const { return plane_symbols * static_cast<std::size_t>(n_planes * symbol_bits) / 8; }
    std::size_t n_symbols(std::size_t n_bytes) const {
        const std::size_t bits = static_cast<std::size_t>(n_planes * symbol_bits);
        return (n_bytes * 8 + bits - 1) / bits;
    }
    bool is_identity() const { return n_planes == 1 && symbol_bits == 8; }  // the only plane is the bytes themselves
    std::size_t whole_bytes() const { return n_planes == 1 ? 1 : static_cast<std::size_t>(n_planes); }  // a tensor's size is a multiple of it
};

std::span<const PlaneForm> plane_forms();
const PlaneForm* find_plane_form(std::uint8_t id);

}  // namespace skiff

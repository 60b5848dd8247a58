// Integer arithmetic that reports overflow instead of wrapping. For every size that comes from a file.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

namespace skiff {

template <std::integral T>
[[nodiscard]] std::optional<T> checked_add(T a, T b) {
    T sum;
    if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
    return sum;
}

template <std::integral T>
[[nodiscard]] std::optional<T> checked_sub(T a, T b) {
    T difference;
    if (__builtin_sub_overflow(a, b, &difference)) return std::nullopt;
    return difference;
}

template <std::integral T>
[[nodiscard]] std::optional<T> checked_mul(T a, T b) {
    T product;
    if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
    return product;
}

// Product of all factors; every partial product is tested, so that a zero among them cannot hide an overflow.
[[nodiscard]] inline std::optional<std::int64_t> checked_product(std::span<const std::int64_t> factors) {
    std::int64_t product = 1;
    bool has_zero = false;
    for (std::int64_t factor : factors) {
        if (factor < 0) return std::nullopt;
        if (factor == 0) {
            has_zero = true;
            continue;
        }
        auto next = checked_mul(product, factor);
        if (!next) return std::nullopt;
        product = *next;
    }
    return has_zero ? 0 : product;
}

// Smallest multiple of `unit` (> 0) that is at least `value`.
template <std::integral T>
constexpr T round_up(T value, T unit) {
    return (value + unit - 1) / unit * unit;
}

template <std::integral T>
constexpr T ceil_div(T value, T unit) {
    return (value + unit - 1) / unit;
}

}  // namespace skiff

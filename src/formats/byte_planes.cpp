#include "formats/byte_planes.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace skiff {
namespace {

void split_bytes(const std::byte* source, std::size_t n_bytes, std::byte* const* planes) { std::memcpy(planes[0], source, n_bytes); }
void join_bytes(const std::byte* const* planes, std::size_t n_bytes, std::byte* target) { std::memcpy(target, planes[0], n_bytes); }

// A float turned left by one bit has its exponent's bits first and its sign last: the first byte is the exponent alone (BF16, F32), or the exponent and
// the first bits behind it (F16). Those bytes are far from even; the others, with the sign, are noise.
template <class Word>
void split_floats(const std::byte* source, std::size_t n_bytes, std::byte* const* planes) {
    for (std::size_t i = 0; i < n_bytes / sizeof(Word); ++i) {
        Word word;
        std::memcpy(&word, source + i * sizeof(Word), sizeof(Word));
        word = std::rotl(word, 1);
        for (std::size_t p = 0; p < sizeof(Word); ++p) planes[p][i] = static_cast<std::byte>(word >> (8 * (sizeof(Word) - 1 - p)));
    }
}

// A constant number of words, so that the compiler makes vectors of them.
constexpr std::size_t batch = 32;

void join_batch(const std::uint8_t* __restrict first, const std::uint8_t* __restrict second, std::uint16_t* __restrict words) {
    for (std::size_t i = 0; i < batch; ++i) {
        const auto word = static_cast<std::uint16_t>(first[i] << 8 | second[i]);
        words[i] = static_cast<std::uint16_t>(word >> 1 | word << 15);
    }
}

void join_halves(const std::byte* const* planes, std::size_t n_bytes, std::byte* target) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(planes[0]);
    const auto* second = reinterpret_cast<const std::uint8_t*>(planes[1]);
    const std::size_t n = n_bytes / 2;
    std::uint16_t words[batch];
    std::size_t i = 0;
    for (; i + batch <= n; i += batch) {
        join_batch(first + i, second + i, words);
        std::memcpy(target + 2 * i, words, sizeof words);
    }
    if (i == n) return;
    std::uint8_t last_first[batch] = {}, last_second[batch] = {};
    std::memcpy(last_first, first + i, n - i);
    std::memcpy(last_second, second + i, n - i);
    join_batch(last_first, last_second, words);
    std::memcpy(target + 2 * i, words, 2 * (n - i));
}

void join_floats(const std::byte* const* planes, std::size_t n_bytes, std::byte* target) {
    for (std::size_t i = 0; i < n_bytes / 4; ++i) {
        std::uint32_t word = 0;
        for (std::size_t p = 0; p < 4; ++p) word = word << 8 | std::to_integer<std::uint32_t>(planes[p][i]);
        word = std::rotr(word, 1);
        std::memcpy(target + 4 * i, &word, 4);
    }
}

// A dense stream of codes that do not divide a byte, first one in the lowest bits: 8 symbols are `bits` bytes.
template <int bits>
void split_stream(const std::byte* source, std::size_t n_bytes, std::byte* const* planes) {
    constexpr std::uint64_t mask = (1u << bits) - 1;
    std::byte* symbols = planes[0];
    for (std::size_t at = 0; at < n_bytes; at += bits, symbols += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, source + at, n_bytes - at < bits ? n_bytes - at : bits);
        for (int i = 0; i < 8; ++i) symbols[i] = static_cast<std::byte>(word >> (i * bits) & mask);
    }
}

template <int bits>
std::uint64_t join_eight(const std::byte* symbols) {
    constexpr std::uint64_t mask = (1u << bits) - 1;
    std::uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word |= (std::to_integer<std::uint64_t>(symbols[i]) & mask) << (i * bits);
    return word;
}

template <int bits>
void join_stream(const std::byte* const* planes, std::size_t n_bytes, std::byte* target) {
    const std::byte* symbols = planes[0];
    std::size_t n_symbols = (n_bytes * 8 + bits - 1) / bits, at = 0;
    for (; at + 8 <= n_bytes && n_symbols >= 8; at += bits, symbols += 8, n_symbols -= 8) {
        const std::uint64_t word = join_eight<bits>(symbols);
        std::memcpy(target + at, &word, 8);  // 8 bytes, of which the next turn overwrites the last
    }
    for (; at < n_bytes; at += bits, symbols += 8, n_symbols -= std::min<std::size_t>(n_symbols, 8)) {
        std::byte last[8] = {};
        std::memcpy(last, symbols, std::min<std::size_t>(n_symbols, 8));
        const std::uint64_t word = join_eight<bits>(last);
        std::memcpy(target + at, &word, std::min<std::size_t>(n_bytes - at, bits));
    }
}

bool any(DType) { return true; }
bool is_wide(DType dtype) { return dtype_info(dtype).bits == 32 || dtype == DType::c64; }
bool is_half(DType dtype) { return dtype_info(dtype).bits == 16; }
// What holds codes: words of several, or bytes.
bool may_hold_codes(DType dtype) { return dtype == DType::i32 || dtype == DType::u32 || dtype == DType::u8; }

constexpr PlaneForm forms[] = {
    {"bytes", 0, 1, 8, any, split_bytes, join_bytes},
    {"halves", 1, 2, 8, is_half, split_floats<std::uint16_t>, join_halves},
    {"floats", 2, 4, 8, is_wide, split_floats<std::uint32_t>, join_floats},
    {"codes of 5 bits", 3, 1, 5, may_hold_codes, split_stream<5>, join_stream<5>},
    {"codes of 6 bits", 4, 1, 6, may_hold_codes, split_stream<6>, join_stream<6>},  // or pairs of 3 bits
    {"codes of 7 bits", 5, 1, 7, may_hold_codes, split_stream<7>, join_stream<7>},
};

}  // namespace

std::span<const PlaneForm> plane_forms() { return forms; }

const PlaneForm* find_plane_form(std::uint8_t id) {
    for (const PlaneForm& form : forms)
        if (form.id == id) return &form;
    return nullptr;
}

}  // namespace skiff

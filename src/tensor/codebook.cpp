#include "tensor/codebook.h"

#include <array>
#include <cmath>

namespace skiff {
namespace {

// n4, n3 and n2 are made for Gaussian weights in groups of 32 with a searched scale of either sign: Lloyd's iteration over groups, rounded
// to small integers (spans 60, 28 and 24, so that sums of a few products with int8 fit 16 bits; the unrounded tables are 0.4 % better at
// most). They are not symmetric: the sign of the scale says which side has the longer tail.
constexpr float n4[] = {-30, -24, -19, -15, -11, -8, -5, -2, 1, 4, 7, 10, 13, 17, 22, 30};
constexpr float n3[] = {-15, -9, -5, -2, 1, 4, 8, 13};
constexpr float n2[] = {-14, -5, 2, 10};
constexpr float iq4nl[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};  // GGUF's IQ4_NL and IQ4_XS
constexpr float e2m1[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};                     // the numbers of FP4 (E2M1) times two
// Quantiles of the normal distribution, made exact at 0: Dettmers et al. 2023, QLoRA, appendix E.
constexpr float nf4[] = {-1.0f,
                         -0.6961928009986877f,
                         -0.5250730514526367f,
                         -0.39491748809814453f,
                         -0.28444138169288635f,
                         -0.18477343022823334f,
                         -0.09105003625154495f,
                         0.0f,
                         0.07958029955625534f,
                         0.16093020141124725f,
                         0.24611230194568634f,
                         0.33791524171829224f,
                         0.44070982933044434f,
                         0.5626170039176941f,
                         0.7229568362236023f,
                         1.0f};
// The four bit floats of bitsandbytes: 2 bits of exponent, 1 of mantissa, and one number below them all; not FP4 as others know it (E2M1).
constexpr float fp4[] = {0,  0.0625f / 12,  8.0f / 12,  12.0f / 12,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
                         0, -0.0625f / 12, -8.0f / 12, -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};
constexpr float ternary[] = {-1, 0, 1};
// Evenly spaced and symmetric without a zero, in half steps: the grid of stretched elastic quantization (ParetoQ, Liu et al. 2025), -1.5, -0.5, 0.5 and 1.5 steps.
constexpr float b2[] = {-3, -1, 1, 3};
constexpr float quad[] = {-1, 0, 1, 2};  // what the codes of GGUF's TQ2_0 can mean
constexpr float binary[] = {-1, 1};

// FP8 (Micikevicius et al. 2022): a sign, an exponent and a mantissa of 3 or 2 bits. Codes for NaN and infinity have the number that they would be without that meaning; no
// checked weight has them.
constexpr std::array<float, 256> float8(int mantissa_bits, int bias) {
    std::array<float, 256> numbers = {};
    for (int code = 0; code < 256; ++code) {
        const int exponent = (code & 127) >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
        float value = static_cast<float>(exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits));
        for (int power = (exponent == 0 ? 1 : exponent) - bias - mantissa_bits; power != 0; power += power < 0 ? 1 : -1) value = power < 0 ? value / 2 : value * 2;
        numbers[static_cast<std::size_t>(code)] = code < 128 ? value : -value;
    }
    return numbers;
}
constexpr std::array<float, 256> e4m3 = float8(3, 7), e5m2 = float8(2, 15);

constexpr Codebook table[] = {
    {"n4", 4, n4},     {"n3", 3, n3},   {"n2", 2, n2},           {"iq4nl", 4, iq4nl},
    {"e2m1", 4, e2m1}, {"nf4", 4, nf4}, {"fp4", 4, fp4}, {"ternary", 2, ternary}, {"quad", 2, quad},
    {"b2", 2, b2},     {"binary", 1, binary}, {"e4m3", 8, e4m3}, {"e5m2", 8, e5m2},
};

// For groups of 16 normal weights whose spread varies from group to group by another 15 % (a log-normal factor), as it does in trained models: Lloyd's iteration over
// scales, given n4, n3 and n2, agrees on these for all three. The sign turns a lopsided codebook to the side of a group's longest tail.
constexpr float parts(float k) { return k / 128; }
constexpr float t[] = {parts(43),  parts(52),  parts(60),  parts(67),  parts(76),  parts(86),  parts(101),  parts(127),
                       parts(-43), parts(-52), parts(-60), parts(-67), parts(-76), parts(-86), parts(-101), parts(-127)};
constexpr Codebook scale_table[] = {{"t", 4, t}};

const Codebook* find_in(std::span<const Codebook> books, std::string_view name) {
    for (const auto& book : books)
        if (book.name == name) return &book;
    return nullptr;
}

}  // namespace

bool Codebook::integral() const {
    for (float level : levels)
        if (level != std::nearbyint(level) || level < -128 || level > 127) return false;
    return true;
}

bool Codebook::has(int code) const {
    if (!is_float8()) return code >= 0 && static_cast<std::size_t>(code) < levels.size();
    return name == "e4m3" ? (code & 127) != 127 : (code & 127) < 124;
}

std::span<const Codebook> codebooks() { return table; }

const Codebook* find_codebook(std::string_view name) { return find_in(table, name); }

std::span<const Codebook> scale_books() { return scale_table; }

const Codebook* find_scale_book(std::string_view name) { return find_in(scale_table, name); }

}  // namespace skiff

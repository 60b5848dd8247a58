#include "compress/express_blocks.h"

#include <cmath>
#include <cstring>

namespace skiff {
namespace {

constexpr std::int64_t block_size = 32;

// What a block type of 32 weights can hold. value = d * (q - zero), or d * q + m.
struct Target {
    BlockType type;
    int bits;
    int zero;  // of the stored code; -1: the type has an offset instead
};
constexpr Target targets[] = {
    {BlockType::q4_0, 4, 8}, {BlockType::q5_0, 5, 16}, {BlockType::q8_0, 8, 128}, {BlockType::q4_1, 4, -1}, {BlockType::q5_1, 5, -1}};

const Target* target_of(BlockType type) {
    for (const Target& target : targets)
        if (target.type == type) return &target;
    return nullptr;
}

float scale_at(const TensorView& scales, std::int64_t index) {
    const DTypeInfo& info = dtype_info(scales.dtype);
    float scale = 0;
    info.to_float(scales.data.data() + index * (info.bits / 8), 1, &scale);
    return scale;
}

int zero_of(const Codes& codes, std::int64_t index) {
    return codes.scheme.symmetric ? 1 << (codes.scheme.bits - 1) : static_cast<int>(codes.zeros.data[static_cast<std::size_t>(index)]);
}

bool is_half(float value) { return f16_to_float(float_to_f16(value)) == value; }

bool codes_fit(const Scheme& scheme, const Target& target) {
    if (scheme.kind != NumberKind::integer || scheme.relative_scales() || scheme.minimums) return false;
    if (target.zero < 0) return scheme.bits <= target.bits;
    return scheme.bits + (scheme.symmetric ? 0 : 1) <= target.bits;  // code - zero needs one bit more where zero is anywhere
}

// The 32 codes of a block in the type's own packing, behind its half-precision numbers.
void put_codes(const Target& target, const std::uint8_t* q, std::uint8_t* out) {
    if (target.bits == 8) {
        for (int i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(q[i] - 128);
        return;
    }
    if (target.bits == 5) {
        std::uint32_t fifth = 0;
        for (int i = 0; i < 32; ++i) fifth |= static_cast<std::uint32_t>(q[i] >> 4) << i;
        std::memcpy(out, &fifth, 4);
        out += 4;
    }
    for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
}

}  // namespace

Fit fit_of_codes(const Weight& weight, BlockType type) {
    const Target* target = target_of(type);
    const Codes* codes = weight.codes();
    if (target == nullptr || codes == nullptr || !codes_fit(codes->scheme, *target)) return Fit::none;
    if (weight.n_columns() % block_size != 0 || codes->scheme.group_size % block_size != 0) return Fit::none;
    Fit fit = Fit::exact;
    const std::int64_t n = weight.n_rows() * codes->scheme.n_groups(weight.n_columns());
    for (std::int64_t i = 0; i < n; ++i) {
        const float scale = scale_at(codes->scales, i), offset = target->zero < 0 ? -static_cast<float>(zero_of(*codes, i)) * scale : 0;
        if (!(std::abs(scale) <= 65504) || !(std::abs(offset) <= 65504) || (scale != 0 && f16_to_float(float_to_f16(scale)) == 0)) return Fit::none;
        if (!is_half(scale) || !is_half(offset)) fit = Fit::rounded;
    }
    return fit;
}

void codes_row_to_blocks(const Weight& weight, BlockType type, std::int64_t row, std::byte* out) {
    const Target& target = *target_of(type);
    const Codes& codes = *weight.codes();
    const std::int64_t n_columns = weight.n_columns(), n_groups = codes.scheme.n_groups(n_columns);
    std::vector<std::uint8_t> q(static_cast<std::size_t>(n_columns));
    unpack_codes(codes.packed.data.data() + row * packed_row_bytes(codes.scheme.bits, n_columns), codes.scheme.bits, n_columns, q.data());
    const int block_bytes = block_format(type).block_bytes;
    for (std::int64_t begin = 0; begin < n_columns; begin += block_size, out += block_bytes) {
        const std::int64_t group = row * n_groups + codes.scheme.group_of(begin);
        const int zero = zero_of(codes, group);
        const float scale = scale_at(codes.scales, group);
        const std::uint16_t d = float_to_f16(scale), m = float_to_f16(-static_cast<float>(zero) * scale);
        auto* bytes = reinterpret_cast<std::uint8_t*>(out);
        std::memcpy(bytes, &d, 2);
        if (target.zero < 0) std::memcpy(bytes + 2, &m, 2);
        std::uint8_t block[block_size];
        for (int i = 0; i < block_size; ++i)
            block[i] = static_cast<std::uint8_t>(q[static_cast<std::size_t>(begin + i)] + (target.zero < 0 ? 0 : target.zero - zero));
        put_codes(target, block, bytes + (target.zero < 0 ? 4 : 2));
    }
}

}  // namespace skiff

// Each block type's bits taken apart into codes and numbers; what they mean stands beside the decoders (blocks_decode_32.cpp, blocks_decode_k.cpp).
#include "tensor/blocks_to_codes.h"

#include <algorithm>
#include <cstring>

#include "tensor/blocks_decode.h"

namespace skiff {
namespace {

using blocks::load_scale_min;

// Where the numbers of one block go.
struct BlockTarget {
    std::uint8_t* codes;
    std::byte *scales, *super_scales, *minimums, *super_minimums;
};

void put(std::byte* target, const std::uint8_t* source) { std::memcpy(target, source, 2); }
void put_negative(std::byte* target, const std::uint8_t* source) {  // of an f16: w = d q + m is d q - (-m)
    put(target, source);
    target[1] ^= std::byte{0x80};
}

void nibbles(const std::uint8_t* bytes, std::uint8_t* codes) {  // byte i: weights i and i + 16
    for (int i = 0; i < 16; ++i) codes[i] = bytes[i] & 15, codes[i + 16] = bytes[i] >> 4;
}

void add_fifth_bits(const std::uint8_t* bytes, std::uint8_t* codes) {
    std::uint32_t fifth;
    std::memcpy(&fifth, bytes, sizeof fifth);
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | (fifth >> i & 1) << 4);
}

void from_q4_0(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block);
    nibbles(block + 2, target.codes);
}

void from_q4_1(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block);
    put_negative(target.minimums, block + 2);
    nibbles(block + 4, target.codes);
}

void from_q5_0(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block);
    nibbles(block + 6, target.codes);
    add_fifth_bits(block + 2, target.codes);
}

void from_q5_1(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block);
    put_negative(target.minimums, block + 2);
    nibbles(block + 8, target.codes);
    add_fifth_bits(block + 4, target.codes);
}

void from_q8_0(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block);
    for (int i = 0; i < 32; ++i) target.codes[i] = block[2 + i] ^ 0x80;  // plus 128, modulo 256
}

void from_mxfp4(const std::uint8_t* block, const BlockTarget& target) {
    target.scales[0] = static_cast<std::byte>(block[0] == 0 ? 0 : block[0] - 1);  // our levels are doubled
    nibbles(block + 1, target.codes);
    if (block[0] == 0) std::memset(target.codes, 0, 32);
}

// Two bits each: byte l of a half holds weights l, l + 32, l + 64 and l + 96 of 128.
void pairs_of_bits(const std::uint8_t* bytes, std::uint8_t* codes) {
    for (int half = 0; half < 2; ++half)
        for (int quarter = 0; quarter < 4; ++quarter)
            for (int i = 0; i < 32; ++i) codes[half * 128 + quarter * 32 + i] = bytes[half * 32 + i] >> (2 * quarter) & 3;
}

void from_q2_k(const std::uint8_t* block, const BlockTarget& target) {
    put(target.super_scales, block + 80);
    put(target.super_minimums, block + 82);
    for (int sub = 0; sub < 16; ++sub) {
        target.scales[sub] = static_cast<std::byte>(block[sub] & 15);
        target.minimums[sub] = static_cast<std::byte>(block[sub] >> 4);
    }
    pairs_of_bits(block + 16, target.codes);
}

void from_q3_k(const std::uint8_t* block, const BlockTarget& target) {
    put(target.super_scales, block + 108);
    const std::uint8_t* packed = block + 96;
    for (int sub = 0; sub < 16; ++sub) target.scales[sub] = static_cast<std::byte>(blocks::load_q3_scale(packed, sub));
    pairs_of_bits(block + 32, target.codes);
    for (int high = 0; high < 8; ++high)
        for (int i = 0; i < 32; ++i) {
            std::uint8_t& code = target.codes[high * 32 + i];
            code = static_cast<std::uint8_t>(code | (block[i] >> high & 1) << 2);
        }
}

void from_q4_k(const std::uint8_t* block, const BlockTarget& target) {
    put(target.super_scales, block);
    put(target.super_minimums, block + 2);
    for (int sub = 0; sub < 8; ++sub) {
        const auto packed = load_scale_min(block + 4, sub);
        target.scales[sub] = static_cast<std::byte>(packed.scale);
        target.minimums[sub] = static_cast<std::byte>(packed.min);
    }
    for (int pair = 0; pair < 4; ++pair)
        for (int i = 0; i < 32; ++i) {
            target.codes[pair * 64 + i] = block[16 + pair * 32 + i] & 15;
            target.codes[pair * 64 + 32 + i] = block[16 + pair * 32 + i] >> 4;
        }
}

void from_q5_k(const std::uint8_t* block, const BlockTarget& target) {
    std::uint8_t as_q4_k[144];  // without the 32 bytes of fifth bits
    std::memcpy(as_q4_k, block, 16);
    std::memcpy(as_q4_k + 16, block + 48, 128);
    from_q4_k(as_q4_k, target);
    for (int sub = 0; sub < 8; ++sub)
        for (int i = 0; i < 32; ++i) {
            std::uint8_t& code = target.codes[sub * 32 + i];
            code = static_cast<std::uint8_t>(code | (block[16 + i] >> sub & 1) << 4);
        }
}

void from_q6_k(const std::uint8_t* block, const BlockTarget& target) {
    put(target.super_scales, block + 208);
    std::memcpy(target.scales, block + 192, 16);
    for (int half = 0; half < 2; ++half)
        for (int quarter = 0; quarter < 4; ++quarter) {
            const std::uint8_t *low = block + half * 64 + quarter % 2 * 32, *high = block + 128 + half * 32;
            std::uint8_t* codes = target.codes + half * 128 + quarter * 32;
            for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>((low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (quarter * 2) & 3) << 4);
        }
}

void from_iq4_xs(const std::uint8_t* block, const BlockTarget& target) {
    put(target.super_scales, block);
    const int high = block[2] | block[3] << 8;
    for (int sub = 0; sub < 8; ++sub) {
        const int low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
        target.scales[sub] = static_cast<std::byte>((low | (high >> (2 * sub) & 3) << 4) - 32);
        nibbles(block + 8 + sub * 16, target.codes + sub * 32);
    }
}

void from_tq1_0(const std::uint8_t* block, const BlockTarget& target) {
    static constexpr std::uint8_t powers[5] = {1, 3, 9, 27, 81};
    put(target.scales, block + 52);
    for (int digit = 0; digit < 5; ++digit) {
        for (int i = 0; i < 32; ++i) target.codes[digit * 32 + i] = blocks::trit_code(block[i], powers[digit]);
        for (int i = 0; i < 16; ++i) target.codes[160 + digit * 16 + i] = blocks::trit_code(block[32 + i], powers[digit]);
    }
    for (int digit = 0; digit < 4; ++digit)
        for (int i = 0; i < 4; ++i) target.codes[240 + digit * 4 + i] = blocks::trit_code(block[48 + i], powers[digit]);
}

void from_tq2_0(const std::uint8_t* block, const BlockTarget& target) {
    put(target.scales, block + 64);
    pairs_of_bits(block, target.codes);
}

struct Conversion {
    BlockType type;
    std::string_view scheme;
    void (*convert)(const std::uint8_t* block, const BlockTarget& target);
};
constexpr Conversion conversions[] = {
    {BlockType::q4_0, "w4g32", from_q4_0},          {BlockType::q4_1, "w4g32m", from_q4_1},          {BlockType::q5_0, "w5g32", from_q5_0},
    {BlockType::q5_1, "w5g32m", from_q5_1},         {BlockType::q8_0, "w8g32", from_q8_0},           {BlockType::q2_k, "w2g16mrs256", from_q2_k},
    {BlockType::q3_k, "w3g16rs256", from_q3_k},     {BlockType::q4_k, "w4g32mrs256", from_q4_k},     {BlockType::q5_k, "w5g32mrs256", from_q5_k},
    {BlockType::q6_k, "w6g16rs256", from_q6_k},     {BlockType::iq4_nl, "iq4nlg32", from_q4_0},      {BlockType::iq4_xs, "iq4nlg32rs256", from_iq4_xs},
    {BlockType::mxfp4, "mxfp4", from_mxfp4},        {BlockType::tq1_0, "ternaryg256", from_tq1_0},   {BlockType::tq2_0, "quadg256", from_tq2_0},
};

const Conversion& conversion_of(BlockType type) {
    for (const auto& conversion : conversions)
        if (conversion.type == type) return conversion;
    return conversions[0];  // never: the table has every type, as its test shows
}

struct OwnedCodes {
    std::vector<std::byte> packed, scales, super_scales, minimums, super_minimums;
};

TensorView view_of(DType dtype, std::int64_t n_rows, const std::vector<std::byte>& bytes) {
    if (bytes.empty()) return {};
    return {dtype, {n_rows, static_cast<std::int64_t>(bytes.size()) * 8 / dtype_info(dtype).bits / n_rows}, bytes};
}

template <class Sections>
Codes views_of(const Scheme& scheme, std::int64_t n_rows, const Sections& sections) {
    Codes codes;
    codes.scheme = scheme;
    codes.scales = view_of(scheme.scale_dtype, n_rows, sections.scales);
    codes.super_scales = view_of(scheme.super_dtype, n_rows, sections.super_scales);
    codes.minimums = view_of(scheme.minimum_dtype(), n_rows, sections.minimums);
    codes.super_minimums = view_of(scheme.super_dtype, n_rows, sections.super_minimums);
    return codes;
}

}  // namespace

const Scheme& scheme_of_blocks(BlockType type) {
    static const std::vector<Scheme> schemes = [] {
        std::vector<Scheme> all(std::size(conversions));
        for (const auto& conversion : conversions) {
            Scheme& scheme = all[static_cast<std::size_t>(conversion.type)] = *scheme_of_content(conversion.scheme);
            if (scheme.relative_scales()) scheme.super_dtype = DType::f16;
        }
        return all;
    }();
    return schemes[static_cast<std::size_t>(type)];
}

Codes CodeRow::view(const Scheme& scheme) const { return views_of(scheme, 1, *this); }

void blocks_row_to_codes(BlockType type, const std::byte* blocks, std::int64_t n_columns, CodeRow& row) {
    const Conversion& conversion = conversion_of(type);
    const BlockFormat& format = block_format(type);
    const CodeRowBytes bytes = code_row_bytes(scheme_of_blocks(type), n_columns);
    row.codes.resize(static_cast<std::size_t>(n_columns));
    row.scales.resize(static_cast<std::size_t>(bytes.scales));
    row.super_scales.resize(static_cast<std::size_t>(bytes.super_scales));
    row.minimums.resize(static_cast<std::size_t>(bytes.minimums));
    row.super_minimums.resize(static_cast<std::size_t>(bytes.super_minimums));
    const std::int64_t n_blocks = n_columns / format.block_size;
    if (n_blocks == 0) return;
    BlockTarget target = {row.codes.data(), row.scales.data(), row.super_scales.data(), row.minimums.data(), row.super_minimums.data()};
    const auto* block = reinterpret_cast<const std::uint8_t*>(blocks);
    for (std::int64_t b = 0; b < n_blocks; ++b, block += format.block_bytes) {
        conversion.convert(block, target);
        target.codes += format.block_size;
        target.scales += bytes.scales / n_blocks;
        target.super_scales += bytes.super_scales / n_blocks;
        target.minimums += bytes.minimums / n_blocks;
        target.super_minimums += bytes.super_minimums / n_blocks;
    }
}

std::optional<Weight> codes_of_blocks(const Weight& weight) {
    const Blocks* blocks = weight.blocks();
    if (blocks == nullptr || weight.n_columns() % block_format(blocks->type).block_size != 0) return std::nullopt;
    const Scheme& scheme = scheme_of_blocks(blocks->type);
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    const std::int64_t block_row_bytes = n_columns / block_format(blocks->type).block_size * block_format(blocks->type).block_bytes;
    const CodeRowBytes bytes = code_row_bytes(scheme, n_columns);
    auto owner = std::make_shared<OwnedCodes>();
    owner->packed.resize(static_cast<std::size_t>(n_rows * bytes.packed));
    CodeRow row;
    const std::pair<std::vector<std::byte>*, const std::vector<std::byte>*> sections[] = {{&owner->scales, &row.scales},
                                                                                         {&owner->super_scales, &row.super_scales},
                                                                                         {&owner->minimums, &row.minimums},
                                                                                         {&owner->super_minimums, &row.super_minimums}};
    for (std::int64_t r = 0; r < n_rows; ++r) {
        blocks_row_to_codes(blocks->type, blocks->data.data() + r * block_row_bytes, n_columns, row);
        pack_codes(row.codes.data(), scheme.bits, n_columns, owner->packed.data() + r * bytes.packed);
        for (const auto& [whole, own] : sections) {
            whole->resize(static_cast<std::size_t>(n_rows) * own->size());
            std::copy(own->begin(), own->end(), whole->begin() + r * static_cast<std::int64_t>(own->size()));
        }
    }
    Codes codes = views_of(scheme, n_rows, *owner);
    codes.packed = {DType::i32, {n_rows, bytes.packed / 4}, owner->packed};
    return Weight{weight.shape, std::move(codes), std::move(owner)};
}

}  // namespace skiff

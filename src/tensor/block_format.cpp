#include "tensor/block_format.h"

#include "tensor/blocks_decode.h"
#include "tensor/blocks_encode.h"

namespace skiff {
namespace {

using namespace blocks;

constexpr BlockFormat table[] = {  // in the order of BlockType
    {BlockType::q4_0, "Q4_0", 2, 32, 18, decode_q4_0, encode_q4_0},
    {BlockType::q4_1, "Q4_1", 3, 32, 20, decode_q4_1, encode_q4_1},
    {BlockType::q5_0, "Q5_0", 6, 32, 22, decode_q5_0, encode_q5_0},
    {BlockType::q5_1, "Q5_1", 7, 32, 24, decode_q5_1, encode_q5_1},
    {BlockType::q8_0, "Q8_0", 8, 32, 34, decode_q8_0, encode_q8_0},
    {BlockType::q2_k, "Q2_K", 10, 256, 84, decode_q2_k, nullptr},
    {BlockType::q3_k, "Q3_K", 11, 256, 110, decode_q3_k, nullptr},
    {BlockType::q4_k, "Q4_K", 12, 256, 144, decode_q4_k, encode_q4_k},
    {BlockType::q5_k, "Q5_K", 13, 256, 176, decode_q5_k, encode_q5_k},
    {BlockType::q6_k, "Q6_K", 14, 256, 210, decode_q6_k, encode_q6_k},
    {BlockType::iq4_nl, "IQ4_NL", 20, 32, 18, decode_iq4_nl, encode_iq4_nl},
    {BlockType::iq4_xs, "IQ4_XS", 23, 256, 136, decode_iq4_xs, nullptr},
    {BlockType::mxfp4, "MXFP4", 39, 32, 17, decode_mxfp4, nullptr},
    {BlockType::tq1_0, "TQ1_0", 34, 256, 54, decode_tq1_0, nullptr},
    {BlockType::tq2_0, "TQ2_0", 35, 256, 66, decode_tq2_0, nullptr},
};

constexpr bool in_enum_order() {
    std::size_t i = 0;
    for (const BlockFormat& format : table) {
        if (static_cast<std::size_t>(format.type) != i++) return false;
    }
    return true;
}
static_assert(in_enum_order());

}  // namespace

std::span<const BlockFormat> block_format_table() { return table; }

const BlockFormat& block_format(BlockType type) { return table[static_cast<std::size_t>(type)]; }

const BlockFormat* block_format_by_gguf_id(std::uint32_t id) {
    for (const BlockFormat& format : table) {
        if (format.gguf_id == id) return &format;
    }
    return nullptr;
}

const BlockFormat* block_format_by_name(std::string_view name) {
    for (const BlockFormat& format : table) {
        if (format.name == name) return &format;
    }
    return nullptr;
}

}  // namespace skiff

#include "formats/gguf_types.h"

#include <string>

namespace skiff {
namespace {

constexpr std::optional<BlockType> no_block;
constexpr std::optional<DType> no_dtype;

constexpr GgufType table[] = {
    {0, "F32", 1, 4, DType::f32, no_block},
    {1, "F16", 1, 2, DType::f16, no_block},
    {2, "Q4_0", 32, 18, no_dtype, BlockType::q4_0},
    {3, "Q4_1", 32, 20, no_dtype, BlockType::q4_1},
    {6, "Q5_0", 32, 22, no_dtype, BlockType::q5_0},
    {7, "Q5_1", 32, 24, no_dtype, BlockType::q5_1},
    {8, "Q8_0", 32, 34, no_dtype, BlockType::q8_0},
    {9, "Q8_1", 32, 36, no_dtype, no_block},
    {10, "Q2_K", 256, 84, no_dtype, BlockType::q2_k},
    {11, "Q3_K", 256, 110, no_dtype, BlockType::q3_k},
    {12, "Q4_K", 256, 144, no_dtype, BlockType::q4_k},
    {13, "Q5_K", 256, 176, no_dtype, BlockType::q5_k},
    {14, "Q6_K", 256, 210, no_dtype, BlockType::q6_k},
    {15, "Q8_K", 256, 292, no_dtype, no_block},
    {16, "IQ2_XXS", 256, 66, no_dtype, no_block},
    {17, "IQ2_XS", 256, 74, no_dtype, no_block},
    {18, "IQ3_XXS", 256, 98, no_dtype, no_block},
    {19, "IQ1_S", 256, 50, no_dtype, no_block},
    {20, "IQ4_NL", 32, 18, no_dtype, BlockType::iq4_nl},
    {21, "IQ3_S", 256, 110, no_dtype, no_block},
    {22, "IQ2_S", 256, 82, no_dtype, no_block},
    {23, "IQ4_XS", 256, 136, no_dtype, BlockType::iq4_xs},
    {24, "I8", 1, 1, DType::i8, no_block},
    {25, "I16", 1, 2, DType::i16, no_block},
    {26, "I32", 1, 4, DType::i32, no_block},
    {27, "I64", 1, 8, DType::i64, no_block},
    {28, "F64", 1, 8, DType::f64, no_block},
    {29, "IQ1_M", 256, 56, no_dtype, no_block},
    {30, "BF16", 1, 2, DType::bf16, no_block},
    {34, "TQ1_0", 256, 54, no_dtype, BlockType::tq1_0},
    {35, "TQ2_0", 256, 66, no_dtype, BlockType::tq2_0},
    {39, "MXFP4", 32, 17, no_dtype, BlockType::mxfp4},
    {40, "NVFP4", 64, 36, no_dtype, no_block},
    {41, "Q1_0", 128, 18, no_dtype, no_block},
    {42, "Q2_0", 64, 18, no_dtype, no_block},
};

constexpr bool is_removed(std::uint32_t id) { return id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38); }

}  // namespace

std::span<const GgufType> gguf_type_table() { return table; }

Result<const GgufType*> gguf_type(std::uint32_t id) {
    for (const GgufType& type : table) {
        if (type.id == id) return &type;
    }
    if (is_removed(id)) return corrupt("tensor type " + std::to_string(id) + " was removed from GGUF; convert the model again from its source");
    return corrupt("tensor type " + std::to_string(id) + " is not known; the newest known is " + std::to_string(std::end(table)[-1].id));
}

const GgufType* gguf_type_by_name(std::string_view name) {
    for (const GgufType& type : table) {
        if (type.name == name) return &type;
    }
    return nullptr;
}

Result<const GgufType*> gguf_type_of(DType dtype) {
    for (const GgufType& type : table) {
        if (type.dtype == dtype) return &type;
    }
    return unsupported("GGUF has no tensor type " + std::string(dtype_info(dtype).name) + "; convert to F32, F16 or BF16 first");
}

const GgufType& gguf_type_of(BlockType block) {
    for (const GgufType& type : table) {
        if (type.block == block) return type;
    }
    std::abort();  // the test walks the block table, so that a row cannot be missing
}

}  // namespace skiff

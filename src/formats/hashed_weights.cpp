#include "formats/hashed_weights.h"

#include <cstring>

#include "formats/packed_inputs.h"

namespace skiff {
namespace {

constexpr std::int64_t n_map_numbers = 4;  // rows, columns, rows of blocks that share one of the bank, seed

std::string bank_of(const std::string& module) { return module + std::string(hash_bank_end); }

TensorDeclaration map_declaration(const std::string& module) { return {module + std::string(hash_map_end), DType::i64, {n_map_numbers}}; }

Result<BlockHash> read_map(const TensorView& map) {
    if (map.dtype != DType::i64 || map.shape != Shape{n_map_numbers})
        return corrupt("hash_map is " + std::string(dtype_info(map.dtype).name) + " " + shape_text(map.shape) + ", expected four integers in I64: rows, columns, rows of blocks that share one of the bank, seed");
    std::int64_t numbers[n_map_numbers];
    std::memcpy(numbers, map.data.data(), sizeof numbers);
    const BlockHash hash = {numbers[0], numbers[1], numbers[2], static_cast<std::uint64_t>(numbers[3])};
    SKIFF_CHECK(check_block_hash(hash));
    return hash;
}

Result<Weight> read_bank(const std::string& module, const TensorLookup& lookup, const QuantizedReader& reader) {
    SKIFF_TRY(const auto plain, lookup(bank_of(module)));
    if (plain) {
        SKIFF_CHECK(check_finite(bank_of(module), "the bank", plain->view));  // also blocks that no weight is: kernels go over them
        return Weight{plain->view.shape, plain->view, plain->owner};
    }
    SKIFF_TRY(const auto codes, lookup(bank_of(module) + std::string(reader.marker())));
    if (!codes) return corrupt("there is no tensor " + bank_of(module));
    SKIFF_TRY(auto bank, reader.read(bank_of(module), lookup));
    if (!bank) return corrupt("the codes of " + bank_of(module) + " cannot be read");
    return std::move(*bank);
}

Result<Weight> read(const std::string& module, const TensorLookup& lookup, const QuantizedReader& reader) {
    SKIFF_TRY(const auto map, lookup(module + std::string(hash_map_end)));
    if (!map) return corrupt("there is no tensor " + module + std::string(hash_map_end));
    SKIFF_TRY(const BlockHash hash, read_map(map->view));
    SKIFF_TRY(auto bank, read_bank(module, lookup, reader));
    return make_hashed(hash, std::move(bank));
}

struct MapOwner {
    std::int64_t numbers[n_map_numbers];
};

}  // namespace

std::vector<TensorDeclaration> hashed_tensors(const std::string& module, const BlockHash& hash, DType dtype) { return {{bank_of(module), dtype, hash.bank_shape()}, map_declaration(module)}; }

std::vector<TensorDeclaration> hashed_tensors(const std::string& module, const BlockHash& hash, const Scheme& scheme) {
    auto tensors = code_tensors(bank_of(module), scheme, hash.bank_shape());
    tensors.push_back(map_declaration(module));
    return tensors;
}

Result<std::vector<StoredTensor>> hashed_weight_tensors(const std::string& module, const Weight& weight) {
    const Hashed& hashed = *weight.hashed();
    const BlockHash& hash = hashed.hash;
    std::vector<StoredTensor> tensors;
    if (const TensorView* plain = hashed.bank->plain()) {
        tensors.push_back({bank_of(module), plain->dtype, hashed.bank->shape, plain->data, hashed.bank});
    } else {
        SKIFF_TRY(tensors, weight_tensors(bank_of(module), *hashed.bank));
    }
    const auto map = std::make_shared<MapOwner>(MapOwner{{hash.n_rows, hash.n_columns, hash.shared, static_cast<std::int64_t>(hash.seed)}});
    tensors.push_back({module + std::string(hash_map_end), DType::i64, {n_map_numbers}, std::as_bytes(std::span<const std::int64_t>(map->numbers)), map});
    return tensors;
}

Result<Weight> read_hashed_weight(const std::string& module, const TensorLookup& lookup, const QuantizedReader& reader) {
    auto weight = read(module, lookup, reader);
    if (!weight.ok()) return weight.take_error().with_context("module " + module);
    return weight;
}

}  // namespace skiff

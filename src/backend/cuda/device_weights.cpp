#include "backend/cuda/device_weights.h"

#include <type_traits>

#include "plan/weight_pool.h"

namespace skiff::cuda {
namespace {

std::string key_of(const std::vector<WeightRows>& parts, Interleave interleave) {
    std::string key = interleave == Interleave::none ? "" : interleave == Interleave::tiles ? "tiles" : "pairs";
    for (const WeightRows& part : parts) key += "|" + tensor_ref_key(part.ref);
    return key;
}

// Stands for a buffer that is not there yet; null pointers stay apart from its beginning.
std::byte* imaginary_base() { return reinterpret_cast<std::byte*>(std::uintptr_t{1} << 45); }

}  // namespace

// No host and no device has memory there.
bool is_imaginary(const GpuWeight& weight) {
    const auto at = static_cast<const std::byte*>(weight.codes);
    return at >= imaginary_base() && at < imaginary_base() + (std::size_t{1} << 44);
}

void relocate(GpuWeight& weight, const std::byte* base) {
    const auto move = [&](auto*& address) {
        if (address != nullptr) address = reinterpret_cast<std::remove_reference_t<decltype(address)>>(base + (reinterpret_cast<const std::byte*>(address) - imaginary_base()));
    };
    move(weight.codes);
    move(weight.positions);
    move(weight.group_params);
    move(weight.super_scales);
    move(weight.super_minimums);
    move(weight.row_scales);
    move(weight.table);
}

Result<Weight> DeviceWeights::load(const WeightRows& part) const {
    SKIFF_TRY(auto weight, load_declared(spec_, source_, part.ref));
    const RowMap rows = part.ref.rows.block == 0 ? RowMap::all(weight.n_rows()) : part.ref.rows;
    if (rows.n_rows() != part.n_rows || weight.n_columns() != part.n_columns || (part.n_rows > 0 && rows.at(rows.n_rows() - 1) >= weight.n_rows()))
        return corrupt("tensor " + part.ref.key + " of shape " + shape_text(weight.shape) + " cannot give an operator of " + std::to_string(part.n_rows) + " x " + std::to_string(part.n_columns));
    return weight;
}

Result<DeviceWeights::Sources> DeviceWeights::load_all(const std::vector<WeightRows>& parts) const {
    Sources all;
    all.weights.reserve(parts.size());
    for (const WeightRows& part : parts) {
        if (part.ref.empty()) {
            all.rows.push_back({nullptr, RowMap::all(part.n_rows)});
            continue;
        }
        SKIFF_TRY(auto weight, load(part));
        all.weights.push_back(std::move(weight));
        all.rows.push_back({&all.weights.back(), part.ref.rows.block == 0 ? RowMap::all(all.weights.back().n_rows()) : part.ref.rows});
    }
    return all;
}

Result<bool> DeviceWeights::can_be_one(const std::vector<WeightRows>& parts) const {
    SKIFF_TRY(const Sources all, load_all(parts));
    return can_merge(all.rows);
}

Result<std::vector<GpuWeight>> DeviceWeights::matrices(const std::vector<WeightRows>& parts, Interleave interleave) {
    std::string key = key_of(parts, interleave);
    if (const auto found = packed_.find(key); found != packed_.end()) return found->second;
    if (stream_ != nullptr) {  // a block's own: another block has another buffer
        key = std::to_string(stream_->n_blocks()) + key;
        if (const auto found = packed_.find(key); found != packed_.end()) return found->second;
    }
    SKIFF_TRY(const Sources all, load_all(parts));
    const std::vector<RowSource>& sources = all.rows;
    std::vector<std::vector<RowSource>> groups;
    if (sources.size() == 1 || can_merge(sources)) groups = {sources};
    else if (interleave == Interleave::none)
        for (const RowSource& source : sources) groups.push_back({source});
    std::vector<GpuWeight> result;
    for (const auto& group : groups) {
        SKIFF_TRY(const auto packed, pack_gpu(group, interleave, pool_));
        // Two of four have kernels of their own; of all other patterns a tile is read whole.
        for (const RowSource& source : group) n_written_out_ += source.weight->sparse() != nullptr && !packed.shape.two_of_four ? 1 : 0;
        std::byte* address = nullptr;
        if (stream_ != nullptr) {
            SKIFF_TRY(const std::size_t offset, stream_->add(packed.blob.data(), packed.size_bytes()));
            address = imaginary_base() + offset;
        } else {
            SKIFF_TRY(address, device_.allocate(packed.size_bytes(), "tensor " + parts[0].ref.key));
            SKIFF_CHECK(device_.upload(address, packed.blob.data(), packed.size_bytes(), pool_));
        }
        result.push_back(packed.at(address));
        bytes_[result.back().codes] = packed.size_bytes();
        weight_bytes_ += packed.size_bytes();
    }
    for (const Weight& weight : all.weights) release_pages(weight);
    packed_.emplace(key, result);
    return result;
}

Result<std::optional<SparseRows>> DeviceWeights::pack_sparse(const std::vector<WeightRows>& parts) const {
    SKIFF_TRY(const Sources all, load_all(parts));
    return pack_sparse_rows(all.rows);
}

Result<std::optional<DeviceWeights::Aside>> DeviceWeights::sparse(const std::vector<WeightRows>& parts) {
    const std::string key = key_of(parts, Interleave::none);
    if (const auto found = sparse_.find(key); found != sparse_.end()) return std::optional<Aside>(found->second);
    SKIFF_TRY(const auto packed, pack_sparse(parts));
    if (!packed) return std::optional<Aside>();
    Aside sparse;
    SKIFF_TRY(sparse.entries, device_.upload_new(packed->entries, "numbers kept aside"));
    SKIFF_TRY(sparse.begins, device_.upload_new(packed->begins, "numbers kept aside"));
    sparse.values = packed->values;
    sparse.size_bytes = packed->size_bytes();
    weight_bytes_ += sparse.size_bytes;
    sparse_.emplace(key, sparse);
    return std::optional<Aside>(sparse);
}

Result<std::vector<float>> DeviceWeights::numbers(const TensorRef& ref, std::int64_t size, float offset) {
    std::vector<float> values;
    if (ref.empty()) return values;
    SKIFF_TRY(const auto weight, load_declared(spec_, source_, ref));
    SKIFF_TRY(values, vector_of(weight, ref, size, offset));
    return values;
}

Result<const float*> DeviceWeights::vector(const std::vector<float>& values) {
    if (values.empty()) return static_cast<const float*>(nullptr);
    const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    if (const auto found = vectors_.find(bytes); found != vectors_.end()) return found->second;
    SKIFF_TRY(const float* address, device_.upload_new(values, "a vector of the model"));
    vectors_.emplace(bytes, address);
    return address;
}

std::uint64_t DeviceWeights::bytes_of(const GpuWeight& weight) const {
    const auto found = bytes_.find(weight.codes);
    return found == bytes_.end() ? 0 : found->second;
}

}  // namespace skiff::cuda

#include "plan/weight_pool.h"

#include <sys/mman.h>
#include <unistd.h>

namespace skiff {
namespace {

std::string ref_key(const TensorRef& ref) {
    return ref.key + "|" + std::to_string(ref.rows.begin) + "," + std::to_string(ref.rows.block) + "," + std::to_string(ref.rows.stride) + "," +
           std::to_string(ref.rows.n_blocks) + (ref.transposed ? "|t" : "");
}

// (columns, rows) to (rows, columns), same type.
Weight transpose(const Weight& weight) {
    const TensorView& view = *weight.plain();
    const std::int64_t n_columns = weight.shape[0], n_rows = weight.shape[1], size = dtype_info(view.dtype).bits / 8;
    std::vector<std::byte> bytes(view.data.size());
    for (std::int64_t row = 0; row < n_rows; ++row)
        for (std::int64_t column = 0; column < n_columns; ++column)
            std::memcpy(bytes.data() + (row * n_columns + column) * size, view.data.data() + (column * n_rows + row) * size,
                        static_cast<std::size_t>(size));
    return make_plain_weight({n_rows, n_columns}, view.dtype, std::move(bytes));
}

// Gives back the page cache of a mapped tensor that has been copied, so that peak memory is not twice the model.
void drop_pages(const Weight& weight) {
    if (!weight.file_backed || weight.plain() == nullptr) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    auto begin = reinterpret_cast<std::uintptr_t>(weight.plain()->data.data());
    auto end = (begin + weight.plain()->data.size()) / page * page;
    begin = (begin + page - 1) / page * page;
    if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

Result<Weight> WeightPool::load(const TensorRef& ref) {
    auto loaded = source_.load(ref.key);
    if (!loaded.ok()) return loaded.take_error();
    auto declared = spec_.tensors.find(ref.key);
    if (declared != spec_.tensors.end()) {
        Shape expected = spec_.shape(declared->second);
        Shape found = loaded->shape;
        // Codes and blocks of a tensor declared as (inputs, outputs) are held as (outputs, inputs).
        if (ref.transposed && loaded->plain() == nullptr) std::swap(expected[0], expected[1]);
        if (found != expected)
            return corrupt("tensor " + ref.key + " has shape " + shape_text(found) + ", config.json implies " + shape_text(expected));
        const TensorView* plain = loaded->plain();
        if (plain != nullptr && !dtype_info(plain->dtype).is_float && declared->second.role != TensorDecl::Role::other)
            return corrupt("tensor " + ref.key + " has type " + loaded->encoding_name() + ", which is none for weights; expected F32, F16 or BF16");
    }
    if (ref.transposed && loaded->plain() != nullptr) {
        if (dtype_info(loaded->plain()->dtype).to_float == nullptr) return unsupported("tensor " + ref.key + " has a type that is no number");
        Weight turned = transpose(*loaded);
        drop_pages(*loaded);
        return turned;
    }
    return loaded;
}

Result<std::shared_ptr<const PackedWeight>> WeightPool::packed(const TensorRef& ref, std::int64_t n_rows, std::int64_t n_columns) {
    const std::string key = ref_key(ref);
    if (auto found = packed_.find(key); found != packed_.end()) return found->second;
    SKIFF_TRY(auto weight, load(ref));
    RowMap rows = ref.rows.block == 0 ? RowMap::all(weight.n_rows()) : ref.rows;
    if (rows.n_rows() != n_rows || weight.n_columns() != n_columns || rows.at(rows.n_rows() - 1) >= weight.n_rows())
        return corrupt("tensor " + ref.key + " of shape " + shape_text(weight.shape) + " cannot give an operator of " + std::to_string(n_rows) +
                       " x " + std::to_string(n_columns));
    const Layout* layout = choose_layout(weight, options_.isa, options_.kernels);
    if (layout == nullptr) return unsupported("tensor " + ref.key + " (" + weight.encoding_name() + "): no kernel reads this type");
    auto packed = std::make_shared<const PackedWeight>(pack_weight(*layout, weight, rows));
    if (packed->buffer.size_bytes() > 0) drop_pages(weight);
    packed_.emplace(key, packed);
    all_.push_back(packed);
    return packed;
}

Result<std::shared_ptr<const std::vector<float>>> WeightPool::vector(const TensorRef& ref, std::int64_t size, float offset) {
    auto values = std::make_shared<std::vector<float>>();
    if (ref.empty()) return std::shared_ptr<const std::vector<float>>(values);
    const std::string key = ref_key(ref) + "|" + std::to_string(offset);
    if (auto found = vectors_.find(key); found != vectors_.end()) return found->second;
    SKIFF_TRY(auto weight, load(ref));
    std::vector<float> all;
    if (weight.plain() == nullptr || !to_floats(*weight.plain(), all))
        return unsupported("tensor " + ref.key + " (" + weight.encoding_name() + "): expected plain numbers");
    RowMap rows = ref.rows.block == 0 ? RowMap::all(static_cast<std::int64_t>(all.size())) : ref.rows;
    if (rows.n_rows() != size || (size > 0 && rows.at(size - 1) >= static_cast<std::int64_t>(all.size())))
        return corrupt("tensor " + ref.key + " has " + std::to_string(all.size()) + " entries, its operator needs " + std::to_string(size));
    for (std::int64_t i = 0; i < size; ++i) values->push_back(all[static_cast<std::size_t>(rows.at(i))] + offset);
    vectors_.emplace(key, values);
    return std::shared_ptr<const std::vector<float>>(values);
}

}  // namespace skiff

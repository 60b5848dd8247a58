#include "plan/weight_pool.h"

#include <cstdio>

#include "kernels/layouts.h"
#include "plan/mask_choice.h"

namespace skiff {

std::string tensor_ref_key(const TensorRef& ref) {
    return ref.key + "|" + std::to_string(ref.rows.begin) + "," + std::to_string(ref.rows.block) + "," + std::to_string(ref.rows.stride) + "," +
           std::to_string(ref.rows.n_blocks) + (ref.transposed ? "|t" : "");
}

PackCache WeightPool::open_cache() const {
    if (options_.pack_cache.folder.empty()) return {};
    return PackCache(options_.pack_cache, {source_.identity(), options_.isa, options_.kernels, options_.n_load_threads});
}

ThreadPool& WeightPool::threads() {
    if (!threads_) threads_.emplace(options_.n_load_threads);
    return *threads_;
}

const PackCache& WeightPool::finish_cache() {
    threads_.reset();
    cache_.finish();
    if (cache_.outcome() == PackCache::Outcome::written)  // what was packed lies in the new file
        for (LoadedWeight& loaded : all_) loaded.mapped = loaded.mapped || loaded.weight->layout->sections != nullptr;
    return cache_;
}

Result<std::uint64_t> WeightPool::place() {
    auto moved = place_weights(options_.weight_pages, all_, threads());
    threads_.reset();
    return moved;
}

std::vector<std::shared_ptr<const PackedWeight>> WeightPool::all() const {
    std::vector<std::shared_ptr<const PackedWeight>> weights;
    for (const LoadedWeight& loaded : all_) weights.push_back(loaded.weight);
    return weights;
}

Result<Weight> load_declared(const ModelSpec& spec, const WeightSource& source, const TensorRef& ref) {
    auto loaded = source.load(ref.key);
    if (!loaded.ok()) return loaded.take_error();
    auto declared = spec.tensors.find(ref.key);
    if (declared != spec.tensors.end()) {
        Shape expected = spec.shape(declared->second);
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
        Weight turned = transposed(*loaded);
        release_pages(*loaded);
        return turned;
    }
    return loaded;
}

Result<std::vector<float>> vector_of(const Weight& weight, const TensorRef& ref, std::int64_t size, float offset) {
    std::vector<float> all, values;
    if (weight.plain() == nullptr || !to_floats(*weight.plain(), all))
        return unsupported("tensor " + ref.key + " (" + weight.encoding_name() + "): expected plain numbers");
    const RowMap rows = ref.rows.block == 0 ? RowMap::all(static_cast<std::int64_t>(all.size())) : ref.rows;
    if (rows.n_rows() != size || (size > 0 && rows.at(size - 1) >= static_cast<std::int64_t>(all.size())))
        return corrupt("tensor " + ref.key + " has " + std::to_string(all.size()) + " entries, its operator needs " + std::to_string(size));
    for (std::int64_t i = 0; i < size; ++i) values.push_back(all[static_cast<std::size_t>(rows.at(i))] + offset);
    return values;
}

// A sparse weight that no kernel reads faster than its dense form gets its zeros back, and a hashed one its blocks.
const Layout* WeightPool::layout_for(Weight& weight) {
    const Layout* layout = choose_layout(weight, options_.isa, options_.kernels);
    if (layout == &sparse_rows && weight.hashed() != nullptr && options_.kernels == KernelChoice::fastest) {
        ++written_out_[weight.encoding_name() + " run with their blocks written out: no kernel of this instruction set gathers them"];
        weight = written_out(weight);
        return choose_layout(weight, options_.isa, options_.kernels);
    }
    if (layout == nullptr || weight.sparse() == nullptr || options_.kernels == KernelChoice::reference) return layout;
    const MaskMeasurement* masks = layout->name.ends_with("_mask") ? measured_masks(weight, options_.isa) : nullptr;
    if (layout != &sparse_rows && (masks == nullptr || masks_pay(*masks))) return layout;
    char speed[16] = {};
    if (masks != nullptr) std::snprintf(speed, sizeof speed, "%.2f", masks->speed);
    ++written_out_[weight.encoding_name() + " run with their zeros written out: " +
                   (masks == nullptr ? "leaving them out would not be faster in this pattern and number of bits" : "masks of " + std::to_string(masks->bits) + " bits reached " + speed + " of the dense speed where so many weights were kept")];
    weight = densified(weight);
    return choose_layout(weight, options_.isa, options_.kernels);
}

std::vector<std::string> WeightPool::remarks() const {
    std::vector<std::string> remarks;
    for (const auto& [what, n] : written_out_) remarks.push_back(std::to_string(n) + " weights of " + what);
    return remarks;
}

Result<std::shared_ptr<const PackedWeight>> WeightPool::packed(const TensorRef& ref, std::int64_t n_rows, std::int64_t n_columns) {
    const std::string key = tensor_ref_key(ref);
    if (auto found = packed_.find(key); found != packed_.end()) return found->second;
    if (auto cached = cache_.find(key, n_rows, n_columns)) return keep(key, {std::move(cached), true});
    SKIFF_TRY(auto weight, load(ref));
    RowMap rows = ref.rows.block == 0 ? RowMap::all(weight.n_rows()) : ref.rows;
    if (rows.n_rows() != n_rows || weight.n_columns() != n_columns || rows.at(rows.n_rows() - 1) >= weight.n_rows())
        return corrupt("tensor " + ref.key + " of shape " + shape_text(weight.shape) + " cannot give an operator of " + std::to_string(n_rows) +
                       " x " + std::to_string(n_columns));
    const Layout* layout = layout_for(weight);
    if (layout == nullptr) return unsupported("tensor " + ref.key + " (" + weight.encoding_name() + "): no kernel reads this type");
    auto packed = std::make_shared<PackedWeight>(pack_weight(*layout, weight, rows, &threads()));
    const bool copied = packed->buffer.size_bytes() > 0;
    if (copied) release_pages(weight);
    cache_.add(key, packed, copied || !weight.file_backed ? PackRecord::Form::packed : PackRecord::Form::as_stored);
    return keep(key, {std::move(packed), weight.file_backed && !copied});
}

std::shared_ptr<const PackedWeight> WeightPool::keep(const std::string& key, LoadedWeight loaded) {
    packed_.emplace(key, loaded.weight);
    all_.push_back(loaded);
    return loaded.weight;
}

Result<std::shared_ptr<const std::vector<float>>> WeightPool::vector(const TensorRef& ref, std::int64_t size, float offset) {
    auto values = std::make_shared<std::vector<float>>();
    if (ref.empty()) return std::shared_ptr<const std::vector<float>>(values);
    const std::string key = tensor_ref_key(ref) + "|" + std::to_string(offset);
    if (auto found = vectors_.find(key); found != vectors_.end()) return found->second;
    SKIFF_TRY(auto weight, load(ref));
    SKIFF_TRY(*values, vector_of(weight, ref, size, offset));
    vectors_.emplace(key, values);
    return std::shared_ptr<const std::vector<float>>(values);
}

}  // namespace skiff

#include "model/axes.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace skiff {
namespace {

const AxisPart& only_part(const ModelSpec& spec, ValueId value) { return spec.values[static_cast<std::size_t>(value)].dimension.front(); }

Status check_kept(const Axis& axis, std::span<const std::int64_t> kept) {
    if (kept.empty()) return usage_error("axis " + axis.name + ": nothing would be left");
    for (std::size_t i = 0; i < kept.size(); ++i)
        if (kept[i] < 0 || kept[i] >= axis.size || (i > 0 && kept[i] <= kept[i - 1]))
            return usage_error("axis " + axis.name + ": the units kept must ascend from 0 to " + std::to_string(axis.size - 1) + ", found " +
                               std::to_string(kept[i]));
    return {};
}

Status check_multiple(const Axis& axis, std::size_t n_kept) {
    if (static_cast<std::int64_t>(n_kept) % axis.multiple_of == 0) return {};
    return usage_error("axis " + axis.name + ": " + std::to_string(n_kept) + " of " + std::to_string(axis.size) +
                       " units would stay, it must be a multiple of " + std::to_string(axis.multiple_of));
}

// Query heads by themselves: each KV head must keep equally many.
Status check_groups(const Axis& heads, const AttentionOp& op, std::span<const std::int64_t> kept) {
    const std::int64_t per_group = op.n_heads / op.n_kv_heads;
    std::vector<std::int64_t> left(static_cast<std::size_t>(op.n_kv_heads), 0);
    for (std::int64_t head : kept) ++left[static_cast<std::size_t>(head / per_group)];
    for (std::int64_t n : left)
        if (n != left[0] || n == 0)
            return usage_error("axis " + heads.name +
                               ": every KV head must keep equally many query heads; cut the KV heads' axis to remove whole groups");
    return {};
}

// Every index list that lowering can follow is n_blocks runs of equal length at equal distance.
Result<RowMap> to_row_map(const std::vector<std::int64_t>& rows) {
    if (rows.empty()) return usage_error("no row would be left");
    const auto n = static_cast<std::int64_t>(rows.size());
    RowMap map;
    map.begin = rows[0];
    map.block = 1;
    while (map.block < n && rows[static_cast<std::size_t>(map.block)] == rows[0] + map.block) ++map.block;
    map.n_blocks = n / map.block;
    map.stride = map.n_blocks > 1 ? rows[static_cast<std::size_t>(map.block)] - rows[0] : map.block;
    for (std::int64_t i = 0; i < n; ++i)
        if (n % map.block != 0 || rows[static_cast<std::size_t>(i)] != map.at(i)) return unsupported("the rows that stay have no regular pattern");
    return map;
}

// The row map of a reference after the cut: the rows it had, less those that go, at their new places.
Status cut_rows(const ModelSpec& before, const AxisCut& cut, TensorRef& ref) {
    auto declared = before.tensors.find(ref.key);
    if (ref.rows.block == 0 || declared == before.tensors.end()) return {};
    const Dimension& rows = declared->second.dimensions[ref.transposed ? 1 : 0];
    const std::vector<std::int64_t> kept = kept_entries(before, rows, cut);
    std::vector<std::int64_t> stay;
    for (std::int64_t i = 0; i < ref.rows.n_rows(); ++i) {
        auto found = std::lower_bound(kept.begin(), kept.end(), ref.rows.at(i));
        if (found != kept.end() && *found == ref.rows.at(i)) stay.push_back(found - kept.begin());
    }
    auto map = to_row_map(stay);
    if (!map.ok()) return map.take_error().with_context("tensor " + ref.key);
    ref.rows = *map;
    return {};
}

void cut_attention(const ModelSpec& spec, const Op& op, AttentionOp& attention) {
    attention.n_heads = spec.width(op.in[0]) / attention.head_dim;
    attention.n_kv_heads = spec.width(op.in[1]) / attention.head_dim;
    attention.state.key_width = spec.width(op.in[1]);
    attention.state.value_width = spec.width(op.in[2]);
}

class SlicedWeights final : public WeightSource {
public:
    SlicedWeights(std::shared_ptr<WeightSource> source, ModelSpec before, std::string axis, std::span<const std::int64_t> kept)
        : source_(std::move(source)), before_(std::move(before)), axis_(std::move(axis)), kept_(kept.begin(), kept.end()) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        SKIFF_TRY(auto weight, source_->load(key));
        auto declared = before_.tensors.find(key);
        if (declared == before_.tensors.end()) return weight;
        return slice_weight(weight, before_, declared->second, axis_, kept_);
    }

private:
    std::shared_ptr<WeightSource> source_;
    ModelSpec before_;
    std::string axis_;
    std::vector<std::int64_t> kept_;
};

}  // namespace

std::vector<AxisUse> axis_uses(const ModelSpec& spec, const std::string& axis) {
    std::vector<AxisUse> uses;
    for (const auto& [key, tensor] : spec.tensors)
        for (std::size_t d = 0; d < tensor.dimensions.size(); ++d)
            for (std::size_t p = 0; p < tensor.dimensions[d].size(); ++p)
                if (tensor.dimensions[d][p].axis == axis) uses.push_back({key, d, p});
    return uses;
}

Result<AxisCut> coupled_cut(const ModelSpec& spec, const std::string& axis, std::span<const std::int64_t> kept) {
    const Axis* found = spec.find_axis(axis);
    if (found == nullptr) return not_found("the model has no axis \"" + axis + "\"");
    SKIFF_CHECK(check_kept(*found, kept));
    AxisCut cut = {{axis, {kept.begin(), kept.end()}}};
    bool is_heads = false;
    for (const Block& block : spec.blocks) {
        for (const Op& op : block.ops) {
            if (auto* embed = std::get_if<EmbedOp>(&op.detail); embed != nullptr && embed->index == EmbedOp::Index::position)
                if (spec.tensors.at(embed->table.key).dimensions[0].front().axis == axis && kept.back() + 1 != static_cast<std::int64_t>(kept.size()))
                    return usage_error("axis " + axis + ": positions can only be cut from the end");
            auto* attention = std::get_if<AttentionOp>(&op.detail);
            if (attention == nullptr) continue;
            const AxisPart &heads = only_part(spec, op.in[0]), &kv_heads = only_part(spec, op.in[1]);
            if (heads.axis == axis && kv_heads.axis != axis) {
                is_heads = true;
                SKIFF_CHECK(check_groups(*found, *attention, kept));
            }
            if (kv_heads.axis != axis || heads.axis == axis) continue;
            const std::int64_t per_group = attention->n_heads / attention->n_kv_heads;
            std::vector<std::int64_t> queries;
            for (std::int64_t group : kept)
                for (std::int64_t i = 0; i < per_group; ++i) queries.push_back(group * per_group + i);
            cut[heads.axis] = std::move(queries);
        }
    }
    if (!is_heads) SKIFF_CHECK(check_multiple(*found, kept.size()));
    return cut;
}

std::vector<std::int64_t> kept_entries(const ModelSpec& before, const Dimension& dimension, const AxisCut& cut) {
    std::vector<std::int64_t> entries;
    std::int64_t begin = 0;
    for (const AxisPart& part : dimension) {
        const Axis* axis = before.find_axis(part.axis);
        const std::int64_t size = axis != nullptr ? axis->size : 0;
        auto found = cut.find(part.axis);
        for (std::int64_t i = 0; i < (found != cut.end() ? static_cast<std::int64_t>(found->second.size()) : size); ++i) {
            const std::int64_t unit = found != cut.end() ? found->second[static_cast<std::size_t>(i)] : i;
            for (std::int64_t j = 0; j < part.unit; ++j) entries.push_back(begin + unit * part.unit + j);
        }
        begin += size * part.unit;
    }
    return entries;
}

Result<ModelSpec> slice_axis(const ModelSpec& spec, const std::string& axis, std::span<const std::int64_t> kept) {
    SKIFF_TRY(auto cut, coupled_cut(spec, axis, kept));
    ModelSpec after = spec;
    for (Axis& changed : after.axes)
        if (auto found = cut.find(changed.name); found != cut.end()) changed.size = static_cast<std::int64_t>(found->second.size());
    for (Block& block : after.blocks) {
        for (Op& op : block.ops) {
            Status status;
            for_each_tensor_ref(op, [&](TensorRef& ref) {
                if (status.ok()) status = cut_rows(spec, cut, ref);
            });
            if (!status.ok()) return status.take_error().with_context(op.name);
            if (auto* conv = std::get_if<CausalConvOp>(&op.detail)) conv->state.key_width = after.width(op.in[0]);
            auto* attention = std::get_if<AttentionOp>(&op.detail);
            if (attention == nullptr) continue;
            cut_attention(after, op, *attention);
            for (Axis& heads : after.axes)
                if (heads.name == only_part(after, op.in[0]).axis) heads.multiple_of = attention->n_kv_heads;
        }
    }
    after.n_vocab = after.width(after.logits);
    after.d_model = after.width(after.blocks.back().in);
    if (const Axis* positions = after.find_axis("positions")) after.max_positions -= spec.find_axis("positions")->size - positions->size;
    return after;
}

Result<Weight> slice_weight(const Weight& weight, const ModelSpec& before, const TensorDecl& tensor, const std::string& axis,
                            std::span<const std::int64_t> kept) {
    SKIFF_TRY(const auto cut, coupled_cut(before, axis, kept));
    return gather_units(weight, before, tensor, cut);
}

Result<Weight> gather_units(const Weight& weight, const ModelSpec& before, const TensorDecl& tensor, const AxisCut& cut) {
    bool touched = false;
    for (const Dimension& dimension : tensor.dimensions)
        for (const AxisPart& part : dimension) touched = touched || cut.count(part.axis) > 0;
    if (!touched) return weight;
    if (weight.plain() == nullptr)
        return unsupported("tensor " + tensor.key + " (" + weight.encoding_name() + ") is quantized; cut the model before quantizing it");
    bool cut_behind = false;  // a kernel's taps, say: they stay together with the second dimension
    for (std::size_t d = 2; d < tensor.dimensions.size(); ++d)
        for (const AxisPart& part : tensor.dimensions[d]) cut_behind = cut_behind || cut.count(part.axis) > 0;
    if (weight.shape != before.shape(tensor) || tensor.dimensions.empty() || cut_behind)
        return corrupt("tensor " + tensor.key + " has shape " + shape_text(weight.shape) + ", the model implies " + shape_text(before.shape(tensor)));
    const auto size = static_cast<std::size_t>(dtype_info(weight.plain()->dtype).bits / 8);
    if (size == 0) return unsupported("tensor " + tensor.key + " (" + weight.encoding_name() + ") has numbers of less than a byte");
    const std::vector<std::int64_t> rows = kept_entries(before, tensor.dimensions[0], cut);
    const std::size_t n_dimensions = tensor.dimensions.size();
    const std::int64_t behind = n_dimensions > 2 ? element_count(Shape(weight.shape.begin() + 2, weight.shape.end())) : 1;
    std::vector<std::int64_t> columns = {0};
    if (n_dimensions >= 2) {
        columns.clear();
        for (std::int64_t entry : kept_entries(before, tensor.dimensions[1], cut))
            for (std::int64_t i = 0; i < behind; ++i) columns.push_back(entry * behind + i);
    }
    const std::size_t row_bytes = static_cast<std::size_t>(n_dimensions >= 2 ? weight.shape[1] * behind : 1) * size;
    std::vector<std::byte> bytes(rows.size() * columns.size() * size);
    std::byte* target = bytes.data();
    for (std::int64_t row : rows) {
        const std::byte* source = weight.plain()->data.data() + static_cast<std::size_t>(row) * row_bytes;
        for (std::int64_t column : columns) {
            std::memcpy(target, source + static_cast<std::size_t>(column) * size, size);
            target += size;
        }
    }
    Shape shape = {static_cast<std::int64_t>(rows.size())};
    if (n_dimensions >= 2) shape.push_back(static_cast<std::int64_t>(columns.size()) / behind);
    for (std::size_t d = 2; d < n_dimensions; ++d) shape.push_back(weight.shape[d]);
    return make_plain_weight(shape, weight.plain()->dtype, std::move(bytes));
}

Result<std::shared_ptr<WeightSource>> sliced_weights(std::shared_ptr<WeightSource> source, const ModelSpec& before, const std::string& axis,
                                                     std::span<const std::int64_t> kept) {
    SKIFF_TRY(auto cut, coupled_cut(before, axis, kept));
    return std::shared_ptr<WeightSource>(std::make_shared<SlicedWeights>(std::move(source), before, axis, kept));
}

}  // namespace skiff

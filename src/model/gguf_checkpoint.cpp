// A GGUF file as a checkpoint: names, row orders and norm weights are turned back into Hugging Face's, so that nothing else knows GGUF.
#include <set>

#include "base/file_identity.h"
#include "base/mapped_file.h"
#include "formats/gguf.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"
#include "model/gguf_config.h"
#include "model/gguf_tokenizer.h"

namespace skiff {
namespace {

// Plain numbers or blocks, `row_bytes` each row.
std::span<const std::byte> bytes_of(const Weight& weight) { return weight.plain() != nullptr ? weight.plain()->data : weight.blocks()->data; }

Weight with_bytes(const Weight& like, Shape shape, std::vector<std::byte> bytes) {
    Weight weight = make_plain_weight({static_cast<std::int64_t>(bytes.size())}, DType::u8, std::move(bytes));
    const std::span<const std::byte> data = weight.plain()->data;
    if (like.plain() != nullptr) weight.store = TensorView{like.plain()->dtype, shape, data};
    else weight.store = Blocks{like.blocks()->type, data};
    weight.shape = std::move(shape);
    return weight;
}

class GgufWeights final : public WeightSource {
public:
    GgufWeights(GgufFile file, const GgufMap& map, std::vector<std::string> keys, std::int64_t head_dim)
        : file_(std::move(file)), map_(map), keys_(std::move(keys)), head_dim_(head_dim) {}

    bool contains(const std::string& key) const override {
        const auto place = gguf_place_of(map_, key);
        return place && file_.find(place->name) != nullptr;
    }
    std::vector<std::string> keys() const override { return keys_; }

    Result<Weight> load(const std::string& key) const override {
        const auto place = gguf_place_of(map_, key);
        const GgufTensor* tensor = place ? file_.find(place->name) : nullptr;
        if (tensor == nullptr) return not_found("tensor " + (place ? place->name : key) + " is not in the file, though its metadata imply it");
        SKIFF_TRY(auto weight, file_.weight(*tensor));
        weight.file_backed = true;
        if (place->expert >= 0) return expert(weight, place->expert, tensor->name);
        if (place->change == GgufChange::none) return weight;
        if (place->change == GgufChange::plus_one) return minus_one(weight, tensor->name);
        if (place->change == GgufChange::transposed) return weight.plain() != nullptr && weight.shape.size() == 2 ? transposed(weight) : weight;
        return reordered(weight, place->change, tensor->name);
    }

    std::string identity() const override {
        std::string text = "gguf";
        for (const auto& file : file_.files()) text += " " + file_identity(*file);
        return text;
    }

private:
    static Result<Weight> minus_one(const Weight& weight, const std::string& name) {
        std::vector<float> values;
        if (weight.plain() == nullptr || !to_floats(*weight.plain(), values))
            return unsupported("tensor " + name + " (" + weight.encoding_name() + "): expected plain numbers");
        for (float& value : values) value -= 1;
        return make_float_weight(weight.shape, std::move(values));
    }

    Result<Weight> reordered(const Weight& weight, GgufChange change, const std::string& name) const {
        const std::int64_t n_rows = weight.n_rows(), unit = change == GgufChange::regrouped_heads ? 3 * head_dim_ : head_dim_;
        if (n_rows % unit != 0 || head_dim_ % 2 != 0)
            return corrupt("tensor " + name + " has " + std::to_string(n_rows) + " rows, expected a multiple of " + std::to_string(unit));
        const auto source = bytes_of(weight);
        const std::size_t row_bytes = source.size() / static_cast<std::size_t>(n_rows);
        std::vector<std::byte> bytes(source.size());
        for (std::int64_t row = 0; row < n_rows; ++row) {
            const auto from = static_cast<std::size_t>(gguf_row_of(change, row, n_rows, head_dim_));
            std::memcpy(bytes.data() + static_cast<std::size_t>(row) * row_bytes, source.data() + from * row_bytes, row_bytes);
        }
        return with_bytes(weight, weight.shape, std::move(bytes));
    }

    // One of the matrices of (experts, outputs, inputs); it stays in the mapping.
    static Result<Weight> expert(Weight weight, std::int64_t number, const std::string& name) {
        if (weight.shape.size() != 3 || number >= weight.shape[0])
            return corrupt("tensor " + name + " of shape " + shape_text(weight.shape) + " has no expert " + std::to_string(number));
        const std::size_t size = bytes_of(weight).size() / static_cast<std::size_t>(weight.shape[0]);
        const auto part = bytes_of(weight).subspan(static_cast<std::size_t>(number) * size, size);
        weight.shape.erase(weight.shape.begin());
        if (auto* plain = std::get_if<TensorView>(&weight.store)) *plain = {plain->dtype, weight.shape, part};
        else std::get<Blocks>(weight.store).data = part;
        return weight;
    }

    GgufFile file_;
    const GgufMap& map_;
    std::vector<std::string> keys_;
    std::int64_t head_dim_;
};

std::int64_t head_dim_of(const ModelSpec& spec) {
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops)
            if (const auto* attention = std::get_if<AttentionOp>(&op.detail)) return attention->head_dim;
    return 1;
}

// Tensors that the rope keys account for, or buffers that old converters left in.
bool is_known_extra(std::string_view name) {
    for (std::string_view known : {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
        if (name == known) return true;
    return name.find(".attn_rot_embd.") != std::string_view::npos || name.find(".attn.masked_bias") != std::string_view::npos ||
           name.find(".attention.rotary_emb.inv_freq") != std::string_view::npos;
}

// Every tensor of the file must have an operator: one that nobody reads could change the result.
Result<std::vector<std::string>> match_tensors(const GgufFile& file, const GgufMap& map, const ModelSpec& spec) {
    std::set<std::string, std::less<>> used;
    std::vector<std::string> keys;
    for (const auto& [key, tensor] : spec.tensors) {
        const auto place = gguf_place_of(map, key);
        if (!place || file.find(place->name) == nullptr) {
            if (tensor.need == TensorDecl::Need::optional) continue;
            return corrupt("tensor " + (place ? place->name : key) + " is not in the file, though its metadata imply it");
        }
        used.insert(place->name);
        keys.push_back(key);
    }
    for (const GgufTensor& tensor : file.tensors())
        if (used.count(tensor.name) == 0 && !is_known_extra(tensor.name))
            return unsupported("tensor " + tensor.name + " is not known for architecture " + std::string(map.gguf_name) +
                               " and may change the result");
    return keys;
}

std::string stem_of(const std::string& path) {
    std::string name = base_name(path);
    if (const auto split = parse_gguf_split_name(path)) name = base_name(split->prefix);
    const std::size_t dot = name.rfind('.');
    return dot == std::string::npos || dot == 0 ? name : name.substr(0, dot);
}

Result<Checkpoint> open_file(const std::string& path) {
    Checkpoint checkpoint;
    checkpoint.kind = Checkpoint::Kind::gguf;
    checkpoint.path = path;
    checkpoint.name = stem_of(path);
    SKIFF_TRY(auto file, GgufFile::open(path));
    SKIFF_TRY(auto read, read_gguf_config(file));
    checkpoint.config = std::move(read.config);
    if (const Architecture* row = find_architecture(read.map->model_type)) checkpoint.config.set("architectures", Json::array({Json(row->hf_class)}));
    SKIFF_TRY(checkpoint.spec, build_spec(checkpoint.config));
    SKIFF_TRY(auto keys, match_tensors(file, *read.map, checkpoint.spec));
    const std::int64_t head_dim = head_dim_of(checkpoint.spec);
    checkpoint.weights = std::make_shared<GgufWeights>(std::move(file), *read.map, std::move(keys), head_dim);
    return checkpoint;
}

}  // namespace

Result<Checkpoint> open_gguf_checkpoint(const std::string& path) {
    auto checkpoint = open_file(path);
    if (!checkpoint.ok() && checkpoint.error().to_string().find(path) == std::string::npos) return checkpoint.take_error().with_context(path);
    return checkpoint;
}

Result<Tokenizer> load_gguf_tokenizer(const std::string& path) {
    SKIFF_TRY(auto file, GgufFile::open(path));
    auto tokenizer = read_gguf_tokenizer(file.metadata());
    if (!tokenizer.ok()) return tokenizer.take_error().with_context(path);
    return tokenizer;
}

}  // namespace skiff

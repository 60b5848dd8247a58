#include "compress/export_gguf.h"

#include <cmath>
#include <cstring>

#include "base/thread_pool.h"
#include "compress/export_gguf_types.h"
#include "compress/express_blocks.h"
#include "formats/gguf.h"
#include "model/dense_weights.h"
#include "model/gguf_metadata.h"
#include "model/gguf_tokenizer.h"

namespace skiff {
namespace {

const std::string& key_of_head(const ModelSpec& spec) {
    static const std::string none;
    const std::string* key = &none;
    for (const Op& op : spec.blocks.back().ops)
        if (const auto* linear = std::get_if<LinearOp>(&op.detail)) key = &linear->terms[0].weight.key;
    return *key;
}

// Vectors, norms, learned positions and routers are floats in every GGUF file. A tied embedding counts as the head.
ExportTensor::Part part_of(const ModelSpec& spec, const TensorDecl& tensor, const std::string& name) {
    const bool is_router = name.find(".ffn_gate_inp.") != std::string::npos;
    if (tensor.dimensions.size() < 2 || is_router || name == "position_embd.weight") return ExportTensor::Part::float_only;
    if (tensor.key == key_of_head(spec)) return ExportTensor::Part::head;
    return name == "token_embd.weight" ? ExportTensor::Part::embedding : ExportTensor::Part::linear;
}

class Planner {
public:
    Planner(const Checkpoint& checkpoint, GgufTypeChooser chooser) : checkpoint_(checkpoint), spec_(checkpoint.spec), chooser_(std::move(chooser)) {}
    Result<GgufExport> plan();

private:
    Status check_operators() const;
    Status add_tensor(const std::string& key);
    Status add_tensors();
    Status add_tokenizer();
    void add_general();

    const Checkpoint& checkpoint_;
    const ModelSpec& spec_;
    GgufTypeChooser chooser_;
    GgufDescription description_;
    std::map<std::string, std::size_t> by_name_;
    GgufExport out_;
};

Status Planner::check_operators() const {
    for (const Block& block : spec_.blocks)
        for (const Op& op : block.ops)
            if (const auto* linear = std::get_if<LinearOp>(&op.detail); linear != nullptr) {
                if (const auto why = why_not_one_matrix(op)) return unsupported(*why + ", for which GGUF has no form; --densify writes one matrix, or run the model as it is here");
                if (linear->transform.kind != InputTransform::Kind::none) return unsupported("operator " + op.name + " has an input transform, for which GGUF has no words");
            }
    return {};
}

Status Planner::add_tensor(const std::string& key) {
    const auto place = gguf_place_of(*description_.map, key);
    const TensorDecl& tensor = spec_.tensors.at(key);
    if (!place) return unsupported("tensor " + key + " has no name in GGUF");
    if (const auto found = by_name_.find(place->name); found != by_name_.end()) {  // the next expert
        ++out_.layout.tensors[found->second].shape[0];
        out_.tensors[found->second].keys.push_back(key);
        return {};
    }
    Shape shape = spec_.shape(tensor);
    Weight weight;
    const bool known = checkpoint_.kind != Checkpoint::Kind::random;
    if (known) {
        SKIFF_TRY(weight, checkpoint_.weights->load(key));
        const bool turned = place->change == GgufChange::transposed && weight.plain() == nullptr;
        if (weight.shape != (turned ? Shape{shape[1], shape[0]} : shape))
            return corrupt("tensor " + key + " has shape " + shape_text(weight.shape) + ", the config implies " + shape_text(shape));
        if (weight.sparse() != nullptr)
            return unsupported("tensor " + key + " is pruned (" + weight.encoding_name() + "), and GGUF has no form that leaves zeros out; --densify writes them out, or run the model as it is here");
    }
    if (place->change == GgufChange::transposed) std::swap(shape[0], shape[1]);
    const GgufType& type = chooser_.choose({place->name, shape, known ? &weight : nullptr, part_of(spec_, tensor, place->name)});
    if (place->expert >= 0) shape.insert(shape.begin(), 1);
    by_name_.emplace(place->name, out_.layout.tensors.size());
    out_.layout.tensors.push_back({place->name, &type, shape});
    out_.tensors.push_back({{key}, place->change, {}});
    return {};
}

// In the order of the operators, so that a file is read from front to back.
Status Planner::add_tensors() {
    std::vector<std::string> keys;
    std::map<std::string, bool> seen;
    auto add = [&](const TensorRef& ref) {
        if (!ref.empty() && !seen[ref.key]) keys.push_back(ref.key);
        if (!ref.empty()) seen[ref.key] = true;
    };
    for (const Block& block : spec_.blocks) {
        for (const Op& op : block.ops) {
            if (const auto* embed = std::get_if<EmbedOp>(&op.detail)) add(embed->table);
            if (const auto* norm = std::get_if<NormOp>(&op.detail)) {
                add(norm->weight);
                add(norm->bias);
            }
            if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
                add(linear->terms[0].weight);
                add(linear->bias);
            }
        }
    }
    for (const std::string& key : keys) SKIFF_CHECK(add_tensor(key));
    for (const GgufRopeTensor& rope : description_.ropes) {
        out_.layout.tensors.push_back({rope.name, gguf_type_by_name("F32"), {static_cast<std::int64_t>(rope.values.size())}});
        out_.tensors.push_back({{}, GgufChange::none, rope.values});
    }
    return {};
}

void Planner::add_general() {
    GgufMetadata& metadata = out_.layout.metadata;
    metadata.set("general.architecture", std::string(description_.map->gguf_name));
    metadata.set("general.name", checkpoint_.name);
    metadata.set("general.parameter_count", static_cast<std::uint64_t>(spec_.n_parameters()));
    metadata.set("general.file_type", chooser_.file_type());
    metadata.set("general.quantization_version", std::uint32_t{2});
    for (const auto& [key, value] : description_.metadata.entries()) metadata.set(key, value);
}

// Taken over as it is from a GGUF file, else translated.
Status Planner::add_tokenizer() {
    if (checkpoint_.kind == Checkpoint::Kind::gguf) {
        SKIFF_TRY(const auto file, GgufFile::open(checkpoint_.path));
        for (const auto& [key, value] : file.metadata().entries())
            if (key.compare(0, 10, "tokenizer.") == 0) out_.layout.metadata.set(key, value);
        return {};
    }
    auto tokenizer = checkpoint_.load_tokenizer();
    if (!tokenizer.ok() && tokenizer.error().code == ErrorCode::not_found) {
        out_.notes.push_back("the model has no tokenizer, so other programs can only measure its speed");
        out_.layout.metadata.set("tokenizer.ggml.model", std::string("no_vocab"));  // without the key they refuse the file
        return {};
    }
    if (!tokenizer.ok()) return tokenizer.take_error();
    return add_gguf_tokenizer(*tokenizer, spec_.n_vocab, out_.layout.metadata);
}

Result<GgufExport> Planner::plan() {
    SKIFF_CHECK(check_operators());
    SKIFF_TRY(description_, describe_as_gguf(spec_, checkpoint_.config));
    SKIFF_CHECK(add_tensors());
    add_general();
    SKIFF_CHECK(add_tokenizer());
    for (const std::string& note : description_.notes) out_.notes.push_back(note);
    for (const std::string& note : chooser_.notes()) out_.notes.push_back(note);
    for (const GgufTensorSpec& tensor : out_.layout.tensors) {
        SKIFF_TRY(const auto bytes, gguf_tensor_bytes(*tensor.type, tensor.shape));
        out_.data_bytes += bytes;
    }
    for (const Op& op : spec_.blocks[1].ops)
        if (const auto* attention = std::get_if<AttentionOp>(&op.detail)) out_.head_dim = attention->head_dim;
    return std::move(out_);
}

// One weight's rows in GGUF's order and type. A vector is one row.
class RowWriter {
public:
    RowWriter(GgufWriter& writer, ThreadPool& pool, const GgufTensorSpec& spec, GgufChange change, std::int64_t head_dim)
        : writer_(writer), pool_(pool), spec_(spec), change_(change), head_dim_(head_dim) {}

    Status write(const std::string& key, const Weight& weight) {
        if (weight.shape.size() < 2) return write_vector(weight);
        const std::int64_t n_rows = weight.n_rows(), row_bytes = weight.n_columns() / spec_.type->block_size * spec_.type->block_bytes;
        const std::int64_t batch = std::max<std::int64_t>(1, (std::int64_t{8} << 20) / std::max<std::int64_t>(1, row_bytes));
        exact_ = weight.codes() != nullptr && spec_.type->block && fit_of_codes(weight, *spec_.type->block) != Fit::none;
        std::vector<std::byte> bytes;
        for (std::int64_t begin = 0; begin < n_rows; begin += batch) {
            const std::int64_t n = std::min(batch, n_rows - begin);
            bytes.resize(static_cast<std::size_t>(n * row_bytes));
            std::vector<std::int64_t> bad(static_cast<std::size_t>(pool_.n_threads()), -1);
            pool_.run([&](int thread) {
                const Range share = share_of(n, thread, pool_.n_threads());
                std::vector<float> row(static_cast<std::size_t>(weight.n_columns()));
                for (std::int64_t i = share.begin; i < share.end; ++i) {
                    const std::int64_t from = row_of_gguf(change_, begin + i, n_rows, head_dim_);
                    if (!convert(weight, from, row, bytes.data() + i * row_bytes)) bad[static_cast<std::size_t>(thread)] = from;
                }
            });
            for (const std::int64_t row : bad)
                if (row >= 0)
                    return corrupt("tensor " + key + ": row " + std::to_string(row) + " has a number that is not finite or too large for " +
                                   std::string(spec_.type->name));
            SKIFF_CHECK(writer_.append_bytes(bytes));
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        }
        return {};
    }

private:
    Status write_vector(const Weight& weight) {
        std::vector<float> values;
        if (weight.plain() == nullptr || !to_floats(*weight.plain(), values))
            return unsupported("tensor " + spec_.name + " (" + weight.encoding_name() + "): expected plain numbers");
        std::vector<float> ordered(values.size());
        const auto n = static_cast<std::int64_t>(values.size());
        for (std::int64_t i = 0; i < n; ++i)
            ordered[static_cast<std::size_t>(i)] =
                values[static_cast<std::size_t>(row_of_gguf(change_, i, n, head_dim_))] + (change_ == GgufChange::plus_one ? 1.0f : 0.0f);
        return writer_.append_floats(ordered);
    }

    // False: a number that the type cannot hold.
    bool convert(const Weight& weight, std::int64_t row, std::vector<float>& floats, std::byte* target) const {
        const GgufType& type = *spec_.type;
        const auto n_columns = weight.n_columns();
        const auto copy = [&](std::span<const std::byte> data) {
            const std::size_t size = data.size() / static_cast<std::size_t>(weight.n_rows());
            std::memcpy(target, data.data() + static_cast<std::size_t>(row) * size, size);
            return true;
        };
        if (weight.plain() != nullptr && type.dtype == weight.plain()->dtype) return copy(weight.plain()->data);
        if (weight.blocks() != nullptr && type.block == weight.blocks()->type) return copy(weight.blocks()->data);
        if (exact_) {
            codes_row_to_blocks(weight, *type.block, row, target);
            return true;
        }
        weight.row(row, floats.data());
        const float limit = type.dtype == DType::f16 ? 65504.0f : std::numeric_limits<float>::max();
        for (const float value : floats)
            if (!(std::abs(value) <= limit)) return false;
        if (type.block) block_format(*type.block).encode(floats.data(), nullptr, n_columns, target);
        else dtype_info(*type.dtype).from_float(floats.data(), n_columns, target);
        return true;
    }

    GgufWriter& writer_;
    ThreadPool& pool_;
    const GgufTensorSpec& spec_;
    GgufChange change_;
    std::int64_t head_dim_;
    bool exact_ = false;
};

}  // namespace

Result<GgufExport> plan_gguf_export(const Checkpoint& checkpoint, const GgufExportOptions& options) {
    SKIFF_TRY(auto chooser, GgufTypeChooser::create(options));
    auto plan = Planner(checkpoint, std::move(chooser)).plan();
    if (!plan.ok()) return plan.take_error().with_context(checkpoint.path);
    return plan;
}

Status write_gguf_export(const Checkpoint& checkpoint, const GgufExport& plan, const std::string& path, int n_threads, const ProgressSink& progress) {
    SKIFF_TRY(auto writer, GgufWriter::create(path, plan.layout));
    ThreadPool pool(n_threads);
    std::uint64_t done = 0;
    for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
        const GgufTensorSpec& spec = plan.layout.tensors[i];
        const GgufExport::Tensor& tensor = plan.tensors[i];
        SKIFF_CHECK(writer.begin(spec.name));
        if (tensor.keys.empty()) SKIFF_CHECK(writer.append_floats(tensor.values));
        RowWriter rows(writer, pool, spec, tensor.change, plan.head_dim);
        for (const std::string& key : tensor.keys) {
            SKIFF_TRY(auto weight, checkpoint.weights->load(key));
            if (tensor.change == GgufChange::transposed && weight.plain() != nullptr && weight.shape.size() == 2) weight = transposed(weight);
            SKIFF_CHECK(rows.write(key, weight));
        }
        SKIFF_TRY(const auto bytes, gguf_tensor_bytes(*spec.type, spec.shape));
        done += bytes;
        if (progress) progress({"convert", spec.name, done, plan.data_bytes});
    }
    return writer.commit();
}

}  // namespace skiff

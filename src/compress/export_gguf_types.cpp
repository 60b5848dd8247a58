#include "compress/export_gguf_types.h"

#include <algorithm>

#include "compress/express_blocks.h"

namespace skiff {
namespace {

struct TypeRow {
    std::string_view name;
    std::uint32_t file_type;  // general.file_type of a model in this type
    std::string_view narrow;  // for widths that are no multiple of 256: what llama.cpp takes then
    std::string_view head;    // for the head and the embedding, unless they are given
};
constexpr TypeRow rows[] = {
    {"F32", 0, "", "F32"},        {"F16", 1, "", "F16"},        {"BF16", 32, "", "BF16"},     {"Q8_0", 7, "", "Q8_0"},
    {"Q4_0", 2, "", "Q8_0"},      {"Q4_1", 3, "", "Q8_0"},      {"Q5_0", 8, "", "Q8_0"},      {"Q5_1", 9, "", "Q8_0"},
    {"Q4_K", 14, "Q5_0", "Q6_K"}, {"Q5_K", 16, "Q5_1", "Q6_K"}, {"Q6_K", 18, "Q8_0", "Q6_K"}, {"IQ4_NL", 25, "", "Q8_0"},
};
// Types that are copied from a GGUF file but not made.
constexpr std::pair<std::string_view, std::uint32_t> copied_types[] = {{"Q2_K", 10},  {"Q3_K", 11},  {"IQ4_XS", 30},
                                                                       {"TQ1_0", 36}, {"TQ2_0", 37}, {"MXFP4", 38}};

const TypeRow* row_of(std::string_view name) {
    for (const TypeRow& row : rows)
        if (row.name == name) return &row;
    return nullptr;
}

Result<const GgufType*> parse(const std::string& name, std::string_view option) {
    if (name == "auto") return static_cast<const GgufType*>(nullptr);
    if (row_of(name) == nullptr) {
        std::string names = "auto";
        for (const TypeRow& row : rows) names += ", " + std::string(row.name);
        return usage_error(std::string(option) + " " + name + " cannot be written; known: " + names);
    }
    return gguf_type_by_name(name);
}

const GgufType& type_named(std::string_view name) { return *gguf_type_by_name(name); }

bool fills_blocks(const GgufType& type, const Shape& shape) { return shape.back() % type.block_size == 0; }

}  // namespace

std::vector<std::string> gguf_export_types() {
    std::vector<std::string> names;
    for (const TypeRow& row : rows) names.emplace_back(row.name);
    return names;
}

Result<GgufTypeChooser> GgufTypeChooser::create(const GgufExportOptions& options) {
    GgufTypeChooser chooser;
    SKIFF_TRY(chooser.type_, parse(options.type, "--type"));
    SKIFF_TRY(chooser.head_, parse(options.head_type, "--head-type"));
    SKIFF_TRY(chooser.embedding_, parse(options.embedding_type, "--embedding-type"));
    return chooser;
}

void GgufTypeChooser::note(const std::string& text, const std::string& tensor) { notes_[text].push_back(tensor); }

const GgufType* GgufTypeChooser::wanted(const ExportTensor& tensor) const {
    const GgufType* of_part = tensor.part == ExportTensor::Part::head ? head_ : tensor.part == ExportTensor::Part::embedding ? embedding_ : nullptr;
    if (of_part != nullptr) return of_part;
    if (tensor.part == ExportTensor::Part::linear || type_ == nullptr) return type_;
    return &type_named(row_of(type_->name)->head);
}

// The type that holds the numbers as they are.
const GgufType& GgufTypeChooser::keep(const ExportTensor& tensor) {
    if (tensor.weight == nullptr) return type_named("BF16");
    if (const Blocks* blocks = tensor.weight->blocks()) return gguf_type_of(blocks->type);
    if (const TensorView* plain = tensor.weight->plain()) {
        const bool as_is = plain->dtype == DType::f16 || plain->dtype == DType::bf16 || plain->dtype == DType::f32;
        return as_is ? **gguf_type_of(plain->dtype) : type_named("F32");
    }
    if (const Hashed* hashed = tensor.weight->hashed()) {
        const GgufType& type = hashed->bank->plain() != nullptr ? **gguf_type_of(hashed->bank->plain()->dtype) : type_named("F32");
        note("shared blocks are written out, as " + std::string(type.name) + ", because GGUF has no form for a bank of them", tensor.name);
        return type;
    }
    if (const std::optional<BlockType> type = smallest_block_of(*tensor.weight)) return gguf_type_of(*type);
    note("kept as F32, because no block type holds " + tensor.weight->encoding_name() + " in rows of " + std::to_string(tensor.shape.back()) + ", or half precision its scales; --type Q8_0 takes a quarter of that and rounds once more",
         tensor.name);
    return type_named("F32");
}

const GgufType& GgufTypeChooser::choose(const ExportTensor& tensor) {
    if (tensor.part == ExportTensor::Part::float_only) return type_named("F32");
    const GgufType* type = wanted(tensor);
    if (type == nullptr) type = &keep(tensor);
    if (!fills_blocks(*type, tensor.shape)) {
        const TypeRow* row = row_of(type->name);
        const GgufType* narrow = row != nullptr && !row->narrow.empty() ? &type_named(row->narrow) : nullptr;
        const GgufType* instead = narrow != nullptr && fills_blocks(*narrow, tensor.shape) ? narrow : &type_named("F16");
        note(std::string(instead->name) + " instead of " + std::string(type->name) + ", because rows of " + std::to_string(tensor.shape.back()) +
                 " do not fill blocks of " + std::to_string(type->block_size),
             tensor.name);
        type = instead;
    }
    if (tensor.weight != nullptr && tensor.weight->codes() != nullptr && type->block) {
        const Fit fit = fit_of_codes(*tensor.weight, *type->block);
        const std::string from = tensor.weight->encoding_name() + " as " + std::string(type->name);
        const Scheme& scheme = tensor.weight->codes()->scheme;
        const std::string rounded = ": scales or offsets are rounded to half precision, so weights change a little";
        if (fit == Fit::rounded) note(from + rounded + (type->block == BlockType::q4_1 && scheme.bits == 4 && !scheme.minimums ? " (Q5_0 holds asymmetric 4-bit weights exactly)" : ""), tensor.name);
        if (fit == Fit::lowered) note(from + ": codes of -128 become -127, which other programs' kernels expect, and scales are rounded to half precision", tensor.name);
        if (fit == Fit::none) note(from + ": quantized a second time, so weights change", tensor.name);
    }
    if (tensor.part == ExportTensor::Part::linear) weights_by_type_[type->id] += element_count(tensor.shape);
    return *type;
}

std::vector<std::string> GgufTypeChooser::notes() const {
    std::vector<std::string> lines;
    for (const auto& [text, tensors] : notes_)
        lines.push_back(tensors[0] + (tensors.size() > 1 ? " and " + std::to_string(tensors.size() - 1) + " more tensors: " : ": ") + text);
    return lines;
}

std::uint32_t GgufTypeChooser::file_type() const {
    const auto most =
        std::max_element(weights_by_type_.begin(), weights_by_type_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto type = gguf_type(type_ != nullptr ? type_->id : most == weights_by_type_.end() ? 1 : most->first);
    if (const TypeRow* row = type.ok() ? row_of((*type)->name) : nullptr) return row->file_type;
    for (const auto& [name, number] : copied_types)
        if (type.ok() && (*type)->name == name) return number;
    return 1;
}

}  // namespace skiff

#include "compress/onnx/onnx_weights.h"

#include <algorithm>

#include "kernels/layout.h"
#include "tensor/blocks_to_codes.h"

namespace skiff {
namespace {

Result<Weight> load_checked(const ModelSpec& spec, const WeightSource& source, const TensorRef& ref) {
    const auto declared = spec.tensors.find(ref.key);
    if (declared == spec.tensors.end()) return corrupt("tensor " + ref.key + " is not declared");
    SKIFF_TRY(auto weight, source.load(ref.key));
    Shape expected = spec.shape(declared->second);
    if (ref.transposed && weight.plain() == nullptr) std::swap(expected[0], expected[1]);
    if (weight.shape != expected)
        return corrupt("tensor " + ref.key + " has shape " + shape_text(weight.shape) + ", the config implies " + shape_text(expected));
    if (const auto* plain = weight.plain(); plain != nullptr && dtype_info(plain->dtype).to_float == nullptr)
        return unsupported("tensor " + ref.key + " has a type that is no number");
    return weight;
}

// Codebooks of integers from -128 to 127 are codes of 8 bits, of -8 to 7 of 4 bits.
std::optional<OnnxIntegers> integers_of(const Scheme& scheme) {
    OnnxIntegers form;
    form.scheme_bits = scheme.bits;
    form.group_size = scheme.group_size;
    if (scheme.kind == NumberKind::integer && scheme.bits <= 8 && !scheme.minimums) {
        form.bits = scheme.bits <= 4 ? 4 : 8;
        form.zeros_vary = scheme.stores_zeros();
        form.zero = 1 << (form.bits - 1);
        return form;
    }
    if (scheme.kind != NumberKind::codebook || scheme.codebook == nullptr || !scheme.codebook->integral()) return std::nullopt;
    const auto levels = scheme.codebook->levels;
    const auto [low, high] = std::minmax_element(levels.begin(), levels.end());
    form.bits = *low >= -8 && *high <= 7 ? 4 : 8;
    form.zero = 1 << (form.bits - 1);
    form.bipolar = levels.size() == 2 && *low == -1 && *high == 1;
    for (form.scheme_bits = 1; *low < -(1 << (form.scheme_bits - 1)) || *high >= 1 << (form.scheme_bits - 1);) ++form.scheme_bits;
    return form;
}

// What a scheme's stored codes are in the form above: by table, one entry per code.
std::vector<std::uint8_t> code_table(const Scheme& scheme, const OnnxIntegers& form) {
    std::vector<std::uint8_t> table(std::size_t{1} << scheme.bits);
    for (std::size_t code = 0; code < table.size(); ++code) {
        int q = static_cast<int>(code);
        if (scheme.kind == NumberKind::codebook)
            q = static_cast<int>(scheme.codebook->levels[std::min(code, scheme.codebook->levels.size() - 1)]) + form.zero;
        else if (!form.zeros_vary) q += form.zero - (1 << (scheme.bits - 1));
        table[code] = static_cast<std::uint8_t>(q);
    }
    return table;
}

}  // namespace

void OnnxMatrix::describe(const Weight& weight, std::int64_t n_rows, std::int64_t n_columns) {
    n_rows_ = n_rows;
    n_columns_ = n_columns;
    encoding_ = weight.encoding_name();
    plain_ = weight.plain() != nullptr;
    if (const auto* codes = weight.codes()) integers_ = integers_of(codes->scheme);
    if (const auto* blocks = weight.blocks()) integers_ = integers_of(scheme_of_blocks(blocks->type));
    if (integers_ && integers_->group_size >= n_columns) integers_->group_size = 0;
}

Result<OnnxMatrix> OnnxMatrix::hold(const std::string& key, Weight weight) {
    if (weight.shape.size() != 2 || weight.n_rows() < 1 || weight.n_columns() < 1) return corrupt("tensor " + key + " of shape " + shape_text(weight.shape) + " is no matrix");
    OnnxMatrix matrix;
    matrix.ref_.key = key;
    matrix.describe(weight, weight.n_rows(), weight.n_columns());
    matrix.held_ = std::make_shared<const Weight>(std::move(weight));
    return matrix;
}

Result<OnnxMatrix> OnnxMatrix::open(const ModelSpec& spec, std::shared_ptr<const WeightSource> source, const TensorRef& ref, std::int64_t n_rows,
                                    std::int64_t n_columns) {
    if (n_rows < 1 || n_columns < 1)
        return unsupported("tensor " + ref.key + " would be a matrix of " + std::to_string(n_rows) + " x " + std::to_string(n_columns) +
                           "; ONNX runtimes do not take empty ones");
    OnnxMatrix matrix;
    matrix.spec_ = &spec;
    matrix.source_ = std::move(source);
    matrix.ref_ = ref;
    SKIFF_TRY(const auto weight, load_checked(spec, *matrix.source_, ref));
    matrix.describe(weight, n_rows, n_columns);
    const Shape& shape = weight.shape;
    if (shape.size() != 2) return corrupt("tensor " + ref.key + " of shape " + shape_text(shape) + " is no matrix");
    const bool turned = ref.transposed && matrix.plain_;
    const std::int64_t all_rows = turned ? shape[1] : shape[0], columns = turned ? shape[0] : shape[1];
    const RowMap rows = ref.rows.block == 0 ? RowMap::all(all_rows) : ref.rows;
    if (rows.n_rows() != n_rows || columns != n_columns || rows.at(n_rows - 1) >= all_rows)
        return corrupt("tensor " + ref.key + " of shape " + shape_text(shape) + " cannot give an operator of " + std::to_string(n_rows) + " x " +
                       std::to_string(n_columns));
    return matrix;
}

std::string OnnxMatrix::name(const std::string& op) const { return ref_.rows.block == 0 ? ref_.key : op + ".weight"; }

Result<Weight> OnnxMatrix::load() const {
    Weight weight;
    if (held_ != nullptr) {
        weight = *held_;
    } else {
        SKIFF_TRY(weight, load_checked(*spec_, *source_, ref_));
    }
    if (weight.plain() != nullptr) return ref_.transposed ? transposed(weight) : std::move(weight);
    if (weight.blocks() != nullptr && integers_) {
        auto codes = codes_of_blocks(weight);
        if (codes) return std::move(*codes);
    }
    return weight;
}

Status OnnxMatrix::for_each_row(Want want, const std::function<Status(std::int64_t row, const Row&)>& fn) const {
    SKIFF_TRY(const auto weight, load());
    const RowMap rows = ref_.rows.block == 0 ? RowMap::all(n_rows_) : ref_.rows;
    Row row;
    if (want == Want::floats) {
        row.floats.resize(static_cast<std::size_t>(n_columns_));
        for (std::int64_t r = 0; r < n_rows_; ++r) {
            weight.row(rows.at(r), row.floats.data());
            SKIFF_CHECK(fn(r, row));
        }
        release_pages(weight);
        return {};
    }
    const Codes& codes = *weight.codes();
    const Scheme& scheme = codes.scheme;
    const auto n_groups = static_cast<std::size_t>(scheme.n_groups(n_columns_));
    const auto table = code_table(scheme, *integers_);
    const CodeSections sections = sections_of(codes);
    std::vector<float> minimums(n_groups);
    row.codes.resize(static_cast<std::size_t>(n_columns_));
    row.scales.resize(n_groups);
    row.zeros.assign(n_groups, static_cast<std::uint8_t>(integers_->zero));
    for (std::int64_t r = 0; r < n_rows_; ++r) {
        const std::int64_t from = rows.at(r);
        unpack_codes(sections.packed + from * packed_row_bytes(scheme.bits, n_columns_), scheme.bits, n_columns_, row.codes.data());
        for (std::uint8_t& code : row.codes) code = table[code];
        code_row_params(scheme, sections, from, n_columns_, row.scales.data(), minimums.data());
        for (std::size_t group = 0; integers_->zeros_vary && group < n_groups; ++group) {
            row.zeros[group] = std::to_integer<std::uint8_t>(sections.zeros[static_cast<std::size_t>(from) * n_groups + group]);
            if (row.zeros[group] >> integers_->bits != 0)
                return unsupported("tensor " + ref_.key + ", row " + std::to_string(from) + ": a zero of " + std::to_string(row.zeros[group]) + " needs more than " +
                                   std::to_string(integers_->bits) + " bits; --densify writes floats");
        }
        SKIFF_CHECK(fn(r, row));
    }
    release_pages(weight);
    return {};
}

Status sink_onnx_floats(std::span<const float> values, OnnxType type, const OnnxMatrix& matrix, const OnnxDataSink& sink) {
    std::string bytes;
    if (!append_onnx_floats(values, type, bytes)) return corrupt("tensor " + matrix.ref().key + ": a number does not fit F16; choose --type F32");
    return sink(bytes_of(bytes));
}

void append_onnx_codes(std::span<const std::uint8_t> codes, int bits, std::string& bytes) {
    if (bits == 8) {
        bytes.append(reinterpret_cast<const char*>(codes.data()), codes.size());
        return;
    }
    for (std::size_t i = 0; i < codes.size(); i += 2)
        bytes.push_back(static_cast<char>((codes[i] & 15) | (i + 1 < codes.size() ? codes[i + 1] & 15 : 0) << 4));
}

Result<std::vector<float>> load_onnx_vector(const ModelSpec& spec, const WeightSource& source, const TensorRef& ref, std::int64_t size, float offset) {
    SKIFF_TRY(const auto weight, load_checked(spec, source, ref));
    std::vector<float> all, values;
    if (weight.plain() == nullptr || !to_floats(*weight.plain(), all))
        return unsupported("tensor " + ref.key + " (" + weight.encoding_name() + "): expected plain numbers");
    const RowMap rows = ref.rows.block == 0 ? RowMap::all(static_cast<std::int64_t>(all.size())) : ref.rows;
    if (rows.n_rows() != size || (size > 0 && rows.at(size - 1) >= static_cast<std::int64_t>(all.size())))
        return corrupt("tensor " + ref.key + " has " + std::to_string(all.size()) + " entries, its operator needs " + std::to_string(size));
    for (std::int64_t i = 0; i < size; ++i) values.push_back(all[static_cast<std::size_t>(rows.at(i))] + offset);
    return values;
}

}  // namespace skiff

// The operations, each over whole tensors.
#include <array>
#include <cmath>

#include "backend/cuda/testing/fake_cudnn.h"
#include "tensor/dtype.h"

namespace skiff::cuda::cudnn::fake {
namespace {

using A = Attribute;
using Dims = std::vector<std::int64_t>;
using Index = std::array<std::int64_t, 4>;  // every tensor here has four dimensions

std::int64_t count(const Dims& dims) {
    std::int64_t n = 1;
    for (const std::int64_t dim : dims) n *= dim;
    return n;
}
// The index of element i, the last dimension fastest.
Index index_of(const Dims& dims, std::int64_t i) {
    Index index{};
    for (std::size_t d = index.size(); d-- > 0;) {
        index[d] = i % dims[d];
        i /= dims[d];
    }
    return index;
}

// A tensor while the graph runs: in memory by its strides, or between operations.
class Numbers {
public:
    Numbers(const Record& tensor, void* memory) : dims_(tensor.list<std::int64_t>(A::tensor_dims)), strides_(tensor.list<std::int64_t>(A::tensor_strides)), type_(tensor.one<DataType>(A::tensor_type)), memory_(memory) {
        if (memory == nullptr) inside_.assign(static_cast<std::size_t>(count(dims_)), NAN);
    }
    const Dims& dims() const { return dims_; }
    const Dims& strides() const { return strides_; }
    DataType type() const { return type_; }
    std::int64_t dim(std::size_t d) const { return dims_[d]; }

    // Dimensions of one are the same for every index.
    double get(const Index& index) const {
        const std::int64_t at = place(index);
        if (memory_ == nullptr) return inside_[static_cast<std::size_t>(at)];
        switch (type_) {
            case DataType::f32: return static_cast<const float*>(memory_)[at];
            case DataType::i32: return static_cast<const std::int32_t*>(memory_)[at];
            case DataType::bf16: return bf16_to_float(static_cast<const std::uint16_t*>(memory_)[at]);
            case DataType::boolean: return static_cast<const bool*>(memory_)[at];
        }
        return NAN;
    }
    void put(const Index& index, double value) {
        const std::int64_t at = place(index);
        if (type_ == DataType::f32) value = static_cast<float>(value);
        if (type_ == DataType::bf16) value = bf16_to_float(float_to_bf16(static_cast<float>(value)));
        if (type_ == DataType::i32) value = std::trunc(value);
        if (type_ == DataType::boolean) value = value != 0;
        if (memory_ == nullptr) inside_[static_cast<std::size_t>(at)] = value;
        else if (type_ == DataType::f32) static_cast<float*>(memory_)[at] = static_cast<float>(value);
        else if (type_ == DataType::bf16) static_cast<std::uint16_t*>(memory_)[at] = float_to_bf16(static_cast<float>(value));
        else if (type_ == DataType::i32) static_cast<std::int32_t*>(memory_)[at] = static_cast<std::int32_t>(value);
    }

private:
    std::int64_t place(const Index& index) const {
        std::int64_t at = 0, packed = 0;
        for (std::size_t d = 0; d < index.size(); ++d) {
            const std::int64_t i = dims_[d] == 1 ? 0 : index[d];
            at += i * strides_[d];
            packed = packed * dims_[d] + i;
        }
        return memory_ != nullptr ? at : packed;
    }
    Dims dims_, strides_;
    DataType type_;
    void* memory_;
    std::vector<double> inside_;
};

class Runner {
public:
    explicit Runner(const std::map<std::int64_t, void*>& pack) : pack_(pack) {}

    Code run(const Record& operation) {
        switch (operation.kind) {
            case Kind::operation_pointwise: return pointwise(operation);
            case Kind::operation_reduction: return reduce(operation);
            case Kind::operation_matmul: return matmul(operation);
            case Kind::operation_paged_load: return paged_load(operation);
            case Kind::operation_convolution: return convolve(operation);
            default: return not_supported_pattern;
        }
    }

private:
    Numbers& of(const Record* tensor) {
        const auto id = tensor->one<std::int64_t>(A::tensor_id);
        auto found = numbers_.find(id);
        if (found == numbers_.end()) found = numbers_.emplace(id, Numbers(*tensor, tensor->has(A::tensor_virtual) ? nullptr : pack_.at(id))).first;
        return found->second;
    }

    Code pointwise(const Record& operation) {
        const Record& how = *operation.record(A::pointwise_descriptor);
        const auto mode = how.one<Pointwise>(A::pointwise_mode);
        const auto axis = how.one<std::int64_t>(A::pointwise_axis, -1);
        const auto beta = how.one<double>(A::pointwise_swish_beta, 1), lower = how.one<double>(A::pointwise_relu_lower, -INFINITY), upper = how.one<double>(A::pointwise_relu_upper, INFINITY);
        const Numbers& x = of(operation.record(A::pointwise_x));
        const Numbers* b = operation.has(A::pointwise_b) ? &of(operation.record(A::pointwise_b)) : nullptr;
        const Numbers* t = operation.has(A::pointwise_t) ? &of(operation.record(A::pointwise_t)) : nullptr;
        Numbers& y = of(operation.record(A::pointwise_y));
        const auto number = static_cast<int>(mode);
        const bool two = number < 10 || (number >= 300 && number <= 401) || mode == Pointwise::select;
        if (two != (b != nullptr) || (mode == Pointwise::select) != (t != nullptr)) return bad_parameter;
        if (number >= 300 && number <= 402 && (y.type() != DataType::boolean || how.one<DataType>(A::pointwise_math) != DataType::boolean)) return bad_parameter;
        if (mode == Pointwise::index && (axis < 0 || axis >= static_cast<std::int64_t>(y.dims().size()))) return bad_parameter;
        for (const Numbers* in : {&x, b, t})
            for (std::size_t d = 0; in != nullptr && d < y.dims().size(); ++d)
                if (in->dims().size() != y.dims().size() || (in->dim(d) != 1 && in->dim(d) != y.dim(d))) return bad_parameter;
        for (std::int64_t i = 0; i < count(y.dims()); ++i) {
            const Index at = index_of(y.dims(), i);
            const double u = x.get(at), v = b != nullptr ? b->get(at) : 0;
            double result = NAN;
            switch (mode) {
                case Pointwise::add: result = u + v; break;
                case Pointwise::multiply: result = u * v; break;
                case Pointwise::divide: result = u / v; break;
                case Pointwise::subtract: result = u - v; break;
                case Pointwise::exp: result = std::exp(u); break;
                case Pointwise::log: result = std::log(u); break;
                case Pointwise::relu: result = std::min(std::max(u, lower), upper); break;
                case Pointwise::tanh: result = std::tanh(u); break;
                case Pointwise::sigmoid: result = 1 / (1 + std::exp(-u)); break;
                case Pointwise::gelu_erf: result = u / 2 * (1 + std::erf(u / std::sqrt(2.0))); break;
                case Pointwise::gelu_tanh: result = u / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u))); break;
                case Pointwise::swish: result = u / (1 + std::exp(-beta * u)); break;
                case Pointwise::greater: result = u > v; break;
                case Pointwise::greater_equal: result = u >= v; break;
                case Pointwise::less: result = u < v; break;
                case Pointwise::logical_and: result = u != 0 && v != 0; break;
                case Pointwise::index: result = static_cast<double>(at[static_cast<std::size_t>(axis)]); break;
                case Pointwise::select: result = t->get(at) != 0 ? u : v; break;
            }
            y.put(at, result);
        }
        return success;
    }

    Code reduce(const Record& operation) {
        const auto how = operation.record(A::reduction_descriptor)->one<Reduction>(A::reduction_operator);
        const Numbers& x = of(operation.record(A::reduction_x));
        Numbers& y = of(operation.record(A::reduction_y));
        if (x.dims().size() != y.dims().size()) return bad_parameter;
        for (std::int64_t i = 0; i < count(y.dims()); ++i) y.put(index_of(y.dims(), i), how == Reduction::max ? -INFINITY : 0);
        for (std::int64_t i = 0; i < count(x.dims()); ++i) {
            const Index at = index_of(x.dims(), i);
            y.put(at, how == Reduction::max ? std::max(y.get(at), x.get(at)) : y.get(at) + x.get(at));
        }
        return success;
    }

    std::int64_t limit(const Record& operation, Attribute name, std::int64_t otherwise) {
        return operation.has(name) ? static_cast<std::int64_t>(of(operation.record(name)).get({0, 0, 0, 0})) : otherwise;
    }
    // Heads of b serve as many heads of a each. Outside of what counts the result is zero between operations, and anything in memory.
    Code matmul(const Record& operation) {
        const Numbers &a = of(operation.record(A::matmul_a)), &b = of(operation.record(A::matmul_b));
        Numbers& c = of(operation.record(A::matmul_c));
        if (a.dims().size() != 4 || b.dims().size() != 4 || c.dims().size() != 4 || a.dim(3) != b.dim(2) || c.dim(2) != a.dim(2) || c.dim(3) != b.dim(3) || c.dim(1) != a.dim(1) || a.dim(1) % b.dim(1) != 0) return bad_parameter;
        const std::int64_t m = limit(operation, A::matmul_m_override, a.dim(2)), n = limit(operation, A::matmul_n_override, b.dim(3)), k = limit(operation, A::matmul_k_override, a.dim(3)), group = a.dim(1) / b.dim(1);
        const double outside = operation.record(A::matmul_c)->has(A::tensor_virtual) ? 0 : NAN;
        for (std::int64_t i = 0; i < count(c.dims()); ++i) {
            const Index at = index_of(c.dims(), i);
            double sum = 0;
            const bool counts = at[2] < m && at[3] < n;
            for (std::int64_t j = 0; j < k && counts; ++j) sum += a.get({at[0], at[1], at[2], j}) * b.get({at[0], at[1] / group, j, at[3]});
            c.put(at, counts ? sum : outside);
        }
        return success;
    }

    // Positions behind the length are no numbers: nobody may use them.
    Code paged_load(const Record& operation) {
        const Numbers &pool = of(operation.record(A::paged_container)), &table = of(operation.record(A::paged_table)), &lengths = of(operation.record(A::paged_lengths));
        Numbers& y = of(operation.record(A::paged_y));
        const bool turned = y.strides()[2] == 1 && y.dim(2) > 1;  // (head_dim, positions)
        const std::int64_t n_positions = turned ? y.dim(3) : y.dim(2), in_page = pool.dim(2), length = static_cast<std::int64_t>(lengths.get({0, 0, 0, 0}));
        if (table.type() != DataType::i32 || lengths.type() != DataType::i32 || table.dim(2) != (n_positions + in_page - 1) / in_page || y.dim(1) != pool.dim(1) || (turned ? y.dim(2) : y.dim(3)) != pool.dim(3)) return bad_parameter;
        for (std::int64_t i = 0; i < count(y.dims()); ++i) {
            const Index at = index_of(y.dims(), i);
            const std::int64_t position = turned ? at[3] : at[2], d = turned ? at[2] : at[3];
            if (position >= length) continue;
            const auto page = static_cast<std::int64_t>(table.get({0, 0, position / in_page, 0}));
            if (page < 0 || page >= pool.dim(0)) return bad_parameter;
            y.put(at, pool.get({page, at[1], position % in_page, d}));
        }
        return success;
    }

    Code convolve(const Record& operation) {
        const Record& how = *operation.record(A::convolution_descriptor);
        if (how.one<std::int64_t>(A::convolution_dims) != 2 || how.one<ConvolutionMode>(A::convolution_mode) != ConvolutionMode::cross_correlation || operation.one<float>(A::convolution_alpha) != 1 || operation.one<float>(A::convolution_beta) != 0)
            return not_supported_pattern;
        const Dims before = how.list<std::int64_t>(A::convolution_before), after = how.list<std::int64_t>(A::convolution_after), stride = how.list<std::int64_t>(A::convolution_strides), dilation = how.list<std::int64_t>(A::convolution_dilations);
        const Numbers &x = of(operation.record(A::convolution_x)), &w = of(operation.record(A::convolution_w));
        Numbers& y = of(operation.record(A::convolution_y));
        if (before.size() != 2 || after.size() != 2 || stride.size() != 2 || dilation.size() != 2 || x.dim(1) % w.dim(1) != 0 || y.dim(1) != w.dim(0) || y.dim(0) != x.dim(0)) return bad_parameter;
        for (std::size_t d : {0, 1})
            if (y.dim(d + 2) != (x.dim(d + 2) + before[d] + after[d] - dilation[d] * (w.dim(d + 2) - 1) - 1) / stride[d] + 1) return bad_parameter;
        const std::int64_t groups = x.dim(1) / w.dim(1), of_group = y.dim(1) / groups;
        if (y.dim(1) % groups != 0) return bad_parameter;
        for (std::int64_t i = 0; i < count(y.dims()); ++i) {
            const Index at = index_of(y.dims(), i);
            double sum = 0;
            for (std::int64_t tap = 0; tap < w.dim(2) * w.dim(3); ++tap) {
                const std::int64_t r = tap / w.dim(3), s = tap % w.dim(3), row = at[2] * stride[0] - before[0] + r * dilation[0], column = at[3] * stride[1] - before[1] + s * dilation[1];
                if (row < 0 || row >= x.dim(2) || column < 0 || column >= x.dim(3)) continue;
                for (std::int64_t c = 0; c < w.dim(1); ++c) sum += x.get({at[0], at[1] / of_group * w.dim(1) + c, row, column}) * w.get({at[1], c, r, s});
            }
            y.put(at, sum);
        }
        return success;
    }

    const std::map<std::int64_t, void*>& pack_;
    std::map<std::int64_t, Numbers> numbers_;
};

constexpr Attribute input_names[] = {A::pointwise_x, A::pointwise_b, A::pointwise_t, A::reduction_x, A::matmul_a, A::matmul_b, A::matmul_m_override, A::matmul_n_override, A::matmul_k_override, A::paged_container, A::paged_table, A::paged_lengths, A::convolution_x, A::convolution_w};
constexpr Attribute output_names[] = {A::pointwise_y, A::reduction_y, A::matmul_c, A::paged_y, A::convolution_y};

}  // namespace

std::vector<const Record*> inputs_of(const Record& operation) {
    std::vector<const Record*> inputs;
    for (const Attribute name : input_names)
        if (operation.has(name)) inputs.push_back(operation.record(name));
    return inputs;
}
const Record* output_of(const Record& operation) {
    for (const Attribute name : output_names)
        if (operation.has(name)) return operation.record(name);
    return nullptr;
}

Code run(const std::vector<const Record*>& operations, const std::map<std::int64_t, void*>& pack) {
    Runner runner(pack);
    for (const Record* operation : operations) {
        auto tensors = inputs_of(*operation);
        tensors.push_back(output_of(*operation));
        for (const Record* tensor : tensors)
            if (tensor->list<std::int64_t>(A::tensor_dims).size() != std::tuple_size_v<Index>) return not_supported;
    }
    for (const Record* operation : operations)
        if (const Code code = runner.run(*operation); code != success) return code;
    return success;
}

}  // namespace skiff::cuda::cudnn::fake

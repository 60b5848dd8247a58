#include <cmath>

#include "base/cpu_features.h"
#include "base/hash.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "model/weight_source.h"

namespace skiff {
namespace {

// Normal numbers are expensive (a logarithm and a cosine each), and a benchmark of 8 billion weights needs many: a table of them is drawn
// once and read from a random place for every row.
const std::vector<float>& normal_table() {
    static const std::vector<float> table = [] {
        Rng rng(1);
        std::vector<float> numbers(1 << 16);
        for (float& number : numbers) number = rng.normal();
        return numbers;
    }();
    return table;
}

class RandomWeights final : public WeightSource {
public:
    RandomWeights(const ModelSpec& spec, DType dtype, std::uint64_t seed) : dtype_(dtype), seed_(seed) {
        for (const auto& [key, tensor] : spec.tensors) tensors_.emplace(key, Declared{spec.shape(tensor), tensor.role});
    }
    bool contains(const std::string& key) const override { return tensors_.count(key) != 0; }
    std::vector<std::string> keys() const override {
        std::vector<std::string> names;
        for (const auto& [key, declared] : tensors_) names.push_back(key);
        return names;
    }
    Result<Weight> load(const std::string& key) const override {
        auto found = tensors_.find(key);
        if (found == tensors_.end()) return not_found("tensor " + key + " is not in the random model");
        const auto& [shape, role] = found->second;
        const std::int64_t n = element_count(shape), width = shape.empty() ? 1 : shape.back();
        const DTypeInfo& info = dtype_info(dtype_);
        std::vector<std::byte> bytes(static_cast<std::size_t>(n * info.bits / 8));
        Rng rng(hash64(std::as_bytes(std::span(key)), seed_));
        const float mean = role == TensorDecl::Role::norm ? 1.0f : 0.0f;
        const float deviation = role == TensorDecl::Role::linear ? 1.0f / std::sqrt(static_cast<float>(width)) : 0.02f;
        const std::vector<float>& normal = normal_table();
        struct Start {
            std::size_t at, stride;
        };
        std::vector<Start> starts(width > 0 ? static_cast<std::size_t>((n + width - 1) / width) : 0);
        for (Start& start : starts) {
            start.at = rng.next() % normal.size();
            start.stride = rng.next() % normal.size() | 1;
        }
        const auto fill = [&](Range rows) {
            std::vector<float> row(static_cast<std::size_t>(width));
            for (std::int64_t r = rows.begin; r < rows.end; ++r) {
                auto [at, stride] = starts[static_cast<std::size_t>(r)];
                for (float& value : row) {
                    value = mean + deviation * normal[at];
                    at = (at + stride) % normal.size();
                }
                info.from_float(row.data(), width, bytes.data() + r * width * info.bits / 8);
            }
        };
        const auto n_rows = static_cast<std::int64_t>(starts.size());
        if (n < (1 << 18)) {
            fill({0, n_rows});
        } else {
            ThreadPool pool(default_thread_count());
            pool.run([&](int thread) { fill(share_of(n_rows, thread, pool.n_threads())); });
        }
        return make_plain_weight(shape, dtype_, std::move(bytes));
    }

    std::string identity() const override {
        std::string text;
        for (const auto& [key, declared] : tensors_)
            text += key + " " + shape_text(declared.shape) + " " + std::to_string(static_cast<int>(declared.role)) + "\n";
        return "random 1 " + std::string(dtype_info(dtype_).name) + " seed " + std::to_string(seed_) + " shapes " +
               hex64(hash64(std::as_bytes(std::span(text))));
    }

private:
    struct Declared {
        Shape shape;
        TensorDecl::Role role;
    };
    std::map<std::string, Declared> tensors_;
    DType dtype_;
    std::uint64_t seed_;
};

class QuantizedOnLoad final : public WeightSource {
public:
    QuantizedOnLoad(std::set<std::string> columns, std::shared_ptr<WeightSource> source, SchemeChoice scheme_of, ScaleRule rule)
        : columns_(std::move(columns)), source_(std::move(source)), scheme_of_(std::move(scheme_of)), rule_(rule) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        SKIFF_TRY(auto weight, source_->load(key));
        const Scheme* scheme = scheme_of_(key);
        if (scheme == nullptr || weight.plain() == nullptr) return weight;
        // Codes are always (outputs, inputs).
        ThreadPool pool(default_thread_count());
        auto coded = encode_nearest(columns_.count(key) != 0 && scheme->is_coded() ? transposed(weight) : weight, *scheme, rule_, {}, &pool);
        if (!coded.ok()) return coded.take_error().with_context(key);
        return coded;
    }

    std::string identity() const override {
        const std::string source = source_->identity();
        if (source.empty()) return source;
        std::string text;
        for (const std::string& key : keys())
            if (const Scheme* scheme = scheme_of_(key)) text += key + " " + scheme->name() + " " + std::to_string(static_cast<int>(scheme->scale_dtype)) + "\n";
        return source + ", rounded by rule " + std::to_string(static_cast<int>(rule_)) + " to " + hex64(hash64(std::as_bytes(std::span(text))));
    }

private:
    std::set<std::string> columns_;  // stored as (inputs, outputs)
    std::shared_ptr<WeightSource> source_;
    SchemeChoice scheme_of_;
    ScaleRule rule_;
};

}  // namespace

std::shared_ptr<WeightSource> random_weights(const ModelSpec& spec, DType dtype, std::uint64_t seed) {
    return std::make_shared<RandomWeights>(spec, dtype, seed);
}

std::shared_ptr<WeightSource> quantized_on_load(const ModelSpec& spec, std::shared_ptr<WeightSource> source, SchemeChoice scheme_of, ScaleRule rule) {
    return std::make_shared<QuantizedOnLoad>(keys_stored_as_columns(spec), std::move(source), std::move(scheme_of), rule);
}

}  // namespace skiff

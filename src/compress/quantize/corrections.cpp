#include "compress/quantize/corrections.h"

#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/quantize/coded_rows.h"
#include "compress/quantize/row_sizes.h"
#include "model/arch/arch.h"
#include "model/extra_terms.h"

namespace skiff {
namespace {

constexpr double norm_damping = 0.01;          // of the system for the gains, times the mean of its diagonal: draws them towards what they are
constexpr float least_gain = 0.5f, most_gain = 2.0f;

// An operator of one matrix whose bias is added to its rows.
const LinearOp* correctable(const Op& op) {
    const auto* linear = std::get_if<LinearOp>(&op.detail);
    const bool plain = linear != nullptr && linear->terms.size() == 1 && linear->terms[0].kind == LinearTerm::Kind::packed && linear->transform.kind == InputTransform::Kind::none;
    return plain && !linear->bias.empty() && linear->bias.rows == linear->terms[0].weight.rows ? linear : nullptr;
}

bool is_decoder_block(const ModelSpec& spec, std::size_t block) { return block > 0 && block + 1 < spec.blocks.size(); }

// E[(w - q) x] of a row.
double lost_mean(const float* w, const float* q, const std::vector<float>& mean) {
    double sum = 0;
    for (std::size_t i = 0; i < mean.size(); ++i) sum += static_cast<double>(w[i] - q[i]) * static_cast<double>(mean[i]);
    return sum;
}

class WithZeros final : public WeightSource {
public:
    WithZeros(std::shared_ptr<WeightSource> source, std::map<std::string, std::int64_t> lengths, DType dtype) : source_(std::move(source)), lengths_(std::move(lengths)), dtype_(dtype) {}
    bool contains(const std::string& key) const override { return lengths_.count(key) != 0 || source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = lengths_.find(key);
        if (found == lengths_.end()) return source_->load(key);
        return make_plain_weight({found->second}, dtype_, std::vector<std::byte>(static_cast<std::size_t>(found->second * dtype_info(dtype_).bits / 8)));
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, std::int64_t> lengths_;
    DType dtype_;
};

}  // namespace

Result<RoundingCorrections> parse_corrections(const std::vector<std::string>& names) {
    RoundingCorrections corrections;
    for (const std::string& list : names) {
        std::string name;
        for (char c : list + ",") {
            if (c != ',') {
                name += c;
                continue;
            }
            if (name == "scale") corrections.scale = true;
            else if (name == "norm") corrections.norm = true;
            else if (name == "bias") corrections.bias = true;
            else if (name != "none" || names.size() > 1 || list != "none") return usage_error("--correct " + list.substr(0, 64) + ": expected scale, norm, bias, some of them with commas, or none");
            name.clear();
        }
    }
    return corrections;
}

std::string RoundingCorrections::names() const {
    std::string names;
    for (const auto& [wanted, name] : {std::pair{scale, "scale"}, std::pair{norm, "norm"}, std::pair{bias, "bias"}})
        if (wanted) names += (names.empty() ? "" : ",") + std::string(name);
    return names;
}

Result<std::optional<Checkpoint>> with_new_biases(const Checkpoint& parent) {
    std::optional<Checkpoint> nothing;
    // Only where config.json alone says what the model is, but for the two words that are added to it.
    SKIFF_TRY(auto same, build_spec(parent.config));
    SKIFF_CHECK(attach_extra_terms(same, *parent.weights));
    if (!(same == parent.spec)) return nothing;
    Json config = parent.config;
    for (const char* word : {"attention_bias", "mlp_bias"}) {
        Json with = config;
        with.set(word, true);
        if (build_spec(with).ok()) config = std::move(with);  // else the architecture does not know the word
    }
    SKIFF_TRY(auto spec, build_spec(config));
    SKIFF_CHECK(attach_extra_terms(spec, *parent.weights));
    std::map<std::string, std::int64_t> lengths;
    DType dtype = DType::f32;
    for (const auto& [key, declared] : spec.tensors) {
        if (parent.spec.tensors.count(key) == 0) lengths[key] = spec.shape(declared)[0];
        if (declared.role != TensorDecl::Role::norm || !parent.weights->contains(key)) continue;
        SKIFF_TRY(const auto norm, parent.weights->load(key));
        if (norm.plain() != nullptr && dtype_info(norm.plain()->dtype).is_float) dtype = norm.plain()->dtype;
    }
    for (const auto& [key, declared] : parent.spec.tensors)
        if (spec.tensors.count(key) == 0) return nothing;  // the words mean more than biases there
    if (lengths.empty()) return nothing;
    Checkpoint widened = parent;
    widened.config = std::move(config);
    widened.spec = std::move(spec);
    widened.weights = std::make_shared<WithZeros>(parent.weights, std::move(lengths), dtype);
    return std::optional<Checkpoint>(std::move(widened));
}

BlockCorrections::BlockCorrections(const ModelSpec& spec, const RoundingCorrections& wanted) : spec_(spec), wanted_(wanted) {
    for (std::size_t block = 0; block < spec.blocks.size(); ++block) {
        for (const Op& op : spec.blocks[block].ops)
            if (const LinearOp* linear = wanted.bias ? correctable(op) : nullptr) with_bias_.insert(linear->terms[0].weight.key);
        if (!wanted.norm || !is_decoder_block(spec, block)) continue;
        for (const InputCoupling& coupling : find_couplings(spec, block))
            for (const TensorRef& reader : coupling.readers)
                if (coupling.norm != nullptr) behind_norms_.insert(reader.key);
    }
}

InputStatistics BlockCorrections::judged_by(const std::string& key, const InputStatistics& inputs) const {
    InputStatistics result = inputs;
    const std::size_t n = inputs.mean.size();
    if (with_bias_.count(key) == 0 || inputs.gram.empty()) return result;
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) result.gram[i * n + j] -= inputs.mean[i] * inputs.mean[j];
    return result;
}

Weight BlockCorrections::with_sizes_kept(const std::string& key, const Weight& original, Weight reduced, const InputStatistics* inputs, ThreadPool& pool) const {
    if (!wanted_.scale || inputs == nullptr || inputs->n_tokens < fewest_tokens) return reduced;
    return with_row_sizes_kept(original, reduced, *inputs, pool, with_bias_.count(key) != 0 ? SizeAbout::mean : SizeAbout::zero);
}

std::set<std::string> BlockCorrections::keys() const {
    std::set<std::string> keys;
    for (std::size_t block = 0; block < spec_.blocks.size(); ++block) {
        if (!is_decoder_block(spec_, block)) continue;
        if (wanted_.bias)
            for (const Op& op : spec_.blocks[block].ops)
                if (const LinearOp* linear = correctable(op)) keys.insert(linear->bias.key);
        if (!wanted_.norm) continue;
        for (const InputCoupling& coupling : find_couplings(spec_, block)) {
            if (coupling.norm == nullptr) continue;
            keys.insert(coupling.norm->weight.key);
            if (!coupling.norm->bias.empty()) keys.insert(coupling.norm->bias.key);
        }
    }
    return keys;
}

std::uint64_t BlockCorrections::memory_bytes(const std::map<std::string, std::uint64_t>& n_elements) const {
    std::uint64_t most = 0;
    for (std::size_t block = 0; wanted_.norm && block < spec_.blocks.size(); ++block) {
        if (!is_decoder_block(spec_, block)) continue;
        std::uint64_t noted = 0, system = 0;
        for (const InputCoupling& coupling : find_couplings(spec_, block)) {
            if (coupling.norm == nullptr) continue;
            const auto n = static_cast<std::uint64_t>(coupling.n_columns);
            system = std::max(system, n * n * (2 * sizeof(double) + 3 * sizeof(float)));  // a, upper; qq, qw, moments about the mean
            for (const TensorRef& reader : coupling.readers) {
                const auto found = n_elements.find(reader.key);
                noted += found == n_elements.end() ? 0 : found->second * 2 * sizeof(float);
            }
        }
        most = std::max(most, noted + system);
    }
    return most + (wanted_.scale ? row_sizes_memory_bytes : 0);
}

std::vector<std::string> BlockCorrections::left_out() const {
    std::vector<std::string> names;
    for (std::size_t block = 0; wanted_.bias && block < spec_.blocks.size(); ++block)
        for (const Op& op : spec_.blocks[block].ops)
            if (is_decoder_block(spec_, block) && std::holds_alternative<LinearOp>(op.detail) && correctable(op) == nullptr) names.push_back(op.name);
    return names;
}

void BlockCorrections::begin_block(std::size_t block) {
    block_ = block;
    settled_ = false;
    noted_.clear();
    values_.clear();
}

void BlockCorrections::note(const std::string& key, const Weight& original, const Weight& result, const InputStatistics* inputs) {
    const bool has_bias = with_bias_.count(key) != 0, is_behind_norm = behind_norms_.count(key) != 0;
    if (!(has_bias || is_behind_norm) || inputs == nullptr || inputs->n_tokens < fewest_tokens) return;
    Noted noted;
    noted.inputs = inputs;
    noted.n_rows = original.n_rows();
    if (is_behind_norm) {
        noted.original = row_floats(original);
        noted.result = row_floats(result);
    } else {
        std::vector<float> w(static_cast<std::size_t>(original.n_columns())), q(w);
        for (std::int64_t row = 0; row < noted.n_rows; ++row) {
            original.row(row, w.data());
            result.row(row, q.data());
            noted.lost_means.push_back(lost_mean(w.data(), q.data(), inputs->mean));
        }
    }
    noted_[key] = std::move(noted);
}

// With the errors about their mean where a bias takes that (H = E[(x - m)(x - m)']). Minimise over t: sum over rows of E (w x - q (t x))^2 = t' A t - 2 b' t + const, A = (Q'Q) o H, b = ((Q'W) o H) 1.
Status BlockCorrections::correct_norm(const InputCoupling& coupling, const WeightSource& weights, ThreadPool& pool) {
    const std::int64_t n = coupling.n_columns;
    std::vector<float> qq(static_cast<std::size_t>(n * n)), qw(qq);
    const InputStatistics* inputs = nullptr;
    for (const TensorRef& reader : coupling.readers) {
        const auto found = noted_.find(reader.key);
        if (found == noted_.end()) return {};
        const Noted& noted = found->second;
        inputs = noted.inputs;
        const auto add = [&](const std::vector<float>& other, std::vector<float>& sum) {
            multiply({.m = n, .n = n, .k = noted.n_rows, .a = noted.result.data(), .a_stride = n, .a_as = Product::As::transposed, .b = other.data(), .b_stride = n, .c = sum.data(), .c_stride = n, .factor = 1, .keep = 1}, pool);
        };
        add(noted.result, qq);
        add(noted.original, qw);
    }
    if (inputs == nullptr || inputs->gram.empty()) return {};
    const bool all_biased = std::all_of(coupling.readers.begin(), coupling.readers.end(), [&](const TensorRef& reader) { return with_bias_.count(reader.key) != 0; });
    const InputStatistics judged = all_biased ? judged_by(coupling.readers[0].key, *inputs) : *inputs;
    std::vector<double> a(static_cast<std::size_t>(n * n)), b(static_cast<std::size_t>(n));
    double trace = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<double>(qq[i]) * static_cast<double>(judged.gram[i]);
        b[i / static_cast<std::size_t>(n)] += static_cast<double>(qw[i]) * static_cast<double>(judged.gram[i]);
        if (i % static_cast<std::size_t>(n + 1) == 0) trace += a[i];
    }
    if (!(trace > 0) || !std::isfinite(trace)) return {};
    const double added = norm_damping * trace / static_cast<double>(n);
    std::vector<double> upper = a, t = b;
    for (std::size_t i = 0; i < t.size(); ++i) {
        upper[i * static_cast<std::size_t>(n + 1)] += added;
        t[i] += added;
    }
    if (!cholesky_upper(upper.data(), n)) return {};
    solve_upper_transposed(upper.data(), n, t.data(), 1);
    solve_upper(upper.data(), n, t.data(), 1);
    double before = 0, after = 0;  // E[y y'], which is to stay: of all gains that keep it, these, times a number, lose least
    for (std::size_t i = 0; i < t.size(); ++i) before += b[i], after += b[i] * t[i];
    if (!(before > 0) || !(after > 0)) return {};
    for (double& gain : t) gain = std::clamp(gain * before / after, static_cast<double>(least_gain), static_cast<double>(most_gain));
    const auto loss = [&](const std::vector<double>& gains) {
        double sum = 0;
        for (std::size_t i = 0; i < gains.size(); ++i) {
            double row = 0;
            for (std::size_t j = 0; j < gains.size(); ++j) row += a[i * gains.size() + j] * gains[j];
            sum += gains[i] * (row - 2 * b[i]);
        }
        return sum;
    };
    if (!(loss(t) < loss(std::vector<double>(t.size(), 1)))) return {};
    const auto scaled = [&](const TensorRef& ref, float offset) -> Status {
        SKIFF_TRY(const auto stored, weights.load(ref.key));
        auto values = row_floats(stored);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = (values[i] + offset) * static_cast<float>(t[i]) - offset;
        values_[ref.key] = make_float_weight(stored.shape, std::move(values));
        return {};
    };
    SKIFF_CHECK(scaled(coupling.norm->weight, coupling.norm->weight_offset));
    if (!coupling.norm->bias.empty()) SKIFF_CHECK(scaled(coupling.norm->bias, 0));
    for (const TensorRef& reader : coupling.readers) {  // what the operator multiplies the old input with from now on
        Noted& noted = noted_.at(reader.key);
        for (std::size_t i = 0; i < noted.result.size(); ++i) noted.result[i] *= static_cast<float>(t[i % static_cast<std::size_t>(n)]);
    }
    return {};
}

Status BlockCorrections::correct_biases(const WeightSource& weights) {
    std::set<std::string> done;
    for (const Op& op : spec_.blocks[block_].ops) {
        const LinearOp* linear = correctable(op);
        if (linear == nullptr || !done.insert(linear->bias.key).second) continue;
        const auto found = noted_.find(linear->terms[0].weight.key);
        if (found == noted_.end()) continue;
        const Noted& noted = found->second;
        SKIFF_TRY(const auto stored, weights.load(linear->bias.key));
        auto values = row_floats(stored);
        if (static_cast<std::int64_t>(values.size()) != noted.n_rows) continue;
        const auto& mean = noted.inputs->mean;
        for (std::size_t row = 0; row < values.size(); ++row) {
            const std::size_t begin = row * mean.size();
            values[row] += static_cast<float>(noted.original.empty() ? noted.lost_means[row] : lost_mean(noted.original.data() + begin, noted.result.data() + begin, mean));
        }
        values_[linear->bias.key] = make_float_weight(stored.shape, std::move(values));
    }
    return {};
}

Status BlockCorrections::settle(const WeightSource& weights, ThreadPool& pool) {
    settled_ = true;
    if (!is_decoder_block(spec_, block_)) return {};
    if (wanted_.norm)
        for (const InputCoupling& coupling : find_couplings(spec_, block_))
            if (coupling.norm != nullptr) SKIFF_CHECK(correct_norm(coupling, weights, pool));
    if (wanted_.bias) SKIFF_CHECK(correct_biases(weights));
    return {};
}

const Weight* BlockCorrections::value(const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

}  // namespace skiff

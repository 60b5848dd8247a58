#include "compress/tensor_plan.h"

#include <algorithm>
#include <set>

#include "base/checked.h"
#include "compress/method.h"
#include "compress/quantize/pruned_weights.h"
#include "compress/survey.h"
#include "formats/compressed_tensors.h"
#include "formats/hashed_weights.h"
#include "formats/sparse_weights.h"
#include "model/axes.h"

namespace skiff {
namespace {

constexpr std::string_view weight_end = ".weight";

// The 16 bit type that the parent computes with.
DType half_type(const Json& config) {
    for (const char* key : {"dtype", "torch_dtype"})
        if (config[key].is_string()) return config[key].text() == "bfloat16" ? DType::bf16 : DType::f16;
    return DType::f16;
}

}  // namespace

Scheme floating_scheme(DType dtype) { return *parse_scheme(dtype == DType::bf16 ? "bf16" : dtype == DType::f16 ? "fp16" : "fp32"); }

namespace {

std::vector<TensorDeclaration> declare(const PlannedTensor& planned, DType kept_dtype) {
    const std::string module = module_of_key(planned.key);
    if (!planned.scheme || planned.scheme->kind == NumberKind::floating) return {{planned.key, planned.scheme ? planned.scheme->dtype : kept_dtype, planned.shape}};
    return code_tensors(module, *planned.scheme, planned.shape);
}

class Planner {
public:
    Planner(const Checkpoint& parent, const QuantizeStep& step, ThreadPool& pool, Zeros zeros)
        : parent_(parent), step_(step), pool_(pool), zeros_(zeros), uses_(tensor_uses(parent.spec)), columns_(keys_stored_as_columns(parent.spec)) {}

    Result<TensorPlan> run(const ProgressSink& progress) {
        SKIFF_CHECK(check_step());
        std::uint64_t done = 0, total = parent_.spec.tensors.size();
        for (const auto& [key, declared] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && declared.need == TensorDecl::Need::optional) continue;
            auto added = add(key);
            if (!added.ok()) return added.take_error().with_context("tensor " + key);
            if (progress) progress({"survey", key, ++done, total});
        }
        for (auto& [text, n] : remark_counts_) plan_.remarks.push_back(text + (n > 1 ? " (" + std::to_string(n) + " tensors)" : ""));
        for (const SchemeRule& rule : step_.schemes.rules)
            if (used_rules_.count(&rule) == 0)
                return usage_error("no tensor has its scheme from \"" + rule.pattern + "\": keys of linear weights and tables are such as " + example_key() + ", and of several patterns that match the last one counts");
        const bool to_codes = step_.schemes.linear.is_coded();
        if (n_changed_ == 0 && to_codes) return usage_error("nothing would change: " + (plan_.remarks.empty() ? "the model has no linear weights" : plan_.remarks[0]));
        if (n_changed_ == 0) plan_.remarks.push_back("every tensor is " + step_.schemes.linear.name() + " already; the result is a copy");
        return std::move(plan_);
    }

private:
    bool elsewhere() const { return step_.loadable == QuantizeStep::Loadable::elsewhere; }

    Status check_step() {
        SKIFF_TRY(const WeightMethod* method, find_weight_method(step_.method));
        SKIFF_CHECK(method->defined_on(step_.schemes.linear));
        std::vector<std::optional<Scheme>> others = {step_.schemes.embedding, step_.schemes.head};
        for (const auto& scheme : others)  // tables are rounded to nearest by every method
            if (scheme && !method->defined_on(*scheme).ok()) SKIFF_CHECK(nearest_defined_on(*scheme));
        for (const SchemeRule& rule : step_.schemes.rules) {
            if (rule.scheme && rule.scheme->is_coded()) SKIFF_CHECK(method->defined_on(*rule.scheme));
            others.push_back(rule.scheme);
        }
        others.emplace_back(step_.schemes.linear);
        for (const auto& scheme : others)
            if (elsewhere() && scheme && scheme->is_coded() && !is_public_form(*scheme))
                return usage_error(why_not_public(*scheme) + "; take an integer scheme of 4 or 8 bits such as w4g32, mxfp4, or leave --compat out");
        if (elsewhere() && !step_.schemes.linear.symmetric) remark("asymmetric schemes are written as the format says, but transformers does not load them; take a symmetric one");
        return {};
    }

    static std::string why_not_public(const Scheme& scheme) {
        if (scheme.kind == NumberKind::integer && !scheme.relative_scales() && !scheme.minimums)
            return scheme.name() + ": codes of " + std::to_string(scheme.bits) + " bits lie across words, and other programs of before May 2026 read them as other numbers";
        return scheme.name() + " is a form of our own that other programs do not load";
    }

    void remark(const std::string& text) { ++remark_counts_[text]; }

    const Scheme* wanted_for(const PlannedTensor& planned) {
        const SchemeRule* rule = rule_for(step_.schemes, planned.key, planned.use);
        if (rule == nullptr) return scheme_for(step_.schemes, planned.use);
        used_rules_.insert(rule);
        return rule->scheme ? &*rule->scheme : nullptr;
    }

    std::string example_key() const {
        for (const auto& [key, use] : uses_)
            if (use == TensorUse::linear) return key;
        return uses_.empty() ? "none" : uses_.begin()->first;
    }

    // The scheme asked for, or nothing where it cannot be.
    Result<std::optional<Scheme>> choose(const PlannedTensor& planned, const Weight& weight) {
        const Scheme* wanted = wanted_for(planned);
        if (wanted == nullptr) return kept(weight);
        if (wanted->kind == NumberKind::floating) {
            const bool same = weight.plain() != nullptr && weight.plain()->dtype == wanted->dtype;
            const bool is_number = weight.plain() == nullptr || dtype_info(weight.plain()->dtype).is_float;
            return same || !is_number || weight.shape.empty() ? std::optional<Scheme>() : *wanted;
        }
        const bool is_factor = planned.key.ends_with(".low_rank_up") || planned.key.ends_with(".low_rank_down");
        const bool is_module = (planned.key.ends_with(weight_end) || is_factor) && weight.shape.size() == 2;
        if (!is_module) {
            remark("tensors that are no module's weight stay as they are");
            return kept(weight);
        }
        Scheme scheme = *wanted;
        const std::int64_t n_columns = weight.plain() != nullptr && planned.stored_as_columns ? weight.shape[0] : weight.shape[1];
        const bool named_by_group = scheme.relative_scales() || scheme.kind != NumberKind::integer;
        if (scheme.group_size >= n_columns && !named_by_group) scheme.group_size = 0;  // one group: the same numbers as the whole row
        if (elsewhere()) {
            if (planned.stored_as_columns) {
                remark("weights stored as (inputs, outputs) stay as they are: other programs do not read them quantized");
                return kept(weight);
            }
            if (scheme.group_size != 0 && n_columns % scheme.group_size != 0) {
                remark("rows that are not a multiple of " + std::to_string(scheme.group_size) + " stay as they are: other programs do not read a short last group");
                return kept(weight);
            }
            if (scheme.kind == NumberKind::integer || scheme.codebook == find_codebook("e4m3")) scheme.scale_dtype = half_type(parent_.config);
        }
        return std::optional<Scheme>(scheme);
    }

    // Kept tensors that are not plain become 16 bit floats (only where requantizing was asked for), but for pruned ones.
    std::optional<Scheme> kept(const Weight& weight) const {
        if (weight.plain() != nullptr || stays_pruned(weight)) return std::nullopt;
        return floating_scheme(half_type(parent_.config));
    }

    Status check_survey(PlannedTensor& planned, const Survey& survey) {
        if (!planned.scheme) return {};
        if (planned.scheme->kind == NumberKind::floating) {
            const bool overflows = planned.scheme->dtype == DType::f16 && survey.largest >= 65520.0f;
            if (overflows) return unsupported("holds " + std::to_string(survey.largest) + ", which fp16 cannot hold (65504 at most); take bf16");
            return {};
        }
        if (survey.needs_wide_scales && planned.scheme->scale_dtype == DType::f16) planned.scheme->scale_dtype = DType::f32;
        return {};
    }

    bool stays_pruned(const Weight& weight) const { return zeros_ == Zeros::keep && weight.sparse() != nullptr; }

    // Of pruned weights what is kept is rounded. Whether they stay pruned.
    Result<bool> plan_pruned(PlannedTensor& planned, const Weight& weight) {
        const Sparse& sparse = *weight.sparse();
        const bool requantize = step_.quantized == QuantizeStep::Quantized::requantize;
        if (elsewhere()) return unsupported("is pruned (" + planned.from + "), which no other program loads; leave --compat out, or first write the zeros out with skiff convert --to hf");
        SKIFF_TRY(auto wanted, choose(planned, weight));
        if (wanted && sparse.scheme.is_coded() && !(*wanted == sparse.scheme) && !requantize) return unsupported("is quantized already (" + planned.from + "); take the model that it was made from, or round it twice (skiff quantize --allow-requantize)");
        if (wanted) {
            const Status status = sparse_defined_on(*wanted);
            if (!status.ok() && requantize) {
                remark("pruned weights are written out, and need not stay zero: " + status.error().message);
                return false;
            }
            if (!status.ok()) return unsupported("is pruned (" + planned.from + "): " + status.error().message + ", or first write the zeros out with skiff convert --to hf");
        }
        n_changed_ += wanted && !(*wanted == sparse.scheme);
        planned.scheme = wanted ? *wanted : sparse.scheme;
        planned.parent_is_plain = false;
        planned.shape = weight.shape;
        SKIFF_TRY(const auto survey, survey_weight(weight, &*planned.scheme, pool_));
        if (wanted) SKIFF_CHECK(check_survey(planned, survey));
        declare_sparse(planned, sparse.pattern, sparse.n_values());
        return true;
    }

    // Zeros of a plain matrix that take fewer bytes as what is not there, as prune stores them.
    void look_for_zeros(PlannedTensor& planned, const Weight& weight) {
        const bool can = zeros_ == Zeros::keep && !elsewhere() && planned.use == TensorUse::linear && weight.plain() != nullptr && planned.becomes_codes() && step_.outliers == 0 && step_.inputs.kind == InputScaleRule::Kind::dynamic;
        if (!can || !planned.key.ends_with(weight_end) || !sparse_defined_on(*planned.scheme).ok()) return;
        const Weight rows = planned.turn_source() ? transposed(weight) : weight;
        const auto pattern = pattern_of_zeros(rows, *planned.scheme);
        if (!pattern) return;
        declare_sparse(planned, *pattern, n_kept_values(kept_units(rows, *pattern), *pattern));
        remark("zeros are left out (" + pattern->name() + "), which takes fewer bytes than their codes");
    }

    static void declare_sparse(PlannedTensor& planned, const SparsePattern& pattern, std::int64_t n_values) {
        planned.sparse = pattern;
        planned.n_stored = static_cast<std::uint64_t>(n_values);
        planned.form = planned.scheme->name() + " of " + pattern.name();
        planned.declarations = sparse_tensors(module_of_key(planned.key), pattern, *planned.scheme, planned.shape, n_values);
    }

    // Of hashed weights the bank is rounded, by itself: no method knows what inputs its blocks meet.
    Status plan_bank(PlannedTensor& planned, const Weight& weight) {
        const Hashed& hashed = *weight.hashed();
        planned.stored_as_columns = false;  // held as codes are
        planned.parent_is_plain = false;
        planned.shape = weight.shape;
        planned.hash = hashed.hash;
        Shape expected = parent_.spec.shape(parent_.spec.tensors.at(planned.key));
        if (columns_.count(planned.key) != 0) std::swap(expected[0], expected[1]);
        if (weight.shape != expected)
            return corrupt("has a hash_map of " + shape_text(weight.shape) + ", where config.json says " + shape_text(expected) + "; take both from one folder, or make the model again");
        const std::string instead = ", or first write the blocks out with skiff convert --to hf";
        if (!step_.transforms.empty()) return unsupported("is hashed (" + planned.from + "): a transform scales single rows and columns, which blocks that are shared cannot follow; leave --transform out" + instead);
        if (elsewhere()) return unsupported("is hashed (" + planned.from + "), which no other program loads; leave --compat out" + instead);
        const Scheme* wanted = wanted_for(planned);
        const bool coded = hashed.bank->codes() != nullptr, rounds = wanted != nullptr && wanted->is_coded();
        if (coded && rounds && step_.quantized == QuantizeStep::Quantized::refuse) return unsupported("is quantized already (" + planned.from + "); take the model that it was made from, or round it twice (skiff quantize --allow-requantize)");
        if (rounds) {
            SKIFF_CHECK(hash_defined_on(*wanted));
            if (step_.inputs.kind != InputScaleRule::Kind::dynamic) return unsupported("is hashed (" + planned.from + "): inputs as codes are for plain rows of codes; leave --activations out" + instead);
            const bool plain_rounding = step_.method == "nearest" && step_.outliers == 0 && !step_.corrections.any();
            if (!plain_rounding) return unsupported("is hashed (" + planned.from + "): each of its stored blocks meets several inputs, so that it can only be rounded to nearest, in a form of our own; take --method nearest without outliers and corrections" + instead);
            planned.scheme = *wanted;
            SKIFF_TRY(const auto survey, survey_weight(*hashed.bank, &*planned.scheme, pool_));
            SKIFF_CHECK(check_survey(planned, survey));
            planned.declarations = hashed_tensors(module_of_key(planned.key), hashed.hash, *planned.scheme);
            planned.form = planned.scheme->name() + " hashed 1:" + std::to_string(hashed.hash.shared);
        } else {
            const bool other = wanted != nullptr && (coded || hashed.bank->plain()->dtype != wanted->dtype);
            if (other) return unsupported("is hashed (" + planned.from + "); skiff convert --to hf --type writes its blocks out in another type");
            planned.declarations = coded ? hashed_tensors(module_of_key(planned.key), hashed.hash, hashed.bank->codes()->scheme) : hashed_tensors(module_of_key(planned.key), hashed.hash, hashed.bank->plain()->dtype);
            if (coded) planned.scheme = hashed.bank->codes()->scheme;  // for the config
            planned.form = planned.from;
        }
        n_changed_ += rounds;
        return take(planned, weight);
    }

    Status add(const std::string& key) {
        PlannedTensor planned;
        planned.key = key;
        planned.use = uses_.at(key);
        planned.stored_as_columns = columns_.count(key) != 0;
        SKIFF_TRY(auto weight, parent_.weights->load(key));
        planned.from = weight.encoding_name();
        if (weight.hashed() != nullptr) return plan_bank(planned, weight);
        if (stays_pruned(weight)) {
            SKIFF_TRY(const bool stays, plan_pruned(planned, weight));
            if (stays) return take(planned, weight);
        }
        if (weight.plain() == nullptr && step_.quantized == QuantizeStep::Quantized::refuse) {
            if (weight.sparse() != nullptr) return unsupported("is pruned (" + planned.from + "); prune and round in one step with prune --scheme, or first write the zeros out with skiff convert --to hf");
            return unsupported("is quantized already (" + planned.from + "); take the model that it was made from, or round it twice (skiff quantize --allow-requantize)");
        }
        SKIFF_TRY(planned.scheme, choose(planned, weight));
        planned.shape = weight.shape;
        planned.parent_is_plain = weight.plain() != nullptr;
        if (planned.turn_source() || planned.turn_result()) std::swap(planned.shape[0], planned.shape[1]);
        SKIFF_TRY(const auto survey, survey_weight_of(planned, weight));
        SKIFF_CHECK(check_survey(planned, survey));

        planned.declarations = declare(planned, weight.plain() != nullptr ? weight.plain()->dtype : DType::f16);
        look_for_zeros(planned, weight);
        n_changed_ += planned.scheme.has_value();
        return take(planned, weight);
    }

    // Sizes, and into the plan.
    Status take(PlannedTensor& planned, const Weight& weight) {
        for (const auto& part : planned.declarations) {
            auto n_elements = checked_product(part.shape);
            auto size = n_elements ? dtype_bytes(part.dtype, *n_elements) : std::nullopt;
            if (!size) return corrupt("has no size in bytes");
            planned.bytes_after += static_cast<std::uint64_t>(*size);
        }
        planned.bytes_before = weight.stored_bytes();
        planned.n_elements = static_cast<std::uint64_t>(element_count(weight.shape));
        plan_.bytes_before += planned.bytes_before;
        plan_.bytes_after += planned.bytes_after;
        plan_.n_elements += planned.n_elements;
        plan_.largest_working_set_bytes = std::max(plan_.largest_working_set_bytes, planned.bytes_before * (planned.stored_as_columns ? 2 : 1) + planned.bytes_after);
        plan_.tensors.push_back(std::move(planned));
        release_pages(weight);
        return {};
    }

    Result<Survey> survey_weight_of(const PlannedTensor& planned, const Weight& weight) {
        const TensorView* view = weight.plain();
        if (view != nullptr && (!dtype_info(view->dtype).is_float || dtype_info(view->dtype).to_float == nullptr)) return Survey{};
        // Scales belong to rows of outputs; a matrix stored as columns is turned for that.
        return survey_weight(planned.turn_source() ? transposed(weight) : weight, planned.scheme ? &*planned.scheme : nullptr, pool_);
    }

    const Checkpoint& parent_;
    const QuantizeStep& step_;
    ThreadPool& pool_;
    const Zeros zeros_;
    std::map<std::string, TensorUse> uses_;
    std::set<std::string> columns_;
    std::map<std::string, int> remark_counts_;
    std::set<const SchemeRule*> used_rules_;
    int n_changed_ = 0;
    TensorPlan plan_;
};

}  // namespace

std::string module_of_key(const std::string& key) { return key.ends_with(weight_end) ? key.substr(0, key.size() - weight_end.size()) : key; }

Result<TensorPlan> plan_tensors(const Checkpoint& parent, const QuantizeStep& step, ThreadPool& pool, const ProgressSink& progress, Zeros zeros) {
    return Planner(parent, step, pool, zeros).run(progress);
}

void order_by_block(const ModelSpec& spec, TensorPlan& plan) {
    std::map<std::string, std::size_t> first;
    for (std::size_t i = 0; i < spec.blocks.size(); ++i)
        for (Op op : spec.blocks[i].ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { first.emplace(ref.key, i); });
    for (PlannedTensor& tensor : plan.tensors) {
        const auto found = first.find(tensor.key);
        tensor.block = found != first.end() ? found->second : spec.blocks.size();
    }
    std::stable_sort(plan.tensors.begin(), plan.tensors.end(), [](const PlannedTensor& a, const PlannedTensor& b) { return *a.block < *b.block; });
}

Result<Weight> load_as_rows(const WeightSource& weights, const PlannedTensor& planned) {
    SKIFF_TRY(auto weight, weights.load(planned.key));
    return planned.turn_source() ? transposed(weight) : weight;
}

namespace {

// What is kept is rounded by the method, which lets zeros be.
Result<Weight> make_pruned(const WeightSource& weights, const PlannedTensor& planned, const MakeOptions& options) {
    const QuantizeStep& step = options.step;
    SKIFF_TRY(const auto before, load_as_rows(options.parent != nullptr ? *options.parent : weights, planned));
    SKIFF_TRY(auto source, load_as_rows(weights, planned));
    if (source.sparse() != nullptr && source.sparse()->scheme == *planned.scheme) return source;
    auto bitmask = kept_units(before, *planned.sparse);
    SKIFF_TRY(source, with_kept_units(source, *planned.sparse, bitmask, options.pool));
    if (!planned.becomes_codes()) {
        SKIFF_TRY(const auto rounded, encode_nearest(source, *planned.scheme, step.scale_rule, {}, &options.pool));
        return make_sparse(rounded, *planned.sparse, std::move(bitmask));
    }
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    SKIFF_TRY(const auto codes, encode_by(*method, {source, *planned.scheme, step.scale_rule, options.pool, options.inputs, step.method_options, options.remarks, options.squared_gradients}));
    return make_sparse(codes, *planned.sparse, std::move(bitmask));
}

}  // namespace

Result<Weight> make_planned(const WeightSource& weights, const PlannedTensor& planned, const MakeOptions& options) {
    const QuantizeStep& step = options.step;
    SKIFF_TRY(const auto source, load_as_rows(weights, planned));
    if (planned.hash) {
        const Weight& bank = *source.hashed()->bank;
        if (!planned.scheme || (bank.codes() != nullptr && bank.codes()->scheme == *planned.scheme)) return source;
        SKIFF_TRY(auto rounded, encode_nearest(bank, *planned.scheme, step.scale_rule, {}, &options.pool));
        return make_hashed(*planned.hash, std::move(rounded));
    }
    if (planned.sparse) return make_pruned(weights, planned, options);
    if (!planned.scheme) {
        // Transforms edit tensors as f32; they are kept in the parent's type.
        const DType kept = planned.declarations[0].dtype;
        const bool same = source.plain() == nullptr || source.plain()->dtype == kept || !dtype_info(kept).is_float;
        if (same) return source;
        return encode_nearest(source, floating_scheme(kept), ScaleRule::min_max, {}, &options.pool);
    }
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    SKIFF_TRY(auto result, encode_by(*method, {source, *planned.scheme, step.scale_rule, options.pool, options.inputs, step.method_options, options.remarks, options.squared_gradients}));
    // Codes and blocks of the parent are (outputs, inputs) where a plain tensor is stored as columns.
    return planned.turn_result() ? transposed(result) : result;
}

Result<Json> planned_config(const Checkpoint& parent, const TensorPlan& plan, const QuantizeStep& step) {
    Json config = parent.config;
    config.erase("quantization_config");
    const bool has_codes = std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const PlannedTensor& tensor) { return tensor.becomes_codes(); });
    if (step.schemes.linear.kind == NumberKind::floating) {
        const DType dtype = step.schemes.linear.dtype;
        const char* name = dtype == DType::bf16 ? "bfloat16" : dtype == DType::f16 ? "float16" : "float32";
        const bool has_new_key = config.contains("dtype");
        if (has_new_key) config.set("dtype", name);
        if (!has_new_key || config.contains("torch_dtype")) config.set("torch_dtype", name);
    }
    const bool has_sparse = std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const PlannedTensor& tensor) { return tensor.sparse.has_value(); });
    if (!has_codes && !has_sparse) return config;
    std::map<std::string, QuantizedModule> modules;
    std::vector<std::string> ignore;
    for (const PlannedTensor& tensor : plan.tensors) {
        const bool is_embedding = tensor.use == TensorUse::embedding || tensor.use == TensorUse::tied_embedding;
        const bool is_linear = tensor.use == TensorUse::linear || tensor.use == TensorUse::head || tensor.use == TensorUse::router;
        const std::string codes_of = module_of_key(tensor.key) + std::string(tensor.hash ? hash_bank_end : "");
        if (tensor.hash && tensor.scheme) modules[codes_of] = {*tensor.scheme, tensor.hash->n_bank_columns(), true, true, tensor.inputs};
        else if (tensor.scheme && tensor.scheme->is_coded()) modules[codes_of] = {*tensor.scheme, tensor.shape[1], !is_embedding, tensor.sparse.has_value(), tensor.inputs};
        else if (is_linear && tensor.key.ends_with(weight_end)) ignore.push_back(module_of_key(tensor.key));
        // Loaders make a head of the tied table, a linear layer of its own name.
        if (tensor.use == TensorUse::tied_embedding) ignore.push_back("lm_head");
    }
    SKIFF_TRY(auto quantization, quantization_config_for(modules, ignore));
    if (has_sparse) quantization.set("format", "skiff-quantized");  // so that other programs refuse the file by its format instead of missing weights
    config.set("quantization_config", std::move(quantization));
    return config;
}

}  // namespace skiff

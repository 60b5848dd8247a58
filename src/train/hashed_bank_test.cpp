// Hashed weights in training: the gathered matrix is the engine's, the gradient of a bank that of a product with the matrix, and what shares goes on to share.
#include "train/train_testing.h"

#include <cmath>

#include "base/hash.h"
#include "plan/session.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

// A tiny model with all linear weights of its blocks hashed, from random banks.
class HashedModel final : public WeightSource {
public:
    HashedModel(const Checkpoint& checkpoint, std::int64_t shared) : source_(checkpoint.weights) {
        const auto columns = keys_stored_as_columns(checkpoint.spec);
        for (std::size_t i = 1; i + 1 < checkpoint.spec.blocks.size(); ++i)
            for (const Op& op : checkpoint.spec.blocks[i].ops)
                if (const auto* linear = std::get_if<LinearOp>(&op.detail)) {
                    const std::string& key = linear->terms[0].weight.key;
                    Shape shape = checkpoint.spec.shape(checkpoint.spec.tensors.at(key));
                    if (columns.count(key) != 0) std::swap(shape[0], shape[1]);
                    BlockHash hash = {shape[0], shape[1], 1, hash64(std::as_bytes(std::span(key)))};
                    hash.shared = std::min(shared, hash.n_block_rows());
                    const at::Tensor bank = at::randn(hash.bank_shape()) * 0.1;
                    hashed_.insert_or_assign(key, *make_hashed(hash, make_float_weight(hash.bank_shape(), {bank.data_ptr<float>(), bank.data_ptr<float>() + bank.numel()})));
                }
    }
    bool contains(const std::string& key) const override { return source_->contains(key); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = hashed_.find(key);
        return found == hashed_.end() ? source_->load(key) : Result<Weight>(found->second);
    }
    std::vector<std::string> keys() const override { return source_->keys(); }
    std::size_t n_hashed() const { return hashed_.size(); }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, Weight> hashed_;
};

constexpr const char* models[] = {"llama", "gpt2", "phi3", "llama_tied_bf16"};

ParameterSet hashed_parameters(const ModelSpec& spec, const WeightSource& weights) {
    auto parameters = ParameterSet::load(spec, weights, at::kCPU, ParameterSet::HashedWeights::stay);
    EXPECT_TRUE(parameters.ok()) << (parameters.ok() ? "" : parameters.error().to_string());
    return std::move(*parameters);
}

const at::Tensor& some_tokens() {
    static const at::Tensor tokens = (at::arange(0, 20, at::kLong) * 7 % 57 + 3).view({1, 20});
    return tokens;
}

at::Tensor engine_logits(const ModelSpec& spec, const WeightSource& weights) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    options.isa = Isa::generic;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < some_tokens().size(1); ++i) ids.push_back(some_tokens()[0][i].item<std::int32_t>());
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    const auto found = (*session)->logits();
    return at::tensor(at::ArrayRef<float>(found.data(), found.size())).view({static_cast<std::int64_t>(ids.size()), -1});
}

TEST(HashedBank, GathersWhatTheEngineReads) {
    at::manual_seed(4);
    for (const std::int64_t n_rows : {5, 64, 100})
        for (const std::int64_t n_columns : {20, 64, 172})
            for (const std::int64_t shared : {1, 2, 3})
                for (const bool columns : {false, true}) {
                    const BlockHash hash = {n_rows, n_columns, std::min(shared, (n_rows + 15) / 16), 21};
                    const at::Tensor bank = at::randn(hash.bank_shape());
                    const auto weight = make_hashed(hash, make_float_weight(hash.bank_shape(), {bank.data_ptr<float>(), bank.data_ptr<float>() + bank.numel()}));
                    ASSERT_TRUE(weight.ok());
                    const at::Tensor matrix = HashedBank(hash, columns, at::kCPU).matrix(bank);
                    EXPECT_TRUE((columns ? matrix.t() : matrix).equal(tensor_of(*weight)));
                }
}

// <gradient of the bank, direction> is the change of <matrix, given> along the direction, exactly: the matrix is linear in the bank.
TEST(HashedBank, ItsGradientIsTheTransposeOfGathering) {
    at::manual_seed(5);
    for (const auto& hash : {BlockHash{100, 172, 3, 1}, BlockHash{64, 64, 2, 2}, BlockHash{5, 20, 1, 3}, BlockHash{33, 300, 3, 4}})
        for (const bool columns : {false, true}) {
            const HashedBank bank(hash, columns, at::kCPU);
            const at::Tensor given = at::randn(columns ? at::IntArrayRef{hash.n_columns, hash.n_rows} : at::IntArrayRef{hash.n_rows, hash.n_columns});
            const at::Tensor direction = at::randn(hash.bank_shape());
            const double by_matrix = (bank.matrix(direction).to(at::kDouble) * given).sum().item<double>(), by_bank = (bank.gradient(given).to(at::kDouble) * direction).sum().item<double>();
            EXPECT_NEAR(by_matrix, by_bank, 1e-4 * (1 + std::fabs(by_matrix)));
            EXPECT_TRUE(bank.gradient(given).equal(bank.gradient(given)));
        }
}

// The chain from the loss on: against differences of the loss itself.
TEST(HashedBank, GradientsOfTheLossAreThoseOfDifferences) {
    at::manual_seed(6);
    auto checkpoint = Checkpoint::open(tiny_model_path("llama"));
    ASSERT_TRUE(checkpoint.ok());
    const HashedModel weights(*checkpoint, 2);
    const auto model = make_trainable(checkpoint->spec, hashed_parameters(checkpoint->spec, weights));
    const at::Tensor inputs = some_tokens().narrow(1, 0, 19), targets = some_tokens().narrow(1, 1, 19);
    model->add_gradients(inputs, targets, 1.0 / 19);
    model->parameters().collect_gradients();
    std::size_t n_seen = 0;
    for (Parameter& parameter : model->parameters().all()) {
        if (!parameter.bank || n_seen++ % 4 != 0) continue;
        const at::Tensor direction = parameter.value.grad() / parameter.value.grad().norm();
        const double expected = (parameter.value.grad().to(at::kDouble) * direction).sum().item<double>(), step = 1e-2;
        const auto loss_at = [&](double along) {
            const at::NoGradGuard no_grad;
            parameter.value.add_(direction, along);
            model->parameters().refresh();
            const double loss = model->loss_sum(inputs, targets) / 19;
            parameter.value.sub_(direction, along);
            model->parameters().refresh();
            return loss;
        };
        EXPECT_NEAR((loss_at(step) - loss_at(-step)) / (2 * step), expected, 0.02 * std::fabs(expected) + 1e-5) << parameter.key;
    }
    EXPECT_GT(n_seen, 4u);
}

TEST(HashedBank, TrainsAndStaysShared) {
    at::manual_seed(7);
    for (const char* name : models)
        for (const char* scheme : {"", "w8g32", "w4g32"}) {
            SCOPED_TRACE(std::string(name) + " " + scheme);
            auto checkpoint = Checkpoint::open(tiny_model_path(name));
            ASSERT_TRUE(checkpoint.ok());
            const HashedModel weights(*checkpoint, 2);
            ParameterSet parameters = hashed_parameters(checkpoint->spec, weights);
            EXPECT_TRUE(parameters.any_hashed());
            EXPECT_FALSE(load_parameters(checkpoint->spec, weights).any_hashed());
            if (*scheme != 0)
                for (const Parameter& parameter : parameters.all())
                    if (parameter.bank) { ASSERT_TRUE(parameters.quantize(parameter.key, *parse_scheme(scheme), FakeQuant::Codes::follow).ok()); }
            parameters.refresh();
            const auto model = make_trainable(checkpoint->spec, std::move(parameters));
            Optimizer optimizer(model->parameters().trained(checkpoint->spec), {});
            double first = 0, last = 0;
            for (std::int64_t at = 1; at <= 4; ++at) {
                last = model->add_gradients(some_tokens().narrow(1, 0, 19), some_tokens().narrow(1, 1, 19), 1.0 / 19);
                if (at == 1) first = last;
                model->parameters().collect_gradients();
                optimizer.step(3e-3, at, optimizer.gradient_norm());
                model->parameters().refresh();
            }
            EXPECT_LT(last, first);
            const at::NoGradGuard no_grad;
            const at::Tensor trained = model->logits(some_tokens());
            const auto source = model->parameters().source(DType::f32);
            std::size_t n_hashed = 0;
            for (const auto& [key, declared] : checkpoint->spec.tensors) {
                const auto before = weights.load(key), after = source->load(key);
                ASSERT_TRUE(before.ok() && after.ok()) << key;
                if (before->hashed() == nullptr) continue;
                ++n_hashed;
                ASSERT_NE(after->hashed(), nullptr) << key;
                EXPECT_EQ(after->hashed()->hash, before->hashed()->hash) << key;
                EXPECT_FALSE(tensor_of(*after).equal(tensor_of(*before))) << key;
                if (*scheme != 0) { EXPECT_EQ(after->hashed()->bank->codes()->scheme.name(), scheme); }
            }
            EXPECT_EQ(n_hashed, weights.n_hashed());
            EXPECT_LT(relative_difference(engine_logits(checkpoint->spec, *source), trained), 1e-4);
        }
}

}  // namespace
}  // namespace skiff::train

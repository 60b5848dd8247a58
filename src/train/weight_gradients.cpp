// What compress asks of training: the gradients of a model's loss on its calibration text (compress/calibrate/gradients.h).
#include <ATen/Parallel.h>

#include "train/train.h"
#include "train/trainable_model.h"

namespace skiff::train {
namespace {

at::Tensor as_tokens(const std::vector<std::int32_t>& sample, std::size_t first, std::size_t n) {
    at::Tensor tokens = at::empty({1, static_cast<std::int64_t>(n)}, at::kLong);
    for (std::size_t i = 0; i < n; ++i) tokens.data_ptr<std::int64_t>()[i] = sample[first + i];
    return tokens;
}

// OpenBLAS shares the sums of f32 products among threads as it likes. One thread gives the same bits on every machine of an instruction set.
class OneThread {
public:
    OneThread() { at::set_num_threads(1); }
    ~OneThread() { at::set_num_threads(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_ = at::get_num_threads();
};

class WeightGradients final : public GradientSource {
public:
    Status for_each_sample(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text, const std::set<std::string>& keys, const Sink& sink) const override {
        const OneThread one_thread;
        std::int64_t n_predicted = 0;
        for (const auto& sample : text.samples) n_predicted += std::max<std::int64_t>(0, static_cast<std::int64_t>(sample.size()) - 1);
        SKIFF_TRY(auto parameters, ParameterSet::load(spec, weights, at::kCPU));
        for (Parameter& parameter : parameters.all()) parameter.value.set_requires_grad(keys.count(parameter.key) != 0);
        SKIFF_TRY(const auto model, TrainableModel::create(spec, std::move(parameters), {}));
        for (const auto& sample : text.samples) {
            if (sample.size() < 2) continue;
            const std::size_t n = sample.size() - 1;
            model->add_gradients(as_tokens(sample, 0, n), as_tokens(sample, 1, n), 1.0 / static_cast<double>(n_predicted));
            SampleGradients gradients;
            for (Parameter& parameter : model->parameters().all()) {
                if (!parameter.value.requires_grad()) continue;
                if (!parameter.value.grad().defined()) parameter.value.mutable_grad() = at::zeros_like(parameter.value);  // an expert that no token was sent to
                const at::Tensor gradient = parameter.value.grad();
                if (!gradient.is_contiguous()) parameter.value.mutable_grad() = gradient.contiguous();
                gradients[parameter.key] = {parameter.value.grad().data_ptr<float>(), static_cast<std::size_t>(gradient.numel())};
            }
            SKIFF_CHECK(sink(gradients));
            for (Parameter& parameter : model->parameters().all())
                if (parameter.value.grad().defined()) parameter.value.mutable_grad().zero_();
        }
        return {};
    }
};

}  // namespace

const GradientSource* gradient_source() {
    static const WeightGradients source;
    return &source;
}

}  // namespace skiff::train

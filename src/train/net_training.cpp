#include "train/net_training.h"

#include <chrono>
#include <cmath>
#include <numeric>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "base/progress.h"
#include "base/rng.h"
#include "train/net_module.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace skiff::train {
namespace {

using at::Tensor;

// (n, height, width, channels) -> (n, channels, height, width)
Tensor as_images(const float* x, std::int64_t n, const net::ValueShape& shape) {
    return at::from_blob(const_cast<float*>(x), {n, shape.height, shape.width, shape.channels}, at::kFloat).permute({0, 3, 1, 2}).contiguous();
}

Tensor rows(const Tensor& values) { return values.reshape({values.size(0), -1}); }

// T^2 KL(teacher || student) of softened answers, and the label's cross-entropy.
Tensor loss_of(const Tensor& student, const Tensor& teacher, const Tensor& labels, const NetTrainOptions& options) {
    const Tensor by_label = at::cross_entropy_loss(student, labels);
    if (options.teacher == nullptr) return by_label;
    const double t = options.temperature;
    const Tensor wanted = at::log_softmax(teacher / t, 1), found = at::log_softmax(student / t, 1);
    const Tensor divergence = (at::exp(wanted) * (wanted - found)).sum(1).mean() * (t * t);
    return divergence * options.alpha + by_label * (1 - options.alpha);
}

Result<Tensor> teacher_logits(const net::Net& teacher, const net::LabelledImages& images, int n_threads) {
    net::SessionOptions options;
    options.n_threads = n_threads;
    SKIFF_TRY(const auto session, net::Session::create(teacher, options));
    Tensor logits = at::empty({images.n(), session->output().n_elements()}, at::kFloat);
    session->run(images.pixels.data(), images.n(), logits.data_ptr<float>());
    return logits;
}

}  // namespace

Result<net::Net> train_net(const net::Net& net, const net::LabelledImages& images, const NetTrainOptions& options, const std::function<void(const NetEpoch&)>& on_epoch) {
    SKIFF_CHECK(net::check_images(net.spec, images));
    Tensor taught;
    if (options.teacher != nullptr) {
        SKIFF_CHECK(net::check_images(options.teacher->spec, images));
        SKIFF_TRY(taught, teacher_logits(*options.teacher, images, options.n_threads));
        SKIFF_TRY(const auto resolved, net::resolve(net.spec));
        if (taught.size(1) != resolved.shapes.back().channels) return usage_error("the teacher has " + std::to_string(taught.size(1)) + " answers, the student " + std::to_string(resolved.shapes.back().channels));
    }
    at::set_num_threads(options.n_threads);
    NetModule module(net);
    std::vector<ParameterSet::Trained> trained;
    for (auto& [name, value] : module.parameters()) {
        ParameterSet::Trained parameter{name, TensorDecl::Role::other, value, {}};
        if (options.zeros == NetTrainOptions::Zeros::keep && value.dim() == 2) parameter.mask = (value.detach() != 0).to(at::kFloat);
        trained.push_back(std::move(parameter));
    }
    OptimizerSettings settings;
    settings.beta2 = 0.99;
    settings.weight_decay = options.weight_decay;
    Optimizer optimizer(trained, settings);
    const std::int64_t batches = (images.n() + options.batch - 1) / options.batch;
    Schedule schedule;
    schedule.peak = options.learning_rate;
    schedule.n_steps = options.n_epochs * batches;
    schedule.warmup_steps = std::min<std::int64_t>(20, schedule.n_steps / 10);
    const Tensor all = as_images(images.pixels.data(), images.n(), images.shape), labels = at::tensor(at::ArrayRef<std::int32_t>(images.labels)).to(at::kLong);
    std::vector<std::int64_t> order(static_cast<std::size_t>(images.n()));
    std::iota(order.begin(), order.end(), 0);
    Rng rng(options.seed);
    const auto begin = std::chrono::steady_clock::now();
    std::int64_t step = 0;
    for (std::int64_t epoch = 1; epoch <= options.n_epochs; ++epoch) {
        for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
        double sum = 0;
        for (std::int64_t batch = 0; batch < batches; ++batch, ++step) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted in epoch " + std::to_string(epoch) + "; nothing was written", {}};
            const std::int64_t first = batch * options.batch, n = std::min(options.batch, images.n() - first);
            const Tensor chosen = at::tensor(at::ArrayRef<std::int64_t>(order.data() + first, static_cast<std::size_t>(n)), at::kLong);
            SKIFF_TRY(const auto out, module.forward(all.index_select(0, chosen)));
            const Tensor loss = loss_of(rows(out), taught.defined() ? taught.index_select(0, chosen) : taught, labels.index_select(0, chosen), options);
            const double value = loss.item<double>();
            if (!std::isfinite(value)) return runtime_error("the loss is no longer finite in epoch " + std::to_string(epoch) + "; take a smaller --lr");
            sum += value * static_cast<double>(n);
            loss.backward();
            optimizer.step(learning_rate(schedule, step), step + 1, optimizer.gradient_norm());
        }
        if (on_epoch) on_epoch({epoch, options.n_epochs, sum / static_cast<double>(images.n()), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()});
    }
    net::Net result = net;
    for (const auto& [name, value] : module.parameters()) {
        const Tensor numbers = value.detach().contiguous();
        result.set_floats(name, net.weights.at(name).shape, {numbers.data_ptr<float>(), numbers.data_ptr<float>() + numbers.numel()});
    }
    return result;
}

Result<std::vector<float>> net_outputs_in_training(const net::Net& net, std::span<const float> x) {
    const at::NoGradGuard guard;
    const std::int64_t n = static_cast<std::int64_t>(x.size()) / net.spec.input.n_elements();
    SKIFF_TRY(const auto out, NetModule(net).forward(as_images(x.data(), n, net.spec.input)));
    const Tensor numbers = out.permute({0, 2, 3, 1}).contiguous();
    return std::vector<float>(numbers.data_ptr<float>(), numbers.data_ptr<float>() + numbers.numel());
}

}  // namespace skiff::train

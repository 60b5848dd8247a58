#include "train/student_text.h"

#include "base/hash.h"
#include "plan/session.h"
#include "runtime/sampler.h"

namespace skiff::train {

std::uint64_t StudentText::seed_of(std::uint64_t window) const { return hash64(std::as_bytes(std::span(&window, 1)), settings_.seed); }

Result<at::Tensor> StudentText::continued(const at::Tensor& windows, std::uint64_t first_window, std::int64_t step) {
    if (step != plan_step_) {
        plan_.reset();
        PlanOptions options;
        options.n_threads = options.n_load_threads = settings_.n_threads;
        SKIFF_TRY(plan_, lower(student_.parameters().with_input_scales(student_.spec()), *student_.parameters().source(DType::f32, ParameterSet::Masked::written_out), options));
        plan_step_ = step;
    }
    const std::int64_t n = windows.size(0), n_tokens = windows.size(1);
    SessionOptions options;
    options.n_threads = settings_.n_threads;
    options.n_sequences = n;
    options.n_context = n_tokens - 1;  // nothing follows the last one
    SKIFF_TRY(const auto session, Session::create(plan_, options));
    at::Tensor result = windows.to(at::kCPU).clone();
    std::int64_t* tokens = result.data_ptr<std::int64_t>();
    std::vector<Sampler> samplers;
    std::vector<BatchItem> items(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
        samplers.emplace_back(SamplingOptions{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = seed_of(first_window + static_cast<std::uint64_t>(i))});
        BatchItem& item = items[static_cast<std::size_t>(i)];
        item.sequence = i;
        for (std::int64_t t = 0; t < settings_.n_prompt; ++t) item.tokens.push_back(static_cast<std::int32_t>(tokens[i * n_tokens + t]));
    }
    for (std::int64_t t = settings_.n_prompt; t < n_tokens; ++t) {
        SKIFF_CHECK(session->forward(items));
        for (std::int64_t i = 0; i < n; ++i) {
            SKIFF_TRY(const std::int32_t token, samplers[static_cast<std::size_t>(i)].sample(session->logits_row(i)));
            tokens[i * n_tokens + t] = token;
            items[static_cast<std::size_t>(i)].tokens = {token};
        }
    }
    return result.to(windows.device());
}

}  // namespace skiff::train

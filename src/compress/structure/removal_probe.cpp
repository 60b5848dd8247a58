#include "compress/structure/removal_probe.h"

#include <algorithm>

#include "measure/divergence.h"
#include "model/axes.h"
#include "plan/session.h"

namespace skiff {

Result<RemovalProbe> RemovalProbe::create(const Checkpoint& model, const CalibrationText& text, int n_threads, std::uint64_t max_logit_bytes) {
    RemovalProbe probe;
    probe.n_vocab_ = model.spec.n_vocab;
    probe.n_threads_ = n_threads;
    probe.max_logit_bytes_ = max_logit_bytes;
    std::uint64_t bytes = 0;
    for (const auto& sample : text.samples) {
        bytes += sample.size() * static_cast<std::uint64_t>(probe.n_vocab_) * sizeof(float);
        if (!probe.samples_.empty() && bytes > max_logit_bytes) break;
        probe.samples_.push_back(sample);
        probe.n_tokens_ += static_cast<std::int64_t>(sample.size());
    }
    SKIFF_CHECK(probe.run(model.spec, *model.weights, [&](std::size_t, std::span<const float> logits) -> Status {
        probe.logits_.emplace_back(logits.begin(), logits.end());
        return {};
    }));
    return probe;
}

std::vector<std::string> RemovalProbe::remarks(const CalibrationText& text) const {
    if (n_tokens_ >= text.n_tokens()) return {};
    return {"measured on " + std::to_string(n_tokens_) + " of the " + std::to_string(text.n_tokens()) + " tokens of the calibration text: the logits of more would take more than " + std::to_string(max_logit_bytes_ >> 20) + " MiB"};
}

Status RemovalProbe::run(const ModelSpec& spec, const WeightSource& weights, const Sink& sink) const {
    PlanOptions plan_options;
    plan_options.n_threads = plan_options.n_load_threads = n_threads_;
    SKIFF_TRY(auto plan, lower(spec, weights, plan_options));
    std::int64_t longest = 0;
    for (const auto& sample : samples_) longest = std::max(longest, static_cast<std::int64_t>(sample.size()));
    SessionOptions session_options;
    session_options.n_threads = n_threads_;
    session_options.n_context = session_options.max_batch = longest;
    SKIFF_TRY(auto session, Session::create(plan, session_options));
    for (std::size_t i = 0; i < samples_.size(); ++i) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        SKIFF_CHECK(session->forward(0, samples_[i], BatchItem::Logits::all));
        SKIFF_CHECK(sink(i, session->logits()));
        SKIFF_CHECK(session->state().truncate(0, 0));
    }
    return {};
}

Result<double> RemovalProbe::mean_kl(const ModelSpec& spec, const WeightSource& weights) const {
    ThreadPool pool(n_threads_);
    double sum = 0;
    auto status = run(spec, weights, [&](std::size_t i, std::span<const float> logits) -> Status {
        std::vector<TokenDivergence> positions(samples_[i].size());
        SKIFF_CHECK(compare_rows(pool, logits_[i], logits, samples_[i], positions));
        for (const TokenDivergence& position : positions) sum += position.kl;
        return {};
    });
    if (!status.ok()) return status.take_error();
    return sum / static_cast<double>(std::max<std::int64_t>(1, n_tokens_));
}

ModelSpec without_blocks(const ModelSpec& spec, const std::set<std::size_t>& dropped) {
    ModelSpec left = spec;
    std::map<ValueId, ValueId> stands_for;
    left.blocks.clear();
    std::set<std::string> gone, used;
    for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
        Block block = spec.blocks[i];
        auto resolve = [&](ValueId& value) {
            for (auto found = stands_for.find(value); found != stands_for.end(); found = stands_for.find(value)) value = found->second;
        };
        if (dropped.count(i) != 0) {
            stands_for[block.out] = block.in;
            for (Op& op : block.ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { gone.insert(ref.key); });
            continue;
        }
        resolve(block.in);
        for (Op& op : block.ops) {
            for (ValueId& value : op.in) resolve(value);
            for_each_tensor_ref(op, [&](const TensorRef& ref) { used.insert(ref.key); });
        }
        left.blocks.push_back(std::move(block));
    }
    for (const std::string& key : gone)
        if (used.count(key) == 0) left.tensors.erase(key);
    left.n_layers -= static_cast<std::int64_t>(dropped.size());
    return left;
}

}  // namespace skiff

#include "runtime/engine.h"

#include <algorithm>

#include "model/scheme_choice.h"
#include "runtime/stop_matcher.h"

namespace skiff {

Result<std::unique_ptr<Engine>> Engine::load(const std::string& model, const EngineOptions& options) {
    SKIFF_TRY(auto checkpoint, Checkpoint::open(model));
    return load(std::move(checkpoint), options);
}

Result<std::unique_ptr<Engine>> Engine::load(Checkpoint checkpoint, const EngineOptions& options) {
    std::unique_ptr<Engine> engine(new Engine());
    engine->checkpoint_ = std::move(checkpoint);
    const Checkpoint& model = engine->checkpoint_;
    auto tokenizer = model.load_tokenizer();
    if (tokenizer.ok()) engine->tokenizer_ = std::move(*tokenizer);
    else if (tokenizer.error().code != ErrorCode::not_found) return tokenizer.take_error();

    std::shared_ptr<WeightSource> weights = model.weights;
    if (options.scheme) {
        auto choose = [wish = default_wish(*options.scheme), uses = tensor_uses(model.spec)](const std::string& key) {
            auto use = uses.find(key);
            return use == uses.end() ? nullptr : scheme_for(wish, use->second);
        };
        weights = quantized_on_load(model.spec, weights, choose, ScaleRule::min_max);
    }
    PlanOptions plan_options;
    plan_options.isa = options.isa;
    plan_options.kernels = options.kernels;
    plan_options.merge = options.merge;
    plan_options.progress = options.progress;
    SKIFF_TRY(auto plan, lower(model.spec, *weights, plan_options));
    SessionOptions session_options;
    session_options.n_threads = options.n_threads;
    session_options.n_sequences = options.n_sequences;
    session_options.n_context =
        options.n_context > 0 ? options.n_context : std::min<std::int64_t>(4096, std::max<std::int64_t>(1, model.spec.max_positions));
    session_options.max_batch = options.max_batch;
    session_options.state_dtype = options.state_dtype;
    SKIFF_TRY(engine->session_, Session::create(std::move(plan), session_options));
    return engine;
}

Result<GenerateResult> Engine::generate(const std::vector<std::int32_t>& prompt, const GenerateOptions& options, const TextSink& on_text) {
    SKIFF_CHECK(check(options.sampling));
    if (!tokenizer_) return usage_error(checkpoint_.path + ": has no tokenizer, so it cannot make text; use bench");
    if (prompt.empty()) return usage_error("the prompt is empty and the model has no begin-of-text token; give -p TEXT");
    const std::int64_t n_vocab = checkpoint_.spec.n_vocab;
    for (std::int32_t token : prompt)
        if (token >= n_vocab)
            return corrupt(checkpoint_.path + ": its tokenizer gives token " + std::to_string(token) + ", but the model has only " +
                           std::to_string(n_vocab) + "; the tokenizer belongs to another model");
    GenerateResult result;
    result.n_prompt_tokens = static_cast<std::int64_t>(prompt.size());
    // Keep the common beginning; at least one token is fed, for its logits.
    std::size_t common = 0;
    while (common < held_.size() && common + 1 < prompt.size() && held_[common] == prompt[common]) ++common;
    SKIFF_CHECK(session_->state().truncate(0, static_cast<std::int64_t>(common)));
    held_.resize(common);
    result.n_reused_tokens = static_cast<std::int64_t>(common);

    double begin = monotonic_seconds();
    SKIFF_CHECK(session_->forward(0, std::span(prompt).subspan(common), BatchItem::Logits::last));
    held_ = prompt;
    result.prompt_seconds = monotonic_seconds() - begin;

    Sampler sampler(options.sampling);
    for (std::int32_t token : prompt) sampler.observe(token);
    StreamDecoder decoder(*tokenizer_);
    for (std::int32_t token : prompt) decoder.push(token);  // so that the first piece knows what stands before it
    StopMatcher matcher(options.stop);
    auto give = [&](const std::string& text) {
        result.text += text;
        return text.empty() || !on_text || on_text(text);
    };
    begin = monotonic_seconds();
    bool wanted = true;
    result.finish = GenerateResult::Finish::length;
    while (wanted && (options.max_tokens < 0 || static_cast<std::int64_t>(result.tokens.size()) < options.max_tokens)) {
        SKIFF_TRY(auto token, sampler.sample(session_->logits()));
        result.tokens.push_back(token);
        if (tokenizer_->is_eos(token) && options.end_of_text == GenerateOptions::EndOfText::stop) {
            result.finish = GenerateResult::Finish::stop;
            break;
        }
        wanted = give(matcher.push(decoder.push(token)));
        if (matcher.stopped() || !wanted) {
            result.finish = GenerateResult::Finish::stop;
            break;
        }
        if (interrupt_requested()) {
            result.finish = GenerateResult::Finish::interrupted;
            break;
        }
        if (session_->state().length(0) >= session_->state().capacity()) {
            result.finish = GenerateResult::Finish::context_full;
            break;
        }
        SKIFF_CHECK(session_->forward(0, std::span(&token, 1), BatchItem::Logits::last));
        held_.push_back(token);
    }
    if (!matcher.stopped() && wanted) {
        give(matcher.push(decoder.finish()));
        give(matcher.finish());
    }
    result.decode_seconds = monotonic_seconds() - begin;
    return result;
}

}  // namespace skiff

#include "runtime/engine.h"

#include <algorithm>

#include "model/plain_only.h"
#include "model/pruned_on_load.h"
#include "model/scheme_choice.h"
#include "runtime/draft_proposer.h"
#include "runtime/stop_matcher.h"

namespace skiff {
namespace {

constexpr std::int64_t device_max_batch = 1024;  // tokens of a prompt at a time

}  // namespace

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
    const auto wish = options.scheme ? std::optional<SchemeWish>(default_wish(*options.scheme)) : std::nullopt;
    SchemeChoice choose = [wish, uses = tensor_uses(model.spec)](const std::string& key) -> const Scheme* {
        auto use = uses.find(key);
        return !wish || use == uses.end() ? nullptr : scheme_for(*wish, use->second);
    };
    if ((options.prune || options.scheme) && model.kind != Checkpoint::Kind::random) {
        const auto uses = tensor_uses(model.spec);
        const auto first = std::find_if(uses.begin(), uses.end(), [&](const auto& use) { return use.second == TensorUse::linear && weights->contains(use.first); });
        if (first != uses.end()) {
            SKIFF_TRY(const auto weight, weights->load(first->first));
            if (weight.plain() == nullptr)  // all of them, most likely
                return usage_error(std::string(options.prune ? "--prune" : "--scheme") + " is for plain weights, those of this model are " + weight.encoding_name() + " already; give the model that it was made from");
        }
        weights = plain_linear_only(model.spec, weights, options.prune ? "--prune" : "--scheme");
    }
    if (options.prune) weights = pruned_on_load(model.spec, weights, *options.prune, std::move(choose), ScaleRule::min_max);
    else if (options.scheme) weights = quantized_on_load(model.spec, weights, std::move(choose), ScaleRule::min_max);
    SessionOptions session_options;
    session_options.n_threads = options.n_threads;
    session_options.n_sequences = options.n_sequences;
    session_options.n_context =
        options.n_context > 0 ? options.n_context : std::min<std::int64_t>(4096, std::max<std::int64_t>(1, model.spec.max_positions));
    session_options.max_batch = options.max_batch;
    session_options.state_scheme = options.state_scheme;
    session_options.state_rules = options.state_rules;
    PlanOptions plan_options;
    plan_options.isa = options.isa;
    plan_options.kernels = options.kernels;
    plan_options.merge = options.merge;
    plan_options.fold = options.fold;
    plan_options.fuse = options.fuse;
    plan_options.tiles = options.tiles;
    plan_options.n_threads = options.n_threads;
    plan_options.progress = options.progress;
    plan_options.pack_cache = options.pack_cache;
    plan_options.weight_pages = options.weight_pages;
    plan_options.n_load_threads = options.n_threads;
    if (options.device.kind != DeviceChoice::Kind::cpu) {
        if (options.kernels == KernelChoice::reference) return usage_error("--kernels reference are the processor's; run with --device cpu");
        DeviceRequest request{options.device, session_options, options.fuse, options.progress, plan_options};
        request.session.max_batch = options.max_batch > 0 ? options.max_batch : device_max_batch;
        auto session = make_device_session(model.spec, *weights, request);
        if (session.ok()) {
            engine->session_ = std::move(*session);
            SKIFF_CHECK(engine->start_stream(options));
            return engine;
        }
        if (options.device.kind == DeviceChoice::Kind::cuda || session.error().code == ErrorCode::interrupted || session.error().code == ErrorCode::usage) return session.take_error();
        engine->remarks_.push_back("runs on the processor: " + session.error().to_string());
    }
    session_options.max_batch = options.max_batch > 0 ? options.max_batch : cpu_max_batch;
    SKIFF_TRY(auto plan, lower(model.spec, *weights, plan_options));
    SKIFF_TRY(engine->session_, Session::create(std::move(plan), session_options));
    SKIFF_CHECK(engine->start_stream(options));
    return engine;
}

namespace {

// A guess is a number, which both models must mean the same by.
Status check_same_vocabulary(const Engine& model, const Engine& draft) {
    const std::string where = draft.checkpoint().path + ": ", advice = "; a draft needs the tokenizer of " + model.checkpoint().path;
    const Tokenizer *ours = model.tokenizer(), *its = draft.tokenizer();
    if ((ours == nullptr) != (its == nullptr)) return usage_error(where + (its == nullptr ? "has no tokenizer" : "has a tokenizer, the model has none") + advice);
    if (ours == nullptr) {
        if (model.checkpoint().spec.n_vocab == draft.checkpoint().spec.n_vocab) return {};
        return usage_error(where + "has " + std::to_string(draft.checkpoint().spec.n_vocab) + " tokens, the model has " +
                           std::to_string(model.checkpoint().spec.n_vocab) + advice);
    }
    if (ours->n_vocab() != its->n_vocab())
        return usage_error(where + "its tokenizer has " + std::to_string(its->n_vocab()) + " tokens, the model's " + std::to_string(ours->n_vocab()) + advice);
    for (std::int32_t token = 0; token < ours->n_vocab(); ++token)
        if (ours->token_text(token) != its->token_text(token))
            return usage_error(where + "its token " + std::to_string(token) + " is \"" + its->token_text(token) + "\", the model's is \"" +
                               ours->token_text(token) + "\"" + advice);
    return {};
}

}  // namespace

Status Engine::start_stream(const EngineOptions& options) {
    SpeculationOptions speculation = options.speculation;
    const auto& states = session_->plan().states;
    const bool recurrent = std::any_of(states.begin(), states.end(), [](const StateNeed& need) { return need.spec.kind == StateSpec::Kind::recurrent; });
    if (speculation.always < 0 || speculation.always > max_proposed)
        return usage_error("--guesses " + std::to_string(speculation.always) + ": expected 0 (as many as pay) to " + std::to_string(max_proposed));
    if (speculation.source != SpeculationOptions::Source::off && recurrent && !session_->where().starts_with("cpu"))
        return unsupported("--speculate: the convolutions of this model cannot take tokens back on a device; leave it out, or run with --device cpu");
    std::unique_ptr<Proposer> proposer;
    if (speculation.source == SpeculationOptions::Source::ngram) {
        proposer = std::make_unique<NgramProposer>();
    } else if (speculation.source == SpeculationOptions::Source::draft) {
        EngineOptions small = options;
        small.speculation = {};
        small.state_rules.clear();  // they speak of the layers of the model
        small.device.n_layers.reset();
        small.n_sequences = 1;
        small.n_context = session_->state().capacity();
        auto draft = Engine::load(speculation.draft_model, small);
        if (!draft.ok()) return draft.take_error().with_context("draft model");
        draft_ = std::move(*draft);
        SKIFF_CHECK(check_same_vocabulary(*this, *draft_));
        proposer = std::make_unique<DraftProposer>(draft_->session(), checkpoint_.spec.n_vocab);
    }
    stream_ = std::make_unique<TokenStream>(*session_, 0, std::move(proposer), speculation.always);
    return {};
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
    double begin = monotonic_seconds();
    SKIFF_TRY(result.n_reused_tokens, stream_->begin(prompt, options.sampling, options.max_tokens));
    result.prompt_seconds = monotonic_seconds() - begin;

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
        if (!result.tokens.empty() && stream_->full()) {
            result.finish = GenerateResult::Finish::context_full;
            break;
        }
        SKIFF_TRY(auto token, stream_->next());
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
    }
    SKIFF_CHECK(stream_->end());
    if (!matcher.stopped() && wanted) {
        give(matcher.push(decoder.finish()));
        give(matcher.finish());
    }
    result.decode_seconds = monotonic_seconds() - begin;
    result.speculation = stream_->stats();
    return result;
}

}  // namespace skiff

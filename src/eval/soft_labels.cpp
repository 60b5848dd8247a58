#include "eval/soft_labels.h"

#include <algorithm>

#include "eval/evaluation_inputs.h"
#include "measure/measure_text.h"

namespace skiff {
namespace {

constexpr std::int64_t context_tokens = 8;

class Collector {
public:
    Collector(const EvaluationInputs& inputs, const SoftLabelOptions& soft, SoftLabelReport& report) : inputs_(inputs), soft_(soft), report_(report) {
        report_.mean_entropy.assign(soft.temperatures.size(), 0);
        report_.mean_top.assign(soft.temperatures.size(), 0);
        const std::int64_t n = inputs.windows->scored_per_window();
        for (std::int64_t i = 1; i <= soft.n_places; ++i) rows_.push_back(std::max<std::int64_t>(0, i * n / soft.n_places - 1));
    }

    Status add(std::span<const float> rows, std::int64_t n_vocab) {
        for (; !rows.empty(); rows = rows.subspan(static_cast<std::size_t>(n_vocab)), ++row_) {
            const auto logits = rows.first(static_cast<std::size_t>(n_vocab));
            const bool shown = std::find(rows_.begin(), rows_.end(), row_) != rows_.end();
            if (shown) report_.places.push_back(place());
            for (std::size_t i = 0; i < soft_.temperatures.size(); ++i) {
                const auto p = softened(logits, soft_.temperatures[i]);
                const double entropy = entropy_of(p);
                const auto top = likeliest(p, shown ? soft_.n_top : 1);
                report_.mean_entropy[i] += entropy;
                report_.mean_top[i] += top[0].probability;
                if (!shown) continue;
                SoftLabelReport::AtTemperature at{soft_.temperatures[i], entropy, {}};
                for (const LikelyToken& token : top) at.choices.push_back({text_of(token.token), token});
                report_.places.back().softened.push_back(std::move(at));
            }
        }
        return {};
    }

    void finish() {
        report_.tokens = row_;
        for (std::size_t i = 0; i < soft_.temperatures.size(); ++i) {
            report_.mean_entropy[i] /= static_cast<double>(std::max<std::int64_t>(1, row_));
            report_.mean_top[i] /= static_cast<double>(std::max<std::int64_t>(1, row_));
        }
    }

private:
    std::string text_of(std::int32_t token) const { return inputs_.tokenizer->decode(std::span(&token, 1)); }
    SoftLabelReport::Place place() const {
        const auto fed = inputs_.windows->inputs(0);
        const std::int64_t end = inputs_.windows->first_scored() + row_ + 1, begin = std::max<std::int64_t>(0, end - context_tokens);
        const auto context = std::span<const std::int32_t>(fed).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        return {inputs_.tokenizer->decode(context), text_of(inputs_.windows->targets(0)[static_cast<std::size_t>(row_)]), {}};
    }

    const EvaluationInputs& inputs_;
    const SoftLabelOptions& soft_;
    SoftLabelReport& report_;
    std::vector<std::int64_t> rows_;  // of the first window, that are shown
    std::int64_t row_ = 0;
};

}  // namespace

Result<SoftLabelReport> soft_labels(const EvalOptions& options, const SoftLabelOptions& soft) {
    SKIFF_TRY(const auto inputs, open_inputs(options));
    SoftLabelReport report;
    report.text_path = inputs.text_path;
    SKIFF_TRY(auto hash, inputs.model.content_hash());
    report.model = {inputs.model.path, inputs.model.name, std::move(hash)};
    EngineOptions engine_options = options.engine;
    engine_options.progress = options.progress;
    engine_options.n_context = inputs.windows->window();
    const std::int64_t chunk = chunk_for_vocabulary(inputs.model.spec.n_vocab);
    engine_options.max_batch = engine_options.max_batch > 0 ? std::min(engine_options.max_batch, chunk) : chunk;
    SKIFF_TRY(auto engine, Engine::load(inputs.model, engine_options));
    Collector collector(inputs, soft, report);
    const std::int64_t n_vocab = engine->plan().output_width;
    MeasureOptions measure;
    measure.chunk_tokens = chunk_for_vocabulary(n_vocab);
    measure.progress = options.progress;
    measure.keep_logits = [&](std::span<const float> rows) { return collector.add(rows, n_vocab); };
    SKIFF_TRY(const auto scores, score_text(engine->session(), *inputs.windows, measure));
    collector.finish();
    return report;
}

Json SoftLabelReport::to_json(const SoftLabelOptions& options) const {
    Json temperatures = Json::array(), shown = Json::array();
    for (std::size_t i = 0; i < options.temperatures.size(); ++i)
        temperatures.push_back(Json::object({{"temperature", options.temperatures[i]}, {"mean_entropy", mean_entropy[i]}, {"mean_top", mean_top[i]}}));
    for (const Place& place : places) {
        Json rows = Json::array();
        for (const AtTemperature& at : place.softened) {
            Json choices = Json::array();
            for (const Choice& choice : at.choices) choices.push_back(Json::object({{"token", static_cast<std::int64_t>(choice.token.token)}, {"text", choice.text}, {"probability", choice.token.probability}}));
            rows.push_back(Json::object({{"temperature", at.temperature}, {"entropy", at.entropy}, {"top", std::move(choices)}}));
        }
        shown.push_back(Json::object({{"context", place.context}, {"next", place.next}, {"soft_labels", std::move(rows)}}));
    }
    return Json::object({{"model", model.to_json()}, {"text", text_path}, {"tokens", tokens}, {"temperatures", std::move(temperatures)}, {"places", std::move(shown)}});
}

}  // namespace skiff

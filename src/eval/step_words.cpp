#include "eval/step_words.h"

#include <charconv>
#include <cmath>

namespace skiff {
namespace {

// As few decimals as it takes, four at most.
std::string number_words(double value) {
    char buffer[64];
    const double rounded = std::round(value * 1e4) / 1e4;
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, rounded, std::chars_format::general, 10).ptr;
    return {buffer, end};
}
std::string percent_words(double share) { return number_words(100 * share) + " %"; }

// Puts words behind each other, leaving out empty ones.
class Words {
public:
    Words(std::string first, StepDetail detail) : words_(std::move(first)), all_(detail == StepDetail::all) {}
    Words& add(const std::string& word) {
        if (!word.empty()) words_ += " " + word;
        return *this;
    }
    Words& strength(const std::string& word) { return all_ ? add(word) : *this; }
    bool all() const { return all_; }
    std::string take() { return std::move(words_); }

private:
    std::string words_;
    bool all_;
};

std::string quantize_words(const Json& step, StepDetail detail) {
    Words words("quantize", detail);
    words.add(step["method"].text());
    const Json& target = step["target"];
    if (target["bits_per_weight"].is_number()) words.strength("to " + number_words(target["bits_per_weight"].number_or(0)) + " bits");
    else if (target["file_bytes"].is_number()) words.strength("to " + number_words(std::round(target["file_bytes"].number_or(0) / 1e4) / 100) + " MB");
    else words.strength(step["scheme"].text());
    if (target.is_object()) words.add("mixed");
    for (const Json& transform : step["transforms"].items()) words.add("+ " + transform.text());
    if (!step["correct"].text().empty()) words.add("+ " + step["correct"].text());
    if (!step["activations"].text().empty()) words.add(step["activations"].text());
    if (step["outliers"].number_or(0) > 0) words.add("+ outliers").strength(percent_words(step["outliers"].number_or(0)));
    return words.take();
}

// "block16x32:50%": the form stays without the strength; "50%": single weights have no name; "2:4" is all strength.
std::string prune_words(const Json& step, StepDetail detail) {
    Words words("prune", detail);
    words.add(step["method"].text());
    const std::string pattern = step["pattern"].text();
    const std::size_t colon = pattern.find(':');
    if (words.all()) words.add(pattern);
    else if (colon != std::string::npos && pattern.ends_with("%")) words.add(pattern.substr(0, colon));
    if (step["allocation"].text() != "uniform") words.add(step["allocation"].text());
    if (step["scope"].text() == "layer") words.add("in whole layers");
    if (!step["importance"].text().empty()) words.add("(" + step["importance"].text() + ")");
    if (!step["correct"].text().empty()) words.add("+ " + step["correct"].text());
    return words.strength(step["scheme"].text()).take();
}

std::string structure_words(const Json& step, StepDetail detail) {
    const bool sorts = step["order"].text() == "by importance";
    Words words(sorts ? "sort" : "prune", detail);
    words.add(step["units"].text());
    if (!sorts) words.strength(step["removed"].text());
    std::string how = step["importance"].text();
    if (step["compensation"].text() == "none" && step["units"].text() != "layers") how += ", uncompensated";
    if (step["spread"].text() == "sensitivity") how += ", by sensitivity";
    return words.add(how.empty() ? "" : "(" + how + ")").take();
}

std::string factorize_words(const Json& step, StepDetail detail) {
    Words words("factorize", detail);
    const std::string rule = step["rule"].text();
    std::string method = step["method"].text();
    // "sparse-low-rank:50%": what is sparse of it is strength too.
    if (!words.all()) method = method.substr(0, method.find(':'));
    words.add(method).add(rule);
    const double amount = step["amount"].number_or(0);
    return words.strength(rule == "rank" ? number_words(amount) : percent_words(amount)).take();
}

std::string share_words(const Json& step, StepDetail detail) {
    Words words("share", detail);
    if (step["hash"].is_number()) return words.add("blocks by hash").strength("1:" + number_words(step["hash"].number_or(0))).take();
    if (step["layers"].is_array()) {
        words.add("layers");
        for (const Json& group : step["layers"].items())
            if (group.size() == 2) words.strength(number_words(group.items()[0].number_or(0)) + "-" + number_words(group.items()[1].number_or(0)));
    } else {
        words.strength(number_words(step["groups"].number_or(0))).add("groups");
        words.add(step["choose"].text().empty() ? "" : "(" + step["choose"].text() + ")");
    }
    if (step["weights"].text() == "average") words.add("averaged");
    return words.take();
}

// train, recover, distill and qat have their own names in "kind", but for recover, which is training of something that was there.
std::string training_words(const Json& step, StepDetail detail) {
    const std::string kind = step["kind"].text();
    Words words(kind == "train" ? "trained further" : kind, detail);
    words.strength(step["quantization"]["scheme"].text());
    if (const std::string inputs = step["quantization"]["activations"].text(); inputs != "float") words.add(inputs);
    if (step["elastic"].is_object()) words.add("elastic");
    if (step["lora_rank"].is_number()) words.add("adapters");
    if (step["steps"].is_number()) words.strength(number_words(step["steps"].number_or(0)) + " steps");
    return words.take();
}

}  // namespace

std::string step_words(const Json& step, StepDetail detail) {
    const std::string kind = step["kind"].text();
    if (kind == "quantize") return quantize_words(step, detail);
    if (kind == "prune") return prune_words(step, detail);
    if (kind == "structure") return structure_words(step, detail);
    if (kind == "factorize") return factorize_words(step, detail);
    if (kind == "share") return share_words(step, detail);
    if (kind == "train" || kind == "distill" || kind == "qat") return training_words(step, detail);
    Words words(kind == "convert" ? "written out" : kind, detail);
    if (kind == "convert") return words.add(step["type"].text() == "auto" ? "" : step["type"].text()).take();
    return words.add(step["method"].text()).add(step["what"].text()).take();
}

std::string chain_words(const Json& manifest, StepDetail detail) {
    std::string chain;
    bool first = true;
    for (const Json& steps : {manifest["parent"]["steps"], manifest["steps"]})
        for (const Json& step : steps.items()) {
            const bool original = first && step["kind"].text() == "train";
            first = false;
            if (!original) chain += (chain.empty() ? "" : ", ") + step_words(step, detail);
        }
    return chain;
}

}  // namespace skiff

#include "plan/state_choice.h"

#include <algorithm>
#include <charconv>

#include "base/glob.h"

namespace skiff {
namespace {

Result<StateScheme> parse_scheme_name(std::string_view name) {
    std::string names;
    for (const StateSchemeInfo& info : state_schemes()) {
        if (info.name == name) return info.scheme;
        names += (names.empty() ? "" : ", ") + std::string(info.name);
    }
    return usage_error("no state is kept as \"" + std::string(name) + "\"; there are: " + names);
}

std::optional<std::size_t> parse_number(std::string_view text) {
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

bool matches(const std::string& where, std::size_t layer, const std::string& name) {
    const std::size_t dash = where.find('-');
    const auto first = parse_number(std::string_view(where).substr(0, dash)), last = dash == std::string::npos ? first : parse_number(std::string_view(where).substr(dash + 1));
    return first && last ? *first <= layer && layer <= *last : glob_matches(where, name);
}

}  // namespace

std::string StateChoice::name() const {
    std::string text(state_scheme_info(scheme).name);
    for (const StateRule& rule : rules) text += "," + rule.where + "=" + std::string(state_scheme_info(rule.scheme).name);
    return text;
}

Result<StateChoice> parse_state_choice(std::string_view text) {
    StateChoice choice;
    bool has_scheme = false;
    while (true) {
        const std::size_t comma = text.find(',');
        const std::string_view part = text.substr(0, comma);
        const std::size_t at = part.rfind('=');
        if (at == std::string_view::npos) {
            if (has_scheme) return usage_error("\"" + std::string(part) + "\" is the second scheme for all layers; write LAYERS=SCHEME, such as 0-1=bf16");
            SKIFF_TRY(choice.scheme, parse_scheme_name(part));
            has_scheme = true;
        } else {
            if (at == 0) return usage_error("\"" + std::string(part) + "\" names no layers; write LAYERS=SCHEME, such as 0-1=bf16");
            SKIFF_TRY(const StateScheme scheme, parse_scheme_name(part.substr(at + 1)));
            choice.rules.push_back({std::string(part.substr(0, at)), scheme});
        }
        if (comma == std::string_view::npos) return choice;
        text = text.substr(comma + 1);
    }
}

Result<std::vector<StateScheme>> schemes_of_states(const StateChoice& choice, const std::vector<StateNeed>& states) {
    std::vector<StateScheme> schemes(states.size(), choice.scheme);
    for (const StateRule& rule : choice.rules) {
        bool used = false;
        for (std::size_t layer = 0; layer < states.size(); ++layer) {
            if (!matches(rule.where, layer, states[layer].name)) continue;
            schemes[layer] = rule.scheme;
            used = true;
        }
        if (!used)
            return usage_error("no layer keeps its state by \"" + rule.where + "\": the model has layers 0 to " + std::to_string(static_cast<std::int64_t>(states.size()) - 1) +
                               (states.empty() ? "" : ", the operator of the first is " + states[0].name));
    }
    return schemes;
}

}  // namespace skiff

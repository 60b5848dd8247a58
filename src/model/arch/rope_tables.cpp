// Rotary frequencies (Su et al. 2021) and how families stretch them for longer texts.
#include <cmath>

#include "model/arch/families.h"

namespace skiff {
namespace {

// Llama 3.1 (Dubey et al. 2024): long wavelengths are stretched by `factor`, short ones kept, those between are blended.
void stretch_llama3(HfConfig& scaling, double original, std::vector<float>& inv_freq) {
    const double factor = scaling.positive("factor"), low = scaling.positive("low_freq_factor"), high = scaling.positive("high_freq_factor");
    scaling.require(high > low, "\"high_freq_factor\" must be above \"low_freq_factor\"");
    for (float& frequency : inv_freq) {
        const double wavelength = 2 * M_PI / frequency;
        if (wavelength < original / high) continue;
        if (wavelength > original / low) {
            frequency = static_cast<float>(frequency / factor);
        } else {
            const double smooth = (original / wavelength - low) / (high - low);
            frequency = static_cast<float>((1 - smooth) * frequency / factor + smooth * frequency);
        }
    }
}

// LongRoPE (Ding et al. 2024): a divisor for each frequency, one list for short and one for long sequences.
void stretch_longrope(HfConfig& scaling, double original, double max_positions, RopeSettings& rope) {
    const auto n = static_cast<std::int64_t>(rope.inv_freq.size());
    const std::vector<double> of_short = scaling.positive_list("short_factor", n), of_long = scaling.positive_list("long_factor", n);
    rope.long_inv_freq = rope.inv_freq;
    for (std::size_t i = 0; i < rope.inv_freq.size(); ++i) {
        rope.inv_freq[i] /= static_cast<float>(of_short[i]);
        rope.long_inv_freq[i] /= static_cast<float>(of_long[i]);
    }
    rope.long_above = static_cast<std::int64_t>(original);
    const double factor = scaling.positive_or("factor", max_positions / original);
    const double magnitude = factor <= 1 || original <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
    rope.magnitude = static_cast<float>(scaling.positive_or("attention_factor", magnitude));
}

}  // namespace

std::vector<float> plain_inv_freq(double theta, std::int64_t rotary_dim) {
    std::vector<float> inv_freq;
    for (std::int64_t i = 0; i < rotary_dim / 2; ++i)
        inv_freq.push_back(1.0f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(rotary_dim)));
    return inv_freq;
}

RopeSettings read_rope_object(HfConfig& config, const Json& object, const std::string& where, double theta, const RopeRules& rules) {
    HfConfig scaling(object.is_object() ? object : Json::object(), "config.json: " + where);
    config.require(object.is_null() || object.is_object(), "key \"" + where + "\" must be an object, found " + std::string(object.type_name()));
    theta = scaling.positive_or("rope_theta", theta);
    double partial = rules.default_partial;
    if (!rules.partial_key.empty()) partial = config.positive_or(rules.partial_key, partial);
    partial = scaling.positive_or("partial_rotary_factor", partial);
    const std::string partial_name = rules.partial_key.empty() ? "partial_rotary_factor" : std::string(rules.partial_key);
    config.require(partial <= 1, "key \"" + partial_name + "\" is over 1");
    config.require(!rules.partial_key.empty() || partial == 1, "key \"partial_rotary_factor\" is not known for this architecture");
    const auto rotary_dim = static_cast<std::int64_t>(static_cast<double>(rules.head_dim) * std::min(partial, 1.0));
    config.require(rotary_dim >= 2 && rotary_dim % 2 == 0, "head_dim (" + std::to_string(rules.head_dim) + ") gives a rotary width of " +
                                                               std::to_string(rotary_dim) + ", which must be even");
    RopeSettings rope;
    if (!config.ok()) return rope;  // head_dim may be anything then
    rope.inv_freq = plain_inv_freq(theta, rotary_dim);

    scaling.ignore("type");
    std::string type = scaling.choice(scaling.has("rope_type") || !scaling.has("type") ? "rope_type" : "type", "default",
                                      {"default", "linear", "llama3", "longrope", "su"});
    if (type == "linear") {
        const auto factor = static_cast<float>(scaling.positive("factor"));
        for (float& frequency : rope.inv_freq) frequency /= factor;
    }
    if (type == "llama3" || type == "longrope" || type == "su") {
        auto original = scaling.integer_or("original_max_position_embeddings", rules.max_positions);
        original = config.integer_or("original_max_position_embeddings", original);
        if (type == "llama3") stretch_llama3(scaling, static_cast<double>(original), rope.inv_freq);
        else stretch_longrope(scaling, static_cast<double>(original), static_cast<double>(rules.max_positions), rope);
    }
    config.check(scaling.finish());
    return rope;
}

RopeSettings read_rope(HfConfig& config, const RopeRules& rules) {
    const Json& parameters = config.object("rope_parameters");
    const Json& scaling = config.object("rope_scaling");
    const double theta = config.positive_or(rules.theta_key, rules.default_theta);
    const bool new_form = !parameters.is_null();
    config.require(!new_form || scaling.is_null(), "both \"rope_parameters\" and \"rope_scaling\" are given");
    return read_rope_object(config, new_form ? parameters : scaling, new_form ? "rope_parameters" : "rope_scaling", theta, rules);
}

}  // namespace skiff

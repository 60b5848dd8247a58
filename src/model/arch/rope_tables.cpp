#include <cmath>

#include "model/arch/arch.h"

namespace skiff {
namespace {

// Llama 3.1 (Dubey et al. 2024): long wavelengths are stretched by `factor`, short ones kept, those between are blended.
void stretch_llama3(std::vector<float>& inv_freq, const Json& scaling) {
    const double factor = scaling["factor"].number_or(8), low = scaling["low_freq_factor"].number_or(1), high = scaling["high_freq_factor"].number_or(4);
    const double original = scaling["original_max_position_embeddings"].number_or(8192);
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

}  // namespace

std::vector<float> plain_inv_freq(double theta, std::int64_t rotary_dim) {
    std::vector<float> inv_freq;
    for (std::int64_t i = 0; i < rotary_dim / 2; ++i)
        inv_freq.push_back(1.0f / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(rotary_dim)));
    return inv_freq;
}

RopeTable read_rope(HfConfig& config, std::int64_t rotary_dim, double default_theta) {
    // transformers 5 writes rope_parameters {rope_theta, rope_type, ...}; older versions rope_theta and rope_scaling.
    const Json& parameters = config.object("rope_parameters");
    const Json& scaling = parameters.is_object() ? parameters : config.object("rope_scaling");
    double theta = config.number_or("rope_theta", default_theta);
    if (const Json* inside = parameters.find("rope_theta")) theta = inside->number_or(theta);
    config.require(std::isfinite(theta) && theta > 0, "rope_theta must be finite and positive");
    RopeTable table{plain_inv_freq(theta, rotary_dim), 1};
    if (!scaling.is_object()) return table;
    std::string type = scaling["rope_type"].is_string() ? scaling["rope_type"].text() : scaling["type"].is_string() ? scaling["type"].text() : "default";
    const double factor = scaling["factor"].number_or(1);
    if (type == "default") return table;
    if (type == "linear") {
        for (float& frequency : table.inv_freq) frequency = static_cast<float>(frequency / factor);
    } else if (type == "llama3") {
        stretch_llama3(table.inv_freq, scaling);
    } else {
        config.require(false, "rope_scaling of type \"" + type + "\" is not implemented; known: default, linear, llama3");
    }
    return table;
}

}  // namespace skiff

// Reads a Hugging Face config.json key by key, remembers which keys were understood, and refuses the rest if they could change the mathematics.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

class HfConfig {
public:
    explicit HfConfig(Json json) : json_(std::move(json)) {}

    // Getters keep the first error for status(); they return the fallback (or 0) then, so that an architecture reads like a list of facts.
    std::int64_t integer(std::string_view key);                             // required, >= 1
    std::int64_t integer_or(std::string_view key, std::int64_t fallback);   // absent or null: fallback
    double number(std::string_view key);
    double number_or(std::string_view key, double fallback);
    bool boolean_or(std::string_view key, bool fallback);
    std::string text_or(std::string_view key, std::string fallback);
    // One number for all blocks, or an array with one for each (a pruned model whose blocks differ).
    std::vector<std::int64_t> per_layer(std::string_view key, std::int64_t n_layers);
    std::vector<std::int64_t> per_layer_or(std::string_view key, std::int64_t n_layers, std::vector<std::int64_t> fallback);
    const Json& object(std::string_view key);                               // null value when absent
    bool has(std::string_view key) const;                                   // present and not null

    // The value must be one of those we implement; else an error that names key, value and choices.
    std::string choice(std::string_view key, std::string fallback, std::initializer_list<std::string_view> choices);
    void require(bool condition, const std::string& message);               // records a corrupt error
    void ignore(std::string_view key) { seen_.insert(std::string(key)); }

    // First error of all, among them keys that nobody read and that are not known to be harmless.
    Status finish();
    const Json& json() const { return json_; }

private:
    const Json* read(std::string_view key);
    void fail(Error error);
    Json json_;
    std::set<std::string, std::less<>> seen_;
    Status status_;
};

}  // namespace skiff

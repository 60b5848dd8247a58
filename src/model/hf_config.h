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
    // `where` begins every message: "config.json", or "config.json: rope_scaling" for an object inside.
    explicit HfConfig(Json json, std::string where = "config.json") : json_(std::move(json)), where_(std::move(where)) {}

    // What the family's own code takes where the config says nothing (or null). Call before reading the key.
    void set_default(std::string_view key, Json value);

    // Getters keep the first error for status(); they return the fallback (or 0) then, so that an architecture reads like a list of facts.
    std::int64_t integer(std::string_view key);                             // required, 1 to 2^31
    std::int64_t integer_or(std::string_view key, std::int64_t fallback);   // absent or null: fallback; else as above
    std::int64_t count_or(std::string_view key, std::int64_t fallback);     // the same from 0
    double number(std::string_view key);                                    // required
    double number_or(std::string_view key, double fallback);
    double positive(std::string_view key);                                  // required, finite and above 0
    double positive_or(std::string_view key, double fallback);
    std::vector<double> positive_list(std::string_view key, std::int64_t n);  // required, n of them
    bool boolean_or(std::string_view key, bool fallback);
    std::string text_or(std::string_view key, std::string fallback);
    // One number for all blocks, or an array with one for each (a pruned model whose blocks differ). Then, as transformers writes such models,
    // "per_layer_config": {"3": {"intermediate_size": 20}} overrides single blocks.
    std::vector<std::int64_t> per_layer(std::string_view key, std::int64_t n_layers);
    std::vector<std::int64_t> per_layer_or(std::string_view key, std::int64_t n_layers, std::vector<std::int64_t> fallback);
    const Json& object(std::string_view key);                               // null value when absent
    bool has(std::string_view key) const;                                   // present and not null

    // The value must be one of those we implement; else an error that names key, value and choices.
    std::string choice(std::string_view key, std::string fallback, std::initializer_list<std::string_view> choices);
    void require(bool condition, const std::string& message);               // records a corrupt error
    void check(Status status);                                              // records its error
    void ignore(std::string_view key) { seen_.insert(std::string(key)); }
    bool ok() const { return status_.ok(); }

    // First error of all, among them keys that nobody read and that are not known to be harmless.
    Status finish();
    const Json& json() const { return json_; }

private:
    const Json* read(std::string_view key);
    void fail(Error error);
    std::int64_t range(std::string_view key, const Json& value, std::int64_t least);
    void override_layers(std::string_view key, std::vector<std::int64_t>& numbers);
    void check_overrides();
    Json json_;
    std::string where_;
    std::int64_t n_layers_ = -1;  // of the per-layer keys; -1: none was read
    std::set<std::string, std::less<>> per_layer_keys_;
    std::set<std::string, std::less<>> seen_;
    Status status_;
};

}  // namespace skiff

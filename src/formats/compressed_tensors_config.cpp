#include <algorithm>
#include <bit>

#include "formats/compressed_tensors.h"

namespace skiff {
namespace {

constexpr std::size_t max_groups = 10'000, max_targets = 1'000'000, max_patterns = 10'000;
constexpr const char *ours = "skiff-quantized", *mixed = "mixed-precision", *mxfp4_format = "mxfp4-pack-quantized", *nvfp4_format = "nvfp4-pack-quantized",
                     *float_format = "float-quantized";

Error wrong(const std::string& where, const std::string& what) { return corrupt("quantization_config " + where + ": " + what); }

// What the weights of one group are: a scheme, or why this program cannot read them.
struct WeightArguments {
    std::optional<Scheme> scheme;
    std::string unsupported;
};

Result<std::int64_t> integer_or(const Json& value, std::int64_t fallback, const std::string& where) {
    if (value.is_null()) return fallback;
    auto number = value.as_int(where);
    if (!number.ok()) return wrong(where, number.error().message);
    return *number;
}

// Learnt levels: how many, and how far a table reaches, which the strategy says.
Result<WeightArguments> read_clusters(const Json& weights, Scheme scheme, const std::string& strategy, const std::string& where) {
    SKIFF_TRY(const auto n_levels, integer_or(weights["skiff_levels"], 0, where + ".skiff_levels"));
    if (n_levels < 2 || n_levels > 256) return wrong(where, "skiff_levels must be 2 to 256, not " + std::to_string(n_levels));
    scheme.kind = NumberKind::clusters;
    scheme.n_levels = static_cast<int>(n_levels);
    scheme.one_table = strategy == "tensor";
    if (scheme.bits != static_cast<int>(std::bit_width(static_cast<unsigned>(n_levels - 1)))) return wrong(where, "num_bits is " + std::to_string(scheme.bits) + ", which is not what " + std::to_string(n_levels) + " levels need");
    if (!scheme.symmetric) return wrong(where, "clusters have no zeros: symmetric must be true");
    return WeightArguments{scheme, {}};
}

// Learnt vectors: columns and entries of a code, how many are added; then scales as others have them.
Status read_vectors(const Json& weights, const std::string& where, Scheme& scheme) {
    SKIFF_TRY(const auto vector, integer_or(weights["skiff_vector"], 0, where + ".skiff_vector"));
    SKIFF_TRY(const auto n_levels, integer_or(weights["skiff_levels"], 0, where + ".skiff_levels"));
    SKIFF_TRY(const auto n_books, integer_or(weights["skiff_books"], 1, where + ".skiff_books"));
    const auto small = [](std::int64_t x) { return x >= 1 && x <= 4096; };
    if (!small(vector) || !small(n_levels) || !small(n_books)) return wrong(where, "skiff_vector, skiff_levels and skiff_books must be small positive numbers");
    scheme.kind = NumberKind::vectors;
    scheme.vector = static_cast<int>(vector);
    scheme.n_levels = static_cast<int>(n_levels);
    scheme.n_books = static_cast<int>(n_books);
    if (!decodes(scheme))
        return wrong(where, "vectors have 2, 4 or 8 columns, 16 to 4096 entries (2^num_bits), one book or two, groups of whole vectors and no zeros; not " + std::to_string(vector) + ", " + std::to_string(n_levels) + " and " + std::to_string(n_books));
    return {};
}

// What the public format has no words for: fields of ours, in groups of the format "skiff-quantized".
Result<WeightArguments> read_extensions(const Json& weights, Scheme scheme, const std::string& where) {
    const Json &book = weights["skiff_codebook"], &super_size = weights["skiff_super_size"], &minimums = weights["skiff_minimums"];
    if (weights["type"].text() == "vectors") {
        SKIFF_CHECK(read_vectors(weights, where, scheme));
        if (book.is_string() || minimums.bool_or(false)) return wrong(where, "vectors have neither a codebook nor minimums");
    }
    if (book.is_string()) {
        scheme.kind = NumberKind::codebook;
        scheme.codebook = find_codebook(book.text());
        if (scheme.codebook == nullptr) return WeightArguments{std::nullopt, "weights of the codebook \"" + book.text().substr(0, 80) + "\""};
        if (scheme.bits != scheme.codebook->bits) return wrong(where, "num_bits is " + std::to_string(scheme.bits) + ", the codebook " + book.text() + " has " + std::to_string(scheme.codebook->bits));
        if (!scheme.symmetric) return wrong(where, "a codebook has no zeros: symmetric must be true");
    }
    if (!super_size.is_null()) {
        SKIFF_TRY(scheme.super_size, integer_or(super_size, 0, where + ".skiff_super_size"));
        if (scheme.group_size == 0 || scheme.super_size < 0 || scheme.super_size % scheme.group_size != 0) return wrong(where, "skiff_super_size must be whole groups, or 0 for the row");
        scheme.scale_dtype = DType::i8;  // or u8: the tensor tells
    }
    if (const Json& scale_book = weights["skiff_scale_codebook"]; scale_book.is_string()) {
        if (super_size.is_null()) return wrong(where, "skiff_scale_codebook needs skiff_super_size");
        scheme.scale_book = find_scale_book(scale_book.text());
        if (scheme.scale_book == nullptr) return WeightArguments{std::nullopt, "scales of the table \"" + scale_book.text().substr(0, 80) + "\""};
        if (minimums.bool_or(false)) return wrong(where, "scales of a table have no minimums");
        scheme.scale_dtype = DType::u8;
        scheme.super_dtype = DType::bf16;
    }
    scheme.minimums = minimums.bool_or(false);
    if (scheme.minimums && (scheme.symmetric || book.is_string())) return wrong(where, "skiff_minimums needs integers with symmetric false");
    return WeightArguments{scheme, {}};
}

Result<WeightArguments> read_arguments(const Json& weights, const std::string& format, const std::string& where) {
    WeightArguments arguments;
    if (weights.is_null()) return arguments;
    if (!weights.is_object()) return wrong(where, "weights must be an object");
    Scheme scheme;
    scheme.kind = NumberKind::integer;
    SKIFF_TRY(const auto bits, integer_or(weights["num_bits"], 8, where + ".num_bits"));
    SKIFF_TRY(scheme.group_size, integer_or(weights["group_size"], 0, where + ".group_size"));
    if (!weights["symmetric"].is_null() && !weights["symmetric"].is_bool()) return wrong(where, "symmetric must be true or false");
    scheme.symmetric = weights["symmetric"].bool_or(true);
    const std::string& type = weights["type"].text();
    const bool no_group = scheme.group_size <= 0;
    std::string strategy = weights["strategy"].text();
    if (strategy.empty()) strategy = weights["group_size"].is_null() ? "tensor" : no_group ? "channel" : "group";
    if (scheme.group_size < -1 || (strategy == "group" && no_group)) return wrong(where, "group_size " + std::to_string(scheme.group_size) + " is not possible");
    if (no_group) scheme.group_size = 0;

    const bool is_ours = format == ours;
    if (format == mxfp4_format && type == "float" && bits == 4 && strategy == "group" && scheme.group_size == 32 && scheme.symmetric) {
        arguments.scheme = scheme_of_content("mxfp4");
    } else if (format == nvfp4_format && type == "float" && bits == 4 && strategy == "tensor_group" && scheme.group_size == 16 && scheme.symmetric) {
        arguments.scheme = scheme_of_content("e2m1g16");  // with scales in F32: those of the groups over that of the tensor
        arguments.scheme->scale_dtype = DType::f32;
    } else if (type == "float" && bits == 8 && scheme.symmetric && (strategy == "tensor" || strategy == "channel" || strategy == "group")) {
        scheme.kind = NumberKind::codebook;
        scheme.codebook = find_codebook("e4m3");
        scheme.bits = 8;
        arguments.scheme = scheme;
    } else if (!type.empty() && type != "int" && !(is_ours && (type == "clusters" || type == "vectors")) && !(is_ours && type == "codebook" && weights["skiff_codebook"].is_string())) {
        arguments.unsupported = "weights of type \"" + type + "\"";
    } else if (bits < 1 || bits > (is_ours && type == "vectors" ? 12 : 8)) {
        arguments.unsupported = "weights of " + std::to_string(bits) + " bits";
    } else if (strategy != "tensor" && strategy != "channel" && strategy != "group") {
        arguments.unsupported = "weights with scales per \"" + strategy + "\"";
    } else if (strategy != "group" && scheme.group_size != 0) {
        return wrong(where, "group_size needs the strategy \"group\", not \"" + strategy + "\"");
    } else {
        scheme.bits = static_cast<int>(bits);
        if (is_ours && type == "clusters") return read_clusters(weights, scheme, strategy, where);
        if (is_ours) return read_extensions(weights, scheme, where);
        arguments.scheme = scheme;
    }
    return arguments;
}

Result<std::vector<std::string>> read_texts(const Json& value, const std::string& where) {
    std::vector<std::string> texts;
    if (value.is_null()) return texts;
    if (!value.is_array() || value.size() > max_targets) return wrong(where, "must be a list of strings");
    for (const Json& item : value.items()) {
        if (!item.is_string()) return wrong(where, "must be a list of strings");
        texts.push_back(item.text());
    }
    return texts;
}

std::string format_of(const Scheme& scheme) {
    if (!is_public_form(scheme)) return ours;
    return scheme.kind != NumberKind::codebook ? "pack-quantized" : scheme.codebook->is_float8() ? float_format : mxfp4_format;
}

Json group_json(const Scheme& scheme, Json::Array targets, const std::string& format, QuantizedModule::Inputs inputs) {
    const bool channel = scheme.group_size == 0, is_public = format != ours, book = scheme.kind == NumberKind::codebook;
    Json weights = Json::object({{"num_bits", scheme.bits},
                                 {"type", scheme.kind == NumberKind::clusters ? "clusters" : scheme.kind == NumberKind::vectors ? "vectors" : !book ? "int" : is_public ? "float" : "codebook"},
                                 {"symmetric", scheme.symmetric},
                                 {"group_size", channel ? Json() : Json(scheme.group_size)},
                                 {"strategy", scheme.one_table ? "tensor" : channel ? "channel" : "group"},
                                 {"dynamic", false}});
    if (is_public && book && !scheme.codebook->is_float8()) weights.set("scale_dtype", "torch.uint8");
    if (!is_public && book) weights.set("skiff_codebook", std::string(scheme.codebook->name));
    if (scheme.relative_scales()) weights.set("skiff_super_size", scheme.super_size);
    if (scheme.scale_book != nullptr) weights.set("skiff_scale_codebook", std::string(scheme.scale_book->name));
    if (scheme.minimums) weights.set("skiff_minimums", true);
    if (scheme.n_levels != 0) weights.set("skiff_levels", scheme.n_levels);
    if (scheme.kind == NumberKind::vectors) weights.set("skiff_vector", scheme.vector);
    if (scheme.n_books > 1) weights.set("skiff_books", scheme.n_books);
    Json activations;
    if (inputs != QuantizedModule::Inputs::floating) {
        const bool by_token = inputs == QuantizedModule::Inputs::by_token;
        activations = Json::object({{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"group_size", Json()}, {"strategy", by_token ? "token" : "tensor"}, {"dynamic", by_token}});
    }
    return Json::object({{"targets", std::move(targets)},
                         {"weights", std::move(weights)},
                         {"input_activations", std::move(activations)},
                         {"output_activations", Json()},
                         {"format", format}});
}

}  // namespace

bool is_public_form(const Scheme& scheme) {
    if (scheme.kind == NumberKind::codebook && scheme.codebook == find_codebook("e4m3")) return scheme.group_size == 0 && !scheme.relative_scales();
    if (scheme.kind == NumberKind::codebook) return scheme.scale_dtype == DType::f8_e8m0 && scheme.name() == "mxfp4";
    // Widths that do not divide a word were packed otherwise before May 2026: a package of that time would take ours for other numbers.
    return scheme.kind == NumberKind::integer && !scheme.relative_scales() && !scheme.minimums && 32 % scheme.bits == 0;
}

Result<QuantizationConfig::Pattern> QuantizationConfig::compile(const std::string& text) {
    Pattern pattern{text, {}};
    if (!text.starts_with("re:")) return pattern;
    SKIFF_TRY(pattern.expression, NamePattern::compile(text.substr(3), "quantization_config pattern \"" + text.substr(0, 80) + "\""));
    return pattern;
}

Result<bool> QuantizationConfig::matches(const Pattern& pattern, std::string_view name) {
    return pattern.expression.empty() ? Result<bool>(pattern.text == name) : pattern.expression.matches(name);
}

Status QuantizationConfig::add_group(const std::string& group, const Json& value, const std::string& whole_format, std::map<std::string, Target>& targets) {
    const std::string where = "config_groups." + group.substr(0, 80);
    if (!value.is_object()) return unsupported("quantization_config " + where + ": only groups written out in full are read, not preset names");
    const std::string format = value["format"].is_string() ? value["format"].text() : whole_format;
    SKIFF_TRY(auto arguments, read_arguments(value["weights"], format, where + ".weights"));
    const char* known[] = {"", "pack-quantized", "int-quantized", "naive-quantized", mixed, ours};
    const bool is_float8 = arguments.scheme && arguments.scheme->kind == NumberKind::codebook && arguments.scheme->codebook->is_float8() && format == float_format;
    const bool is_four_bit_float = (format == mxfp4_format || format == nvfp4_format) && arguments.scheme && arguments.scheme->kind == NumberKind::codebook;
    SKIFF_CHECK(take_blocks(value["weights"]["block_structure"], where));
    if (arguments.scheme && !is_four_bit_float && !is_float8 && std::find(std::begin(known), std::end(known), format) == std::end(known))
        arguments = {std::nullopt, "weights in the format \"" + format + "\""};
    bool fixed_inputs = false;
    if (const Json& inputs = value["input_activations"]; inputs.is_object()) {
        const std::string& type = inputs["type"].text();
        const bool integers = inputs["num_bits"].int_or(8) == 8 && (type.empty() || type == "int") && inputs["symmetric"].bool_or(true);
        const bool dynamic = inputs["dynamic"].bool_or(false);
        fixed_inputs = arguments.scheme && integers && !dynamic && (inputs["strategy"].text().empty() || inputs["strategy"].text() == "tensor") && !inputs["group_size"].is_number();
        if (integers && dynamic) notes_.push_back(where + " asks for inputs of 8 bits with a scale for each token; here each block of 32 has its own");
        else if (!fixed_inputs) notes_.push_back(where + " asks for a form of inputs that is not known here; the kernels take their own");
    }
    if (value["output_activations"].is_object()) notes_.push_back(where + " asks for quantized outputs; they stay floating");
    SKIFF_TRY(const auto texts, read_texts(value["targets"], where + ".targets"));
    for (const auto& text : texts) {
        SKIFF_TRY(auto pattern, compile(text));
        targets[text] = {std::move(pattern), arguments.scheme, arguments.unsupported, fixed_inputs};
    }
    return {};
}

// Blocks of FP8 weights: one size for the whole checkpoint.
Status QuantizationConfig::take_blocks(const Json& sides, const std::string& where) {
    if (sides.is_null()) return {};
    const auto& items = sides.items();
    const auto good = [](const Json& side) { return side.int_or(0) >= 1 && side.int_or(0) <= (1 << 24); };
    if (items.size() != 2 || !good(items[0]) || !good(items[1])) return wrong(where, "block_structure must be two positive integers");
    const Fp8Blocks blocks = {items[0].int_or(1), items[1].int_or(1)};
    if (has_blocks_ && (blocks.rows != fp8_blocks_.rows || blocks.columns != fp8_blocks_.columns)) return unsupported("quantization_config " + where + ": blocks of two sizes in one checkpoint");
    fp8_blocks_ = blocks;
    has_blocks_ = true;
    return {};
}

Result<QuantizationConfig> QuantizationConfig::parse(const Json& json) {
    QuantizationConfig config;
    if (!json.is_object()) return corrupt("quantization_config must be an object");
    const std::string method = json["quant_method"].text();
    if (method != "compressed-tensors" && method != "compressed_tensors")
        return unsupported("quantization_config: quant_method is \"" + method.substr(0, 80) + "\"; only compressed-tensors is read");
    if (!json["config_groups"].is_object()) return wrong("config_groups", "must be an object");
    if (json["config_groups"].size() > max_groups) return wrong("config_groups", "has more than " + std::to_string(max_groups) + " groups");
    for (const char* old : {"sparsity_config", "transform_config"})
        if (json[old].is_object() && json[old].size() > 0) return unsupported("quantization_config has a " + std::string(old) + ", which is not read");
    if (json["kv_cache_scheme"].is_object()) config.notes_.push_back("kv_cache_scheme is not applied");
    std::map<std::string, Target> targets;
    for (const auto& [group, value] : json["config_groups"].members()) SKIFF_CHECK(config.add_group(group, value, json["format"].text(), targets));
    for (auto& [text, target] : targets) config.targets_.push_back(std::move(target));
    std::stable_partition(config.targets_.begin(), config.targets_.end(), [](const Target& target) { return target.pattern.expression.empty(); });
    SKIFF_TRY(const auto ignored, read_texts(json["ignore"], "ignore"));
    for (const auto& text : ignored) {
        SKIFF_TRY(auto pattern, compile(text));
        config.ignore_.push_back(std::move(pattern));
    }
    const auto n_patterns = std::count_if(config.targets_.begin(), config.targets_.end(), [](const Target& target) { return !target.pattern.expression.empty(); }) +
                            std::count_if(config.ignore_.begin(), config.ignore_.end(), [](const Pattern& pattern) { return !pattern.expression.empty(); });
    if (static_cast<std::size_t>(n_patterns) > max_patterns) return wrong("targets and ignore", "hold more than " + std::to_string(max_patterns) + " patterns");
    config.short_last_group_ = json["skiff_short_last_group"].bool_or(false);
    return config;
}

Result<const QuantizationConfig::Target*> QuantizationConfig::target_of(std::string_view module, std::string_view module_class) const {
    const Target* none = nullptr;
    for (const auto& pattern : ignore_) {
        SKIFF_TRY(const bool ignored, matches(pattern, module));
        if (ignored || pattern.text == module_class) return none;
    }
    const Target* chosen = nullptr;
    for (const auto& target : targets_) {
        SKIFF_TRY(const bool matched, matches(target.pattern, module));
        if (!matched) continue;
        chosen = &target;
        break;
    }
    for (const auto& target : targets_)
        if (chosen == nullptr && target.pattern.text == module_class) chosen = &target;
    return chosen;
}

Result<bool> QuantizationConfig::has_fixed_inputs(std::string_view module, std::string_view module_class) const {
    SKIFF_TRY(const Target* target, target_of(module, module_class));
    return target != nullptr && target->fixed_inputs;
}

Result<std::optional<Scheme>> QuantizationConfig::scheme_of(std::string_view module, std::string_view module_class) const {
    SKIFF_TRY(const Target* chosen, target_of(module, module_class));
    if (chosen == nullptr) return std::optional<Scheme>();
    if (!chosen->unsupported.empty())
        return unsupported("module " + std::string(module) + ": " + chosen->unsupported + " cannot be read yet");
    return chosen->scheme;
}

Result<Json> quantization_config_for(const std::map<std::string, QuantizedModule>& modules, const std::vector<std::string>& ignore) {
    struct Group {
        Scheme scheme;
        std::string format;
        QuantizedModule::Inputs inputs;
        std::vector<std::string> linear, other;
    };
    std::vector<Group> groups;
    bool short_last_group = false;
    for (const auto& [name, module] : modules) {
        if (!module.scheme.is_coded()) return usage_error("module " + name + ": only schemes of codes have a quantization_config, not " + module.scheme.name());
        Scheme scheme = module.scheme;
        // The types of scales are not part of the config: the tensors tell.
        scheme.scale_dtype = scheme.scale_book != nullptr ? DType::u8 : scheme.relative_scales() ? DType::i8 : scheme.scale_dtype == DType::f8_e8m0 ? DType::f8_e8m0 : DType::f16;
        scheme.super_dtype = DType::f32;
        if (scheme.group_size != 0 && module.n_columns % scheme.group_size != 0) short_last_group = true;
        const std::string format = module.inputs != QuantizedModule::Inputs::floating ? "int-quantized" : module.is_sparse ? ours : format_of(scheme);
        auto place = std::find_if(groups.begin(), groups.end(), [&, inputs = module.inputs](const Group& group) { return group.scheme == scheme && group.format == format && group.inputs == inputs; });
        if (place == groups.end()) place = groups.insert(groups.end(), {scheme, format, module.inputs, {}, {}});
        (module.is_linear ? place->linear : place->other).push_back(name);
    }
    // The commonest scheme covers the class of linear layers; the others are named, and a name wins over the class.
    const auto commonest = std::max_element(groups.begin(), groups.end(), [](const Group& a, const Group& b) { return a.linear.size() < b.linear.size(); });
    Json::Object config_groups;
    for (auto group = groups.begin(); group != groups.end(); ++group) {
        Json::Array targets;
        if (group == commonest && !group->linear.empty()) {
            targets.emplace_back("Linear");
        } else {
            for (const auto& name : group->linear) targets.emplace_back(name);
        }
        for (const auto& name : group->other) targets.emplace_back(name);
        config_groups.emplace_back("group_" + std::to_string(config_groups.size()), group_json(group->scheme, std::move(targets), group->format, group->inputs));
    }
    Json::Array ignored;
    for (const auto& name : ignore) ignored.emplace_back(name);
    std::string format = groups.empty() ? "pack-quantized" : groups[0].format;
    for (const Group& group : groups)
        if (group.format != format) format = mixed;
    Json config = Json::object({{"config_groups", std::move(config_groups)},
                                {"quant_method", "compressed-tensors"},
                                {"kv_cache_scheme", Json()},
                                {"format", format},
                                {"quantization_status", "compressed"},
                                {"global_compression_ratio", Json()},
                                {"ignore", std::move(ignored)}});
    if (short_last_group) config.set("skiff_short_last_group", true);
    return config;
}

}  // namespace skiff

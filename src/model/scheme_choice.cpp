#include "model/scheme_choice.h"

#include "base/glob.h"

namespace skiff {

const char* tensor_use_name(TensorUse use) {
    static constexpr const char* names[] = {"other", "linear", "router", "embedding", "head", "tied_embedding", "positions"};
    return names[static_cast<int>(use)];
}

std::map<std::string, TensorUse> tensor_uses(const ModelSpec& spec) {
    std::map<ValueId, bool> routed;  // values that choose experts
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops)
            if (std::holds_alternative<RouteOp>(op.detail)) routed[op.in[0]] = true;

    std::map<std::string, TensorUse> uses;
    for (const auto& [key, tensor] : spec.tensors) uses[key] = tensor.role == TensorDecl::Role::linear ? TensorUse::linear : TensorUse::other;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops) {
            if (const auto* embed = std::get_if<EmbedOp>(&op.detail))
                uses[embed->table.key] = embed->index == EmbedOp::Index::token ? TensorUse::embedding : TensorUse::positions;
            const auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear == nullptr) continue;
            for (const LinearTerm& term : linear->terms) {
                TensorUse& use = uses[term.weight.key];
                const auto declared = spec.tensors.find(term.weight.key);
                if (use == TensorUse::embedding) use = TensorUse::tied_embedding;
                else if (use == TensorUse::other && declared != spec.tensors.end() && declared->second.role == TensorDecl::Role::embedding)
                    use = TensorUse::head;
                else if (use == TensorUse::linear && routed.count(op.out) != 0) use = TensorUse::router;
            }
        }
    return uses;
}

SchemeWish default_wish(const Scheme& scheme) {
    static const Scheme eight_bit_rows = *parse_scheme("w8"), six_bits = *parse_scheme("w6g32r");
    if (scheme.kind == NumberKind::vectors) return {scheme, six_bits, six_bits};
    if (!scheme.is_coded() || scheme.bits >= 8) return {scheme, scheme, scheme};
    // Whoever asks for a public form keeps one; six bits with a scale per 32 weights err half as much again, and are read a quarter faster.
    if (scheme.kind == NumberKind::clusters) {
        static const Scheme most_clusters = *parse_scheme("k256tensor");
        return {scheme, most_clusters, most_clusters};
    }
    const bool ours = scheme.relative_scales() || (scheme.kind == NumberKind::codebook && scheme.scale_dtype != DType::f8_e8m0);
    const Scheme& table = ours && scheme.bits <= 4 ? six_bits : ours && scheme.bits <= 6 ? scheme : eight_bit_rows;
    return {scheme, table, table};
}

const Scheme* scheme_for(const SchemeWish& wish, TensorUse use) {
    switch (use) {
        case TensorUse::linear: return &wish.linear;
        case TensorUse::embedding: return wish.embedding ? &*wish.embedding : nullptr;
        case TensorUse::head:
        case TensorUse::tied_embedding: return wish.head ? &*wish.head : nullptr;
        default: return wish.linear.kind == NumberKind::floating ? &wish.linear : nullptr;
    }
}

const SchemeRule* rule_for(const SchemeWish& wish, const std::string& key, TensorUse use) {
    const bool may_change = use == TensorUse::linear || use == TensorUse::embedding || use == TensorUse::head || use == TensorUse::tied_embedding;
    if (!may_change) return nullptr;
    constexpr std::string_view end = ".weight";
    const std::string_view whole = key, module = whole.ends_with(end) ? whole.substr(0, whole.size() - end.size()) : whole;
    for (auto rule = wish.rules.rbegin(); rule != wish.rules.rend(); ++rule)
        if (glob_matches(rule->pattern, whole) || glob_matches(rule->pattern, module)) return &*rule;
    return nullptr;
}

Result<SchemeRule> parse_scheme_rule(std::string_view text) {
    const std::size_t at = text.rfind('=');
    if (at == std::string_view::npos || at == 0) return usage_error("\"" + std::string(text) + "\" is no PATTERN=SCHEME, such as \"*.down_proj=n4g32r\"");
    SchemeRule rule{std::string(text.substr(0, at)), std::nullopt};
    if (text.substr(at + 1) == "keep") return rule;
    SKIFF_TRY(rule.scheme, parse_scheme(text.substr(at + 1)));
    return rule;
}

}  // namespace skiff

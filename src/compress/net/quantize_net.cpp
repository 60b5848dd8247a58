#include "compress/net/changes.h"
#include "compress/survey.h"

namespace skiff::net {

Result<Changed> quantize_net(const Net& net, const SchemeWish& schemes, ScaleRule rule, ThreadPool& pool) {
    SKIFF_TRY(const auto resolved, resolve(net.spec));
    Changed result{net, {}, {}};
    for (std::size_t i = 0; i < net.spec.ops.size(); ++i) {
        const Op& op = net.spec.ops[i];
        const auto* conv = std::get_if<Conv>(&op.detail);
        if (conv == nullptr || (conv->groups > 1 && conv->groups == resolved.shapes[resolved.inputs[i][0]].channels)) continue;
        const std::string key = op.name + ".weight";
        const SchemeRule* given = rule_for(schemes, key, TensorUse::linear);
        if (given != nullptr && !given->scheme) continue;
        const Scheme& scheme = given != nullptr ? *given->scheme : schemes.linear;
        const Weight& weight = net.weights.at(key);
        if (weight.plain() == nullptr) return unsupported("tensor " + key + " is quantized already (" + weight.encoding_name() + "); quantize the network that it was made from");
        SKIFF_TRY(auto made, encode_nearest(weight, scheme, rule, {}, &pool));
        result.changes.push_back({op.name, weight.encoding_name(), made.encoding_name(), relative_squared_error(weight, made, pool)});
        result.net.weights.insert_or_assign(key, std::move(made));
    }
    if (result.changes.empty()) result.remarks.push_back("no weight becomes anything else; the result is a copy");
    return result;
}

}  // namespace skiff::net

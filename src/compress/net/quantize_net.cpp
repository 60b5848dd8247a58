#include <algorithm>

#include "compress/net/changes.h"

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
        Weight made;
        const std::vector<float> before = net.floats(key);
        if (scheme.is_coded()) {
            SKIFF_TRY(made, encode_nearest(weight, scheme, rule, {}, &pool));
        } else {
            std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(scheme.dtype, static_cast<std::int64_t>(before.size()))));
            dtype_info(scheme.dtype).from_float(before.data(), static_cast<std::int64_t>(before.size()), bytes.data());
            made = make_plain_weight(weight.shape, scheme.dtype, std::move(bytes));
        }
        result.net.weights.insert_or_assign(key, std::move(made));
        const std::vector<float> after = result.net.floats(key);
        double error = 0, squares = 0;
        for (std::size_t j = 0; j < before.size(); ++j) {
            const double difference = static_cast<double>(before[j]) - static_cast<double>(after[j]);
            error += difference * difference;
            squares += static_cast<double>(before[j]) * static_cast<double>(before[j]);
        }
        result.changes.push_back({op.name, weight.encoding_name(), result.net.weights.at(key).encoding_name(), error / std::max(squares, 1e-30)});
    }
    return result;
}

}  // namespace skiff::net

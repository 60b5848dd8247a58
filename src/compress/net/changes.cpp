#include "compress/net/changes.h"

#include <algorithm>

namespace skiff::net {

Status check_names(const Net& net, const OpNames& names) {
    for (const std::string& name : names)
        if (std::none_of(net.spec.ops.begin(), net.spec.ops.end(), [&](const Op& op) { return op.name == name; })) return usage_error("the network has no operator \"" + name + "\"; skiff inspect lists them");
    return {};
}

Status check_plain(const Net& net) {
    for (const auto& [name, weight] : net.weights)
        if (weight.plain() == nullptr) return unsupported("tensor " + name + " is quantized (" + weight.encoding_name() + "); change the network that it was made from, and quantize it then");
    return {};
}

bool concerns(const OpNames& names, const std::string& op) { return names.empty() || std::find(names.begin(), names.end(), op) != names.end(); }

}  // namespace skiff::net

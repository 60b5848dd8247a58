// Small networks (src/net) in the verbs that decoders have too: each looks at what MODEL is, and hands over.
#pragma once

#include <string>
#include <vector>

#include "cli/make_child.h"
#include "cli/model_options.h"
#include "compress/net/changes.h"
#include "net/session.h"

namespace skiff {

inline constexpr const char* layers_help = "Networks of convolutions: the operators that this concerns, with commas; default: all that it fits";

struct NetChildOptions {
    std::string model, output, layers;
    bool force = false, dry_run = false;
    std::int64_t threads = 0;
    NetChildOptions(const ChildOptions& common, std::string names) : model(common.model), output(common.output), layers(std::move(names)), force(common.force), dry_run(common.dry_run), threads(common.threads) {}
    NetChildOptions() = default;
};

// What a verb takes for a network: an error names the first option on the command line that is none of `known`. // long names
Status only_for_nets(const std::vector<std::string>& typed, std::initializer_list<std::string_view> known);

Status inspect_net(const std::string& path, Terminal& terminal);
Status bench_net(const ModelOptions& options, std::int64_t repeats, Terminal& terminal);
// pattern: filters:25%, channels:25%, taps:5 or taps:50%.
Status prune_net(const NetChildOptions& options, const std::string& pattern, const std::string& importance, std::int64_t multiple, Terminal& terminal);
// method: depthwise, tucker, svd, kronecker. `wish` has the rule and its amount.
Status factorize_net(const NetChildOptions& options, const std::string& method, net::NetFactorization wish, Terminal& terminal);
bool is_net_factorization(const std::string& method);
Status quantize_net(const NetChildOptions& options, const SchemeWish& schemes, ScaleRule rule, Terminal& terminal);

// Threads of a session: as asked, or the cores.
Result<net::SessionOptions> net_session_options(std::int64_t threads);

}  // namespace skiff

#include "cli/net_child.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/cpu_features.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "cli/format.h"
#include "net/comparison.h"

namespace skiff {
namespace {

constexpr std::int64_t compared_images = 64, most_noise_floats = std::int64_t{1} << 24;

std::vector<std::string> names_of(const std::string& list) {
    std::vector<std::string> names;
    std::string name;
    for (const char c : list + ",") {
        if (c != ',') name += c;
        else if (!name.empty()) names.push_back(std::exchange(name, {}));
    }
    return names;
}

std::string count(std::int64_t n) { return std::to_string(n); }
std::string percent(double share, int decimals) { return number_text(100 * share, decimals) + " %"; }
std::string shape(const net::ValueShape& value) { return count(value.height) + "x" + count(value.width) + "x" + count(value.channels); }
net::OpCount count_of(const net::Net& net) { return net::count_net(net.spec, *net::resolve(net.spec)); }

struct Amount {
    double value;
    bool is_share;
};
Result<Amount> amount_of(const std::string& pattern, std::size_t begin) {
    const bool is_share = pattern.ends_with('%');
    const char* first = pattern.data() + begin;
    const char* last = pattern.data() + pattern.size() - (is_share ? 1 : 0);
    double value = 0;
    const auto [end, error] = std::from_chars(first, last, value);
    if (error != std::errc() || end != last || !(value >= 0) || !std::isfinite(value)) return usage_error("--pattern " + pattern.substr(0, 60) + ": expected a number or a percentage behind the colon");
    return Amount{is_share ? value / 100 : value, is_share};
}

// Says what became of the parent, measures both, writes the child.
Status finish(const net::Net& parent, net::Changed changed, Json step, const NetChildOptions& options, Terminal& terminal) {
    for (const std::string& remark : changed.remarks) terminal.remark("note: " + remark);
    std::vector<std::vector<std::string>> rows = {{"operator", "before", "after", "squared error of weights"}};
    Json operators = Json::array();
    for (const net::Change& change : changed.changes) {
        rows.push_back({change.op, change.from, change.to, percent(change.squared_error, 3)});
        operators.push_back(Json::object({{"name", change.op}, {"from", change.from}, {"to", change.to}, {"squared_error", change.squared_error}}));
    }
    if (rows.size() > 1) terminal.print(table_text(rows, TableStyle::plain));
    const net::OpCount before = count_of(parent), after = count_of(changed.net);
    SKIFF_TRY(const auto session, net_session_options(options.threads));
    const std::int64_t n_images = std::clamp<std::int64_t>(most_noise_floats / parent.spec.input.n_elements(), 1, compared_images);
    SKIFF_TRY(const auto comparison, net::compare_nets(parent, changed.net, net::noise_images(parent.spec.input, n_images, 1), session));
    const auto of = [](auto after_this, auto before_this) { return percent(static_cast<double>(after_this) / std::max(1.0, static_cast<double>(before_this)), 1); };
    terminal.print(table_text({{"", "before", "after", ""},
                               {"weights", count(before.weights), count(after.weights), of(after.weights, before.weights)},
                               {"multiply-adds", count(before.multiply_adds), count(after.multiply_adds), of(after.multiply_adds, before.multiply_adds)},
                               {"bytes", count(static_cast<std::int64_t>(parent.stored_bytes())), count(static_cast<std::int64_t>(changed.net.stored_bytes())), of(changed.net.stored_bytes(), parent.stored_bytes())},
                               {"µs an image", number_text(comparison.parent_us, 1), number_text(comparison.child_us, 1), number_text(comparison.speed_ratio, 2) + "x"}},
                              TableStyle::plain));
    terminal.print("on " + count(n_images) + " images of noise the output's squared error is " + percent(comparison.output_error, 3));
    Json document = Json::object({{"operators", operators}, {"weights", Json::array({before.weights, after.weights})}, {"multiply_adds", Json::array({before.multiply_adds, after.multiply_adds})}, {"output_squared_error", comparison.output_error},
                                  {"speed_ratio", comparison.speed_ratio}, {"parent_us", comparison.parent_us}, {"child_us", comparison.child_us}});
    if (!options.dry_run) {
        changed.net.steps.push_back(std::move(step));
        SKIFF_CHECK(net::write_net(changed.net, options.output, options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse));
        terminal.print("wrote " + options.output);
        document.set("output", options.output);
    }
    terminal.result(document);
    return {};
}

// Found before the work and not after it.
Status check_output(const NetChildOptions& options) {
    if (options.output.empty() && !options.dry_run) return usage_error("give the folder to write with -o");
    if (!options.force && !options.dry_run && (is_directory(options.output) || file_exists(options.output))) return usage_error(options.output + ": already exists; give another -o, remove it, or add --force");
    return options.dry_run ? Status() : check_output_apart(options.output, options.model);
}

struct NamedMethod {
    const char* name;
    net::NetFactorization::Method method;
};
constexpr NamedMethod net_methods[] = {{"depthwise", net::NetFactorization::Method::depthwise}, {"tucker", net::NetFactorization::Method::tucker}, {"svd", net::NetFactorization::Method::svd}, {"kronecker", net::NetFactorization::Method::kronecker}};

}  // namespace

Result<net::SessionOptions> net_session_options(std::int64_t threads) {
    if (threads < 0 || threads > 1024) return usage_error("--threads " + std::to_string(threads) + ": expected 0 to 1024");
    net::SessionOptions options;
    options.n_threads = threads > 0 ? static_cast<int>(threads) : default_thread_count();
    return options;
}

Status inspect_net(const std::string& path, Terminal& terminal) {
    SKIFF_TRY(const auto net, net::open_net(path));
    SKIFF_TRY(const auto resolved, net::resolve(net.spec));
    std::vector<std::vector<std::string>> rows = {{"operator", "kind", "reads", "gives", "weights", "type", "multiply-adds"}};
    Json operators = Json::array();
    for (std::size_t i = 0; i < net.spec.ops.size(); ++i) {
        const net::Op& op = net.spec.ops[i];
        std::vector<net::ValueShape> in;
        std::string reads;
        for (const std::size_t value : resolved.inputs[i]) in.push_back(resolved.shapes[value]);
        for (const std::string& name : op.in) reads += (reads.empty() ? "" : ", ") + name;
        const net::OpCount of_op = net::count_op(op, in, resolved.shapes[i + 1]);
        const auto weight = net.weights.find(op.name + ".weight");
        std::string kind = net::op_kind_name(op.detail);
        if (const auto* conv = std::get_if<net::Conv>(&op.detail)) {
            kind += " " + count(conv->window.kernel[0]) + "x" + count(conv->window.kernel[1]);
            if (!conv->taps.empty()) kind += " (" + count(static_cast<std::int64_t>(conv->taps.size())) + " kept)";
            if (conv->groups > 1) kind += conv->groups == in[0].channels ? " depthwise" : " in " + count(conv->groups) + " groups";
        }
        rows.push_back({op.name, kind, reads, shape(resolved.shapes[i + 1]), of_op.weights > 0 ? count(of_op.weights) : "", weight != net.weights.end() ? weight->second.encoding_name() : "", of_op.multiply_adds > 0 ? count(of_op.multiply_adds) : ""});
        operators.push_back(Json::object({{"name", op.name}, {"kind", kind}, {"output", shape(resolved.shapes[i + 1])}, {"weights", of_op.weights}, {"multiply_adds", of_op.multiply_adds}}));
    }
    const net::OpCount all = count_of(net);
    terminal.print((net.spec.name.empty() ? path : net.spec.name) + ": a network of " + count(static_cast<std::int64_t>(net.spec.ops.size())) + " operators on images of " + shape(net.spec.input));
    terminal.print("parameters       " + count(all.weights + all.others) + " (" + count(all.weights) + " weights, " + count(all.others) + " biases and norms)");
    terminal.print("bytes            " + bytes_text(net.stored_bytes()));
    terminal.print("an image         " + count(all.multiply_adds) + " multiply-adds, " + counted(resolved.shapes.back().n_positions(), "positions") + " of the output");
    for (const Json& step : net.steps) terminal.print("made by          " + step.dump());
    terminal.print("");
    terminal.print(table_text(rows, TableStyle::plain));
    terminal.result(Json::object({{"path", path}, {"name", net.spec.name}, {"parameters", all.weights + all.others}, {"weights", all.weights}, {"weight_bytes", net.stored_bytes()}, {"multiply_adds", all.multiply_adds}, {"operators", operators}}));
    return {};
}

Status only_for_nets(const std::vector<std::string>& typed, std::initializer_list<std::string_view> known) {
    std::string names;
    for (const std::string_view name : known) names += (names.empty() ? "" : ", ") + std::string(name);
    for (const std::string& name : typed)
        if (name != "--json" && std::find(known.begin(), known.end(), name) == known.end()) return usage_error(name + " does not concern a network of convolutions; there are: " + names);
    return {};
}

Status bench_net(const ModelOptions& options, std::int64_t repeats, Terminal& terminal) {
    if (options.batch < 0 || options.batch > 65536) return usage_error("--batch " + std::to_string(options.batch) + ": expected 0 to 65536 images");
    SKIFF_TRY(const auto net, net::open_net(options.model));
    SKIFF_TRY(auto session_options, net_session_options(options.threads));
    session_options.kernels = options.kernels == "reference" ? KernelChoice::reference : KernelChoice::fastest;
    if (!options.isa.empty()) {
        SKIFF_TRY(session_options.isa, parse_isa(options.isa));
    }
    session_options.batch = options.batch > 0 ? options.batch : 16;
    SKIFF_TRY(const auto session, net::Session::create(net, session_options));
    session_options.batch = session->options().batch;  // fewer where so many would not fit
    const auto images = net::noise_images(net.spec.input, session_options.batch, 1);
    const double us = net::image_us(*session, images, static_cast<int>(repeats) * 4);
    const net::OpCount all = count_of(net);
    const double positions = static_cast<double>(session->output().n_positions());
    terminal.print(number_text(us, 1) + " µs an image, " + number_text(1e6 / us * positions, 0) + " positions/s, " + number_text(static_cast<double>(all.multiply_adds) / us / 1000, 2) + " GMAC/s (" + counted(session_options.n_threads, "threads") + ", " +
                   counted(session_options.batch, "images") + " at a time)");
    double total = 0;
    for (const double seconds : session->seconds()) total += seconds;
    std::vector<std::vector<std::string>> rows = {{"operator", "kernel", "share", "µs an image"}};
    for (std::size_t i = 0; i < session->steps().size(); ++i)
        rows.push_back({session->steps()[i].name, session->steps()[i].kernel, percent(session->seconds()[i] / total, 1), number_text(session->seconds()[i] * 1e6 / static_cast<double>(session_options.batch), 1)});
    terminal.print(table_text(rows, TableStyle::plain));
    terminal.result(Json::object({{"us_per_image", us}, {"positions_per_s", 1e6 / us * positions}, {"gmac_per_s", static_cast<double>(all.multiply_adds) / us / 1000}, {"threads", session_options.n_threads}}));
    return {};
}

Status prune_net(const NetChildOptions& options, const std::string& pattern, const std::string& importance, std::int64_t multiple, Terminal& terminal) {
    SKIFF_CHECK(check_output(options));
    const std::size_t colon = pattern.find(':');
    const std::string what = pattern.substr(0, colon);
    if (colon == std::string::npos || (what != "filters" && what != "channels" && what != "taps")) return usage_error("--pattern " + pattern.substr(0, 60) + ": of a network of convolutions filters:25%, channels:25% or taps:5 can go");
    SKIFF_TRY(const auto amount, amount_of(pattern, colon + 1));
    if (!importance.empty() && (what != "filters" || (importance != "l1" && importance != "l2"))) return usage_error("--importance " + importance + ": filters are judged by l1 or l2, channels by what reads them, taps by what they carry");
    SKIFF_TRY(const auto parent, net::open_net(options.model));
    const net::OpNames layers = names_of(options.layers);
    const Json step = Json::object({{"kind", "prune"}, {"pattern", pattern}, {"importance", what == "channels" ? "readers" : importance.empty() ? "l2" : importance.c_str()}, {"layers", options.layers}});
    if (what == "taps") {
        constexpr double most_taps = 1 << 20;
        if (multiple != 0) return usage_error("--multiple concerns filters and channels; taps has none");
        if (!amount.is_share && !(amount.value >= 1 && amount.value <= most_taps && amount.value == std::floor(amount.value))) return usage_error("--pattern " + pattern.substr(0, 60) + ": expected how many positions stay, a whole number from 1");
        net::TapPruning pruning{amount.is_share ? 0 : static_cast<std::int64_t>(amount.value), amount.is_share ? amount.value : 0, layers};
        SKIFF_TRY(auto changed, net::prune_taps(parent, pruning));
        return finish(parent, std::move(changed), step, options, terminal);
    }
    if (!amount.is_share) return usage_error("--pattern " + pattern.substr(0, 60) + ": expected a percentage");
    if (multiple < 0) return usage_error("--multiple " + std::to_string(multiple) + ": expected at least 1");
    using Judge = net::ChannelPruning::Judge;
    const net::ChannelPruning pruning{amount.value, what == "channels" ? Judge::readers : importance == "l1" ? Judge::l1 : Judge::l2, std::max<std::int64_t>(1, multiple), layers};
    SKIFF_TRY(auto changed, net::prune_channels(parent, pruning));
    return finish(parent, std::move(changed), step, options, terminal);
}

bool is_net_factorization(const std::string& method) {
    for (const NamedMethod& row : net_methods)
        if (method == row.name) return true;
    return false;
}

Status factorize_net(const NetChildOptions& options, const std::string& method, net::NetFactorization wish, Terminal& terminal) {
    SKIFF_CHECK(check_output(options));
    for (const NamedMethod& row : net_methods)
        if (method == row.name) wish.method = row.method;
    wish.layers = names_of(options.layers);
    SKIFF_TRY(const auto parent, net::open_net(options.model));
    SKIFF_TRY(auto changed, net::factorize_net(parent, wish));
    constexpr const char* rules[] = {"rank", "share", "energy"};
    const Json step = Json::object({{"kind", "factorize"}, {"method", method}, {"rule", rules[static_cast<int>(wish.rule)]}, {"amount", wish.amount}, {"layers", options.layers}});
    return finish(parent, std::move(changed), step, options, terminal);
}

Status quantize_net(const NetChildOptions& options, const SchemeWish& schemes, ScaleRule rule, Terminal& terminal) {
    SKIFF_CHECK(check_output(options));
    SKIFF_TRY(const auto parent, net::open_net(options.model));
    SKIFF_TRY(const auto session, net_session_options(options.threads));
    ThreadPool pool(session.n_threads);
    SKIFF_TRY(auto changed, net::quantize_net(parent, schemes, rule, pool));
    return finish(parent, std::move(changed), Json::object({{"kind", "quantize"}, {"scheme", schemes.linear.name()}}), options, terminal);
}

}  // namespace skiff

#include "net/spec.h"

#include <algorithm>
#include <numeric>

namespace skiff::net {
namespace {

constexpr std::int64_t most_channels = 1 << 20, most_side = 1 << 16, most_elements = std::int64_t{1} << 28, most_weights = std::int64_t{1} << 31, most_ops = 4096;

using Shapes = std::vector<ValueShape>;

Result<std::int64_t> out_side(const Window& window, int axis, std::int64_t side) {
    const std::int64_t span = (window.kernel[axis] - 1) * window.dilation[axis] + 1, padded = side + window.before[axis] + window.after[axis];
    if (padded < span) return corrupt("a window of " + std::to_string(span) + " does not fit an image side of " + std::to_string(padded) + " with its padding");
    return (padded - span) / window.stride[axis] + 1;
}

Result<ValueShape> windows_of(const Window& window, const ValueShape& in, std::int64_t channels) {
    SKIFF_TRY(const auto height, out_side(window, 0, in.height));
    SKIFF_TRY(const auto width, out_side(window, 1, in.width));
    return ValueShape{height, width, channels};
}

std::string text_of(const ValueShape& shape) { return std::to_string(shape.height) + "x" + std::to_string(shape.width) + "x" + std::to_string(shape.channels); }

// ---- the shape rule of each operator

Result<ValueShape> shape_of(const Conv& conv, const Shapes& in) {
    const std::int64_t inputs = in[0].channels;
    if (conv.groups < 1 || conv.channels < 1 || inputs % conv.groups != 0 || conv.channels % conv.groups != 0)
        return corrupt(std::to_string(conv.groups) + " groups do not divide " + std::to_string(inputs) + " inputs and " + std::to_string(conv.channels) + " outputs");
    if (!conv.taps.empty() && (conv.taps.back() >= conv.window.n_taps() || conv.taps.front() < 0 || std::adjacent_find(conv.taps.begin(), conv.taps.end(), std::greater_equal<>()) != conv.taps.end()))
        return corrupt("\"taps\" are not ascending positions in the kernel");
    return windows_of(conv.window, in[0], conv.channels);
}
Result<ValueShape> shape_of(const Pool& pool, const Shapes& in) {
    if (pool.extent == Pool::Extent::whole_image) return ValueShape{1, 1, in[0].channels};
    return windows_of(pool.window, in[0], in[0].channels);
}
Result<ValueShape> shape_of(const Shuffle& shuffle, const Shapes& in) {
    if (shuffle.groups < 1 || in[0].channels % shuffle.groups != 0) return corrupt(std::to_string(shuffle.groups) + " groups do not divide " + std::to_string(in[0].channels) + " channels");
    return in[0];
}
Result<ValueShape> shape_of(const Activate&, const Shapes& in) { return in[0]; }
Result<ValueShape> shape_of(const Add&, const Shapes& in) {
    if (in[0] != in[1]) return corrupt("values of " + text_of(in[0]) + " and " + text_of(in[1]) + " cannot be added");
    return in[0];
}
Result<ValueShape> shape_of(const Multiply&, const Shapes& in) {
    if (in[0] != in[1] && in[1] != ValueShape{1, 1, in[0].channels}) return corrupt("values of " + text_of(in[0]) + " and " + text_of(in[1]) + " cannot be multiplied");
    return in[0];
}
Result<ValueShape> shape_of(const Concat&, const Shapes& in) {
    ValueShape out = in[0];
    for (std::size_t i = 1; i < in.size(); ++i) {
        if (in[i].height != out.height || in[i].width != out.width) return corrupt("images of " + text_of(in[0]) + " and " + text_of(in[i]) + " cannot stand beside each other");
        out.channels += in[i].channels;
    }
    return out;
}
Result<ValueShape> shape_of(const Slice& slice, const Shapes& in) {
    if (slice.begin < 0 || slice.end <= slice.begin || slice.end > in[0].channels) return corrupt("channels " + std::to_string(slice.begin) + " to " + std::to_string(slice.end) + " of " + std::to_string(in[0].channels));
    return ValueShape{in[0].height, in[0].width, slice.end - slice.begin};
}
Result<ValueShape> shape_of(const Norm&, const Shapes& in) { return in[0]; }
Result<ValueShape> shape_of(const Attention& attention, const Shapes& in) {
    if (attention.n_heads < 1 || in[0].channels % attention.n_heads != 0) return corrupt(std::to_string(attention.n_heads) + " heads do not divide " + std::to_string(in[0].channels) + " channels");
    if (in[0] != in[1] || in[0] != in[2]) return corrupt("q, k and v differ in shape");
    return in[0];
}
Result<ValueShape> shape_of(const Flatten&, const Shapes& in) { return ValueShape{1, 1, in[0].n_elements()}; }
Result<ValueShape> shape_of(const Fold& fold, const Shapes& in) {
    const bool opens = fold.way == Fold::Way::to_positions;
    const std::int64_t divided = opens ? in[0].channels : in[0].width;
    if (fold.parts < 1 || divided % fold.parts != 0) return corrupt(std::to_string(fold.parts) + " parts do not divide " + std::to_string(divided) + (opens ? " channels" : " positions of a row"));
    if (opens) return ValueShape{in[0].height, in[0].width * fold.parts, in[0].channels / fold.parts};
    return ValueShape{in[0].height, in[0].width / fold.parts, in[0].channels * fold.parts};
}

// ---- reading and writing

Result<std::int64_t> int_of(const Json& json, const char* key, std::int64_t fallback, std::int64_t least, std::int64_t most) {
    const Json* found = json.find(key);
    if (found == nullptr) return fallback;
    SKIFF_TRY(const auto value, found->as_int(key));
    if (value < least || value > most) return corrupt(std::string("\"") + key + "\" is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " + std::to_string(most));
    return value;
}

// A number for both axes, or [down, across].
Status pair_of(const Json& json, const char* key, std::int64_t least, std::int64_t most, std::int64_t (&pair)[2]) {
    const Json* found = json.find(key);
    if (found == nullptr) return {};
    if (found->is_array() && found->size() != 2) return corrupt(std::string("\"") + key + "\" has " + std::to_string(found->size()) + " numbers, expected 2: down, across");
    for (int axis = 0; axis < 2; ++axis) {
        SKIFF_TRY(pair[axis], (found->is_array() ? found->items()[static_cast<std::size_t>(axis)] : *found).as_int(key));
        if (pair[axis] < least || pair[axis] > most) return corrupt(std::string("\"") + key + "\": " + std::to_string(pair[axis]) + ", expected " + std::to_string(least) + " to " + std::to_string(most));
    }
    return {};
}

Result<Window> read_window(const Json& json) {
    Window window;
    SKIFF_CHECK(pair_of(json, "kernel", 1, 255, window.kernel));
    SKIFF_CHECK(pair_of(json, "stride", 1, 255, window.stride));
    SKIFF_CHECK(pair_of(json, "dilation", 1, 255, window.dilation));
    SKIFF_CHECK(pair_of(json, "padding", 0, 65535, window.before));
    std::copy(window.before, window.before + 2, window.after);
    SKIFF_CHECK(pair_of(json, "padding_after", 0, 65535, window.after));
    if (window.n_taps() > max_window_taps) return unsupported("a kernel of more than " + std::to_string(max_window_taps) + " positions");
    return window;
}
void write_pair(Json& json, const char* key, const std::int64_t (&pair)[2], std::int64_t usual) {
    if (pair[0] == usual && pair[1] == usual) return;
    if (pair[0] == pair[1]) json.set(key, pair[0]);
    else json.set(key, Json::array({pair[0], pair[1]}));
}
void write_window(const Window& window, Json& json) {
    write_pair(json, "kernel", window.kernel, 1);
    write_pair(json, "stride", window.stride, 1);
    write_pair(json, "dilation", window.dilation, 1);
    write_pair(json, "padding", window.before, 0);
    if (!std::equal(window.after, window.after + 2, window.before)) json.set("padding_after", Json::array({window.after[0], window.after[1]}));
}

struct Named {
    Activation kind;
    const char* name;
};
constexpr Named activation_names[] = {{Activation::relu, "relu"}, {Activation::silu, "silu"}, {Activation::gelu_erf, "gelu"}, {Activation::gelu_tanh, "gelu_tanh"}, {Activation::sigmoid, "sigmoid"}, {Activation::tanh, "tanh"}};
struct NamedPool {
    PoolKind kind;
    const char* name;
};
constexpr NamedPool pool_names[] = {{PoolKind::max, "max"}, {PoolKind::average, "average"}, {PoolKind::average_with_padding, "average_with_padding"}};

template <class Table, class Kind>
Status name_to(const Table& table, const Json& json, const char* key, Kind& kind) {
    const Json* found = json.find(key);
    if (found == nullptr) return {};
    std::string known;
    for (const auto& row : table) {
        if (found->is_string() && found->text() == row.name) {
            kind = row.kind;
            return {};
        }
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    return corrupt(std::string("\"") + key + "\": expected one of " + known);
}
template <class Table, class Kind>
const char* name_from(const Table& table, Kind kind) {
    for (const auto& row : table)
        if (row.kind == kind) return row.name;
    return "";
}

Result<OpDetail> read_conv(const Json& json) {
    Conv conv;
    SKIFF_TRY(conv.window, read_window(json));
    SKIFF_TRY(conv.channels, int_of(json, "channels", 0, 1, most_channels));
    SKIFF_TRY(conv.groups, int_of(json, "groups", 1, 1, most_channels));
    for (const Json& tap : json["taps"].items()) {
        SKIFF_TRY(const auto position, tap.as_int("taps"));
        conv.taps.push_back(position);
    }
    if (const Json* bias = json.find("bias")) {
        SKIFF_TRY(const bool has, bias->as_bool("bias"));
        conv.bias = has ? Conv::Bias::yes : Conv::Bias::no;
    }
    return OpDetail(conv);
}
void write(const Conv& conv, Json& json) {
    json.set("channels", conv.channels);
    write_window(conv.window, json);
    if (conv.groups != 1) json.set("groups", conv.groups);
    for (const std::int64_t tap : conv.taps) {
        if (!json.contains("taps")) json.set("taps", Json::array());
        Json taps = json["taps"];
        taps.push_back(tap);
        json.set("taps", taps);
    }
    if (conv.bias == Conv::Bias::no) json.set("bias", false);
}
Result<OpDetail> read_pool(const Json& json) {
    Pool pool;
    SKIFF_CHECK(name_to(pool_names, json, "kind", pool.kind));
    if (json.contains("kernel")) {
        SKIFF_TRY(pool.window, read_window(json));
    } else {
        pool.extent = Pool::Extent::whole_image;
    }
    return OpDetail(pool);
}
void write(const Pool& pool, Json& json) {
    json.set("kind", name_from(pool_names, pool.kind));
    if (pool.extent == Pool::Extent::whole_image) return;
    if (pool.window.n_taps() == 1) json.set("kernel", 1);
    write_window(pool.window, json);
}
Result<OpDetail> read_shuffle(const Json& json) {
    Shuffle shuffle;
    SKIFF_TRY(shuffle.groups, int_of(json, "groups", 1, 1, most_channels));
    return OpDetail(shuffle);
}
void write(const Shuffle& shuffle, Json& json) { json.set("groups", shuffle.groups); }
Result<OpDetail> read_activate(const Json& json) {
    Activate activate;
    SKIFF_CHECK(name_to(activation_names, json, "kind", activate.kind));
    return OpDetail(activate);
}
void write(const Activate& activate, Json& json) { json.set("kind", name_from(activation_names, activate.kind)); }
Result<OpDetail> read_slice(const Json& json) {
    Slice slice;
    SKIFF_TRY(slice.begin, int_of(json, "begin", 0, 0, most_channels));
    SKIFF_TRY(slice.end, int_of(json, "end", 0, 1, most_channels));
    return OpDetail(slice);
}
void write(const Slice& slice, Json& json) {
    json.set("begin", slice.begin);
    json.set("end", slice.end);
}
Result<OpDetail> read_norm(const Json& json, NormKind kind) {
    Norm norm{kind, 1e-5};
    if (const Json* eps = json.find("eps")) {
        SKIFF_TRY(norm.eps, eps->as_double("eps"));
    }
    return OpDetail(norm);
}
void write(const Norm& norm, Json& json) { json.set("eps", norm.eps); }
Result<OpDetail> read_attention(const Json& json) {
    Attention attention;
    SKIFF_TRY(attention.n_heads, int_of(json, "heads", 1, 1, most_channels));
    return OpDetail(attention);
}
void write(const Attention& attention, Json& json) { json.set("heads", attention.n_heads); }
Result<OpDetail> read_fold(const Json& json, Fold::Way way) {
    Fold fold{1, way};
    SKIFF_TRY(fold.parts, int_of(json, "parts", 1, 1, most_channels));
    return OpDetail(fold);
}
void write(const Fold& fold, Json& json) { json.set("parts", fold.parts); }
void write(const Add&, Json&) {}
void write(const Multiply&, Json&) {}
void write(const Concat&, Json&) {}
void write(const Flatten&, Json&) {}

template <class Kind>
Result<OpDetail> plain(const Json&) {
    return OpDetail(Kind{});
}

struct KindRow {
    const char* name;
    std::size_t index, n_inputs;  // 0: any number, two at least
    Result<OpDetail> (*read)(const Json&);
};
template <class Kind>
constexpr std::size_t index_of = OpDetail(Kind{}).index();
const KindRow kinds[] = {
    {"conv", index_of<Conv>, 1, read_conv},
    {"pool", index_of<Pool>, 1, read_pool},
    {"shuffle", index_of<Shuffle>, 1, read_shuffle},
    {"activation", index_of<Activate>, 1, read_activate},
    {"add", index_of<Add>, 2, plain<Add>},
    {"multiply", index_of<Multiply>, 2, plain<Multiply>},
    {"concat", index_of<Concat>, 0, plain<Concat>},
    {"slice", index_of<Slice>, 1, read_slice},
    {"layer_norm", index_of<Norm>, 1, [](const Json& json) { return read_norm(json, NormKind::layer); }},
    {"rms_norm", index_of<Norm>, 1, [](const Json& json) { return read_norm(json, NormKind::rms); }},
    {"attention", index_of<Attention>, 3, read_attention},
    {"flatten", index_of<Flatten>, 1, plain<Flatten>},
    {"fold", index_of<Fold>, 1, [](const Json& json) { return read_fold(json, Fold::Way::to_positions); }},
    {"unfold", index_of<Fold>, 1, [](const Json& json) { return read_fold(json, Fold::Way::to_channels); }},
};

const KindRow& row_of(const OpDetail& detail) {
    for (const KindRow& row : kinds)
        if (row.index == detail.index()) return row;
    std::abort();  // the table has every kind
}

bool is_name(const std::string& name) {
    return !name.empty() && name.size() <= 100 && std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; });
}

Result<Op> read_op(const Json& json, const std::string& before) {
    Op op;
    SKIFF_TRY(op.name, json["name"].as_string("name"));
    SKIFF_TRY(const auto kind, json["op"].as_string("op"));
    const auto row = std::find_if(std::begin(kinds), std::end(kinds), [&](const KindRow& candidate) { return kind == candidate.name; });
    if (row == std::end(kinds)) {
        std::string known;
        for (const KindRow& candidate : kinds) known += (known.empty() ? "" : ", ") + std::string(candidate.name);
        return corrupt("no operator is called \"" + kind.substr(0, 40) + "\"; known: " + known);
    }
    SKIFF_TRY(op.detail, row->read(json));
    if (!json.contains("in")) op.in.push_back(before);
    for (const Json& in : json["in"].items()) {
        SKIFF_TRY(const auto name, in.as_string("in"));
        op.in.push_back(name);
    }
    return op;
}

}  // namespace

std::vector<std::int64_t> Conv::kept_taps() const {
    if (!taps.empty()) return taps;
    std::vector<std::int64_t> all(static_cast<std::size_t>(window.n_taps()));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

const char* op_kind_name(const OpDetail& detail) {
    if (const auto* norm = std::get_if<Norm>(&detail)) return norm->kind == NormKind::rms ? "rms_norm" : "layer_norm";
    if (const auto* fold = std::get_if<Fold>(&detail)) return fold->way == Fold::Way::to_channels ? "unfold" : "fold";
    return row_of(detail).name;
}

Result<Resolved> resolve(const NetSpec& spec) {
    const auto fits = [](const ValueShape& shape) {
        return shape.height >= 1 && shape.width >= 1 && shape.channels >= 1 && shape.height <= most_side && shape.width <= most_side && shape.channels <= most_channels && shape.height * shape.width <= most_elements / shape.channels;
    };
    if (!fits(spec.input)) return corrupt("an input of " + text_of(spec.input) + " is too large or empty");
    if (spec.ops.empty() || spec.ops.size() > most_ops) return corrupt("a network has 1 to " + std::to_string(most_ops) + " operators, this one " + std::to_string(spec.ops.size()));
    Resolved resolved;
    resolved.shapes.push_back(spec.input);
    std::int64_t n_weights = 0;
    std::map<std::string, std::size_t> values{{input_name, 0}};
    for (const Op& op : spec.ops) {
        const std::string where = "operator " + op.name.substr(0, 100);
        if (!is_name(op.name)) return corrupt(where + ": a name has letters, digits, _ and dots, 100 at most");
        const std::size_t wanted = row_of(op.detail).n_inputs;
        if (wanted == 0 ? op.in.size() < 2 || op.in.size() > most_ops : op.in.size() != wanted) return corrupt(where + ": " + op_kind_name(op.detail) + " does not take " + std::to_string(op.in.size()) + " values");
        Shapes in;
        std::vector<std::size_t> inputs;
        for (const std::string& name : op.in) {
            const auto found = values.find(name);
            if (found == values.end()) return corrupt(where + ": no earlier operator is called \"" + name.substr(0, 100) + "\"");
            inputs.push_back(found->second);
            in.push_back(resolved.shapes[found->second]);
        }
        auto shape = std::visit([&](const auto& detail) { return shape_of(detail, in); }, op.detail);
        if (!shape.ok()) return shape.take_error().with_context(where);
        if (!fits(*shape)) return corrupt(where + ": a value of " + text_of(*shape) + " is too large");
        n_weights += count_op(op, in, *shape).weights;  // of at most 2^48 each
        if (n_weights > most_weights) return corrupt(where + ": more than " + std::to_string(most_weights) + " weights in all");
        resolved.inputs.push_back(std::move(inputs));
        resolved.shapes.push_back(*shape);
        if (!values.emplace(op.name, resolved.shapes.size() - 1).second) return corrupt(where + ": the name occurs twice");
    }
    return resolved;
}

Result<NetSpec> parse_net(const Json& config) {
    if (!config["model_type"].is_string() || config["model_type"].text() != net_model_type) return corrupt(std::string("\"model_type\" is not \"") + net_model_type + "\"");
    NetSpec spec;
    spec.name = config["name"].text();
    if (spec.name.size() > 200 || std::any_of(spec.name.begin(), spec.name.end(), [](unsigned char c) { return c < 32 || c == 127; })) return corrupt("\"name\" is longer than 200 bytes or holds control characters");
    const Json& input = config["input"];
    SKIFF_TRY(spec.input.height, int_of(input, "height", 1, 1, most_side));
    SKIFF_TRY(spec.input.width, int_of(input, "width", 1, 1, most_side));
    SKIFF_TRY(spec.input.channels, int_of(input, "channels", 1, 1, most_channels));
    for (const Json& json : config["ops"].items()) {
        auto op = read_op(json, spec.ops.empty() ? input_name : spec.ops.back().name);
        if (!op.ok()) return op.take_error().with_context("operator " + std::to_string(spec.ops.size()) + " " + json["name"].text().substr(0, 100));
        spec.ops.push_back(std::move(*op));
    }
    SKIFF_TRY(const auto resolved, resolve(spec));
    (void)resolved;
    return spec;
}

Json net_json(const NetSpec& spec) {
    Json ops = Json::array();
    for (const Op& op : spec.ops) {
        Json json = Json::object({{"name", op.name}, {"op", op_kind_name(op.detail)}});
        Json in = Json::array();
        for (const std::string& name : op.in) in.push_back(name);
        json.set("in", in);
        std::visit([&](const auto& detail) { write(detail, json); }, op.detail);
        ops.push_back(std::move(json));
    }
    return Json::object({{"model_type", net_model_type},
                         {"name", spec.name},
                         {"input", Json::object({{"height", spec.input.height}, {"width", spec.input.width}, {"channels", spec.input.channels}})},
                         {"ops", ops}});
}

std::vector<TensorShape> tensors_of(const NetSpec& spec, const Resolved& resolved) {
    std::vector<TensorShape> tensors;
    for (std::size_t i = 0; i < spec.ops.size(); ++i) {
        const Op& op = spec.ops[i];
        const std::int64_t inputs = resolved.shapes[resolved.inputs[i][0]].channels;
        if (const auto* conv = std::get_if<Conv>(&op.detail)) {
            tensors.push_back({op.name + ".weight", {conv->channels, static_cast<std::int64_t>(conv->kept_taps().size()) * (inputs / conv->groups)}});
            if (conv->bias == Conv::Bias::yes) tensors.push_back({op.name + ".bias", {conv->channels}});
        } else if (const auto* norm = std::get_if<Norm>(&op.detail)) {
            tensors.push_back({op.name + ".weight", {inputs}});
            if (norm->kind == NormKind::layer) tensors.push_back({op.name + ".bias", {inputs}});
        }
    }
    return tensors;
}

OpCount count_op(const Op& op, const std::vector<ValueShape>& in, const ValueShape& out) {
    OpCount count;
    if (const auto* conv = std::get_if<Conv>(&op.detail)) {
        count.weights = conv->channels * static_cast<std::int64_t>(conv->kept_taps().size()) * (in[0].channels / conv->groups);
        count.others = conv->bias == Conv::Bias::yes ? conv->channels : 0;
        count.multiply_adds = count.weights * out.n_positions();
    } else if (const auto* norm = std::get_if<Norm>(&op.detail)) {
        count.others = in[0].channels * (norm->kind == NormKind::layer ? 2 : 1);
    } else if (std::holds_alternative<Attention>(op.detail)) {
        count.multiply_adds = 2 * out.n_positions() * out.n_elements();
    }
    return count;
}

OpCount count_net(const NetSpec& spec, const Resolved& resolved) {
    OpCount sum;
    for (std::size_t i = 0; i < spec.ops.size(); ++i) {
        std::vector<ValueShape> in;
        for (const std::size_t value : resolved.inputs[i]) in.push_back(resolved.shapes[value]);
        const OpCount count = count_op(spec.ops[i], in, resolved.shapes[i + 1]);
        sum.weights += count.weights;
        sum.others += count.others;
        sum.multiply_adds += count.multiply_adds;
    }
    return sum;
}

std::vector<WindowTap> taps_of(const Window& window, const std::vector<std::int64_t>& kept) {
    std::vector<WindowTap> taps;
    for (const std::int64_t tap : kept)
        taps.push_back({static_cast<std::int32_t>(tap / window.kernel[1] * window.dilation[0] - window.before[0]), static_cast<std::int32_t>(tap % window.kernel[1] * window.dilation[1] - window.before[1])});
    return taps;
}

}  // namespace skiff::net

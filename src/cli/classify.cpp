// skiff classify: what a network says about images.
#include <algorithm>

#include "backend/cuda/device_net.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "base/progress.h"
#include "cli/format.h"
#include "cli/net_child.h"
#include "cli/verbs.h"
#include "net/comparison.h"
#include "net/images.h"

namespace skiff {
namespace {

struct ClassifyOptions {
    std::string model, data, against, device = "cpu", convolution = "own";
    std::int64_t threads = 0, show = 0;

    void fields(FieldVisitor& visitor) {
        visitor.positional("NET", model, "A folder that train-net, prune, factorize or quantize wrote; or a spec, whose random weights answer", FieldVisitor::Need::required);
        visitor.option("--data", data, "IMAGES,LABELS: two IDX files, as MNIST's; or digits:N[:SEED], drawn by the program");
        visitor.option("--against", against, "Another network: both answer, and how often they differ is said");
        visitor.option("--show", show, "Print this many of the images, with the answers");
        visitor.choice("--device", device, {"cpu", "cuda"}, "Where the networks run; cuda: an NVIDIA GPU (skiff doctor)");
        visitor.choice("--convolution", convolution, {"own", "cudnn"}, "On a GPU, what does the convolutions; cudnn: that library, each with its bias and activation, where it is found and has a plan for them");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use");
    }
};

void show_image(const net::LabelledImages& images, std::int64_t i, const std::string& answer, Terminal& terminal) {
    constexpr std::string_view shades = " .:-=+*#%@";
    const net::ValueShape& shape = images.shape;
    std::string text;
    for (std::int64_t row = 0; row < shape.height; ++row, text += '\n')
        for (std::int64_t column = 0; column < shape.width; ++column) {
            const float value = images.pixels[static_cast<std::size_t>(((i * shape.height + row) * shape.width + column) * shape.channels)];
            text += shades[std::min<std::size_t>(9, static_cast<std::size_t>(std::max(0.0f, value) * 10))];
        }
    terminal.print(text + "label " + std::to_string(images.labels[static_cast<std::size_t>(i)]) + ", answer " + answer + "\n");
}

struct Answers {
    net::Accuracy accuracy;
    double image_us = 0;
    std::string where;  // empty: the processor
    std::vector<std::string> remarks;
};

// Twice: the first run loads kernels, the second is timed.
Result<Answers> answer_on_device(const net::Net& net, const net::LabelledImages& images, const std::string& convolution) {
    constexpr std::int64_t at_once = 64;
    const auto plug_in = cuda::open_plug_in();
    if (!plug_in.ok()) return Error(plug_in.error()).with_context("--device cuda");
    cuda::DeviceNetOptions options;
    if (convolution == "cudnn") options = {cuda::DeviceNetOptions::Convolution::cudnn, find_cudnn()};
    auto device = cuda::DeviceNet::create(*plug_in->table, net, at_once, options);
    if (!device.ok()) return device.take_error().with_context("--device cuda");
    Answers result;
    result.where = (*device)->where();
    result.remarks = (*device)->remarks();
    std::vector<float> outputs(static_cast<std::size_t>(images.n() * (*device)->output().n_elements()));
    for (int pass = 0; pass < 2; ++pass) {
        const double begin = monotonic_seconds();
        SKIFF_CHECK((*device)->run(images.pixels.data(), images.n(), outputs.data()));
        result.image_us = (monotonic_seconds() - begin) * 1e6 / static_cast<double>(std::max<std::int64_t>(1, images.n()));
    }
    result.accuracy = net::accuracy_of(outputs, images);
    return result;
}

Result<Answers> answer(const std::string& path, const net::LabelledImages& images, const net::SessionOptions& session_options, const ClassifyOptions& options) {
    SKIFF_TRY(const auto net, net::open_net(path));
    SKIFF_CHECK(net::check_images(net.spec, images));
    if (options.device == "cuda") return answer_on_device(net, images, options.convolution);
    SKIFF_TRY(const auto session, net::Session::create(net, session_options));
    Answers result;
    result.accuracy = net::measure_accuracy(*session, images);
    result.image_us = net::image_us(*session, std::span(images.pixels).first(static_cast<std::size_t>(std::min<std::int64_t>(images.n(), 256) * images.shape.n_elements())), 9);
    return result;
}

Status run_classify(ClassifyOptions& options, Terminal& terminal) {
    if (!net::is_net(options.model)) return usage_error(options.model + " is no network of convolutions (its config.json does not say \"skiff-net\"); language models answer with skiff run");
    if (options.data.empty()) return usage_error("give the images with --data");
    if (options.device != "cuda" && options.convolution != "own") return usage_error("--convolution cudnn is a GPU's; it needs --device cuda");
    if (options.device == "cuda" && options.threads != 0) return usage_error("-t is of the processor; with --device cuda it would do nothing");
    SKIFF_TRY(const auto session, net_session_options(options.threads));
    SKIFF_TRY(const auto images, net::load_images(options.data));
    if (options.model.ends_with(".json")) terminal.remark("a spec has no weights: random ones answer; skiff train-net trains them");
    SKIFF_TRY(const auto found, answer(options.model, images, session, options));
    for (const std::string& remark : found.remarks) terminal.remark("note: " + remark);
    for (std::int64_t i = 0; i < std::min(options.show, images.n()); ++i) show_image(images, i, std::to_string(found.accuracy.answers[static_cast<std::size_t>(i)]), terminal);
    const net::Accuracy& accuracy = found.accuracy;
    terminal.print(number_text(100 * accuracy.share(), 2) + " % right ± " + number_text(100 * accuracy.standard_error(), 2) + " (" + std::to_string(accuracy.n_right) + " of " + std::to_string(accuracy.n) + "), cross-entropy " +
                   number_text(accuracy.loss, 4) + ", " + number_text(found.image_us, 1) + " µs an image" + (found.where.empty() ? "" : " (" + found.where + ")"));
    Json document = Json::object({{"right", accuracy.n_right}, {"images", accuracy.n}, {"accuracy", accuracy.share()}, {"standard_error", accuracy.standard_error()}, {"cross_entropy", accuracy.loss}, {"us_per_image", found.image_us}, {"device", found.where.empty() ? "cpu" : found.where}});
    Json counts = Json::array();
    for (const auto& row : accuracy.counts) {
        Json line = Json::array();
        for (const std::int64_t n : row) line.push_back(n);
        counts.push_back(line);
    }
    document.set("answers_by_label", counts);
    if (!options.against.empty()) {
        SKIFF_TRY(const auto other, answer(options.against, images, session, options));
        std::int64_t n_different = 0;
        for (std::size_t i = 0; i < found.accuracy.answers.size(); ++i) n_different += found.accuracy.answers[i] != other.accuracy.answers[i];
        terminal.print("against " + options.against + ": " + number_text(100 * other.accuracy.share(), 2) + " % right, cross-entropy " + number_text(other.accuracy.loss, 4) + ", " + number_text(other.image_us, 1) + " µs an image; " +
                       std::to_string(n_different) + " answers differ");
        document.set("against", Json::object({{"accuracy", other.accuracy.share()}, {"cross_entropy", other.accuracy.loss}, {"us_per_image", other.image_us}, {"different_answers", n_different}}));
    }
    terminal.result(document);
    return {};
}

}  // namespace

std::unique_ptr<Verb> classify_verb_row() {
    return make_verb<ClassifyOptions>("classify", "Ask a network of convolutions about images, and count what it gets right", {"skiff classify NET --data t10k-images-idx3-ubyte,t10k-labels-idx1-ubyte", "skiff classify NET --data digits:2000:9 --show 2"},
                                      run_classify);
}

}  // namespace skiff

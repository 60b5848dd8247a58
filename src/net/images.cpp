#include "net/images.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "net/generated_digits.h"
#include "net/idx_file.h"

namespace skiff::net {
namespace {

constexpr std::string_view digits_prefix = "digits:";

Result<LabelledImages> load_idx(const std::string& images_path, const std::string& labels_path) {
    SKIFF_TRY(const auto images, read_idx(images_path));
    SKIFF_TRY(const auto labels, read_idx(labels_path));
    if (images.shape.size() < 3) return corrupt(images_path + ": expected images, (n, height, width)");
    if (labels.shape.size() != 1) return corrupt(labels_path + ": expected one label for each image");
    if (labels.shape[0] != images.shape[0]) return corrupt(images_path + " has " + std::to_string(images.shape[0]) + " images, " + labels_path + " has " + std::to_string(labels.shape[0]) + " labels");
    LabelledImages loaded;
    loaded.shape = {images.shape[1], images.shape[2], images.shape.size() > 3 ? images.shape[3] : 1};
    for (const std::uint8_t value : images.values) loaded.pixels.push_back(static_cast<float>(value) / 255);
    loaded.labels.assign(labels.values.begin(), labels.values.end());
    return loaded;
}

Result<LabelledImages> draw_digits(std::string_view numbers) {
    constexpr std::int64_t most = 1'000'000;
    std::int64_t n = 0;
    std::uint64_t seed = 1;
    const char* end = numbers.data() + numbers.size();
    auto [at, error] = std::from_chars(numbers.data(), end, n);
    if (error == std::errc() && at != end && *at == ':') {
        const auto rest = std::from_chars(at + 1, end, seed);
        at = rest.ptr, error = rest.ec;
    }
    if (error != std::errc() || at != end || n < 1 || n > most) return usage_error("digits:" + std::string(numbers.substr(0, 40)) + ": expected digits:N or digits:N:SEED, N from 1 to " + std::to_string(most));
    return generate_digits(n, seed);
}

}  // namespace

Result<LabelledImages> load_images(const std::string& source) {
    if (source.starts_with(digits_prefix)) return draw_digits(std::string_view(source).substr(digits_prefix.size()));
    const std::size_t comma = source.find(',');
    if (comma == std::string::npos) return usage_error("images are given as IMAGES,LABELS (two IDX files) or digits:N, not " + source.substr(0, 200));
    return load_idx(source.substr(0, comma), source.substr(comma + 1));
}

Status check_images(const NetSpec& spec, const LabelledImages& images) {
    SKIFF_TRY(const auto resolved, resolve(spec));
    const auto text = [](const ValueShape& shape) { return std::to_string(shape.height) + "x" + std::to_string(shape.width) + "x" + std::to_string(shape.channels); };
    if (images.shape != spec.input) return usage_error("the images are " + text(images.shape) + ", the network takes " + text(spec.input));
    const ValueShape out = resolved.shapes.back();
    if (out.n_positions() != 1) return usage_error("the network gives an image of " + text(out) + " and no answer");
    constexpr std::int64_t most_answers = 1024;
    if (out.channels > most_answers) return usage_error("the network gives " + std::to_string(out.channels) + " answers; at most " + std::to_string(most_answers) + " can be told apart here");
    const std::int32_t largest = *std::max_element(images.labels.begin(), images.labels.end());
    if (largest >= out.channels) return usage_error("a label is " + std::to_string(largest) + ", the network knows " + std::to_string(out.channels) + " answers");
    return {};
}

double Accuracy::standard_error() const { return n > 1 ? std::sqrt(share() * (1 - share()) / static_cast<double>(n - 1)) : 0; }

Accuracy measure_accuracy(Session& session, const LabelledImages& images) {
    std::vector<float> logits(static_cast<std::size_t>(images.n() * session.output().n_elements()));
    session.run(images.pixels.data(), images.n(), logits.data());
    return accuracy_of(logits, images);
}

Accuracy accuracy_of(std::span<const float> logits, const LabelledImages& images) {
    const std::int64_t n_answers = static_cast<std::int64_t>(logits.size()) / std::max<std::int64_t>(1, images.n());
    Accuracy accuracy;
    accuracy.n = images.n();
    accuracy.counts.assign(static_cast<std::size_t>(n_answers), std::vector<std::int64_t>(static_cast<std::size_t>(n_answers), 0));
    for (std::int64_t i = 0; i < images.n(); ++i) {
        const float* row = logits.data() + i * n_answers;
        const float* best = std::max_element(row, row + n_answers);
        const auto label = static_cast<std::size_t>(images.labels[static_cast<std::size_t>(i)]);
        double sum = 0;
        for (std::int64_t c = 0; c < n_answers; ++c) sum += std::exp(static_cast<double>(row[c]) - static_cast<double>(*best));
        accuracy.loss += std::log(sum) + static_cast<double>(*best) - static_cast<double>(row[label]);
        accuracy.n_right += static_cast<std::size_t>(best - row) == label;
        ++accuracy.counts[label][static_cast<std::size_t>(best - row)];
        accuracy.answers.push_back(best - row);
    }
    accuracy.loss /= static_cast<double>(std::max<std::int64_t>(1, accuracy.n));
    return accuracy;
}

}  // namespace skiff::net

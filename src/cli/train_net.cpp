// skiff train-net: a network of convolutions learns from images, or from images and a teacher.
#include <algorithm>

#include "base/mapped_file.h"
#include "base/output_place.h"
#include "cli/format.h"
#include "cli/net_child.h"
#include "cli/train_options.h"
#include "cli/verbs.h"
#include "train/net_training.h"

namespace skiff {
namespace {

struct TrainNetOptions {
    std::string model, data, validation, output, teacher;
    train::NetTrainOptions train;
    std::int64_t threads = 0;
    bool force = false, keep_zeros = false;

    void fields(FieldVisitor& visitor) {
        visitor.positional("NET", model, "A spec (.json) for fresh weights, or a folder to go on from", FieldVisitor::Need::required);
        visitor.option("--data", data, "IMAGES,LABELS: two IDX files, as MNIST's; or digits:N[:SEED], drawn by the program");
        visitor.option("--valid", validation, "The same, of images that are not trained on: how much of them is right in the end");
        visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
        visitor.option("--teacher", teacher, "A network to learn from as well as from the labels");
        visitor.option("--kd-temp", train.temperature, "Of teacher and student, whose divergence counts by its square");
        visitor.option("--kd-alpha", train.alpha, "Weight of the teacher; the labels have the rest");
        visitor.option("--epochs", train.n_epochs, "Times that every image is seen");
        visitor.option("--batch", train.batch, "Images per step");
        visitor.option("--lr", train.learning_rate, "Learning rate at its peak; it falls along half a cosine to zero");
        visitor.option("--weight-decay", train.weight_decay, "Of AdamW");
        visitor.option("--seed", train.seed, "Of fresh weights and the order of the images");
        visitor.flag("--keep-zeros", keep_zeros, "Weights that are zero stay zero");
        visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use");
    }
};

Status check(const TrainNetOptions& options) {
    const train::NetTrainOptions& train = options.train;
    if (!net::is_net(options.model)) return usage_error(options.model + " is no network of convolutions; language models are trained with skiff train");
    if (options.data.empty()) return usage_error("give the images with --data");
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    if (!options.force && (is_directory(options.output) || file_exists(options.output))) return usage_error(options.output + ": already exists; give another -o, remove it, or add --force");
    SKIFF_CHECK(check_output_apart(options.output, options.model));
    if (!options.teacher.empty()) SKIFF_CHECK(check_output_apart(options.output, options.teacher));
    if (train.n_epochs < 1 || train.n_epochs > 100000 || train.batch < 1 || train.batch > 65536) return usage_error("--epochs and --batch: expected 1 or more, at most 100000 and 65536");
    if (!(train.learning_rate > 0 && train.learning_rate < 10) || !(train.weight_decay >= 0 && train.weight_decay < 10)) return usage_error("--lr: expected more than 0; --weight-decay: 0 or more; both less than 10");
    if (!(train.temperature > 0 && train.temperature <= 100) || !(train.alpha >= 0 && train.alpha <= 1)) return usage_error("--kd-temp: expected more than 0, at most 100; --kd-alpha: 0 to 1");
    const train::NetTrainOptions usual;
    if (options.teacher.empty() && (train.temperature != usual.temperature || train.alpha != usual.alpha)) return usage_error("--kd-temp and --kd-alpha say how a --teacher is listened to; there is none");
    if (!options.teacher.empty() && !net::is_net(options.teacher)) return usage_error("--teacher " + options.teacher + " is no network of convolutions");
    return {};
}

Status run_train_net(TrainNetOptions& options, Terminal& terminal) {
    if (!train::training_available()) return become_training_program();
    SKIFF_CHECK(check(options));
    SKIFF_TRY(const auto session, net_session_options(options.threads));
    options.train.n_threads = session.n_threads;
    if (options.keep_zeros) options.train.zeros = train::NetTrainOptions::Zeros::keep;
    SKIFF_TRY(const auto net, net::open_net(options.model, options.train.seed));
    net::Net teacher;
    if (!options.teacher.empty()) {
        SKIFF_TRY(teacher, net::open_net(options.teacher));
        options.train.teacher = &teacher;
    }
    if (const auto quantized = std::find_if(net.weights.begin(), net.weights.end(), [](const auto& weight) { return weight.second.codes() != nullptr; }); quantized != net.weights.end())
        terminal.remark("note: the codes of " + quantized->first + " and the others (" + quantized->second.encoding_name() + ") become floats; quantize the result again");
    SKIFF_TRY(const auto images, net::load_images(options.data));
    net::LabelledImages others;
    if (!options.validation.empty()) {
        SKIFF_TRY(others, net::load_images(options.validation));
        SKIFF_CHECK(net::check_images(net.spec, others));
    }
    double last_loss = 0, seconds = 0;
    SKIFF_TRY(auto trained, train::train_net(net, images, options.train, [&](const train::NetEpoch& epoch) {
        terminal.remark("epoch " + std::to_string(epoch.epoch) + "/" + std::to_string(epoch.n_epochs) + "  loss " + number_text(epoch.loss, 4) + "  " + duration_text(epoch.seconds));
        last_loss = epoch.loss, seconds = epoch.seconds;
    }));
    Json document = Json::object({{"output", options.output}, {"loss", last_loss}, {"seconds", seconds}});
    Json step = Json::object({{"kind", "train"}, {"epochs", options.train.n_epochs}, {"batch", options.train.batch}, {"learning_rate", options.train.learning_rate}, {"seed", options.train.seed}, {"images", images.n()}});
    if (options.train.teacher != nullptr) step.set("teacher", base_name(options.teacher)), step.set("temperature", options.train.temperature), step.set("alpha", options.train.alpha);
    if (others.n() > 0) {
        SKIFF_TRY(const auto running, net::Session::create(trained, session));
        const net::Accuracy accuracy = net::measure_accuracy(*running, others);
        terminal.print(number_text(100 * accuracy.share(), 2) + " % right ± " + number_text(100 * accuracy.standard_error(), 2) + " of " + std::to_string(accuracy.n) + " images that were not trained on, cross-entropy " + number_text(accuracy.loss, 4));
        document.set("accuracy", accuracy.share());
        document.set("cross_entropy", accuracy.loss);
    }
    trained.steps.push_back(step);
    SKIFF_CHECK(net::write_net(trained, options.output, options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse));
    terminal.print("wrote " + options.output + " in " + duration_text(seconds) + "; try: skiff classify " + options.output + " --data digits:1000:9");
    terminal.result(document);
    return {};
}

}  // namespace

std::unique_ptr<Verb> train_net_verb_row() {
    return make_verb<TrainNetOptions>("train-net", "Train a network of convolutions on images, from labels or from a teacher too",
                                      {"skiff train-net examples/digits/digits.json --data digits:8000 --valid digits:2000:9 -o digits", "skiff train-net NET --data IMAGES,LABELS -o OUT --teacher TEACHER --epochs 3"}, run_train_net);
}

}  // namespace skiff

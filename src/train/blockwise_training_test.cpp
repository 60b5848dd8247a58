// Block by block: the losses and weights are those of a student that is trained as a whole on the same lessons, whatever the rounds, kills and places of streams;
// and what is in memory does not grow with the number of blocks.
#include "train/train_testing.h"

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>

#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include "base/json.h"
#include "corpus/corpus_testing.h"
#include "corpus/token_file_header.h"
#include "model/shared_layers.h"
#include "train/distillation_loss.h"
#include "train/layer_drop.h"
#include "train/model_parts.h"
#include "train/training_setup.h"

namespace skiff::train {
namespace {

constexpr std::int64_t window = 12, n_vocab = 97;

std::string write_short_text(const TestFolder& folder) {
    TokenFileHeader header(n_vocab, 7);
    std::vector<std::uint16_t> ids(700);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * i % 89 + i % 7);
    header.n_tokens = ids.size();
    header.n_documents = 1;
    return folder.write("some.tokens", std::string(reinterpret_cast<const char*>(&header), sizeof header) + std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2));
}

struct Lesson {
    TestFolder folder;
    TrainOptions options;
    Checkpoint parent;

    Lesson(const std::string& teacher, Checkpoint student, const std::function<void(TrainOptions&)>& change = nullptr) : parent(std::move(student)) {
        options.data.texts = {write_short_text(folder)};
        options.distill.teacher = teacher;
        options.distill.block_wise = DistillOptions::BlockWise::on;
        options.output = folder.path("out");
        options.n_steps = 6;
        options.batch = 5;
        options.micro_batch = 2;
        options.context = window;
        options.schedule = {Schedule::Kind::cosine, 1e-2, 0.1, 6, 2, 0};
        options.numbers = TrainOptions::Numbers::f32;
        options.device = TrainOptions::Device::cpu;
        options.dtype = "F32";
        if (change) change(options);
    }
    Result<TrainReport> run(const TrainObserver& observer = {}) const { return run_training(parent, options, observer); }
    TrainReport trained() const {
        auto report = run();
        EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().to_string());
        return report.ok() ? *report : TrainReport();
    }
    std::string refusal() const {
        const auto report = run();
        EXPECT_FALSE(report.ok());
        return report.ok() ? "" : report.error().to_string();
    }
};

Checkpoint tiny_checkpoint(const std::string& name) {
    auto checkpoint = Checkpoint::open(tiny_model_path(name));
    EXPECT_TRUE(checkpoint.ok()) << name;
    return std::move(*checkpoint);
}

// ---- the student as a whole, on the teacher as a whole: blocks meet nowhere but in the sum of their losses and, by clipping, in the norm of their gradients.
struct Whole {
    std::map<std::string, at::Tensor> weights;  // as written
    std::vector<double> losses, norms;
    double validation = 0;
};
enum class Clip { all_together, each_block };

Whole train_whole(const Lesson& lesson, Clip clip) {
    const TrainOptions& options = lesson.options;
    const ModelSpec& spec = lesson.parent.spec;
    const TrainableOptions trainable;
    std::optional<TensorPlan> plan;
    ThreadPool pool(1);
    if (options.quant.schemes) plan = std::move(*plan_tensors(lesson.parent, quantize_step(options.quant), pool, nullptr, Zeros::keep));
    const StudentMaker maker(lesson.parent, options, {trainable, plan ? &*plan : nullptr, nullptr});
    auto made = maker.make(spec);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().to_string());
    Student student = std::move(*made);
    ParameterSet& parameters = student.model->parameters();
    const auto inside = parameters.keys_of_blocks(spec);
    for (Parameter& parameter : parameters.all())
        if (inside.count(parameter.key) == 0) parameter.value.set_requires_grad(false);
    const Checkpoint teacher_checkpoint = std::move(*Checkpoint::open(options.distill.teacher));
    const auto teacher = make_trainable(teacher_checkpoint.spec, load_parameters(teacher_checkpoint.spec, *teacher_checkpoint.weights));
    const auto streams = matched_streams(spec.n_layers, teacher_checkpoint.spec.n_layers);

    // One optimizer of all, or of each block.
    std::vector<std::vector<ParameterSet::Trained>> groups(1);
    const auto trained = parameters.trained(spec);
    if (clip == Clip::all_together) {
        groups[0] = trained;
    } else {
        groups.resize(static_cast<std::size_t>(spec.n_layers));
        for (std::size_t block = 0; block < groups.size(); ++block)
            for (const auto& parameter : trained)
                if (keys_read_by(spec.blocks[block + 1]).count(parameter.name) != 0) groups[block].push_back(parameter);
    }
    std::vector<Optimizer> optimizers;
    for (const auto& group : groups) {
        OptimizerSettings settings = optimizer_settings(options, trainable);
        if (clip == Clip::each_block) settings.clip /= std::sqrt(static_cast<double>(spec.n_layers));
        optimizers.emplace_back(group, settings);
    }

    Batches::Settings settings{options.data.texts, "", window, n_vocab, options.seed};
    Batches batches = std::move(*Batches::open(settings, nullptr, {}, {}, 1));
    Whole whole;
    for (std::int64_t step = 0; step < options.n_steps; ++step) {
        if (student.masks && student.masks->before_step(step)) parameters.refresh();
        double loss = 0;
        for (std::int64_t done = 0, micro = 0; done < options.batch; done += options.micro_batch, ++micro) {
            const std::int64_t n = std::min(options.micro_batch, options.batch - done);
            const at::Tensor inputs = batches.shuffled(static_cast<std::uint64_t>(step * options.batch + done), n).narrow(1, 0, window);
            Pass taught;
            {
                const at::NoGradGuard no_grad;
                taught = teacher->observe(inputs, Watch{true, -1});
            }
            const DroppedBlocks dropped = dropped_blocks(options, spec.n_layers, step, micro);
            const double share = 1.0 / static_cast<double>(options.batch * window) * static_cast<double>(inputs.numel()) / static_cast<double>(streams.size());
            for (std::size_t i = 0; i < streams.size(); ++i) {
                if (!dropped.empty() && dropped[i]) continue;
                const at::Tensor in = taught.streams[static_cast<std::size_t>(i == 0 ? 0 : streams[i - 1])], wanted = taught.streams[static_cast<std::size_t>(streams[i])];
                const at::Tensor one = relative_square(student.model->decoder_block(static_cast<std::int64_t>(i), inputs, in), wanted) * share;
                loss += one.item<double>();
                torch::autograd::backward({one});
            }
        }
        parameters.collect_gradients();
        double squares = 0;
        for (Optimizer& optimizer : optimizers) {
            const double norm = optimizer.gradient_norm();
            squares += norm * norm;
            optimizer.step(learning_rate(options.schedule, step), step + 1, norm);
        }
        parameters.refresh();
        whole.losses.push_back(loss);
        whole.norms.push_back(std::sqrt(squares));
    }
    const std::int64_t n_windows = 10;  // of the same text
    double sum = 0;
    for (std::int64_t done = 0; done < n_windows; done += options.micro_batch) {
        const at::Tensor tokens = batches.in_order(static_cast<std::uint64_t>(done), options.micro_batch);
        sum += student.model->loss_sum(tokens.narrow(1, 0, window), tokens.narrow(1, 1, window));
    }
    whole.validation = sum / static_cast<double>(n_windows * window);
    const auto source = parameters.source(options.quant.schemes ? std::optional<DType>() : DType::f32);
    for (const std::string& key : source->keys()) whole.weights[key] = tensor_of(*source->load(key));
    return whole;
}

// The digits of train.csv.
std::vector<std::array<double, 2>> course_of(const TestFolder& folder) {
    const std::string text = folder.read("out/train.csv");
    std::vector<std::array<double, 2>> rows;
    for (std::size_t at = text.find('\n') + 1; at < text.size(); at = text.find('\n', at) + 1) {
        double loss = 0, norm = 0;
        EXPECT_EQ(std::sscanf(text.c_str() + at, "%*d,%*d,%lf,%*f,%lf", &loss, &norm), 2);
        rows.push_back({loss, norm});
    }
    return rows;
}

void expect_same(const Lesson& lesson, const Whole& whole) {
    const auto child = Checkpoint::open(lesson.options.output);
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    ASSERT_EQ(child->spec.tensors.size(), whole.weights.size());
    for (const auto& [key, expected] : whole.weights) {
        auto weight = child->weights->load(key);
        ASSERT_TRUE(weight.ok()) << key;
        at::Tensor found = tensor_of(*weight);
        if (found.sizes() != expected.sizes()) found = found.t();
        EXPECT_TRUE(found.equal(expected)) << key << " differs by " << relative_difference(found, expected);
    }
    const auto course = course_of(lesson.folder);
    ASSERT_EQ(course.size(), whole.losses.size());
    for (std::size_t step = 0; step < course.size(); ++step) {
        EXPECT_NEAR(course[step][0], whole.losses[step], 1e-8 * whole.losses[step]) << "loss of step " << step + 1;
        EXPECT_NEAR(course[step][1], whole.norms[step], 1e-5 * whole.norms[step]) << "norm of step " << step + 1;
    }
}

struct Case {
    const char* name;
    const char* student;
    const char* teacher;
    std::function<void(TrainOptions&)> change;
};
const Case cases[] = {
    {"adamw", "qwen3", "gemma2", nullptr},
    {"one_step_a_round_in_a_file", "qwen3", "gemma2", [](TrainOptions& options) { options.distill.stream_mb = 0; }},
    {"muon_on_columns", "gpt2", "lfm2_plain", [](TrainOptions& options) { options.optimizer = TrainOptions::Optimizer::muon; }},
    {"tied_and_pruned", "llama_pruned", "llama_tied_bf16", [](TrainOptions& options) { options.distill.stream_mb = 0; }},
    {"layer_drop", "llama_tied_bf16", "llama_pruned", [](TrainOptions& options) { options.layer_drop = 0.4; }},
    {"sparsity", "llama_tied_bf16", "llama_pruned",
     [](TrainOptions& options) {
         options.sparsify.target = 0.5;
         options.sparsify.until = 4;
         options.sparsify.every = 1;
         options.distill.stream_mb = 0;
     }},
    {"quantized", "gpt2", "lfm2_plain",
     [](TrainOptions& options) {
         options.quant.schemes = default_wish(*parse_scheme("w4g32"));
         options.dtype = "auto";
         options.distill.stream_mb = 0;
     }},
    {"clusters", "qwen3", "gemma2",
     [](TrainOptions& options) {
         options.quant.schemes = default_wish(*parse_scheme("k16"));
         options.dtype = "auto";
     }},
};

class BlockwiseCase : public ::testing::TestWithParam<Case> {};

TEST_P(BlockwiseCase, IsWhatTheWholeStudentLearns) {
    Lesson lesson(tiny_model_path(GetParam().teacher), tiny_checkpoint(GetParam().student), [&](TrainOptions& options) {
        options.clip = 0;  // of all gradients together, the only thing in which blocks meet
        if (GetParam().change) GetParam().change(options);
    });
    lesson.options.data.validation = lesson.options.data.texts[0];
    lesson.options.evaluate_windows = 10;
    const Whole whole = train_whole(lesson, Clip::all_together);
    const TrainReport report = lesson.trained();
    EXPECT_EQ(report.streams.in_file, lesson.options.distill.stream_mb == 0);
    EXPECT_EQ(report.streams.steps_per_round, lesson.options.distill.stream_mb == 0 ? 1 : 6);
    EXPECT_NEAR(report.last_loss, whole.losses.back(), 1e-8 * whole.losses.back());
    EXPECT_NEAR(report.validation_loss, whole.validation, 1e-8 * whole.validation);
    EXPECT_LT(whole.losses.back(), whole.losses.front()) << "nothing was learnt";
    expect_same(lesson, whole);
    std::size_t n_left = 0;
    for (const auto& entry : std::filesystem::directory_iterator(lesson.options.output)) n_left += entry.path().string().find("state") != std::string::npos || entry.path().extension() == ".tokens";
    EXPECT_EQ(n_left, 0u);
}
INSTANTIATE_TEST_SUITE_P(All, BlockwiseCase, ::testing::ValuesIn(cases), [](const auto& one) { return std::string(one.param.name); });

// Clipping is by each block's own norm, with the share of the threshold that keeps all together below it: the same bits where neither cuts.
TEST(Blockwise, ClipsEachBlock) {
    for (const double clip : {1e-3, 1e3}) {
        Lesson lesson(tiny_model_path("gemma2"), tiny_checkpoint("qwen3"), [&](TrainOptions& options) { options.clip = clip; });
        const Whole each = train_whole(lesson, Clip::each_block), together = train_whole(lesson, Clip::all_together);
        lesson.trained();
        expect_same(lesson, each);
        bool same = true;
        for (const auto& [key, weight] : each.weights) same = same && weight.equal(together.weights.at(key));
        EXPECT_EQ(same, clip == 1e3);
    }
}

// Two layers with one set of weights are trained together, in one place of memory.
TEST(Blockwise, TrainsLayersThatShareTensorsTogether) {
    TestFolder place;
    std::filesystem::copy(tiny_model_path("lfm2_plain"), place.path("shared"));
    auto config = read_json_file(place.path("shared/config.json"));
    ASSERT_TRUE(config.ok());
    config->set(shared_layers_key, Json::array({0, 0, 2, 3}));
    std::ofstream(place.path("shared/config.json")) << config->dump(1);
    auto student = Checkpoint::open(place.path("shared"));
    ASSERT_TRUE(student.ok()) << student.error().to_string();
    const auto groups = blocks_by_shared_tensors(student->spec);
    EXPECT_EQ(groups, (std::vector<std::vector<std::int64_t>>{{0, 1}, {2}, {3}}));
    Lesson lesson(tiny_model_path("lfm2_plain"), std::move(*student), [](TrainOptions& options) {
        options.clip = 0;
        options.distill.stream_mb = 0;
    });
    const Whole whole = train_whole(lesson, Clip::all_together);
    lesson.trained();
    expect_same(lesson, whole);
}

TEST(Blockwise, GroupsBlocksByTheirTensors) {
    ModelSpec spec = tiny_checkpoint("lfm2_plain").spec;
    EXPECT_EQ(blocks_by_shared_tensors(spec), (std::vector<std::vector<std::int64_t>>{{0}, {1}, {2}, {3}}));
    // The last block reads a tensor of the first two each.
    const Op norm = spec.blocks[4].ops.front();
    for (std::size_t block : {1, 2}) {
        Op copy = norm;
        std::get<NormOp>(copy.detail).weight.key = *keys_read_by(spec.blocks[block]).begin();
        spec.blocks[4].ops.push_back(copy);
    }
    EXPECT_EQ(blocks_by_shared_tensors(spec), (std::vector<std::vector<std::int64_t>>{{2}, {0, 1, 3}}));
    std::set<std::string> all;
    for (const auto& [key, declared] : spec.tensors) all.insert(key);
    for (const std::string& key : keys_outside_blocks(spec)) EXPECT_EQ(all.erase(key), 1u);
    for (const auto& [key, declared] : decoder_part(spec, {0, 1, 2, 3}).tensors) EXPECT_EQ(all.erase(key), 1u) << key;
    EXPECT_TRUE(all.empty());
}

// Ended at any step of any block, without a word: the next run goes on to the same bytes, with rounds of another length too.
TEST(Blockwise, GoesOnWhereItWasKilled) {
    const auto options = [](TrainOptions& o) {
        o.save_every = 2;
        o.optimizer = TrainOptions::Optimizer::muon;
        o.sparsify.target = 0.4;
        o.sparsify.until = 3;
        o.sparsify.every = 1;
        o.data.validation = o.data.texts[0];
        o.evaluate_every = 3;
        o.evaluate_windows = 4;
    };
    const Lesson whole(tiny_model_path("gemma2"), tiny_checkpoint("qwen3"), options);
    whole.trained();
    const auto without_seconds = [](const std::string& text) {
        std::string kept;
        for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
            const std::string line = text.substr(at, text.find('\n', at) - at);
            kept += line.substr(0, line.rfind(',')) + "\n";
        }
        return kept;
    };
    for (int killed_at = 1; killed_at < 16; killed_at += 2) {  // of two blocks' six steps each, and the lines of all together
        SCOPED_TRACE(killed_at);
        Lesson lesson(tiny_model_path("gemma2"), tiny_checkpoint("qwen3"), options);
        lesson.options.distill.stream_mb = killed_at % 3 == 0 ? 0 : 512;
        int n = 0;
        TrainObserver observer;
        observer.on_step = [&](const StepReport&) {
            if (++n == killed_at) throw std::runtime_error("killed");
        };
        ASSERT_FALSE(lesson.run(observer).ok());
        ASSERT_TRUE(std::filesystem::exists(lesson.folder.path("out.partial")));
        lesson.options.distill.stream_mb = killed_at % 2 == 0 ? 0 : 512;
        lesson.trained();
        for (const char* file : {"out/model.safetensors", "out/validation.csv", "out/config.json", "out/skiff.json"}) EXPECT_EQ(lesson.folder.read(file), whole.folder.read(file)) << file;
        EXPECT_EQ(without_seconds(lesson.folder.read("out/train.csv")), without_seconds(whole.folder.read("out/train.csv")));
    }
}

TEST(Blockwise, RefusesAnotherRunsStates) {
    Lesson lesson(tiny_model_path("gemma2"), tiny_checkpoint("qwen3"), [](TrainOptions& options) { options.save_every = 1; });
    TrainObserver observer;
    observer.on_step = [&](const StepReport& step) {
        if (step.step == 3) throw std::runtime_error("killed");
    };
    ASSERT_FALSE(lesson.run(observer).ok());
    lesson.options.n_steps = 7;
    EXPECT_NE(lesson.refusal().find("unfinished run with other options"), std::string::npos);
    lesson.options.n_steps = 6;
    lesson.options.distill.block_wise = DistillOptions::BlockWise::off;
    EXPECT_NE(lesson.refusal().find("unfinished run with other options"), std::string::npos);
    lesson.options.distill.block_wise = DistillOptions::BlockWise::on;
    std::filesystem::resize_file(lesson.folder.path("out.partial/blocks.csv"), 60);
    EXPECT_NE(lesson.refusal().find("give --restart"), std::string::npos);
    lesson.options.unfinished = TrainOptions::Unfinished::restart;
    EXPECT_EQ(lesson.trained().resumed_at, 0);
}

TEST(Blockwise, RefusesWhatNeedsTheWholeStudent) {
    const std::pair<const char*, std::function<void(TrainOptions&)>> refused[] = {
        {"--sample-every", [](TrainOptions& options) { options.sample_every = 1; }},
        {"--recompute", [](TrainOptions& options) { options.recompute = TrainOptions::Recompute::blocks; }},
        {"--prune-scope global",
         [](TrainOptions& options) {
             options.sparsify.target = 0.5;
             options.sparsify.until = 2;
             options.sparsify.scope = SparsifyOptions::Scope::global;
         }},
        {"--lora", [](TrainOptions& options) { options.lora_rank = 2; }},
        {"--hidden-weight", [](TrainOptions& options) { options.distill.hidden_weight = 1; }},
        {"--elastic", [](TrainOptions& options) { options.elastic.rule = ElasticOptions::Rule::fair; options.elastic.layers = {1, 2}; }},
        {"--on-policy", [](TrainOptions& options) { options.distill.on_policy = 1; }},
        {"--block-wise needs a teacher", [](TrainOptions& options) { options.distill.teacher.clear(); }},
        {"--stream-mb bounds", [](TrainOptions& options) { options.distill.block_wise = DistillOptions::BlockWise::off; options.distill.stream_mb = 3; }},
        {"one width", [](TrainOptions& options) { options.distill.teacher = tiny_model_path("llama"); }},
    };
    for (const auto& [words, change] : refused) {
        Lesson lesson(tiny_model_path("gemma2"), tiny_checkpoint("qwen3"), change);
        EXPECT_NE(lesson.refusal().find(words), std::string::npos) << words << ": " << lesson.refusal();
        EXPECT_FALSE(std::filesystem::exists(lesson.folder.path("out.partial"))) << words;
    }
}

TEST(StreamStore, KeepsRowsInMemoryAndInAFileWithoutAName) {
    TestFolder folder;
    at::manual_seed(3);
    const at::Tensor rows = at::randn({40, 6});
    for (const auto place : {StreamStore::Place::memory, StreamStore::Place::file}) {
        auto store = StreamStore::create(40, 6, place, folder.path(""));
        ASSERT_TRUE(store.ok()) << store.error().to_string();
        for (const std::int64_t first : {30, 0, 10, 20}) ASSERT_TRUE(store->write(first, rows.narrow(0, first, 10)).ok());
        const at::Tensor again = rows.narrow(0, 3, 9) * 2;
        ASSERT_TRUE(store->write(3, again).ok());
        EXPECT_TRUE(store->read(0, 3)->equal(rows.narrow(0, 0, 3)));
        EXPECT_TRUE(store->read(3, 9)->equal(again));
        EXPECT_TRUE(store->read(12, 28)->equal(rows.narrow(0, 12, 28)));
        EXPECT_FALSE(store->write(35, rows.narrow(0, 0, 10)).ok()) << "beyond the end";
        EXPECT_FALSE(store->write(0, at::randn({2, 5})).ok());
        EXPECT_TRUE(std::filesystem::is_empty(folder.path("")));
    }
    const auto too_large = StreamStore::create(std::int64_t{1} << 45, 1024, StreamStore::Place::file, folder.path(""));
    ASSERT_FALSE(too_large.ok());
    EXPECT_EQ(too_large.error().code, ErrorCode::resource);
    EXPECT_NE(too_large.error().to_string().find("--stream-mb"), std::string::npos);
}

// ---- memory

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
#define SKIFF_ALLOCATE_CONST
#define SKIFF_COPY_OVERRIDE override
#else
#define SKIFF_ALLOCATE_CONST const
#define SKIFF_COPY_OVERRIDE
#endif

// What LibTorch's tensors hold, and the most that they ever held.
class CountingAllocator final : public c10::Allocator {
public:
    c10::DataPtr allocate(std::size_t n) SKIFF_ALLOCATE_CONST override {
        auto* block = new Block{std::aligned_alloc(64, (n + 63) / 64 * 64 + 64), n};
        now += static_cast<std::int64_t>(n);
        for (std::int64_t seen = peak; seen < now && !peak.compare_exchange_weak(seen, now);) {}
        return {block->memory, block, &release, c10::Device(c10::DeviceType::CPU)};
    }
    void copy_data(void* to, const void* from, std::size_t n) const SKIFF_COPY_OVERRIDE { std::memcpy(to, from, n); }

    static inline std::atomic<std::int64_t> now{0}, peak{0};

private:
    struct Block {
        void* memory;
        std::size_t size;
    };
    static void release(void* context) {
        auto* block = static_cast<Block*>(context);
        now -= static_cast<std::int64_t>(block->size);
        std::free(block->memory);
        delete block;
    }
};

// `n_left`: bytes of tensors that are there afterwards.
std::int64_t peak_bytes(std::int64_t n_layers, DistillOptions::BlockWise block_wise, std::int64_t& n_left) {
    TestFolder place;
    const std::string config = place.write("config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": )" +
                                                              std::to_string(n_layers) + R"(, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true})");
    auto student = Checkpoint::open("random:" + config);
    EXPECT_TRUE(student.ok()) << (student.ok() ? "" : student.error().to_string());
    Lesson lesson("random:" + config, std::move(*student), [&](TrainOptions& options) {
        options.distill.block_wise = block_wise;
        if (block_wise == DistillOptions::BlockWise::on) options.distill.stream_mb = 1;
        options.data.validation = options.data.texts[0];
        options.evaluate_windows = 6;
    });
    const std::int64_t before = CountingAllocator::now;
    CountingAllocator::peak = before;
    lesson.trained();
    n_left = CountingAllocator::now - before;
    return CountingAllocator::peak - before;
}

TEST(Blockwise, HoldsAsMuchForManyBlocksAsForFew) {
    static CountingAllocator counting;
    c10::Allocator* const usual = c10::GetCPUAllocator();
    c10::SetCPUAllocator(&counting);
    using BlockWise = DistillOptions::BlockWise;
    std::int64_t tables = 0, left[4] = {};
    (void)peak_bytes(2, BlockWise::on, tables);  // of rotations: they are kept for whoever comes next
    const std::int64_t few = peak_bytes(2, BlockWise::on, left[0]), many = peak_bytes(9, BlockWise::on, left[1]);
    const std::int64_t few_at_once = peak_bytes(2, BlockWise::off, left[2]), many_at_once = peak_bytes(9, BlockWise::off, left[3]);
    c10::SetCPUAllocator(usual);
    for (std::int64_t bytes : left) EXPECT_EQ(bytes, 0) << "tensors are left";
    // q and o 64 * 64, k and v 64 * 32, three of 64 * 256, two norms: weights, gradients and two moments of 4 bytes each.
    constexpr std::int64_t block = (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256 + 2 * 64) * 16;
    EXPECT_GT(few, block);
    EXPECT_EQ(few, many);
    EXPECT_LT(many, 2 * block) << "beside them: a micro-batch's activations, and the streams";
    EXPECT_GT(many_at_once - few_at_once, 7 * block) << "what the whole student takes";
}

}  // namespace
}  // namespace skiff::train

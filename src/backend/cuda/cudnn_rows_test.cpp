// The graphs that cuDNN gets, by a library of its interface that computes with plain loops and looks at every attribute: attention beside sums written out, refusals, and what comes in place of it.
#include "backend/cuda/cudnn/rows.h"

#include <filesystem>
#include <set>

#include "backend/cuda/cudnn/graph.h"
#include "backend/cuda/device_session_testing.h"
#include "backend/cuda/driver.h"
#include "tensor/dtype.h"

namespace skiff::cuda {
namespace {

struct Env {
    explicit Env(const char* value) { ::setenv("SKIFF_FAKE_CUDNN", value, 1); }
    ~Env() { ::unsetenv("SKIFF_FAKE_CUDNN"); }
};

struct Case {
    std::int64_t n_heads, n_kv_heads, head_dim, n_tokens, n_positions, window;
    float softcap;
};
class CudnnAttention : public ::testing::TestWithParam<Case> {};

// Memory on a boundary of 256 bytes, as a device's.
template <class T>
T* aligned(std::size_t n, std::vector<std::byte>& owner) {
    owner.assign(n * sizeof(T) + 256, std::byte{0xff});
    return reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(owner.data()) + 255) / 256 * 256);
}

TEST_P(CudnnAttention, IsWhatItSays) {
    const Case c = GetParam();
    ASSERT_EQ(cudnn::open(SKIFF_FAKE_CUDNN), 0);
    Rng rng(3);
    const std::int64_t n_rows = segment_rows(c.n_tokens), max_pages = (c.n_positions + 130) / page_positions, n_pool_pages = 2 * max_pages, width = c.n_heads * c.head_dim, n_pages = segment_pages(c.n_positions, max_pages);
    const std::size_t pool_numbers = static_cast<std::size_t>(n_pool_pages) * state_page_bytes(StateForm::bf16, c.n_kv_heads, c.head_dim) / 2;
    std::vector<std::byte> memory[7];
    auto* q = aligned<std::uint16_t>(static_cast<std::size_t>(n_rows * width), memory[0]);
    auto* y = aligned<std::uint16_t>(static_cast<std::size_t>(n_rows * width), memory[1]);
    std::uint16_t* pools[2] = {aligned<std::uint16_t>(pool_numbers, memory[2]), aligned<std::uint16_t>(pool_numbers, memory[3])};
    auto* table = aligned<std::int32_t>(static_cast<std::size_t>(2 * max_pages), memory[4]);
    auto* lengths = aligned<std::int32_t>(8, memory[5]);
    // The sequence is the second row; its pages are anywhere, and the positions that it does not have hold NaN.
    std::vector<std::int32_t> pages(static_cast<std::size_t>(n_pool_pages));
    for (std::size_t i = 0; i < pages.size(); ++i) std::swap(pages[i] = static_cast<std::int32_t>(i), pages[rng.below(i + 1)]);
    for (std::int64_t i = 0; i < max_pages; ++i) table[max_pages + i] = pages[static_cast<std::size_t>(i)], table[i] = 0;
    const auto at = [&](std::int64_t position, std::int64_t head) { return ((table[max_pages + position / page_positions] * c.n_kv_heads + head) * page_positions + position % page_positions) * c.head_dim; };
    for (std::uint16_t* pool : pools)
        for (std::int64_t p = 0; p < c.n_positions; ++p)
            for (std::int64_t head = 0; head < c.n_kv_heads; ++head)
                for (std::int64_t d = 0; d < c.head_dim; ++d) pool[at(p, head) + d] = float_to_bf16(rng.normal());
    for (std::int64_t i = 0; i < c.n_tokens * width; ++i) q[i] = float_to_bf16(rng.normal());
    lengths[0] = static_cast<std::int32_t>(c.n_tokens), lengths[4] = static_cast<std::int32_t>(c.n_positions);

    SequenceAttentionArgs args;
    args.q = q, args.y = y;
    args.n_rows = n_rows, args.n_heads = c.n_heads;
    args.state = {StateForm::bf16, pools[0], pools[1], table, max_pages, c.n_kv_heads, c.head_dim};
    args.sequence = 1;
    args.n_pages = n_pages, args.n_pool_pages = n_pool_pages;
    args.n_tokens = lengths, args.n_positions = lengths + 4;
    args.scale = 0.3f, args.softcap = c.softcap, args.window = c.window;
    args.workspace = aligned<std::byte>(4096, memory[6]), args.workspace_bytes = 4096;
    ASSERT_EQ(cudnn::prepare(args), 0) << cudnn::error_text(cudnn::prepare(args));
    int stream = 0;
    Launch launch;
    launch.stream = &stream;
    ASSERT_EQ(cudnn::attend(args, launch), 0);

    std::vector<float> found, wanted;
    const auto number = [](std::uint16_t bits) { return static_cast<double>(bf16_to_float(bits)); };
    for (std::int64_t t = 0; t < c.n_tokens; ++t)
        for (std::int64_t head = 0; head < c.n_heads; ++head) {
            const std::int64_t position = c.n_positions - c.n_tokens + t, kv = head / (c.n_heads / c.n_kv_heads), first = c.window > 0 ? std::max<std::int64_t>(0, position - c.window + 1) : 0;
            std::vector<double> scores;
            double highest = -INFINITY, total = 0;
            for (std::int64_t p = first; p <= position; ++p) {
                double score = 0;
                for (std::int64_t d = 0; d < c.head_dim; ++d) score += number(q[t * width + head * c.head_dim + d]) * number(pools[0][at(p, kv) + d]);
                score *= args.scale;
                if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
                scores.push_back(score);
                highest = std::max(highest, score);
            }
            for (double& score : scores) total += score = std::exp(score - highest);
            for (std::int64_t d = 0; d < c.head_dim; ++d) {
                double sum = 0;
                for (std::int64_t p = first; p <= position; ++p) sum += scores[static_cast<std::size_t>(p - first)] / total * number(pools[1][at(p, kv) + d]);
                wanted.push_back(static_cast<float>(sum));
                found.push_back(bf16_to_float(y[t * width + head * c.head_dim + d]));
            }
        }
    EXPECT_LE(distance(found, wanted), 0.006);  // shares and results are bf16
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudnnAttention,
                         ::testing::Values(Case{2, 2, 8, 70, 70, 0, 0}, Case{4, 2, 16, 64, 64, 0, 0}, Case{6, 2, 8, 65, 200, 0, 0}, Case{4, 1, 8, 90, 129, 40, 0}, Case{2, 1, 8, 67, 150, 0, 2}, Case{2, 2, 8, 64, 191, 64, 1.5f}),
                         [](const auto& test) { return "case" + std::to_string(test.index); });

// A library that has nothing, or no device, is told apart from one that cannot be opened.
TEST(CudnnRows, RefusalsSayWhy) {
    EXPECT_EQ(cudnn::open("/nowhere/libcudnn.so.9"), cudnn::not_opened);
    EXPECT_EQ(cudnn::open("libc.so.6"), cudnn::not_opened);
    ASSERT_EQ(cudnn::open(SKIFF_FAKE_CUDNN), 0);
    ConvolutionArgs args;
    args.n_images = 1, args.channels = 5, args.out_channels = 3, args.workspace_bytes = 1024;
    EXPECT_EQ(cudnn::prepare(args), 0);
    args.out_channels = 4;
    args.workspace_bytes = 100;  // its plan wants 512
    EXPECT_EQ(cudnn::prepare(args), cudnn::errors + cudnn::no_plan);
    const Env env("unsupported");
    args.workspace_bytes = 1024;
    const int error = cudnn::prepare(args);
    EXPECT_EQ(error, cudnn::errors + cudnn::not_supported);
    EXPECT_NE(std::string(cudnn::error_text(error)).find("nothing is supported today"), std::string::npos) << cudnn::error_text(error);
    EXPECT_EQ(cudnn::error_text(1), nullptr);
}

TEST(CudnnRows, LibrariesAreFoundInSeveralFolders) {
    const std::string path = SKIFF_FAKE_CUDNN, folder = path.substr(0, path.rfind('/')), name = path.substr(path.rfind('/') + 1);
    EXPECT_EQ(find_named_library({name}), "");
    ::setenv("SKIFF_CUDA_LIBRARIES", ("/nowhere:" + folder).c_str(), 1);
    EXPECT_EQ(find_named_library({name}), path);
    // Before one of the same name that the loader knows.
    const std::string other = ::testing::TempDir() + "skiff_named_library";
    std::filesystem::create_directories(other);
    std::filesystem::copy_file(path, other + "/libm.so.6", std::filesystem::copy_options::overwrite_existing);
    ::setenv("SKIFF_CUDA_LIBRARIES", other.c_str(), 1);
    EXPECT_EQ(find_named_library({"libm.so.6"}), other + "/libm.so.6");
    ::unsetenv("SKIFF_CUDA_LIBRARIES");
    EXPECT_EQ(find_named_library({"libm.so.6"}), "libm.so.6");
    EXPECT_NE(no_cudnn().find("nvidia-cudnn"), std::string::npos);
}

// The fake library is worth something: it refuses what is wrong.
TEST(CudnnRows, WrongGraphsAreRefused) {
    const auto library = cudnn::Library::open(SKIFF_FAKE_CUDNN);
    ASSERT_NE(library, nullptr);
    ASSERT_EQ(library->make_handle(), 0);
    const auto make = [&](cudnn::Graph graph) {
        std::unique_ptr<cudnn::Plan> plan;
        return make_plan(*library, std::move(graph), {library->handle(), nullptr}, 1024, plan);
    };
    const cudnn::TensorSpec spec = {{1, 1, 2, 2}, {4, 4, 2, 1}};
    cudnn::Graph good(*library), unwritten(*library), strides(*library), twice(*library);
    good.pointwise({cudnn::Pointwise::tanh}, {good.tensor(spec)}, good.tensor(spec));
    EXPECT_EQ(make(std::move(good)), 0);
    unwritten.pointwise({cudnn::Pointwise::tanh}, {unwritten.inside({1, 1, 2, 2}, cudnn::DataType::f32)}, unwritten.tensor(spec));
    EXPECT_EQ(make(std::move(unwritten)), cudnn::not_supported_pattern);
    strides.tensor({{1, 2}, {2}});
    EXPECT_EQ(make(std::move(strides)), cudnn::bad_parameter);
    const int x = twice.tensor(spec), y = twice.tensor(spec);
    twice.pointwise({cudnn::Pointwise::tanh}, {x}, y);
    twice.pointwise({cudnn::Pointwise::exp}, {x}, y);
    EXPECT_EQ(make(std::move(twice)), cudnn::not_supported_pattern);
    cudnn::Descriptor unfinished(*library, cudnn::Kind::matmul), operation(*library, cudnn::Kind::operation_matmul);
    EXPECT_EQ(operation.set(cudnn::Attribute::matmul_descriptor, unfinished).error(), cudnn::not_finalized);
    cudnn::Descriptor wrong(*library, cudnn::Kind::tensor);
    EXPECT_EQ(wrong.set(cudnn::Attribute::tensor_id, 1.0f).error(), cudnn::wrong_type);
}

// ---- sessions

DeviceSessionOptions with_cudnn(std::int64_t n_context, const char* path, std::int64_t n_sequences = 1) {
    DeviceSessionOptions options = small_options(n_context, n_sequences);
    options.session.max_batch = 100;
    options.session.state_scheme = StateScheme::bf16;
    options.attention = PromptAttention::cudnn;
    options.cudnn = path;
    return options;
}
SessionOptions on_processor(const DeviceSessionOptions& options) {
    SessionOptions session = options.session;
    session.state_scheme = StateScheme::f32;
    return session;
}

// A prompt in pieces, the last of which is too short for it.
TEST(CudnnSession, EveryArchitectureAttendsByIt) {
    std::int64_t n_used = 0;
    for (const std::string& name : model_names()) {
        SCOPED_TRACE(name);
        const auto checkpoint = Checkpoint::open(models_dir + "/" + name);
        ASSERT_TRUE(checkpoint.ok());
        const ModelSpec& spec = checkpoint->spec;
        const WeightSource& weights = *checkpoint->weights;
        const DeviceSessionOptions options = with_cudnn(300, "plain");
        auto session = DeviceSession::create(fake(), spec, weights, options);
        if (!session.ok()) {
            EXPECT_EQ(session.error().code, ErrorCode::unsupported) << session.error().to_string();
            continue;
        }
        EXPECT_TRUE(std::none_of((*session)->plan().remarks.begin(), (*session)->plan().remarks.end(), [](const std::string& remark) { return remark.find("cuDNN") != std::string::npos; }));
        const auto reference = reference_session(spec, weights, on_processor(options));
        const auto tokens = some_tokens(static_cast<std::size_t>(std::min<std::int64_t>(230, (*session)->state().capacity())), spec.n_vocab);
        EXPECT_LE(distance(all_logits(**session, tokens, tokens.size()), all_logits(*reference, tokens, tokens.size())), 1e-4);
        ++n_used;
    }
    EXPECT_GE(n_used, 5);
}

// What failed, of all copies and launches that a prompt makes, one after another. They are counted from the first that comes after none was to fail, so that something runs in between.
std::set<std::string> kernels_of_prompt(Session& session, const std::vector<BatchItem>& items) {
    std::set<std::string> kernels;
    for (int at = 0;; ++at) {
        std::vector<std::int64_t> lengths;
        for (const BatchItem& item : items) lengths.push_back(session.state().length(item.sequence));
        ::setenv("SKIFF_FAKE_FAILS_AT", std::to_string(at).c_str(), 1);
        const Status status = session.forward(items);
        ::unsetenv("SKIFF_FAKE_FAILS_AT");
        if (status.ok()) return kernels;
        std::string text = status.error().message;
        text = text.substr(text.find(": ") + 2);
        kernels.insert(text.substr(0, text.find(" of ")));
        for (std::size_t i = 0; i < items.size(); ++i) EXPECT_EQ(session.state().length(items[i].sequence), lengths[i]);
        EXPECT_TRUE(session.forward(items[0].sequence, std::span(items[0].tokens).first(1), BatchItem::Logits::none).ok());
        EXPECT_TRUE(session.state().truncate(items[0].sequence, lengths[0]).ok());
    }
}

TEST(CudnnSession, PromptsOfSeveralSequencesAreAttendedOneByOne) {
    const Small small({{"num_hidden_layers", 1}});
    const DeviceSessionOptions options = with_cudnn(300, "plain", 3);
    DeviceSessionOptions wide = options;
    wide.session.max_batch = 250;
    const auto session = device_session(small.spec, *small.weights, wide);
    const auto reference = reference_session(small.spec, *small.weights, on_processor(wide));
    const auto compare = [&](const std::vector<BatchItem>& items) {
        ASSERT_TRUE(session->forward(items).ok());
        ASSERT_TRUE(reference->forward(items).ok());
        EXPECT_LE(distance(session->logits(), reference->logits()), 1e-4);
    };
    const auto of = [](std::size_t n, std::uint64_t seed) { return some_tokens(n, 131, seed); };
    compare({{2, of(70, 1), BatchItem::Logits::all}, {0, of(90, 2), BatchItem::Logits::all}});
    compare({{0, of(66, 3), BatchItem::Logits::last}, {1, of(64, 4), BatchItem::Logits::all}, {2, of(100, 5), BatchItem::Logits::last}});  // behind earlier ones
    const std::vector<BatchItem> items = {{1, of(64, 6), BatchItem::Logits::last}, {2, of(65, 7), BatchItem::Logits::last}};
    const auto kernels = kernels_of_prompt(*session, items);
    EXPECT_EQ(kernels.count("cudnn attention"), 1u);
    EXPECT_EQ(kernels.count("prefill attention"), 0u);
    ASSERT_TRUE(reference->forward(items).ok());
    EXPECT_LE(distance(session->logits(), reference->logits()), 1e-4);
    // One is too short for a plan of its own: the own kernels do all of it.
    const auto short_one = kernels_of_prompt(*session, {{0, of(60, 8), BatchItem::Logits::last}, {1, of(80, 9), BatchItem::Logits::last}});
    EXPECT_EQ(short_one.count("cudnn attention"), 0u);
    EXPECT_EQ(short_one.count("prefill attention"), 1u);
}

std::vector<std::string> remarks_on_cudnn(const Session& session) {
    std::vector<std::string> found;
    for (const std::string& remark : session.plan().remarks)
        if (remark.find("cuDNN") != std::string::npos) found.push_back(remark);
    return found;
}

TEST(CudnnSession, TheOwnKernelsTakeOverAndItIsSaidOnce) {
    const Small small({{"num_hidden_layers", 1}});
    const auto tokens = some_tokens(130, 131);
    const DeviceSessionOptions own = small_options(300);
    const auto expected = all_logits(*reference_session(small.spec, *small.weights, own.session), tokens, 130);
    for (const char* path : {"", "broken", "/nowhere/libcudnn.so.9", "picky"}) {
        SCOPED_TRACE(path);
        const auto session = device_session(small.spec, *small.weights, with_cudnn(300, path));
        ASSERT_NE(session, nullptr);
        EXPECT_LE(distance(all_logits(*session, tokens, 130), expected), 1e-4);
        const auto remarks = remarks_on_cudnn(*session);
        ASSERT_EQ(remarks.size(), 1u);
        EXPECT_NE(remarks[0].find("the own kernels attend to prompts, not cuDNN: "), std::string::npos) << remarks[0];
        if (*path == '\0') {
            EXPECT_NE(remarks[0].find("SKIFF_CUDA_LIBRARIES"), std::string::npos) << remarks[0];
        }
        ASSERT_TRUE(session->state().truncate(0, 0).ok());
        EXPECT_EQ(kernels_of_prompt(*session, {{0, tokens, BatchItem::Logits::last}}).count("cudnn attention"), 0u);
    }
}

// A size that comes later may be refused, when a run is about to begin.
TEST(CudnnSession, APlanThatIsRefusedLaterIsNoFailure) {
    const Small small({{"num_hidden_layers", 1}});
    DeviceSessionOptions options = with_cudnn(1300, "picky");
    options.session.max_batch = 64;
    const auto session = device_session(small.spec, *small.weights, options);
    EXPECT_TRUE(remarks_on_cudnn(*session).empty());
    const auto tokens = some_tokens(1100, 131);
    const auto found = all_logits(*session, tokens, 1100);
    EXPECT_EQ(remarks_on_cudnn(*session).size(), 1u);
    EXPECT_LE(distance(found, all_logits(*reference_session(small.spec, *small.weights, on_processor(options)), tokens, 1100)), 1e-4);
}

#if defined(SKIFF_EMULATED_CUDA)
// The kernels' own sources in front of it and behind, and the graphs in the library of its interface: bf16 all the way.
TEST(CudnnSession, TheKernelsAndItComeNear) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small small({{"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", 32}});
    const auto tokens = some_tokens(150, 131);
    for (const std::size_t chunk : {std::size_t{150}, std::size_t{75}}) {
        auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, with_cudnn(200, SKIFF_FAKE_CUDNN));
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_TRUE(remarks_on_cudnn(**session).empty());
        const auto reference = reference_session(small.spec, *small.weights, on_processor(with_cudnn(200, "")));
        EXPECT_LE(distance(all_logits(**session, tokens, chunk), all_logits(*reference, tokens, 150)), 0.02) << chunk << " at a time";
    }
    {
        const Env env("failure");  // so it is what ran
        auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, with_cudnn(200, SKIFF_FAKE_CUDNN));
        ASSERT_TRUE(session.ok());
        Status status = (*session)->forward(0, some_tokens(70, 131), BatchItem::Logits::last);
        if (status.ok()) status = (*session)->wait();
        ASSERT_FALSE(status.ok());
        EXPECT_NE(status.error().message.find("it was told to fail"), std::string::npos) << status.error().message;
    }
    const Env env("unsupported");
    const DeviceSessionOptions options = with_cudnn(200, SKIFF_FAKE_CUDNN);
    const Small other({{"num_hidden_layers", 1}, {"num_attention_heads", 2}, {"num_key_value_heads", 2}, {"head_dim", 32}});
    auto refused = DeviceSession::create(*emulated->table, other.spec, *other.weights, options);
    ASSERT_TRUE(refused.ok());
    ASSERT_EQ(remarks_on_cudnn(**refused).size(), 1u);
    EXPECT_NE(remarks_on_cudnn(**refused)[0].find("nothing is supported today"), std::string::npos) << remarks_on_cudnn(**refused)[0];
}
#endif

// On the machine's own GPU, by the plug-in and the cuDNN that it has: beside the processor, and beside the own kernels.
TEST(CudnnSession, ThisGpuComesNear) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    const std::string path = find_cudnn();
    if (path.empty()) GTEST_SKIP() << no_cudnn();
    for (const std::int64_t head_dim : {64, 128}) {
        const Small small({{"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"head_dim", head_dim}});
        const auto tokens = some_tokens(500, 131);
        DeviceSessionOptions options = with_cudnn(600, path.c_str());
        options.session.max_batch = 300;
        const auto expected = all_logits(*reference_session(small.spec, *small.weights, on_processor(options)), tokens, 500);
        auto by_it = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
        options.attention = PromptAttention::own;
        auto own = DeviceSession::create(*plug_in->table, small.spec, *small.weights, options);
        ASSERT_TRUE(by_it.ok() && own.ok());
        for (const std::size_t chunk : {std::size_t{500}, std::size_t{130}}) {
            for (auto* session : {&by_it, &own}) ASSERT_TRUE((**session)->state().truncate(0, 0).ok());
            const auto found = all_logits(**by_it, tokens, chunk);
            EXPECT_LE(distance(found, expected), 0.02) << "heads of " << head_dim << ", " << chunk << " at a time";
            EXPECT_LE(distance(found, all_logits(**own, tokens, chunk)), 0.02) << "heads of " << head_dim << ", " << chunk << " at a time";
        }
        EXPECT_EQ(remarks_on_cudnn(**by_it), std::vector<std::string>());
    }
}

}  // namespace
}  // namespace skiff::cuda

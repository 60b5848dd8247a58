#include "net/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "net/lower_conv.h"

namespace skiff::net {

class Lowering {
public:
    explicit Lowering(const Net& net, Session& session) : net_(net), session_(session) {}

    Status run() {
        for (std::size_t i = 0; i < net_.spec.ops.size(); ++i) {
            op_ = &net_.spec.ops[i];
            index_ = i;
            auto status = std::visit([&](const auto& detail) { return lower(detail); }, op_->detail);
            if (!status.ok()) return status.take_error().with_context("operator " + op_->name);
        }
        for (AlignedBuffer& buffer : session_.scratch_) buffer = AlignedBuffer(static_cast<std::size_t>(scratch_bytes_));
        return {};
    }

private:
    const SessionOptions& options() const { return session_.options_; }
    const ValueShape& in_shape(std::size_t i = 0) const { return session_.resolved_.shapes[session_.resolved_.inputs[index_][i]]; }
    const ValueShape& out_shape() const { return session_.resolved_.shapes[index_ + 1]; }
    float* in(std::size_t i = 0) { return session_.values_[session_.resolved_.inputs[index_][i]]; }
    float* out() { return session_.values_[index_ + 1]; }

    void add_step(std::string_view kernel, std::function<void(const StepContext&)> run) { session_.steps_.push_back({op_->name, std::string(kernel), std::move(run)}); }

    template <class Fn>
    const KernelRow<Fn>& kernel(std::span<const KernelRow<Fn>> rows) const {
        return options().kernels == KernelChoice::reference ? rows[0] : choose_kernel(rows, options().isa);
    }

    // y = fn(x) over positions of all images.
    template <class Copy>
    void add_copies(Copy copy) {
        const std::int64_t n_positions = out_shape().n_positions();
        add_step("copy", [=](const StepContext& context) {
            const Range positions = context.share(context.n_images * n_positions);
            for (std::int64_t position = positions.begin; position < positions.end; ++position) copy(position);
        });
    }

    void add_elements(const KernelRow<ElementFn>& row, Activation activation) {
        const ElementArgs args{in(0), op_->in.size() > 1 ? in(1) : nullptr, out(), 1, activation};
        const std::int64_t n = out_shape().n_elements();
        add_step(row.name, [=, fn = row.fn](const StepContext& context) { fn(args, context.share(context.n_images * n, 16)); });
    }

    Status lower(const Conv& conv) {
        ConvStep step{conv, in_shape(), out_shape(), in(), out(), {}, {}};
        const Weight& weight = session_.weights_.at(op_->name + ".weight");
        if (conv.bias == Conv::Bias::yes) step.bias = net_.floats(op_->name + ".bias");
        if (conv.groups == in_shape().channels && conv.groups > 1) {
            const auto& row = kernel(depthwise_kernels());
            auto depthwise = std::make_shared<DepthwiseStep>(std::move(step), weight, row.fn);
            add_step(row.name, [=](const StepContext& context) {
                const std::int64_t n_positions = depthwise->conv.out.n_positions();
                depthwise->run(context.share(context.n_images * n_positions));
            });
            return {};
        }
        SKIFF_TRY(auto linear, LinearConv::create(std::move(step), weight, options().isa, options().kernels));
        scratch_bytes_ = std::max(scratch_bytes_, linear.scratch_bytes());
        auto shared = std::make_shared<LinearConv>(std::move(linear));
        add_step(shared->kernel_name(), [=](const StepContext& context) {
            const Range positions = context.share(context.n_images * shared->conv.out.n_positions(), LinearConv::positions_at_once);
            shared->run(positions, context.scratch);
        });
        return {};
    }

    Status lower(const Pool& pool) {
        const ValueShape shape = in_shape();
        const float* x = in();
        float* y = out();
        if (pool.extent == Pool::Extent::whole_image) {
            const bool is_max = pool.kind == PoolKind::max;
            add_step("whole_image", [=](const StepContext& context) {
                const Range images = context.share(context.n_images);
                for (std::int64_t image = images.begin; image < images.end; ++image) pool_image(x + image * shape.n_elements(), shape, is_max, y + image * shape.channels);
            });
            return {};
        }
        auto taps = std::make_shared<std::vector<WindowTap>>(taps_of(pool.window, Conv{pool.window}.kept_taps()));
        const auto& row = kernel(pool_kernels());
        const ValueShape to = out_shape();
        PoolArgs args{{shape.height, shape.width, shape.channels, to.width, pool.window.stride[0], pool.window.stride[1], taps->data(), static_cast<std::int64_t>(taps->size())}, x, y, pool.kind};
        add_step(row.name, [=, fn = row.fn, keep = taps](const StepContext& context) {
            for_each_image(context.share(context.n_images * to.n_positions()), to.n_positions(), [&](std::int64_t image, Range pixels) {
                PoolArgs of_image = args;
                of_image.x += image * shape.n_elements();
                of_image.y += image * to.n_elements();
                fn(of_image, pixels);
            });
        });
        return {};
    }

    static void pool_image(const float* x, const ValueShape& shape, bool is_max, float* y) {
        std::copy_n(x, shape.channels, y);
        for (std::int64_t position = 1; position < shape.n_positions(); ++position)
            for (std::int64_t c = 0; c < shape.channels; ++c) y[c] = is_max ? std::max(y[c], x[position * shape.channels + c]) : y[c] + x[position * shape.channels + c];
        for (std::int64_t c = 0; c < shape.channels && !is_max; ++c) y[c] /= static_cast<float>(shape.n_positions());
    }

    Status lower(const Shuffle& shuffle) {
        const std::int64_t channels = in_shape().channels, groups = shuffle.groups, of_group = channels / groups;
        add_copies([x = in(), y = out(), channels, groups, of_group](std::int64_t position) {
            for (std::int64_t g = 0; g < groups; ++g)
                for (std::int64_t i = 0; i < of_group; ++i) y[position * channels + i * groups + g] = x[position * channels + g * of_group + i];
        });
        return {};
    }

    Status lower(const Activate& activate) {
        add_elements(kernel(activation_kernels()), activate.kind);
        return {};
    }
    Status lower(const Add&) {
        add_elements(kernel(add_kernels()), Activation::relu);
        return {};
    }
    Status lower(const Multiply&) {
        const auto& row = kernel(multiply_kernels());
        if (in_shape(0) == in_shape(1)) {
            add_elements(row, Activation::relu);
            return {};
        }
        const std::int64_t channels = in_shape().channels, n_positions = in_shape().n_positions();
        add_step(row.name, [=, fn = row.fn, x = in(0), gate = in(1), y = out()](const StepContext& context) {
            const Range positions = context.share(context.n_images * n_positions);
            for (std::int64_t p = positions.begin; p < positions.end; ++p) fn({x + p * channels, gate + p / n_positions * channels, y + p * channels, 1, Activation::relu}, {0, channels});
        });
        return {};
    }

    Status lower(const Concat&) {
        struct Part {
            const float* x;
            std::int64_t channels;
        };
        std::vector<Part> parts;
        for (std::size_t i = 0; i < op_->in.size(); ++i) parts.push_back({in(i), in_shape(i).channels});
        add_copies([parts, y = out(), width = out_shape().channels](std::int64_t position) {
            float* to = y + position * width;
            for (const Part& part : parts) to = std::copy_n(part.x + position * part.channels, part.channels, to);
        });
        return {};
    }

    Status lower(const Slice& slice) {
        add_copies([slice, x = in(), y = out(), width = in_shape().channels](std::int64_t position) {
            std::copy(x + position * width + slice.begin, x + position * width + slice.end, y + position * (slice.end - slice.begin));
        });
        return {};
    }

    Status lower(const Flatten&) { return {}; }  // the same numbers in the same order
    Status lower(const Fold&) { return {}; }

    Status lower(const Norm& norm) {
        auto weight = std::make_shared<std::vector<float>>(net_.floats(op_->name + ".weight"));
        auto bias = std::make_shared<std::vector<float>>();
        if (norm.kind == NormKind::layer) *bias = net_.floats(op_->name + ".bias");
        const NormArgs args{in(), weight->data(), bias->empty() ? nullptr : bias->data(), out(), in_shape().channels, static_cast<float>(norm.eps), norm.kind};
        const auto& row = kernel(norm_kernels());
        const std::int64_t n_positions = in_shape().n_positions();
        add_step(row.name, [=, fn = row.fn](const StepContext& context) {
            (void)weight, (void)bias;  // held alive
            fn(args, context.share(context.n_images * n_positions));
        });
        return {};
    }

    // The decoder's kernels: every query stands at the last position, so that it sees all keys.
    Status lower(const Attention& attention) {
        struct Memory {
            AlignedBuffer keys, values;
            std::vector<std::byte*> key_rows, value_rows;
            std::vector<std::int32_t> positions, last;
        };
        const ValueShape shape = in_shape();
        const std::int64_t length = shape.n_positions(), batch = options().batch, head_dim = shape.channels / attention.n_heads;
        const StateLayout layout = state_layout(StateScheme::f32, attention.n_heads, head_dim);
        const std::int64_t key_bytes = state_region_bytes(layout, StatePart::keys, length), value_bytes = state_region_bytes(layout, StatePart::values, length);
        auto memory = std::make_shared<Memory>();
        memory->keys = AlignedBuffer(static_cast<std::size_t>(key_bytes * batch));
        memory->values = AlignedBuffer(static_cast<std::size_t>(value_bytes * batch));
        for (std::int64_t token = 0; token < batch * length; ++token) {
            memory->key_rows.push_back(memory->keys.data() + token / length * key_bytes);
            memory->value_rows.push_back(memory->values.data() + token / length * value_bytes);
            memory->positions.push_back(static_cast<std::int32_t>(token % length));
            memory->last.push_back(static_cast<std::int32_t>(length - 1));
        }
        const auto& write = kernel(state_write_kernels());
        const auto& attend = kernel(attention_kernels());
        StateWriteArgs keys{in(1), shape.channels, memory->key_rows.data(), memory->positions.data(), attention.n_heads, head_dim, {0, attention.n_heads}, StateScheme::f32, StatePart::keys};
        StateWriteArgs values = keys;
        values.x = in(2);
        values.rows = memory->value_rows.data();
        values.part = StatePart::values;
        add_step(write.name, [=, fn = write.fn](const StepContext& context) {
            (void)memory;
            fn(keys, context.share(context.n_images * length));
            fn(values, context.share(context.n_images * length));
        });
        AttentionArgs args{};
        args.q = in(0);
        args.keys = memory->key_rows.data();
        args.values = memory->value_rows.data();
        args.positions = memory->last.data();
        args.y = out();
        args.n_heads = args.n_kv_heads = attention.n_heads;
        args.head_dim = head_dim;
        args.scale = 1 / std::sqrt(static_cast<float>(head_dim));
        args.scheme = StateScheme::f32;
        add_step(attend.name, [=, fn = attend.fn](const StepContext& context) {
            (void)memory;
            AttentionArgs of_batch = args;
            of_batch.n_tokens = context.n_images * length;
            fn(of_batch, attention_share(of_batch, context.thread, context.n_threads));
        });
        return {};
    }

    const Net& net_;
    Session& session_;
    const Op* op_ = nullptr;
    std::size_t index_ = 0;
    std::int64_t scratch_bytes_ = 64;
};

Session::Session(const Net& net, const SessionOptions& options, Resolved resolved) : options_(options), resolved_(std::move(resolved)), weights_(net.weights), pool_(options.n_threads) {
    scratch_.resize(static_cast<std::size_t>(pool_.n_threads()));
    for (std::size_t value = 0; value < resolved_.shapes.size(); ++value) {
        const OpDetail* detail = value > 0 ? &net.spec.ops[value - 1].detail : nullptr;
        const bool is_view = detail != nullptr && (std::holds_alternative<Flatten>(*detail) || std::holds_alternative<Fold>(*detail));
        buffers_.emplace_back(is_view ? 0 : static_cast<std::size_t>(resolved_.shapes[value].n_elements() * options.batch) * sizeof(float));
        values_.push_back(is_view ? values_[resolved_.inputs[value - 1][0]] : buffers_.back().as<float>());
    }
}

Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::create(const Net& net, const SessionOptions& options) {
    constexpr std::int64_t most_floats = std::int64_t{1} << 32;
    SKIFF_TRY(auto resolved, resolve(net.spec));
    std::int64_t n_floats = 0;
    for (const ValueShape& shape : resolved.shapes) n_floats += shape.n_elements();
    SessionOptions fitting = options;  // results do not depend on the batch
    fitting.batch = std::min(std::max<std::int64_t>(1, options.batch), most_floats / std::max<std::int64_t>(1, n_floats));
    if (fitting.batch < 1) return resource_error("the values of one image take more than 16 GiB; give the network smaller images or fewer channels");
    std::unique_ptr<Session> session(new Session(net, fitting, std::move(resolved)));
    Lowering lowering(net, *session);
    SKIFF_CHECK(lowering.run());
    session->seconds_.assign(session->steps_.size(), 0);
    return session;
}

void Session::run(const float* x, std::int64_t n_images, float* y) {
    std::fill(seconds_.begin(), seconds_.end(), 0);
    for (std::int64_t done = 0; done < n_images; done += options_.batch) {
        const std::int64_t n = std::min(options_.batch, n_images - done);
        std::copy_n(x + done * input().n_elements(), n * input().n_elements(), values_.front());
        pool_.run([&](int thread) {
            const StepContext context{thread, pool_.n_threads(), n, scratch_[static_cast<std::size_t>(thread)].data()};
            for (std::size_t i = 0; i < steps_.size(); ++i) {
                const auto begin = std::chrono::steady_clock::now();
                steps_[i].run(context);
                pool_.barrier();
                if (thread == 0) seconds_[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            }
        });
        std::copy_n(values_.back(), n * output().n_elements(), y + done * output().n_elements());
    }
}

}  // namespace skiff::net

// What comes from the device: logits, the largest of them, what a run costs.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cuda/cuda_session.h"

namespace skiff::cuda {

// A few numbers come from the device instead of a row as wide as the vocabulary. NaN is no logit there: where some are missing, the row itself is looked at.
Status CudaSession::forward_top(std::span<const BatchItem> items, std::int64_t limit) {
    if (limit < 1) return usage_error("the largest logits: none are asked for");
    SKIFF_CHECK(forward(items, nullptr));
    top_.clear();
    const auto width = static_cast<std::size_t>(model_.output_width);
    if (waiting_rows_ > 0 && waiting_rows_ <= most_top_rows && limit <= most_top && plan_.has_head) {
        SKIFF_CHECK(top_on_device(limit));
        const bool complete = std::all_of(top_.begin(), top_.end(), [&](const auto& row) { return static_cast<std::size_t>(limit) == row->size() || row->size() == width; });
        if (complete) return {};
        top_.clear();
    }
    TopList list;
    const auto rows = logits();
    for (std::size_t row = 0; row < rows.size() / width; ++row) {
        list.begin(limit);
        list.add(0, rows.subspan(row * width, width));
        const TopList* const lists[] = {&list};
        top_.push_back(merge_top(lists, limit));
    }
    return {};
}

Status CudaSession::make_sample_scratch() {
    if (top_scratch_ != nullptr) return {};
    const Table& table = device_->table();
    const std::size_t scratch_bytes = table.sample_scratch_bytes(most_top_rows);
    SKIFF_TRY(top_scratch_, device_->allocate(scratch_bytes, "the largest logits"));
    return device_->check(table.fill(top_scratch_, 0, scratch_bytes, device_->stream()), "clearing counters");
}

Status CudaSession::top_on_device(std::int64_t limit) {
    const Table& table = device_->table();
    constexpr std::size_t value_bytes = most_top_rows * most_top * sizeof(float);
    SKIFF_CHECK(make_sample_scratch());
    if (top_memory_ == nullptr) {
        SKIFF_TRY(top_memory_, device_->allocate(2 * value_bytes, "the largest logits"));
        SKIFF_TRY(host_top_, device_->allocate_pinned(2 * value_bytes, "the largest logits"));
    }
    SampleArgs args;
    args.logits = last_->output;
    args.stride = args.n_vocab = model_.output_width;
    args.n_tokens = waiting_rows_;
    args.top_k = static_cast<std::int32_t>(limit);
    args.scratch = reinterpret_cast<float*>(top_scratch_);
    args.top_values = reinterpret_cast<float*>(top_memory_);
    args.top_ids = reinterpret_cast<std::int32_t*>(top_memory_ + value_bytes);
    SKIFF_CHECK(device_->check(table.sample(args, device_->launch()), "collecting the largest logits"));
    SKIFF_CHECK(device_->check(table.copy_out(host_top_, top_memory_, 2 * value_bytes, device_->stream()), "copying the largest logits from the device"));
    SKIFF_CHECK(device_->wait());
    for (std::int64_t row = 0; row < waiting_rows_; ++row) {
        std::vector<ScoredToken> found;
        for (std::int64_t i = 0; i < limit; ++i) {
            const std::size_t at = static_cast<std::size_t>(row * most_top + i);
            const ScoredToken token{reinterpret_cast<const std::int32_t*>(host_top_ + value_bytes)[at], reinterpret_cast<const float*>(host_top_)[at]};
            if (token.token >= 0) found.push_back(token);
        }
        top_.push_back(std::move(found));
    }
    return {};
}

Status CudaSession::fetch(float* target, std::int64_t n_rows) const {
    const std::size_t size = static_cast<std::size_t>(n_rows * model_.output_width) * sizeof(float);
    if (host_rows_ == nullptr) {
        SKIFF_TRY(host_rows_, device_->allocate_pinned(static_cast<std::size_t>(most_rows_ * model_.output_width) * sizeof(float), "logits"));
    }
    SKIFF_CHECK(device_->check(device_->table().copy_out(host_rows_, last_->output, size, device_->stream()), "copying logits from the device"));
    SKIFF_CHECK(device_->wait());
    if (target != nullptr) std::memcpy(target, host_rows_, size);
    return {};
}

// From the device when it is asked for, rows one after another.
std::span<const float> CudaSession::tap(const std::string& name) const {
    if (const auto found = tapped_.find(name); found != tapped_.end()) return found->second;
    if (last_ == nullptr) return {};
    for (const DeviceProgram::Tap& tap : last_->taps) {
        if (tap.name != name) continue;
        std::vector<float> all(static_cast<std::size_t>((last_tokens_ - 1) * tap.stride + tap.width));
        Status status = device_->enter();
        if (status.ok()) status = device_->download(all.data(), tap.x, all.size() * sizeof(float));
        if (!status.ok()) {
            if (broken_.ok()) broken_ = std::move(status);
            return {};
        }
        for (std::int64_t t = 1; t < last_tokens_ && tap.stride != tap.width; ++t) std::copy_n(all.begin() + t * tap.stride, tap.width, all.begin() + t * tap.width);
        all.resize(static_cast<std::size_t>(last_tokens_ * tap.width));
        return tapped_[name] = std::move(all);
    }
    return {};
}

std::span<const float> CudaSession::logits() const {
    if (waiting_rows_ > 0) {
        Status status = device_->enter();
        if (status.ok()) status = fetch(nullptr, waiting_rows_);
        if (!status.ok()) {  // numbers that nobody takes for an answer; the next call says what happened
            if (broken_.ok()) broken_ = std::move(status);
            const auto n = static_cast<std::size_t>(waiting_rows_ * model_.output_width);
            if (host_rows_ != nullptr) std::fill_n(reinterpret_cast<float*>(host_rows_), n, NAN);
        }
        waiting_rows_ = 0;
    }
    if (host_row_count_ > 0 && host_rows_ != nullptr) return {reinterpret_cast<const float*>(host_rows_), static_cast<std::size_t>(host_row_count_ * model_.output_width)};
    return gathered_;
}

// ---- what is told

std::optional<double> CudaSession::read_gb_per_s() {
    const Table& table = device_->table();
    if (!device_->enter().ok()) return std::nullopt;
    const auto available = device_->free_bytes();
    std::size_t size = std::size_t{1} << 30;
    while (available.ok() && size > *available / 2) size /= 2;
    auto memory = device_->allocate(size, "the bandwidth's measurement");
    if (!memory.ok()) return std::nullopt;
    Event begin = nullptr, end = nullptr;
    std::vector<double> rates;
    bool good = table.make_event(&begin) == 0 && table.make_event(&end) == 0 && table.fill(*memory, 0, size, device_->stream()) == 0;
    for (int pass = 0; pass < 12 && good; ++pass) {
        float ms = 0;
        good = table.record(begin, device_->stream()) == 0 && table.read_all(*memory, size, reinterpret_cast<float*>(inputs_), device_->launch()) == 0 && table.record(end, device_->stream()) == 0 &&
               table.wait_event(end) == 0 && table.elapsed_ms(begin, end, &ms) == 0 && ms > 0;
        if (good && pass > 1) rates.push_back(static_cast<double>(size) / ms * 1e-6);
    }
    if (begin != nullptr) table.destroy_event(begin);
    if (end != nullptr) table.destroy_event(end);
    device_->release(*memory);
    if (rates.empty()) return std::nullopt;
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
}

// A square product by cuBLASLt, 8192 each way where the device has as many multiprocessors as that takes to fill.
std::optional<double> CudaSession::gemm_tflops() {
    const Table& table = device_->table();
    if (options_.matmul != Matmul::cublaslt || workspace_ == nullptr || !device_->enter().ok()) return std::nullopt;
    const std::int64_t n = std::min<std::int64_t>(8192, 64 * std::max(1, device_->facts().n_multiprocessors));
    const auto elements = static_cast<std::size_t>(n * n), operand_size = std::max(elements * 2, table.operand_bytes(OperandForm::rows, n, n));
    const auto available = device_->free_bytes();
    if (!available.ok() || 2 * operand_size + elements * 4 > *available / 2) return std::nullopt;
    std::byte* memory[3] = {};
    const std::size_t sizes[3] = {operand_size, operand_size, elements * 4};
    bool good = true;
    for (int i = 0; i < 3 && good; ++i) {
        auto taken = device_->allocate(sizes[i], "the measurement of products");
        good = taken.ok() && device_->fill_with_noise(*taken, sizes[i]).ok();
        if (taken.ok()) memory[i] = *taken;
    }
    MatmulArgs args;
    args.weight = memory[0];
    args.x = memory[1];
    args.y = reinterpret_cast<float*>(memory[2]);
    args.n_tokens = args.n_rows = args.n_columns = args.weight_stride = args.x_stride = args.y_stride = n;
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes;
    Event begin = nullptr, end = nullptr;
    std::vector<double> rates;
    good = good && table.make_event(&begin) == 0 && table.make_event(&end) == 0 && table.prepare_matmul(args) == 0;
    for (int pass = 0; pass < 7 && good; ++pass) {
        float ms = 0;
        good = table.record(begin, device_->stream()) == 0 && table.matmul(args, device_->launch()) == 0 && table.record(end, device_->stream()) == 0 && table.wait_event(end) == 0 && table.elapsed_ms(begin, end, &ms) == 0 && ms > 0;
        if (good && pass > 1) rates.push_back(2e-9 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / ms);
    }
    for (Event event : {begin, end})
        if (event != nullptr) table.destroy_event(event);
    for (std::byte* address : memory)
        if (address != nullptr) device_->release(address);
    if (rates.empty()) return std::nullopt;
    std::sort(rates.begin(), rates.end());
    return rates[rates.size() / 2];
}

Result<double> CudaSession::seconds_per_streamed_byte() {
    SKIFF_CHECK(device_->enter());
    if (!model_.stream) return usage_error("all weights of this session are on the device");
    return model_.stream->seconds_per_byte();
}

std::vector<std::pair<std::string, std::string>> CudaSession::decode_launches() {
    std::vector<std::pair<std::string, std::string>> launches;
    if (!device_->enter().ok()) return launches;
    (void)logits();  // what waits on the device does not outlive the program that made it
    auto entry = program_for({1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0});
    if (!entry.ok()) return launches;
    for (const DeviceStep& step : (*entry)->program.steps)
        if (!std::holds_alternative<StreamArgs>(step.args)) launches.emplace_back(step.name, step.kernel);
    return launches;
}

std::vector<Session::StepName> CudaSession::decode_steps() const {
    std::vector<StepName> names;
    const auto found = programs_.find({1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0});
    if (found == programs_.end()) return names;
    for (const DeviceStep& step : found->second.program.steps) names.push_back({step.name, step.kernel});
    return names;
}

}  // namespace skiff::cuda

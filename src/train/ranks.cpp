#include "train/ranks.h"

#include <charconv>

#include <ATen/core/grad_mode.h>

// LibTorch's header of each process group needs the library's own headers: Debian has Gloo's in libgloo-dev, and cmake/LibTorch.cmake looks for
// NCCL's. Neither group is any part of the other.
#if __has_include(<gloo/algorithm.h>)
#define SKIFF_WITH_GLOO 1
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#ifdef SKIFF_WITH_NCCL
#ifndef USE_C10D_NCCL
#define USE_C10D_NCCL
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#if defined(SKIFF_WITH_GLOO) || defined(SKIFF_WITH_NCCL)
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#define SKIFF_WITH_RANKS 1
#endif

#include "train/train.h"

namespace skiff::train {

#ifdef SKIFF_WITH_RANKS
namespace {

// Small tensors together: a message each would cost more than what it carries.
constexpr std::int64_t bucket_elements = 1 << 20;

template <class Group>
class GroupRanks final : public Ranks {
public:
    GroupRanks(c10::intrusive_ptr<Group> group, std::string name, bool through_host) : group_(std::move(group)), name_(std::move(name)), through_host_(through_host) {}
    std::string name() const override { return name_; }

    void sum(std::vector<at::Tensor>& tensors) override {
        const at::NoGradGuard no_grad;
        std::size_t begin = 0;
        while (begin < tensors.size()) {
            std::int64_t n = 0;
            std::size_t end = begin;
            while (end < tensors.size() && (end == begin || n + tensors[end].numel() <= bucket_elements) && tensors[end].scalar_type() == tensors[begin].scalar_type())
                n += tensors[end++].numel();
            std::vector<at::Tensor> flat;
            for (std::size_t i = begin; i < end; ++i) flat.push_back(tensors[i].reshape({-1}));
            std::vector<at::Tensor> bucket = {at::cat(flat)};
            if (through_host_) bucket[0] = bucket[0].to(at::kCPU);
            group_->allreduce(bucket)->wait();
            std::int64_t offset = 0;
            for (std::size_t i = begin; i < end; ++i) {
                tensors[i].copy_(bucket[0].narrow(0, offset, tensors[i].numel()).view(tensors[i].sizes()));
                offset += tensors[i].numel();
            }
            begin = end;
        }
    }

private:
    c10::intrusive_ptr<Group> group_;
    std::string name_;
    bool through_host_;
};

Result<c10::intrusive_ptr<c10d::Store>> open_store(int rank, int n_ranks, const std::string& meeting) {
    const std::size_t colon = meeting.rfind(':');
    if (colon == std::string::npos || meeting.find('/') != std::string::npos) return c10::intrusive_ptr<c10d::Store>(c10::make_intrusive<c10d::FileStore>(meeting, n_ranks));
    std::uint16_t port = 0;
    const char* end = meeting.data() + meeting.size();
    if (const auto [stop, error] = std::from_chars(meeting.data() + colon + 1, end, port); error != std::errc() || stop != end)
        return usage_error("the meeting place " + meeting + " is neither a file nor HOST:PORT");
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = rank == 0;
    options.numWorkers = n_ranks;
    return c10::intrusive_ptr<c10d::Store>(c10::make_intrusive<c10d::TCPStore>(meeting.substr(0, colon), options));
}

}  // namespace

Result<std::unique_ptr<Ranks>> Ranks::meet(int rank, int n_ranks, const std::string& meeting, at::Device device) {
    if (n_ranks <= 1) return std::unique_ptr<Ranks>();
    if (rank < 0 || rank >= n_ranks) return usage_error("rank " + std::to_string(rank) + " of " + std::to_string(n_ranks) + " does not exist");
    if (meeting.empty()) return usage_error("several ranks need a place to meet: a file that all can reach, or HOST:PORT");
    SKIFF_TRY(auto store, open_store(rank, n_ranks, meeting));
#ifdef SKIFF_WITH_NCCL
    if (device.is_cuda())
        return std::unique_ptr<Ranks>(
            std::make_unique<GroupRanks<c10d::ProcessGroupNCCL>>(c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, n_ranks), "NCCL", false));
#endif
#ifdef SKIFF_WITH_GLOO
    auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, n_ranks, options);
    return std::unique_ptr<Ranks>(std::make_unique<GroupRanks<c10d::ProcessGroupGloo>>(std::move(group), "Gloo", !device.is_cpu()));
#else
    return unsupported("this program was built without Gloo, so several ranks can train on GPUs only; install libgloo-dev and build again");
#endif
}
#else
Result<std::unique_ptr<Ranks>> Ranks::meet(int, int n_ranks, const std::string&, at::Device) {
    if (n_ranks <= 1) return std::unique_ptr<Ranks>();
    return unsupported("this program was built without Gloo, so it trains on one rank only; install libgloo-dev and build again");
}
#endif

std::string training_ranks() {
#if defined(SKIFF_WITH_GLOO) && defined(SKIFF_WITH_NCCL)
    return "Gloo, NCCL";
#elif defined(SKIFF_WITH_GLOO)
    return "Gloo";
#elif defined(SKIFF_WITH_NCCL)
    return "NCCL";
#else
    return {};
#endif
}

}  // namespace skiff::train

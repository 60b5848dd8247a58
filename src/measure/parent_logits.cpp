#include "measure/parent_logits.h"

#include "measure/measure_text.h"

namespace skiff {
namespace {

class LiveParent : public ParentLogits {
public:
    explicit LiveParent(Session& session) : session_(session) {}
    std::int64_t n_vocab() const override { return session_.plan().output_width; }
    Status begin_window(std::int64_t) override { return session_.state().truncate(0, 0); }
    Result<std::span<const float>> chunk(std::span<const std::int32_t> inputs, std::int64_t n_scored) override {
        SKIFF_CHECK(feed_chunk(session_, inputs, n_scored));
        return session_.logits();
    }

private:
    Session& session_;
};

}  // namespace

std::unique_ptr<ParentLogits> live_parent(Session& session) { return std::make_unique<LiveParent>(session); }

}  // namespace skiff

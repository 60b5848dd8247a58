// A teacher's word on the windows of training, kept in a file, so that it runs once for any number of students: docs/formats/teacher-cache.md.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "train/distillation_loss.h"

namespace skiff::train {

// What the windows, and the teacher's word on them, depend on. Files of another key are refused.
struct TeacherCacheKey {
    std::string teacher_hash, corpus_hash;
    std::uint64_t n_tokens = 0, seed = 0;  // of the corpus, of the windows' order
    std::int64_t window = 0, n_vocab = 0, k = 0;
    double temperature = 1;
    Json to_json() const;
};

class TeacherCache {
public:
    // Opens the file, or begins one. One process at a time works with a file.
    static Result<TeacherCache> open(const std::string& path, const TeacherCacheKey& key);
    TeacherCache(TeacherCache&& other) noexcept;
    TeacherCache& operator=(TeacherCache&&) = delete;
    ~TeacherCache();

    std::uint64_t n_windows() const { return n_windows_; }  // of the training order, from its beginning
    // Windows first .. first + n - 1; precondition: first + n <= n_windows().
    Result<SoftTargets> read(std::uint64_t first, std::int64_t n) const;
    // The windows that follow those that are there. // targets: (n windows * window) tokens
    Status append(const SoftTargets& targets);

private:
    TeacherCache(int fd, std::string path, const TeacherCacheKey& key);
    int fd_ = -1;
    std::string path_;
    std::int64_t window_, k_;
    std::int64_t id_bytes_;
    std::uint64_t record_bytes_, n_windows_ = 0;
};

}  // namespace skiff::train

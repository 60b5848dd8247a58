// Content hashes: SHA-256 names models and files in manifests and tables; the 64-bit hash fingerprints logits and cache keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace skiff {

class Sha256 {
public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    void update(std::span<const std::byte> bytes);
    std::string hex();  // 64 lower-case digits; call once

private:
    struct State;
    std::unique_ptr<State> state_;
};

std::string sha256_hex(std::span<const std::byte> bytes);
Result<std::string> sha256_file(const std::string& path);
std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed = 0);  // XXH3
std::string hex64(std::uint64_t value);

}  // namespace skiff

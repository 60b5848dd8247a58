// One device, through the plug-in's table: its memory, its stream, copies. What it allocates is given back when it goes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/table.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace skiff::cuda {

// Whether it was the host's memory that was too small: fewer layers on the device do not help then.
bool lacks_host_memory(const Error& error);

class Device {
public:
    static Result<std::unique_ptr<Device>> open(const Table& table, int number = 0);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const Table& table() const { return table_; }
    const DeviceFacts& facts() const { return facts_; }
    Stream stream() const { return stream_; }
    const Launch& launch() const { return launch_; }
    void set_dependence(Dependence dependence) { launch_.dependence = dependence; }

    // An error of the table with what was done; nothing for 0.
    Status check(int error, const std::string& what) const;
    // The program may be run by any thread: the device is chosen for the calling one.
    Status enter() const { return check(table_.select(number_), "choosing the device"); }

    // Device memory, for good. What names it in the error for too little of it.
    Result<std::byte*> allocate(std::size_t size_bytes, const std::string& what);
    void release(std::byte* address);
    // Host memory that copies run from and to. The error (lacks_host_memory) names what it is for, and the options that need less of it.
    Result<std::byte*> allocate_pinned(std::size_t size_bytes, const std::string& what, const std::string& remedy = "take --device cpu");
    std::uint64_t allocated_bytes() const { return allocated_bytes_; }
    Result<std::uint64_t> free_bytes() const;

    // Host memory of any kind to the device, through two pinned buffers that take turns: the copy of one runs while the other is filled. Returns when
    // `source` may change.
    Status upload(void* target, const void* source, std::size_t size_bytes, ThreadPool* pool = nullptr);
    // The other way, through the same buffers. Returns when it is there.
    Status download(void* target, const void* source, std::size_t size_bytes);
    template <class T>
    Result<const T*> upload_new(const std::vector<T>& values, const std::string& what) {
        auto address = allocate(values.size() * sizeof(T), what);
        if (!address.ok()) return address.take_error();
        Status status = upload(*address, values.data(), values.size() * sizeof(T));
        if (!status.ok()) return status.take_error();
        return reinterpret_cast<const T*>(*address);
    }
    // Random bf16 numbers, a block of them again and again: a matrix unit fed zeros draws less power, and runs faster than it does with real numbers.
    Status fill_with_noise(std::byte* target, std::size_t size_bytes);
    // Launches a small kernel and waits for it: whether the device runs what the plug-in has for it.
    Status try_kernel();
    Status wait() const { return check(table_.wait_stream(stream_), "waiting for the device"); }

private:
    Device(const Table& table, int number) : table_(table), number_(number) {}
    struct Staging;
    Result<Staging*> next_staging();
    struct Staging {
        std::byte* memory = nullptr;
        Event copied = nullptr;
        bool used = false;
    };
    const Table& table_;
    int number_;
    DeviceFacts facts_{};
    Stream stream_ = nullptr;
    Launch launch_;
    std::vector<std::pair<std::byte*, std::size_t>> memory_;
    std::vector<std::byte*> pinned_;
    Staging staging_[2];
    int next_staging_ = 0;
    std::uint64_t allocated_bytes_ = 0;
};

}  // namespace skiff::cuda

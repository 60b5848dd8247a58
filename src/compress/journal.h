// What an unfinished run has completed: an append-only file of checksummed lines. The first says whose work it is, each other one is a finished item.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

class Journal {
public:
    // Opens or creates the journal and locks it: a second process working there is an error. A torn last line is cut off; entries before it count.
    static Result<Journal> open(const std::string& path);
    Journal(Journal&& other) noexcept;
    Journal& operator=(Journal&&) = delete;
    ~Journal();

    const std::vector<Json>& entries() const { return entries_; }
    Status append(const Json& entry);  // on disk when it returns
    Status clear();                    // begins anew

private:
    Journal(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
    Status read();
    int fd_ = -1;
    std::string path_;
    std::vector<Json> entries_;
};

// One line of the file: 16 hexadecimal digits of the text's hash, a space, the text. And back; nothing where it is torn or changed.
std::string journal_line(const Json& entry);
std::optional<Json> parse_journal_line(std::string_view line);

}  // namespace skiff

// What a search has measured, in a file that a later run goes on from. The first line says what the numbers are about.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "compress/journal.h"

namespace skiff {

class Measurements {
public:
    enum class Found : std::uint8_t { reuse, drop };
    // Error: the file is about something else, with what differs.
    static Result<Measurements> open(const std::string& path, const Json& head, Found found);

    std::optional<double> find(const std::string& what) const;
    Status add(const std::string& what, double value);  // on disk when it returns
    std::size_t n_found() const { return n_found_; }    // that were there already

private:
    explicit Measurements(Journal journal) : journal_(std::move(journal)) {}
    Journal journal_;
    std::map<std::string, double> values_;
    std::size_t n_found_ = 0;
};

}  // namespace skiff

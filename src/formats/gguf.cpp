#include "formats/gguf.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace skiff {
namespace {

constexpr std::string_view split_count_key = "split.count", split_no_key = "split.no", split_tensors_key = "split.tensors.count";

struct OpenedPart {
    std::shared_ptr<const MappedFile> file;
    GgufPart part;
};

Result<OpenedPart> open_part(const std::string& path) {
    SKIFF_TRY(auto file, MappedFile::open(path));
    auto part = parse_gguf(file->bytes());
    if (!part.ok()) return part.take_error().with_context(path);
    return OpenedPart{std::move(file), std::move(*part)};
}

bool five_digits(std::string_view text) {
    return text.size() == 5 && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// What a part says about the split must agree with its name and with the first part.
Status check_split(const GgufMetadata& metadata, const GgufSplitName& name) {
    SKIFF_TRY(const auto count, metadata.integer(split_count_key));
    SKIFF_TRY(const auto number, metadata.integer(split_no_key));
    if (count != name.n_parts || number != name.part - 1)
        return corrupt("split.count " + std::to_string(count) + " and split.no " + std::to_string(number) +
                       " do not agree with the name, which says part " + std::to_string(name.part) + " of " + std::to_string(name.n_parts) +
                       " (split.no counts from 0); keep the names the parts were made with");
    return {};
}

}  // namespace

std::optional<GgufSplitName> parse_gguf_split_name(const std::string& path) {
    constexpr std::string_view suffix = ".gguf";  // behind "-00001-of-00003"
    if (path.size() <= 15 + suffix.size() || !path.ends_with(suffix)) return std::nullopt;
    const std::size_t begin = path.size() - suffix.size() - 15;
    const std::string_view text = std::string_view(path).substr(begin, 15);
    if (text[0] != '-' || text.substr(6, 4) != "-of-" || !five_digits(text.substr(1, 5)) || !five_digits(text.substr(10, 5))) return std::nullopt;
    GgufSplitName name{path.substr(0, begin), std::stoi(std::string(text.substr(1, 5))), std::stoi(std::string(text.substr(10, 5)))};
    if (name.part < 1 || name.part > name.n_parts) return std::nullopt;
    return name;
}

std::string GgufSplitName::part_path(int number) const {
    char text[32];
    std::snprintf(text, sizeof text, "-%05d-of-%05d.gguf", number, n_parts);
    return prefix + text;
}

bool GgufFile::is_gguf(const std::string& path) {
    if (!file_exists(path)) return false;
    auto file = MappedFile::open(path);
    return file.ok() && (*file)->bytes().size() >= 4 && std::memcmp((*file)->bytes().data(), "GGUF", 4) == 0;
}

Status GgufFile::add_part(const std::string& path, GgufPart& part) {
    if (part.version != version_)
        return corrupt(path + ": version " + std::to_string(part.version) + ", the first part has " + std::to_string(version_));
    for (GgufTensor& tensor : part.tensors) tensors_.push_back(std::move(tensor));
    return {};
}

Status GgufFile::open_parts(const std::string& path, const GgufPart& first) {
    SKIFF_TRY(const auto n_parts, first.metadata.integer_or(split_count_key, 1));
    auto name = parse_gguf_split_name(path);
    if (n_parts <= 1) return {};
    if (!name)
        return corrupt(path + ": is one of " + std::to_string(n_parts) +
                       " parts, but is not named like \"model-00001-of-00003.gguf\"; restore its name");
    std::size_t n_tensors = 0;
    GgufMetadata first_metadata;
    std::vector<std::shared_ptr<const MappedFile>> files;
    for (int number = 1; number <= name->n_parts; ++number) {
        const std::string part_path = name->part_path(number);
        SKIFF_TRY(auto opened, open_part(part_path));
        GgufSplitName expected = *name;
        expected.part = number;
        auto status = check_split(opened.part.metadata, expected);
        if (!status.ok()) return status.take_error().with_context(part_path);
        n_tensors += opened.part.tensors.size();
        if (number == 1) {
            version_ = opened.part.version;
            alignment_ = opened.part.alignment;
            first_metadata = std::move(opened.part.metadata);
        }
        SKIFF_CHECK(add_part(part_path, opened.part));
        files.push_back(std::move(opened.file));
    }
    SKIFF_TRY(const auto promised, first_metadata.integer_or(split_tensors_key, static_cast<std::int64_t>(n_tensors)));
    if (promised != static_cast<std::int64_t>(n_tensors))
        return corrupt(path + ": split.tensors.count is " + std::to_string(promised) + ", the parts hold " + std::to_string(n_tensors) + " tensors");
    metadata_ = std::move(first_metadata);
    files_ = std::move(files);
    return {};
}

Result<GgufFile> GgufFile::open(const std::string& path) {
    SKIFF_TRY(auto opened, open_part(path));
    GgufFile model;
    model.path_ = path;
    SKIFF_CHECK(model.open_parts(path, opened.part));
    if (model.files_.empty()) {
        model.version_ = opened.part.version;
        model.alignment_ = opened.part.alignment;
        model.metadata_ = std::move(opened.part.metadata);
        model.tensors_ = std::move(opened.part.tensors);
        model.files_.push_back(std::move(opened.file));
    }
    model.by_name_.resize(model.tensors_.size());
    for (std::size_t i = 0; i < model.by_name_.size(); ++i) model.by_name_[i] = static_cast<std::uint32_t>(i);
    auto name_of = [&](std::uint32_t i) -> const std::string& { return model.tensors_[i].name; };
    std::sort(model.by_name_.begin(), model.by_name_.end(), [&](auto a, auto b) { return name_of(a) < name_of(b); });
    auto twice = std::adjacent_find(model.by_name_.begin(), model.by_name_.end(), [&](auto a, auto b) { return name_of(a) == name_of(b); });
    if (twice != model.by_name_.end()) return corrupt(path + ": tensor \"" + name_of(*twice) + "\" is in two parts");
    model.owner_ = std::make_shared<std::vector<std::shared_ptr<const MappedFile>>>(model.files_);
    return model;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
    auto place = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                  [&](std::uint32_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
    if (place == by_name_.end() || tensors_[*place].name != name) return nullptr;
    return &tensors_[*place];
}

Result<Weight> GgufFile::weight(std::string_view name) const {
    const GgufTensor* tensor = find(name);
    if (tensor == nullptr) return not_found(path_ + ": has no tensor \"" + std::string(name) + "\"");
    return weight(*tensor);
}

Result<Weight> GgufFile::weight(const GgufTensor& tensor) const {
    Weight weight;
    weight.shape = tensor.shape;
    weight.owner = owner_;
    if (tensor.type->dtype) {
        weight.store = TensorView{*tensor.type->dtype, tensor.shape, tensor.data};
    } else if (tensor.type->block) {
        if (weight.shape.size() == 1) weight.shape.insert(weight.shape.begin(), 1);
        weight.store = Blocks{*tensor.type->block, tensor.data};
    } else {
        return unsupported(path_ + ": tensor \"" + tensor.name + "\" has type " + std::string(tensor.type->name) +
                           ", which cannot be decoded; take a file in Q4_K, Q6_K, Q8_0 or F16");
    }
    return weight;
}

}  // namespace skiff

#include "formats/safetensors.h"

namespace skiff {

Status refuse_pickle(const std::string& path) {
    const std::string name = base_name(path);
    for (std::string_view suffix : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}) {
        if (!name.ends_with(suffix)) continue;
        return unsupported(path + ": this is a pickle by its name (" + std::string(suffix) +
                           "), and reading a pickle can run any code it contains, so skiff never does. Convert it to safetensors where you trust it: in "
                           "Python, model.save_pretrained(folder, safe_serialization=True), or safetensors.torch.save_file(torch.load(path, "
                           "weights_only=True), \"model.safetensors\")");
    }
    return {};
}

SafetensorsFile::SafetensorsFile(std::shared_ptr<const MappedFile> file, SafetensorsHeader header)
    : file_(std::move(file)), header_(std::move(header)) {
    for (std::size_t i = 0; i < header_.entries.size(); ++i) index_.emplace(header_.entries[i].name, i);
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
    SKIFF_CHECK(refuse_pickle(path));
    SKIFF_TRY(auto file, MappedFile::open(path));
    auto header = parse_safetensors_header(file->bytes(), file->bytes().size());
    if (!header.ok()) return header.take_error().with_context(path);
    return SafetensorsFile(std::move(file), std::move(*header));
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
    auto place = index_.find(name);
    return place == index_.end() ? nullptr : &header_.entries[place->second];
}

TensorView SafetensorsFile::view(const TensorEntry& entry) const {
    return {entry.dtype, entry.shape, file_->bytes().subspan(header_.data_begin + entry.begin, entry.end - entry.begin)};
}

Result<TensorView> SafetensorsFile::view(std::string_view name) const {
    const TensorEntry* entry = find(name);
    if (entry == nullptr) return not_found(path() + ": there is no tensor \"" + std::string(name) + "\"");
    return view(*entry);
}

}  // namespace skiff

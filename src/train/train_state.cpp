#include "train/train_state.h"

#include <charconv>
#include <cstring>
#include <filesystem>

#include "base/mapped_file.h"
#include "formats/safetensors.h"

namespace skiff::train {

StateTensors state_tensors(const std::vector<ParameterSet::Trained>& trained, const Optimizer& optimizer) {
    StateTensors state;
    for (const ParameterSet::Trained& parameter : trained) state.tensors.emplace_back(parameter.name, parameter.value.detach());
    for (auto& entry : optimizer.state()) state.tensors.push_back(std::move(entry));
    return state;
}

Status save_state(const std::string& folder, const StateTensors& state, std::int64_t step, const std::string& fingerprint, const std::string& name) {
    std::vector<TensorDeclaration> declarations;
    for (const auto& [key, tensor] : state.tensors) declarations.push_back({key, DType::f32, Shape(tensor.sizes().begin(), tensor.sizes().end())});
    SKIFF_TRY(auto writer, SafetensorsWriter::create(join_path(folder, name), declarations, {{"fingerprint", fingerprint}, {"step", std::to_string(step)}}));
    for (const auto& [key, tensor] : state.tensors) {
        const at::Tensor host = tensor.to(at::kCPU).contiguous();
        SKIFF_CHECK(writer.write(key, std::span(static_cast<const std::byte*>(host.data_ptr()), static_cast<std::size_t>(host.numel()) * 4)));
    }
    return writer.commit();
}

Result<std::optional<std::int64_t>> load_state(const std::string& folder, const StateTensors& state, const std::string& fingerprint, const std::string& name) {
    const std::string path = join_path(folder, name);
    if (!file_exists(path)) return std::optional<std::int64_t>();
    SKIFF_TRY(const auto file, SafetensorsFile::open(path));
    std::string step_text;
    for (const auto& [key, value] : file.metadata()) {
        if (key == "step") step_text = value;
        if (key == "fingerprint" && value != fingerprint)
            return usage_error(folder + " holds an unfinished run with other options, model or texts; give --restart to drop it. It was: " + value + "; now: " + fingerprint);
    }
    std::int64_t step = 0;
    if (std::from_chars(step_text.data(), step_text.data() + step_text.size(), step).ec != std::errc() || step < 0) return corrupt(path + ": does not say its step; give --restart");
    const at::NoGradGuard no_grad;
    for (const auto& [tensor_name, tensor] : state.tensors) {
        SKIFF_TRY(const auto view, file.view(tensor_name));
        if (view.dtype != DType::f32 || view.shape != Shape(tensor.sizes().begin(), tensor.sizes().end()))
            return corrupt(path + ": tensor " + tensor_name + " has shape " + shape_text(view.shape) + ", the model implies another; give --restart");
        at::Tensor host = at::empty(tensor.sizes(), at::kFloat);
        std::memcpy(host.data_ptr(), view.data.data(), view.data.size());
        tensor.copy_(host);
        file.owner()->drop(static_cast<std::size_t>(view.data.data() - file.owner()->bytes().data()), view.data.size());
    }
    return std::optional<std::int64_t>(step);
}

std::vector<std::string> state_files(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("state") && name.ends_with(".safetensors")) names.push_back(name);
    }
    return names;
}

}  // namespace skiff::train

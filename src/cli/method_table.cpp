#include "cli/method_table.h"

#include <algorithm>

#include "cli/format.h"
#include "compress/method.h"
#include "compress/quantize/block_transform.h"
#include "formats/compressed_tensors.h"

namespace skiff {
namespace {

struct Column {
    std::string name;      // of the table
    std::string option;    // that asks for it
    Status (*defined_on)(const Scheme& scheme);
};

std::vector<Column> columns() {
    std::vector<Column> list;
    for (const WeightMethod& method : weight_methods()) list.push_back({std::string(method.name), "--method " + std::string(method.name), method.defined_on});
    list.push_back({"compat", "--compat", [](const Scheme& scheme) {
                        return is_public_form(scheme) || !scheme.is_coded() ? Status() : unsupported("other programs do not load it, or took it for other numbers before May 2026");
                    }});
    list.push_back({"static", "--activations static-...", [](const Scheme& scheme) {
                        return can_fix_inputs(scheme) ? Status() : unsupported("inputs have fixed scales with symmetric integers of 8 bits alone");
                    }});
    return list;
}

// Reasons name the scheme; those that are the same but for that are one.
std::string without_name(std::string reason, const std::string& name) {
    for (std::size_t at = reason.find(name); at != std::string::npos; at = reason.find(name, at + 1)) {
        const bool inside = at + name.size() < reason.size() && (std::isalnum(static_cast<unsigned char>(reason[at + name.size()])) != 0);
        if (!inside) reason.replace(at, name.size(), "SCHEME");
    }
    return reason;
}

}  // namespace

void show_method_table(Terminal& terminal) {
    std::vector<std::vector<std::string>> rows = {{"scheme"}};
    for (const Column& column : columns()) rows[0].push_back(column.name);
    std::vector<std::string> reasons;
    Json cells = Json::array();
    for (const SchemePreset& preset : scheme_presets()) {
        rows.push_back({std::string(preset.name)});
        for (const Column& column : columns()) {
            const Status defined = column.defined_on(preset.scheme);
            Json cell = Json::object({{"scheme", std::string(preset.name)}, {"option", column.option}, {"defined", defined.ok()}});
            std::string text = "yes";
            if (!defined.ok()) {
                cell.set("why", defined.error().message);
                const std::string reason = without_name(defined.error().message, preset.scheme.name());
                const auto known = std::find(reasons.begin(), reasons.end(), reason);
                text = "(" + std::to_string(known - reasons.begin() + 1) + ")";
                if (known == reasons.end()) reasons.push_back(reason);
            }
            rows.back().push_back(text);
            cells.push_back(std::move(cell));
        }
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    for (std::size_t i = 0; i < reasons.size(); ++i) terminal.print("(" + std::to_string(i + 1) + ") " + reasons[i]);
    terminal.print("\ncompat: --compat. static: --activations static-minmax and its like, and dynamic-token. An a behind an integer scheme makes it asymmetric, which is defined where the scheme is, but for static.");
    for (const WeightMethod& method : weight_methods()) terminal.print("--method " + std::string(method.name) + ": " + std::string(method.summary));
    for (const BlockTransform& transform : block_transforms()) terminal.print("--transform " + std::string(transform.name) + ", before any of them: " + std::string(transform.summary));
    terminal.result(Json::object({{"cells", cells}}));
}

}  // namespace skiff

#include "eval/evaluate.h"

namespace skiff {

Json ModelIdentity::to_json() const { return Json::object({{"path", path}, {"name", name}, {"hash", hash}}); }

Json CalibrationOverlap::to_json() const { return Json::object({{"model", model}, {"text", text_name}, {"found", found}, {"stretches", stretches}}); }

Json EvalEstimate::to_json() const {
    return Json::object({{"tokens_in_text", tokens_in_text},
                         {"window", window},
                         {"windows", windows},
                         {"tokens_scored", tokens_scored},
                         {"task_items", task_items},
                         {"weight_bytes", weight_bytes},
                         {"parent_weight_bytes", parent_weight_bytes},
                         {"parent_logits", parent_logits},
                         {"logits_path", logits_path},
                         {"logits_file_bytes", logits_file_bytes},
                         {"free_disk_bytes", free_disk_bytes}});
}

Json EvalReport::to_json() const {
    Json json = Json::object({{"model", model.to_json()}});
    if (perplexity) {
        json.set("text", Json::object({{"path", text_path}, {"sha256", text_sha256}}));
        json.set("perplexity", perplexity->to_json());
        json.set("tokens_per_s", tokens_per_s);
        json.set("seconds", text_seconds);
    }
    if (against) json.set("against", against->to_json());
    if (paired) json.set("paired", paired->to_json());
    if (!overlaps.empty()) {
        Json::Array rows;
        for (const CalibrationOverlap& overlap : overlaps) rows.push_back(overlap.to_json());
        json.set("calibration_overlap", std::move(rows));
    }
    if (!tasks.empty()) {
        Json rows = Json::object();
        for (const TaskReport& task : tasks) rows.set(task.name, task.to_json());
        json.set("tasks", std::move(rows));
        json.set("task_seconds", task_seconds);
    }
    if (!logits_path.empty()) json.set("logits_path", logits_path);
    Json settings = Json::object({{"isa", isa}, {"kernels", kernels}, {"state", state}, {"threads", n_threads}});
    if (!scheme_on_load.empty()) settings.set("scheme_on_load", scheme_on_load);
    json.set("settings", std::move(settings));
    return json;
}

}  // namespace skiff

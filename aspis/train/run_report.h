#pragma once

#include <filesystem>
#include <string>

#include "aspis/train/trainer.h"

namespace aspis::train {

/// Writes report.json and report.html into a run folder from what lies there
/// (metrics.jsonl, environment.json, config.toml) and the evaluation at hand.
void write_run_report(const std::filesystem::path& folder, const ImageModel& model, const std::string& model_name,
                      const Preprocessing& preprocessing, const data::Dataset& eval_set, const TrainResult& result,
                      const std::string& command);

/// Makes report.html anew from report.json and metrics.jsonl of a run folder.
/// Throws Error(kData) if there is none. Returns the path of the page.
std::filesystem::path render_run_report(const std::filesystem::path& folder);

}  // namespace aspis::train

#pragma once

#include <string>
#include <vector>

#include "aspis/cli/cli.h"
#include "aspis/io/config_json.h"
#include "aspis/models/pretrained.h"

/// What the commands that read weights have in common.
namespace aspis::cli {

/// A named model with changes of its config; without a name the weights tell.
struct ModelChoice {
  std::string model;
  std::vector<std::string> set;
};

void add_choice(CLI::App* command, ModelChoice& choice);
/// --ema, --adapt, --partial.
void add_weight_options(CLI::App* command, WeightOptions& options);

/// "key=value" as overrides. Throws Error(kUsage).
Overrides parse_overrides(const std::vector<std::string>& set);

/// Opens weights; if they do not fit, every missing, extra and misshapen tensor is
/// listed on stderr before the error is thrown.
Pretrained open_weights(const Context& context, const std::string& source, const ModelChoice& choice,
                        const WeightOptions& options);

/// The report for --json.
ConfigWriter report_json(const WeightReport& report);

}  // namespace aspis::cli

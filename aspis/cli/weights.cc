#include "aspis/cli/weights.h"

#include <fmt/format.h>

#include "aspis/cli/output.h"
#include "aspis/nn/init.h"

namespace aspis::cli {

void add_choice(CLI::App* command, ModelChoice& choice) {
  add_option(command, "--model", choice.model, "Model the weights are of; default: what their shapes tell");
  add_option(command, "--set", choice.set, "Change the model's config: key=value, repeatable");
}

void add_weight_options(CLI::App* command, WeightOptions& options) {
  add_flag(command, "--ema", options.ema, "Take the running average of the weights that the file holds");
  add_flag(command, "--adapt", options.adapt,
           "Resize positions, change the first channels, keep the model's own classifier, where these differ");
  add_flag(command, "--partial", options.partial, "Take the tensors that fit and leave the rest");
}

Overrides parse_overrides(const std::vector<std::string>& set) {
  Overrides overrides;
  for (const auto& s : set) {
    const size_t eq = s.find('=');
    if (eq == std::string::npos || eq == 0) {
      throw Error(ErrorKind::kUsage, {.where = "--set",
                                      .required = "a change of the config is key=value",
                                      .got = s,
                                      .hint = "--set depth=2"});
    }
    overrides.emplace_back(s.substr(0, eq), s.substr(eq + 1));
  }
  return overrides;
}

Pretrained open_weights(const Context& context, const std::string& source, const ModelChoice& choice,
                        const WeightOptions& options) {
  if (choice.model.empty() && !choice.set.empty()) {
    throw Error(ErrorKind::kUsage,
                {.where = "--set", .required = "changes of a config need --model", .got = "none"});
  }
  const Overrides overrides = parse_overrides(choice.set);
  const auto path = find_model_files(source);
  try {
    Pretrained p = open_pretrained(path, choice.model, overrides, options);
    for (const auto& change : p.report.adapted) print_note(context, change + "\n");
    if (!p.report.complete()) print_note(context, p.report.text());
    return p;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kModel || choice.model.empty()) throw;
    // Once more without loading, for the whole list.
    std::error_code ec;
    const auto file = std::filesystem::is_directory(path, ec) ? weights_in_folder(path) : path;
    try {
      const BlankWeights blank;
      const WeightFile weights = WeightFile::open(file);
      const WeightReport report = match_weights(*make_model(choice.model, overrides), weights, options);
      if (!report.complete()) print_note(context, report.text());
    } catch (const Error&) {
      // The file itself cannot be read; the first error says it.
    }
    throw;
  }
}

ConfigWriter report_json(const WeightReport& report) {
  ConfigWriter w;
  w.set("file", report.file);
  w.set("kind", report.kind);
  w.set("dict", report.group);
  w.set("prefix", report.prefix);
  w.set("channels_first", report.channels_first);
  w.set("complete", report.complete());
  w.set("tensors", report.expected);
  w.set("fitting", report.fitting);
  w.set("missing", report.missing);
  w.set("extra", report.extra);
  w.set("misshapen", report.misshapen);
  w.set("adapted", report.adapted);
  return w;
}

}  // namespace aspis::cli

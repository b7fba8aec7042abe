#pragma once

#include "aspis/cli/cli.h"

/// The commands, one function and one file each. A new one is a line here, a
/// line in main.cc and a file.
namespace aspis::cli {

void add_train(CLI::App& app, Context& context);
void add_eval(CLI::App& app, Context& context);
void add_classify(CLI::App& app, Context& context);
void add_embed(CLI::App& app, Context& context);
void add_features(CLI::App& app, Context& context);
void add_explain(CLI::App& app, Context& context);
void add_compare_models(CLI::App& app, Context& context);
void add_convert(CLI::App& app, Context& context);
void add_model(CLI::App& app, Context& context);
void add_data(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);
void add_profile(CLI::App& app, Context& context);
void add_ops(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);
void add_report(CLI::App& app, Context& context);
void add_completion(CLI::App& app, Context& context);

}  // namespace aspis::cli

#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

namespace aspis::cli {

/// Reader of run configs: TOML (one table per command) with unknown keys as
/// errors, and with the environment above the file (CLI11 itself has it the
/// other way round). Precedence: default < file < environment < flag.
std::shared_ptr<CLI::Config> make_config_reader(const CLI::App& app);

/// "default", "file", "environment" or "flag".
std::string origin_of(const CLI::Option& option);

/// Notes which options were given as flags; call with argv before parsing.
void remember_flags(const std::vector<std::string>& arguments);

}  // namespace aspis::cli

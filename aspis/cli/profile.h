#pragma once

#include <memory>
#include <string>

#include "aspis/cli/cli.h"
#include "aspis/ops/common/profile.h"

namespace aspis::cli {

/// --profile and what belongs to it, for the commands that compute.
struct ProfileOptions {
  std::string trace;  ///< file of the trace; empty: no profile
  int skip = 1;
  int steps = 20;
};

void add_profile_options(CLI::App* command, ProfileOptions& options);

/// Lives while a command computes; with --profile it times every operation.
class ProfileScope {
 public:
  ProfileScope(const Context& context, const ProfileOptions& options);
  ~ProfileScope();
  /// Writes the trace and prints the table, after the command's own result: to
  /// stdout, or to stderr with --json or where stdout is `for_machines`.
  /// Nothing without --profile.
  void finish(bool for_machines = false);

 private:
  const Context& context_;
  const ProfileOptions options_;
  std::unique_ptr<ops::Profiler> profiler_;
};

/// `aspis profile train ...` as `aspis train ... --profile=aspis.trace.json`;
/// other arguments as they are.
std::vector<std::string> without_profile_word(std::vector<std::string> arguments);

}  // namespace aspis::cli

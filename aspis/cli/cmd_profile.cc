#include <fmt/format.h>

#include <algorithm>

#include "aspis/base/file.h"
#include "aspis/bench/profile_table.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/profile.h"

namespace aspis::cli {

namespace {

constexpr const char* kProfiled[] = {"train", "eval", "classify"};
constexpr const char* kTrace = "aspis.trace.json";

}  // namespace

void add_profile_options(CLI::App* command, ProfileOptions& o) {
  // Not part of a run's config: a resumed run is not profiled again.
  command->add_option("--profile", o.trace, "Time every operation; write a trace for Perfetto to this file")
      ->group("Profile")
      ->configurable(false);
  command->add_option("--profile-steps", o.steps, "Evaluations of the graph that are recorded")
      ->group("Profile")
      ->configurable(false)
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--profile-skip", o.skip, "Evaluations before those, as a warm-up")
      ->group("Profile")
      ->configurable(false)
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
}

ProfileScope::ProfileScope(const Context& context, const ProfileOptions& options)
    : context_(context), options_(options) {
  if (!options_.trace.empty()) profiler_ = std::make_unique<ops::Profiler>(options_.skip, options_.steps);
}

ProfileScope::~ProfileScope() = default;

void ProfileScope::finish(bool for_machines) {
  if (!profiler_) return;
  const auto summary = bench::summarize_profile(*profiler_, harness::machine_bounds());
  std::string title = "aspis";
  for (const auto& a : context_.arguments) title += " " + a;
  write_file_atomic(options_.trace, bench::chrome_trace(*profiler_, title), false);
  const report::Table table = bench::profile_table(summary);
  if (context_.globals.json || for_machines) {
    print_err(table.render(report::TableFormat::kText));
  } else {
    print_table(context_, table, "");
  }
  const auto& b = harness::machine_bounds();
  print_err(fmt::format(
      "{}bounds measured now: {:.0f} GFLOP/s, {:.2f} G exp/s, {:.1f} GB/s ({} threads, {})\ntrace: {} (open it at "
      "ui.perfetto.dev)\n",
      bench::profile_notes(summary), b.fma_flops / 1e9, b.exps / 1e9, b.bytes / 1e9, b.threads, b.isa,
      options_.trace));
}

std::vector<std::string> without_profile_word(std::vector<std::string> arguments) {
  const auto word = std::find(arguments.begin(), arguments.end(), "profile");
  // Global options may stand before it.
  if (word == arguments.end() ||
      std::any_of(arguments.begin(), word, [](const auto& a) { return a.empty() || a[0] != '-'; })) {
    return arguments;
  }
  const auto next = word + 1;
  if (next == arguments.end() ||
      std::find(std::begin(kProfiled), std::end(kProfiled), *next) == std::end(kProfiled)) {
    return arguments;
  }
  const bool named = std::any_of(next, arguments.end(),
                                 [](const auto& a) { return a == "--profile" || a.rfind("--profile=", 0) == 0; });
  arguments.erase(word);
  if (!named) arguments.push_back(std::string("--profile=") + kTrace);
  return arguments;
}

void add_profile(CLI::App& app, Context&) {
  auto words = std::make_shared<std::vector<std::string>>();
  CLI::App* c = add_command(
      app, "profile", "Look inside", "Run another command and time every operation of its graph",
      {"aspis profile train --data shapes --dry-run", "aspis profile eval --model runs/first --limit-batches 4",
       "aspis profile classify pictures --model runs/first --profile classify.trace.json"},
      [words] {
        throw Error(ErrorKind::kUsage, {.where = "profile",
                                        .required = "a command that computes is needed: train, eval or classify",
                                        .got = words->empty() ? "none" : "'" + words->front() + "'",
                                        .hint = "aspis profile train --data shapes --dry-run"});
      });
  c->add_option("command", *words, "train, eval or classify, with its options");
}

}  // namespace aspis::cli

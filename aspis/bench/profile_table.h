#pragma once

#include <string>
#include <vector>

#include "aspis/ops/common/profile.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/report/table.h"

namespace aspis::bench {

/// All calls of one operation in the recorded evaluations.
struct ProfileRow {
  std::string name;
  bool engine = false;
  int64_t calls = 0;
  double seconds = 0;
  double bytes = 0, flops = 0, exps = 0;
  double bound_seconds = 0;  ///< the least time for its bytes, flops and exponentials, summed over calls
};

/// What a profile says of the whole.
struct ProfileSummary {
  std::vector<ProfileRow> rows;  ///< longest first; views left out
  int evaluations = 0;
  double wall_seconds = 0;            ///< of the recorded evaluations
  double operation_seconds = 0;       ///< spent in operations
  double engine_seconds = 0;          ///< of that, in operations of MLX
  std::vector<std::string> findings;  ///< operations of MLX with more than `finding_share` of the wall time
};

ProfileSummary summarize_profile(const ops::Profiler& profiler, const harness::MachineBounds& bounds,
                                 double finding_share = 0.01);

/// One row an operation: time and calls of one evaluation, share of the wall
/// time, bytes, flops, share of the bound; a last row for what lies between.
report::Table profile_table(const ProfileSummary& summary);

/// Some lines for people: evaluations, wall time, what MLX holds, findings.
std::string profile_notes(const ProfileSummary& summary);

/// The recorded operations in Chrome's trace format (JSON), which Perfetto and
/// chrome://tracing open: one track for the engine's stream, one for the thread
/// that hands the work over, a counter of the engine's memory.
std::string chrome_trace(const ops::Profiler& profiler, const std::string& title);

}  // namespace aspis::bench

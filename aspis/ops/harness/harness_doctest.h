#pragma once

#include <doctest/doctest.h>

#include "aspis/ops/harness/harness.h"
#include "aspis/simd/isa.h"

namespace aspis::harness {

/// Runs every kCheck or kGrad case of an operator on every instruction set the
/// machine has, and fails with the name of the case and what was wrong.
inline void expect_conforms(const OpEntry& entry, CheckOptions options = {}) {
  int checked = 0;
  for (const std::string& isa : supported_isas()) {
    force_isa(isa);
    for (const OpInstance& instance : entry.instances()) {
      if (!(instance.plain.uses & (kCheck | kGrad)) || (instance.plain.uses & kFull)) continue;
      const CheckResult result = check_case(entry, instance, options);
      CHECK_MESSAGE(result.passed, entry.name, " ", result.case_name, " on ", isa, ", seed ", options.seed, ": ",
                    result.message);
      checked++;
    }
  }
  force_isa("");
  CHECK_MESSAGE(checked > 0, entry.name, " has no case to check");
}

/// Runs the kGrid cases of an operator whose name begins with `grid`, or those that are kLong too, and fails
/// unless there are `count` of them. Threads, layouts and other instruction sets are left to the smaller cases.
inline void expect_grid(const OpEntry& entry, const std::string& grid, int count, bool long_ones = false) {
  int checked = 0;
  Errors single, wide;
  for (const OpInstance& instance : entry.instances()) {
    const unsigned uses = instance.plain.uses;
    if (!(uses & kGrid) || long_ones != ((uses & kLong) != 0) || instance.plain.name.rfind(grid, 0) != 0) continue;
    const CheckResult result = check_case(entry, instance, {.threads = false, .layouts = false});
    CHECK_MESSAGE(result.passed, entry.name, " ", result.case_name, ": ", result.message);
    single.raise(result.single), wide.raise(result.wide);
    checked++;
  }
  CHECK_MESSAGE(checked == count, entry.name, " has ", checked, " cases of ", grid);
  MESSAGE(entry.name, " ", grid, ": largest errors float32 ", single.forward, " ", single.gradient, ", float64 ",
          wide.forward, " ", wide.gradient);
}

}  // namespace aspis::harness

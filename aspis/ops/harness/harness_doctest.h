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

}  // namespace aspis::harness

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct PscanCase {
  std::vector<int> shape;  // {B, L, ..}
  bool initial;
  unsigned uses;
};

inline const std::vector<PscanCase> kPscanCases = {
    {{1, 1, 1}, false, harness::kCheck | harness::kGrad},
    {{2, 5, 3, 2}, true, harness::kCheck | harness::kGrad},
    {{1, 7, 4}, false, harness::kCheck | harness::kGrad},
    {{2, 69, 5, 16}, true, harness::kCheck},
    {{3, 33, 130}, false, harness::kCheck},
    {{1, 3001, 3, 4}, true, harness::kCheck},  // cut into segments
    {{2, 1024, 17}, false, harness::kCheck},
    {{2, 196, 384, 16}, false, harness::kPerf},
    {{1, 65536, 64}, false, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct RmsNormCase {
  std::vector<int> shape;
  bool residual, weight;
  unsigned uses;
};

inline const std::vector<RmsNormCase> kRmsNormCases = {
    {{3, 5}, false, false, harness::kCheck | harness::kGrad},
    {{3, 5}, false, true, harness::kCheck | harness::kGrad},
    {{2, 2, 17}, true, true, harness::kCheck | harness::kGrad},
    {{2, 7}, true, false, harness::kCheck | harness::kGrad},
    {{4, 1}, false, true, harness::kCheck},
    {{6}, true, true, harness::kCheck},
    {{3, 50, 192}, true, true, harness::kCheck},
    {{4000, 33}, false, true, harness::kCheck},
    {{2, 20001}, true, true, harness::kCheck},
    {{8, 196, 768}, false, true, harness::kPerf},
    {{8, 196, 768}, true, true, harness::kPerf},
    {{16, 1024, 768}, true, true, harness::kPerf},
};

}  // namespace aspis

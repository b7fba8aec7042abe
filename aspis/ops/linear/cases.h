#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct LinearCase {
  std::vector<int> x;  // {..., in}
  int out;
  bool bias;
  unsigned uses;
};

inline const std::vector<LinearCase> kLinearCases = {
    {{1}, 1, true, harness::kCheck | harness::kGrad},
    {{2, 3, 5}, 4, true, harness::kCheck | harness::kGrad},
    {{3, 4}, 2, false, harness::kCheck | harness::kGrad},
    {{19, 33}, 17, true, harness::kCheck},
    {{2, 70, 36}, 65, true, harness::kCheck},
    {{1300, 20}, 9, true, harness::kCheck},
    {{8, 196, 384}, 768, false, harness::kPerf},
    {{32, 196, 64}, 256, true, harness::kPerf},
    {{32, 196, 128}, 36, false, harness::kPerf},
    {{32, 196, 128}, 64, false, harness::kPerf},
    {{128, 196, 192}, 768, true, harness::kPerf},
};

}  // namespace aspis

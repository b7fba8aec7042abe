#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct AdamWCase {
  std::vector<int> shape;  // of each of two parameters
  int step;
  double max_norm;
  unsigned uses;
};

inline const std::vector<AdamWCase> kAdamWCases = {
    {{1}, 1, 0, harness::kCheck},          {{3, 7}, 1, 1, harness::kCheck},
    {{2, 40, 33}, 9, 0, harness::kCheck},  {{150, 333}, 100, 2, harness::kCheck},
    {{5000, 1000}, 10, 1, harness::kPerf},
};

}  // namespace aspis

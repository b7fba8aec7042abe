#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct ReduceCase {
  std::vector<int> shape, axes;
  bool keepdims, mean;
  unsigned uses;
};

inline const std::vector<ReduceCase> kReduceCases = {
    {{3, 5}, {1}, false, false, harness::kCheck | harness::kGrad},
    {{3, 5}, {0}, true, false, harness::kCheck | harness::kGrad},
    {{2, 3, 4}, {}, false, true, harness::kCheck | harness::kGrad},
    {{2, 3, 2, 4}, {1, 2}, false, true, harness::kCheck | harness::kGrad},
    {{2, 3, 2, 4}, {0, -2}, true, false, harness::kCheck | harness::kGrad},
    {{2, 3, 2, 4}, {1, 3}, false, true, harness::kCheck | harness::kGrad},
    {{3, 2000, 33}, {1}, false, true, harness::kCheck},
    {{7, 40001}, {1}, false, false, harness::kCheck},
    {{16384, 768}, {0}, false, false, harness::kPerf},
    {{16384, 768}, {1}, false, true, harness::kPerf},
    {{64, 56, 56, 64}, {1, 2}, false, true, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct GeluCase {
  std::vector<int> shape;
  bool tanh_approximation;
  unsigned uses;
};

inline const std::vector<GeluCase> kGeluCases = {
    {{1}, false, harness::kCheck | harness::kGrad},
    {{3, 5}, false, harness::kCheck | harness::kGrad},
    {{3, 5}, true, harness::kCheck | harness::kGrad},
    {{2, 7, 33}, false, harness::kCheck},
    {{2, 7, 33}, true, harness::kCheck},
    {{3, 40001}, false, harness::kCheck},
    {{8, 196, 1536}, false, harness::kPerf},
    {{8, 196, 1536}, true, harness::kPerf},
    {{64, 196, 1536}, false, harness::kPerf},
    {{64, 196, 1536}, true, harness::kPerf},
};

}  // namespace aspis

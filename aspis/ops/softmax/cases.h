#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct SoftmaxCase {
  std::vector<int> shape;
  unsigned uses;
};

inline const std::vector<SoftmaxCase> kSoftmaxCases = {
    {{3, 5}, harness::kCheck | harness::kGrad},
    {{2, 2, 17}, harness::kCheck | harness::kGrad},
    {{4}, harness::kCheck | harness::kGrad},
    {{5, 1}, harness::kCheck},
    {{2, 3, 197}, harness::kCheck},
    {{40, 1000}, harness::kCheck},
    {{2, 70001}, harness::kCheck},
    {{8, 12, 196, 196}, harness::kPerf},
    {{1024, 1000}, harness::kPerf},
    {{16384, 1000}, harness::kPerf},
};

}  // namespace aspis

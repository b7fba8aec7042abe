#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct SiluCase {
  std::vector<int> shape;
  unsigned uses;
};

inline const std::vector<SiluCase> kSiluCases = {
    {{1}, harness::kCheck | harness::kGrad}, {{3, 5}, harness::kCheck | harness::kGrad},
    {{2, 7, 33}, harness::kCheck},           {{3, 40001}, harness::kCheck},
    {{8, 196, 1536}, harness::kPerf},        {{64, 196, 1536}, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct GradNormCase {
  std::vector<std::vector<int>> shapes;
  unsigned uses;
};

inline const std::vector<GradNormCase> kGradNormCases = {
    {{{1}}, harness::kCheck},
    {{{3, 5}, {7}, {2, 3, 4}}, harness::kCheck},
    {{{300, 200}, {131}, {40, 1000}}, harness::kCheck},
    {{{2560, 1024}, {1024, 2560}, {5120, 1024}}, harness::kPerf},
};

}  // namespace aspis

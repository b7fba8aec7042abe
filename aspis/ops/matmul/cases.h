#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct MatmulCase {
  std::vector<int> a, b;  // as stored
  bool transpose_a, transpose_b;
  unsigned uses;
};

inline const std::vector<MatmulCase> kMatmulCases = {
    {{1, 1}, {1, 1}, false, false, harness::kCheck | harness::kGrad},
    {{2, 3, 4}, {2, 4, 5}, false, false, harness::kCheck | harness::kGrad},
    {{2, 4, 3}, {2, 4, 2}, true, false, harness::kCheck | harness::kGrad},
    {{2, 3, 4}, {5, 4}, false, true, harness::kCheck | harness::kGrad},
    {{4, 3}, {2, 1, 5, 4}, true, true, harness::kCheck | harness::kGrad},
    {{2, 3, 50, 17}, {2, 3, 17, 33}, false, false, harness::kCheck},
    {{1, 600, 20}, {1, 600, 70}, true, false, harness::kCheck},
    {{8, 6, 196, 64}, {8, 6, 196, 64}, false, true, harness::kPerf},
    {{8, 6, 196, 196}, {8, 6, 196, 64}, false, false, harness::kPerf},
};

}  // namespace aspis

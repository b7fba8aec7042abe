#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct AddNCase {
  std::vector<int> shape;
  int count;
  unsigned uses;
};

inline const std::vector<AddNCase> kAddNCases = {
    {{1}, 1, harness::kCheck | harness::kGrad},
    {{3, 5}, 2, harness::kCheck | harness::kGrad},
    {{3, 5}, 3, harness::kCheck | harness::kGrad},
    {{2, 7, 33}, 5, harness::kCheck},
    {{3, 20001}, 4, harness::kCheck},
    {{8, 196, 1536}, 3, harness::kPerf},
};

}  // namespace aspis

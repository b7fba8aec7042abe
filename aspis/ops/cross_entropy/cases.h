#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct CrossEntropyCase {
  int rows, classes;
  bool soft;
  double smoothing;
  int reduction;  // 0 none, 1 mean, 2 sum
  unsigned uses;
};

inline const std::vector<CrossEntropyCase> kCrossEntropyCases = {
    {1, 2, false, 0, 1, harness::kCheck | harness::kGrad},
    {4, 5, false, 0.1, 1, harness::kCheck | harness::kGrad},
    {4, 5, true, 0.1, 0, harness::kCheck | harness::kGrad},
    {3, 4, true, 0, 1, harness::kCheck | harness::kGrad},
    {5, 3, false, 0.3, 0, harness::kCheck | harness::kGrad},
    {64, 10, false, 0.1, 1, harness::kCheck},
    {70, 131, false, 0, 2, harness::kCheck},
    {33, 1000, true, 0.1, 1, harness::kCheck},
    {128, 1000, false, 0.1, 1, harness::kPerf},
    {1024, 50280, false, 0, 1, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct CrossCase {
  int batch;
  std::vector<int64_t> grid;
  int width;
  bool mean;  // cross_merge only
  unsigned uses;
};

inline const std::vector<CrossCase> kCrossCases = {
    {1, {1}, 1, false, harness::kCheck | harness::kGrad},
    {2, {2, 3}, 3, true, harness::kCheck | harness::kGrad},
    {1, {2, 2, 2}, 2, false, harness::kCheck | harness::kGrad},
    {2, {7, 5}, 33, false, harness::kCheck},
    {3, {1, 9}, 17, true, harness::kCheck},
    {1, {2, 3, 2, 3}, 40, false, harness::kCheck},
    {8, {14, 14}, 384, false, harness::kPerf},
};

}  // namespace aspis

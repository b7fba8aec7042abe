#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"
#include "aspis/ops/optimizers/optimizers.h"

namespace aspis {

struct OptimizersCase {
  OptimizerRule rule;
  std::vector<int> shape;  // of each of two parameters
  int step;
  double max_norm;
  unsigned uses;
};

inline const std::vector<OptimizersCase> kOptimizersCases = {
    {{.kind = OptimizerKind::kAdamW}, {40, 33}, 9, 1, harness::kCheck},
    {{.kind = OptimizerKind::kSgd}, {3, 7}, 1, 0, harness::kCheck},
    {{.kind = OptimizerKind::kSgd, .nesterov = true}, {2, 40, 33}, 9, 1, harness::kCheck},
    {{.kind = OptimizerKind::kLion, .beta2 = 0.99}, {150, 333}, 3, 2, harness::kCheck},
    {{.kind = OptimizerKind::kLamb, .eps = 1e-6}, {150, 333}, 3, 2, harness::kCheck},
    {{.kind = OptimizerKind::kMuon, .beta1 = 0.95, .eps = 1e-7, .nesterov = true},
     {40, 3, 9},
     2,
     1,
     harness::kCheck},
    {{.kind = OptimizerKind::kMuon, .beta1 = 0.95, .eps = 1e-7, .original_factor = true},
     {33, 20},
     1,
     0,
     harness::kCheck},
    {{.kind = OptimizerKind::kSgd}, {5000, 1000}, 10, 1, harness::kPerf},
    {{.kind = OptimizerKind::kLion}, {5000, 1000}, 10, 1, harness::kPerf},
    {{.kind = OptimizerKind::kLamb, .eps = 1e-6}, {5000, 1000}, 10, 1, harness::kPerf},
    {{.kind = OptimizerKind::kMuon, .beta1 = 0.95, .eps = 1e-7}, {1536, 384}, 10, 1, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct LayerNormCase {
  std::vector<int> shape;
  bool residual, weight, bias;
  unsigned uses;
};

inline const std::vector<LayerNormCase> kLayerNormCases = {
    {{3, 5}, false, false, false, harness::kCheck | harness::kGrad},
    {{3, 5}, false, true, true, harness::kCheck | harness::kGrad},
    {{4, 6}, false, true, false, harness::kCheck | harness::kGrad},
    {{2, 3, 9}, false, false, true, harness::kCheck | harness::kGrad},
    {{2, 2, 17}, true, true, true, harness::kCheck | harness::kGrad},
    {{2, 7}, true, false, false, harness::kCheck | harness::kGrad},
    {{2, 7}, true, false, true, harness::kCheck | harness::kGrad},
    {{4, 1}, false, true, true, harness::kCheck},
    {{6}, true, true, true, harness::kCheck},
    {{3, 50, 192}, true, true, true, harness::kCheck},
    {{4000, 33}, false, true, true, harness::kCheck},
    {{2, 20001}, false, true, true, harness::kCheck},
    {{8, 196, 768}, false, true, true, harness::kPerf},
    {{8, 196, 768}, true, true, true, harness::kPerf},
    {{16, 1024, 768}, true, true, true, harness::kPerf},
};

/// Of layer_norm_channels_first: {B, N, ...} without a residual.
inline const std::vector<LayerNormCase> kChannelsFirstCases = {
    {{2, 3, 5}, false, true, true, harness::kCheck | harness::kGrad},
    {{2, 4, 2, 3}, false, false, true, harness::kCheck | harness::kGrad},
    {{3, 5}, false, true, false, harness::kCheck | harness::kGrad},
    {{2, 1, 3}, false, true, true, harness::kCheck},
    {{2, 40, 17, 19}, false, true, true, harness::kCheck},
    {{8, 96, 56, 56}, false, true, true, harness::kPerf},
};

}  // namespace aspis

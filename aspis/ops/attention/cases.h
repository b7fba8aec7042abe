#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct AttentionCase {
  int batch, queries, keys, heads, dim;
  bool causal;
  float scale;  // 0: 1 / sqrt(dim)
  unsigned uses;
};

inline const std::vector<AttentionCase> kAttentionCases = {
    {1, 1, 1, 1, 1, false, 0, harness::kCheck | harness::kGrad},
    {2, 3, 5, 2, 3, false, 0, harness::kCheck | harness::kGrad},
    {1, 4, 4, 2, 2, true, 0.7f, harness::kCheck | harness::kGrad},
    {1, 2, 5, 1, 3, true, 0, harness::kCheck | harness::kGrad},
    {2, 70, 33, 2, 16, false, 0, harness::kCheck},
    {1, 131, 131, 3, 21, true, 0, harness::kCheck},
    {1, 17, 300, 1, 64, true, 0.2f, harness::kCheck},
    {8, 196, 196, 6, 64, false, 0, harness::kPerf},
};

}  // namespace aspis

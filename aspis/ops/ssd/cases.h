#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: D skip, d skip by channel, z gate, b dt bias, s softplus,
/// l dt limits, i initial state, q seq_idx, c cu_seqlens (three sequences).
struct SsdCase {
  int batch, length, heads, headdim, groups, state, chunk;
  std::string options;
  unsigned uses;
};

inline const std::vector<SsdCase> kSsdCases = {
    {1, 1, 1, 1, 1, 1, 0, "", harness::kCheck | harness::kGrad},
    {2, 5, 2, 2, 1, 3, 2, "Dzbsi", harness::kCheck | harness::kGrad},
    {1, 6, 4, 2, 2, 2, 4, "dzbsi", harness::kCheck | harness::kGrad},
    {2, 6, 2, 2, 1, 2, 3, "Dzsiq", harness::kCheck | harness::kGrad},
    {1, 7, 2, 2, 2, 2, 2, "dbsic", harness::kCheck | harness::kGrad},
    {2, 33, 3, 40, 1, 16, 0, "Dzbsi", harness::kCheck},
    {1, 70, 4, 16, 2, 7, 16, "dzbsl", harness::kCheck},
    {1, 130, 2, 64, 1, 128, 0, "Dzbsi", harness::kCheck},
    {1, 70, 3, 9, 1, 8, 16, "zbsic", harness::kCheck},
    {2, 37, 2, 8, 1, 8, 8, "Dsiq", harness::kCheck},
    {1, 257, 5, 80, 5, 32, 0, "Dzbsi", harness::kCheck | harness::kFull},
    {1, 150, 3, 24, 1, 256, 64, "Dzbsi", harness::kCheck | harness::kFull},
    {1, 2048, 24, 64, 1, 128, 0, "", harness::kPerf},
    {1, 2048, 24, 64, 1, 128, 64, "", harness::kPerf},
    {1, 8192, 24, 64, 1, 128, 0, "", harness::kPerf},
    {1, 2048, 24, 64, 1, 128, 0, "Dzbs", harness::kPerf},
    {8, 196, 12, 64, 1, 64, 0, "Dzbs", harness::kPerf},
};

}  // namespace aspis

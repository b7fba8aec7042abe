#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: D skip, z gate, b delta bias, s softplus, i initial state,
/// r reverse, o order, B or C constant, p packed by cu_seqlens, q by seq_idx;
/// x complex A, B, C and states, as pairs (see pairs.h), N numbers each; t one token
/// through the step; u values as the upstream test draws them.
struct ScanCase {
  int batch, length, channels, state, groups;
  std::string options;
  unsigned uses;
  std::string grid = {};  ///< of which upstream test, in front of the name
};

inline const std::vector<ScanCase> kScanCases = {
    {1, 1, 1, 1, 1, "", harness::kCheck | harness::kGrad},
    {2, 3, 3, 2, 1, "Dzbsi", harness::kCheck | harness::kGrad},
    {1, 5, 4, 3, 2, "Dzbsir", harness::kCheck | harness::kGrad},
    {2, 4, 2, 2, 1, "so", harness::kCheck | harness::kGrad},
    {1, 4, 6, 2, 3, "Dbsior", harness::kCheck | harness::kGrad},
    {2, 3, 3, 2, 1, "sBi", harness::kCheck | harness::kGrad},
    {2, 3, 3, 2, 1, "DsC", harness::kCheck | harness::kGrad},
    {1, 3, 3, 2, 1, "zbBC", harness::kCheck | harness::kGrad},
    {1, 9, 3, 2, 1, "Dzbsip", harness::kCheck | harness::kGrad},
    {1, 7, 4, 2, 2, "sirp", harness::kCheck | harness::kGrad},
    {2, 9, 3, 2, 1, "Dzbsiq", harness::kCheck | harness::kGrad},
    {2, 6, 2, 3, 1, "irqC", harness::kCheck | harness::kGrad},
    {2, 3, 3, 2, 1, "Dzbsix", harness::kCheck | harness::kGrad},
    {1, 4, 4, 1, 2, "sorx", harness::kCheck | harness::kGrad},
    {1, 3, 2, 2, 1, "DsixBC", harness::kCheck | harness::kGrad},
    {1, 9, 3, 2, 1, "Dzsipx", harness::kCheck | harness::kGrad},
    {2, 33, 19, 5, 1, "Dzbsiqx", harness::kCheck},
    {1, 90, 37, 16, 1, "Dzbsip", harness::kCheck},
    {3, 50, 20, 7, 2, "Dzbsiq", harness::kCheck},
    {2, 16, 16, 16, 1, "Dzbs", harness::kCheck},
    {1, 33, 37, 16, 1, "Dzbsi", harness::kCheck},
    {2, 17, 20, 7, 2, "Dzbsr", harness::kCheck},
    {1, 70, 24, 17, 3, "zsoi", harness::kCheck},
    {1, 19, 18, 64, 1, "Dbs", harness::kCheck},
    {1, 300, 33, 8, 1, "Dzbs", harness::kCheck | harness::kFull},
    {1, 40, 17, 256, 1, "Dzbsi", harness::kCheck | harness::kFull},
    {2, 196, 1536, 16, 1, "", harness::kPerf},
    {8, 196, 384, 16, 1, "", harness::kPerf},
    {1, 512, 1536, 16, 1, "", harness::kPerf},
    {2, 196, 1536, 16, 1, "Dzbs", harness::kPerf},
    {8, 196, 384, 16, 1, "Dzbs", harness::kPerf},
    {1, 512, 1536, 16, 1, "Dzbs", harness::kPerf},
    {64, 49, 128, 16, 1, "Dzbso", harness::kPerf},
    {8, 3136, 192, 1, 4, "Dzbs", harness::kPerf},  // VMamba, first stage
    {8, 196, 320, 8, 1, "Dbs", harness::kPerf},    // MambaVision
    {1, 2048, 1536, 64, 1, "Dzbs", harness::kPerf},
    {1, 2048, 1536, 16, 1, "Dzbs", harness::kPerf},
    {1, 2048, 1536, 16, 1, "Dzbsp", harness::kPerf},  // packed beside dense
    {2, 196, 1536, 16, 1, "Dzbsx", harness::kPerf},
    {1, 65536, 96, 16, 1, "Dzbs", harness::kPerf},
    {1, 65536, 16, 16, 1, "Dzbs", harness::kPerf},
};

/// Upstream's test_selective_scan.py with the lengths that it has commented out, each option left out in turn, and
/// test_selective_state_update.py, whose heads with values of their own for every channel are groups here.
inline std::vector<ScanCase> scan_grid() {
  constexpr unsigned kUses = harness::kCheck | harness::kFull | harness::kGrid;
  std::vector<ScanCase> cases;
  for (const int length : {8, 16, 32, 64, 128, 256, 372, 512, 784, 1024, 1134, 2048, 4096}) {
    for (const int groups : {1, 2}) {
      for (const char* options : {"Dzbsu", "zbsu", "Dbsu", "Dzsu", "Dzbu"})
        cases.push_back({2, length, 4, 8, groups, options, kUses, "test_selective_scan"});
    }
  }
  for (const int channels : {2048, 2064, 4096}) {
    for (const int state : {16, 32, 64}) {
      for (const char* options : {"Dzbsitu", "Dbsitu"})
        cases.push_back({2, 1, channels, state, 1, options, kUses, "test_selective_state_update"});
    }
  }
  for (const int channels : {2048, 4096}) {
    for (const int groups : {2, 4})
      cases.push_back({2, 1, channels, 64, groups, "Dzbsitu", kUses, "test_selective_state_update_with_heads"});
  }
  return cases;
}

}  // namespace aspis

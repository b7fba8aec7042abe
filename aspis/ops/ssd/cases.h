#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: D skip, d skip by channel, z gate, b dt bias, s softplus,
/// l dt limits, i initial state, q seq_idx, c cu_seqlens (three sequences), v those of 300
/// sequences of 1 to 199 tokens; t one token through the step; w a dt that is uniform in
/// its logarithm, 0.001 to 0.1, with A = -1 (w) or -16 (W).
struct SsdCase {
  int batch, length, heads, headdim, groups, state, chunk;
  std::string options;
  unsigned uses;
  std::string grid = {};  ///< of which upstream test, in front of the name
};

/// Bounds of 300 packed sequences of 1 to 199 tokens.
inline std::vector<int32_t> ssd_varlen_bounds() {
  std::vector<int32_t> cu{0};
  for (int i = 0; i < 300; i++) cu.push_back(cu.back() + 1 + (i * 7919) % 199);
  return cu;
}

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

/// Upstream's grids: one value of A, dt and D a head in the step ("tied"), the packed states, llama.cpp's
/// SSM_SCAN, and the lengths and decays at which operators.md 7.2 gives what float32 can reach.
inline std::vector<SsdCase> ssd_grid() {
  using harness::kLong;
  constexpr unsigned kUses = harness::kCheck | harness::kFull | harness::kGrid;
  std::vector<SsdCase> cases;
  for (const int heads : {32, 64}) {
    for (const int groups : {1, 2, 4}) {
      for (const int state : {16, 32, 64}) {
        for (const char* options : {"Dzbsit", "dbsit"})
          cases.push_back({2, 1, heads, 64, groups, state, 0, options, kUses, "test_selective_state_update"});
      }
    }
  }
  const int packed = ssd_varlen_bounds().back();
  for (const auto& [groups, chunk] : {std::pair{1, 64}, {2, 128}, {8, 0}})
    cases.push_back({1, packed, 8, 4, groups, 8, chunk, "sv", kUses, "chunk_state_varlen"});
  cases.push_back({1, packed, 64, 64, 8, 32, 64, "sv", kUses | kLong, "chunk_state_varlen"});
  for (const auto& [state, headdim, heads, groups, length, batch] :
       std::vector<std::array<int, 6>>{{16, 1, 1024, 1, 32, 4},
                                       {128, 64, 16, 2, 32, 4},
                                       {256, 64, 8, 2, 32, 4},
                                       {64, 40, 6, 3, 70, 1},
                                       {128, 80, 2, 1, 70, 1}})
    cases.push_back({batch, length, heads, headdim, groups, state, 0, "si", kUses, "SSM_SCAN"});
  for (const char* decay : {"w", "W"}) {
    for (const int chunk : {0, 16, 64, 256})
      cases.push_back({1, 4096, 1, 64, 1, 128, chunk, decay, kUses, "log-uniform"});
  }
  return cases;
}

}  // namespace aspis

#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: a angles (N / 4 of them), n norms of B and C, b their
/// biases and that of dt, D skip, z gate, o output norm, m rank vectors, s softplus
/// for A, h half pairs, i initial state, c cu_seqlens (four sequences); t one token
/// through the step; u values as the upstream tests draw them.
struct Mamba3Case {
  int batch, length, heads, headdim, rank, groups, state, chunk;
  std::string options;
  unsigned uses;
  std::string grid = {};  ///< of which upstream test, in front of the name
};

inline const std::vector<Mamba3Case> kMamba3Cases = {
    {1, 1, 1, 1, 1, 1, 4, 0, "", harness::kCheck | harness::kGrad},
    {2, 4, 2, 2, 1, 1, 4, 3, "anbDzi", harness::kCheck | harness::kGrad},
    {1, 5, 2, 2, 1, 2, 4, 2, "anbosDi", harness::kCheck | harness::kGrad},
    {1, 4, 2, 2, 2, 1, 4, 2, "anbDzmhi", harness::kCheck | harness::kGrad},
    {1, 7, 1, 2, 1, 1, 4, 3, "abzic", harness::kCheck | harness::kGrad},
    {2, 33, 3, 40, 1, 1, 16, 0, "anbDzi", harness::kCheck},
    {1, 70, 2, 64, 1, 1, 128, 0, "anbDz", harness::kCheck},
    {1, 37, 4, 16, 4, 2, 32, 0, "anbDzmohi", harness::kCheck},
    {1, 40, 2, 9, 3, 1, 8, 4, "anbDzmhic", harness::kCheck},
    {1, 150, 4, 80, 2, 4, 64, 0, "anbDzmhi", harness::kCheck | harness::kFull},
    {1, 2048, 24, 64, 1, 1, 128, 0, "anbDz", harness::kPerf},
    {1, 1024, 24, 64, 4, 1, 128, 0, "anbDzmh", harness::kPerf},
};

/// Upstream's tests of Mamba-3. Their sizes are B 128, L 2345, H 32, G 4 (SISO), B 4, L 2048, H 16 (MIMO) and
/// B 128, H 64 (step); those with kLong have them but for the batch, on which no value depends (tests/properties),
/// the others have fewer heads and tokens too.
inline std::vector<Mamba3Case> mamba3_grid() {
  constexpr unsigned kUses = harness::kCheck | harness::kFull | harness::kGrid, kLong = kUses | harness::kLong;
  std::vector<Mamba3Case> cases;
  for (const char* options : {"anbDu", "anbDzu", "anbDziu", "anbDzicu"})
    cases.push_back({1, 345, 4, 64, 1, 2, 128, 0, options, kUses, "SISO"});
  cases.push_back({1, 2345, 32, 64, 1, 4, 128, 0, "anbDzu", kLong, "SISO"});
  struct Shape {
    int state, headdim, rank, chunk;
  };
  for (const auto& [state, headdim, rank, chunk] : std::vector<Shape>{{16, 64, 4, 8},
                                                                      {32, 64, 4, 16},
                                                                      {64, 64, 4, 16},
                                                                      {128, 64, 4, 16},
                                                                      {256, 64, 4, 8},
                                                                      {64, 128, 4, 16},
                                                                      {128, 32, 4, 16},
                                                                      {128, 128, 4, 8},
                                                                      {128, 64, 8, 8},
                                                                      {128, 64, 2, 32},
                                                                      {128, 64, 1, 64}}) {
    cases.push_back({2, 67, 2, headdim, rank, 1, state, 0, "abDzmhiu", kUses, "MIMO"});
    cases.push_back({2, 67, 2, headdim, rank, 1, state, chunk, "abDzmhu", kUses, "MIMO"});
    cases.push_back({1, 67, 2, headdim, rank, 1, state, chunk, "abDzmhicu", kUses, "MIMO"});
    cases.push_back({1, 2048, 16, headdim, rank, 1, state, chunk, "abDzmhu", kLong, "MIMO"});
  }
  for (const int state : {32, 128}) {
    cases.push_back({2, 67, 2, 64, 4, 1, state, 0, "abDzmhou", kUses, "MIMO"});
    cases.push_back({1, 2048, 16, 64, 4, 1, state, 0, "abDzmhou", kLong, "MIMO"});
  }
  for (const int rank : {1, 4})
    cases.push_back({4, 1, 64, 64, rank, 1, 128, 0, rank > 1 ? "abDzmhitu" : "anbDzitu", kUses, "step"});
  return cases;
}

}  // namespace aspis

#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: a angles (N / 4 of them), n norms of B and C, b their
/// biases and that of dt, D skip, z gate, o output norm, m rank vectors, s softplus
/// for A, h half pairs, i initial state, c cu_seqlens (four sequences).
struct Mamba3Case {
  int batch, length, heads, headdim, rank, groups, state, chunk;
  std::string options;
  unsigned uses;
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

}  // namespace aspis

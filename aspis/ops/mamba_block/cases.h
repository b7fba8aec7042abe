#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct MambaBlockCase {
  int batch, length, width, inner, state, taps, rank;
  int branches;  // every second one in reverse
  bool order;    // visits the tokens in a permuted order
  unsigned uses;
};

inline const std::vector<MambaBlockCase> kMambaBlockCases = {
    {1, 3, 2, 3, 2, 2, 1, 1, false, harness::kCheck | harness::kGrad},
    {2, 4, 2, 2, 1, 4, 2, 2, false, harness::kCheck | harness::kGrad},
    {1, 5, 2, 2, 2, 3, 1, 1, true, harness::kCheck | harness::kGrad},
    {3, 70, 5, 20, 3, 4, 2, 2, false, harness::kCheck},
    {18, 33, 7, 17, 4, 4, 1, 1, true, harness::kCheck},
    {128, 64, 64, 128, 8, 4, 4, 1, false, harness::kPerf},    // the demo
    {8, 197, 192, 384, 16, 4, 12, 2, false, harness::kPerf},  // Vim-Tiny
};

}  // namespace aspis

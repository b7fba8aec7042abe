#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct Conv1dCase {
  int batch, length, channels, width;
  unsigned uses;
  bool silu = true, bias = true, symmetric = false, reverse = false, order = false;
  bool initial_state = false, final_state = false;
  char packed = ' ';  ///< 'c' by cu_seqlens, 'i' by seq_idx
};

inline const std::vector<Conv1dCase> kConv1dCases = {
    // Tiny ones: finite differences of every input.
    {.batch = 2,
     .length = 5,
     .channels = 3,
     .width = 4,
     .uses = harness::kCheck | harness::kGrad,
     .initial_state = true,
     .final_state = true},
    {.batch = 1,
     .length = 2,
     .channels = 5,
     .width = 4,
     .uses = harness::kCheck | harness::kGrad,
     .reverse = true,
     .initial_state = true,
     .final_state = true},
    {.batch = 2,
     .length = 6,
     .channels = 2,
     .width = 3,
     .uses = harness::kCheck | harness::kGrad,
     .symmetric = true,
     .order = true},
    {.batch = 1,
     .length = 4,
     .channels = 3,
     .width = 6,
     .uses = harness::kCheck | harness::kGrad,
     .silu = false,
     .bias = false,
     .reverse = true,
     .order = true,
     .final_state = true},
    {.batch = 1, .length = 1, .channels = 1, .width = 1, .uses = harness::kCheck | harness::kGrad},
    {.batch = 1,
     .length = 9,
     .channels = 2,
     .width = 4,
     .uses = harness::kCheck | harness::kGrad,
     .initial_state = true,
     .final_state = true,
     .packed = 'c'},
    {.batch = 2,
     .length = 7,
     .channels = 2,
     .width = 3,
     .uses = harness::kCheck | harness::kGrad,
     .reverse = true,
     .initial_state = true,
     .final_state = true,
     .packed = 'i'},
    {.batch = 1,
     .length = 8,
     .channels = 3,
     .width = 3,
     .uses = harness::kCheck | harness::kGrad,
     .symmetric = true,
     .packed = 'c'},
    {.batch = 3,
     .length = 131,
     .channels = 33,
     .width = 4,
     .uses = harness::kCheck,
     .initial_state = true,
     .final_state = true,
     .packed = 'i'},
    // Odd sizes, more than one block of tokens.
    {.batch = 2, .length = 131, .channels = 33, .width = 4, .uses = harness::kCheck, .order = true},
    {.batch = 3,
     .length = 67,
     .channels = 17,
     .width = 2,
     .uses = harness::kCheck,
     .symmetric = true,
     .reverse = true},
    {.batch = 1,
     .length = 70,
     .channels = 19,
     .width = 18,
     .uses = harness::kCheck,
     .initial_state = true,
     .final_state = true},
    {.batch = 1, .length = 129, .channels = 600, .width = 3, .uses = harness::kCheck, .symmetric = true},
    // A small vision Mamba, a large one, and a long row.
    {.batch = 8, .length = 196, .channels = 768, .width = 4, .uses = harness::kPerf},
    {.batch = 16, .length = 512, .channels = 1536, .width = 4, .uses = harness::kPerf},
    {.batch = 8, .length = 196, .channels = 768, .width = 4, .uses = harness::kPerf, .order = true},
    {.batch = 1, .length = 4096, .channels = 1536, .width = 4, .uses = harness::kPerf},
    {.batch = 1, .length = 4096, .channels = 1536, .width = 4, .uses = harness::kPerf, .packed = 'c'},
    {.batch = 8, .length = 196, .channels = 768, .width = 3, .uses = harness::kPerf, .symmetric = true},
};

}  // namespace aspis

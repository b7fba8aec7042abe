#pragma once

#include <array>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct ConvCase {
  std::vector<int> x;                            // {B, (D,) H, W, C}
  std::vector<int> weight;                       // {O, (kd,) kh, kw, C / groups}
  std::array<int, 3> stride, padding, dilation;  // 2-D cases use the last two
  int groups;
  bool bias;
  unsigned uses;
};

inline const std::vector<ConvCase> kConv2dCases = {
    {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, true, harness::kCheck | harness::kGrad},
    {{2, 4, 5, 3}, {4, 3, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1, true, harness::kCheck | harness::kGrad},
    {{1, 5, 6, 4}, {6, 3, 2, 2}, {1, 2, 3}, {0, 1, 0}, {1, 1, 1}, 2, false, harness::kCheck | harness::kGrad},
    {{1, 6, 7, 2}, {3, 2, 3, 2}, {1, 1, 2}, {0, 2, 1}, {1, 2, 3}, 1, true, harness::kCheck | harness::kGrad},
    {{1, 5, 4, 3}, {3, 3, 3, 1}, {1, 2, 1}, {0, 1, 1}, {1, 1, 1}, 3, true, harness::kCheck | harness::kGrad},
    {{3, 9, 7, 5}, {7, 1, 1, 5}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, true, harness::kCheck},
    {{3, 9, 8, 5}, {7, 1, 1, 5}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, 1, false, harness::kCheck},
    {{2, 12, 12, 3}, {19, 4, 4, 3}, {1, 4, 4}, {0, 0, 0}, {1, 1, 1}, 1, true, harness::kCheck},
    {{2, 40, 33, 17}, {33, 3, 3, 17}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1, true, harness::kCheck},
    {{1, 11, 13, 600}, {20, 3, 3, 600}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, true, harness::kCheck},
    {{2, 19, 17, 37}, {37, 7, 7, 1}, {1, 1, 1}, {0, 3, 3}, {1, 1, 1}, 37, true, harness::kCheck},
    {{2, 18, 17, 36}, {36, 3, 3, 1}, {1, 2, 2}, {0, 2, 2}, {1, 2, 2}, 36, false, harness::kCheck},
    {{2, 15, 16, 24}, {48, 3, 3, 6}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 4, true, harness::kCheck},
    {{8, 112, 112, 64}, {64, 3, 3, 64}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1, true, harness::kPerf},
    {{8, 28, 28, 160}, {320, 3, 3, 160}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, false, harness::kPerf},
    {{8, 224, 224, 3}, {64, 3, 3, 3}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, false, harness::kPerf},
    {{8, 56, 56, 96}, {96, 7, 7, 1}, {1, 1, 1}, {0, 3, 3}, {1, 1, 1}, 96, true, harness::kPerf},
    {{8, 224, 224, 3}, {192, 16, 16, 3}, {1, 16, 16}, {0, 0, 0}, {1, 1, 1}, 1, true, harness::kPerf},
};

inline const std::vector<ConvCase> kConv3dCases = {
    {{1, 3, 4, 3, 2}, {3, 2, 3, 2, 2}, {1, 2, 1}, {1, 1, 0}, {1, 1, 2}, 1, true, harness::kCheck | harness::kGrad},
    {{2, 1, 3, 4, 2},
     {2, 3, 1, 2, 1},
     {1, 1, 1},
     {2, 0, 1},
     {1, 1, 1},
     2,
     false,
     harness::kCheck | harness::kGrad},
    {{2, 8, 9, 7, 6}, {10, 3, 3, 3, 6}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 1, true, harness::kCheck},
    {{1, 6, 8, 9, 20}, {20, 3, 3, 3, 1}, {2, 1, 1}, {1, 1, 1}, {1, 1, 1}, 20, true, harness::kCheck},
    {{2, 32, 32, 32, 32}, {32, 3, 3, 3, 32}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 1, true, harness::kPerf},
};

struct TransposedConvCase {
  std::vector<int> x;                                            // {B, (D,) H, W, C}
  std::vector<int> weight;                                       // {C, (kd,) kh, kw, O / groups}
  std::array<int, 3> stride, padding, dilation, output_padding;  // 2-D cases use the last two
  int groups;
  bool bias;
  unsigned uses;
};

inline const std::vector<TransposedConvCase> kTransposedConv2dCases = {
    {{1, 1, 1, 1},
     {1, 1, 1, 1},
     {1, 1, 1},
     {0, 0, 0},
     {1, 1, 1},
     {0, 0, 0},
     1,
     true,
     harness::kCheck | harness::kGrad},
    {{2, 3, 2, 3},
     {3, 2, 3, 2},
     {1, 2, 2},
     {0, 0, 1},
     {1, 1, 1},
     {0, 1, 0},
     1,
     true,
     harness::kCheck | harness::kGrad},
    {{1, 3, 4, 4},
     {4, 3, 2, 1},
     {1, 1, 3},
     {0, 1, 0},
     {1, 2, 1},
     {0, 0, 2},
     2,
     false,
     harness::kCheck | harness::kGrad},
    {{2, 7, 9, 12}, {12, 2, 2, 20}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kCheck},
    {{1, 8, 27, 22}, {22, 3, 3, 24}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kCheck},
    {{1, 8, 9, 10}, {10, 3, 3, 1}, {1, 2, 2}, {0, 1, 1}, {1, 1, 1}, {0, 1, 1}, 10, true, harness::kCheck},
    {{8, 28, 28, 256}, {256, 2, 2, 128}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kPerf},
    {{8, 56, 56, 64}, {64, 3, 3, 64}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kPerf},
};

inline const std::vector<TransposedConvCase> kTransposedConv3dCases = {
    {{1, 2, 3, 2, 2},
     {2, 2, 1, 2, 3},
     {2, 1, 2},
     {0, 0, 1},
     {1, 1, 1},
     {1, 0, 1},
     1,
     true,
     harness::kCheck | harness::kGrad},
    {{1, 4, 5, 6, 8}, {8, 2, 2, 2, 7}, {2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kCheck},
    {{1, 16, 16, 16, 64}, {64, 2, 2, 2, 32}, {2, 2, 2}, {0, 0, 0}, {1, 1, 1}, {0, 0, 0}, 1, true, harness::kPerf},
};

}  // namespace aspis

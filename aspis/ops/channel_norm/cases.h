#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"
#include "aspis/simd/activation.h"

namespace aspis {

struct ChannelNormCase {
  std::vector<int> shape;
  int groups;  ///< of group_norm; ignored by batch_norm
  Activation activation;
  bool residual, weight, bias;
  bool given;  ///< statistics are given (batch_norm in inference)
  unsigned uses;
};

inline constexpr unsigned kTiny = harness::kCheck | harness::kGrad;

inline const std::vector<ChannelNormCase> kBatchNormCases = {
    {{3, 5}, 0, Activation::kNone, false, true, true, false, kTiny},
    {{2, 3, 2, 4}, 0, Activation::kRelu, true, true, true, false, kTiny},
    {{5, 3}, 0, Activation::kSilu, false, false, false, false, kTiny},
    {{4, 3}, 0, Activation::kGelu, true, true, false, false, kTiny},
    {{4, 3}, 0, Activation::kGeluTanh, false, true, true, false, kTiny},
    {{4, 3}, 0, Activation::kNone, true, false, true, false, kTiny},
    {{4, 3}, 0, Activation::kRelu, true, true, true, true, kTiny},
    {{2, 3, 5}, 0, Activation::kNone, false, true, true, true, kTiny},
    {{2, 40, 33, 17}, 0, Activation::kRelu, false, true, true, false, harness::kCheck},
    {{70, 700}, 0, Activation::kNone, true, true, true, true, harness::kCheck},
    {{8, 56, 56, 80}, 0, Activation::kNone, false, true, true, false, harness::kPerf},
    {{8, 56, 56, 80}, 0, Activation::kRelu, true, true, true, false, harness::kPerf},
    {{8, 56, 56, 80}, 0, Activation::kGeluTanh, false, true, true, false, harness::kPerf},
    {{8, 56, 56, 80}, 0, Activation::kRelu, false, true, true, true, harness::kPerf},
    {{32, 56, 56, 160}, 0, Activation::kNone, false, true, true, false, harness::kPerf},
};

inline const std::vector<ChannelNormCase> kGroupNormCases = {
    {{2, 3, 4}, 2, Activation::kNone, false, true, true, false, kTiny},
    {{2, 2, 2, 6}, 3, Activation::kRelu, true, true, true, false, kTiny},
    {{2, 5, 3}, 3, Activation::kNone, false, true, true, false, kTiny},  // instance norm
    {{2, 3, 5}, 1, Activation::kSilu, false, false, true, false, kTiny},
    {{3, 4}, 2, Activation::kGelu, true, true, false, false, kTiny},
    {{3, 40, 7, 24}, 4, Activation::kGeluTanh, false, true, true, false, harness::kCheck},
    {{2, 130, 3, 300}, 300, Activation::kNone, false, true, true, false, harness::kCheck},
    {{8, 56, 56, 80}, 16, Activation::kNone, false, true, true, false, harness::kPerf},
    {{8, 56, 56, 80}, 80, Activation::kNone, false, true, true, false, harness::kPerf},
    {{32, 56, 56, 160}, 32, Activation::kSilu, false, true, true, false, harness::kPerf},
};

}  // namespace aspis

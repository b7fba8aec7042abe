#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"
#include "aspis/ops/linear/kernel/epilogue.h"

namespace aspis {

struct LinearCase {
  std::vector<int> x;  // {..., in}
  int out;
  bool bias;
  unsigned uses;
  Activation activation = Activation::kNone;
  bool residual = false;
};

inline const std::vector<LinearCase> kLinearCases = {
    {{1}, 1, true, harness::kCheck | harness::kGrad},
    {{2, 3, 5}, 4, true, harness::kCheck | harness::kGrad},
    {{3, 4}, 2, false, harness::kCheck | harness::kGrad},
    {{19, 33}, 17, true, harness::kCheck},
    {{2, 70, 36}, 65, true, harness::kCheck},
    {{1300, 20}, 9, true, harness::kCheck},
    {{2, 3, 4}, 5, true, harness::kCheck | harness::kGrad, Activation::kSilu, true},
    {{3, 4}, 5, true, harness::kCheck | harness::kGrad, Activation::kGelu},
    {{3, 4}, 3, false, harness::kCheck | harness::kGrad, Activation::kGeluTanh, true},
    {{3, 5}, 4, true, harness::kCheck | harness::kGrad, Activation::kRelu},
    {{3, 5}, 4, true, harness::kCheck | harness::kGrad, Activation::kRelu, true},
    {{2, 90, 20}, 37, true, harness::kCheck, Activation::kGelu, true},
    {{97, 600}, 70, true, harness::kCheck, Activation::kSilu},
    {{3, 20}, 200, false, harness::kCheck, Activation::kNone, true},
    {{8, 196, 384}, 768, false, harness::kPerf},
    {{32, 196, 64}, 256, true, harness::kPerf},
    {{32, 196, 128}, 36, false, harness::kPerf},
    {{32, 196, 128}, 64, false, harness::kPerf},
    {{128, 196, 192}, 768, true, harness::kPerf},
    {{8, 196, 384}, 1536, true, harness::kPerf, Activation::kGelu},
    {{8, 196, 1536}, 384, true, harness::kPerf, Activation::kNone, true},
};

}  // namespace aspis

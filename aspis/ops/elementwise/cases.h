#pragma once

#include <vector>

#include "aspis/ops/elementwise/kernel/params.h"
#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct PointwiseCase {
  kernel::Pointwise kind;
  std::vector<int> shape;
  unsigned uses;
};

inline const std::vector<PointwiseCase> kPointwiseCases = {
    {kernel::Pointwise::kRelu, {3, 5}, harness::kCheck | harness::kGrad},
    {kernel::Pointwise::kSigmoid, {3, 5}, harness::kCheck | harness::kGrad},
    {kernel::Pointwise::kTanh, {3, 5}, harness::kCheck | harness::kGrad},
    {kernel::Pointwise::kSoftplus, {3, 5}, harness::kCheck | harness::kGrad},
    {kernel::Pointwise::kTanh, {3, 20001}, harness::kCheck},
    {kernel::Pointwise::kRelu, {16, 196, 3072}, harness::kPerf},
    {kernel::Pointwise::kTanh, {16, 196, 3072}, harness::kPerf},
    {kernel::Pointwise::kSoftplus, {16, 196, 3072}, harness::kPerf},
};

struct CombineCase {
  kernel::Combine kind;
  std::vector<int> a, b, c;
  unsigned uses;
};

inline const std::vector<CombineCase> kCombineCases = {
    {kernel::Combine::kAdd, {3, 5}, {5}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kAdd, {5}, {3, 5}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiply, {2, 3, 4}, {2, 1, 1}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiply, {2, 3, 1}, {1, 4}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiply, {3, 1}, {2, 3, 1}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiplyAdd, {2, 3, 4}, {4}, {2, 3, 4}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiplyAdd, {2, 3, 4}, {2, 1, 1}, {3, 1}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiplyAdd, {2, 1, 1}, {1}, {2, 3, 4}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiply, {2, 1, 2, 1, 2, 3}, {2, 1, 2, 1, 3}, {}, harness::kCheck | harness::kGrad},
    {kernel::Combine::kMultiplyAdd, {40, 33, 37}, {37}, {40, 33, 37}, harness::kCheck},
    {kernel::Combine::kMultiplyAdd, {8, 56, 56, 96}, {96}, {8, 56, 56, 96}, harness::kPerf},
    {kernel::Combine::kAdd, {8, 196, 3072}, {196, 3072}, {}, harness::kPerf},
};

struct DropoutCase {
  std::vector<int> shape;
  double rate;
  unsigned uses;
};

inline const std::vector<DropoutCase> kDropoutCases = {
    {{3, 7}, 0.5, harness::kCheck | harness::kGrad},
    {{3, 301}, 0.1, harness::kCheck},
    {{16, 196, 3072}, 0.1, harness::kPerf},
};

}  // namespace aspis

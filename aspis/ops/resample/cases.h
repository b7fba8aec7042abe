#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"
#include "aspis/ops/resample/kernel/axis_table.h"

namespace aspis {

struct InterpolateCase {
  std::vector<int> shape, size;
  kernel::Interpolation mode;
  bool align_corners, antialias;
  unsigned uses;
};

inline const std::vector<InterpolateCase> kInterpolateCases = {
    {{2, 3, 2}, {5}, kernel::Interpolation::kNearest, false, false, harness::kCheck | harness::kGrad},
    {{1, 3, 4, 2}, {5, 2}, kernel::Interpolation::kLinear, false, false, harness::kCheck | harness::kGrad},
    {{1, 3, 4, 2}, {4, 5}, kernel::Interpolation::kCubic, false, false, harness::kCheck | harness::kGrad},
    {{1, 6, 5, 1}, {3, 2}, kernel::Interpolation::kCubic, false, true, harness::kCheck | harness::kGrad},
    {{1, 2, 3, 2, 3}, {3, 2, 4}, kernel::Interpolation::kLinear, true, false, harness::kCheck | harness::kGrad},
    {{2, 7, 9, 35}, {14, 18}, kernel::Interpolation::kNearestExact, false, false, harness::kCheck},
    {{2, 16, 16, 33}, {24, 7}, kernel::Interpolation::kCubic, true, false, harness::kCheck},
    {{8, 56, 56, 96}, {112, 112}, kernel::Interpolation::kLinear, false, false, harness::kPerf},
    {{8, 112, 112, 96}, {56, 56}, kernel::Interpolation::kLinear, false, true, harness::kPerf},
    {{8, 56, 56, 96}, {112, 112}, kernel::Interpolation::kNearest, false, false, harness::kPerf},
    {{1, 14, 14, 768}, {24, 24}, kernel::Interpolation::kCubic, false, true, harness::kPerf},
};

}  // namespace aspis

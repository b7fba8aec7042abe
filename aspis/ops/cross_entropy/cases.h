#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct CrossEntropyCase {
  std::string name;
  int rows, classes;
  bool soft;
  double smoothing;
  int reduction;     ///< 0 mean, 1 sum, 2 none
  int ignore_index;  ///< the cases draw labels from 0 .. classes-1
  unsigned uses;
};

inline const std::vector<CrossEntropyCase> kCrossEntropyCases = {
    {"labels_mean", 4, 5, false, 0, 0, -100, harness::kCheck | harness::kGrad},
    {"labels_sum_smooth", 3, 7, false, 0.1, 1, -100, harness::kCheck | harness::kGrad},
    {"labels_none_smooth", 5, 3, false, 0.3, 2, -100, harness::kCheck | harness::kGrad},
    {"labels_mean_ignore", 9, 3, false, 0.1, 0, 1, harness::kCheck | harness::kGrad},
    {"weights_mean", 3, 5, true, 0, 0, -100, harness::kCheck | harness::kGrad},
    {"weights_sum_smooth", 3, 4, true, 0.2, 1, -100, harness::kCheck | harness::kGrad},
    {"weights_none", 2, 17, true, 0.1, 2, -100, harness::kCheck | harness::kGrad},
    {"one_class", 3, 1, false, 0.1, 2, -100, harness::kCheck},
    {"many_rows", 5000, 10, false, 0.1, 0, 3, harness::kCheck},
    {"many_classes", 7, 21841, true, 0.1, 2, -100, harness::kCheck},
    {"labels_256x1000", 256, 1000, false, 0.1, 0, -100, harness::kPerf},
    {"labels_8192x1000", 8192, 1000, false, 0.1, 0, -100, harness::kPerf},
    {"weights_256x1000", 256, 1000, true, 0, 0, -100, harness::kPerf},
};

}  // namespace aspis

#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct PoolCase {
  std::vector<int> shape;
  std::vector<int> window, stride, padding, dilation;  ///< window is the size of the result if adaptive
  bool adaptive, ceil_mode, count_include_pad;
  unsigned uses;
};

inline const std::vector<PoolCase> kPoolCases = {
    {{2, 7, 3}, {3}, {2}, {1}, {}, false, false, true, harness::kCheck | harness::kGrad},
    {{1, 5, 6, 2}, {2, 3}, {2, 1}, {0, 1}, {}, false, true, false, harness::kCheck | harness::kGrad},
    {{1, 3, 4, 5, 2}, {2}, {}, {}, {}, false, false, true, harness::kCheck | harness::kGrad},
    {{2, 5, 7, 2}, {3, 2}, {}, {}, {}, true, false, true, harness::kCheck | harness::kGrad},
    {{2, 3, 2, 1}, {4, 1}, {}, {}, {}, true, false, true, harness::kCheck | harness::kGrad},
    {{2, 33, 31, 40}, {3}, {2}, {1}, {}, false, true, false, harness::kCheck},
    {{8, 112, 112, 64}, {3}, {2}, {1}, {}, false, false, true, harness::kPerf},
    {{8, 56, 56, 96}, {2}, {2}, {}, {}, false, false, true, harness::kPerf},
    {{8, 7, 7, 640}, {1}, {}, {}, {}, true, false, true, harness::kPerf},
};

/// Of max_pool only.
inline const std::vector<PoolCase> kDilatedPoolCases = {
    {{1, 7, 6, 3}, {2, 3}, {1, 2}, {1, 1}, {2, 1}, false, false, true, harness::kCheck | harness::kGrad},
};

}  // namespace aspis

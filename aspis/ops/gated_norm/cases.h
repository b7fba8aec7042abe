#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

/// Options as letters: z gate, w weight, b bias (layer norm), n norm before gate.
struct GatedNormCase {
  std::vector<int> shape;
  int group;
  std::string options;
  unsigned uses;
  std::string grid = {};  ///< of which upstream test, in front of the name
};

inline const std::vector<GatedNormCase> kRmsnormGatedCases = {
    {{2, 3}, 0, "", harness::kCheck | harness::kGrad},
    {{2, 2, 6}, 3, "zw", harness::kCheck | harness::kGrad},
    {{3, 4}, 0, "zwn", harness::kCheck | harness::kGrad},
    {{5, 7, 66}, 33, "zw", harness::kCheck},
    {{40, 96}, 0, "zwn", harness::kCheck},
    {{300, 2048}, 64, "zw", harness::kCheck | harness::kFull},
    {{8, 1024, 1536}, 0, "zw", harness::kPerf},
    {{8, 1024, 1536}, 64, "zwn", harness::kPerf},
};

inline const std::vector<GatedNormCase> kLayerNormGatedCases = {
    {{2, 2, 6}, 3, "zwb", harness::kCheck | harness::kGrad},
    {{3, 4}, 0, "zwbn", harness::kCheck | harness::kGrad},
    {{5, 7, 66}, 33, "zwb", harness::kCheck},
    {{40, 96}, 0, "zwbn", harness::kCheck},
    {{8, 1024, 1536}, 0, "zwb", harness::kPerf},
};

/// Upstream's test_layernorm_gated.py.
inline std::vector<GatedNormCase> gated_norm_grid(bool layer_norm) {
  constexpr unsigned kUses = harness::kCheck | harness::kFull | harness::kGrid;
  std::vector<GatedNormCase> cases;
  for (const int width : {2048, 4096}) {
    for (const int group : {0, 64}) {
      for (const char* options : {"w", "zw", "wn", "zwn"}) {
        cases.push_back({{16, width}, group, options, kUses, "test_layernorm_gated"});
        if (layer_norm)
          cases.push_back({{16, width}, group, std::string(options) + "b", kUses, "test_layernorm_gated"});
      }
    }
  }
  return cases;
}

}  // namespace aspis

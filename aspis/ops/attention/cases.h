#pragma once

#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct AttentionCase {
  enum Mask { kNone, kCausal, kBias, kKeyBias, kAllow };
  int batch, queries, keys, heads, kv_heads, dim;
  Mask mask;
  float scale;  // 0: 1 / sqrt(dim)
  unsigned uses;
};

inline const std::vector<AttentionCase> kAttentionCases = {
    {1, 1, 1, 1, 1, 1, AttentionCase::kNone, 0, harness::kCheck | harness::kGrad},
    {2, 3, 5, 2, 2, 3, AttentionCase::kNone, 0, harness::kCheck | harness::kGrad},
    {1, 4, 4, 2, 2, 2, AttentionCase::kCausal, 0.7f, harness::kCheck | harness::kGrad},
    {1, 2, 5, 2, 1, 3, AttentionCase::kCausal, 0, harness::kCheck | harness::kGrad},
    {2, 3, 4, 4, 2, 2, AttentionCase::kBias, 0, harness::kCheck | harness::kGrad},
    {2, 3, 4, 1, 1, 2, AttentionCase::kKeyBias, 0, harness::kCheck | harness::kGrad},
    {1, 4, 5, 2, 1, 3, AttentionCase::kAllow, 0, harness::kCheck | harness::kGrad},
    {2, 70, 33, 2, 2, 16, AttentionCase::kNone, 0, harness::kCheck},
    {1, 131, 131, 3, 3, 21, AttentionCase::kCausal, 0, harness::kCheck},
    {1, 17, 300, 2, 1, 64, AttentionCase::kCausal, 0.2f, harness::kCheck},
    {1, 66, 600, 2, 1, 40, AttentionCase::kAllow, 0, harness::kCheck},
    {8, 196, 196, 6, 6, 64, AttentionCase::kNone, 0, harness::kPerf},
    {1, 2048, 2048, 8, 2, 64, AttentionCase::kCausal, 0, harness::kPerf},
    {8, 196, 196, 6, 6, 64, AttentionCase::kKeyBias, 0, harness::kPerf},
};

struct WindowAttentionCase {
  int batch, height, width, heads, kv_heads, dim, side;
  unsigned uses;
};

inline const std::vector<WindowAttentionCase> kWindowAttentionCases = {
    {1, 3, 2, 1, 1, 2, 2, harness::kCheck | harness::kGrad},
    {2, 1, 5, 2, 1, 3, 3, harness::kCheck | harness::kGrad},
    {1, 3, 3, 1, 1, 2, 7, harness::kCheck | harness::kGrad},
    {2, 19, 11, 2, 2, 20, 9, harness::kCheck},
    {8, 28, 28, 4, 4, 32, 14, harness::kPerf},  // MambaVision-T on images of 448 pixels
    {8, 20, 20, 4, 4, 32, 14, harness::kPerf},  // with rest
};

}  // namespace aspis

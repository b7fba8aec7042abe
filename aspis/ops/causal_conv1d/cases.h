#pragma once

#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

namespace aspis {

struct Conv1dCase {
  int batch, length, channels, width;
  unsigned uses;
  bool silu = true, bias = true, symmetric = false, reverse = false, order = false;
  bool initial_state = false, final_state = false;
  char packed = ' ';      ///< 'c' by cu_seqlens, 'i' by seq_idx
  std::string grid = {};  ///< of which upstream test, in front of the name
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

/// Upstream's test_causal_conv1d.py: every length with every width, SiLU, bias and kind of row (plain, with
/// states, packed) at 64 channels, where lengths above 372 take every fifth; and every length and width at 4128
/// channels, where those of more than a million values a batch are only in the long tests, but for one width of
/// each length up to 512.
inline std::vector<Conv1dCase> conv1d_grid() {
  constexpr unsigned kUses = harness::kCheck | harness::kFull | harness::kGrid;
  std::vector<Conv1dCase> cases;
  int turn = 0;
  const auto add = [&](int length, int channels, int width, bool silu, bool bias, int kind, unsigned uses) {
    if (kind == 2 && length < 3) kind = 1;  // a row that can hold no second sequence
    cases.push_back({.batch = 2,
                     .length = length,
                     .channels = channels,
                     .width = width,
                     .uses = uses,
                     .silu = silu,
                     .bias = bias,
                     .initial_state = kind == 1,
                     .final_state = kind >= 1,
                     .packed = kind == 2 ? 'i' : ' ',
                     .grid = "test_causal_conv1d"});
  };
  for (const int length : {1, 2, 8, 16, 32, 64, 128, 129, 130, 151, 256, 372, 512, 784, 1024, 1134, 2048, 4096}) {
    for (const int width : {2, 3, 4}) {
      for (const bool silu : {false, true}) {
        for (const bool bias : {false, true}) {
          for (const int kind : {0, 1, 2}) {
            turn++;
            if (length <= 372 || turn % 5 == 0) add(length, 64, width, silu, bias, kind, kUses);
          }
        }
      }
      const bool is_long = length > 512 || (length > 130 && width != 2 + length % 3);
      if (length >= 128) {
        const unsigned uses = is_long ? kUses | harness::kLong : kUses;
        add(length, 4128, width, turn % 2 == 0, turn % 4 < 2, turn % 3, uses);
      } else {
        for (const int kind : {0, 1, 2}) add(length, 4128, width, kind != 1, kind != 2, kind, kUses);
      }
    }
  }
  return cases;
}

}  // namespace aspis

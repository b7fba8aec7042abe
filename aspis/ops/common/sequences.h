#pragma once

#include <cstdint>
#include <vector>

/// Packed sequences as kernels see them; the rules are those of packing.h.
namespace aspis::kernel {

/// Tokens [first, first + length) of a row that belong together.
struct Sequence {
  int64_t row = 0, first = 0, length = 0;
  int64_t initial = -1;  ///< the initial state that it starts from; -1: zero
  int64_t last = -1;     ///< the last state that it ends in; -1: none
  bool padding = false;  ///< outputs and gradients are 0, there is no state
};

/// Every row is a sequence, with a state of its own at either end.
std::vector<Sequence> row_sequences(int64_t batch, int64_t length);

/// Sequences one after another in the only row, empty ones included: `bounds`
/// {S + 1}, not falling, from 0 to the length. Sequence i has states i.
std::vector<Sequence> bounded_sequences(const std::vector<int32_t>& bounds);

/// Sequences by their ids {batch, length}, in the order in which their tokens are
/// visited (from the end of a row if `reverse`): the state is 0 again where the id
/// differs from that of the step before, or from 0 at the first. Negative ids are
/// padding. A row's initial state belongs to its first sequence if that has id 0,
/// its last state to the last one unless that is padding.
std::vector<Sequence> id_sequences(int64_t batch, int64_t length, const int32_t* ids, bool reverse);

}  // namespace aspis::kernel

#include "aspis/ops/common/packing.h"

#include "aspis/ops/common/primitive.h"

namespace aspis::ops {

void require_cu_seqlens(const char* op, const std::vector<int32_t>& cu_seqlens, int64_t batch, int64_t length) {
  const auto fail = [&](const std::string& required, const std::string& got, const std::string& hint) {
    throw Error(ErrorKind::kUsage, {.where = op, .required = required, .got = got, .hint = hint});
  };
  if (batch != 1) {
    fail("cu_seqlens needs a batch of 1", "a batch of " + std::to_string(batch),
         "lay the rows one after another, {1, B*L, ..}, or use seq_idx");
  }
  if (cu_seqlens.size() < 2 || cu_seqlens.front() != 0) {
    fail("cu_seqlens must start with 0 and name at least one end",
         cu_seqlens.empty()
             ? "no values"
             : std::to_string(cu_seqlens.size()) + " values from " + std::to_string(cu_seqlens.front()),
         "pass {0, l0, l0 + l1, .., L}");
  }
  for (size_t i = 1; i < cu_seqlens.size(); i++) {
    if (cu_seqlens[i] < cu_seqlens[i - 1]) {
      fail("cu_seqlens must not fall",
           std::to_string(cu_seqlens[i - 1]) + " then " + std::to_string(cu_seqlens[i]) + " at place " +
               std::to_string(i),
           "pass running sums of the lengths");
    }
  }
  if (cu_seqlens.back() != length) {
    fail("cu_seqlens must end at the number of tokens, " + std::to_string(length),
         std::to_string(cu_seqlens.back()), "cover padding with a last sequence of its own");
  }
}

void require_seq_idx(const char* op, const mx::array& seq_idx, int64_t batch, int64_t length) {
  require_shape(op, "seq_idx", seq_idx, {static_cast<int>(batch), static_cast<int>(length)}, "{B, L}");
  if (seq_idx.dtype() != mx::int32) {
    throw Error(ErrorKind::kUsage, {.where = op,
                                    .required = "seq_idx must be int32",
                                    .got = to_string(seq_idx.dtype()),
                                    .hint = "convert it with astype(int32)"});
  }
}

mx::array cu_seqlens_array(const std::vector<int32_t>& cu_seqlens) {
  return mx::array(cu_seqlens.data(), {static_cast<int>(cu_seqlens.size())}, mx::int32);
}

}  // namespace aspis::ops

#include "aspis/ops/common/packing.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include <string>

#include "aspis/base/error.h"

namespace aspis::ops {
namespace {

std::string message(const std::vector<int32_t>& cu, int64_t batch, int64_t length) {
  try {
    require_cu_seqlens("op", cu, batch, length);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST_CASE("cu_seqlens: what fits") {
  CHECK(message({0, 7}, 1, 7).empty());
  CHECK(message({0, 3, 3, 7}, 1, 7).empty());
  CHECK(message({0, 0}, 1, 0).empty());
}

TEST_CASE("cu_seqlens: each mistake has its sentence") {
  CHECK(has(message({0, 7}, 2, 7), "a batch of 2"));
  CHECK(has(message({}, 1, 7), "no values"));
  CHECK(has(message({0}, 1, 7), "1 values"));
  CHECK(has(message({1, 7}, 1, 7), "must start with 0"));
  CHECK(has(message({0, 5, 4, 7}, 1, 7), "5 then 4 at place 2"));
  CHECK(has(message({0, 5}, 1, 7), "number of tokens, 7"));
}

TEST_CASE("seq_idx: shape and dtype") {
  CHECK_NOTHROW(require_seq_idx("op", mx::zeros({2, 5}, mx::int32), 2, 5));
  CHECK_THROWS_AS(require_seq_idx("op", mx::zeros({2, 4}, mx::int32), 2, 5), Error);
  CHECK_THROWS_AS(require_seq_idx("op", mx::zeros({2, 5}, mx::float32), 2, 5), Error);
}

}  // namespace
}  // namespace aspis::ops

#include "aspis/ops/quantized/quantized.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/linear/linear.h"

using namespace aspis;
namespace mx = mlx::core;

namespace {
mx::array wave(const mx::Shape& shape, float f) {
  int n = 1;
  for (const int d : shape) n *= d;
  return mx::reshape(mx::sin(mx::arange(0.0f, static_cast<float>(n)) * mx::array(f)), shape);
}
}  // namespace

TEST_CASE("linear_quantized is linear with the dequantised weight, for any rows, views and dtypes") {
  const auto w = wave({40, 128}, 0.7f), b = wave({40}, 1.1f);
  for (const int bits : {4, 8}) {
    const auto q = ops::quantize(mx::transpose(mx::contiguous(mx::transpose(w))), {bits, 64});
    const auto back = ops::dequantize(q);
    CHECK(mx::max(mx::abs(back - w)).item<float>() < (bits == 8 ? 0.005f : 0.07f));
    for (const int rows : {1, 2, 30}) {
      const auto x = mx::slice(wave({rows, 140}, 0.3f), {0, 12}, {rows, 140});
      CHECK(mx::allclose(ops::linear_quantized(x, q, b), linear(x, back, b), 1e-5, 1e-4).item<bool>());
      const auto half = ops::linear_quantized(mx::astype(x, mx::bfloat16), q);
      CHECK(half.dtype() == mx::bfloat16);
      CHECK(mx::allclose(mx::astype(half, mx::float32), linear(x, back), 0.02, 0.1).item<bool>());
    }
  }
  CHECK(ops::linear_quantized(mx::zeros({0, 128}), ops::quantize(w)).shape() == mx::Shape{0, 40});
}

TEST_CASE("quantize and linear_quantized refuse what does not fit with one sentence") {
  CHECK_THROWS_WITH_AS(ops::quantize(mx::ones({4})), "[quantize] weight must have shape {out, in}; got {4}",
                       Error);
  CHECK_THROWS_WITH_AS(ops::quantize(mx::ones({4, 64}), {3, 64}), "[quantize] bits must be 4 or 8; got 3", Error);
  CHECK_THROWS_WITH_AS(ops::quantize(mx::ones({4, 128}), {8, 128}),
                       "[quantize] group must be 16, 32, 64 or, with 4 bits, 128; got 128", Error);
  CHECK_THROWS_WITH_AS(ops::quantize(mx::ones({4, 70})),
                       "[quantize] the group 64 must divide the columns of weight; got {4, 70}", Error);
  const auto q = ops::quantize(mx::ones({4, 64}));
  CHECK_THROWS_WITH_AS(ops::linear_quantized(mx::ones({2, 60}), q),
                       "[linear_quantized] x must have 64 values in its last axis; got {2, 60}", Error);
  CHECK_THROWS_AS(ops::linear_quantized(mx::ones({2, 64}), q, mx::ones({5})), Error);
}

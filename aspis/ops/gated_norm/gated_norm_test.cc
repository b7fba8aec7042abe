#include "aspis/ops/gated_norm/gated_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <limits>
#include <string>

#include "aspis/base/error.h"
#include "aspis/ops/gated_norm/gated_norm_cases.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/layer_norm/layer_norm.h"
#include "aspis/ops/rms_norm/rms_norm.h"

using namespace aspis;

TEST_CASE("rmsnorm_gated conforms on every instruction set") { harness::expect_conforms(rmsnorm_gated_entry()); }
TEST_CASE("layer_norm_gated conforms on every instruction set") {
  harness::expect_conforms(layer_norm_gated_entry());
}

TEST_CASE("without a gate they are the plain norms") {
  const auto x = mx::reshape(mx::sin(mx::arange(0.0f, 60.0f)), {4, 15}), w = mx::cos(mx::arange(0.0f, 15.0f));
  const auto near = [](const mx::array& a, const mx::array& b) {
    return mx::allclose(a, b, 1e-6, 1e-6).item<bool>();
  };
  CHECK(near(rmsnorm_gated(x, {.weight = w}), rms_norm(x, w)));
  CHECK(near(layer_norm_gated(x, {.weight = w, .bias = w}), layer_norm(x, w, w)));
}

TEST_CASE("a NaN stays in its row") {
  auto x = mx::ones({3, 8});
  x = mx::slice_update(x, mx::full({1, 1}, std::numeric_limits<float>::quiet_NaN()), mx::Shape{1, 2},
                       mx::Shape{2, 3});
  const auto y = mx::any(mx::isnan(rmsnorm_gated(x, {.z = mx::ones({3, 8})})), 1);
  CHECK(mx::array_equal(y, mx::array({false, true, false})).item<bool>());
}

TEST_CASE("half dtypes are kept and no rows are no rows") {
  CHECK(rmsnorm_gated(mx::ones({2, 4}, mx::bfloat16)).dtype() == mx::bfloat16);
  const auto empty = layer_norm_gated(mx::zeros({0, 4}));
  mx::eval(empty);
  CHECK(empty.shape() == mx::Shape{0, 4});
}

TEST_CASE("gated norms refuse what does not fit with one sentence") {
  const auto x = mx::ones({2, 6});
  const auto says = [&](const mx::array& in, const GatedNormOptions& o, const char* text) {
    CAPTURE(text);
    std::string message;
    try {
      rmsnorm_gated(in, o);
    } catch (const Error& e) {
      message = e.what();
    }
    CHECK(message.find(std::string("[rmsnorm_gated] ") + text) != std::string::npos);
  };
  says(x, {.group_size = 4}, "group_size must divide N = 6; got 4");
  says(x, {.group_size = -1}, "group_size must divide N = 6; got -1");
  says(x, {.eps = -1}, "eps must not be negative");
  says(x, {.z = mx::ones({2, 5})}, "z must have shape that of x = {2, 6}; got {2, 5}");
  says(x, {.weight = mx::ones({5})}, "weight must have shape {N} = {6}; got {5}");
  says(x, {.bias = mx::ones({6})}, "an RMS norm has no bias");
  says(mx::ones({2, 0}), {}, "x must have shape {..., N} with N >= 1; got {2, 0}");
  says(mx::ones({2, 6}, mx::int32), {}, "x must be a real floating-point array; got int32");
}

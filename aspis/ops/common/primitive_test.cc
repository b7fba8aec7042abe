#include "aspis/ops/common/primitive.h"

#include <doctest/doctest.h>

using namespace aspis;

namespace {

// y = copy of x through `packed`; for looking at what a kernel would see.
class PackedCopy : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::allocate(encoder, out[0], name());
    const float* x = ops::packed<float>(encoder, in[0], name());
    float* y = out[0].data<float>();
    encoder.dispatch([=, n = out[0].size()] { std::copy(x, x + n, y); });
  }
  const char* name() const override { return "packed_copy"; }
};

mx::array packed_copy(const mx::array& x) {
  return mx::array(x.shape(), x.dtype(), std::make_shared<PackedCopy>(mx::default_stream(mx::Device::cpu)), {x});
}

}  // namespace

TEST_CASE("packed gives row-major data for slices, transposes and broadcasts") {
  const auto x = mx::reshape(mx::arange(0.0f, 24.0f), {2, 3, 4});
  const std::vector<mx::array> views = {
      x, mx::transpose(x, {2, 0, 1}), mx::slice(x, {0, 1, 1}, {2, 3, 4}, {1, 1, 2}),
      mx::broadcast_to(mx::reshape(mx::arange(0.0f, 4.0f), {1, 1, 4}), {2, 3, 4}),
      mx::slice(x, {0, 0, 3}, {2, 3, -5}, {1, 1, -1}), mx::array(3.0f)};
  for (const auto& v : views) {
    CAPTURE(ops::to_string(v.shape()));
    CHECK(mx::array_equal(packed_copy(v), v).item<bool>());
  }
}

TEST_CASE("shape and dtype errors name the operator, the input and both shapes") {
  const auto a = mx::zeros({2, 3});
  CHECK_THROWS_WITH_AS(ops::require_shape("scan", "A", a, {3, 2}, "{D, N}"),
                       "[scan] A must have shape {D, N} = {3, 2}; got {2, 3}", Error);
  const auto i = mx::zeros({2}, mx::int32);
  CHECK_THROWS_WITH_AS(ops::compute_dtype("scan", {{"u", &i}}),
                       "[scan] u must be a real floating-point array; got int32", Error);
  CHECK(ops::compute_dtype("scan", {{"u", &a}, {"v", nullptr}}) == mx::float32);
}

TEST_CASE("the back end can be forced and is recorded") {
  const auto s = mx::default_stream(mx::Device::cpu);
  CHECK(ops::choose_back_end("test_op", s) == ops::BackEnd::kCpu);
  ops::force_back_end(ops::BackEnd::kComposed);
  CHECK(ops::choose_back_end("test_op", s) == ops::BackEnd::kComposed);
  ops::force_back_end(std::nullopt);
  const auto used = ops::back_ends_used();
  CHECK(std::count(used.begin(), used.end(), std::pair<std::string, std::string>("test_op", "composed")) == 1);
}

#include "aspis/ops/common/profile.h"

#include <doctest/doctest.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <chrono>
#include <thread>

using namespace aspis;

namespace {

// Two outputs after a pause: x and -x.
class SlowPair : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (auto& o : out) ops::allocate(encoder, o, name());
    const float* x = ops::packed<float>(encoder, in[0], name());
    float *a = out[0].data<float>(), *b = out[1].data<float>();
    encoder.dispatch([=, n = out[0].size()] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      for (size_t i = 0; i < n; i++) a[i] = x[i], b[i] = -x[i];
    });
  }
  const char* name() const override { return "slow_pair"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.macs = static_cast<double>(in[0].size())};
  }
};

Arrays slow_pair(const mx::array& x) {
  return mx::array::make_arrays({x.shape(), x.shape()}, {mx::float32, mx::float32},
                                std::make_shared<SlowPair>(mx::default_stream(mx::Device::cpu)), {x});
}

const ops::ProfileEvent& find(const ops::Profiler& p, std::string_view name) {
  const auto it =
      std::find_if(p.events().begin(), p.events().end(), [&](const auto& e) { return e.name == name; });
  REQUIRE_MESSAGE(it != p.events().end(), name);
  return *it;
}

mx::array graph(const mx::array& x) {
  const auto pair = slow_pair(x * x);
  return mx::sum(pair[0] - pair[1]) + mx::sum(mx::transpose(mx::reshape(x, {4, 3})));
}

}  // namespace

TEST_CASE("a profiled graph gives the same values, and every operation is named with its bytes and work") {
  const auto x = mx::astype(mx::arange(0.0f, 12.0f), mx::float32);
  mx::eval(x);
  const float plain = graph(x).item<float>();
  const ops::Profiler p;
  mx::array y = graph(x);
  ops::evaluate({y});
  CHECK(y.is_available());
  CHECK(y.item<float>() == plain);

  const auto& slow = find(p, "slow_pair");
  CHECK_FALSE(slow.engine);
  CHECK(slow.work.macs == 12);
  CHECK(slow.bytes == 3 * 12 * 4);
  CHECK(slow.seconds >= 0.02);  // it sleeps that long
  CHECK(slow.shapes == "{12} -> {12}, {12}");
  const auto& multiply = find(p, "Multiply");
  CHECK(multiply.engine);
  CHECK_FALSE(multiply.view);
  CHECK(multiply.bytes == 3 * 12 * 4);
  CHECK(multiply.start + multiply.seconds <= slow.start);
  CHECK(find(p, "Transpose").view);
  CHECK(find(p, "Transpose").bytes == 0);

  CHECK(std::count_if(p.events().begin(), p.events().end(), [](const auto& e) { return e.name == "slow_pair"; }) ==
        1);
  double sum = 0;
  for (const auto& e : p.events()) sum += e.seconds;
  REQUIRE(p.spans().size() == 1);
  CHECK(sum <= p.spans()[0].seconds);
}

TEST_CASE("gradients under the profiler are those without it") {
  const auto x = mx::astype(mx::arange(1.0f, 7.0f), mx::float32);
  const auto loss = [](const mx::array& v) { return mx::sum(mx::exp(v) * v); };
  const auto want = mx::grad(loss)(x);
  mx::eval(want);
  const ops::Profiler p;
  const auto got = mx::grad(loss)(x);
  ops::evaluate({got});
  CHECK(mx::array_equal(got, want).item<bool>());
  CHECK(find(p, "Exp").engine);
}

TEST_CASE("buffers are reused under the profiler as without it") {
  const auto peak = [] {
    mx::array x = mx::ones({1 << 20});
    for (int i = 0; i < 8; i++) x = x + 1.0f;
    mx::reset_peak_memory();
    const size_t before = mx::get_active_memory();
    ops::evaluate({std::move(x)});
    return mx::get_peak_memory() - before;
  };
  const size_t plain = peak();
  const ops::Profiler p;
  CHECK(peak() < plain + (10 << 20));  // eight buffers would be 32 MB more
  CHECK(p.events().size() >= 8);
}

TEST_CASE("warm-up calls and those after the last are left out; only one profiler at a time") {
  const ops::Profiler p(2, 3);
  for (int i = 0; i < 7; i++) {
    mx::array y = mx::negative(mx::ones({4}));
    ops::evaluate({y});
    CHECK(y.is_available());
  }
  CHECK(p.calls() == 7);
  CHECK(p.spans().size() == 3);
  CHECK(std::count_if(p.events().begin(), p.events().end(), [](const auto& e) { return e.name == "Negative"; }) ==
        3);
  CHECK(p.events().back().evaluation == 2);
  CHECK_THROWS_AS(ops::Profiler(), Error);
}

TEST_CASE("without a profiler evaluate is eval, and a wrapped node that is evaluated later runs silently") {
  mx::array left = mx::zeros({1});
  {
    const ops::Profiler p;
    const auto x = mx::negative(mx::ones({4}));
    left = mx::exp(x);
    ops::evaluate({x});
    CHECK(!p.events().empty());
  }
  ops::evaluate({left});
  CHECK(left.shape(0) == 4);
  CHECK(mx::all(mx::isfinite(left)).item<bool>());
}

#include "aspis/ops/conv/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/conv/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::ConvShape;
using kernel::volume;

namespace {

template <typename T>
std::vector<T> random_values(const char* name, int64_t n) {
  Rng rng(1, name);
  std::vector<T> v(n);
  for (auto& x : v) x = static_cast<T>(static_cast<float>(rng.normal()));
  return v;
}

ConvShape make_shape(int64_t batch, kernel::Axes in, int64_t channels, int64_t outs, kernel::Axes kernel,
                     kernel::Axes stride, kernel::Axes padding, kernel::Axes dilation, int64_t groups) {
  ConvShape s{batch, channels, outs, groups, in, {}, kernel, stride, padding, dilation};
  for (int a = 0; a < 3; a++)
    s.out[a] = (in[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) / stride[a] + 1;
  return s;
}

template <typename T>
struct Outputs {
  std::vector<T> y, dx, dweight, dbias;
};

// With an activation there is a residual as well.
template <typename T>
Outputs<T> run(const ConvShape& s, bool plain = false, Activation kind = Activation::kNone) {
  const auto x = random_values<T>("x", s.batch * volume(s.in) * s.in_channels);
  const auto w = random_values<T>("w", s.out_channels * s.depth()), b = random_values<T>("b", s.out_channels);
  const auto dy = random_values<T>("dy", s.pixels() * s.out_channels);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const auto fill = [&](size_t n) { return std::vector<T>(n, nan); };
  Outputs<T> o{fill(dy.size()), fill(x.size()), fill(w.size()), fill(b.size())};
  // One value more than asked for stays as it is.
  const auto work = [&](int64_t n) {
    auto v = fill(static_cast<size_t>(n) + 1);
    v.back() = T(77);
    return v;
  };
  auto forward = work(kernel::conv_workspace(s)), backward = work(kernel::conv_vjp_workspace(s, true, true, true));
  kernel::ConvParams<T> p{s, x.data(), w.data(), b.data(), o.y.data(), forward.data()};
  kernel::ConvVjpParams<T> g{s,           x.data(),         w.data(),       dy.data(),
                             o.dx.data(), o.dweight.data(), o.dbias.data(), backward.data()};
  auto pre = fill(dy.size()), dz = pre;
  const auto residual = random_values<T>("residual", s.pixels() * s.out_channels);
  if (kind != Activation::kNone) {
    p.end = {kind, residual.data(), s.out_channels, pre.data()};
    g.activation = kind;
    g.pre = pre.data();
    g.dz = dz.data();
  }
  if (plain) {
    kernel::conv_reference(p);
    kernel::conv_vjp_reference(g);
  } else {
    kernel::conv(p);
    kernel::conv_vjp(g);
    CHECK(forward.back() == T(77));
    CHECK(backward.back() == T(77));
  }
  return o;
}

template <typename A, typename B>
double error(const std::vector<A>& got, const std::vector<B>& want) {
  double worst = 0, largest = 1e-300;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(double(got[i]) - double(want[i])));
    largest = std::max(largest, std::abs(double(want[i])));
  }
  return worst / largest;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<ConvShape> shapes() {
  std::vector<ConvShape> list;
  // Plain, strided, dilated and grouped products; wide patches (several blocks
  // of taps); taps wider than a block; one image cut into bands.
  list.push_back(make_shape(2, {1, 6, 5}, 3, 4, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 9, 8}, 4, 6, {1, 3, 2}, {1, 2, 3}, {0, 2, 0}, {1, 2, 1}, 2));
  list.push_back(make_shape(1, {1, 40, 6}, 9, 5, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 41, 5}, 3, 5, {1, 4, 3}, {1, 3, 2}, {0, 0, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 7, 6}, 300, 20, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 4, 4}, 1100, 3, {1, 2, 2}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1));
  list.push_back(make_shape(3, {24, 5, 4}, 2, 3, {3, 2, 2}, {2, 1, 1}, {1, 0, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 5, 5}, 4, 4, {3, 1, 1}, {1, 1, 1}, {2, 0, 0}, {1, 1, 1}, 1));
  list.push_back(make_shape(2, {1, 37, 33}, 3, 70, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1));
  // Wide rows, read in place or padded; strides and dilation; two chunks of channels; windows in the padding.
  list.push_back(make_shape(2, {1, 11, 29}, 24, 20, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 9, 60}, 32, 130, {1, 3, 2}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {3, 5, 26}, 33, 6, {3, 2, 3}, {1, 1, 1}, {1, 1, 2}, {1, 2, 1}, 1));
  list.push_back(make_shape(1, {1, 2, 25}, 22, 22, {1, 5, 3}, {1, 1, 1}, {0, 4, 1}, {1, 1, 1}, 1));
  list.push_back(make_shape(1, {1, 2, 25}, 22, 3, {1, 1, 3}, {1, 3, 1}, {0, 3, 1}, {1, 1, 1}, 1));
  // Pointwise, depthwise.
  list.push_back(make_shape(2, {1, 5, 4}, 7, 9, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1));
  list.push_back(make_shape(2, {1, 5, 4}, 7, 9, {1, 1, 1}, {1, 2, 2}, {0, 0, 0}, {1, 1, 1}, 1));
  list.push_back(make_shape(2, {1, 9, 7}, 21, 21, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {1, 1, 1}, 21));
  list.push_back(make_shape(1, {5, 6, 7}, 40, 40, {3, 3, 3}, {2, 2, 1}, {1, 0, 2}, {1, 1, 2}, 40));
  list.push_back(make_shape(2, {1, 33, 31}, 19, 19, {1, 7, 7}, {1, 1, 1}, {0, 3, 3}, {1, 1, 1}, 19));
  // By rows: 5 and 7 taps, short rows, padding as wide as the window allows, stride and dilation across.
  list.push_back(make_shape(2, {1, 6, 3}, 17, 17, {1, 5, 5}, {1, 1, 1}, {0, 2, 2}, {1, 1, 1}, 17));
  list.push_back(make_shape(1, {1, 9, 11}, 33, 33, {1, 2, 3}, {1, 2, 1}, {0, 1, 2}, {1, 3, 1}, 33));
  list.push_back(make_shape(2, {4, 5, 6}, 16, 16, {3, 3, 3}, {1, 1, 1}, {2, 0, 1}, {1, 2, 1}, 16));
  list.push_back(make_shape(1, {1, 8, 2}, 5, 5, {1, 7, 7}, {1, 1, 1}, {0, 3, 6}, {1, 1, 1}, 5));
  return list;
}

}  // namespace

TEST_CASE("conv kernels agree with the definition on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    int index = 0;
    for (const ConvShape& s : shapes()) {
      CAPTURE(isa);
      CAPTURE(index++);
      const auto want = run<double>(s, true);
      const auto fine = run<double>(s);
      CHECK(error(fine.y, want.y) < 1e-13);
      CHECK(error(fine.dx, want.dx) < 1e-13);
      CHECK(error(fine.dweight, want.dweight) < 1e-13);
      CHECK(error(fine.dbias, want.dbias) < 1e-13);
      const auto got = run<float>(s);
      CHECK(error(got.y, want.y) < 2e-6);
      CHECK(error(got.dx, want.dx) < 2e-6);
      CHECK(error(got.dweight, want.dweight) < 4e-6);
      CHECK(error(got.dbias, want.dbias) < 2e-6);
    }
  }
  force_isa("");
}

TEST_CASE("activation and residual behind a convolution match the definition in every form of it") {
  for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
    int index = 0;
    for (const ConvShape& s : shapes()) {
      CAPTURE(index++);
      const auto want = run<double>(s, true, kind);
      const auto got = run<float>(s, false, kind);
      CHECK(error(got.y, want.y) < 2e-6);
      // f' is taken at a z with an error of its own, and the sums of dz cancel.
      CHECK(error(got.dx, want.dx) < 4e-6);
      CHECK(error(got.dweight, want.dweight) < 1e-5);
      CHECK(error(got.dbias, want.dbias) < 1e-5);
    }
  }
}

TEST_CASE("conv kernels give the same bits for any number of threads") {
  for (const ConvShape& s : shapes()) {
    set_num_threads(1);
    const auto one = run<float>(s);
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const auto many = run<float>(s);
      CHECK(same_bits(one.y, many.y));
      CHECK(same_bits(one.dx, many.dx));
      CHECK(same_bits(one.dweight, many.dweight));
      CHECK(same_bits(one.dbias, many.dbias));
    }
  }
  set_num_threads(0);
}

#include "aspis/ops/linear/kernel/cpu.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/linear/kernel/gemm.h"
#include "aspis/ops/linear/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

template <typename T>
std::vector<T> random_values(const char* name, int64_t n) {
  Rng rng(1, name);
  std::vector<T> v(n);
  // Rounded to float, so that every precision sees the same numbers.
  for (auto& x : v) x = static_cast<T>(static_cast<float>(rng.normal()));
  return v;
}

template <typename T>
struct Outputs {
  std::vector<T> y, dx, dweight, dbias, pre, dz;
};

// All results for rows with gaps of `gap` values; `plain` runs the definition.
// With an activation there is a residual as well.
template <typename T>
Outputs<T> run(int64_t rows, int64_t in, int64_t out, int64_t gap = 0, bool plain = false,
               Activation activation = Activation::kNone) {
  const auto x = random_values<T>("x", rows * (in + gap) + 1), w = random_values<T>("w", out * (in + gap) + 1);
  const auto b = random_values<T>("b", out), dy = random_values<T>("dy", rows * (out + gap) + 1);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const auto fill = [&](int64_t n) { return std::vector<T>(n, nan); };
  Outputs<T> o{fill(rows * out), fill(rows * in), fill(out * in), fill(out), fill(rows * out), fill(rows * out)};
  const auto residual = random_values<T>("residual", rows * (out + gap) + 1);
  std::vector<T> work(std::max(kernel::linear_workspace(rows, in, out),
                               kernel::linear_vjp_workspace(rows, in, out, true, true, true)) +
                          1,
                      nan);
  kernel::LinearParams<T> p{
      rows,     in,         out,        x.data() + 1 * (gap > 0), in + gap, w.data() + 1 * (gap > 0), in + gap,
      b.data(), o.y.data(), work.data()};
  kernel::LinearVjpParams<T> g{rows,       in,       out,       p.x,         p.weight,         dy.data(),
                               in + gap,   in + gap, out + gap, o.dx.data(), o.dweight.data(), o.dbias.data(),
                               work.data()};
  if (activation != Activation::kNone) {
    p.end = {activation, residual.data(), out + gap, o.pre.data()};
    g.activation = activation;
    g.pre = o.pre.data();
    g.dz = o.dz.data();
  }
  if (plain) {
    kernel::linear_reference(p);
    kernel::linear_vjp_reference(g);
  } else {
    kernel::linear(p);
    std::fill(work.begin(), work.end(), nan);
    kernel::linear_vjp(g);
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

struct Size {
  int64_t rows, in, out;
};
const Size kSizes[] = {{1, 1, 1},     {1, 5, 3},      {2, 3, 1},     {15, 7, 33},    {16, 17, 16},
                       {17, 64, 10},  {63, 31, 5},    {64, 36, 70},  {130, 128, 36}, {300, 1, 9},
                       {1029, 20, 3}, {2100, 48, 17}, {200, 70, 300}};

}  // namespace

TEST_CASE("linear kernel and its gradients match the definition, rows with gaps included") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto [rows, in, out] : kSizes) {
      for (const int64_t gap : {0, 3}) {
        CAPTURE(isa);
        CAPTURE(rows);
        CAPTURE(in);
        CAPTURE(out);
        CAPTURE(gap);
        const auto want = run<double>(rows, in, out, gap, true);
        const auto single = run<float>(rows, in, out, gap);
        const auto wide = run<double>(rows, in, out, gap);
        CHECK(error(single.y, want.y) < 1e-6);
        CHECK(error(single.dx, want.dx) < 1e-6);
        CHECK(error(single.dweight, want.dweight) < 2e-6);
        CHECK(error(single.dbias, want.dbias) < 2e-6);
        CHECK(error(wide.y, want.y) < 1e-14);
        CHECK(error(wide.dx, want.dx) < 1e-14);
        CHECK(error(wide.dweight, want.dweight) < 1e-14);
        CHECK(error(wide.dbias, want.dbias) < 1e-14);
      }
    }
  }
  force_isa("");
}

TEST_CASE("activation and residual behind the product, and their gradients, match the definition") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Activation kind :
         {Activation::kRelu, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      for (const auto [rows, in, out] : {Size{1, 5, 3}, Size{17, 64, 10}, Size{2, 9, 200}, Size{130, 128, 36}}) {
        for (const int64_t gap : {0, 3}) {
          CAPTURE(isa);
          CAPTURE(static_cast<int>(kind));
          CAPTURE(rows);
          CAPTURE(gap);
          const auto want = run<double>(rows, in, out, gap, true, kind);
          const auto single = run<float>(rows, in, out, gap, false, kind);
          const auto wide = run<double>(rows, in, out, gap, false, kind);
          CHECK(error(single.y, want.y) < 1e-6);
          CHECK(error(single.pre, want.pre) < 1e-6);
          CHECK(error(single.dx, want.dx) < 2e-6);
          CHECK(error(single.dweight, want.dweight) < 2e-6);
          CHECK(error(single.dbias, want.dbias) < 2e-6);
          CHECK(error(wide.y, want.y) < 1e-14);
          CHECK(error(wide.dx, want.dx) < 1e-14);
          CHECK(error(wide.dweight, want.dweight) < 1e-14);
          CHECK(error(wide.dbias, want.dbias) < 1e-14);
        }
      }
    }
  }
  force_isa("");
}

TEST_CASE("activations hand on what is not a number, and know their limits") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const Activation kind :
         {Activation::kRelu, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      CAPTURE(static_cast<int>(kind));
      std::vector<float> v{nan, inf, -30000.f, 30000.f, 0.f}, z = v, dz(5);
      const std::vector<float> dy(5, 2.f);
      kernel::finish<float>({kind, nullptr, 0, nullptr}, 1, 5, v.data(), 5, v.data(), 5);
      CHECK(std::isnan(v[0]));
      CHECK(v[1] == inf);
      CHECK(v[2] == 0.f);
      CHECK(v[3] == 30000.f);
      CHECK(v[4] == 0.f);
      kernel::finish_gradient(kind, 1, 5, z.data(), dy.data(), 5, dz.data(), 5);
      CHECK((kind == Activation::kRelu ? dz[0] == 2.f : std::isnan(dz[0])));
      CHECK(std::abs(dz[2]) < 1e-30f);
      CHECK(dz[3] == 2.f);
    }
  }
  force_isa("");
}

TEST_CASE("linear kernel gives the same bits for 1, 2, 3 and 7 threads") {
  for (const auto [rows, in, out] :
       {Size{1, 300, 200}, Size{40, 64, 256}, Size{777, 200, 130}, Size{5000, 24, 36}}) {
    CAPTURE(rows);
    set_num_threads(1);
    const auto want = run<float>(rows, in, out, 0, false, Activation::kGelu);
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const auto got = run<float>(rows, in, out, 0, false, Activation::kGelu);
      CHECK(same_bits(got.y, want.y));
      CHECK(same_bits(got.dx, want.dx));
      CHECK(same_bits(got.dweight, want.dweight));
      CHECK(same_bits(got.dbias, want.dbias));
    }
  }
  set_num_threads(0);
}

TEST_CASE("a row of linear does not depend on how many rows there are") {
#if defined(__APPLE__)
  MESSAGE("not promised with ", kernel::gemm_provider());
  return;
#endif
  for (const auto [most, in, out] :
       {Size{900, 768, 384}, Size{400, 64, 256}, Size{700, 128, 36}, Size{300, 33, 17}, Size{300, 1000, 10},
        Size{200, 2000, 300}, Size{300, 40, 1}, Size{300, 384, 1536}}) {
    const auto all = run<float>(most, in, out, 0, false, Activation::kSilu);
    for (const int64_t rows : {1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 143, 144, 196}) {
      CAPTURE(rows);
      CAPTURE(in);
      CAPTURE(out);
      const auto some = run<float>(rows, in, out, 0, false, Activation::kSilu);
      CHECK(std::memcmp(some.y.data(), all.y.data(), some.y.size() * sizeof(float)) == 0);
      CHECK(std::memcmp(some.dx.data(), all.dx.data(), some.dx.size() * sizeof(float)) == 0);
    }
  }
}

namespace {

std::vector<Bf16> rounded(const std::vector<float>& v) {
  std::vector<Bf16> h(v.size());
  std::transform(v.begin(), v.end(), h.begin(), to_bf16);
  return h;
}
std::vector<double> widened(const std::vector<Bf16>& v) {
  std::vector<double> d(v.size());
  std::transform(v.begin(), v.end(), d.begin(), [](Bf16 h) { return double(to_float(h)); });
  return d;
}

template <typename W>
struct HalfOutputs {
  std::vector<Bf16> y, dx, pre, dz;
  std::vector<W> dweight;
  std::vector<float> dbias;
  Outputs<double> want;  // from the rounded inputs; gradients at the rounded z
};

template <typename W>
HalfOutputs<W> run_half(int64_t rows, int64_t in, int64_t out, int64_t gap = 0,
                        Activation kind = Activation::kNone, bool with_reference = true) {
  const auto x = rounded(random_values<float>("x", rows * (in + gap) + 1));
  const auto wf = random_values<float>("w", out * (in + gap) + 1), b = random_values<float>("b", out);
  const auto wh = rounded(wf);
  const auto dy = rounded(random_values<float>("dy", rows * (out + gap) + 1));
  const auto residual = rounded(random_values<float>("residual", rows * (out + gap) + 1));
  const Bf16 nan = to_bf16(std::numeric_limits<float>::quiet_NaN());
  const auto fill = [&](int64_t n) { return std::vector<Bf16>(n, nan); };
  HalfOutputs<W> o{fill(rows * out), fill(rows * in), fill(rows * out), fill(rows * out), {}, {}, {}};
  o.dweight.resize(out * in);
  o.dbias.resize(out);
  std::vector<float> work(std::max(kernel::half_linear_workspace(rows, in, out),
                                   kernel::half_linear_vjp_workspace(rows, in, out, true, true, true)) +
                              1,
                          std::numeric_limits<float>::quiet_NaN());
  const int64_t skip = gap > 0 ? 1 : 0;  // of x, so that it begins at an odd place
  kernel::LinearParams<Bf16, W> p{.rows = rows,
                                  .in = in,
                                  .out = out,
                                  .x = x.data() + skip,
                                  .x_stride = in + gap,
                                  .weight_stride = in + gap,
                                  .bias = b.data(),
                                  .y = o.y.data(),
                                  .workspace = work.data()};
  if constexpr (std::is_same_v<W, float>) {
    p.weight = wf.data();
  } else {
    p.weight = wh.data();
  }
  kernel::LinearVjpParams<Bf16, W> g{.rows = rows,
                                     .in = in,
                                     .out = out,
                                     .x = p.x,
                                     .weight = p.weight,
                                     .dy = dy.data(),
                                     .x_stride = in + gap,
                                     .weight_stride = in + gap,
                                     .dy_stride = out + gap,
                                     .dx = o.dx.data(),
                                     .dweight = o.dweight.data(),
                                     .dbias = o.dbias.data(),
                                     .workspace = work.data()};
  if (kind != Activation::kNone) {
    p.end = {kind, residual.data(), out + gap, o.pre.data()};
    g.activation = kind;
    g.pre = o.pre.data();
    g.dz = o.dz.data();
  }
  kernel::half_linear(p);
  kernel::half_linear_vjp(g);
  if (!with_reference) return o;
  const auto xd = widened(x), wd = widened(wh), dyd = widened(dy), rd = widened(residual), zd = widened(o.pre);
  const std::vector<double> bd(b.begin(), b.end());
  auto& want = o.want;
  want = {std::vector<double>(rows * out), std::vector<double>(rows * in),  std::vector<double>(out * in),
          std::vector<double>(out),        std::vector<double>(rows * out), std::vector<double>(rows * out)};
  kernel::linear_reference<double>(
      {rows,
       in,
       out,
       xd.data() + skip,
       in + gap,
       wd.data(),
       in + gap,
       bd.data(),
       want.y.data(),
       nullptr,
       {kind, kind != Activation::kNone ? rd.data() : nullptr, out + gap, want.pre.data()}});
  kernel::linear_vjp_reference<double>({rows, in, out, xd.data() + skip, wd.data(), dyd.data(), in + gap, in + gap,
                                        out + gap, want.dx.data(), want.dweight.data(), want.dbias.data(), nullptr,
                                        kind, zd.data(), nullptr});
  return o;
}

template <typename W>
void check_half(int64_t rows, int64_t in, int64_t out, int64_t gap, Activation kind) {
  CAPTURE(rows);
  CAPTURE(in);
  CAPTURE(out);
  CAPTURE(gap);
  CAPTURE(static_cast<int>(kind));
  const auto o = run_half<W>(rows, in, out, gap, kind);
  // One rounding to 8 bits of the largest value, and a little for the sum; with an activation dz is rounded
  // before.
  const double once = 1.01 / 256;
  CHECK(error(widened(o.y), o.want.y) < once);
  CHECK(error(widened(o.dx), o.want.dx) < 2 * once);
  if (kind != Activation::kNone) {
    CHECK(error(widened(o.pre), o.want.pre) < once);
    CHECK(error(o.dbias, o.want.dbias) < once);
  } else {
    CHECK(error(o.dbias, o.want.dbias) < 2e-6);
  }
  if constexpr (std::is_same_v<W, float>) {
    CHECK(error(o.dweight, o.want.dweight) < (kind == Activation::kNone ? 3e-6 : once));
  } else {
    CHECK(error(widened(o.dweight), o.want.dweight) < 2 * once);
  }
}

}  // namespace

TEST_CASE("linear stored as bfloat16 matches the definition on the rounded inputs") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const auto [rows, in, out] : kSizes) {
      for (const int64_t gap : {0, 3}) {
        check_half<float>(rows, in, out, gap, Activation::kNone);
        check_half<Bf16>(rows, in, out, gap, Activation::kNone);
      }
    }
    for (const Activation kind : {Activation::kRelu, Activation::kGelu}) {
      for (const auto [rows, in, out] : {Size{1, 5, 3}, Size{17, 64, 10}, Size{2, 9, 200}, Size{130, 127, 36}}) {
        check_half<float>(rows, in, out, 3, kind);
        check_half<Bf16>(rows, in, out, 0, kind);
      }
    }
  }
  force_isa("");
}

TEST_CASE("linear stored as bfloat16 gives the same bits for any number of threads and rows") {
  const auto same = [](const auto& a, const auto& b) {
    return std::memcmp(a.data(), b.data(), std::min(a.size(), b.size()) * sizeof(a[0])) == 0;
  };
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const auto [rows, in, out] : {Size{1, 300, 200}, Size{777, 201, 130}, Size{3000, 24, 36}}) {
      set_num_threads(1);
      const auto want = run_half<float>(rows, in, out, 0, Activation::kGelu, false);
      for (const int threads : {2, 3, 7}) {
        set_num_threads(threads);
        const auto got = run_half<float>(rows, in, out, 0, Activation::kGelu, false);
        CHECK(same(got.y, want.y));
        CHECK(same(got.dx, want.dx));
        CHECK(same(got.dweight, want.dweight));
        CHECK(same(got.dbias, want.dbias));
      }
      set_num_threads(0);
      for (const int64_t some : {1, 2, 13, 49, 100}) {
        if (some > rows) continue;
        const auto got = run_half<float>(some, in, out, 0, Activation::kGelu, false);
        CHECK(same(got.y, want.y));
        CHECK(same(got.dx, want.dx));
      }
    }
  }
  force_isa("");
}

TEST_CASE("linear kernel computes only the gradients asked for") {
  const int64_t rows = 150, in = 20, out = 30;
  const auto all = run<float>(rows, in, out);
  const auto x = random_values<float>("x", rows * in), w = random_values<float>("w", out * in);
  const auto dy = random_values<float>("dy", rows * out);
  std::vector<float> dbias(out), dweight(out * in),
      work(kernel::linear_vjp_workspace(rows, in, out, true, true, true) + 1);
  kernel::linear_vjp<float>(
      {rows, in, out, x.data(), w.data(), dy.data(), in, in, out, nullptr, nullptr, dbias.data(), work.data()});
  kernel::linear_vjp<float>(
      {rows, in, out, x.data(), w.data(), dy.data(), in, in, out, nullptr, dweight.data(), nullptr, work.data()});
  CHECK(same_bits(dbias, all.dbias));
  CHECK(same_bits(dweight, all.dweight));
}

TEST_CASE("no rows give zero weight gradients, and no inputs give the bias") {
  std::vector<float> w(6, 1.f), dw(6, 7.f), db(2, 7.f),
      work(kernel::linear_vjp_workspace(0, 3, 2, true, true, true) + 1);
  kernel::linear_vjp<float>(
      {0, 3, 2, nullptr, w.data(), nullptr, 3, 3, 2, nullptr, dw.data(), db.data(), work.data()});
  CHECK(dw == std::vector<float>(6, 0.f));
  CHECK(db == std::vector<float>(2, 0.f));
  const float bias[] = {3.f, 4.f};
  std::vector<float> y(4, 7.f), wide(kernel::linear_workspace(2, 0, 2) + 1);
  kernel::linear<float>({2, 0, 2, w.data(), 0, w.data(), 0, bias, y.data(), wide.data()});
  CHECK(y == std::vector<float>{3.f, 4.f, 3.f, 4.f});
}

TEST_CASE("gemm honours alpha, beta, both transpositions and leading dimensions") {
  const int64_t m = 5, n = 7, k = 3, ld = 11;
  const auto a = random_values<double>("a", ld * ld), b = random_values<double>("b", ld * ld);
  const auto c0 = random_values<double>("c", ld * ld);
  const std::vector<float> af(a.begin(), a.end()), bf(b.begin(), b.end()), cf0(c0.begin(), c0.end());
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      auto want = c0, got = c0;
      auto single = cf0;
      for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
          double sum = 0;
          for (int64_t p = 0; p < k; p++)
            sum += (ta ? a[p * ld + i] : a[i * ld + p]) * (tb ? b[j * ld + p] : b[p * ld + j]);
          want[i * ld + j] = 2 * sum - 0.5 * want[i * ld + j];
        }
      }
      const auto t = [](bool yes) { return static_cast<kernel::Transpose>(yes); };
      kernel::gemm(t(ta), t(tb), m, n, k, 2.0, a.data(), ld, b.data(), ld, -0.5, got.data(), ld);
      kernel::gemm(t(ta), t(tb), m, n, k, 2.0f, af.data(), ld, bf.data(), ld, -0.5f, single.data(), ld);
      CHECK(error(got, want) < 1e-15);
      CHECK(error(single, want) < 1e-6);
    }
  }
}

#include "aspis/ops/matmul/kernel/cpu.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/matmul/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

template <typename T>
std::vector<T> random_values(const char* name, int64_t n) {
  Rng rng(1, name);
  std::vector<T> v(n);
  for (auto& x : v) x = static_cast<T>(static_cast<float>(rng.normal()));
  return v;
}

struct Size {
  int64_t batch, m, n, k, gap;
  bool one_b;
};
const Size kSizes[] = {{1, 1, 1, 1, 0, false},     {3, 5, 7, 2, 1, false},      {2, 50, 33, 17, 0, true},
                       {4, 13, 130, 65, 3, false}, {1, 97, 300, 600, 0, false}, {2, 4, 3, 0, 0, false}};

template <typename T>
std::vector<T> run(const Size& s, bool ta, bool tb, bool plain = false) {
  const int64_t a_rows = ta ? s.k : s.m, a_row = (ta ? s.m : s.k) + s.gap;
  const int64_t b_rows = tb ? s.n : s.k, b_row = (tb ? s.k : s.n) + s.gap;
  const auto a = random_values<T>("a", s.batch * a_rows * a_row + 1);
  const auto b = random_values<T>("b", s.batch * b_rows * b_row + 1);
  std::vector<T> c(s.batch * s.m * s.n, std::numeric_limits<T>::quiet_NaN());
  kernel::MatmulParams<T> p{s.batch,
                            s.m,
                            s.n,
                            s.k,
                            ta,
                            tb,
                            a.data(),
                            b.data(),
                            a_row,
                            b_row,
                            a_rows * a_row,
                            s.one_b ? 0 : b_rows * b_row,
                            c.data(),
                            nullptr};
  std::vector<T> work(kernel::matmul_workspace(p) + 1, std::numeric_limits<T>::quiet_NaN());
  p.workspace = work.data();
  plain ? kernel::matmul_reference(p) : kernel::matmul(p);
  return c;
}

template <typename T>
double error(const std::vector<T>& got, const std::vector<double>& want) {
  double worst = 0, largest = 1e-300;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(double(got[i]) - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  return worst / largest;
}

}  // namespace

TEST_CASE("batched products match the definition for every transposition") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const Size& s : kSizes) {
      for (const int form : {0, 1, 2, 3}) {
        CAPTURE(s.m);
        CAPTURE(form);
        const bool ta = form & 1, tb = form & 2;
        const auto want = run<double>(s, ta, tb, true);
        // 600 terms; without fused multiply-adds each rounds twice.
        CHECK(error(run<float>(s, ta, tb), want) < 2e-6);
        CHECK(error(run<double>(s, ta, tb), want) < 1e-14);
      }
    }
  }
  force_isa("");
}

TEST_CASE("batched products give the same bits for 1, 2, 3 and 7 threads, and for a matrix alone") {
  for (const Size& s : kSizes) {
    for (const int form : {0, 1, 2, 3}) {
      const bool ta = form & 1, tb = form & 2;
      set_num_threads(1);
      const auto want = run<float>(s, ta, tb);
      for (const int threads : {2, 3, 7}) {
        set_num_threads(threads);
        CHECK(run<float>(s, ta, tb) == want);
      }
      Size one = s;
      one.batch = 1;
      const auto alone = run<float>(one, ta, tb);
      CHECK(std::equal(alone.begin(), alone.end(), want.begin()));
    }
  }
  set_num_threads(0);
}

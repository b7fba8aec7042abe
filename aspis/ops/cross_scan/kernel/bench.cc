// Four passes over a grid, with copies of the tokens in visiting order or with the order
// folded into the scan.
//
//   aspis_cross_scan_bench [seconds per figure]
//
// Columns: the four scans of sequences that lie in visiting order already; the copies
// of u alone (VMamba, whose delta, B and C are computed from the copies) and the
// merge of the outputs; the copies of delta and z besides; and all of it folded, with the
// plain sum of the four outputs.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/cross_scan/kernel/cpu.h"
#include "aspis/ops/cross_scan/kernel/orders.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"

namespace aspis::kernel {
namespace {

double best_seconds(double budget, const std::function<void()>& run) {
  run();
  double best = 1e30;
  const double start = monotonic_seconds();
  for (int i = 0; i < 5 || monotonic_seconds() - start < budget; i++) {
    const double t = monotonic_seconds();
    run();
    best = std::min(best, monotonic_seconds() - t);
  }
  return best;
}

std::vector<float> random(const char* name, int64_t n, double lo, double hi) {
  Rng rng(1, name);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(rng.uniform(lo, hi));
  return v;
}

void measure(int64_t batch, int64_t side, int64_t channels, int64_t states, double budget) {
  const ScanOrders orders = ss2d_orders(side, side);
  const int64_t L = side * side, K = orders.count(), BLD = batch * L * channels, BLN = batch * L * states;
  const auto u = random("u", BLD, -1, 1), delta = random("delta", K * BLD, -6, -2), z = random("z", BLD, -2, 2);
  const auto B = random("B", K * BLN, -1, 1), C = random("C", K * BLN, -1, 1),
             A = random("A", channels * states, -8, -1);
  std::vector<float> copies(K * BLD), more(2 * K * BLD), y(K * BLD), out(BLD);
  // One pass: sequences lie {B, K, L, D}.
  const auto scans = [&](bool folded) {
    for (int64_t k = 0; k < K; k++) {
      const auto rows = [&](const float* data, bool per_order, int64_t width) {
        return ScanRows<const float>{data + (per_order ? k * L * width : 0), (per_order ? K : 1) * L * width,
                                     width};
      };
      ScanParams<float> p;
      p.shape = {batch, L, channels, states, 1};
      p.softplus = true;
      p.u = folded ? rows(u.data(), false, channels) : rows(copies.data(), true, channels);
      p.delta = rows(delta.data(), true, channels);
      p.A = A.data();
      const auto matrix = rows(B.data(), true, states), other = rows(C.data(), true, states);
      p.B = {matrix.data, false, matrix.batch, matrix.token, 0};
      p.C = {other.data, false, other.batch, other.token, 0};
      if (folded) p.order = orders.steps().data() + k * L;
      p.out = {y.data() + k * L * channels, K * L * channels, channels};
      scan(p);
    }
  };
  const auto copy = [&](const float* from, float* to) {
    CrossParams<float> c{batch, K, L, channels, orders.steps().data(), 1, from, to};
    cross_scan(c);
  };
  std::vector<int32_t> as_they_lie(K * L);
  for (int64_t k = 0; k < K; k++) std::iota(as_they_lie.begin() + k * L, as_they_lie.begin() + (k + 1) * L, 0);
  const auto merge = [&](const int32_t* places) {
    CrossParams<float> c{batch, K, L, channels, places, 1, y.data(), out.data()};
    cross_merge(c);
  };
  copy(u.data(), copies.data());
  const double plain = best_seconds(budget, [&] { scans(false); });
  const double separate = best_seconds(budget, [&] {
    copy(u.data(), copies.data());
    scans(false);
    merge(orders.places().data());
  });
  const double all = best_seconds(budget, [&] {
    copy(u.data(), copies.data());
    copy(u.data(), more.data());
    copy(z.data(), more.data() + K * BLD);
    scans(false);
    merge(orders.places().data());
  });
  const double folded = best_seconds(budget, [&] {
    scans(true);
    merge(as_they_lie.data());
  });
  std::printf("%3lld %4lldx%-4lld %5lld %3lld %10.3f %14.3f %20.3f %10.3f\n", static_cast<long long>(batch),
              static_cast<long long>(side), static_cast<long long>(side), static_cast<long long>(channels),
              static_cast<long long>(states), 1e3 * plain, 1e3 * separate, 1e3 * all, 1e3 * folded);
}

}  // namespace

void cross_scan_bench(double budget) {
  std::printf(
      "%d threads, ms\n  B      grid     D   N      scans  + copies of u  + those of delta, z     folded\n",
      num_threads());
  measure(8, 56, 192, 1, budget);
  measure(8, 14, 768, 1, budget);
  measure(8, 14, 384, 16, budget);
  measure(2, 14, 1536, 16, budget);
}

}  // namespace aspis::kernel

int main(int argc, char** argv) { aspis::kernel::cross_scan_bench(argc > 1 ? std::atof(argv[1]) : 0.5); }

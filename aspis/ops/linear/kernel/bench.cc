// Compares the tiles of cpu.cc with oneDNN called directly on the same number
// of threads: its matmul primitive (with bias) and its sgemm, in float32 and
// bfloat16. One line per product, in GFLOP/s; times are the best of many, taken
// in turn. The peaks of one instruction come first.
//
//   aspis_linear_bench [threads]

#include <immintrin.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/linear/kernel/cpu.h"
#include "aspis/ops/linear/kernel/gemm.h"
#include "aspis/simd/isa.h"

namespace {

double seconds = 0.4;  // of a line

using Values = std::vector<float>;
using Dims = dnnl::memory::dims;

Values random_values(const char* name, int64_t n) {
  aspis::Rng rng(1, name);
  Values v(n);
  for (auto& x : v) x = static_cast<float>(rng.normal());
  return v;
}

// C {m, n} = A B (+ bias) by the matmul primitive; strides give the layout of A and B.
class Matmul {
 public:
  Matmul(int64_t m, int64_t n, int64_t k, void* a, Dims a_strides, void* b, Dims b_strides, void* c, float* bias,
         bool half = false, bool half_result = true)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using dnnl::memory;
    const auto f32 = memory::data_type::f32;
    const auto type = half ? memory::data_type::bf16 : f32;
    const memory::desc da({m, k}, type, a_strides), db({k, n}, type, b_strides),
        dc({m, n}, half_result ? type : f32, Dims{n, 1}), dbias({1, n}, f32, Dims{n, 1});
#if DNNL_VERSION_MAJOR >= 3
    const auto pd = bias ? dnnl::matmul::primitive_desc(engine_, da, db, dbias, dc)
                         : dnnl::matmul::primitive_desc(engine_, da, db, dc);
#else
    const auto desc = bias ? dnnl::matmul::desc(da, db, dbias, dc) : dnnl::matmul::desc(da, db, dc);
    const dnnl::matmul::primitive_desc pd(desc, engine_);
#endif
    primitive_ = dnnl::matmul(pd);
    arguments_ = {{DNNL_ARG_SRC, memory(da, engine_, a)},
                  {DNNL_ARG_WEIGHTS, memory(db, engine_, b)},
                  {DNNL_ARG_DST, memory(dc, engine_, c)}};
    if (bias) arguments_.emplace(DNNL_ARG_BIAS, memory(dbias, engine_, bias));
  }
  void run() {
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

void compare(const char* what, double flops,
             const std::vector<std::pair<const char*, std::function<void()>>>& ways) {
  std::vector<double> best(ways.size(), 1e9);
  for (const auto& way : ways) way.second();
  const double end = aspis::monotonic_seconds() + seconds;
  while (aspis::monotonic_seconds() < end) {
    for (size_t i = 0; i < ways.size(); i++) {
      const double start = aspis::monotonic_seconds();
      ways[i].second();
      best[i] = std::min(best[i], aspis::monotonic_seconds() - start);
    }
  }
  std::printf("  %-8s", what);
  for (size_t i = 0; i < ways.size(); i++) std::printf("  %s %6.1f", ways[i].first, flops / best[i] * 1e-9);
  std::printf("   aspis / best oneDNN time %.3f\n", best[0] / *std::min_element(best.begin() + 1, best.end()));
}

}  // namespace

namespace {

// Multiply-adds of one instruction on vectors that stay in registers, all threads, in GFLOP/s.
template <typename Loop>
double peak(double flops, int threads, Loop loop) {
  double best = 1e9;
  for (int run = 0; run < 20; run++) {
    const double start = aspis::monotonic_seconds();
    aspis::parallel_for(threads, [&](int64_t) { loop(); });
    best = std::min(best, aspis::monotonic_seconds() - start);
  }
  return threads * flops / best * 1e-9;
}

constexpr int kSteps = 400000, kChains = 16;

__attribute__((target("avx512f"))) void fma_loop() {
  __m512 sum[kChains], a = _mm512_set1_ps(1.0001f);
  for (auto& s : sum) s = a;
  for (int i = 0; i < kSteps; i++) {
#pragma GCC unroll 16
    for (auto& s : sum) {
      s = _mm512_fmadd_ps(a, a, s);
      asm volatile("" : "+v"(s));
    }
  }
}

__attribute__((target("avx512f,avx512bf16"))) void pair_loop() {
  __m512 sum[kChains];
  const __m512i a = _mm512_set1_epi32(0x3f803f80);
  for (auto& s : sum) s = _mm512_setzero_ps();
  for (int i = 0; i < kSteps; i++) {
#pragma GCC unroll 16
    for (auto& s : sum) {
      s = _mm512_dpbf16_ps(s, (__m512bh)a, (__m512bh)a);
      asm volatile("" : "+v"(s));
    }
  }
}

std::vector<aspis::Bf16> rounded(const Values& v) {
  std::vector<aspis::Bf16> h(v.size());
  std::transform(v.begin(), v.end(), h.begin(), aspis::to_bf16);
  return h;
}

// The same three products in bfloat16; the weight's gradient in float32.
void compare_half(int64_t rows, int64_t in, int64_t out, double flops) {
  using aspis::Bf16;
  auto x = rounded(random_values("x", rows * in)), w = rounded(random_values("w", out * in));
  auto dy = rounded(random_values("dy", rows * out));
  Values b = random_values("b", out), dw(out * in);
  std::vector<Bf16> y(rows * out), dx(rows * in);
  Values work(std::max(aspis::kernel::half_linear_workspace(rows, in, out),
                       aspis::kernel::half_linear_vjp_workspace(rows, in, out, true, true, true)) +
              1);
  const aspis::kernel::LinearParams<Bf16> p{rows,     in, out,      x.data(), in,
                                            w.data(), in, b.data(), y.data(), work.data()};
  Values master = random_values("w", out * in);
  aspis::kernel::LinearVjpParams<Bf16> g{.rows = rows,
                                         .in = in,
                                         .out = out,
                                         .x = x.data(),
                                         .weight = w.data(),
                                         .dy = dy.data(),
                                         .x_stride = in,
                                         .weight_stride = in,
                                         .dy_stride = out,
                                         .dx = dx.data(),
                                         .workspace = work.data()};
  Matmul forward(rows, out, in, x.data(), {in, 1}, w.data(), {1, in}, y.data(), b.data(), true);
  compare("bf16", flops,
          {{"aspis", [&] { aspis::kernel::half_linear(p); }}, {"matmul+bias", [&] { forward.run(); }}});
  Matmul input(rows, in, out, dy.data(), {out, 1}, w.data(), {in, 1}, dx.data(), nullptr, true);
  compare("  dx", flops,
          {{"aspis", [&] { aspis::kernel::half_linear_vjp(g); }}, {"matmul", [&] { input.run(); }}});
  const aspis::kernel::LinearVjpParams<Bf16, float> gw{.rows = rows,
                                                       .in = in,
                                                       .out = out,
                                                       .x = x.data(),
                                                       .weight = master.data(),
                                                       .dy = dy.data(),
                                                       .x_stride = in,
                                                       .weight_stride = in,
                                                       .dy_stride = out,
                                                       .dweight = dw.data(),
                                                       .workspace = work.data()};
  Matmul weight(out, in, rows, dy.data(), {1, out}, x.data(), {in, 1}, dw.data(), nullptr, true, false);
  compare("  dw", flops,
          {{"aspis", [&] { aspis::kernel::half_linear_vjp(gw); }}, {"matmul", [&] { weight.run(); }}});
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : aspis::available_cores();
  aspis::set_num_threads(threads);
  omp_set_num_threads(threads);
  std::printf("%s, %d threads, GFLOP/s\n", aspis::kernel::gemm_provider(), threads);
  constexpr double kFlops = 2.0 * 16 * kChains * kSteps;
  if (aspis::active_isa().rfind("avx512", 0) == 0) std::printf("FMA peak %.0f", peak(kFlops, threads, fma_loop));
  if (aspis::bf16_units()) std::printf(", bf16 pairs peak %.0f", peak(2 * kFlops, threads, pair_loop));
  std::printf("\n");
  const int64_t shapes[][3] = {{1568, 384, 768},  {6272, 64, 256},  {6272, 128, 36}, {6272, 128, 64},
                               {25088, 192, 768}, {1568, 768, 384}, {196, 384, 384}};
  for (const auto& [rows, in, out] : shapes) {
    Values x = random_values("x", rows * in), w = random_values("w", out * in), b = random_values("b", out);
    Values dy = random_values("dy", rows * out), y(rows * out), dx(rows * in), dw(out * in), db(out);
    Values work(std::max(aspis::kernel::linear_workspace(rows, in, out),
                         aspis::kernel::linear_vjp_workspace(rows, in, out, true, true, true)) +
                1);
    const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
    std::printf("%ld x %ld -> %ld\n", rows, in, out);

    const aspis::kernel::LinearParams<float> p{rows,     in, out,      x.data(), in,
                                               w.data(), in, b.data(), y.data(), work.data()};
    aspis::kernel::LinearVjpParams<float> g{rows, in,  out,       x.data(), w.data(), dy.data(),  in,
                                            in,   out, dx.data(), nullptr,  nullptr,  work.data()};
    Matmul forward(rows, out, in, x.data(), {in, 1}, w.data(), {1, in}, y.data(), b.data());
    compare("forward", flops,
            {{"aspis", [&] { aspis::kernel::linear(p); }},
             {"matmul+bias", [&] { forward.run(); }},
             {"sgemm, no bias",
              [&] { dnnl_sgemm('N', 'T', rows, out, in, 1, x.data(), in, w.data(), in, 0, y.data(), out); }}});
    Matmul input(rows, in, out, dy.data(), {out, 1}, w.data(), {in, 1}, dx.data(), nullptr);
    compare("dx", flops,
            {{"aspis", [&] { aspis::kernel::linear_vjp(g); }},
             {"matmul", [&] { input.run(); }},
             {"sgemm",
              [&] { dnnl_sgemm('N', 'N', rows, in, out, 1, dy.data(), out, w.data(), in, 0, dx.data(), in); }}});
    g.dx = nullptr;
    g.dweight = dw.data();
    Matmul weight(out, in, rows, dy.data(), {1, out}, x.data(), {in, 1}, dw.data(), nullptr);
    compare("dweight", flops,
            {{"aspis", [&] { aspis::kernel::linear_vjp(g); }},
             {"matmul", [&] { weight.run(); }},
             {"sgemm",
              [&] { dnnl_sgemm('T', 'N', out, in, rows, 1, dy.data(), out, x.data(), in, 0, dw.data(), in); }}});
    compare_half(rows, in, out, flops);
  }
}

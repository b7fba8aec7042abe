// The state-space operator of Mamba-2 as a plain sequential loop, the way CPU
// inference engines without a kernel of their own for it run it: threads over
// heads, every channel steps through all tokens, the state of a channel is one
// row of N values that the compiler may vectorise. For a figure beside Aspis:
//
//   g++ -O3 -march=native -fopenmp-simd -std=c++20 -pthread bench/peers/ssd_loop.cc -o ssd_loop
//   ./ssd_loop [threads] [length] [heads] [headdim] [state]
//
// Prints the median of several runs in milliseconds and a checksum.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  const auto argument = [&](int i, int fallback) { return argc > i ? std::atoi(argv[i]) : fallback; };
  const int threads = argument(1, 2), length = argument(2, 2048), heads = argument(3, 24), headdim = argument(4, 64),
            state = argument(5, 128);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  const auto draw = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal(engine);
    return v;
  };
  const auto x = draw(size_t(length) * heads * headdim), B = draw(size_t(length) * state), C = draw(size_t(length) * state);
  auto dt = draw(size_t(length) * heads), A = draw(heads);
  for (float& v : dt) v = 0.1f * std::abs(v);
  for (float& v : A) v = -0.5f - std::abs(v);
  std::vector<float> y(x.size());

  const auto run_heads = [&](int first, int last) {
    std::vector<float> h(size_t(headdim) * state);
    for (int head = first; head < last; head++) {
      std::fill(h.begin(), h.end(), 0.f);
      for (int t = 0; t < length; t++) {
        const float step = dt[size_t(t) * heads + head], decay = std::exp(step * A[head]);
        const float *b = &B[size_t(t) * state], *c = &C[size_t(t) * state];
        for (int p = 0; p < headdim; p++) {
          const size_t at = (size_t(t) * heads + head) * headdim + p;
          const float in = step * x[at];
          float* row = &h[size_t(p) * state];
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int n = 0; n < state; n++) {
            const float v = row[n] * decay + b[n] * in;
            sum += v * c[n];
            row[n] = v;
          }
          y[at] = sum;
        }
      }
    }
  };
  std::vector<double> times;
  for (int run = 0; run < 9; run++) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> team;
    for (int i = 0; i < threads; i++) team.emplace_back(run_heads, heads * i / threads, heads * (i + 1) / threads);
    for (auto& t : team) t.join();
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  double check = 0;
  for (const float v : y) check += v;
  std::printf("%.3f ms, checksum %.6g\n", times[times.size() / 2], check);
  return 0;
}

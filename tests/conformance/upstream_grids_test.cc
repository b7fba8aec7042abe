// The parameter grids of the upstream test suites (state-spaces/mamba,
// Dao-AILab/causal-conv1d, llama.cpp). Their tolerances go up to 10 % of the
// largest value; here float32 is held to 1e-5 forward and 1e-4 in gradients.

#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/conformance/support.h"

namespace aspis::conformance {
namespace {

constexpr double kForward = 1e-5, kGradient = 1e-4;

}  // namespace

TEST_CASE("selective_scan: test_selective_scan.py") {
  constexpr int kB = 2, kD = 4, kN = 8;
  int index = 0;
  for (const int L : {8, 16, 32, 64, 128, 256, 372, 512, 784, 1024, 1134, 2048, 4096}) {
    for (const int G : {1, 2}) {
      // All on, and each alone left out in turn.
      const int without = index++ % 5;
      const Arrays in{normal({kB, L, kD}, 1),         uniform({kB, L, kD}, 2, 0, 0.5), uniform({kD, kN}, 3, -0.5, 0),
                      normal({kB, L, G, kN}, 4),      normal({kB, L, G, kN}, 5),       normal({kD}, 6),
                      normal({kB, L, kD}, 7),         uniform({kD}, 8, 0, 0.5)};
      const Function f = [=](const Arrays& a) {
        ScanOptions o;
        if (without != 1) o.D = a[5];
        if (without != 2) o.z = a[6];
        if (without != 3) o.delta_bias = a[7];
        o.delta_softplus = without != 4;
        auto [out, last] = selective_scan_with_state(a[0], a[1], a[2], a[3], a[4], o);
        return Arrays{out, last};
      };
      expect_close("L " + std::to_string(L) + " G " + std::to_string(G), f, in, kForward, kGradient);
    }
  }
}

TEST_CASE("selective_scan_step: test_selective_state_update.py") {
  for (const int D : {2048, 2064, 4096}) {
    for (const int N : {16, 32, 64}) {
      for (const bool gate : {false, true}) {
        const Arrays in{normal({2, D, N}, 1),           normal({2, D}, 2),      normal({2, D}, 3),
                        uniform({D, N}, 4, -2, -1), normal({2, N}, 5), normal({2, N}, 6), normal({D}, 7), normal({2, D}, 8),
                        normal({D}, 9, 1, -4)};
        const Function f = [=](const Arrays& a) {
          ScanOptions o;
          o.D = a[6];
          if (gate) o.z = a[7];
          o.delta_bias = a[8];
          o.delta_softplus = true;
          auto [out, next] = selective_scan_step(a[0], a[1], a[2], a[3], a[4], a[5], o);
          return Arrays{out, next};
        };
        const Outcome fine = run(f, in, false), single = run(f, cast(in, mx::float32), false);
        CAPTURE(D);
        CAPTURE(N);
        for (int i = 0; i < 2; i++) CHECK(error(single.outputs[i], fine.outputs[i]) < kForward);
        // One token of the whole.
        const auto row = [](const mx::array& v) { return mx::expand_dims(v, 1); };
        ScanOptions o;
        o.D = in[6], o.delta_bias = in[8], o.delta_softplus = true, o.initial_state = in[0];
        if (gate) o.z = row(in[7]);
        const auto [out, last] = selective_scan_with_state(row(in[1]), row(in[2]), in[3], row(in[4]), row(in[5]), o);
        CHECK(error(row(fine.outputs[0]), out) < 1e-12);
        CHECK(error(fine.outputs[1], last) < 1e-12);
      }
    }
  }
}

TEST_CASE("ssd_step with heads: test_selective_state_update.py, tied and with groups") {
  for (const int G : {1, 2, 4}) {
    for (const int N : {16, 32, 64}) {
      constexpr int kB = 2, kH = 32, kP = 64;
      const Arrays in{normal({kB, kH, kP, N}, 1), normal({kB, kH, kP}, 2), normal({kB, kH}, 3), uniform({kH}, 4, -2, -1),
                      normal({kB, G, N}, 5),      normal({kB, G, N}, 6),   normal({kH}, 7),     normal({kB, kH, kP}, 8),
                      normal({kH}, 9, 1, -4)};
      const Function f = [](const Arrays& a) {
        SsdOptions o;
        o.D = a[6], o.z = a[7], o.dt_bias = a[8], o.dt_softplus = true;
        auto [out, next] = ssd_step(a[0], a[1], a[2], a[3], a[4], a[5], o);
        return Arrays{out, next};
      };
      expect_close("G " + std::to_string(G) + " N " + std::to_string(N), f, in, kForward, kGradient);
    }
  }
}

TEST_CASE("ssd: chunk_state_varlen, 300 sequences of 1 to 199 tokens") {
  constexpr int kH = 2, kP = 64, kN = 32, kSequences = 300;
  std::vector<int32_t> cu{0};
  for (int i = 0; i < kSequences; i++) cu.push_back(cu.back() + 1 + (i * 7919) % 199);
  const int L = cu.back();
  const auto x = normal({1, L, kH, kP}, 1), dt = normal({1, L, kH}, 2), A = uniform({kH}, 3, -2, -0.5),
             B = normal({1, L, 1, kN}, 4), C = normal({1, L, 1, kN}, 5);
  SsdOptions o;
  o.dt_softplus = true;
  o.cu_seqlens = cu;
  const auto f = [&](mx::Dtype type) {
    return ssd_with_state(mx::astype(x, type), mx::astype(dt, type), mx::astype(A, type), mx::astype(B, type),
                          mx::astype(C, type), o);
  };
  const auto fine = f(mx::float64), single = f(mx::float32);
  CHECK(error(single.first, fine.first) < kForward);
  CHECK(error(single.second, fine.second) < kForward);
  SsdOptions alone;
  alone.dt_softplus = true;
  for (int i = 0; i < kSequences; i += 37) {
    const auto one = ssd_with_state(tokens(x, cu[i], cu[i + 1]), tokens(dt, cu[i], cu[i + 1]), A,
                                    tokens(B, cu[i], cu[i + 1]), tokens(C, cu[i], cu[i + 1]), alone);
    CHECK(error(tokens(fine.first, cu[i], cu[i + 1]), one.first) < 1e-12);
    CHECK(error(mx::slice(fine.second, {i, 0, 0, 0}, {i + 1, kH, kP, kN}), one.second) < 1e-12);
  }
}

TEST_CASE("ssd: llama.cpp SSM_SCAN shapes and headdims 40 and 80") {
  struct Shape {
    int N, P, H, G, L, B;
  };
  for (const auto& [N, P, H, G, L, B] : {Shape{16, 1, 1024, 1, 32, 4}, Shape{128, 64, 16, 2, 32, 4},
                                         Shape{256, 64, 8, 2, 32, 4}, Shape{64, 40, 6, 3, 70, 1}, Shape{128, 80, 2, 1, 70, 1}}) {
    const Arrays in{normal({B, L, H, P}, 1),     normal({B, L, H}, 2), uniform({H}, 3, -4, -0.5), normal({B, L, G, N}, 4),
                    normal({B, L, G, N}, 5), normal({B, H, P, N}, 6)};
    const Function f = [](const Arrays& a) {
      SsdOptions o;
      o.dt_softplus = true;
      o.initial_state = a[5];
      auto [out, last] = ssd_with_state(a[0], a[1], a[2], a[3], a[4], o);
      return Arrays{out, last};
    };
    expect_close("N " + std::to_string(N) + " P " + std::to_string(P), f, in, kForward, kGradient);
  }
}

TEST_CASE("ssd: 4096 tokens, dt log-uniform, at slow and fast decay") {
  constexpr int kL = 4096, kP = 64, kN = 128;
  for (const double decay : {-1.0, -16.0}) {
    for (const int chunk : {0, 16, 64, 256}) {
      const Arrays in{normal({1, kL, 1, kP}, 1), mx::exp(uniform({1, kL, 1}, 2, std::log(1e-3), std::log(0.1))),
                      mx::full({1}, decay, mx::float64), normal({1, kL, 1, kN}, 4), normal({1, kL, 1, kN}, 5)};
      const Function f = [chunk](const Arrays& a) {
        SsdOptions o;
        o.chunk_size = chunk;
        return Arrays{ssd(a[0], a[1], a[2], a[3], a[4], o)};
      };
      expect_close("A " + std::to_string(decay) + " chunk " + std::to_string(chunk), f, in, kForward, kGradient);
    }
  }
}

TEST_CASE("causal_conv1d: test_causal_conv1d.py") {
  int index = 0;
  for (const int D : {64, 4128}) {
    for (const int L : {1, 2, 8, 16, 32, 64, 128, 129, 130, 151, 256, 372, 512, 784, 1024, 1134, 2048, 4096}) {
      if (D > 64 && L > 372) continue;  // the same code for more tokens
      const int W = 2 + index % 3;
      const bool silu = index % 2 == 0, bias = index % 4 < 2, states = index % 3 == 0, packed = !states && L > 8;
      index++;
      const Arrays in{normal({2, L, D}, 1), normal({D, W}, 2), normal({D}, 3), normal({2, W - 1, D}, 4)};
      const Function f = [=](const Arrays& a) {
        Conv1dOptions o;
        o.silu = silu;
        if (bias) o.bias = a[2];
        if (states) o.initial_state = a[3];
        if (packed) {
          const auto at = mx::arange(L);
          o.seq_idx = mx::astype(mx::broadcast_to(at > mx::array(L / 3), {2, L}), mx::int32) +
                      mx::astype(mx::broadcast_to(at > mx::array(L / 2), {2, L}), mx::int32);
        }
        auto [out, last] = causal_conv1d_with_state(a[0], a[1], o);
        return Arrays{out, last};
      };
      expect_close("D " + std::to_string(D) + " L " + std::to_string(L) + " W " + std::to_string(W), f, in, kForward,
                   kGradient);
    }
  }
}

TEST_CASE("causal_conv1d_step: the state is shifted bit for bit") {
  for (const int D : {64, 2053, 4128}) {
    for (const int W : {2, 3, 4}) {
      const auto state = mx::astype(normal({3, W - 1, D}, 1), mx::float32),
                 x = mx::astype(normal({3, D}, 2), mx::float32), w = mx::astype(normal({D, W}, 3), mx::float32);
      const auto next = causal_conv1d_step(state, x, w).second;
      const auto want = mx::concatenate({tokens(state, 1, W - 1), mx::expand_dims(x, 1)}, 1);
      CHECK(mx::array_equal(next, want).item<bool>());
    }
  }
}

TEST_CASE("gated norms: test_layernorm_gated.py") {
  int index = 0;
  for (const int D : {2048, 4096}) {
    for (const int group : {0, 64}) {
      for (const bool norm_first : {false, true}) {
        for (const bool gate : {false, true}) {
          for (const bool rms : {true, false}) {
            const bool bias = !rms && index++ % 2 == 0;
            const Arrays in{normal({16, D}, 1), normal({16, D}, 2), normal({D}, 3), normal({D}, 4)};
            const Function f = [=](const Arrays& a) {
              GatedNormOptions o;
              if (gate) o.z = a[1];
              o.weight = a[2];
              if (bias) o.bias = a[3];
              o.group_size = group;
              o.norm_before_gate = norm_first;
              return Arrays{rms ? rmsnorm_gated(a[0], o) : layer_norm_gated(a[0], o)};
            };
            expect_close("D " + std::to_string(D) + " group " + std::to_string(group), f, in, kForward, kGradient);
          }
        }
      }
    }
  }
}

namespace {

// Inputs of Mamba-3 as its tests draw them, fewer heads and tokens.
Arrays mamba3_inputs(int L, int N, int P, int R) {
  constexpr int kH = 2;
  const int A = N / 4;
  return {normal({1, L, kH, P}, 1),
          normal({1, L, R, 1, N}, 2),
          normal({1, L, R, 1, N}, 3),
          normal({1, L, kH}, 4, 1, -3),
          normal({1, L, kH}, 5),
          uniform({1, L, kH}, 6, 0, 1),
          uniform({1, L, A}, 7, 0, 1),
          normal({1, L, kH, P}, 8),
          normal({kH, R, N}, 9),
          normal({kH, R, N}, 10),
          normal({kH, R, P}, 11, 1.0 / R),
          normal({kH, R, P}, 12, 1.0 / R),
          normal({kH}, 13),
          normal({kH, P}, 14, 0.2, 1)};
}

Function mamba3_function(int R, bool out_norm) {
  return [=](const Arrays& a) {
    Mamba3Options o;
    o.angle = a[6], o.z = a[7], o.B_bias = a[8], o.C_bias = a[9], o.D = a[12];
    if (R > 1) o.mimo_x = a[10], o.mimo_o = a[11], o.pairing = RotaryPairing::kHalf;
    if (out_norm) o.out_norm_weight = a[13];
    auto [out, last] = mamba3_with_state(a[0], a[1], a[2], a[3], a[4], a[5], o);
    return Arrays{out, last.ssm};
  };
}

}  // namespace

TEST_CASE("mamba3 SISO: head 64, state 128, a length that no chunk divides") {
  // Phases are sums of turns: each adds a rounding of 2 pi.
  expect_close("SISO", mamba3_function(1, false), mamba3_inputs(345, 128, 64, 1), 3e-5, 3e-4);
}

TEST_CASE("mamba3 MIMO: the shapes of the upstream kernels, values, states and gradients") {
  struct Shape {
    int N, P, R;
  };
  for (const auto& [N, P, R] : {Shape{16, 64, 4}, Shape{32, 64, 4}, Shape{64, 64, 4}, Shape{128, 64, 4}, Shape{256, 64, 4},
                                Shape{64, 128, 4}, Shape{128, 32, 4}, Shape{128, 64, 8}, Shape{128, 64, 2}, Shape{128, 64, 1}}) {
    const std::string name = std::to_string(N) + " " + std::to_string(P) + " " + std::to_string(R);
    expect_close(name, mamba3_function(R, N == 32), mamba3_inputs(67, N, P, R), 3e-5, 3e-4);
  }
}

TEST_CASE("bfloat16 activations: against the oracle on the rounded inputs") {
  // The rounding of the output alone is 2^-9 = 2e-3 of a value.
  const auto half = [](const mx::array& a) { return mx::astype(a, mx::bfloat16); };
  const auto back = [&](const mx::array& a) { return mx::astype(half(a), mx::float64); };
  const auto u = normal({2, 300, 20}, 1), dt = normal({2, 300, 20}, 2), A = uniform({20, 16}, 3, -4, -0.5),
             B = normal({2, 300, 16}, 4), C = normal({2, 300, 16}, 5);
  ScanOptions o;
  o.delta_softplus = true;
  const auto got = selective_scan(half(u), half(dt), mx::astype(A, mx::float32), half(B), half(C), o);
  CHECK(got.dtype() == mx::bfloat16);
  CHECK(error(got, selective_scan(back(u), back(dt), A, back(B), back(C), o)) < 4e-3);
  SsdOptions s;
  s.dt_softplus = true;
  const auto x = normal({2, 300, 2, 16}, 6), step = normal({2, 300, 2}, 7), a = uniform({2}, 8, -4, -0.5),
             B2 = normal({2, 300, 1, 8}, 9), C2 = normal({2, 300, 1, 8}, 10);
  CHECK(error(ssd(half(x), half(step), mx::astype(a, mx::float32), half(B2), half(C2), s),
              ssd(back(x), back(step), a, back(B2), back(C2), s)) < 4e-3);
}

}  // namespace aspis::conformance

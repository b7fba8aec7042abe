#include "aspis/ops/selective_scan/kernel/cpu.h"

#include <doctest/doctest.h>

#include <complex>
#include <cstring>
#include <limits>

#include "aspis/base/parallel.h"
#include "aspis/ops/selective_scan/kernel/test_problem.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;
using namespace aspis::kernel::test;

namespace {

std::string describe(const Options& o) {
  std::string s = "B" + std::to_string(o.shape.batch) + " L" + std::to_string(o.shape.length) + " D" +
                  std::to_string(o.shape.channels) + " N" + std::to_string(o.shape.state) + " G" +
                  std::to_string(o.shape.groups);
  const std::pair<bool, const char*> flags[] = {
      {o.softplus, "softplus"}, {o.bias, "bias"},        {o.skip, "D"},      {o.gate, "z"},
      {o.initial, "initial"},   {o.last, "dlast"},       {o.reverse, "rev"}, {o.order, "order"},
      {o.constant_B, "constB"}, {o.constant_C, "constC"}};
  for (const auto& [on, name] : flags) {
    if (on) s += std::string(" ") + name;
  }
  return s;
}

// A sample of all option combinations, decided by `index`.
Options sample_options(uint64_t index, int64_t N, int64_t L) {
  Rng rng(7, "scan.options", index);
  constexpr int64_t kChannels[] = {1, 5, 17, 24, 40, 70};
  Options o;
  o.shape = {1 + static_cast<int64_t>(rng.below(2)), L, kChannels[rng.below(6)], N, 1};
  std::vector<int64_t> divisors;
  for (int64_t g = 1; g <= o.shape.channels; g++) {
    if (o.shape.channels % g == 0) divisors.push_back(g);
  }
  if (rng.flip()) o.shape.groups = divisors[rng.below(divisors.size())];
  o.softplus = rng.flip(), o.bias = rng.flip(), o.skip = rng.flip(), o.gate = rng.flip();
  o.initial = rng.flip(), o.last = rng.flip(), o.reverse = rng.flip(), o.order = rng.flip();
  o.constant_B = rng.below(4) == 0, o.constant_C = rng.below(4) == 0;
  o.gap = static_cast<int64_t>(rng.below(3));
  return o;
}

template <typename T>
void check_against(const Results& want, const Values& values, bool recompute, double forward, double gradient) {
  Problem<T> problem(values);
  const Results got = run_kernel(problem, recompute);
  for (size_t k = 0; k < want.size(); k++) {
    CAPTURE(want[k].name);
    CHECK(error(got[k].values, want[k].values) <= (k < 2 ? forward : gradient));
  }
  CHECK(problem.gaps_untouched());
}

// Resets threads and instruction set however a test ends.
struct Restore {
  ~Restore() {
    force_isa("");
    set_num_threads(0);
  }
};

bool same_bits(const Results& a, const Results& b) {
  if (a.size() != b.size()) return false;
  for (size_t k = 0; k < a.size(); k++) {
    const auto &x = a[k].values, &y = b[k].values;
    if (x.size() != y.size() || (!x.empty() && std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) != 0))
      return false;
  }
  return true;
}

Options everything(ScanShape shape) {
  Options o;
  o.shape = shape;
  o.softplus = o.bias = o.skip = o.gate = o.initial = o.last = true;
  return o;
}

}  // namespace

TEST_CASE("scan kernel and its gradients match the oracle for sampled options on every instruction set") {
  const Restore restore;
  uint64_t index = 0;
  for (const int64_t N : {1, 2, 3, 7, 8, 16, 17, 32, 64}) {
    for (const int64_t L : {1, 2, 3, 15, 16, 17, 33, 70}) {
      const Options o = sample_options(index++, N, L);
      const Values values(o, index);
      const Results want = run_oracle(values);
      for (const auto& isa : supported_isas()) {
        force_isa(isa);
        CAPTURE(isa);
        CAPTURE(describe(o));
        const bool recompute = index % 3 == 0;
        check_against<float>(want, values, recompute, 2e-6, 1e-5);
        check_against<double>(want, values, recompute, 1e-12, 1e-10);
      }
    }
  }
}

TEST_CASE("packed sequences match each sequence on its own, forward and backward") {
  const Restore restore;
  uint64_t index = 0;
  const auto check = [&](Options o, const char* what) {
    CAPTURE(what);
    const Values values(o, ++index);
    const Results want = run_oracle(values);
    for (const auto& isa : supported_isas()) {
      force_isa(isa);
      CAPTURE(isa);
      CAPTURE(describe(o));
      check_against<float>(want, values, index % 2 == 0, 2e-6, 1e-5);
      check_against<double>(want, values, index % 2 == 0, 1e-12, 1e-10);
    }
  };
  for (const int64_t N : {1, 3, 16}) {
    for (const bool reverse : {false, true}) {
      Options o = sample_options(index, N, 70);
      o.order = false, o.reverse = reverse, o.initial = o.last = true;
      o.shape.batch = 1;
      o.bounds = {0, 0, 1, 18, 18, 50, 51, 70, 70};
      check(o, "bounds");
      o = sample_options(index, N, 40);
      o.order = false, o.reverse = reverse, o.initial = o.last = true;
      o.shape.batch = 3;
      o.ids.assign(3 * 40, 0);
      for (int64_t t = 0; t < 40; t++) {
        o.ids[t] = t < 7 ? 0 : t < 8 ? 5 : t < 26 ? 2 : t < 30 ? -1 : 2;  // the same id again is another sequence
        o.ids[40 + t] = t < 3 ? -1 : t < 20 ? 1 : 0;
        o.ids[80 + t] = t < 39 ? 0 : -3;
      }
      check(o, "ids");
    }
  }
  Options o = everything({2, 9, 5, 2, 1});
  o.ids.assign(2 * 9, -1);
  check(o, "padding alone");
}

TEST_CASE("garbage in padding reaches nothing") {
  Options o = everything({1, 40, 21, 5, 1});
  o.ids.assign(40, 0);
  for (int64_t t = 10; t < 23; t++) o.ids[t] = -1;
  Values v(o, 9);
  const Results want = run_oracle(v);
  for (int64_t t = 10; t < 23; t++) {
    for (auto* values : {&v.u, &v.delta, &v.z, &v.dout}) std::fill_n(values->begin() + t * 21, 21, NAN);
    for (auto* values : {&v.B, &v.C}) std::fill_n(values->begin() + t * 5, 5, NAN);
  }
  check_against<float>(want, v, false, 2e-6, 1e-5);
}

TEST_CASE("the time-parallel form gives what one walk gives, for any number of chunks and threads") {
  const Restore restore;
  for (const int64_t chunks : {2, 3, 5, 9}) {
    for (const bool reverse : {false, true}) {
      Options o = sample_options(static_cast<uint64_t>(chunks), chunks == 9 ? 1 : 7, 150);
      o.initial = o.last = true, o.reverse = reverse;
      o.constant_C = chunks == 3;
      o.chunks = chunks;
      const Values values(o, 21);
      const Results want = run_oracle(values);
      for (const auto& isa : supported_isas()) {
        force_isa(isa);
        CAPTURE(isa);
        CAPTURE(describe(o));
        check_against<float>(want, values, chunks % 2 == 0, 2e-6, 1e-5);
        check_against<double>(want, values, chunks % 2 == 0, 1e-12, 1e-10);
      }
      force_isa("");
      Results first;
      for (const int threads : {1, 2, 3, 7}) {
        set_num_threads(threads);
        Problem<float> problem(values);
        const Results r = run_kernel(problem);
        if (threads == 1) first = r;
        CHECK_MESSAGE(same_bits(r, first), threads, " threads");
      }
      set_num_threads(0);
    }
  }
}

TEST_CASE(
    "the time-parallel form keeps a state of zero where the growth of a chunk overflows, and passes a NaN on") {
  const Restore restore;
  Options o = everything({1, 150, 19, 5, 1});
  o.softplus = o.bias = false;
  o.chunks = 4;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    Values still(o, 9);
    std::fill(still.A.begin(), still.A.end(), 50);
    std::fill(still.u.begin(), still.u.end(), 0), std::fill(still.initial.begin(), still.initial.end(), 0);
    Problem<float> zero(still);
    scan(zero.forward_params());
    for (const double x : zero.out.values()) CHECK(x == 0);
    Values v(o, 10);
    v.delta[20 * 19 + 3] = NAN;  // token 20, channel 3
    Problem<float> problem(v);
    scan(problem.forward_params());
    const auto out = problem.out.values();
    for (int64_t i = 0; i < 150 * 19; i++) {
      if (std::isnan(out[i]) != (i / 19 >= 20 && i % 19 == 3)) FAIL_CHECK("out at " << i / 19 << "," << i % 19);
    }
  }
}

TEST_CASE("the time-parallel form is chosen from the shape and the cores of the machine") {
  CHECK(scan_chunks({1, 65536, 96, 16, 1}, 2) == 1);  // two tasks keep two cores busy
  CHECK(scan_chunks({1, 65536, 96, 16, 1}, 7) == 7);
  CHECK(scan_chunks({1, 65536, 96, 16, 1}, 64) == 64);
  CHECK(scan_chunks({1, 65536, 16, 16, 1}, 4) == 8);
  CHECK(scan_chunks({1, 65536, 16, 16, 1}, 3) == 1);
  CHECK(scan_chunks({1, 512, 16, 16, 1}, 64) == 1);  // too short
  CHECK(scan_chunks({8, 65536, 1536, 16, 1}, 64) == 1);
  CHECK(chained_plan({2, 100, 16, 4, 1}, 3).runs.size() == 6);
}

TEST_CASE("tasks follow the shape and the cores of the machine") {
  const auto tasks = [](int64_t batch, int64_t channels, int64_t cores) {
    ScanShape s{batch, 65536, channels, 16, 1};
    s.unit = scan_unit(s, cores);
    return batch * scan_units(s);
  };
  CHECK(tasks(1, 96, 1) == 2);
  CHECK(tasks(1, 96, 2) == 2);
  for (const int64_t cores : {3, 4, 5}) CHECK(tasks(1, 96, cores) == 3);
  CHECK(tasks(1, 96, 6) == 6);
  CHECK(tasks(1, 16, 6) == 1);
  CHECK(tasks(2, 1536, 2) == 24);  // more than enough
}

TEST_CASE("tasks of any number of panels are right, with the same bits for any number of threads") {
  const Restore restore;
  for (const int64_t unit : {1, 2, 3, 5}) {
    CAPTURE(unit);
    Options o = everything({2, 37, 108, 5, 2});  // four panels a group, the last a part of one
    o.shape.unit = unit;
    const Values values(o, 22);
    const Results want = run_oracle(values);
    check_against<float>(want, values, false, 2e-6, 1e-5);
    check_against<double>(want, values, true, 1e-12, 1e-10);
    Results first;
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      Problem<float> problem(values);
      const Results r = run_kernel(problem);
      if (threads == 1) first = r;
      CHECK(same_bits(r, first));
    }
    set_num_threads(0);
  }
}

TEST_CASE("complex A, B and C: forward, gradients and threads against the oracle, packed ones too") {
  const Restore restore;
  uint64_t index = 2000;
  for (const int64_t N : {1, 2, 3, 8, 17, 256}) {
    for (const int64_t L : {1, 2, 15, 17, 33}) {
      Options o = sample_options(index++, 2 * N, L);
      if (N == 256) o.shape.channels = 18, o.shape.groups = 2;
      o.pairs = true;
      if (index % 3 == 0) {
        o.order = false, o.shape.batch = 1;
        o.bounds = {0, 0, static_cast<int32_t>(L / 2), static_cast<int32_t>(L)};
      }
      const Values values(o, index);
      const Results want = run_oracle(values);
      for (const auto& isa : supported_isas()) {
        force_isa(isa);
        CAPTURE(isa);
        CAPTURE(describe(o));
        // A step turns by up to 10 radians, of which float keeps 5e-7.
        check_against<float>(want, values, index % 2 == 0, 5e-6, 2e-5);
        check_against<double>(want, values, index % 2 == 0, 1e-12, 1e-10);
      }
    }
  }
  force_isa("");
  Options o = everything({3, 37, 200, 6, 2});
  o.pairs = true;
  const Values values(o, 13);
  Results first;
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    Problem<float> problem(values);
    const Results r = run_kernel(problem);
    if (threads == 1) first = r;
    CHECK_MESSAGE(same_bits(r, first), threads, " threads");
  }
}

// With a constant B of one token: x_t = a^t B, which also tells a turn from its opposite.
TEST_CASE("complex decay: known values, far angles, NaN and infinity") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    Options o;
    o.shape = {1, 1, 9, 2, 1};
    o.initial = o.pairs = true;
    Values v(o, 1);
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    v.u.assign(9, 0), v.B.assign(2, 0), v.C = {0.5, -0.5}, v.delta.assign(9, 1);
    v.A = {-1, 2, 0, 20000.5, 0, 1e30, -kInfinity, 1, -1, kInfinity, -1, NAN, NAN, 1, 0, 0, -200, 3};
    for (int i = 0; i < 9; i++) v.initial[2 * i] = 1, v.initial[2 * i + 1] = 0.25;
    Problem<float> problem(v);
    scan(problem.forward_params());
    const auto y = problem.out.values(), x = problem.last.values();
    // y = 2 Re((1 - i) / 2 a x) is the sum of the two parts of a x.
    const auto expected = [](double re, double im) {
      const auto a = std::exp(std::complex<double>(re, im)) * std::complex<double>(1, 0.25);
      return a.real() + a.imag();
    };
    CHECK(y[0] == doctest::Approx(expected(-1, 2)).epsilon(1e-6));
    CHECK(y[1] == doctest::Approx(expected(0, 20000.5)).epsilon(3e-3));  // the angle itself is known to 1e-3
    CHECK(std::hypot(x[4], x[5]) == doctest::Approx(std::hypot(1, 0.25)).epsilon(1e-6));
    CHECK(std::abs(y[3]) < 1e-37);
    for (const int nan : {4, 5, 6}) CHECK(std::isnan(y[nan]));
    CHECK(y[7] == 1.25);
    CHECK(std::abs(y[8]) < 1e-37);
  }
}

TEST_CASE("complex steps match their definition") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t N : {1, 3, 8, 17}) {
      for (const int64_t D : {1, 7, 150}) {
        CAPTURE(isa);
        CAPTURE(N);
        CAPTURE(D);
        Options o = everything({3, 1, D, 2 * N, 1});
        o.pairs = true;
        o.constant_B = N % 2 == 0, o.constant_C = D % 2 == 0;
        const Values v(o, 33);
        const auto run = [&](auto tag, auto step) {
          using T = decltype(tag);
          Problem<T> p(v);
          ScanStepParams<T> s;
          s.batch = 3, s.channels = D, s.state_size = 2 * N, s.softplus = s.pairs = true;
          s.constant_B = o.constant_B, s.constant_C = o.constant_C;
          std::vector<T> delta;
          for (const double x : p.delta.values()) delta.push_back(static_cast<T>(x));
          s.state = p.initial.get(), s.u = p.u.get(), s.delta = delta.data(), s.z = p.z.get(), s.A = p.A.get();
          s.B = p.B.get(), s.C = p.C.get(), s.D = p.D.get(), s.delta_bias = p.bias.get();
          s.out = p.out.get(), s.next_state = p.last.get();
          step(s);
          CHECK(p.gaps_untouched());
          return p.forward_results();
        };
        const Results want = run(double{}, [](auto& s) { scan_step_reference(s); });
        const Results single = run(float{}, [](auto& s) { scan_step(s); });
        const Results exact = run(double{}, [](auto& s) { scan_step(s); });
        for (int k = 0; k < 2; k++) {
          CHECK(error(single[k].values, want[k].values) < 5e-6);
          CHECK(error(exact[k].values, want[k].values) < 1e-13);
        }
      }
    }
  }
}

TEST_CASE("scan kernel handles the largest state and sizes 5, 6 and 20") {
  const Restore restore;
  for (const int64_t N : {5, 6, 20, 256}) {
    const Values values(everything({1, 19, 19, N, 1}), 5);
    const Results want = run_oracle(values);
    for (const auto& isa : supported_isas()) {
      force_isa(isa);
      CAPTURE(isa);
      CAPTURE(N);
      check_against<float>(want, values, false, 2e-6, 1e-5);
    }
  }
}

TEST_CASE("scan results are bit-equal for 1, 2, 3 and 7 threads and do not depend on the batch") {
  const Restore restore;
  for (const bool constant : {false, true}) {
    Options o = everything({3, 37, 200, 16, 2});
    o.constant_B = o.constant_C = constant;
    const Values values(o, 11);
    Results first;
    for (const int threads : {1, 2, 3, 7}) {
      set_num_threads(threads);
      Problem<float> problem(values);
      const Results r = run_kernel(problem);
      if (threads == 1) first = r;
      CHECK_MESSAGE(same_bits(r, first), threads, " threads");
    }
    set_num_threads(0);
    // Sample 0 alone.
    Values alone = values;
    alone.o.shape.batch = 1;
    const int64_t row = 37 * 200;
    for (auto* v : {&alone.u, &alone.delta, &alone.z, &alone.dout}) v->resize(row);
    for (auto* v : {&alone.initial, &alone.dlast}) v->resize(200 * 16);
    if (!constant) {
      for (auto* v : {&alone.B, &alone.C}) v->resize(37 * 2 * 16);
    }
    Problem<float> problem(alone);
    Results one = run_kernel(problem), batch = first;
    for (size_t k = 0; k < one.size(); k++) {
      const std::string& name = one[k].name;
      const bool over_batch =
          name == "dA" || name == "dD" || name == "dbias" || (constant && (name == "dB" || name == "dC"));
      batch[k].values.resize(over_batch ? 0 : one[k].values.size());
      if (over_batch) one[k].values.clear();
    }
    CHECK(same_bits(one, batch));
  }
}

TEST_CASE("scan kernel gives the golden values of the definition") {
  Options o;
  o.shape = {1, 3, 1, 2, 1};
  o.softplus = o.bias = o.skip = o.gate = true;
  Values v(o, 1);
  v.u = {1, -.5, 2}, v.delta = {0, 1, -1}, v.bias = {.1}, v.A = {-1, -2};
  v.B = {1, .5, -1, 2, .3, .7}, v.C = {.2, -.4, 1, 1, .5, -1}, v.D = {.5}, v.z = {.3, -1, 2}, v.dout = {1, 1, 1};
  const Results golden = {{"out", {.08616638, .19755041, 2.86592137}},
                          {"last_state", {.83002446, -.21187859}},
                          {"du", {.12567026, -3.84689175, .55026101}},
                          {"ddelta", {.02785977, .99437763, -1.42148142}},
                          {"dz", {.32389001, -.05312949, 1.77458688}},
                          {"dA", {.28004671, .37703125}},
                          {"dB", {.09207355, -.10513934, -.24782028, .80419512, .60097467, -1.20194934}},
                          {"dC", {.12828393, .06414196, -.23655367, .36686872, 1.46216623, -.37324409}},
                          {"dD", {3.82999178}},
                          {"dbias", {-.39924403}},
                          {"dinitial", {}}};
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    Problem<double> problem(v);
    const Results got = run_kernel(problem);
    for (size_t k = 0; k < golden.size(); k++) {
      CAPTURE(golden[k].name);
      CAPTURE(isa);
      REQUIRE(got[k].values.size() == golden[k].values.size());
      for (size_t i = 0; i < golden[k].values.size(); i++) {
        CHECK(std::abs(got[k].values[i] - golden[k].values[i]) < 6e-9);
      }
    }
  }
}

TEST_CASE("scan kernel holds at large steps, strong, absent and growing decay") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    const auto check = [&](const std::string& what, auto change, double forward = 2e-6) {
      CAPTURE(what);
      Options o;
      o.shape = {1, 20, 20, 4, 1};
      o.initial = o.last = true;
      Values v(o, 3);
      change(v);
      check_against<float>(run_oracle(v), v, false, forward, 1e-5);
    };
    const auto fill = [](std::vector<double>& v, double x) { std::fill(v.begin(), v.end(), x); };
    check("dt above the softplus threshold", [&](Values& v) {
      v.o.softplus = true;
      for (size_t i = 0; i < v.delta.size(); i++) v.delta[i] = 18 + static_cast<double>(i % 5);
    });
    check("A dt = -100", [&](Values& v) { fill(v.A, -100), fill(v.delta, 1); });
    check("A dt = -1e8", [&](Values& v) { fill(v.A, -1e4), fill(v.delta, 1e4); });
    check("A = 0", [&](Values& v) { fill(v.A, 0); });
    check("A > 0", [&](Values& v) { fill(v.A, 2.5); });
    check("small steps", [&](Values& v) { fill(v.delta, 1e-6); });
    check("zero steps keep the state", [&](Values& v) { fill(v.delta, 0); });
    // 20 growing factors, each rounded, multiply up: 20 times 1e-7 (2.01e-6 seen without fused multiply-adds).
    check(
        "negative steps", [&](Values& v) { fill(v.delta, -0.125); }, 4e-6);
  }
}

// With one token, N = 1, A = 0 and ones elsewhere, out = softplus(delta) silu(z).
TEST_CASE("softplus, the gate and their slopes hold over the whole range") {
  const Restore restore;
  constexpr int64_t kCount = 4001;
  Options o;
  o.shape = {1, 1, kCount, 1, 1};
  o.softplus = o.gate = true;
  Values v(o, 6);
  const auto fill = [](std::vector<double>& values, double x) { std::fill(values.begin(), values.end(), x); };
  fill(v.u, 1), fill(v.A, 0), fill(v.B, 1), fill(v.C, 1), fill(v.dout, 1);
  const auto close = [](double got, double want, double scale) {
    return std::abs(got - want) <= 2e-6 * scale + 4e-36;
  };
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const bool sweep_z : {false, true}) {
      for (int64_t i = 0; i < kCount; i++) {
        const double x = static_cast<float>(-100 + 0.05 * static_cast<double>(i));
        v.delta[i] = sweep_z ? 1.5 : x;
        v.z[i] = sweep_z ? x : 1.25;
      }
      Problem<float> problem(v);
      run_kernel(problem);
      const auto out = problem.out.values(), ddelta = problem.ddelta.values(), dz = problem.dz.values();
      for (int64_t i = 0; i < kCount; i++) {
        const double delta = v.delta[i], z = v.z[i], s = 1 / (1 + std::exp(-z)),
                     slope = 1 / (1 + std::exp(-delta));
        const double dt = delta > 20 ? delta : std::log1p(std::exp(delta)), gate = z * s;
        const bool ok = close(out[i], dt * gate, std::abs(dt * gate)) &&
                        close(ddelta[i], slope * gate, std::abs(slope * gate)) &&
                        close(dz[i], dt * s * (1 + z * (1 - s)), dt * s * (1 + std::abs(z) * (1 - s)));
        if (!ok)
          FAIL_CHECK("delta " << delta << ", z " << z << ": " << out[i] << ", " << ddelta[i] << ", " << dz[i]);
      }
    }
    // Far outside: the limits, and no NaN but for -inf times 0.
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    fill(v.delta, 1.5), fill(v.z, 1);
    const std::vector<double> far = {1e30, -1e30, kInfinity, -kInfinity};
    std::copy(far.begin(), far.end(), v.delta.begin());
    std::copy(far.begin(), far.end() - 1, v.z.begin() + 8);
    Problem<float> problem(v);
    scan(problem.forward_params());
    const auto out = problem.out.values();
    CHECK(out[0] == doctest::Approx(1e30 / (1 + std::exp(-1.0))).epsilon(1e-6));
    CHECK(out[1] == 0);
    CHECK(out[2] == kInfinity);
    CHECK(out[3] == 0);
    CHECK(out[8] == doctest::Approx(1e30 * std::log1p(std::exp(1.5))).epsilon(1e-6));
    CHECK(out[9] == 0);
    CHECK(out[10] == kInfinity);
  }
}

TEST_CASE("scan decay overflows to infinity and never below zero") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    Options o;
    o.shape = {1, 1, 6, 1, 1};
    o.initial = true;
    Values v(o, 1);
    v.u.assign(6, 0), v.B.assign(1, 0), v.C.assign(1, 1), v.delta.assign(6, 1), v.initial.assign(6, 1);
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    v.A = {100, 1e30, kInfinity, -kInfinity, -1e30, NAN};
    Problem<float> problem(v);
    scan(problem.forward_params());
    const auto y = problem.out.values();
    for (int i = 0; i < 3; i++) CHECK(y[i] == kInfinity);
    CHECK(std::abs(y[3]) < 1e-37);
    CHECK(std::abs(y[4]) < 1e-37);
    CHECK(std::isnan(y[5]));
  }
}

TEST_CASE("scan denormals count as zero and cost nothing else") {
  Options o;
  o.shape = {1, 40, 16, 16, 1};
  Values v(o, 2);
  for (double& x : v.u) x *= 1e-40;
  Problem<float> problem(v);
  for (const auto& r : run_kernel(problem)) {
    if (r.name == "out" || r.name == "last_state") {
      for (const double x : r.values) CHECK(std::abs(x) < 1.2e-38);
    }
  }
}

TEST_CASE("a NaN stays in its sample and channel, from its token on") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const int which : {0, 1, 2}) {
      CAPTURE(which);
      const Options o = everything({2, 20, 21, 5, 1});
      Values v(o, 4);
      const int64_t at = 0 * 20 * 21 + 7 * 21 + 3;  // sample 0, token 7, channel 3
      (which == 0 ? v.u : which == 1 ? v.delta : v.z)[at] = NAN;
      Problem<float> problem(v);
      run_kernel(problem);
      const auto out = problem.out.values(), du = problem.du.values(), dB = problem.dB.values();
      for (int64_t b = 0; b < 2; b++) {
        for (int64_t t = 0; t < 20; t++) {
          for (int64_t d = 0; d < 21; d++) {
            const int64_t i = (b * 20 + t) * 21 + d;
            const bool hit = b == 0 && d == 3 && (which == 2 ? t == 7 : t >= 7);
            if (std::isnan(out[i]) != hit) FAIL_CHECK("out at " << b << "," << t << "," << d);
            if (!(b == 0 && d == 3) && std::isnan(du[i])) FAIL_CHECK("du at " << b << "," << t << "," << d);
          }
        }
      }
      for (int64_t i = 20 * 5; i < 2 * 20 * 5; i++) CHECK(!std::isnan(dB[i]));
    }
  }
}

TEST_CASE("reverse equals flipping, and order equals gather, scan, scatter, bit for bit") {
  const Restore restore;
  for (const bool reverse : {false, true}) {
    Options o = everything({2, 37, 20, 8, 2});
    o.order = true;
    o.reverse = reverse;
    const Values v(o, 9);
    const auto [B, L, D, N, G, unit] = o.shape;
    Problem<float> direct(v);
    const Results got = run_kernel(direct);
    Values gathered = v;
    gathered.o.order = gathered.o.reverse = false;
    const auto token = [&](int64_t s) { return v.order[reverse ? L - 1 - s : s]; };
    const auto gather = [&](const std::vector<double>& from, int64_t width) {
      std::vector<double> to(from.size());
      for (int64_t r = 0; r < B * L; r++) {
        std::copy_n(from.begin() + (r / L * L + token(r % L)) * width, width, to.begin() + r * width);
      }
      return to;
    };
    gathered.u = gather(v.u, D), gathered.delta = gather(v.delta, D), gathered.z = gather(v.z, D);
    gathered.dout = gather(v.dout, D), gathered.B = gather(v.B, G * N), gathered.C = gather(v.C, G * N);
    Problem<float> plain(gathered);
    const Results want = run_kernel(plain);
    for (size_t k = 0; k < want.size(); k++) {
      const std::string& name = want[k].name;
      CAPTURE(name);
      const bool per_token = name == "out" || name == "du" || name == "ddelta" || name == "dz";
      const bool matrix = name == "dB" || name == "dC";
      const auto moved = per_token ? gather(got[k].values, D)
                         : matrix  ? gather(got[k].values, G * N)
                                   : got[k].values;
      CHECK(moved == want[k].values);
    }
  }
}

TEST_CASE("an order that is no permutation gives NaN and touches nothing else") {
  Options o = everything({1, 5, 7, 3, 1});
  o.order = true;
  for (const int32_t wrong : {-1, 5, 1 << 30}) {
    Values v(o, 1);
    v.order[2] = wrong;
    Problem<float> problem(v);
    for (const auto& r : run_kernel(problem)) {
      for (const double x : r.values) CHECK(std::isnan(x));
    }
    CHECK(problem.gaps_untouched());
  }
}

TEST_CASE("scan in pieces with carried state equals the whole, and so do single steps") {
  const Restore restore;
  const Options o = everything({2, 70, 20, 16, 2});
  const Values v(o, 21);
  const auto [B, L, D, N, G, unit] = o.shape;
  Problem<double> whole(v);
  scan(whole.forward_params());
  for (const int64_t cut : {1, 15, 16, 17, 32, 69}) {
    CAPTURE(cut);
    Problem<double> parts(v);
    ScanParams<double> first = parts.forward_params(), second = first;
    first.checkpoints = second.checkpoints = nullptr;
    first.plan = second.plan = nullptr;
    first.shape.length = cut;
    second.shape.length = L - cut;
    second.u.data += cut * second.u.token, second.delta.data += cut * second.delta.token;
    second.z.data += cut * second.z.token, second.out.data += cut * second.out.token;
    second.B.data += cut * second.B.token, second.C.data += cut * second.C.token;
    scan(first);
    const std::vector<double> state(first.last_state, first.last_state + B * D * N);
    second.initial_state = state.data();
    scan(second);
    CHECK(error(parts.out.values(), whole.out.values()) < 1e-14);
    CHECK(error(parts.last.values(), whole.last.values()) < 1e-14);
  }
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    Problem<float> p(v);
    std::vector<float> state = p.initial.data, u(B * D), delta(B * D), z(B * D), b(B * G * N), c(B * G * N),
                       out(B * D);
    state.erase(state.begin());
    std::vector<double> y(B * L * D);
    for (int64_t t = 0; t < L; t++) {
      for (int64_t i = 0; i < B; i++) {
        std::copy_n(p.u.row(i * L + t), D, u.data() + i * D);
        std::copy_n(p.delta.row(i * L + t), D, delta.data() + i * D);
        std::copy_n(p.z.row(i * L + t), D, z.data() + i * D);
        std::copy_n(p.B.row(i * L + t), G * N, b.data() + i * G * N);
        std::copy_n(p.C.row(i * L + t), G * N, c.data() + i * G * N);
      }
      ScanStepParams<float> s;
      s.batch = B, s.channels = D, s.state_size = N, s.groups = G, s.softplus = true;
      s.state = s.next_state = state.data();
      s.next_state = state.data();
      s.u = u.data(), s.delta = delta.data(), s.z = z.data(), s.A = p.A.get(), s.B = b.data(), s.C = c.data();
      s.D = p.D.get(), s.delta_bias = p.bias.get(), s.out = out.data();
      scan_step(s);
      for (int64_t i = 0; i < B; i++) std::copy_n(out.data() + i * D, D, y.begin() + (i * L + t) * D);
    }
    CHECK(error(y, whole.out.values()) < 2e-6);
    CHECK(error(std::vector<double>(state.begin(), state.end() - 1), whole.last.values()) < 2e-6);
  }
}

TEST_CASE("scan step matches its definition for odd sizes, constant B and C included") {
  const Restore restore;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t N : {1, 3, 8, 16, 17, 64}) {
      for (const int64_t D : {1, 7, 64, 150}) {
        CAPTURE(isa);
        CAPTURE(N);
        CAPTURE(D);
        Options o = everything({3, 1, D, N, 1});
        o.constant_B = N % 2 == 0;
        o.constant_C = D % 2 == 0;
        const Values v(o, 31);
        const auto run = [&](auto tag, auto step) {
          using T = decltype(tag);
          Problem<T> p(v);
          ScanStepParams<T> s;
          s.batch = 3, s.channels = D, s.state_size = N, s.softplus = true;
          s.constant_B = o.constant_B, s.constant_C = o.constant_C;
          // Length 1 and gap 0, but delta has a gap of 1: pack it.
          std::vector<T> delta;
          for (const double x : p.delta.values()) delta.push_back(static_cast<T>(x));
          s.state = p.initial.get(), s.u = p.u.get(), s.delta = delta.data(), s.z = p.z.get(), s.A = p.A.get();
          s.B = p.B.get(), s.C = p.C.get(), s.D = p.D.get(), s.delta_bias = p.bias.get();
          s.out = p.out.get(), s.next_state = p.last.get();
          step(s);
          CHECK(p.gaps_untouched());
          return p.forward_results();
        };
        const Results want = run(double{}, [](auto& s) { scan_step_reference(s); });
        const Results single = run(float{}, [](auto& s) { scan_step(s); });
        const Results exact = run(double{}, [](auto& s) { scan_step(s); });
        for (int k = 0; k < 2; k++) {
          CHECK(error(single[k].values, want[k].values) < 2e-6);
          CHECK(error(exact[k].values, want[k].values) < 1e-13);
        }
      }
    }
  }
}

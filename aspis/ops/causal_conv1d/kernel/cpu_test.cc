#include "aspis/ops/causal_conv1d/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/causal_conv1d/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

struct Shape {
  int64_t batch, length, channels, width;
  bool symmetric = false, silu = true, reverse = false, order = false, bias = true, initial = false,
       final_state = false;
  bool dense = true;
  bool channels_first = false;       // x lies {B, D, L}
  std::vector<int32_t> bounds = {};  // cu_seqlens
  std::vector<int32_t> ids = {};     // seq_idx

  int64_t states() const { return bounds.empty() ? batch : static_cast<int64_t>(bounds.size()) - 1; }
};

// Inputs and outputs of one problem in type T; the values do not depend on T.
template <typename T>
struct Problem {
  explicit Problem(const Shape& s) {
    // Gaps and odd offsets as in a slice of a wider array.
    const int64_t gap = s.dense ? 0 : 5, states = s.width - 1;
    p.batch = s.batch, p.length = s.length, p.channels = s.channels, p.width = s.width;
    p.reach = s.symmetric ? (s.width - 1) / 2 : states;
    p.silu = s.silu, p.reverse = s.reverse;
    if (!s.bounds.empty()) sequences = kernel::bounded_sequences(s.bounds);
    if (!s.ids.empty()) sequences = kernel::id_sequences(s.batch, s.length, s.ids.data(), s.reverse);
    if (!sequences.empty()) p.sequences = &sequences;
    p.states = s.states();
    p.x_token = s.channels + gap, p.x_batch = s.length * p.x_token + gap;
    p.initial_token = s.channels + gap, p.initial_batch = states * p.initial_token;
    x = random("x", s.batch * p.x_batch + gap);
    weight = random("weight", s.channels * s.width);
    bias = random("bias", s.channels);
    initial = random("initial", s.states() * p.initial_batch + 1);
    order.resize(s.length);
    std::iota(order.begin(), order.end(), 0);
    Rng rng(3, "order");
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[rng.below(i)]);
    out.assign(s.batch * s.length * s.channels + 1, T(-7));
    final_state.assign(s.states() * states * s.channels + 1, T(-7));
    if (s.channels_first) {
      // The same values, channels apart.
      p.x_channel = s.length + gap;
      std::vector<T> turned(s.batch * s.channels * p.x_channel + gap);
      for (int64_t b = 0; b < s.batch; b++) {
        for (int64_t t = 0; t < s.length; t++) {
          for (int64_t c = 0; c < s.channels; c++) {
            turned[gap + (b * s.channels + c) * p.x_channel + t] = x[gap + b * p.x_batch + t * p.x_token + c];
          }
        }
      }
      x = std::move(turned);
      p.x_batch = s.channels * p.x_channel, p.x_token = 1;
    }
    p.x = x.data() + gap, p.weight = weight.data(), p.out = out.data();
    if (s.bias) p.bias = bias.data();
    if (s.order) p.order = order.data();
    if (s.initial) p.initial = initial.data() + gap;
    if (s.final_state) p.final_state = final_state.data();

    g.forward = p;
    g.dout_token = s.channels + gap, g.dout_batch = s.length * g.dout_token;
    if (!s.dense) g.dout_batch = 0;  // a cotangent broadcast over the batch
    dout = random("dout", s.batch * s.length * (s.channels + gap));
    dfinal = random("dfinal", s.states() * states * s.channels + 1);
    g.dout = dout.data();
    dx.assign(out.size(), T(-7)), dweight.assign(weight.size() + 1, T(-7)), dbias.assign(bias.size() + 1, T(-7));
    dinitial.assign(final_state.size(), T(-7));
    g.dx = dx.data(), g.dweight = dweight.data();
    if (s.bias) g.dbias = dbias.data();
    if (s.initial) g.dinitial = dinitial.data();
    if (s.final_state) {
      g.dfinal = dfinal.data();
      g.dfinal_token = s.channels, g.dfinal_batch = states * s.channels;
    }
    // Filled with NaN: a kernel that reads scratch before writing it shows.
    forward_workspace.assign(kernel::conv1d_workspace(p), 0xff);
    vjp_workspace.assign(kernel::conv1d_vjp_workspace(g), 0xff);
    p.workspace = forward_workspace.data();
    g.workspace = vjp_workspace.data();
  }
  Problem(const Problem&) = delete;

  static std::vector<T> random(const char* name, int64_t n) {
    std::vector<T> v(n);
    Rng rng(1, name);
    for (T& value : v) value = static_cast<T>(static_cast<float>(rng.normal()));
    return v;
  }

  std::vector<const std::vector<T>*> results() const {
    return {&out, &final_state, &dx, &dweight, &dbias, &dinitial};
  }

  kernel::Conv1dParams<T> p;
  kernel::Conv1dVjpParams<T> g;
  std::vector<T> x, weight, bias, initial, out, final_state, dout, dfinal, dx, dweight, dbias, dinitial;
  std::vector<int32_t> order;
  std::vector<kernel::Sequence> sequences;
  std::vector<unsigned char> forward_workspace, vjp_workspace;
};

const char* const kResultNames[] = {"out", "final_state", "dx", "dweight", "dbias", "dinitial"};

std::string describe(const Shape& s) {
  std::string text = "B " + std::to_string(s.batch) + " L " + std::to_string(s.length) + " D " +
                     std::to_string(s.channels) + " W " + std::to_string(s.width);
  const std::pair<bool, const char*> flags[] = {
      {s.symmetric, "symmetric"}, {s.silu, "silu"},       {s.reverse, "reverse"},         {s.order, "order"},
      {s.bias, "bias"},           {s.initial, "initial"}, {s.final_state, "final state"}, {s.dense, "dense"}};
  for (const auto& [on, name] : flags) text += on ? std::string(", ") + name : "";
  return text;
}

// The definition; packed sequences one by one, with the gradients that they share added.
void run_reference(Problem<double>& problem) {
  if (!problem.p.sequences) {
    kernel::conv1d_reference(problem.p);
    kernel::conv1d_vjp_reference(problem.g);
    return;
  }
  const kernel::Conv1dVjpParams<double>& g = problem.g;
  const int64_t width = g.forward.width, channels = g.forward.channels, state = (width - 1) * channels;
  for (auto* v : {&problem.out, &problem.dx, &problem.final_state, &problem.dinitial, &problem.dweight, &problem.dbias})
    std::fill(v->begin(), v->end() - 1, 0.0);
  std::vector<double> dweight(channels * width), dbias(channels);
  for (const kernel::Sequence& q : problem.sequences) {
    if (q.padding) continue;
    kernel::Conv1dVjpParams<double> one = g;
    kernel::Conv1dParams<double>& f = one.forward;
    f.sequences = nullptr;
    f.batch = 1, f.length = q.length;
    const int64_t at = (q.row * g.forward.length + q.first) * channels;
    f.x += q.row * f.x_batch + q.first * f.x_token;
    f.initial = f.initial && q.initial >= 0 ? f.initial + q.initial * f.initial_batch : nullptr;
    f.out = problem.out.data() + at;
    f.final_state = problem.p.final_state && q.last >= 0 ? problem.final_state.data() + q.last * state : nullptr;
    one.dout += q.row * g.dout_batch + q.first * g.dout_token;
    one.dfinal = g.dfinal && q.last >= 0 ? g.dfinal + q.last * g.dfinal_batch : nullptr;
    one.dx = problem.dx.data() + at;
    one.dinitial = g.dinitial && q.initial >= 0 ? problem.dinitial.data() + q.initial * state : nullptr;
    one.dweight = dweight.data();
    if (g.dbias) one.dbias = dbias.data();
    kernel::conv1d_reference(f);
    kernel::conv1d_vjp_reference(one);
    for (size_t i = 0; i < dweight.size(); i++) problem.dweight[i] += dweight[i];
    for (size_t i = 0; g.dbias && i < dbias.size(); i++) problem.dbias[i] += dbias[i];
  }
  // What a problem does not ask for stays as it was.
  if (!problem.p.final_state) std::fill(problem.final_state.begin(), problem.final_state.end(), -7.0);
  if (!g.dinitial) std::fill(problem.dinitial.begin(), problem.dinitial.end(), -7.0);
  if (!g.dbias) std::fill(problem.dbias.begin(), problem.dbias.end(), -7.0);
}

template <typename T>
void check_against_reference(const Shape& s, double tolerance) {
  Problem<T> got(s);
  Problem<double> want(s);
  kernel::conv1d(got.p);
  kernel::conv1d_vjp(got.g);
  run_reference(want);
  for (size_t r = 0; r < got.results().size(); r++) {
    const auto& a = *got.results()[r];
    const auto& b = *want.results()[r];
    REQUIRE(a.size() == b.size());
    double error = 0, largest = 1;
    bool finite = true;
    for (size_t i = 0; i < a.size(); i++) {
      finite = finite && std::isfinite(a[i]);
      error = std::max(error, std::abs(static_cast<double>(a[i]) - b[i]));
      largest = std::max(largest, std::abs(b[i]));
    }
    CAPTURE(active_isa());
    CAPTURE(describe(s));
    CHECK_MESSAGE(finite, kResultNames[r]);
    CHECK_MESSAGE(error / largest < tolerance, kResultNames[r], " ", error / largest);
  }
}

std::vector<Shape> shapes() {
  std::vector<Shape> list;
  uint64_t i = 0;
  for (const int64_t width : {1, 2, 3, 4, 5, 7, 18, 33}) {
    for (const int64_t length : {1, 2, 3, 7, 70, 131}) {
      for (const bool symmetric : {false, true}) {
        Rng rng(5, "shapes", i++);
        Shape s{static_cast<int64_t>(1 + rng.below(3)), length, static_cast<int64_t>(1 + rng.below(40)), width,
                symmetric};
        s.silu = rng.below(4) > 0, s.reverse = rng.below(2), s.order = rng.below(2), s.bias = rng.below(4) > 0;
        s.initial = !symmetric && rng.below(2), s.final_state = !symmetric && rng.below(2), s.dense = rng.below(2);
        list.push_back(s);
      }
    }
  }
  // More than one block of channels and of tokens.
  list.push_back({.batch = 2, .length = 71, .channels = 1029, .width = 4, .initial = true, .final_state = true});
  list.push_back({.batch = 1, .length = 1100, .channels = 3, .width = 4, .order = true, .dense = false});
  return list;
}

}  // namespace

TEST_CASE("conv1d kernels match the definition and its adjoint on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : shapes()) {
      check_against_reference<float>(s, 1e-6);
      check_against_reference<double>(s, 1e-13);
    }
  }
  force_isa("");
}

TEST_CASE("packed sequences match each one on its own, forward and backward") {
  std::vector<Shape> list;
  for (const int64_t width : {1, 2, 4, 7}) {
    for (const bool symmetric : {false, true}) {
      for (const bool reverse : {false, true}) {
        Shape s{.batch = 1, .length = 150, .channels = 21, .width = width, .symmetric = symmetric, .reverse = reverse};
        s.initial = s.final_state = !symmetric;
        s.silu = !reverse || width == 4;
        s.dense = reverse;
        s.bounds = {0, 0, 1, 3, 3, 7, 80, 81, 150, 150};
        list.push_back(s);
        s.bounds.clear();
        s.batch = 3;
        for (int64_t t = 0; t < 450; t++) {
          const int64_t b = t / 150, at = t % 150;
          s.ids.push_back(static_cast<int32_t>(b == 0   ? (at < 2 ? 0 : at < 90 ? 3 : at < 95 ? -1 : 3)
                                               : b == 1 ? (at < 5 ? -1 : at < 149 ? 1 : 0)
                                                        : (at < 140 ? 0 : -2)));
        }
        list.push_back(s);
      }
    }
  }
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : list) {
      CAPTURE(s.ids.empty());
      check_against_reference<float>(s, 1e-6);
      check_against_reference<double>(s, 1e-13);
    }
  }
  force_isa("");
}

TEST_CASE("sequences are found from bounds and ids") {
  using kernel::Sequence;
  const auto same = [](const std::vector<Sequence>& got, const std::vector<Sequence>& want) {
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < got.size(); i++) {
      CAPTURE(i);
      CHECK(got[i].row == want[i].row);
      CHECK(got[i].first == want[i].first);
      CHECK(got[i].length == want[i].length);
      CHECK(got[i].initial == want[i].initial);
      CHECK(got[i].last == want[i].last);
      CHECK(got[i].padding == want[i].padding);
    }
  };
  same(kernel::bounded_sequences({0, 2, 2, 5}), {{0, 0, 2, 0, 0, false}, {0, 2, 0, 1, 1, false}, {0, 2, 3, 2, 2, false}});
  const std::vector<int32_t> ids{0, 0, 7, -1, 4, 0};
  same(kernel::id_sequences(2, 3, ids.data(), false), {{0, 0, 2, 0, -1, false},
                                                       {0, 2, 1, -1, 0, false},
                                                       {1, 0, 1, -1, -1, true},
                                                       {1, 1, 1, -1, -1, false},
                                                       {1, 2, 1, -1, 1, false}});
  same(kernel::id_sequences(2, 3, ids.data(), true), {{0, 2, 1, -1, -1, false},
                                                      {0, 0, 2, -1, 0, false},
                                                      {1, 2, 1, 1, -1, false},
                                                      {1, 1, 1, -1, -1, false},
                                                      {1, 0, 1, -1, -1, true}});
  same(kernel::row_sequences(2, 4), {{0, 0, 4, 0, 0, false}, {1, 0, 4, 1, 1, false}});
}

TEST_CASE("channels-first input gives the bits of channels-last, forward and backward, packed too") {
  std::vector<Shape> list = shapes();
  for (const int64_t width : {1, 2, 4, 7}) {
    list.push_back({.batch = 1,
                    .length = 90,
                    .channels = 21,
                    .width = width,
                    .initial = true,
                    .final_state = true,
                    .bounds = {0, 1, 1, 40, 88, 90}});
  }
  for (Shape s : list) {
    CAPTURE(describe(s));
    Problem<float> last(s);
    s.channels_first = true;
    Problem<float> first(s);
    for (auto* problem : {&last, &first}) {
      kernel::conv1d(problem->p);
      kernel::conv1d_vjp(problem->g);
    }
    for (size_t r = 0; r < last.results().size(); r++) {
      const auto &a = *last.results()[r], &b = *first.results()[r];
      CHECK_MESSAGE(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, kResultNames[r]);
    }
  }
}

TEST_CASE("conv1d kernels are bit-equal for 1, 2, 3 and 7 threads") {
  const Shape s{.batch = 3,
                .length = 333,
                .channels = 1061,
                .width = 4,
                .order = true,
                .initial = true,
                .final_state = true};
  const auto run = [&](int threads) {
    set_num_threads(threads);
    auto problem = std::make_unique<Problem<float>>(s);
    kernel::conv1d(problem->p);
    kernel::conv1d_vjp(problem->g);
    return problem;
  };
  const auto one = run(1);
  for (const int threads : {2, 3, 7}) {
    const auto many = run(threads);
    for (size_t r = 0; r < one->results().size(); r++) {
      const auto &a = *one->results()[r], &b = *many->results()[r];
      CHECK_MESSAGE(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, kResultNames[r], " ", threads);
    }
  }
  set_num_threads(0);
}

TEST_CASE("conv1d writes nothing behind its outputs") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const Shape s{.batch = 1, .length = 6, .channels = 13, .width = 4, .initial = true, .final_state = true};
    Problem<float> problem(s);
    kernel::conv1d(problem.p);
    kernel::conv1d_vjp(problem.g);
    for (const auto* result : problem.results()) CHECK(result->back() == -7.f);
  }
  force_isa("");
}

TEST_CASE("conv1d with an order that is no permutation gives NaN and touches nothing else") {
  const Shape s{.batch = 1, .length = 5, .channels = 3, .width = 3, .order = true, .final_state = true};
  for (const int32_t wrong : {-1, 5, 1 << 30, 0}) {
    Problem<float> problem(s);
    std::iota(problem.order.begin(), problem.order.end(), 0);
    problem.order[4] = wrong;
    kernel::conv1d(problem.p);
    kernel::conv1d_vjp(problem.g);
    CHECK(std::isnan(problem.out[0]));
    CHECK(std::isnan(problem.final_state[0]));
    CHECK(std::isnan(problem.dx[0]));
    CHECK(std::isnan(problem.dweight[0]));
    CHECK(problem.out.back() == -7.f);
  }
}

TEST_CASE("a NaN in one channel stays in its channel and its window") {
  const Shape s{.batch = 2, .length = 40, .channels = 19, .width = 4};
  Problem<float> problem(s);
  problem.x[(40 + 10) * 19 + 5] = std::numeric_limits<float>::quiet_NaN();
  kernel::conv1d(problem.p);
  int nans = 0;
  for (int64_t i = 0; i < 2 * 40 * 19; i++) nans += std::isnan(problem.out[i]);
  CHECK(nans == 4);
  for (int64_t t = 10; t < 14; t++) CHECK(std::isnan(problem.out[(40 + t) * 19 + 5]));
}

// Bad input: one row for each way in which the arguments of an operator can fail to
// fit. The function itself answers, before anything runs, with the operator, the
// argument, what is required and what came.

#include <doctest/doctest.h>
#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/cross_scan/cross_scan.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/pscan/pscan.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"

namespace aspis::conformance {
namespace {

namespace mx = mlx::core;

mx::array some(const mx::Shape& shape, mx::Dtype dtype = mx::float32) { return mx::ones(shape, dtype); }
mx::array ints(const mx::Shape& shape) { return some(shape, mx::int32); }

/// A change to the arguments of a call that fits, and how the sentence about it begins.
template <typename Call>
struct Row {
  std::function<void(Call&)> change;
  std::string says;
};

template <typename Call>
void check(const char* op, const Call& good, const std::vector<Row<Call>>& rows) {
  CHECK_NOTHROW(good.run());
  for (const auto& row : rows) {
    Call call = good;
    row.change(call);
    std::string message = "accepted";
    try {
      call.run();
    } catch (const Error& e) {
      message = e.what();
      CHECK(e.kind() == ErrorKind::kUsage);
      CHECK_FALSE(e.parts().required.empty());
      CHECK_FALSE(e.parts().got.empty());
    } catch (const std::exception& e) {
      message = std::string("another exception: ") + e.what();
    }
    const std::string want = std::string("[") + op + "] " + row.says;
    CHECK_MESSAGE(message.rfind(want, 0) == 0, "wanted ", want, "\n got   ", message);
  }
}

// Which way each argument is of a type that no operator computes in.
#define ASPIS_NOT_REAL(argument, name, ...)                                                                    \
  {[](auto& c) { c.argument = ints(__VA_ARGS__); }, name " must be a real floating-point array; got int32"}, { \
    [](auto& c) { c.argument = some(__VA_ARGS__, mx::bool_); },                                                \
        name " must be a real floating-point array; got bool"                                                  \
  }

struct Scan {
  mx::array u = some({2, 6, 8}), delta = some({2, 6, 8}), A = some({8, 4}), B = some({2, 6, 4}),
            C = some({2, 6, 4});
  ScanOptions o;
  void run() const { selective_scan_with_state(u, delta, A, B, C, o); }
  // A batch of one, for cu_seqlens.
  void single() { u = delta = some({1, 6, 8}), B = C = some({1, 6, 4}); }
};

struct ScanStep {
  mx::array state = some({2, 8, 4}), u = some({2, 8}), delta = some({2, 8}), A = some({8, 4}), B = some({2, 4}),
            C = some({2, 4});
  ScanOptions o;
  void run() const { selective_scan_step(state, u, delta, A, B, C, o); }
};

struct Ssd {
  mx::array x = some({2, 6, 4, 3}), dt = some({2, 6, 4}), A = some({4}), B = some({2, 6, 2, 5}),
            C = some({2, 6, 2, 5});
  SsdOptions o;
  void run() const { ssd_with_state(x, dt, A, B, C, o); }
  void single() { x = some({1, 6, 4, 3}), dt = some({1, 6, 4}), B = C = some({1, 6, 2, 5}); }
};

struct SsdStep {
  mx::array state = some({2, 4, 3, 5}), x = some({2, 4, 3}), dt = some({2, 4}), A = some({4}), B = some({2, 2, 5}),
            C = some({2, 2, 5});
  SsdOptions o;
  void run() const { ssd_step(state, x, dt, A, B, C, o); }
};

struct Mamba3 {
  mx::array x = some({2, 6, 4, 3}), B = some({2, 6, 2, 2, 6}), C = some({2, 6, 2, 2, 6}), dd_dt = some({2, 6, 4}),
            dd_A = some({2, 6, 4}), trap = some({2, 6, 4});
  Mamba3Options o;
  Mamba3() {
    o.angle = some({2, 6, 2}), o.z = some({2, 6, 4, 3});
    o.mimo_x = o.mimo_o = some({4, 2, 3});
  }
  void run() const { mamba3_with_state(x, B, C, dd_dt, dd_A, trap, o); }
  void single() {
    x = some({1, 6, 4, 3}), B = C = some({1, 6, 2, 2, 6}), dd_dt = dd_A = trap = some({1, 6, 4});
    o.angle = some({1, 6, 2}), o.z = some({1, 6, 4, 3});
  }
  // With a state of which one part is another.
  void state(mx::array Mamba3State::*part, const mx::array& value) {
    o.initial_state = mamba3_zero_state(2, 4, 2, 3, 6, 2);
    (*o.initial_state).*part = value;
  }
};

struct Mamba3Step {
  Mamba3State state = mamba3_zero_state(2, 4, 2, 3, 6, 2);
  mx::array x = some({2, 4, 3}), B = some({2, 2, 2, 6}), C = some({2, 2, 2, 6}), dd_dt = some({2, 4}),
            dd_A = some({2, 4}), trap = some({2, 4});
  Mamba3Options o;
  Mamba3Step() {
    o.angle = some({2, 2}), o.z = some({2, 4, 3});
    o.mimo_x = o.mimo_o = some({4, 2, 3});
  }
  void run() const { mamba3_step(state, x, B, C, dd_dt, dd_A, trap, o); }
};

struct Conv {
  mx::array x = some({2, 5, 4}), weight = some({4, 3});
  Conv1dOptions o;
  bool with_state = false;
  void run() const {
    if (with_state) {
      causal_conv1d_with_state(x, weight, o);
    } else {
      causal_conv1d(x, weight, o);
    }
  }
  void single() { x = some({1, 5, 4}); }
};

struct ConvStep {
  mx::array state = some({2, 2, 4}), x = some({2, 4}), weight = some({4, 3});
  Conv1dOptions o;
  void run() const { causal_conv1d_step(state, x, weight, o); }
};

struct Norm {
  mx::array x = some({2, 6});
  GatedNormOptions o;
  bool center = false;
  void run() const { center ? layer_norm_gated(x, o) : rmsnorm_gated(x, o); }
};

struct Pscan {
  mx::array A = some({2, 5, 3}), X = some({2, 5, 3});
  std::optional<mx::array> initial;
  void run() const { pscan(A, X, initial); }
};

struct Cross {
  mx::array x;
  ScanOrders orders;
  bool merge;
  explicit Cross(bool m)
      : x(some(m ? mx::Shape{2, 4, 6, 3} : mx::Shape{2, 6, 3})), orders(ss2d_orders(2, 3)), merge(m) {}
  void run() const { merge ? cross_merge(x, orders) : cross_scan(x, orders); }
};

// The rows that every operator with packed sequences has. L tokens, a batch of two.
template <typename Call>
std::vector<Row<Call>> packing_rows(int length, const std::string& ends) {
  const auto cu = [](const std::vector<int32_t>& bounds) {
    return [bounds](Call& c) { c.single(), c.o.cu_seqlens = bounds; };
  };
  return {
      {[length](Call& c) {
         c.o.cu_seqlens = {0, length};
       },
       "cu_seqlens needs a batch of 1; got a batch of 2"},
      {cu({0, 4, 2, length}), "cu_seqlens must not fall; got 4 then 2 at place 2"},
      {cu({0, 3, -1, length}), "cu_seqlens must not fall; got 3 then -1 at place 2"},
      {cu({0, 4}), "cu_seqlens must end at the number of tokens, " + ends + "; got 4"},
      {cu({0, 2, length + 1}),
       "cu_seqlens must end at the number of tokens, " + ends + "; got " + std::to_string(length + 1)},
      {cu({1, length}), "cu_seqlens must start with 0 and name at least one end; got 2 values from 1"},
      {cu({-1, length}), "cu_seqlens must start with 0 and name at least one end; got 2 values from -1"},
      {cu({0}), "cu_seqlens must start with 0 and name at least one end; got 1 values from 0"},
  };
}

template <typename Call>
std::vector<Row<Call>> id_rows(int length) {
  const std::string shape = "{2, " + std::to_string(length) + "}";
  return {
      {[length](Call& c) {
         c.o.seq_idx = ints({2, length - 1});
       },
       "seq_idx must have shape {B, L} = " + shape + "; got {2, " + std::to_string(length - 1) + "}"},
      {[length](Call& c) { c.o.seq_idx = ints({length}); },
       "seq_idx must have shape {B, L} = " + shape + "; got {" + std::to_string(length) + "}"},
      {[length](Call& c) {
         c.o.seq_idx = some({2, length});
       },
       "seq_idx must be int32; got float32"},
      {[length](Call& c) {
         c.o.seq_idx = some({2, length}, mx::int64);
       },
       "seq_idx must be int32; got int64"},
      {[length](Call& c) {
         c.single();
         c.o.seq_idx = ints({1, length}), c.o.cu_seqlens = {0, length};
       },
       "only one of cu_seqlens and seq_idx may be given; got both"},
  };
}

template <typename Call>
std::vector<Row<Call>> joined(std::initializer_list<std::vector<Row<Call>>> lists) {
  std::vector<Row<Call>> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace

TEST_CASE("bad input: selective_scan") {
  using R = Row<Scan>;
  const std::string matrix =
      " must have shape {B, L, N}, {B, L, G, N} or {D, N} = {2, 6, 4}, with groups, or {8, 4}; got ";
  const std::vector<R> rows = {
      {[](Scan& c) {
         c.u = some({6, 8});
       },
       "u must have shape {B, L, D}; got {6, 8}"},
      {[](Scan& c) {
         c.u = some({1, 2, 6, 8});
       },
       "u must have shape {B, L, D}; got {1, 2, 6, 8}"},
      {[](Scan& c) {
         c.u = some({2, 0, 8});
       },
       "delta must have shape {B, L, D} = {2, 0, 8}; got {2, 6, 8}"},
      {[](Scan& c) {
         c.delta = some({2, 5, 8});
       },
       "delta must have shape {B, L, D} = {2, 6, 8}; got {2, 5, 8}"},
      {[](Scan& c) { c.delta = some({8}); }, "delta must have shape {B, L, D} = {2, 6, 8}; got {8}"},
      {[](Scan& c) {
         c.A = some({7, 4});
       },
       "A must have shape {D, N} with D = 8; got {7, 4}"},
      {[](Scan& c) { c.A = some({8}); }, "A must have shape {D, N} with D = 8; got {8}"},
      {[](Scan& c) {
         c.A = some({8, 0});
       },
       "the state size N of A must be 1 to 256; got 0"},
      {[](Scan& c) {
         c.A = some({8, 257});
       },
       "the state size N of A must be 1 to 256; got 257"},
      {[=](Scan& c) {
         c.B = some({2, 5, 4});
       },
       "B" + matrix + "{2, 5, 4}"},
      {[=](Scan& c) {
         c.B = some({2, 6, 3});
       },
       "B" + matrix + "{2, 6, 3}"},
      {[=](Scan& c) {
         c.B = some({6, 4});
       },
       "B" + matrix + "{6, 4}"},
      {[=](Scan& c) {
         c.B = some({2, 6, 0, 4});
       },
       "B" + matrix + "{2, 6, 0, 4}"},
      {[=](Scan& c) {
         c.C = some({1, 6, 4});
       },
       "C" + matrix + "{1, 6, 4}"},
      {[=](Scan& c) {
         c.C = some({2, 6, 1, 1, 4});
       },
       "C" + matrix + "{2, 6, 1, 1, 4}"},
      {[](Scan& c) {
         c.B = some({2, 6, 3, 4});
       },
       "the groups of B must divide D = 8; got 3"},
      {[](Scan& c) {
         c.C = some({2, 6, 16, 4});
       },
       "the groups of C must divide D = 8; got 16"},
      {[](Scan& c) {
         c.B = some({2, 6, 2, 4}), c.C = some({2, 6, 4, 4});
       },
       "B and C must have the same number of groups; got 2 and 4"},
      {[](Scan& c) { c.o.D = some({7}); }, "D must have shape {D} = {8}; got {7}"},
      {[](Scan& c) {
         c.o.D = some({8, 1});
       },
       "D must have shape {D} = {8}; got {8, 1}"},
      {[](Scan& c) { c.o.delta_bias = some({1}); }, "delta_bias must have shape {D} = {8}; got {1}"},
      {[](Scan& c) {
         c.o.z = some({2, 6, 4});
       },
       "z must have shape {B, L, D} = {2, 6, 8}; got {2, 6, 4}"},
      {[](Scan& c) {
         c.o.initial_state = some({2, 8, 3});
       },
       "initial_state must have shape {B, D, N} = {2, 8, 4}; got {2, 8, 3}"},
      {[](Scan& c) {
         c.o.initial_state = some({8, 4});
       },
       "initial_state must have shape {B, D, N} = {2, 8, 4}; got {8, 4}"},
      {[](Scan& c) {
         c.single();
         c.o.cu_seqlens = {0, 2, 6}, c.o.initial_state = some({1, 8, 4});
       },
       "initial_state must have shape {sequences, D, N} = {2, 8, 4}; got {1, 8, 4}"},
      {[](Scan& c) { c.o.order = mx::arange(5); }, "order must have shape {L} = {6}; got {5}"},
      {[](Scan& c) { c.o.order = some({6}); }, "order must hold integers; got float32"},
      {[](Scan& c) {
         c.o.order = mx::array({0, 1, 2, 3, 4, 4});
       },
       "order must hold each of 0 .. L-1 = 5 once; got 4 at place 5"},
      {[](Scan& c) {
         c.o.order = mx::array({0, 1, 2, 3, 4, 6});
       },
       "order must hold each of 0 .. L-1 = 5 once; got 6 at place 5"},
      {[](Scan& c) {
         c.o.order = mx::array({-1, 1, 2, 3, 4, 5});
       },
       "order must hold each of 0 .. L-1 = 5 once; got -1 at place 0"},
      {[](Scan& c) {
         c.o.order = mx::arange(6), c.o.seq_idx = ints({2, 6});
       },
       "packed sequences are visited in the order of their tokens; got an order too"},
      {[](Scan& c) {
         c.single();
         c.o.order = mx::arange(6), c.o.cu_seqlens = {0, 6};
       },
       "packed sequences are visited in the order of their tokens; got an order too"},
      ASPIS_NOT_REAL(u, "u", {2, 6, 8}),
      ASPIS_NOT_REAL(delta, "delta", {2, 6, 8}),
      ASPIS_NOT_REAL(A, "A", {8, 4}),
      ASPIS_NOT_REAL(B, "B", {2, 6, 4}),
      ASPIS_NOT_REAL(C, "C", {2, 6, 4}),
      ASPIS_NOT_REAL(o.D, "D", {8}),
      ASPIS_NOT_REAL(o.z, "z", {2, 6, 8}),
      ASPIS_NOT_REAL(o.delta_bias, "delta_bias", {8}),
      ASPIS_NOT_REAL(o.initial_state, "initial_state", {2, 8, 4}),
      {[](Scan& c) {
         c.u = some({2, 6, 8}, mx::complex64);
       },
       "u must be a real floating-point array; got complex64"},
      {[](Scan& c) {
         c.B = some({2, 6, 4}, mx::complex64);
       },
       "complex B, C or states need a complex64 A; got float32 A"},
      {[](Scan& c) {
         c.A = some({8, 4}, mx::complex64), c.C = ints({2, 6, 4});
       },
       "C must be a floating-point or complex64 array; got int32"},
      {[](Scan& c) {
         c.A = some({8, 4}, mx::complex64), c.o.initial_state = some({2, 8, 3});
       },
       "initial_state must have shape {.., D, N} with N = 4; got {2, 8, 3}"},
      {[](Scan& c) {
         c.A = some({8, 4}, mx::complex64), c.u = mx::zeros({2, 6, 8}, mx::float64);
       },
       "with complex A all arrays must be float32 or narrower, or complex64; got float64 u"},
  };
  check("selective_scan", Scan(), joined<Scan>({rows, packing_rows<Scan>(6, "6"), id_rows<Scan>(6)}));
}

TEST_CASE("bad input: selective_scan_step") {
  using R = Row<ScanStep>;
  const std::string matrix = " must have shape {B, N}, {B, G, N} or {D, N} = {2, 4}, with groups, or {8, 4}; got ";
  const std::string only = "only D, z, delta_bias and delta_softplus apply to a step; got ";
  const std::vector<R> rows = {
      {[](ScanStep& c) {
         c.u = some({2, 1, 8});
       },
       "u must have shape {B, D}; got {2, 1, 8}"},
      {[](ScanStep& c) {
         c.delta = some({2, 7});
       },
       "delta must have shape {B, D} = {2, 8}; got {2, 7}"},
      {[](ScanStep& c) {
         c.A = some({4, 8});
       },
       "A must have shape {D, N} with D = 8; got {4, 8}"},
      {[](ScanStep& c) {
         c.A = some({8, 0});
       },
       "the state size N of A must be 1 to 256; got 0"},
      {[](ScanStep& c) {
         c.state = some({2, 8, 5});
       },
       "state must have shape {B, D, N} = {2, 8, 4}; got {2, 8, 5}"},
      {[](ScanStep& c) {
         c.state = some({1, 8, 4});
       },
       "state must have shape {B, D, N} = {2, 8, 4}; got {1, 8, 4}"},
      {[=](ScanStep& c) {
         c.B = some({2, 1, 1, 4});
       },
       "B" + matrix + "{2, 1, 1, 4}"},
      {[=](ScanStep& c) {
         c.C = some({2, 5});
       },
       "C" + matrix + "{2, 5}"},
      {[](ScanStep& c) {
         c.B = some({2, 3, 4});
       },
       "the groups of B must divide D = 8; got 3"},
      {[](ScanStep& c) {
         c.B = some({2, 2, 4}), c.C = some({2, 4, 4});
       },
       "B and C must have the same number of groups; got 2 and 4"},
      {[](ScanStep& c) {
         c.o.z = some({2, 1, 8});
       },
       "z must have shape {B, D} = {2, 8}; got {2, 1, 8}"},
      {[](ScanStep& c) { c.o.D = some({4}); }, "D must have shape {D} = {8}; got {4}"},
      {[](ScanStep& c) { c.o.delta_bias = some({4}); }, "delta_bias must have shape {D} = {8}; got {4}"},
      {[](ScanStep& c) { c.o.reverse = true; }, only},
      {[](ScanStep& c) { c.o.order = mx::arange(1); }, only},
      {[](ScanStep& c) { c.o.initial_state = c.state; }, only},
      {[](ScanStep& c) {
         c.o.seq_idx = ints({2, 1});
       },
       only},
      {[](ScanStep& c) {
         c.o.cu_seqlens = {0, 1};
       },
       only},
      ASPIS_NOT_REAL(u, "u", {2, 8}),
      ASPIS_NOT_REAL(delta, "delta", {2, 8}),
      ASPIS_NOT_REAL(state, "state", {2, 8, 4}),
      ASPIS_NOT_REAL(o.z, "z", {2, 8}),
      {[](ScanStep& c) {
         c.C = some({2, 4}, mx::complex64);
       },
       "complex B, C or states need a complex64 A; got float32 A"},
      {[](ScanStep& c) {
         c.A = some({8, 4}, mx::complex64), c.state = ints({2, 8, 4});
       },
       "state must be a floating-point or complex64 array; got int32"},
      {[](ScanStep& c) {
         c.A = some({8, 4}, mx::complex64), c.state = some({2, 8, 3});
       },
       "state must have shape {.., D, N} with N = 4; got {2, 8, 3}"},
  };
  check("selective_scan_step", ScanStep(), rows);
}

TEST_CASE("bad input: ssd") {
  using R = Row<Ssd>;
  const std::string matrix = " must have shape {B, L, N} or {B, L, G, N} with {2, 6} in front; got ";
  const std::vector<R> rows = {
      {[](Ssd& c) {
         c.x = some({2, 6, 12});
       },
       "x must have shape {B, L, H, P}; got {2, 6, 12}"},
      {[](Ssd& c) {
         c.x = some({2, 6, 0, 3});
       },
       "x needs at least one head and one channel; got {2, 6, 0, 3}"},
      {[](Ssd& c) {
         c.x = some({2, 6, 4, 0});
       },
       "x needs at least one head and one channel; got {2, 6, 4, 0}"},
      {[](Ssd& c) {
         c.dt = some({2, 6, 3});
       },
       "dt must have shape {B, L, H} = {2, 6, 4}; got {2, 6, 3}"},
      {[](Ssd& c) {
         c.dt = some({2, 6});
       },
       "dt must have shape {B, L, H} = {2, 6, 4}; got {2, 6}"},
      {[](Ssd& c) { c.A = some({3}); }, "A must have shape {H} = {4}; got {3}"},
      {[](Ssd& c) {
         c.A = some({4, 5});
       },
       "A must have shape {H} = {4}; got {4, 5}"},
      {[=](Ssd& c) {
         c.B = some({2, 5, 2, 5});
       },
       "B" + matrix + "{2, 5, 2, 5}"},
      {[=](Ssd& c) {
         c.B = some({2, 6});
       },
       "B" + matrix + "{2, 6}"},
      {[=](Ssd& c) {
         c.C = some({1, 6, 2, 5});
       },
       "C" + matrix + "{1, 6, 2, 5}"},
      {[](Ssd& c) {
         c.B = some({2, 6, 2, 0});
       },
       "the state size N of B must be at least 1; got 0"},
      {[](Ssd& c) {
         c.B = some({2, 6, 3, 5});
       },
       "the groups of B must divide H = 4; got 3"},
      {[](Ssd& c) {
         c.B = some({2, 6, 0, 5});
       },
       "the groups of B must divide H = 4; got 0"},
      {[](Ssd& c) {
         c.C = some({2, 6, 8, 5});
       },
       "the groups of C must divide H = 4; got 8"},
      {[](Ssd& c) {
         c.C = some({2, 6, 2, 4});
       },
       "C must have shape that of B = {2, 6, 2, 5}; got {2, 6, 2, 4}"},
      {[](Ssd& c) {
         c.C = some({2, 6, 4, 5});
       },
       "C must have shape that of B = {2, 6, 2, 5}; got {2, 6, 4, 5}"},
      {[](Ssd& c) { c.o.D = some({3}); }, "D must have shape {H} = {4}; got {3}"},
      {[](Ssd& c) {
         c.o.D = some({4, 4});
       },
       "D must have shape {H, P} = {4, 3}; got {4, 4}"},
      {[](Ssd& c) {
         c.o.z = some({2, 6, 4});
       },
       "z must have shape {B, L, H, P} = {2, 6, 4, 3}; got {2, 6, 4}"},
      {[](Ssd& c) { c.o.dt_bias = some({1}); }, "dt_bias must have shape {H} = {4}; got {1}"},
      {[](Ssd& c) {
         c.o.initial_state = some({2, 4, 5, 3});
       },
       "initial_state must have shape {B, H, P, N} = {2, 4, 3, 5}; got {2, 4, 5, 3}"},
      {[](Ssd& c) {
         c.single();
         c.o.cu_seqlens = {0, 2, 6}, c.o.initial_state = some({1, 4, 3, 5});
       },
       "initial_state must have shape {sequences, H, P, N} = {2, 4, 3, 5}; got {1, 4, 3, 5}"},
      {[](Ssd& c) {
         c.o.dt_limit = {0.5, 0.1};
       },
       "dt_limit must be two numbers, 0 <= low <= high; got 0.5"},
      {[](Ssd& c) {
         c.o.dt_limit = {-0.1, 1};
       },
       "dt_limit must be two numbers, 0 <= low <= high; got -0.1"},
      {[](Ssd& c) {
         c.o.dt_limit = {0, std::nan("")};
       },
       "dt_limit must be two numbers, 0 <= low <= high; got 0"},
      {[](Ssd& c) { c.o.chunk_size = -1; }, "chunk_size must be positive, or 0 to choose; got -1"},
      ASPIS_NOT_REAL(x, "x", {2, 6, 4, 3}),
      ASPIS_NOT_REAL(dt, "dt", {2, 6, 4}),
      ASPIS_NOT_REAL(A, "A", {4}),
      ASPIS_NOT_REAL(B, "B", {2, 6, 2, 5}),
      ASPIS_NOT_REAL(C, "C", {2, 6, 2, 5}),
      ASPIS_NOT_REAL(o.D, "D", {4}),
      ASPIS_NOT_REAL(o.z, "z", {2, 6, 4, 3}),
      ASPIS_NOT_REAL(o.dt_bias, "dt_bias", {4}),
      ASPIS_NOT_REAL(o.initial_state, "initial_state", {2, 4, 3, 5}),
      {[](Ssd& c) {
         c.x = some({2, 6, 4, 3}, mx::complex64);
       },
       "x must be a real floating-point array; got complex64"},
  };
  check("ssd", Ssd(), joined<Ssd>({rows, packing_rows<Ssd>(6, "6"), id_rows<Ssd>(6)}));
}

TEST_CASE("bad input: ssd_step") {
  using R = Row<SsdStep>;
  const std::string matrix = " must have shape {B, N} or {B, G, N} with {2} in front; got ";
  const std::string only = "only D, z, dt_bias, dt_softplus and dt_limit apply to a step; got ";
  const std::vector<R> rows = {
      {[](SsdStep& c) {
         c.x = some({2, 1, 4, 3});
       },
       "x must have shape {B, H, P}; got {2, 1, 4, 3}"},
      {[](SsdStep& c) {
         c.x = some({2, 0, 3});
       },
       "x needs at least one head and one channel; got {2, 0, 3}"},
      {[](SsdStep& c) {
         c.dt = some({2, 4, 1});
       },
       "dt must have shape {B, H} = {2, 4}; got {2, 4, 1}"},
      {[](SsdStep& c) { c.A = some({5}); }, "A must have shape {H} = {4}; got {5}"},
      {[=](SsdStep& c) {
         c.B = some({1, 2, 5});
       },
       "B" + matrix + "{1, 2, 5}"},
      {[=](SsdStep& c) { c.C = some({2}); }, "C" + matrix + "{2}"},
      {[](SsdStep& c) {
         c.B = some({2, 2, 0});
       },
       "the state size N of B must be at least 1; got 0"},
      {[](SsdStep& c) {
         c.B = some({2, 3, 5});
       },
       "the groups of B must divide H = 4; got 3"},
      {[](SsdStep& c) {
         c.C = some({2, 2, 4});
       },
       "C must have shape that of B = {2, 2, 5}; got {2, 2, 4}"},
      {[](SsdStep& c) {
         c.state = some({2, 4, 5, 3});
       },
       "state must have shape {B, H, P, N} = {2, 4, 3, 5}; got {2, 4, 5, 3}"},
      {[](SsdStep& c) {
         c.o.D = some({4, 2});
       },
       "D must have shape {H, P} = {4, 3}; got {4, 2}"},
      {[](SsdStep& c) {
         c.o.z = some({2, 1, 4, 3});
       },
       "z must have shape {B, H, P} = {2, 4, 3}; got {2, 1, 4, 3}"},
      {[](SsdStep& c) { c.o.dt_bias = some({3}); }, "dt_bias must have shape {H} = {4}; got {3}"},
      {[](SsdStep& c) {
         c.o.dt_limit = {2, 1};
       },
       "dt_limit must be two numbers, 0 <= low <= high; got 2"},
      {[](SsdStep& c) { c.o.initial_state = c.state; }, only},
      {[](SsdStep& c) {
         c.o.seq_idx = ints({2, 1});
       },
       only},
      {[](SsdStep& c) {
         c.o.cu_seqlens = {0, 1};
       },
       only},
      ASPIS_NOT_REAL(x, "x", {2, 4, 3}),
      ASPIS_NOT_REAL(dt, "dt", {2, 4}),
      ASPIS_NOT_REAL(A, "A", {4}),
      ASPIS_NOT_REAL(B, "B", {2, 2, 5}),
      ASPIS_NOT_REAL(C, "C", {2, 2, 5}),
      ASPIS_NOT_REAL(state, "state", {2, 4, 3, 5}),
  };
  check("ssd_step", SsdStep(), rows);
}

TEST_CASE("bad input: mamba3") {
  using R = Row<Mamba3>;
  const std::string matrix = "B must have shape {B, L, R, G, N} or {B, L, G, N} with {2, 6} in front; got ";
  const std::vector<R> rows = {
      {[](Mamba3& c) {
         c.x = some({2, 6, 12});
       },
       "x must have shape {B, L, H, P}; got {2, 6, 12}"},
      {[](Mamba3& c) {
         c.x = some({2, 6, 0, 3});
       },
       "x needs at least one head and one channel; got {2, 6, 0, 3}"},
      {[](Mamba3& c) {
         c.x = some({2, 6, 4, 0});
       },
       "x needs at least one head and one channel; got {2, 6, 4, 0}"},
      {[=](Mamba3& c) {
         c.B = some({2, 5, 2, 2, 6});
       },
       matrix + "{2, 5, 2, 2, 6}"},
      {[=](Mamba3& c) {
         c.B = some({2, 6, 6});
       },
       matrix + "{2, 6, 6}"},
      {[](Mamba3& c) {
         c.B = some({2, 6, 0, 2, 6});
       },
       "B needs a rank and a state of at least 1; got {2, 6, 0, 2, 6}"},
      {[](Mamba3& c) {
         c.B = some({2, 6, 2, 2, 0});
       },
       "B needs a rank and a state of at least 1; got {2, 6, 2, 2, 0}"},
      {[](Mamba3& c) {
         c.C = some({2, 6, 1, 2, 6});
       },
       "C must have shape that of B = {2, 6, 2, 2, 6}; got {2, 6, 1, 2, 6}"},
      {[](Mamba3& c) {
         c.B = c.C = some({2, 6, 2, 3, 6});
       },
       "the groups of B must divide H = 4; got 3"},
      {[](Mamba3& c) {
         c.B = c.C = some({2, 6, 2, 0, 6});
       },
       "the groups of B must divide H = 4; got 0"},
      {[](Mamba3& c) {
         c.dd_dt = some({2, 6, 3});
       },
       "dd_dt must have shape {B, L, H} = {2, 6, 4}; got {2, 6, 3}"},
      {[](Mamba3& c) {
         c.dd_A = some({2, 6});
       },
       "dd_A must have shape {B, L, H} = {2, 6, 4}; got {2, 6}"},
      {[](Mamba3& c) {
         c.trap = some({2, 4, 6});
       },
       "trap must have shape {B, L, H} = {2, 6, 4}; got {2, 4, 6}"},
      {[](Mamba3& c) {
         c.o.angle = some({2, 6});
       },
       "angle must have shape {B, L, A} with {2, 6} in front; got {2, 6}"},
      {[](Mamba3& c) {
         c.o.angle = some({2, 5, 2});
       },
       "angle must have shape {B, L, A} with {2, 6} in front; got {2, 5, 2}"},
      {[](Mamba3& c) {
         c.o.angle = some({2, 6, 4});
       },
       "the angles must be 1 to N / 2 = 3; got 4"},
      {[](Mamba3& c) {
         c.o.angle = some({2, 6, 0});
       },
       "the angles must be 1 to N / 2 = 3; got 0"},
      {[](Mamba3& c) {
         c.B = c.C = some({2, 6, 2, 2, 5});
       },
       "the state size N must be even with angles; got 5"},
      {[](Mamba3& c) { c.o.dt_bias = some({3}); }, "dt_bias must have shape {H} = {4}; got {3}"},
      {[](Mamba3& c) { c.o.B_norm_weight = some({5}); }, "B_norm_weight must have shape {N} = {6}; got {5}"},
      {[](Mamba3& c) {
         c.o.C_norm_weight = some({1, 6});
       },
       "C_norm_weight must have shape {N} = {6}; got {1, 6}"},
      {[](Mamba3& c) {
         c.o.B_bias = some({4, 1, 6});
       },
       "B_bias must have shape {H, R, N} = {4, 2, 6}; got {4, 1, 6}"},
      {[](Mamba3& c) {
         c.o.C_bias = some({4, 6});
       },
       "C_bias must have shape {H, R, N} = {4, 2, 6}; got {4, 6}"},
      {[](Mamba3& c) {
         c.o.D = some({4, 3});
       },
       "D must have shape {H} = {4}; got {4, 3}"},
      {[](Mamba3& c) {
         c.o.z = some({2, 6, 4});
       },
       "z must have shape {B, L, H, P} = {2, 6, 4, 3}; got {2, 6, 4}"},
      {[](Mamba3& c) {
         c.o.mimo_x = some({4, 3});
       },
       "mimo_x must have shape {H, R, P} = {4, 2, 3}; got {4, 3}"},
      {[](Mamba3& c) {
         c.o.mimo_z = some({4, 1, 3});
       },
       "mimo_z must have shape {H, R, P} = {4, 2, 3}; got {4, 1, 3}"},
      {[](Mamba3& c) {
         c.o.mimo_o = some({2, 4, 3});
       },
       "mimo_o must have shape {H, R, P} = {4, 2, 3}; got {2, 4, 3}"},
      {[](Mamba3& c) { c.o.mimo_x.reset(); }, "a rank above 1 needs mimo_x and mimo_o; got rank 2"},
      {[](Mamba3& c) { c.o.mimo_o.reset(); }, "a rank above 1 needs mimo_x and mimo_o; got rank 2"},
      {[](Mamba3& c) {
         c.o.mimo_z = some({4, 2, 3}), c.o.z.reset();
       },
       "mimo_z needs the gate z; got no z"},
      {[](Mamba3& c) { c.o.out_norm_weight = some({12}); },
       "out_norm_weight must have shape {H, P} = {4, 3}; got {12}"},
      {[](Mamba3& c) { c.o.A_floor = -1; }, "A_floor must not be negative; got -1"},
      {[](Mamba3& c) { c.o.A_floor = std::nan(""); }, "A_floor must not be negative; got nan"},
      {[](Mamba3& c) { c.o.eps = -1; }, "eps must not be negative; got -1"},
      {[](Mamba3& c) { c.o.chunk_size = -2; }, "chunk_size must be positive, or 0 to choose; got -2"},
      {[](Mamba3& c) {
         c.state(&Mamba3State::angle, some({2, 4, 1}));
       },
       "initial_state.angle must have shape {S, H, A} = {2, 4, 2}; got {2, 4, 1}"},
      {[](Mamba3& c) {
         c.state(&Mamba3State::ssm, some({2, 4, 6, 3}));
       },
       "initial_state.ssm must have shape {S, H, P, N} = {2, 4, 3, 6}; got {2, 4, 6, 3}"},
      {[](Mamba3& c) {
         c.state(&Mamba3State::k, some({2, 4, 2, 6}));
       },
       "initial_state.k must have shape {S, R, H, N} = {2, 2, 4, 6}; got {2, 4, 2, 6}"},
      {[](Mamba3& c) {
         c.state(&Mamba3State::v, some({1, 4, 3}));
       },
       "initial_state.v must have shape {S, H, P} = {2, 4, 3}; got {1, 4, 3}"},
      {[](Mamba3& c) {
         c.single();
         c.o.cu_seqlens = {0, 2, 6}, c.o.initial_state = mamba3_zero_state(1, 4, 2, 3, 6, 2);
       },
       "initial_state.angle must have shape {S, H, A} = {2, 4, 2}; got {1, 4, 2}"},
      {[](Mamba3& c) {
         c.state(&Mamba3State::k, ints({2, 2, 4, 6}));
       },
       "initial_state.k must be a real floating-point array; got int32"},
      ASPIS_NOT_REAL(x, "x", {2, 6, 4, 3}),
      ASPIS_NOT_REAL(B, "B", {2, 6, 2, 2, 6}),
      ASPIS_NOT_REAL(C, "C", {2, 6, 2, 2, 6}),
      ASPIS_NOT_REAL(dd_dt, "dd_dt", {2, 6, 4}),
      ASPIS_NOT_REAL(dd_A, "dd_A", {2, 6, 4}),
      ASPIS_NOT_REAL(trap, "trap", {2, 6, 4}),
      ASPIS_NOT_REAL(o.angle, "angle", {2, 6, 2}),
      ASPIS_NOT_REAL(o.dt_bias, "dt_bias", {4}),
      ASPIS_NOT_REAL(o.B_norm_weight, "B_norm_weight", {6}),
      ASPIS_NOT_REAL(o.C_norm_weight, "C_norm_weight", {6}),
      ASPIS_NOT_REAL(o.B_bias, "B_bias", {4, 2, 6}),
      ASPIS_NOT_REAL(o.C_bias, "C_bias", {4, 2, 6}),
      ASPIS_NOT_REAL(o.D, "D", {4}),
      ASPIS_NOT_REAL(o.z, "z", {2, 6, 4, 3}),
      ASPIS_NOT_REAL(o.mimo_x, "mimo_x", {4, 2, 3}),
      ASPIS_NOT_REAL(o.mimo_z, "mimo_z", {4, 2, 3}),
      ASPIS_NOT_REAL(o.mimo_o, "mimo_o", {4, 2, 3}),
      ASPIS_NOT_REAL(o.out_norm_weight, "out_norm_weight", {4, 3}),
  };
  check("mamba3", Mamba3(), joined<Mamba3>({rows, packing_rows<Mamba3>(6, "6")}));
}

TEST_CASE("bad input: mamba3_step") {
  using R = Row<Mamba3Step>;
  const std::string matrix = "B must have shape {B, R, G, N} or {B, G, N} with {2} in front; got ";
  const std::string not_here = "initial_state and cu_seqlens do not apply to a step; got one of them";
  const std::vector<R> rows = {
      {[](Mamba3Step& c) {
         c.x = some({2, 1, 4, 3});
       },
       "x must have shape {B, H, P}; got {2, 1, 4, 3}"},
      {[=](Mamba3Step& c) {
         c.B = some({2, 1, 2, 2, 6});
       },
       matrix + "{2, 1, 2, 2, 6}"},
      {[=](Mamba3Step& c) {
         c.B = some({1, 2, 2, 6});
       },
       matrix + "{1, 2, 2, 6}"},
      {[](Mamba3Step& c) {
         c.C = some({2, 2, 6});
       },
       "C must have shape that of B = {2, 2, 2, 6}; got {2, 2, 6}"},
      {[](Mamba3Step& c) {
         c.dd_dt = some({2, 1, 4});
       },
       "dd_dt must have shape {B, H} = {2, 4}; got {2, 1, 4}"},
      {[](Mamba3Step& c) {
         c.dd_A = some({2, 3});
       },
       "dd_A must have shape {B, H} = {2, 4}; got {2, 3}"},
      {[](Mamba3Step& c) { c.trap = some({4}); }, "trap must have shape {B, H} = {2, 4}; got {4}"},
      {[](Mamba3Step& c) {
         c.o.angle = some({2, 1, 2});
       },
       "angle must have shape {B, A} with {2} in front; got {2, 1, 2}"},
      {[](Mamba3Step& c) {
         c.o.z = some({2, 1, 4, 3});
       },
       "z must have shape {B, H, P} = {2, 4, 3}; got {2, 1, 4, 3}"},
      {[](Mamba3Step& c) {
         c.state.angle = some({2, 4, 3});
       },
       "state.angle must have shape {B, H, A} = {2, 4, 2}; got {2, 4, 3}"},
      {[](Mamba3Step& c) {
         c.state.ssm = some({2, 4, 6, 3});
       },
       "state.ssm must have shape {B, H, P, N} = {2, 4, 3, 6}; got {2, 4, 6, 3}"},
      {[](Mamba3Step& c) {
         c.state.k = some({2, 4, 6});
       },
       "state.k must have shape {B, R, H, N} = {2, 2, 4, 6}; got {2, 4, 6}"},
      {[](Mamba3Step& c) {
         c.state.v = some({1, 4, 3});
       },
       "state.v must have shape {B, H, P} = {2, 4, 3}; got {1, 4, 3}"},
      {[=](Mamba3Step& c) { c.o.initial_state = c.state; }, not_here},
      {[=](Mamba3Step& c) {
         c.o.cu_seqlens = {0, 1};
       },
       not_here},
      ASPIS_NOT_REAL(x, "x", {2, 4, 3}),
      ASPIS_NOT_REAL(B, "B", {2, 2, 2, 6}),
      ASPIS_NOT_REAL(C, "C", {2, 2, 2, 6}),
      ASPIS_NOT_REAL(dd_dt, "dd_dt", {2, 4}),
      ASPIS_NOT_REAL(trap, "trap", {2, 4}),
      ASPIS_NOT_REAL(state.ssm, "state.ssm", {2, 4, 3, 6}),
  };
  check("mamba3_step", Mamba3Step(), rows);
  // What the whole checks, it checks for a step too.
  check("mamba3", Mamba3Step(),
        {{[](Mamba3Step& c) {
            c.B = c.C = some({2, 2, 3, 6});
          },
          "the groups of B must divide H = 4; got 3"},
         {[](Mamba3Step& c) { c.o.mimo_x.reset(); }, "a rank above 1 needs mimo_x and mimo_o; got rank 2"}});
}

TEST_CASE("bad input: causal_conv1d") {
  using R = Row<Conv>;
  const std::string weight = "weight must have shape {D, W} with D = 4 channels and W >= 1 taps; got ";
  const std::vector<R> rows = {
      {[](Conv& c) {
         c.x = some({5, 4});
       },
       "x must have shape {B, L, D} (batch, tokens, channels); got {5, 4}"},
      {[](Conv& c) {
         c.x = some({1, 2, 5, 4});
       },
       "x must have shape {B, L, D} (batch, tokens, channels); got {1, 2, 5, 4}"},
      {[=](Conv& c) {
         c.weight = some({3, 4});
       },
       weight + "{3, 4}"},
      {[=](Conv& c) {
         c.weight = some({4, 0});
       },
       weight + "{4, 0}"},
      {[=](Conv& c) {
         c.weight = some({4, 1, 3});
       },
       weight + "{4, 1, 3}"},
      {[](Conv& c) { c.o.bias = some({5}); }, "bias must have shape {D} = {4}; got {5}"},
      {[](Conv& c) {
         c.o.bias = some({4, 1});
       },
       "bias must have shape {D} = {4}; got {4, 1}"},
      {[](Conv& c) {
         c.o.initial_state = some({2, 3, 4});
       },
       "initial_state must have shape {B, W-1, D} = {2, 2, 4}; got {2, 3, 4}"},
      {[](Conv& c) {
         c.o.initial_state = some({2, 4, 2});
       },
       "initial_state must have shape {B, W-1, D} = {2, 2, 4}; got {2, 4, 2}"},
      {[](Conv& c) {
         c.single();
         c.o.cu_seqlens = {0, 2, 5}, c.o.initial_state = some({1, 2, 4});
       },
       "initial_state must have shape {sequences, W-1, D} = {2, 2, 4}; got {1, 2, 4}"},
      {[](Conv& c) {
         c.o.symmetric = true, c.o.initial_state = some({2, 2, 4});
       },
       "only the causal form has a state; got symmetric = true with an initial_state"},
      {[](Conv& c) { c.o.symmetric = c.with_state = true; },
       "only the causal form has a state; got symmetric = true"},
      {[](Conv& c) { c.o.order = mx::arange(4); }, "order must have shape {L} = {5}; got {4}"},
      {[](Conv& c) { c.o.order = some({5}); }, "order must hold integers; got float32"},
      {[](Conv& c) {
         c.o.order = mx::array({0, 1, 2, 3, 3});
       },
       "order must hold each of 0 .. L-1 = 4 once; got another list of numbers"},
      {[](Conv& c) {
         c.o.order = mx::array({0, 1, 2, 3, 5});
       },
       "order must hold each of 0 .. L-1 = 4 once; got another list of numbers"},
      {[](Conv& c) {
         c.o.order = mx::array({0, -1, 2, 3, 4});
       },
       "order must hold each of 0 .. L-1 = 4 once; got another list of numbers"},
      {[](Conv& c) {
         c.o.order = mx::arange(5), c.o.seq_idx = ints({2, 5});
       },
       "packed sequences are visited in the order of their tokens; got an order too"},
      {[](Conv& c) {
         c.single();
         c.o.order = mx::arange(5), c.o.cu_seqlens = {0, 5};
       },
       "packed sequences are visited in the order of their tokens; got an order too"},
      ASPIS_NOT_REAL(x, "x", {2, 5, 4}),
      ASPIS_NOT_REAL(weight, "weight", {4, 3}),
      ASPIS_NOT_REAL(o.bias, "bias", {4}),
      ASPIS_NOT_REAL(o.initial_state, "initial_state", {2, 2, 4}),
      {[](Conv& c) {
         c.x = some({2, 5, 4}, mx::complex64);
       },
       "x must be a real floating-point array; got complex64"},
  };
  check("causal_conv1d", Conv(), joined<Conv>({rows, packing_rows<Conv>(5, "5"), id_rows<Conv>(5)}));
}

TEST_CASE("bad input: causal_conv1d_step") {
  using R = Row<ConvStep>;
  const std::string only = "only the options bias and silu apply to a step; got ";
  const std::vector<R> rows = {
      {[](ConvStep& c) {
         c.x = some({2, 1, 4});
       },
       "x must have shape {B, D} (one token); got {2, 1, 4}"},
      {[](ConvStep& c) {
         c.weight = some({3, 3});
       },
       "weight must have shape {D, W} with D = 4 channels and W >= 1 taps; got {3, 3}"},
      {[](ConvStep& c) {
         c.state = some({2, 3, 4});
       },
       "state must have shape {B, W-1, D} = {2, 2, 4}; got {2, 3, 4}"},
      {[](ConvStep& c) {
         c.state = some({1, 2, 4});
       },
       "state must have shape {B, W-1, D} = {2, 2, 4}; got {1, 2, 4}"},
      {[](ConvStep& c) {
         c.state = ints({2, 2, 4});
       },
       "state must be a real floating-point array; got int32"},
      {[=](ConvStep& c) { c.o.symmetric = true; }, only},
      {[=](ConvStep& c) { c.o.reverse = true; }, only},
      {[=](ConvStep& c) { c.o.order = mx::arange(1); }, only},
      {[=](ConvStep& c) { c.o.initial_state = c.state; }, only},
      {[=](ConvStep& c) {
         c.o.seq_idx = ints({2, 1});
       },
       only},
      {[=](ConvStep& c) {
         c.o.cu_seqlens = {0, 1};
       },
       only},
  };
  check("causal_conv1d_step", ConvStep(), rows);
  // What the whole checks, it checks for a step too.
  check("causal_conv1d", ConvStep(),
        {{[](ConvStep& c) { c.o.bias = some({3}); }, "bias must have shape {D} = {4}; got {3}"},
         {[](ConvStep& c) {
            c.x = ints({2, 4});
          },
          "x must be a real floating-point array; got int32"}});
}

TEST_CASE("bad input: gated norms") {
  using R = Row<Norm>;
  const auto rows = [](std::vector<R> more) {
    std::vector<R> all = {
        {[](Norm& c) { c.x = mx::array(1.0f); }, "x must have shape {..., N} with N >= 1; got {}"},
        {[](Norm& c) {
           c.x = some({2, 0});
         },
         "x must have shape {..., N} with N >= 1; got {2, 0}"},
        {[](Norm& c) { c.o.group_size = 4; }, "group_size must divide N = 6; got 4"},
        {[](Norm& c) { c.o.group_size = 12; }, "group_size must divide N = 6; got 12"},
        {[](Norm& c) { c.o.group_size = -1; }, "group_size must divide N = 6; got -1"},
        {[](Norm& c) { c.o.eps = -1; }, "eps must not be negative; got -1"},
        {[](Norm& c) { c.o.eps = std::nan(""); }, "eps must not be negative; got nan"},
        {[](Norm& c) {
           c.o.z = some({2, 5});
         },
         "z must have shape that of x = {2, 6}; got {2, 5}"},
        {[](Norm& c) { c.o.z = some({6}); }, "z must have shape that of x = {2, 6}; got {6}"},
        {[](Norm& c) { c.o.weight = some({5}); }, "weight must have shape {N} = {6}; got {5}"},
        {[](Norm& c) {
           c.o.weight = some({1, 6});
         },
         "weight must have shape {N} = {6}; got {1, 6}"},
        ASPIS_NOT_REAL(x, "x", {2, 6}),
        ASPIS_NOT_REAL(o.z, "z", {2, 6}),
        ASPIS_NOT_REAL(o.weight, "weight", {6}),
    };
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  check("rmsnorm_gated", Norm(),
        rows({{[](Norm& c) { c.o.bias = some({6}); }, "an RMS norm has no bias; got one of shape {6}"}}));
  Norm layer;
  layer.center = true;
  check("layer_norm_gated", layer,
        rows({{[](Norm& c) { c.o.bias = some({5}); }, "bias must have shape {N} = {6}; got {5}"},
              ASPIS_NOT_REAL(o.bias, "bias", {6})}));
}

TEST_CASE("bad input: pscan") {
  check<Pscan>("pscan", Pscan(),
               {{[](Pscan& c) { c.A = c.X = some({2}); }, "X must have shape {B, L, ..}; got {2}"},
                {[](Pscan& c) {
                   c.A = some({2, 4, 3});
                 },
                 "A must have shape that of X = {2, 5, 3}; got {2, 4, 3}"},
                {[](Pscan& c) {
                   c.A = some({2, 5, 1});
                 },
                 "A must have shape that of X = {2, 5, 3}; got {2, 5, 1}"},
                {[](Pscan& c) {
                   c.initial = some({2, 5});
                 },
                 "initial must have shape {B, ..} = {2, 3}; got {2, 5}"},
                {[](Pscan& c) {
                   c.initial = some({2, 1, 3});
                 },
                 "initial must have shape {B, ..} = {2, 3}; got {2, 1, 3}"},
                ASPIS_NOT_REAL(A, "A", {2, 5, 3}),
                ASPIS_NOT_REAL(X, "X", {2, 5, 3}),
                ASPIS_NOT_REAL(initial, "initial", {2, 3})});
}

TEST_CASE("bad input: cross_scan, cross_merge and orders") {
  using R = Row<Cross>;
  check<Cross>("cross_scan", Cross(false),
               {{[](Cross& c) {
                   c.x = some({2, 5, 3});
                 },
                 "x must have shape {B, L, D} with L = 6; got {2, 5, 3}"},
                {[](Cross& c) {
                   c.x = some({2, 6});
                 },
                 "x must have shape {B, L, D} with L = 6; got {2, 6}"},
                {[](Cross& c) {
                   c.x = some({2, 4, 6, 3});
                 },
                 "x must have shape {B, L, D} with L = 6; got {2, 4, 6, 3}"},
                {[](Cross& c) {
                   c.x = some({2, 0, 3});
                 },
                 "x must have shape {B, L, D} with L = 6; got {2, 0, 3}"},
                ASPIS_NOT_REAL(x, "x", {2, 6, 3})});
  const std::string shape = "x must have shape {B, K, L, D} with K = 4 and L = 6; got ";
  check("cross_merge", Cross(true),
        std::vector<R>{{[](Cross& c) {
                          c.x = some({2, 3, 6, 3});
                        },
                        shape + "{2, 3, 6, 3}"},
                       {[](Cross& c) {
                          c.x = some({2, 4, 5, 3});
                        },
                        shape + "{2, 4, 5, 3}"},
                       {[](Cross& c) {
                          c.x = some({2, 6, 3});
                        },
                        shape + "{2, 6, 3}"},
                       ASPIS_NOT_REAL(x, "x", {2, 4, 6, 3})});
  struct Orders {
    std::vector<std::vector<int32_t>> lists{{0, 1, 2}, {2, 1, 0}};
    void run() const { ScanOrders(lists, "ScanOrders"); }
  };
  check<Orders>("ScanOrders", Orders(),
                {{[](Orders& c) { c.lists.clear(); }, "at least one order is needed; got none"},
                 {[](Orders& c) { c.lists[1].pop_back(); },
                  "all orders must have the 3 steps of the first; got 2 steps in order 1"},
                 {[](Orders& c) { c.lists[1][0] = 3; },
                  "an order must hold each of 0 .. 2 once; got 3 at step 0 of order 1"},
                 {[](Orders& c) { c.lists[0][2] = -1; },
                  "an order must hold each of 0 .. 2 once; got -1 at step 2 of order 0"},
                 {[](Orders& c) { c.lists[0][2] = 1; },
                  "an order must hold each of 0 .. 2 once; got 1 at step 2 of order 0"}});
  struct Grid {
    std::vector<int64_t> sizes{2, 3};
    void run() const { grid_orders(sizes); }
  };
  check<Grid>("grid_directions", Grid(),
              {{[](Grid& c) { c.sizes.clear(); }, "a grid has 1 to 4 axes; got 0"},
               {[](Grid& c) {
                  c.sizes = {1, 2, 1, 2, 1};
                },
                "a grid has 1 to 4 axes; got 5"}});
}

TEST_CASE("no rows and no tokens are no mistake, and give nothing back") {
  const auto shape_of = [](const mx::array& a) {
    auto b = a;
    mx::eval(b);
    return b.shape();
  };
  Scan scan;
  scan.u = scan.delta = some({2, 0, 8}), scan.B = scan.C = some({2, 0, 4});
  CHECK(shape_of(selective_scan(scan.u, scan.delta, scan.A, scan.B, scan.C)) == mx::Shape{2, 0, 8});
  scan.u = scan.delta = some({0, 6, 8}), scan.B = scan.C = some({0, 6, 4});
  CHECK(shape_of(selective_scan(scan.u, scan.delta, scan.A, scan.B, scan.C)) == mx::Shape{0, 6, 8});
  for (const auto& [batch, length] : {std::pair{2, 0}, {0, 6}}) {
    const auto all = some({batch, length, 4, 3});
    CHECK(shape_of(ssd(all, some({batch, length, 4}), some({4}), some({batch, length, 2, 5}),
                       some({batch, length, 2, 5}))) == mx::Shape{batch, length, 4, 3});
    const auto head = some({batch, length, 4}), matrix = some({batch, length, 1, 2, 6});
    CHECK(shape_of(mamba3(all, matrix, matrix, head, head, head)) == mx::Shape{batch, length, 4, 3});
    CHECK(shape_of(causal_conv1d(some({batch, length, 4}), some({4, 3}))) == mx::Shape{batch, length, 4});
    CHECK(shape_of(pscan(some({batch, length, 3}), some({batch, length, 3}))) == mx::Shape{batch, length, 3});
  }
  CHECK(shape_of(causal_conv1d(some({2, 5, 0}), some({0, 3}))) == mx::Shape{2, 5, 0});
  CHECK(shape_of(rmsnorm_gated(some({0, 6}))) == mx::Shape{0, 6});
  CHECK(shape_of(cross_scan(some({2, 6, 0}), ss2d_orders(2, 3))) == mx::Shape{2, 4, 6, 0});
  CHECK(shape_of(cross_merge(some({0, 4, 6, 3}), ss2d_orders(2, 3))) == mx::Shape{0, 6, 3});
}

}  // namespace aspis::conformance

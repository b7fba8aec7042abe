#pragma once

#include <doctest/doctest.h>
#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

/// What the conformance tests share: named random inputs in float64, a function
/// of them, and the comparison of float32 with float64.
namespace aspis::conformance {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using Function = std::function<Arrays(const Arrays&)>;

/// N(0, 1), values that float32 holds.
inline mx::array normal(const mx::Shape& shape, uint64_t seed, double scale = 1, double shift = 0) {
  const auto values = mx::random::normal(shape, mx::float32, mx::random::key(seed));
  const auto scaled = values * mx::array(static_cast<float>(scale)) + mx::array(static_cast<float>(shift));
  return mx::astype(scaled, mx::float64);
}

/// U(low, high).
inline mx::array uniform(const mx::Shape& shape, uint64_t seed, double low, double high) {
  return mx::astype(mx::random::uniform(mx::array(static_cast<float>(low)), mx::array(static_cast<float>(high)), shape,
                                        mx::float32, mx::random::key(seed)),
                    mx::float64);
}

/// Tokens [first, last) along axis 1.
inline mx::array tokens(const mx::array& a, int first, int last) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[1] = first, stop[1] = last;
  return mx::slice(a, start, stop);
}

inline std::vector<double> values(const mx::array& a) {
  auto dense = mx::contiguous(mx::astype(a, mx::float64));
  mx::eval(dense);
  return {dense.data<double>(), dense.data<double>() + dense.size()};
}

/// max |got - want| / max |want|; infinity where a value is not finite.
inline double error(const mx::array& got, const mx::array& want) {
  if (got.shape() != want.shape()) return INFINITY;
  const auto a = values(got), b = values(want);
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < a.size(); i++) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

inline Arrays cast(Arrays list, mx::Dtype dtype) {
  for (auto& a : list) a = mx::astype(a, dtype);
  return list;
}

struct Outcome {
  Arrays outputs, gradients;
};

/// Outputs, and gradients of all inputs for random cotangents.
inline Outcome run(const Function& f, const Arrays& inputs, bool with_gradients = true) {
  if (!with_gradients) {
    Outcome o{f(inputs), {}};
    mx::eval(o.outputs);
    return o;
  }
  Arrays cotangents;
  for (const auto& out : f(inputs)) {
    cotangents.push_back(mx::astype(normal(out.shape(), 900 + cotangents.size()), out.dtype()));
  }
  auto [outputs, gradients] = mx::vjp(f, inputs, cotangents);
  Arrays all = outputs;
  all.insert(all.end(), gradients.begin(), gradients.end());
  mx::eval(all);
  return {outputs, gradients};
}

/// float32 against float64, which the operators' own tests hold against a double
/// oracle and finite differences.
inline void expect_close(const std::string& what, const Function& f, const Arrays& inputs, double forward,
                         double gradient) {
  const Outcome fine = run(f, inputs), single = run(f, cast(inputs, mx::float32));
  CAPTURE(what);
  for (size_t i = 0; i < fine.outputs.size(); i++) {
    CAPTURE(i);
    CHECK(error(single.outputs[i], fine.outputs[i]) < forward);
  }
  for (size_t i = 0; i < fine.gradients.size(); i++) {
    CAPTURE(i);
    CHECK(error(single.gradients[i], fine.gradients[i]) < gradient);
  }
}

}  // namespace aspis::conformance

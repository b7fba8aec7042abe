#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace aspis::harness {

/// How a case fills one of its inputs. Random values come from a stream that is
/// named after the input, so adding one input does not change the others.
struct Fill {
  enum class Kind { kNormal, kUniform, kLogUniform, kConstant, kLabels, kPermutation, kProbabilities };
  Kind kind = Kind::kNormal;
  double a = 0, b = 1;

  static Fill normal(double deviation = 1) { return {Kind::kNormal, 0, deviation}; }
  static Fill uniform(double lo, double hi) { return {Kind::kUniform, lo, hi}; }
  /// exp of a uniform value between the logarithms of both, which are positive.
  static Fill log_uniform(double lo, double hi) { return {Kind::kLogUniform, lo, hi}; }
  static Fill constant(double value) { return {Kind::kConstant, value, 0}; }
  /// int32 in [0, classes).
  static Fill labels(int classes) { return {Kind::kLabels, static_cast<double>(classes), 0}; }
  /// int32: a permutation of 0 .. size-1.
  static Fill permutation() { return {Kind::kPermutation, 0, 0}; }
  /// Positive rows (last axis) with sum 1.
  static Fill probabilities() { return {Kind::kProbabilities, 0, 0}; }

  bool is_integer() const { return kind == Kind::kLabels || kind == Kind::kPermutation; }
};

struct TensorSpec {
  std::string name;
  std::vector<int> shape;
  Fill fill = Fill::normal();
  bool differentiable = true;  ///< false: no gradient is asked for (integers never have one)
};

/// Values of one input or output in double, row-major.
struct Tensor {
  std::vector<int> shape;
  std::vector<double> data;

  int64_t size() const { return static_cast<int64_t>(data.size()); }
};
using Tensors = std::vector<Tensor>;

/// What a case is used for; flags to be combined.
enum Use : unsigned {
  kCheck = 1,  ///< forward and gradients against the oracle, threads, layouts
  kGrad = 2,   ///< tiny: finite differences of every input element
  kPerf = 4,   ///< timed by `aspis bench`
  kFull = 8,   ///< only in `aspis ops --check --full` and where a test asks for it
  /// A shape of the upstream test suites, in tests/conformance and `--check --full`:
  /// gradients against a derivative of the oracle in one direction instead of the composed version.
  kGrid = 16,
  kLong = 32,  ///< only in tests with the label `long`
};

/// Arithmetic of one evaluation, for the bound beside a time. One multiply and
/// one add count two flops; exponentials (and logarithms) count apart.
struct Cost {
  double flops = 0, exps = 0, bytes = 0;
};

/// Largest error allowed, as max |error| / max |reference| of an output or
/// gradient. A looser value carries its reason in a comment where it is set.
struct Tolerance {
  double forward = 2e-6;
  double gradient = 1e-5;
  double forward_double = 1e-12;
  double gradient_double = 1e-10;
};

/// One case of an operator without any framework: made from its `cases.h`.
struct OpCase {
  std::string name;
  unsigned uses = kCheck;
  std::vector<TensorSpec> inputs;
  /// The outputs in double, by the plainest code there is.
  std::function<Tensors(const Tensors&)> reference;
  Cost forward, backward;
  Tolerance tolerance;
};

/// The inputs of a case from a seed; rounded to float32 if asked for, so that
/// the oracle sees exactly what a float32 kernel sees.
Tensors make_inputs(const OpCase& c, uint64_t seed, bool round_to_float);

/// Central differences of sum_k <weights_k, reference(inputs)_k> for every
/// element of input `index`.
Tensor numeric_gradient(const OpCase& c, const Tensors& inputs, const Tensors& weights, size_t index,
                        double step = 1e-6);

/// The central difference of that sum when all inputs move along `directions` at once.
double directional_derivative(const OpCase& c, const Tensors& inputs, const Tensors& weights,
                              const Tensors& directions, double step = 1e-5);

/// max |got - want| / max |want|; infinity if a NaN or an infinity is not matched in place.
double normalized_error(const Tensor& got, const Tensor& want);

}  // namespace aspis::harness

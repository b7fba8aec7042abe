#include "aspis/ops/harness/op_case.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "aspis/base/rng.h"

namespace aspis::harness {
namespace {

int64_t count(const std::vector<int>& shape) {
  int64_t n = 1;
  for (const int d : shape) n *= d;
  return n;
}

}  // namespace

Tensors make_inputs(const OpCase& c, uint64_t seed, bool round_to_float) {
  Tensors inputs;
  for (const TensorSpec& spec : c.inputs) {
    Rng rng(seed, "harness." + c.name + "." + spec.name);
    Tensor t{spec.shape, std::vector<double>(count(spec.shape))};
    switch (spec.fill.kind) {
      case Fill::Kind::kNormal:
        for (double& v : t.data) v = spec.fill.b * rng.normal();
        break;
      case Fill::Kind::kUniform:
        for (double& v : t.data) v = rng.uniform(spec.fill.a, spec.fill.b);
        break;
      case Fill::Kind::kLogUniform:
        for (double& v : t.data) v = std::exp(rng.uniform(std::log(spec.fill.a), std::log(spec.fill.b)));
        break;
      case Fill::Kind::kConstant:
        for (double& v : t.data) v = spec.fill.a;
        break;
      case Fill::Kind::kLabels:
        for (double& v : t.data) v = static_cast<double>(rng.below(static_cast<uint64_t>(spec.fill.a)));
        break;
      case Fill::Kind::kPermutation:
        std::iota(t.data.begin(), t.data.end(), 0.0);
        for (size_t i = t.data.size(); i > 1; i--) std::swap(t.data[i - 1], t.data[rng.below(i)]);
        break;
      case Fill::Kind::kProbabilities: {
        const int row = spec.shape.back();
        for (size_t r = 0; r < t.data.size(); r += row) {
          double sum = 0;
          for (int i = 0; i < row; i++) sum += t.data[r + i] = rng.uniform(0.05, 1.0);
          for (int i = 0; i < row; i++) t.data[r + i] /= sum;
        }
        break;
      }
    }
    if (round_to_float) {
      for (double& v : t.data) v = static_cast<float>(v);
    }
    inputs.push_back(std::move(t));
  }
  return inputs;
}

Tensor numeric_gradient(const OpCase& c, const Tensors& inputs, const Tensors& weights, size_t index,
                        double step) {
  Tensors moved = inputs;
  const auto loss = [&] {
    const Tensors outputs = c.reference(moved);
    double sum = 0;
    for (size_t k = 0; k < outputs.size(); k++) {
      for (size_t i = 0; i < outputs[k].data.size(); i++) sum += weights[k].data[i] * outputs[k].data[i];
    }
    return sum;
  };
  Tensor gradient{inputs[index].shape, std::vector<double>(inputs[index].data.size())};
  for (size_t i = 0; i < gradient.data.size(); i++) {
    double& x = moved[index].data[i];
    const double saved = x;
    x = saved + step;
    const double above = loss();
    x = saved - step;
    const double below = loss();
    x = saved;
    gradient.data[i] = (above - below) / (2 * step);
  }
  return gradient;
}

double directional_derivative(const OpCase& c, const Tensors& inputs, const Tensors& weights,
                              const Tensors& directions, double step) {
  const auto at = [&](double h) {
    Tensors moved = inputs;
    for (size_t k = 0; k < moved.size(); k++) {
      for (size_t i = 0; i < directions[k].data.size(); i++) moved[k].data[i] += h * directions[k].data[i];
    }
    return c.reference(moved);
  };
  // Differences element by element: those of two large sums would lose digits.
  const Tensors above = at(step), below = at(-step);
  double sum = 0;
  for (size_t k = 0; k < above.size(); k++) {
    for (size_t i = 0; i < above[k].data.size(); i++)
      sum += weights[k].data[i] * (above[k].data[i] - below[k].data[i]);
  }
  return sum / (2 * step);
}

double normalized_error(const Tensor& got, const Tensor& want) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (got.data.size() != want.data.size()) return kInfinity;
  double largest_error = 0, largest = 0;
  for (size_t i = 0; i < want.data.size(); i++) {
    const double g = got.data[i], w = want.data[i];
    if (!std::isfinite(w) || !std::isfinite(g)) {
      const bool same = (std::isnan(w) && std::isnan(g)) || w == g;
      if (!same) return kInfinity;
      continue;
    }
    largest_error = std::max(largest_error, std::abs(g - w));
    largest = std::max(largest, std::abs(w));
  }
  // A reference that is zero throughout asks for exact zeros up to the smallest normal float.
  return largest_error / std::max(largest, 1e-30);
}

}  // namespace aspis::harness

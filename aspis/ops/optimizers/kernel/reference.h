#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "aspis/ops/optimizers/kernel/params.h"

/// The definitions for one array in double, without guard: `g` is already scaled and clipped.
namespace aspis::kernel {

struct OptimizerArray {
  std::vector<double> p, m, v;
  int64_t rows = 0;
  bool decay = true;

  explicit OptimizerArray(std::vector<double> start, int64_t first_axis = 0, bool decays = true)
      : p(std::move(start)), m(p.size()), v(p.size()), rows(first_axis), decay(decays) {}

  void step(const std::vector<double>& g, double lr, int64_t /*t*/, const SgdConstants& c) {
    for (size_t i = 0; i < p.size(); i++) {
      const double slope = g[i] + (decay ? c.weight_decay * p[i] : 0);
      m[i] = c.momentum * m[i] + slope;
      p[i] -= lr * (c.nesterov ? slope + c.momentum * m[i] : m[i]);
    }
  }

  void step(const std::vector<double>& g, double lr, int64_t /*t*/, const LionConstants& c) {
    for (size_t i = 0; i < p.size(); i++) {
      if (decay) p[i] *= 1 - lr * c.weight_decay;
      const double x = c.beta1 * m[i] + (1 - c.beta1) * g[i];
      p[i] -= lr * (x > 0 ? 1 : x < 0 ? -1 : 0);
      m[i] = c.beta2 * m[i] + (1 - c.beta2) * g[i];
    }
  }

  void step(const std::vector<double>& g, double lr, int64_t t, const LambConstants& c) {
    std::vector<double> r(p.size());
    double of_p = 0, of_r = 0;
    for (size_t i = 0; i < p.size(); i++) {
      m[i] = c.beta1 * m[i] + (1 - c.beta1) * g[i];
      v[i] = c.beta2 * v[i] + (1 - c.beta2) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(c.beta1, static_cast<double>(t)));
      const double v_hat = v[i] / (1 - std::pow(c.beta2, static_cast<double>(t)));
      r[i] = m_hat / (std::sqrt(v_hat) + c.eps) + (decay ? c.weight_decay * p[i] : 0);
      of_p += p[i] * p[i];
      of_r += r[i] * r[i];
    }
    const double ratio = decay && of_p > 0 && of_r > 0 ? std::sqrt(of_p) / std::sqrt(of_r) : 1;
    for (size_t i = 0; i < p.size(); i++) p[i] -= lr * ratio * r[i];
  }

  void step(const std::vector<double>& g, double lr, int64_t /*t*/, const MuonConstants& c) {
    const size_t n = static_cast<size_t>(rows), k = p.size() / n;
    std::vector<double> x(p.size());
    double squares = 0;
    for (size_t i = 0; i < p.size(); i++) {
      m[i] = c.momentum * m[i] + (1 - c.momentum) * g[i];
      x[i] = c.nesterov ? (1 - c.momentum) * g[i] + c.momentum * m[i] : m[i];
      squares += x[i] * x[i];
    }
    for (double& e : x) e /= std::max(std::sqrt(squares), c.eps);
    // X X^T from the left is X^T X from the right: no need to turn anything.
    for (int s = 0; s < c.steps; s++) {
      std::vector<double> gram(n * n), next(p.size());
      for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
          for (size_t l = 0; l < k; l++) gram[i * n + j] += x[i * k + l] * x[j * k + l];
        }
      }
      const auto apply = [&](const std::vector<double>& to) {
        std::vector<double> y(to.size());
        for (size_t i = 0; i < n; i++) {
          for (size_t j = 0; j < n; j++) {
            for (size_t l = 0; l < k; l++) y[i * k + l] += gram[i * n + j] * to[j * k + l];
          }
        }
        return y;
      };
      const auto once = apply(x), twice = apply(once);
      for (size_t i = 0; i < x.size(); i++) x[i] = c.a * x[i] + c.b * once[i] + c.c * twice[i];
    }
    const double size = c.original ? std::sqrt(std::max(1.0, static_cast<double>(n) / static_cast<double>(k)))
                                   : 0.2 * std::sqrt(static_cast<double>(std::max(n, k)));
    for (size_t i = 0; i < p.size(); i++) {
      if (decay) p[i] *= 1 - lr * c.weight_decay;
      p[i] -= lr * size * x[i];
    }
  }
};

}  // namespace aspis::kernel

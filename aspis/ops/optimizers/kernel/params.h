#pragma once

#include "aspis/ops/adamw/kernel/params.h"

/// Constants of the optimizers; `g` below is the gradient after scale and clipping,
/// and weight decay applies where the array has it.
namespace aspis::kernel {

/// As torch.optim.SGD without dampening (decay is part of the gradient):
///
///     g = g + decay p      m = momentum m + g      p = p - lr (g + momentum m  if nesterov, else m)
struct SgdConstants {
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0;
};

/// Lion (Chen et al. 2023):
///
///     p = p (1 - lr decay)    p = p - lr sign(beta1 m + (1 - beta1) g)    m = beta2 m + (1 - beta2) g
struct LionConstants {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0;
};

/// LAMB (You et al. 2020), without its own clipping:
///
///     m, v as in Adam      r = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay p
///     p = p - lr r |p| / |r|      without weight decay, or where a norm is 0: p = p - lr r
struct LambConstants {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-6, weight_decay = 0.01;
};

/// Muon (Jordan et al. 2024; as torch.optim.Muon) on matrices {rows, the rest}:
///
///     m = momentum m + (1 - momentum) g      u = (1 - momentum) g + momentum m  if nesterov, else m
///     X = u / max(|u|, eps), turned if it has more rows than columns
///     `steps` times: G = X X^T, X = (a I + b G + c G G) X
///     p = p (1 - lr decay) - lr f X
///
/// with f = 0.2 sqrt(larger side), which gives X the root mean square of an AdamW
/// update (Liu et al. 2025), or, if `original`, sqrt(max(1, rows / columns)).
struct MuonConstants {
  double momentum = 0.95;
  bool nesterov = true;
  double weight_decay = 0.1, eps = 1e-7;
  int steps = 5;
  double a = 3.4445, b = -4.7750, c = 2.0315;
  bool original = false;
};

}  // namespace aspis::kernel

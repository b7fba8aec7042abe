#include "aspis/nn/norm.h"

#include "aspis/nn/branch.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/layer_norm/layer_norm.h"
#include "aspis/ops/rms_norm/rms_norm.h"

namespace aspis {

mx::array Residual::value() const { return branch ? add_n({sum, *branch}) : sum; }

LayerNorm::LayerNorm(int64_t width, const Init& init, float epsilon)
    : weight(init.constant({static_cast<mx::ShapeElem>(width)}, 1)),
      bias(init.constant({static_cast<mx::ShapeElem>(width)}, 0)),
      epsilon_(epsilon) {
  add_parameter("weight", weight, Decay::kNo);
  add_parameter("bias", bias, Decay::kNo);
}

mx::array LayerNorm::operator()(const mx::array& x) const { return layer_norm(x, weight, bias, epsilon_); }

std::pair<mx::array, mx::array> LayerNorm::operator()(const Residual& x) const {
  if (x.branch) return add_layer_norm(*x.branch, x.sum, weight, bias, epsilon_);
  const auto copies = fan_out(x.sum, 2);
  return {(*this)(copies[0]), copies[1]};
}

RMSNorm::RMSNorm(int64_t width, const Init& init, float epsilon)
    : weight(init.constant({static_cast<mx::ShapeElem>(width)}, 1)), epsilon_(epsilon) {
  add_parameter("weight", weight, Decay::kNo);
}

mx::array RMSNorm::operator()(const mx::array& x) const { return rms_norm(x, weight, epsilon_); }

std::pair<mx::array, mx::array> RMSNorm::operator()(const Residual& x) const {
  if (x.branch) return add_rms_norm(*x.branch, x.sum, weight, epsilon_);
  const auto copies = fan_out(x.sum, 2);
  return {(*this)(copies[0]), copies[1]};
}

}  // namespace aspis

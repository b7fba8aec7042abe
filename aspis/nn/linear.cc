#include "aspis/nn/linear.h"

#include "aspis/ops/linear/linear.h"

namespace aspis {

Linear::Linear(int64_t in, int64_t out, bool with_bias, const Init& init)
    : weight(
          init.kaiming_uniform("weight", {static_cast<mx::ShapeElem>(out), static_cast<mx::ShapeElem>(in)}, in)) {
  add_parameter("weight", weight);
  if (with_bias) {
    bias = init.kaiming_uniform("bias", {static_cast<mx::ShapeElem>(out)}, in);
    add_parameter("bias", *bias, Decay::kNo);
  }
}

mx::array Linear::operator()(const mx::array& x) const { return linear(x, weight, bias); }

}  // namespace aspis

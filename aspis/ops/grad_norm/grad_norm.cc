#include "aspis/ops/grad_norm/grad_norm.h"

#include <cmath>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/grad_norm/kernel/cpu.h"

namespace aspis {
namespace {

class GlobalNorm : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::allocate(encoder, out[0], name());
    float* norm = out[0].data<float>();
    ops::dispatch_float(in.empty() ? mx::float32 : in[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::GradNormParams<T> p;
      for (const mx::array& x : in) {
        p.parts.push_back({ops::packed<T>(encoder, x, name()), static_cast<int64_t>(x.size())});
      }
      encoder.dispatch([p = std::move(p), norm] { *norm = static_cast<float>(std::sqrt(kernel::sum_of_squares(p))); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {mx::Shape{}}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "global_norm"; }
};

}  // namespace

mx::array global_norm(const Arrays& xs, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  mx::Dtype dtype = mx::float32;
  for (const mx::array& x : xs) {
    if (ops::compute_dtype("global_norm", {{"each array", &x}}) == mx::float64) dtype = mx::float64;
  }
  if (xs.empty()) return mx::array(0.0f);
  Arrays wide;
  for (const mx::array& x : xs) wide.push_back(mx::astype(x, dtype, stream));
  return mx::array(mx::Shape{}, mx::float32, std::make_shared<GlobalNorm>(stream), std::move(wide));
}

}  // namespace aspis

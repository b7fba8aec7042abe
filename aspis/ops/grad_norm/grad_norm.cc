#include "aspis/ops/grad_norm/grad_norm.h"

#include <algorithm>

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
    ops::dispatch_float(in[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::GlobalNormParams<T> p;
      p.norm = out[0].data<float>();
      for (const mx::array& x : in) {
        p.arrays.push_back({static_cast<int64_t>(x.size()), ops::packed<T>(encoder, x, name())});
      }
      encoder.dispatch([p = std::move(p)] { kernel::global_norm(p); });
    });
  }

  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "global_norm"; }
};

}  // namespace

mx::array global_norm(const std::vector<mx::array>& xs, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  if (xs.empty()) return mx::array(0.0f);
  for (const mx::array& x : xs) ops::compute_dtype("global_norm", {{"every array", &x}});
  const bool wide = std::all_of(xs.begin(), xs.end(), [](const mx::array& x) { return x.dtype() == mx::float64; });
  Arrays inputs;
  for (const mx::array& x : xs) inputs.push_back(mx::astype(x, wide ? mx::float64 : mx::float32, stream));
  if (ops::choose_back_end("global_norm", stream) == ops::BackEnd::kComposed) {
    return global_norm_composed(inputs, stream);
  }
  return mx::array(mx::Shape{}, mx::float32, std::make_shared<GlobalNorm>(stream), inputs);
}

}  // namespace aspis

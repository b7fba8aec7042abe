#include "aspis/ops/grad_norm/grad_norm.h"

#include <algorithm>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/grad_norm/kernel/cpu.h"

namespace aspis {
namespace {

class GlobalNorm : public ops::CpuPrimitive {
 public:
  GlobalNorm(mx::Stream s, bool wide) : CpuPrimitive(s), wide_(wide) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::allocate(encoder, out[0], name());
    ops::dispatch_float(wide_ ? mx::float64 : mx::float32, [&](auto tag) {
      using T = decltype(tag);
      kernel::GlobalNormParams<T> p;
      p.norm = out[0].data<float>();
      for (const mx::array& x : in) {
        kernel::ArrayRef<T> a;
        a.n = static_cast<int64_t>(x.size());
        if (x.dtype() == mx::bfloat16) {
          a.half = reinterpret_cast<const Bf16*>(ops::packed<mx::bfloat16_t>(encoder, x, name()));
        } else {
          a.data = ops::packed<T>(encoder, x, name());
        }
        p.arrays.push_back(a);
      }
      encoder.dispatch([p = std::move(p)] { kernel::global_norm(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return wide_ == static_cast<const GlobalNorm&>(other).wide_;
  }
  const char* name() const override { return "global_norm"; }

 private:
  bool wide_;  // all inputs are float64; else float32 or bfloat16
};

}  // namespace

mx::array global_norm(const std::vector<mx::array>& xs, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  if (xs.empty()) return mx::array(0.0f);
  for (const mx::array& x : xs) ops::compute_dtype("global_norm", {{"every array", &x}});
  const bool wide = std::all_of(xs.begin(), xs.end(), [](const mx::array& x) { return x.dtype() == mx::float64; });
  Arrays inputs;
  const bool composed = ops::choose_back_end("global_norm", stream) == ops::BackEnd::kComposed;
  for (const mx::array& x : xs) {
    const bool as_it_is = !composed && x.dtype() == mx::bfloat16;
    inputs.push_back(as_it_is ? x : mx::astype(x, wide ? mx::float64 : mx::float32, stream));
  }
  if (composed) return global_norm_composed(inputs, stream);
  return mx::array(mx::Shape{}, mx::float32, std::make_shared<GlobalNorm>(stream, wide), inputs);
}

}  // namespace aspis

#include "aspis/ops/silu/silu.h"

#include "aspis/ops/common/storage.h"
#include "aspis/ops/silu/kernel/cpu.h"

namespace aspis {
namespace {

class SiluVjp : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::SiluVjpParams<T> p;
      p.n = out[0].size();
      p.x = ops::packed<T>(encoder, in[0], name());
      p.dy = ops::packed<T>(encoder, in[1], name());
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      encoder.dispatch([p] { kernel::silu_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "silu_vjp"; }
};

class Silu : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::SiluParams<T> p;
      p.n = out[0].size();
      p.x = ops::packed<T>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::silu(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<SiluVjp>(stream()),
                      {primals[0], cotangents[0]})};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "silu"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.exps = static_cast<double>(in[0].size())};
  }
};

}  // namespace

mx::array silu(const mx::array& x, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::storage_dtype("silu", x, {{"x", &x}});
  if (ops::choose_back_end("silu", stream) == ops::BackEnd::kComposed) return silu_composed(x, stream);
  const auto wide = mx::astype(x, dtype, stream);
  const mx::array y(x.shape(), dtype, std::make_shared<Silu>(stream), {wide});
  return mx::astype(y, x.dtype(), stream);
}

}  // namespace aspis

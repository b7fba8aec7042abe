#include "aspis/ops/gelu/gelu.h"

#include "aspis/ops/common/storage.h"
#include "aspis/ops/gelu/kernel/cpu.h"

namespace aspis {
namespace {

class GeluVjp : public ops::CpuPrimitive {
 public:
  GeluVjp(mx::Stream s, bool tanh_form) : CpuPrimitive(s), tanh_form_(tanh_form) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::GeluVjpParams<T> p;
      p.n = static_cast<int64_t>(out[0].size());
      p.tanh_approximation = tanh_form_;
      p.x = ops::packed<T>(encoder, in[0], name());
      p.dy = ops::packed<T>(encoder, in[1], name());
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      encoder.dispatch([p] { kernel::gelu_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return tanh_form_ == static_cast<const GeluVjp&>(other).tanh_form_;
  }
  const char* name() const override { return "gelu_vjp"; }

 private:
  bool tanh_form_;
};

class Gelu : public ops::CpuPrimitive {
 public:
  Gelu(mx::Stream s, bool tanh_form) : CpuPrimitive(s), tanh_form_(tanh_form) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::GeluParams<T> p;
      p.n = static_cast<int64_t>(out[0].size());
      p.tanh_approximation = tanh_form_;
      p.x = ops::packed<T>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::gelu(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<GeluVjp>(stream(), tanh_form_),
                      {primals[0], cotangents[0]})};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return tanh_form_ == static_cast<const Gelu&>(other).tanh_form_;
  }
  const char* name() const override { return "gelu"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.exps = static_cast<double>(in[0].size())};
  }

 private:
  bool tanh_form_;
};

}  // namespace

mx::array gelu(const mx::array& x, bool tanh_approximation, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::storage_dtype("gelu", x, {{"x", &x}});
  if (ops::choose_back_end("gelu", stream) == ops::BackEnd::kComposed) {
    return gelu_composed(x, tanh_approximation, stream);
  }
  const auto wide = mx::astype(x, dtype, stream);
  const mx::array y(x.shape(), dtype, std::make_shared<Gelu>(stream, tanh_approximation), {wide});
  return mx::astype(y, x.dtype(), stream);
}

}  // namespace aspis

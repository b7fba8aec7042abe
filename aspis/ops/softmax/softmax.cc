#include "aspis/ops/softmax/softmax.h"

#include "aspis/ops/common/rows.h"
#include "aspis/ops/softmax/kernel/cpu.h"

namespace aspis {
namespace {

class SoftmaxVjp : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // {y, dy} -> {dx}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto y = ops::rows<T>(encoder, in[0], name());
      const auto dy = ops::rows<T>(encoder, in[1], name());
      kernel::SoftmaxVjpParams<T> p;
      p.rows = ops::row_count(out[0]);
      p.length = out[0].shape(-1);
      p.y = y.data;
      p.y_stride = y.stride;
      p.dy = dy.data;
      p.dy_stride = dy.stride;
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      encoder.dispatch([p] { kernel::softmax_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "softmax_vjp"; }
};

class Softmax : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto x = ops::rows<T>(encoder, in[0], name());
      kernel::SoftmaxParams<T> p;
      p.rows = ops::row_count(out[0]);
      p.length = out[0].shape(-1);
      p.x = x.data;
      p.x_stride = x.stride;
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::softmax(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
             const Arrays& outputs) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<SoftmaxVjp>(stream()),
                      {outputs[0], cotangents[0]})};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "softmax"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.exps = static_cast<double>(in[0].size())};
  }
};

}  // namespace

mx::array softmax(const mx::array& x, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::compute_dtype("softmax", {{"x", &x}});
  require(x.ndim() > 0, [] {
    return Error::Parts{.where = "softmax", .required = "x must have at least one axis", .got = "a scalar", .hint = ""};
  });
  if (ops::choose_back_end("softmax", stream) == ops::BackEnd::kComposed) return softmax_composed(x, stream);
  const auto wide = mx::astype(x, dtype, stream);
  const mx::array y(x.shape(), dtype, std::make_shared<Softmax>(stream), {wide});
  return mx::astype(y, x.dtype(), stream);
}

}  // namespace aspis

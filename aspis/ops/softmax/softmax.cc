#include "aspis/ops/softmax/softmax.h"

#include <utility>

#include "aspis/ops/common/rows.h"
#include "aspis/ops/common/storage.h"
#include "aspis/ops/softmax/kernel/cpu.h"

namespace aspis {
namespace {

class SoftmaxVjp : public ops::CpuPrimitive {
 public:
  SoftmaxVjp(mx::Stream s, bool logarithm) : CpuPrimitive(s), logarithm_(logarithm) {}

  // {y, dy, x?} -> {dx}; x with bfloat16 only
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
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
      p.logarithm = logarithm_;
      if (in.size() > 2) {
        const auto x = ops::rows<T>(encoder, in[2], name());
        p.x = x.data;
        p.x_stride = x.stride;
      }
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      encoder.dispatch([p] { kernel::softmax_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return logarithm_ == static_cast<const SoftmaxVjp&>(other).logarithm_;
  }
  const char* name() const override { return logarithm_ ? "log_softmax_vjp" : "softmax_vjp"; }

 private:
  bool logarithm_;
};

class Softmax : public ops::CpuPrimitive {
 public:
  Softmax(mx::Stream s, bool logarithm) : CpuPrimitive(s), logarithm_(logarithm) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto x = ops::rows<T>(encoder, in[0], name());
      kernel::SoftmaxParams<T> p;
      p.rows = ops::row_count(out[0]);
      p.length = out[0].shape(-1);
      p.x = x.data;
      p.x_stride = x.stride;
      p.logarithm = logarithm_;
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::softmax(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
             const Arrays& outputs) override {
    Arrays inputs = {outputs[0], cotangents[0]};
    if (primals[0].dtype() == mx::bfloat16 && !logarithm_) inputs.push_back(primals[0]);
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<SoftmaxVjp>(stream(), logarithm_),
                      std::move(inputs))};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return logarithm_ == static_cast<const Softmax&>(other).logarithm_;
  }
  const char* name() const override { return logarithm_ ? "log_softmax" : "softmax"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.exps = static_cast<double>(in[0].size())};
  }

 private:
  bool logarithm_;
};

mx::array run(bool logarithm, const mx::array& x, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const char* op = logarithm ? "log_softmax" : "softmax";
  const mx::Dtype storage = ops::storage_dtype(op, x, {{"x", &x}});
  require(x.ndim() > 0, [&] {
    return Error::Parts{.where = op, .required = "x must have at least one axis", .got = "a scalar", .hint = ""};
  });
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    return logarithm ? log_softmax_composed(x, stream) : softmax_composed(x, stream);
  }
  const mx::array y(x.shape(), storage, std::make_shared<Softmax>(stream, logarithm),
                    {mx::astype(x, storage, stream)});
  return mx::astype(y, x.dtype(), stream);
}

}  // namespace

mx::array softmax(const mx::array& x, mx::StreamOrDevice s) { return run(false, x, s); }
mx::array log_softmax(const mx::array& x, mx::StreamOrDevice s) { return run(true, x, s); }

}  // namespace aspis

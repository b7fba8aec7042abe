#include "aspis/ops/pscan/pscan.h"

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/pscan/kernel/cpu.h"

namespace aspis {
namespace {

template <typename T>
kernel::PscanParams<T> params_of(mx::cpu::CommandEncoder& encoder, const Arrays& in, bool initial,
                                 const char* name) {
  kernel::PscanParams<T> p;
  p.batch = in[1].shape(0), p.length = in[1].shape(1);
  p.columns = static_cast<int64_t>(in[1].size()) / (p.batch * p.length);
  p.A = ops::packed<T>(encoder, in[0], name);
  p.X = ops::packed<T>(encoder, in[1], name);
  if (initial) p.initial = ops::packed<T>(encoder, in[2], name);
  return p;
}

// {A, X, initial, H, dH} -> dA, dX, dinitial
class PscanVjp : public ops::CpuPrimitive {
 public:
  PscanVjp(mx::Stream stream, bool initial) : CpuPrimitive(stream), initial_(initial) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::PscanVjpParams<T> q;
      q.in = params_of<T>(encoder, in, initial_, name());
      q.in.H = const_cast<T*>(ops::packed<T>(encoder, in[3], name()));
      q.dH = ops::packed<T>(encoder, in[4], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      q.dA = out[0].data<T>(), q.dX = out[1].data<T>();
      if (initial_) q.dinitial = out[2].data<T>();
      encoder.dispatch([q] { kernel::pscan_vjp(q); });
    });
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return initial_ == static_cast<const PscanVjp&>(other).initial_;
  }
  const char* name() const override { return "pscan_vjp"; }

 private:
  const bool initial_;
};

// {A, X, initial} -> H
class Pscan : public ops::CpuPrimitive {
 public:
  Pscan(mx::Stream stream, bool initial) : CpuPrimitive(stream), initial_(initial) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, in, initial_, name());
      ops::allocate(encoder, out[0], name());
      p.H = out[0].data<T>();
      encoder.dispatch([p] { kernel::pscan(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays inputs = primals;
    inputs.push_back(outputs[0]);
    inputs.push_back(cotangents[0]);
    const Arrays all =
        mx::array::make_arrays({primals[0].shape(), primals[1].shape(), primals[2].shape()},
                               {3, primals[1].dtype()}, std::make_shared<PscanVjp>(stream(), initial_), inputs);
    Arrays wanted;
    for (const int i : argnums)
      wanted.push_back(i < 2 || initial_ ? all[i] : mx::zeros_like(primals[i], stream()));
    return wanted;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return initial_ == static_cast<const Pscan&>(other).initial_;
  }
  const char* name() const override { return "pscan"; }

 private:
  const bool initial_;
};

}  // namespace

mx::array pscan(const mx::array& A, const mx::array& X, const std::optional<mx::array>& initial,
                mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype =
      ops::compute_dtype("pscan", {{"A", &A}, {"X", &X}, {"initial", initial ? &*initial : nullptr}});
  if (X.ndim() < 2) {
    throw Error(ErrorKind::kUsage,
                {.where = "pscan", .required = "X must have shape {B, L, ..}", .got = ops::to_string(X.shape())});
  }
  ops::require_shape("pscan", "A", A, X.shape(), "that of X");
  mx::Dtype result = mx::promote_types(A.dtype(), X.dtype());
  Arrays inputs{mx::astype(A, dtype, stream), mx::astype(X, dtype, stream)};
  if (initial) {
    mx::Shape shape = X.shape();
    shape.erase(shape.begin() + 1);
    ops::require_shape("pscan", "initial", *initial, shape, "{B, ..}");
    inputs.push_back(mx::astype(*initial, dtype, stream));
    result = mx::promote_types(result, initial->dtype());
  } else {
    inputs.push_back(ops::absent());
  }
  if (X.size() == 0 || ops::choose_back_end("pscan", stream) == ops::BackEnd::kComposed) {
    const auto h = initial ? std::optional(inputs[2]) : std::nullopt;
    return mx::astype(pscan_composed(inputs[0], inputs[1], h, stream), result, stream);
  }
  const mx::array H(X.shape(), dtype, std::make_shared<Pscan>(stream, initial.has_value()), inputs);
  return mx::astype(H, result, stream);
}

}  // namespace aspis

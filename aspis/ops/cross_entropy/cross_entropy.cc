#include "aspis/ops/cross_entropy/cross_entropy.h"

#include "aspis/ops/common/rows.h"
#include "aspis/ops/cross_entropy/kernel/cpu.h"

namespace aspis {
namespace {

bool same(const CrossEntropyOptions& a, const CrossEntropyOptions& b) {
  return a.label_smoothing == b.label_smoothing && a.reduction == b.reduction && a.ignore_index == b.ignore_index;
}

template <typename T>
kernel::CrossEntropyParams<T> params_of(mx::cpu::CommandEncoder& encoder, const mx::array& logits,
                                        const mx::array& targets, const CrossEntropyOptions& o, const char* name) {
  kernel::CrossEntropyParams<T> p;
  p.rows = logits.shape(0);
  p.classes = logits.shape(1);
  const auto x = ops::rows<T>(encoder, logits, name);
  p.x = x.data;
  p.x_stride = x.stride;
  if (targets.ndim() == 1) {
    p.labels = ops::packed<int64_t>(encoder, targets, name);
  } else {
    const auto t = ops::rows<T>(encoder, targets, name);
    p.t = t.data;
    p.t_stride = t.stride;
  }
  p.smoothing = o.label_smoothing;
  p.ignore_index = o.ignore_index;
  p.reduce = o.reduction != Reduction::kNone;
  p.mean = o.reduction == Reduction::kMean;
  return p;
}

class CrossEntropyVjp : public ops::CpuPrimitive {
 public:
  CrossEntropyVjp(mx::Stream stream, const CrossEntropyOptions& options, bool of_targets)
      : CpuPrimitive(stream), options_(options), of_targets_(of_targets) {}

  // {logits, targets, dy} -> {gradient of the logits or of the targets}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::CrossEntropyVjpParams<T> p;
      p.in = params_of<T>(encoder, in[0], in[1], options_, name());
      p.dy = ops::packed<T>(encoder, in[2], name());
      ops::allocate(encoder, out[0], name());
      (of_targets_ ? p.dt : p.dx) = out[0].data<T>();
      encoder.dispatch([p] { kernel::cross_entropy_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const CrossEntropyVjp&>(other);
    return same(options_, o.options_) && of_targets_ == o.of_targets_;
  }
  const char* name() const override { return "cross_entropy_vjp"; }

 private:
  const CrossEntropyOptions options_;
  const bool of_targets_;
};

class CrossEntropy : public ops::CpuPrimitive {
 public:
  CrossEntropy(mx::Stream stream, const CrossEntropyOptions& options) : CpuPrimitive(stream), options_(options) {}

  // {logits, targets} -> {loss}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, in[0], in[1], options_, name());
      ops::allocate(encoder, out[0], name());
      p.loss = out[0].data<T>();
      encoder.dispatch([p] { kernel::cross_entropy(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& wanted,
             const Arrays&) override {
    Arrays gradients;
    for (const int i : wanted) {
      if (i == 1 && primals[1].ndim() == 1) {
        gradients.push_back(mx::zeros_like(primals[1], stream()));  // labels have no gradient
      } else {
        gradients.push_back(mx::array(primals[0].shape(), primals[0].dtype(),
                                      std::make_shared<CrossEntropyVjp>(stream(), options_, i == 1),
                                      {primals[0], primals[1], cotangents[0]}));
      }
    }
    return gradients;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {options_.reduction == Reduction::kNone ? mx::Shape{in[0].shape(0)} : mx::Shape{}};
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return same(options_, static_cast<const CrossEntropy&>(other).options_);
  }
  const char* name() const override { return "cross_entropy"; }

 private:
  const CrossEntropyOptions options_;
};

void check(const mx::array& logits, const mx::array& targets, bool soft, const CrossEntropyOptions& o) {
  require(logits.ndim() == 2 && logits.shape(1) > 0, [&] {
    return Error::Parts{.where = "cross_entropy",
                        .required = "logits must have shape {N, C} with at least one class",
                        .got = ops::to_string(logits.shape()),
                        .hint = ""};
  });
  require(soft || mx::issubdtype(targets.dtype(), mx::integer), [&] {
    return Error::Parts{.where = "cross_entropy",
                        .required = "targets must be integer labels or floating-point weights",
                        .got = ops::to_string(targets.dtype()),
                        .hint = ""};
  });
  if (soft) {
    ops::require_shape("cross_entropy", "targets", targets, logits.shape(), "{N, C}");
  } else {
    ops::require_shape("cross_entropy", "targets", targets, {logits.shape(0)}, "{N}");
  }
  require(o.label_smoothing >= 0 && o.label_smoothing <= 1, [&] {
    return Error::Parts{.where = "cross_entropy",
                        .required = "label_smoothing must be in [0, 1]",
                        .got = std::to_string(o.label_smoothing),
                        .hint = ""};
  });
}

}  // namespace

mx::array cross_entropy(const mx::array& logits, const mx::array& targets, const CrossEntropyOptions& options,
                        mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const bool soft = mx::issubdtype(targets.dtype(), mx::floating);
  const mx::Dtype dtype =
      ops::compute_dtype("cross_entropy", {{"logits", &logits}, {"targets", soft ? &targets : nullptr}});
  check(logits, targets, soft, options);
  if (ops::choose_back_end("cross_entropy", stream) == ops::BackEnd::kComposed) {
    return cross_entropy_composed(logits, targets, options, stream);
  }
  const mx::Shape shape = options.reduction == Reduction::kNone ? mx::Shape{logits.shape(0)} : mx::Shape{};
  return mx::array(shape, dtype, std::make_shared<CrossEntropy>(stream, options),
                   {mx::astype(logits, dtype, stream), mx::astype(targets, soft ? dtype : mx::int64, stream)});
}

}  // namespace aspis

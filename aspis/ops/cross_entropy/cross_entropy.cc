#include "aspis/ops/cross_entropy/cross_entropy.h"

#include <cmath>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/cross_entropy/kernel/cpu.h"

namespace aspis {
namespace {

bool same_options(const CrossEntropyOptions& a, const CrossEntropyOptions& b) {
  return a.label_smoothing == b.label_smoothing && a.reduction == b.reduction && a.ignore_index == b.ignore_index;
}

template <typename S>
kernel::CrossEntropyParams<S> inputs_of(mx::cpu::CommandEncoder& encoder, const mx::array& logits,
                                        const mx::array& targets, const CrossEntropyOptions& options,
                                        const char* op) {
  kernel::CrossEntropyParams<S> p;
  p.rows = logits.shape(0);
  p.classes = logits.shape(1);
  const auto x = ops::strided<S>(encoder, logits, op);
  p.logits = x.data;
  p.logits_stride = x[0];
  if (targets.ndim() == 1) {
    p.labels = ops::packed<int32_t>(encoder, targets, op);
  } else {
    const auto t = ops::strided<S>(encoder, targets, op);
    p.soft = t.data;
    p.soft_stride = t[0];
  }
  p.smoothing = options.label_smoothing;
  p.ignore_index = options.ignore_index;
  p.reduction = options.reduction == Reduction::kNone  ? kernel::LossReduction::kNone
                : options.reduction == Reduction::kSum ? kernel::LossReduction::kSum
                                                       : kernel::LossReduction::kMean;
  return p;
}

// {logits, targets, statistics, dloss} -> the gradients named in `wanted` (0: logits, 1: soft targets).
class CrossEntropyVjp : public ops::CpuPrimitive {
 public:
  CrossEntropyVjp(mx::Stream stream, const CrossEntropyOptions& options, std::vector<int> wanted)
      : CpuPrimitive(stream), options_(options), wanted_(std::move(wanted)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(in[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      kernel::CrossEntropyVjpParams<S> p;
      p.forward = inputs_of<S>(encoder, in[0], in[1], options_, name());
      p.forward.statistics = const_cast<T*>(ops::packed<T>(encoder, in[2], name()));
      p.dloss = ops::packed<T>(encoder, in[3], name());
      for (size_t i = 0; i < wanted_.size(); i++) {
        ops::allocate(encoder, out[i], name());
        (wanted_[i] == 0 ? p.dlogits : p.dsoft) = out[i].data<S>();
      }
      encoder.dispatch([p] { kernel::cross_entropy_vjp(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const CrossEntropyVjp&>(other);
    return same_options(options_, o.options_) && wanted_ == o.wanted_;
  }
  const char* name() const override { return "cross_entropy_vjp"; }

 private:
  CrossEntropyOptions options_;
  std::vector<int> wanted_;
};

// {logits, targets} -> {loss, statistics}
class CrossEntropy : public ops::CpuPrimitive {
 public:
  CrossEntropy(mx::Stream stream, const CrossEntropyOptions& options) : CpuPrimitive(stream), options_(options) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(in[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      auto p = inputs_of<S>(encoder, in[0], in[1], options_, name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.loss = out[0].data<T>();
      p.statistics = out[1].data<T>();
      p.row_loss =
          options_.reduction == Reduction::kNone
              ? p.loss
              : static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(p.rows) * sizeof(T), name()));
      encoder.dispatch([p] { kernel::cross_entropy(p); });
    });
  }

  // No gradient enters through the statistics, which never leave this file.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> dtypes;
    for (const int i : argnums) {
      if (i == 1 && primals[1].ndim() == 1) return mx::Primitive::vjp(primals, cotangents, argnums, outputs);
      shapes.push_back(primals[i].shape());
      dtypes.push_back(primals[i].dtype());
    }
    return mx::array::make_arrays(shapes, dtypes, std::make_shared<CrossEntropyVjp>(stream(), options_, argnums),
                                  {primals[0], primals[1], outputs[1], cotangents[0]});
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return same_options(options_, static_cast<const CrossEntropy&>(other).options_);
  }
  const char* name() const override { return "cross_entropy"; }

 private:
  CrossEntropyOptions options_;
};

}  // namespace

mx::array cross_entropy(const mx::array& logits, const mx::array& targets, const CrossEntropyOptions& options,
                        mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const char* op = "cross_entropy";
  const bool soft = mx::issubdtype(targets.dtype(), mx::floating);
  const mx::Dtype dtype =
      ops::storage_dtype(op, logits, {{"logits", &logits}, {"targets", soft ? &targets : nullptr}});
  require(logits.ndim() == 2 && logits.shape(1) > 0, [&] {
    return Error::Parts{
        .where = op, .required = "logits must have shape {N, C}", .got = ops::to_string(logits.shape())};
  });
  require(soft || mx::issubdtype(targets.dtype(), mx::integer), [&] {
    return Error::Parts{.where = op,
                        .required = "targets must be integers {N} or floating-point weights {N, C}",
                        .got = ops::to_string(targets.dtype())};
  });
  if (soft) {
    ops::require_shape(op, "soft targets", targets, logits.shape(), "{N, C}");
  } else {
    ops::require_shape(op, "targets", targets, {logits.shape(0)}, "{N}");
  }
  require(options.label_smoothing >= 0 && options.label_smoothing <= 1, [&] {
    return Error::Parts{.where = op,
                        .required = "label_smoothing must be in [0, 1]",
                        .got = std::to_string(options.label_smoothing)};
  });

  const mx::Dtype arithmetic = ops::arithmetic_dtype(dtype);
  const mx::array x = mx::astype(logits, dtype, stream);
  const mx::array t = mx::astype(targets, soft ? dtype : mx::int32, stream);
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    // The composed version computes in the dtype of its arguments.
    return cross_entropy_composed(mx::astype(x, arithmetic, stream), soft ? mx::astype(t, arithmetic, stream) : t,
                                  options, stream);
  }
  const mx::Shape shape = options.reduction == Reduction::kNone ? mx::Shape{x.shape(0)} : mx::Shape{};
  return mx::array::make_arrays({shape, {x.shape(0), 2}}, {arithmetic, arithmetic},
                                std::make_shared<CrossEntropy>(stream, options), {x, t})[0];
}

}  // namespace aspis

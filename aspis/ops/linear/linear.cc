#include "aspis/ops/linear/linear.h"

#include <algorithm>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/common/storage.h"
#include "aspis/ops/linear/kernel/cpu.h"

namespace aspis {
namespace {

// An array as {rows, columns} with one distance between rows.
template <typename T>
struct Rows {
  const T* data = nullptr;
  int64_t stride = 0;
};

// In place if the last axis is contiguous and the others collapse to one; else
// a packed copy. Rows that overlap (broadcast views) are copied too: the matrix
// library asks for a stride of at least a row.
template <typename T>
Rows<T> rows_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const int64_t columns = a.shape(last);
  int64_t stride = 0, next = 0;  // of the innermost outer axis; what the next one must have
  bool usable = a.strides()[last] == 1 || columns == 1;
  for (int i = last - 1; i >= 0 && usable; i--) {
    if (a.shape(i) == 1) continue;
    if (stride == 0) {
      stride = a.strides()[i];
      usable = stride >= columns && stride > 0;
    } else {
      usable = a.strides()[i] == next;
    }
    next = a.strides()[i] * a.shape(i);
  }
  if (!usable || a.size() == 0) return {ops::packed<T>(encoder, a, op), columns};
  encoder.set_input_array(a);
  return {a.data<T>(), stride == 0 ? columns : stride};
}

template <typename T>
T* workspace(mx::cpu::CommandEncoder& encoder, int64_t values, const char* op) {
  if (values == 0) return nullptr;
  return static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), op));
}

// Calls f(S{}, W{}): how x is stored (the first of `in`) and the weight (the second).
template <typename F>
void with_types(const Arrays& in, const F& f) {
  ops::dispatch_storage(in[0].dtype(), [&](auto storage) {
    if constexpr (std::is_same_v<decltype(storage), Bf16>) {
      if (in[1].dtype() == mx::float32) return f(storage, float{});
    }
    f(storage, storage);
  });
}

bool needs_exponential(Activation a) { return a != Activation::kNone && a != Activation::kRelu; }

int64_t row_count(const mx::array& a) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < static_cast<int>(a.ndim()); i++) rows *= a.shape(i);
  return rows;
}

// {x, weight, dy} or {x, weight, dy, z} -> the gradients named in `wanted` (0: x, 1: weight, 2: bias), in order.
class LinearVjp : public ops::CpuPrimitive {
 public:
  LinearVjp(mx::Stream stream, Activation activation, std::vector<int> wanted)
      : CpuPrimitive(stream), activation_(activation), wanted_(std::move(wanted)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    with_types(in, [&](auto storage, auto weight) { eval<decltype(storage), decltype(weight)>(in, out); });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const LinearVjp&>(other);
    return activation_ == o.activation_ && wanted_ == o.wanted_;
  }
  const char* name() const override { return "linear_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // One product each for the gradients of x and weight.
    const auto products = std::count_if(wanted_.begin(), wanted_.end(), [](int i) { return i < 2; });
    return {.macs = static_cast<double>(products) * static_cast<double>(in[0].size()) * in[1].shape(0),
            .exps = needs_exponential(activation_) ? static_cast<double>(in[2].size()) : 0};
  }

 private:
  template <typename T, typename W>
  void eval(const Arrays& in, Arrays& out) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    kernel::LinearVjpParams<T, W> p;
    p.rows = row_count(in[0]);
    p.out = in[1].shape(0);
    p.in = in[1].shape(1);
    const auto x = rows_of<T>(encoder, in[0], name()), dy = rows_of<T>(encoder, in[2], name());
    const auto weight = rows_of<W>(encoder, in[1], name());
    p.x = x.data;
    p.x_stride = x.stride;
    p.weight = weight.data;
    p.weight_stride = weight.stride;
    p.dy = dy.data;
    p.dy_stride = dy.stride;
    for (size_t i = 0; i < wanted_.size(); i++) {
      ops::allocate(encoder, out[i], name());
      if (wanted_[i] == 0) p.dx = out[i].data<T>();
      if (wanted_[i] == 1) p.dweight = out[i].data<W>();
      if (wanted_[i] == 2) p.dbias = out[i].data<Arithmetic<T>>();
    }
    if (activation_ != Activation::kNone) {
      p.activation = activation_;
      p.pre = ops::packed<T>(encoder, in[3], name());
      p.dz = workspace<T>(encoder, p.rows * p.out, name());
    }
    constexpr bool kHalf = std::is_same_v<T, Bf16>;
    const auto size = kHalf ? kernel::half_linear_vjp_workspace : kernel::linear_vjp_workspace;
    p.workspace = workspace<Arithmetic<T>>(
        encoder, size(p.rows, p.in, p.out, p.dx != nullptr, p.dweight != nullptr, p.dbias != nullptr), name());
    encoder.dispatch([p] {
      if constexpr (kHalf) {
        kernel::half_linear_vjp(p);
      } else {
        kernel::linear_vjp(p);
      }
    });
  }

  Activation activation_;
  std::vector<int> wanted_;
};

// What a call of linear does; the inputs are {x, weight, bias?, residual?}.
struct Form {
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;
  bool keep_pre = false;  // a second result, x W^T + b

  bool operator==(const Form&) const = default;
};

mx::array linear_of(const Form& form, const Arrays& inputs, mx::Stream stream);

// -> y, or {y, z} for the gradient
class Linear : public ops::CpuPrimitive {
 public:
  Linear(mx::Stream stream, const Form& form) : CpuPrimitive(stream), form_(form) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    with_types(in, [&](auto storage, auto weight) { eval<decltype(storage), decltype(weight)>(in, out); });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const int residual = form_.residual ? static_cast<int>(primals.size()) - 1 : -1;
    std::vector<int> wanted;
    for (const int i : argnums) {
      if (i != residual) wanted.push_back(i);
    }
    Arrays gradients;
    if (!wanted.empty()) {
      std::vector<mx::Shape> shapes;
      std::vector<mx::Dtype> dtypes;
      for (const int i : wanted) {
        shapes.push_back(primals[i].shape());
        dtypes.push_back(primals[i].dtype());
      }
      Arrays inputs{primals[0], primals[1], cotangents[0]};
      if (form_.activation != Activation::kNone) inputs.push_back(pre(primals, outputs));
      gradients = mx::array::make_arrays(shapes, dtypes,
                                         std::make_shared<LinearVjp>(stream(), form_.activation, wanted), inputs);
    }
    Arrays result;
    auto next = gradients.begin();
    for (const int i : argnums) result.push_back(i == residual ? cotangents[0] : *next++);
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    mx::Shape shape = in[0].shape();
    shape.back() = in[1].shape(0);
    return std::vector<mx::Shape>(form_.keep_pre ? 2 : 1, shape);
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return form_ == static_cast<const Linear&>(other).form_;
  }
  const char* name() const override { return "linear"; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    return {.macs = static_cast<double>(out[0].size()) * in[1].shape(1),
            .exps = needs_exponential(form_.activation) ? static_cast<double>(out[0].size()) : 0};
  }

 private:
  template <typename T, typename W>
  void eval(const Arrays& in, Arrays& out) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    kernel::LinearParams<T, W> p;
    p.rows = row_count(in[0]);
    p.out = in[1].shape(0);
    p.in = in[1].shape(1);
    const auto x = rows_of<T>(encoder, in[0], name());
    const auto weight = rows_of<W>(encoder, in[1], name());
    p.x = x.data;
    p.x_stride = x.stride;
    p.weight = weight.data;
    p.weight_stride = weight.stride;
    if (form_.bias) p.bias = ops::packed<Arithmetic<T>>(encoder, in[2], name());
    p.end.activation = form_.activation;
    if (form_.residual) {
      const auto residual = rows_of<T>(encoder, in.back(), name());
      p.end.residual = residual.data;
      p.end.residual_stride = residual.stride;
    }
    for (auto& o : out) ops::allocate(encoder, o, name());
    p.y = out[0].data<T>();
    if (form_.keep_pre) p.end.pre = out[1].data<T>();
    constexpr bool kHalf = std::is_same_v<T, Bf16>;
    const auto size = kHalf ? kernel::half_linear_workspace : kernel::linear_workspace;
    p.workspace = workspace<Arithmetic<T>>(encoder, size(p.rows, p.in, p.out), name());
    encoder.dispatch([p] {
      if constexpr (kHalf) {
        kernel::half_linear(p);
      } else {
        kernel::linear(p);
      }
    });
  }

  // What the activation's gradient is taken at: kept, found in y, or computed again.
  mx::array pre(const Arrays& primals, const Arrays& outputs) {
    if (form_.keep_pre) return outputs[1];
    if (form_.activation == Activation::kRelu && !form_.residual) return outputs[0];
    return linear_of({.bias = form_.bias}, Arrays(primals.begin(), primals.end() - (form_.residual ? 1 : 0)),
                     stream());
  }

  Form form_;
};

mx::array linear_of(const Form& form, const Arrays& inputs, mx::Stream stream) {
  mx::Shape shape = inputs[0].shape();
  shape.back() = inputs[1].shape(0);
  const size_t results = form.keep_pre ? 2 : 1;
  return mx::array::make_arrays(std::vector<mx::Shape>(results, shape),
                                std::vector<mx::Dtype>(results, inputs[0].dtype()),
                                std::make_shared<Linear>(stream, form), inputs)[0];
}

bool broadcasts_to(const mx::Shape& from, const mx::Shape& to) {
  if (from.size() > to.size()) return false;
  const size_t skip = to.size() - from.size();
  for (size_t i = 0; i < from.size(); i++) {
    if (from[i] != to[skip + i] && from[i] != 1) return false;
  }
  return true;
}

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 mx::StreamOrDevice s) {
  return linear(x, weight, LinearOptions{.bias = bias}, s);
}

mx::array linear(const mx::array& x, const mx::array& weight, const LinearOptions& o, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const mx::Dtype dtype = ops::storage_dtype(
      "linear", x, {{"x", &x}, {"weight", &weight}, {"bias", pointer(o.bias)}, {"residual", pointer(o.residual)}});
  require(weight.ndim() == 2, [&] {
    return Error::Parts{
        .where = "linear", .required = "weight must have shape {out, in}", .got = ops::to_string(weight.shape())};
  });
  require(x.ndim() >= 1 && x.shape(-1) == weight.shape(1), [&] {
    return Error::Parts{.where = "linear",
                        .required = "x must have " + std::to_string(weight.shape(1)) +
                                    " values in its last axis, as weight " + ops::to_string(weight.shape()) +
                                    " has",
                        .got = ops::to_string(x.shape())};
  });
  mx::Shape shape = x.shape();
  shape.back() = weight.shape(0);
  const bool half = dtype == mx::bfloat16;
  mx::Dtype result = half ? dtype : mx::promote_types(x.dtype(), weight.dtype());
  const auto widest = [&](const mx::array& a) {
    if (!half) result = mx::promote_types(result, a.dtype());
  };
  Form form{.activation = o.activation, .bias = o.bias.has_value(), .residual = o.residual.has_value()};
  // Beside activations in bfloat16 a weight in float32 stays as it is.
  const bool master = half && weight.dtype() == mx::float32;
  Arrays inputs{mx::astype(x, dtype, stream), master ? weight : mx::astype(weight, dtype, stream)};
  if (o.bias) {
    ops::require_shape("linear", "bias", *o.bias, {weight.shape(0)}, "{out}");
    widest(*o.bias);
    inputs.push_back(mx::astype(*o.bias, ops::arithmetic_dtype(dtype), stream));
  }
  if (o.residual) {
    require(broadcasts_to(o.residual->shape(), shape), [&] {
      return Error::Parts{.where = "linear",
                          .required = "residual must broadcast to the result " + ops::to_string(shape),
                          .got = ops::to_string(o.residual->shape())};
    });
    widest(*o.residual);
    inputs.push_back(mx::broadcast_to(mx::astype(*o.residual, dtype, stream), shape, stream));
  }
  if (ops::choose_back_end("linear", stream) == ops::BackEnd::kComposed) {
    LinearOptions wide{.bias = {}, .activation = o.activation, .residual = {}};
    if (o.bias) wide.bias = inputs[2];
    if (o.residual) wide.residual = inputs.back();
    if (half) {  // in float32 throughout, as the kernel does, the weight rounded
      for (auto& a : inputs)
        a = mx::astype(mx::astype(a, &a == &inputs[1] ? mx::bfloat16 : a.dtype(), stream), mx::float32, stream);
      if (o.residual) wide.residual = inputs.back();
    }
    return mx::astype(linear_composed(inputs[0], inputs[1], wide, stream), result, stream);
  }
  // A tracer among the inputs means that a gradient may be asked for.
  if (o.activation != Activation::kNone && (o.activation != Activation::kRelu || o.residual)) {
    for (const auto& a : inputs) form.keep_pre = form.keep_pre || a.is_tracer();
  }
  return mx::astype(linear_of(form, inputs, stream), result, stream);
}

}  // namespace aspis

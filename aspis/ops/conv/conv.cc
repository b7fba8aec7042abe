#include "aspis/ops/conv/conv.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/conv/kernel/cpu.h"
#include "aspis/ops/elementwise/elementwise.h"

namespace aspis {
namespace {

using kernel::ConvShape;

bool same(const ConvShape& a, const ConvShape& b) {
  return a.groups == b.groups && a.stride == b.stride && a.padding == b.padding && a.dilation == b.dilation;
}

template <typename T>
T* workspace(mx::cpu::CommandEncoder& encoder, int64_t values, const char* op) {
  if (values == 0) return nullptr;
  return static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), op));
}

// {x, weight, dy} or {x, weight, dy, z} -> the gradients named in `wanted` (0: x, 1: weight, 2: bias), in order.
class ConvVjp : public ops::CpuPrimitive {
 public:
  ConvVjp(mx::Stream stream, const ConvShape& shape, Activation activation, std::vector<int> wanted)
      : CpuPrimitive(stream), shape_(shape), activation_(activation), wanted_(std::move(wanted)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::ConvVjpParams<T> p;
      p.shape = shape_;
      p.x = ops::packed<T>(encoder, in[0], name());
      p.weight = ops::packed<T>(encoder, in[1], name());
      p.dy = ops::packed<T>(encoder, in[2], name());
      for (size_t i = 0; i < wanted_.size(); i++) {
        ops::allocate(encoder, out[i], name());
        T* data = out[i].data<T>();
        (wanted_[i] == 0 ? p.dx : wanted_[i] == 1 ? p.dweight : p.dbias) = data;
      }
      if (activation_ != Activation::kNone) {
        p.activation = activation_;
        p.pre = ops::packed<T>(encoder, in[3], name());
        p.dz = workspace<T>(encoder, static_cast<int64_t>(in[2].size()), name());
      }
      p.workspace = workspace<T>(
          encoder, kernel::conv_vjp_workspace(shape_, p.dx != nullptr, p.dweight != nullptr, p.dbias != nullptr),
          name());
      encoder.dispatch([p] { kernel::conv_vjp(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const ConvVjp&>(other);
    return same(shape_, o.shape_) && activation_ == o.activation_ && wanted_ == o.wanted_;
  }
  const char* name() const override { return "conv_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // One product each for the gradients of x and weight, of the size of the forward one.
    const auto products =
        static_cast<double>(std::count_if(wanted_.begin(), wanted_.end(), [](int i) { return i < 2; }));
    return {.macs =
                products * static_cast<double>(in[2].size()) * static_cast<double>(in[1].size()) / in[1].shape(0)};
  }

 private:
  ConvShape shape_;
  Activation activation_;
  std::vector<int> wanted_;
};

// What follows the convolution; the inputs are {x, weight, bias?, residual?}.
struct Form {
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;
  bool keep_pre = false;  // a second result, before the activation

  bool operator==(const Form&) const = default;
};

Arrays conv_of(const ConvShape& s, const Form& form, const mx::Shape& result, const Arrays& inputs,
               mx::Stream stream);

// -> y, or {y, z} for the gradient
class Conv : public ops::CpuPrimitive {
 public:
  Conv(mx::Stream stream, const ConvShape& shape, const Form& form)
      : CpuPrimitive(stream), shape_(shape), form_(form) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::ConvParams<T> p;
      p.shape = shape_;
      p.x = ops::packed<T>(encoder, in[0], name());
      p.weight = ops::packed<T>(encoder, in[1], name());
      if (form_.bias) p.bias = ops::packed<T>(encoder, in[2], name());
      p.end.activation = form_.activation;
      if (form_.residual) {
        p.end.residual = ops::packed<T>(encoder, in.back(), name());
        p.end.residual_stride = shape_.out_channels;
      }
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.y = out[0].data<T>();
      if (form_.keep_pre) p.end.pre = out[1].data<T>();
      p.workspace = workspace<T>(encoder, kernel::conv_workspace(shape_), name());
      encoder.dispatch([p] { kernel::conv(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const int residual = form_.residual ? static_cast<int>(primals.size()) - 1 : -1;
    std::vector<int> wanted;
    std::vector<mx::Shape> shapes;
    for (const int i : argnums) {
      if (i == residual) continue;
      wanted.push_back(i);
      shapes.push_back(primals[i].shape());
    }
    Arrays gradients;
    if (!wanted.empty()) {
      Arrays inputs{primals[0], primals[1], cotangents[0]};
      if (form_.activation != Activation::kNone) inputs.push_back(pre(primals, outputs));
      gradients =
          mx::array::make_arrays(shapes, std::vector<mx::Dtype>(wanted.size(), primals[0].dtype()),
                                 std::make_shared<ConvVjp>(stream(), shape_, form_.activation, wanted), inputs);
    }
    Arrays result;
    auto next = gradients.begin();
    for (const int i : argnums) result.push_back(i == residual ? cotangents[0] : *next++);
    return result;
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Conv&>(other);
    return same(shape_, o.shape_) && form_ == o.form_;
  }
  const char* name() const override { return "conv"; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    const bool exps = form_.activation != Activation::kNone && form_.activation != Activation::kRelu;
    return {.macs = static_cast<double>(out[0].size()) * static_cast<double>(in[1].size()) / in[1].shape(0),
            .exps = exps ? static_cast<double>(out[0].size()) : 0};
  }

 private:
  // What the activation's gradient is taken at: kept, found in y, or computed again.
  mx::array pre(const Arrays& primals, const Arrays& outputs) {
    if (form_.keep_pre) return outputs[1];
    if (form_.activation == Activation::kRelu && !form_.residual) return outputs[0];
    return conv_of(shape_, {.bias = form_.bias}, outputs[0].shape(),
                   Arrays(primals.begin(), primals.end() - (form_.residual ? 1 : 0)), stream())[0];
  }

  ConvShape shape_;
  Form form_;
};

Arrays conv_of(const ConvShape& s, const Form& form, const mx::Shape& result, const Arrays& inputs,
               mx::Stream stream) {
  const size_t count = form.keep_pre ? 2 : 1;
  return mx::array::make_arrays(std::vector<mx::Shape>(count, result),
                                std::vector<mx::Dtype>(count, inputs[0].dtype()),
                                std::make_shared<Conv>(stream, s, form), inputs);
}

// {x, weight} or {x, weight, bias} -> y, the gradient of the convolution `shape_` for its input.
class ConvTranspose : public ops::CpuPrimitive {
 public:
  ConvTranspose(mx::Stream stream, const ConvShape& shape) : CpuPrimitive(stream), shape_(shape) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::ConvVjpParams<T> p;
      p.shape = shape_;
      p.dy = ops::packed<T>(encoder, in[0], name());
      p.weight = ops::packed<T>(encoder, in[1], name());
      const T* const bias = in.size() > 2 ? ops::packed<T>(encoder, in[2], name()) : nullptr;
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      p.workspace = workspace<T>(encoder, kernel::conv_vjp_workspace(shape_, true, false, false), name());
      encoder.dispatch([p, bias] { kernel::conv_transpose(p, bias); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto &x = primals[0], &weight = primals[1], &dy = cotangents[0];
    const auto gradient = [&](const ConvShape& shape, int which, const Arrays& inputs) {
      return mx::array(primals[which].shape(), x.dtype(),
                       std::make_shared<ConvVjp>(stream(), shape, Activation::kNone, std::vector<int>{which}),
                       inputs);
    };
    // The bias sees y as a convolution of one tap does.
    ConvShape point;
    point.batch = shape_.batch;
    point.in_channels = point.out_channels = shape_.in_channels;
    point.in = point.out = shape_.in;
    Arrays result;
    for (const int i : argnums) {
      if (i == 0) {
        result.push_back(conv_of(shape_, {}, x.shape(), {dy, weight}, stream())[0]);
      } else if (i == 1) {
        result.push_back(gradient(shape_, 1, {dy, weight, x}));
      } else {
        result.push_back(gradient(point, 2, {dy, weight, dy}));
      }
    }
    return result;
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return same(shape_, static_cast<const ConvTranspose&>(other).shape_);
  }
  const char* name() const override { return "conv_transpose"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.macs = static_cast<double>(in[0].size()) * static_cast<double>(in[1].size()) / in[1].shape(0)};
  }

 private:
  ConvShape shape_;
};

// The shape of a call, checked. `axes` is 2 or 3.
template <typename Options>
ConvShape checked_shape(const char* op, const mx::array& x, const mx::array& weight, const Options& o) {
  constexpr int kAxes = static_cast<int>(std::tuple_size_v<decltype(o.stride)>);
  const auto fail = [&](std::string required, std::string got, std::string hint = "") {
    throw Error(ErrorKind::kUsage,
                {.where = op, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
  };
  const char* x_letters = kAxes == 2 ? "{B, H, W, C}" : "{B, D, H, W, C}";
  const char* w_letters = kAxes == 2 ? "{O, kh, kw, C / groups}" : "{O, kd, kh, kw, C / groups}";
  if (x.ndim() != kAxes + 2) fail(fmt::format("x must have shape {}", x_letters), ops::to_string(x.shape()));
  if (weight.ndim() != kAxes + 2)
    fail(fmt::format("weight must have shape {}", w_letters), ops::to_string(weight.shape()));
  ConvShape s;
  s.batch = x.shape(0);
  s.in_channels = x.shape(-1);
  s.out_channels = weight.shape(0);
  s.groups = o.groups;
  if (o.groups < 1) fail("groups must be at least 1", std::to_string(o.groups));
  if (s.in_channels == 0 || s.in_channels % s.groups != 0 || s.out_channels == 0 ||
      s.out_channels % s.groups != 0) {
    fail(fmt::format("groups must divide the channels, {} in and {} out", s.in_channels, s.out_channels),
         std::to_string(o.groups));
  }
  if (weight.shape(-1) != s.group_in()) {
    fail(fmt::format("weight must have {} values in its last axis, the channels of x over groups", s.group_in()),
         ops::to_string(weight.shape()), "weights are channels last: {O, k.., C / groups}");
  }
  static constexpr const char* kNames[3] = {"depth", "height", "width"};
  for (int i = 0; i < kAxes; i++) {
    const int a = 3 - kAxes + i;
    s.in[a] = x.shape(i + 1);
    s.kernel[a] = weight.shape(i + 1);
    s.stride[a] = o.stride[i];
    s.padding[a] = o.padding[i];
    s.dilation[a] = o.dilation[i];
    if (s.kernel[a] < 1) fail(fmt::format("the kernel needs a {} of at least 1", kNames[a]), "0");
    if (o.stride[i] < 1)
      fail(fmt::format("stride over {} must be at least 1", kNames[a]), std::to_string(o.stride[i]));
    if (o.dilation[i] < 1)
      fail(fmt::format("dilation over {} must be at least 1", kNames[a]), std::to_string(o.dilation[i]));
    if (o.padding[i] < 0)
      fail(fmt::format("padding over {} must not be negative", kNames[a]), std::to_string(o.padding[i]));
    const int64_t reach = s.dilation[a] * (s.kernel[a] - 1) + 1, padded = s.in[a] + 2 * s.padding[a];
    if (padded < reach) {
      fail(fmt::format("the padded {} must be at least the kernel's reach, {}", kNames[a], reach),
           std::to_string(padded), "pad more, or use a smaller kernel or dilation");
    }
    s.out[a] = (padded - reach) / s.stride[a] + 1;
  }
  if (o.bias) ops::require_shape(op, "bias", *o.bias, {static_cast<int>(s.out_channels)}, "{O}");
  return s;
}

template <typename Options, typename Composed>
mx::array convolve(const char* op, const mx::array& x, const mx::array& weight, const Options& options,
                   const Composed& composed, mx::StreamOrDevice device) {
  const auto stream = mx::to_stream(device);
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const mx::array *bias = pointer(options.bias), *residual = pointer(options.residual);
  const mx::Dtype storage =
      ops::storage_dtype(op, x, {{"x", &x}, {"weight", &weight}, {"bias", bias}, {"residual", residual}});
  const mx::Dtype dtype = ops::arithmetic_dtype(storage);
  const ConvShape s = checked_shape(op, x, weight, options);
  mx::Shape shape{static_cast<int>(s.batch)};
  for (int a = 5 - static_cast<int>(x.ndim()); a < 3; a++) shape.push_back(static_cast<int>(s.out[a]));
  shape.push_back(static_cast<int>(s.out_channels));
  const bool half = storage == mx::bfloat16;
  mx::Dtype result = half ? storage : mx::promote_types(x.dtype(), weight.dtype());
  Form form{.activation = options.activation, .bias = bias != nullptr, .residual = residual != nullptr};
  Arrays inputs{cast(x, dtype, stream), cast(weight, dtype, stream)};
  for (const mx::array* a : {bias, residual}) {
    if (!a) continue;
    if (a == residual) ops::require_shape(op, "residual", *a, shape, "that of the result");
    if (!half) result = mx::promote_types(result, a->dtype());
    inputs.push_back(cast(*a, dtype, stream));
  }
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    Options wide = options;
    if (bias) wide.bias = inputs[2];
    if (residual) wide.residual = inputs.back();
    return cast(composed(inputs[0], inputs[1], wide, stream), result, stream);
  }
  // A tracer among the inputs means that a gradient may be asked for.
  if (form.activation != Activation::kNone && (form.activation != Activation::kRelu || form.residual)) {
    for (const auto& a : inputs) form.keep_pre = form.keep_pre || a.is_tracer();
  }
  return cast(conv_of(s, form, shape, inputs, stream)[0], result, stream);
}

// The convolution whose gradient a transposed one is, checked: its input is the result.
template <size_t N>
ConvShape checked_transpose(const char* op, const mx::array& x, const mx::array& weight,
                            const TransposedConvOptions<N>& o) {
  const auto fail = [&](std::string required, std::string got, std::string hint = "") {
    throw Error(ErrorKind::kUsage,
                {.where = op, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
  };
  const int axes = static_cast<int>(N);
  if (static_cast<int>(x.ndim()) != axes + 2)
    fail(fmt::format("x must have {} axes, channels last", axes + 2), ops::to_string(x.shape()));
  if (static_cast<int>(weight.ndim()) != axes + 2)
    fail("weight must have shape {C, k.., O / groups}", ops::to_string(weight.shape()));
  if (weight.shape(0) != x.shape(-1)) {
    fail(fmt::format("weight must begin with the {} channels of x", x.shape(-1)), ops::to_string(weight.shape()),
         "weights are channels last: {C, k.., O / groups}");
  }
  if (o.groups < 1 || x.shape(-1) == 0 || weight.shape(-1) == 0 || x.shape(-1) % o.groups != 0) {
    fail(fmt::format("groups must divide the {} channels of x", x.shape(-1)), std::to_string(o.groups));
  }
  ConvShape s;
  s.batch = x.shape(0);
  s.in_channels = int64_t{weight.shape(-1)} * o.groups;
  s.out_channels = x.shape(-1);
  s.groups = o.groups;
  for (int i = 0; i < axes; i++) {
    const int a = 3 - axes + i;
    s.out[a] = x.shape(i + 1);
    s.kernel[a] = weight.shape(i + 1);
    s.stride[a] = o.stride[i];
    s.padding[a] = o.padding[i];
    s.dilation[a] = o.dilation[i];
    const int extra = o.output_padding[i];
    if (s.kernel[a] < 1) fail("the kernel needs a size of at least 1", "0");
    if (o.stride[i] < 1) fail("stride must be at least 1", std::to_string(o.stride[i]));
    if (o.dilation[i] < 1) fail("dilation must be at least 1", std::to_string(o.dilation[i]));
    if (o.padding[i] < 0) fail("padding must not be negative", std::to_string(o.padding[i]));
    if (extra < 0 || (extra > 0 && extra >= std::max(o.stride[i], o.dilation[i]))) {
      fail("output_padding must be less than stride or dilation", std::to_string(extra));
    }
    s.in[a] = (s.out[a] - 1) * s.stride[a] - 2 * s.padding[a] + s.dilation[a] * (s.kernel[a] - 1) + extra + 1;
    if (s.in[a] < 1)
      fail("the result must have at least one place on each axis", std::to_string(s.in[a]), "less padding");
  }
  if (o.bias) ops::require_shape(op, "bias", *o.bias, {static_cast<int>(s.in_channels)}, "{O}");
  return s;
}

template <size_t N, typename Composed>
mx::array transpose(const char* op, const mx::array& x, const mx::array& weight, const TransposedConvOptions<N>& o,
                    const Composed& composed, mx::StreamOrDevice device) {
  const auto stream = mx::to_stream(device);
  const mx::array* bias = o.bias ? &*o.bias : nullptr;
  const mx::Dtype storage = ops::storage_dtype(op, x, {{"x", &x}, {"weight", &weight}, {"bias", bias}});
  const mx::Dtype dtype = ops::arithmetic_dtype(storage);
  const ConvShape s = checked_transpose(op, x, weight, o);
  const bool half = storage == mx::bfloat16;
  mx::Dtype result = half ? storage : mx::promote_types(x.dtype(), weight.dtype());
  if (bias && !half) result = mx::promote_types(result, bias->dtype());
  Arrays inputs{cast(x, dtype, stream), cast(weight, dtype, stream)};
  if (bias) inputs.push_back(cast(*bias, dtype, stream));
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    auto wide = o;
    if (bias) wide.bias = inputs[2];
    return cast(composed(inputs[0], inputs[1], wide, stream), result, stream);
  }
  mx::Shape shape = x.shape();
  for (size_t i = 0; i < N; i++) shape[i + 1] = static_cast<int>(s.in[3 - N + i]);
  shape.back() = static_cast<int>(s.in_channels);
  return cast(mx::array(shape, dtype, std::make_shared<ConvTranspose>(stream, s), inputs), result, stream);
}

}  // namespace

mx::array conv2d(const mx::array& x, const mx::array& weight, const Conv2dOptions& options, mx::StreamOrDevice s) {
  return convolve("conv2d", x, weight, options, conv2d_composed, s);
}

mx::array conv3d(const mx::array& x, const mx::array& weight, const Conv3dOptions& options, mx::StreamOrDevice s) {
  return convolve("conv3d", x, weight, options, conv3d_composed, s);
}

mx::array transposed_conv1d(const mx::array& x, const mx::array& weight, const TransposedConvOptions<1>& o,
                            mx::StreamOrDevice s) {
  checked_transpose("transposed_conv1d", x, weight, o);
  TransposedConvOptions<2> flat;
  flat.stride[1] = o.stride[0];
  flat.padding[1] = o.padding[0];
  flat.dilation[1] = o.dilation[0];
  flat.output_padding[1] = o.output_padding[0];
  flat.groups = o.groups;
  flat.bias = o.bias;
  return mx::squeeze(transpose("transposed_conv1d", mx::expand_dims(x, 1, s), mx::expand_dims(weight, 1, s), flat,
                               transposed_conv2d_composed, s),
                     1, s);
}

mx::array transposed_conv2d(const mx::array& x, const mx::array& weight, const TransposedConvOptions<2>& options,
                            mx::StreamOrDevice s) {
  return transpose("transposed_conv2d", x, weight, options, transposed_conv2d_composed, s);
}

mx::array transposed_conv3d(const mx::array& x, const mx::array& weight, const TransposedConvOptions<3>& options,
                            mx::StreamOrDevice s) {
  return transpose("transposed_conv3d", x, weight, options, transposed_conv3d_composed, s);
}

}  // namespace aspis

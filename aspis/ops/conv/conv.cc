#include "aspis/ops/conv/conv.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/conv/kernel/cpu.h"

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

// {x, weight, dy} -> the gradients named in `wanted` (0: x, 1: weight, 2: bias), in order.
class ConvVjp : public ops::CpuPrimitive {
 public:
  ConvVjp(mx::Stream stream, const ConvShape& shape, std::vector<int> wanted)
      : CpuPrimitive(stream), shape_(shape), wanted_(std::move(wanted)) {}

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
      p.workspace = workspace<T>(
          encoder, kernel::conv_vjp_workspace(shape_, p.dx != nullptr, p.dweight != nullptr, p.dbias != nullptr),
          name());
      encoder.dispatch([p] { kernel::conv_vjp(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const ConvVjp&>(other);
    return same(shape_, o.shape_) && wanted_ == o.wanted_;
  }
  const char* name() const override { return "conv_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // One product each for the gradients of x and weight, of the size of the forward one.
    const auto products = static_cast<double>(std::count_if(wanted_.begin(), wanted_.end(), [](int i) { return i < 2; }));
    return {.macs = products * static_cast<double>(in[2].size()) * static_cast<double>(in[1].size()) / in[1].shape(0)};
  }

 private:
  ConvShape shape_;
  std::vector<int> wanted_;
};

// {x, weight} or {x, weight, bias} -> y
class Conv : public ops::CpuPrimitive {
 public:
  Conv(mx::Stream stream, const ConvShape& shape) : CpuPrimitive(stream), shape_(shape) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::ConvParams<T> p;
      p.shape = shape_;
      p.x = ops::packed<T>(encoder, in[0], name());
      p.weight = ops::packed<T>(encoder, in[1], name());
      if (in.size() > 2) p.bias = ops::packed<T>(encoder, in[2], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      p.workspace = workspace<T>(encoder, kernel::conv_workspace(shape_), name());
      encoder.dispatch([p] { kernel::conv(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    std::vector<mx::Shape> shapes;
    for (const int i : argnums) shapes.push_back(primals[i].shape());
    const std::vector<mx::Dtype> dtypes(argnums.size(), primals[0].dtype());
    return mx::array::make_arrays(shapes, dtypes, std::make_shared<ConvVjp>(stream(), shape_, argnums),
                                  {primals[0], primals[1], cotangents[0]});
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return same(shape_, static_cast<const Conv&>(other).shape_);
  }
  const char* name() const override { return "conv"; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    return {.macs = static_cast<double>(out[0].size()) * static_cast<double>(in[1].size()) / in[1].shape(0)};
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
  const mx::array* bias = options.bias ? &*options.bias : nullptr;
  const mx::Dtype dtype = ops::compute_dtype(op, {{"x", &x}, {"weight", &weight}, {"bias", bias}});
  const ConvShape s = checked_shape(op, x, weight, options);
  mx::Dtype result = mx::promote_types(x.dtype(), weight.dtype());
  if (bias) result = mx::promote_types(result, bias->dtype());
  Arrays inputs{mx::astype(x, dtype, stream), mx::astype(weight, dtype, stream)};
  if (bias) inputs.push_back(mx::astype(*bias, dtype, stream));
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    Options wide = options;
    if (bias) wide.bias = inputs[2];
    return mx::astype(composed(inputs[0], inputs[1], wide, stream), result, stream);
  }
  mx::Shape shape{static_cast<int>(s.batch)};
  for (int a = 5 - static_cast<int>(x.ndim()); a < 3; a++) shape.push_back(static_cast<int>(s.out[a]));
  shape.push_back(static_cast<int>(s.out_channels));
  return mx::astype(mx::array(shape, dtype, std::make_shared<Conv>(stream, s), inputs), result, stream);
}

}  // namespace

mx::array conv2d(const mx::array& x, const mx::array& weight, const Conv2dOptions& options, mx::StreamOrDevice s) {
  return convolve("conv2d", x, weight, options, conv2d_composed, s);
}

mx::array conv3d(const mx::array& x, const mx::array& weight, const Conv3dOptions& options, mx::StreamOrDevice s) {
  return convolve("conv3d", x, weight, options, conv3d_composed, s);
}

}  // namespace aspis

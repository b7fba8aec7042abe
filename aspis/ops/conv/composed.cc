#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <tuple>

#include "aspis/ops/conv/conv.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {
namespace {

// Shifted slices, one for each tap, times the tap's weight: MLX's own CPU
// convolution has no float64, and this form has gradients of every order.
template <typename Options>
mx::array composed(const mx::array& x, const mx::array& weight, const Options& o, mx::StreamOrDevice s) {
  constexpr int kAxes = static_cast<int>(std::tuple_size_v<decltype(o.stride)>);
  std::vector<std::pair<int, int>> pads(x.ndim(), {0, 0});
  mx::Shape strides(x.ndim(), 1), out = x.shape();
  int taps = 1;
  for (int i = 0; i < kAxes; i++) {
    pads[i + 1] = {o.padding[i], o.padding[i]};
    strides[i + 1] = o.stride[i];
    const int kernel = weight.shape(i + 1);
    out[i + 1] = (x.shape(i + 1) + 2 * o.padding[i] - o.dilation[i] * (kernel - 1) - 1) / o.stride[i] + 1;
    taps *= kernel;
  }
  const auto padded = mx::pad(x, pads, mx::array(0, x.dtype()), "constant", s);
  const int outs = weight.shape(0), group_in = weight.shape(-1), group_out = outs / o.groups;
  out.back() = outs;
  mx::array sum = mx::zeros(out, x.dtype(), s);
  for (int t = 0; t < taps; t++) {
    mx::Shape start(x.ndim(), 0), end = padded.shape(), w_start(x.ndim(), 0), w_end = weight.shape();
    for (int i = kAxes - 1, rest = t; i >= 0; i--) {
      const int k = rest % weight.shape(i + 1);
      rest /= weight.shape(i + 1);
      start[i + 1] = k * o.dilation[i];
      end[i + 1] = start[i + 1] + (out[i + 1] - 1) * o.stride[i] + 1;
      w_start[i + 1] = k;
      w_end[i + 1] = k + 1;
    }
    const auto part = mx::slice(padded, start, end, strides, s);
    const auto tap = mx::reshape(mx::slice(weight, w_start, w_end, s), {o.groups, group_out, group_in}, s);
    mx::Shape grouped = part.shape();
    grouped.back() = o.groups;
    grouped.push_back(1);
    grouped.push_back(group_in);
    const auto product = mx::matmul(mx::reshape(part, grouped, s), mx::swapaxes(tap, -1, -2, s), s);
    sum = mx::add(sum, mx::reshape(product, out, s), s);
  }
  if (o.bias) sum = mx::add(sum, *o.bias, s);
  sum = activation_composed(sum, o.activation, s);
  return o.residual ? mx::add(sum, *o.residual, s) : sum;
}

// The gradient of the convolution above for its input, at a place that does not matter.
template <typename Conv, size_t N>
mx::array transposed(const mx::array& x, const mx::array& weight, const TransposedConvOptions<N>& o,
                     mx::StreamOrDevice s) {
  Conv conv;
  conv.stride = o.stride;
  conv.padding = o.padding;
  conv.dilation = o.dilation;
  conv.groups = o.groups;
  mx::Shape shape = x.shape();
  for (size_t i = 0; i < N; i++) {
    const int a = static_cast<int>(i) + 1;
    shape[i + 1] = (x.shape(a) - 1) * o.stride[i] - 2 * o.padding[i] + o.dilation[i] * (weight.shape(a) - 1) +
                   o.output_padding[i] + 1;
  }
  shape.back() = weight.shape(-1) * o.groups;
  const auto y = mx::vjp([&](const mx::array& in) { return composed(in, weight, conv, s); },
                         mx::zeros(shape, x.dtype(), s), x)
                     .second;
  return o.bias ? mx::add(y, *o.bias, s) : y;
}

}  // namespace

mx::array transposed_conv2d_composed(const mx::array& x, const mx::array& weight,
                                     const TransposedConvOptions<2>& options, mx::StreamOrDevice s) {
  return transposed<Conv2dOptions>(x, weight, options, s);
}

mx::array transposed_conv3d_composed(const mx::array& x, const mx::array& weight,
                                     const TransposedConvOptions<3>& options, mx::StreamOrDevice s) {
  return transposed<Conv3dOptions>(x, weight, options, s);
}

mx::array conv2d_composed(const mx::array& x, const mx::array& weight, const Conv2dOptions& options,
                          mx::StreamOrDevice s) {
  return composed(x, weight, options, s);
}

mx::array conv3d_composed(const mx::array& x, const mx::array& weight, const Conv3dOptions& options,
                          mx::StreamOrDevice s) {
  return composed(x, weight, options, s);
}

}  // namespace aspis

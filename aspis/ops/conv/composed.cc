#include <mlx/ops.h>

#include <tuple>

#include "aspis/ops/conv/conv.h"

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
  return o.bias ? mx::add(sum, *o.bias, s) : sum;
}

}  // namespace

mx::array conv2d_composed(const mx::array& x, const mx::array& weight, const Conv2dOptions& options,
                          mx::StreamOrDevice s) {
  return composed(x, weight, options, s);
}

mx::array conv3d_composed(const mx::array& x, const mx::array& weight, const Conv3dOptions& options,
                          mx::StreamOrDevice s) {
  return composed(x, weight, options, s);
}

}  // namespace aspis

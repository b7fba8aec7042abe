#pragma once

#include <algorithm>

#include "aspis/ops/conv/kernel/params.h"
#include "aspis/ops/linear/kernel/reference.h"

namespace aspis::kernel {

/// Calls visit(x index, weight index, y index) for every product of the
/// definition, without the channel offsets of a group taken apart.
template <typename Visit>
void for_each_product(const ConvShape& s, Visit visit) {
  const int64_t ci = s.group_in(), co = s.group_out();
  for (int64_t n = 0; n < s.batch; n++)
    for (int64_t od = 0; od < s.out[0]; od++)
      for (int64_t oh = 0; oh < s.out[1]; oh++)
        for (int64_t ow = 0; ow < s.out[2]; ow++)
          for (int64_t kd = 0; kd < s.kernel[0]; kd++)
            for (int64_t kh = 0; kh < s.kernel[1]; kh++)
              for (int64_t kw = 0; kw < s.kernel[2]; kw++) {
                const int64_t d = od * s.stride[0] - s.padding[0] + kd * s.dilation[0];
                const int64_t h = oh * s.stride[1] - s.padding[1] + kh * s.dilation[1];
                const int64_t w = ow * s.stride[2] - s.padding[2] + kw * s.dilation[2];
                if (d < 0 || d >= s.in[0] || h < 0 || h >= s.in[1] || w < 0 || w >= s.in[2]) continue;
                const int64_t x = (((n * s.in[0] + d) * s.in[1] + h) * s.in[2] + w) * s.in_channels;
                const int64_t y = (((n * s.out[0] + od) * s.out[1] + oh) * s.out[2] + ow) * s.out_channels;
                const int64_t tap = (kd * s.kernel[1] + kh) * s.kernel[2] + kw;
                for (int64_t g = 0; g < s.groups; g++)
                  for (int64_t o = 0; o < co; o++)
                    for (int64_t c = 0; c < ci; c++)
                      visit(x + g * ci + c, ((g * co + o) * s.taps() + tap) * ci + c, y + g * co + o);
              }
}

/// The definition, plainly.
template <typename T>
void conv_reference(const ConvParams<T>& p) {
  const ConvShape& s = p.shape;
  for (int64_t i = 0; i < s.pixels() * s.out_channels; i++) p.y[i] = p.bias ? p.bias[i % s.out_channels] : T(0);
  for_each_product(s, [&](int64_t x, int64_t w, int64_t y) { p.y[y] += p.x[x] * p.weight[w]; });
  for (int64_t i = 0; i < s.pixels() * s.out_channels; i++) {
    if (p.end.pre) p.end.pre[i] = p.y[i];
    p.y[i] = activation_reference(p.end.activation, p.y[i]) + (p.end.residual ? p.end.residual[i] : T(0));
  }
}

template <typename T>
void conv_vjp_reference(const ConvVjpParams<T>& params) {
  ConvVjpParams<T> p = params;
  const ConvShape& s = p.shape;
  if (p.activation != Activation::kNone) {
    for (int64_t i = 0; i < s.pixels() * s.out_channels; i++) {
      p.dz[i] = params.dy[i] * activation_gradient_reference(p.activation, p.pre[i]);
    }
    p.dy = p.dz;
  }
  if (p.dx) std::fill_n(p.dx, s.batch * volume(s.in) * s.in_channels, T(0));
  if (p.dweight) std::fill_n(p.dweight, s.out_channels * s.depth(), T(0));
  if (p.dbias) std::fill_n(p.dbias, s.out_channels, T(0));
  for_each_product(s, [&](int64_t x, int64_t w, int64_t y) {
    if (p.dx) p.dx[x] += p.dy[y] * p.weight[w];
    if (p.dweight) p.dweight[w] += p.dy[y] * p.x[x];
  });
  for (int64_t i = 0; p.dbias && i < s.pixels() * s.out_channels; i++) p.dbias[i % s.out_channels] += p.dy[i];
}

}  // namespace aspis::kernel

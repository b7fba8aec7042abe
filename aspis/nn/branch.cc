#include "aspis/nn/branch.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/concat/concat.h"

namespace aspis {

using ArrayList = std::vector<mx::array>;

std::vector<mx::array> fan_out(const mx::array& x, int count) {
  if (count == 1) return {x};
  const auto copies = [count](const ArrayList& in) { return ArrayList(static_cast<size_t>(count), in[0]); };
  const auto gradient = [](const ArrayList&, const ArrayList& cotangents, const ArrayList&) {
    return ArrayList{add_n(cotangents)};
  };
  return mx::custom_vjp(copies, gradient)({x});
}

std::vector<mx::array> split_sizes(const mx::array& x, const std::vector<int64_t>& sizes, int axis) {
  const int ax = axis < 0 ? axis + static_cast<int>(x.ndim()) : axis;
  const auto cut = [sizes, ax](const ArrayList& in) {
    ArrayList parts;
    mx::Shape start(in[0].ndim(), 0), stop = in[0].shape();
    for (const int64_t size : sizes) {
      stop[ax] = start[ax] + static_cast<mx::ShapeElem>(size);
      parts.push_back(mx::slice(in[0], start, stop));
      start[ax] = stop[ax];
    }
    return parts;
  };
  const auto gradient = [ax](const ArrayList&, const ArrayList& cotangents, const ArrayList&) {
    return ArrayList{concat(cotangents, ax)};
  };
  return mx::custom_vjp(cut, gradient)({x});
}

}  // namespace aspis

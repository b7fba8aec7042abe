#include "aspis/nn/position_table.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "aspis/base/error.h"

namespace aspis {
namespace {

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/// {to, from}: row i holds the weights of the old positions that new position i is made of.
std::vector<double> weights(int64_t from, int64_t to) {
  std::vector<double> w(static_cast<size_t>(from * to));
  const double scale = static_cast<double>(from) / static_cast<double>(to), stretch = std::max(scale, 1.0);
  const double support = 2 * stretch;
  for (int64_t i = 0; i < to; i++) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const auto last = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), from);
    double sum = 0;
    for (int64_t j = first; j < last; j++) {
      w[i * from + j] = cubic((static_cast<double>(j) - center + 0.5) / stretch);
      sum += w[i * from + j];
    }
    for (int64_t j = first; j < last; j++) w[i * from + j] /= sum;
  }
  return w;
}

}  // namespace

mx::array resize_positions(const mx::array& table, const std::vector<int64_t>& from,
                           const std::vector<int64_t>& to) {
  const auto product = [](const std::vector<int64_t>& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  };
  require(table.ndim() == 3 && table.shape(0) == 1 && from.size() == to.size() && !from.empty() &&
              table.shape(1) == product(from) && *std::min_element(to.begin(), to.end()) >= 1,
          [&] {
            return Error::Parts{
                .where = "resize_positions",
                .required = fmt::format("a table {{1, N, E}} over {{{}}}, and as many sizes of at least 1",
                                        fmt::join(from, ", ")),
                .got = fmt::format("{{{}}} and {{{}}}", fmt::join(table.shape(), ", "), fmt::join(to, ", ")),
                .hint = ""};
          });
  const auto elem = [](int64_t n) { return static_cast<mx::ShapeElem>(n); };
  mx::array out = table;
  const int64_t width = table.shape(2);
  for (size_t axis = 0; axis < from.size(); axis++) {
    if (from[axis] == to[axis]) continue;
    // {outer, n, inner}: axes before this one have their new size already.
    int64_t outer = 1, inner = width;
    for (size_t a = 0; a < axis; a++) outer *= to[a];
    for (size_t a = axis + 1; a < from.size(); a++) inner *= from[a];
    const auto w = weights(from[axis], to[axis]);
    const mx::array matrix =
        mx::astype(mx::array(w.begin(), {elem(to[axis]), elem(from[axis])}, mx::float64), table.dtype());
    out = mx::matmul(matrix, mx::reshape(out, {elem(outer), elem(from[axis]), elem(inner)}));
  }
  return mx::reshape(out, {1, elem(product(to)), elem(width)});
}

mx::array resize_square_positions(const mx::array& table, int64_t height, int64_t width, int token) {
  const int64_t patches = table.shape(1) - (token == -1 ? 0 : 1);
  const auto side =
      static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(std::max<int64_t>(patches, 0)))));
  require(table.ndim() == 3 && side >= 1 && side * side == patches, [&] {
    return Error::Parts{.where = "resize_square_positions",
                        .required = "a table over a square grid",
                        .got = fmt::format("{{{}}}", fmt::join(table.shape(), ", ")),
                        .hint = ""};
  });
  if (side == height && side == width) return table;
  if (token == -1) return resize_positions(table, {side, side}, {height, width});
  const auto n = table.shape(1), E = table.shape(2);
  const auto at = [&](int64_t count) { return static_cast<mx::ShapeElem>(token == -2 ? count / 2 : token); };
  const auto rows = [&](const mx::array& a, mx::ShapeElem from, mx::ShapeElem to) {
    return mx::slice(a, {0, from, 0}, {1, to, E});
  };
  const auto here = at(patches), there = at(height * width);
  const auto grid = resize_positions(mx::concatenate({rows(table, 0, here), rows(table, here + 1, n)}, 1),
                                     {side, side}, {height, width});
  return mx::concatenate({rows(grid, 0, there), rows(table, here, here + 1),
                          rows(grid, there, static_cast<mx::ShapeElem>(height * width))},
                         1);
}

}  // namespace aspis

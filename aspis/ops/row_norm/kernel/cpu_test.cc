#include "aspis/ops/row_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/row_norm/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

// Values that bfloat16 holds exactly, so every precision sees the same input.
template <typename S>
std::vector<S> random(int64_t n, const char* name) {
  std::vector<S> v(n);
  Rng rng(3, name);
  for (S& x : v) store_value(x, static_cast<Arithmetic<S>>(to_float(to_bf16(static_cast<float>(rng.normal())))));
  return v;
}

// Largest difference over the largest wanted value (at least 1).
template <typename V>
double worst_error(const std::vector<V>& got, const std::vector<double>& want) {
  double worst = 0, size = 1;
  for (size_t i = 0; i < want.size(); i++) {
    const double g = static_cast<double>(load_value(got[i]));
    worst = std::max(worst, std::isfinite(g) ? std::abs(g - want[i]) : 1e30);
    size = std::max(size, std::abs(want[i]));
  }
  return worst / size;
}

struct Shape {
  int64_t rows, length;
};
const Shape kShapes[] = {{1, 1}, {3, 3}, {5, 15}, {4, 16}, {7, 33}, {2, 1000}, {300, 70}};

enum Options { kResidual = 1, kWeight = 2, kBias = 4, kCenter = 8 };

// Inputs and outputs of one call.
template <typename S>
struct Run {
  using T = Arithmetic<S>;
  int64_t rows, length, step;
  int options;
  std::vector<S> x, residual, dy, y, sum, dx;
  std::vector<T> weight, bias, dweight, dbias, mean, scale, scratch[2];

  Run(const Shape& shape, int options_)
      : rows(shape.rows),
        length(shape.length),
        step(length + 5),
        options(options_),
        x(random<S>(rows * step, "x")),
        residual(random<S>(rows * step, "r")),
        dy(random<S>(rows * step, "dy")),
        y(rows * length),
        sum(rows * length),
        dx(rows * length),
        weight(random<T>(length, "w")),
        bias(random<T>(length, "b")),
        dweight(length),
        dbias(length),
        mean(rows),
        scale(rows) {
    for (auto& s : scratch) s.resize(kernel::row_norm_vjp_scratch(rows, length));
  }

  kernel::RowNormParams<S> forward() {
    kernel::RowNormParams<S> p;
    p.center = options & kCenter, p.rows = rows, p.length = length, p.eps = 1e-5;
    p.x = x.data(), p.x_stride = p.residual_stride = step, p.y = y.data();
    p.mean = mean.data(), p.scale = scale.data();
    if (options & kResidual) p.residual = residual.data(), p.sum = sum.data();
    if (options & kWeight) p.weight = weight.data();
    if (options & kBias) p.bias = bias.data();
    return p;
  }

  // Of the norm's x alone: the residual stands for the cotangent of the sum.
  kernel::RowNormVjpParams<S> backward() {
    auto plain = forward();
    plain.residual = nullptr, plain.sum = nullptr;
    std::vector<S> unused(y.size());
    plain.y = unused.data();
    kernel::row_norm(plain);
    kernel::RowNormVjpParams<S> p;
    p.center = options & kCenter, p.rows = rows, p.length = length;
    p.h = x.data(), p.dy = dy.data(), p.mean = mean.data(), p.scale = scale.data();
    p.h_stride = p.dy_stride = p.dsum_stride = step;
    if (options & kResidual) p.dsum = residual.data();
    if (options & kWeight) p.weight = weight.data(), p.dweight = dweight.data();
    if (options & kBias) p.dbias = dbias.data();
    p.dx = dx.data();
    p.dweight_scratch = scratch[0].data(), p.dbias_scratch = scratch[1].data();
    return p;
  }
};

template <typename S>
void check_rows(double forward_limit, double gradient_limit) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& shape : kShapes) {
      for (int options = 0; options < 16; options++) {
        CAPTURE(isa);
        CAPTURE(shape.length);
        CAPTURE(options);
        Run<S> got(shape, options);
        Run<double> want(shape, options);
        kernel::row_norm(got.forward());
        kernel::row_norm_reference(want.forward());
        CHECK(worst_error(got.y, want.y) < forward_limit);
        CHECK(worst_error(got.sum, want.sum) < forward_limit);
        CHECK(worst_error(got.mean, want.mean) < forward_limit);
        CHECK(worst_error(got.scale, want.scale) < forward_limit);
        kernel::row_norm_vjp(got.backward());
        kernel::row_norm_vjp_reference(want.backward());
        CHECK(worst_error(got.dx, want.dx) < gradient_limit);
        CHECK(worst_error(got.dweight, want.dweight) < gradient_limit);
        CHECK(worst_error(got.dbias, want.dbias) < gradient_limit);
      }
    }
  }
  force_isa("");
}

struct Block {
  int64_t samples, length, positions;
};

// A column norm, and the same rows taken out of it for the reference.
template <typename S>
struct Columns {
  using T = Arithmetic<S>;
  Block b;
  std::vector<S> x, dy, y, dx;
  std::vector<T> weight, bias, dweight, dbias, mean, scale, scratch[2];

  explicit Columns(const Block& block)
      : b(block),
        x(random<S>(b.samples * b.length * b.positions, "x")),
        dy(random<S>(b.samples * b.length * b.positions, "dy")),
        y(x.size()),
        dx(x.size()),
        weight(random<T>(b.length, "w")),
        bias(random<T>(b.length, "b")),
        dweight(b.length),
        dbias(b.length),
        mean(b.samples * b.positions),
        scale(mean.size()) {
    for (auto& s : scratch) s.resize(kernel::column_norm_vjp_scratch(b.samples, b.length, b.positions));
  }
  void run(bool center, bool affine) {
    kernel::ColumnNormParams<S> p;
    p.center = center, p.eps = 1e-5;
    p.samples = b.samples, p.length = b.length, p.positions = b.positions;
    p.x = x.data(), p.y = y.data(), p.mean = mean.data(), p.scale = scale.data();
    if (affine) p.weight = weight.data(), p.bias = bias.data();
    kernel::column_norm(p);
    kernel::ColumnNormVjpParams<S> q;
    q.center = center, q.mean = mean.data(), q.scale = scale.data();
    q.samples = b.samples, q.length = b.length, q.positions = b.positions;
    q.x = x.data(), q.dy = dy.data(), q.dx = dx.data();
    if (affine) q.weight = weight.data(), q.dweight = dweight.data(), q.dbias = dbias.data();
    q.dweight_scratch = scratch[0].data(), q.dbias_scratch = scratch[1].data();
    kernel::column_norm_vjp(q);
  }
  // {samples, length, positions} to {samples, positions, length} or back.
  template <typename V>
  std::vector<V> turned(const std::vector<V>& v, bool back) const {
    std::vector<V> out(v.size());
    for (int64_t s = 0; s < b.samples; s++) {
      for (int64_t c = 0; c < b.length; c++) {
        for (int64_t i = 0; i < b.positions; i++) {
          const int64_t first = (s * b.length + c) * b.positions + i, last = (s * b.positions + i) * b.length + c;
          out[back ? first : last] = v[back ? last : first];
        }
      }
    }
    return out;
  }
  // With S = double: the definition, of rows.
  void run_reference(bool center, bool affine) {
    const auto rows_x = turned(x, false), rows_dy = turned(dy, false);
    auto rows_y = y, rows_dx = dx;
    kernel::RowNormParams<double> p;
    p.center = center, p.eps = 1e-5, p.rows = b.samples * b.positions, p.length = p.x_stride = b.length;
    p.x = rows_x.data(), p.y = rows_y.data(), p.mean = mean.data(), p.scale = scale.data();
    if (affine) p.weight = weight.data(), p.bias = bias.data();
    kernel::row_norm_reference(p);
    kernel::RowNormVjpParams<double> q;
    q.center = center, q.mean = mean.data(), q.scale = scale.data(), q.rows = p.rows,
    q.length = q.h_stride = q.dy_stride = b.length;
    q.h = rows_x.data(), q.dy = rows_dy.data(), q.dx = rows_dx.data();
    if (affine) q.weight = weight.data(), q.dweight = dweight.data(), q.dbias = dbias.data();
    kernel::row_norm_vjp_reference(q);
    y = turned(rows_y, true), dx = turned(rows_dx, true);
  }
};

template <typename S>
void check_columns(double forward_limit, double gradient_limit) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Block& block :
         {Block{1, 1, 1}, Block{2, 3, 5}, Block{3, 17, 64}, Block{1, 96, 300}, Block{2, 700, 67}}) {
      for (int options = 0; options < 4; options++) {
        CAPTURE(isa);
        CAPTURE(block.length);
        CAPTURE(options);
        Columns<S> got(block);
        Columns<double> want(block);
        got.run(options & 1, options & 2);
        want.run_reference(options & 1, options & 2);
        CHECK(worst_error(got.y, want.y) < forward_limit);
        CHECK(worst_error(got.dx, want.dx) < gradient_limit);
        CHECK(worst_error(got.dweight, want.dweight) < gradient_limit);
        CHECK(worst_error(got.dbias, want.dbias) < gradient_limit);
      }
    }
  }
  force_isa("");
}

}  // namespace

TEST_CASE("row_norm matches its definition and gradient for all options, rows with gaps") {
  check_rows<float>(2e-6, 1e-5);
  check_rows<double>(1e-12, 1e-10);
}

TEST_CASE("row_norm reads and writes bfloat16; the norm is that of the exact sum") {
  check_rows<Bf16>(1.0 / 256, 1.0 / 128);
}

TEST_CASE("column_norm is row_norm of the turned array, in every storage") {
  check_columns<float>(2e-6, 1e-5);
  check_columns<double>(1e-12, 1e-10);
  check_columns<Bf16>(1.0 / 256, 1.0 / 128);
}

TEST_CASE("row_norm results have the same bits for any number of threads") {
  Run<float> first({5000, 37}, 15);
  Columns<float> first_columns({3, 40, 700});
  set_num_threads(1);
  kernel::row_norm(first.forward());
  kernel::row_norm_vjp(first.backward());
  first_columns.run(true, true);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    Run<float> next({5000, 37}, 15);
    kernel::row_norm(next.forward());
    kernel::row_norm_vjp(next.backward());
    CHECK(next.y == first.y);
    CHECK(next.sum == first.sum);
    CHECK(next.dx == first.dx);
    CHECK(next.dweight == first.dweight);
    CHECK(next.dbias == first.dbias);
    Columns<float> columns({3, 40, 700});
    columns.run(true, true);
    CHECK(columns.y == first_columns.y);
    CHECK(columns.dx == first_columns.dx);
    CHECK(columns.dweight == first_columns.dweight);
    CHECK(columns.dbias == first_columns.dbias);
  }
  set_num_threads(0);
}

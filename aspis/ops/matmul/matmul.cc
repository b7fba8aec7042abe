#include "aspis/ops/matmul/matmul.h"

#include <algorithm>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/matmul/kernel/cpu.h"

namespace aspis::ops {
namespace {

// The matrices of an array: rows and matrices at even distances.
template <typename T>
struct Matrices {
  const T* data = nullptr;
  int64_t row = 0, matrix = 0;
};

// In place if the last axis is contiguous, rows do not overlap and the leading axes
// collapse to one (of distance 0 where all are broadcast); else a packed copy.
template <typename T>
Matrices<T> matrices_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const int64_t rows = a.shape(last - 1), columns = a.shape(last);
  const int64_t row = rows == 1 ? columns : a.strides()[last - 1];
  bool usable = (a.strides()[last] == 1 || columns == 1) && row >= columns && a.size() > 0;
  int64_t matrix = 0, next = 0;  // of the innermost leading axis; what the next one must have
  bool first = true;
  for (int i = last - 2; i >= 0 && usable; i--) {
    if (a.shape(i) == 1) continue;
    if (first) {
      matrix = a.strides()[i];
      usable = matrix >= 0;
    } else {
      usable = a.strides()[i] == next;
    }
    first = false;
    next = a.strides()[i] * a.shape(i);
  }
  if (!usable) return {packed<T>(encoder, a, op), columns, rows * columns};
  encoder.set_input_array(a);
  return {a.data<T>(), row, matrix};
}

mx::array product(const mx::array& a, const mx::array& b, const MatmulOptions& o, mx::Stream stream);

class Matmul : public CpuPrimitive {
 public:
  Matmul(mx::Stream stream, const MatmulOptions& options) : CpuPrimitive(stream), options_(options) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::MatmulParams<T> p;
      p.transpose_a = options_.transpose_a;
      p.transpose_b = options_.transpose_b;
      p.m = out[0].shape(-2);
      p.n = out[0].shape(-1);
      p.k = in[0].shape(p.transpose_a ? -2 : -1);
      p.batch = 1;
      for (int i = 0; i + 2 < static_cast<int>(out[0].ndim()); i++) p.batch *= out[0].shape(i);
      const auto a = matrices_of<T>(encoder, in[0], name()), b = matrices_of<T>(encoder, in[1], name());
      p.a = a.data;
      p.a_stride = a.row;
      p.a_batch = a.matrix;
      p.b = b.data;
      p.b_stride = b.row;
      p.b_batch = b.matrix;
      allocate(encoder, out[0], name());
      p.c = out[0].data<T>();
      const int64_t values = kernel::matmul_workspace(p);
      if (values > 0) {
        p.workspace = static_cast<T*>(allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), name()));
      }
      encoder.dispatch([p] { kernel::matmul(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto &a = primals[0], &b = primals[1], &dy = cotangents[0];
    const bool ta = options_.transpose_a, tb = options_.transpose_b;
    Arrays gradients;
    for (const int i : argnums) {
      if (i == 0) {
        gradients.push_back(ta ? product(b, dy, {tb, true}, stream()) : product(dy, b, {false, !tb}, stream()));
      } else {
        gradients.push_back(tb ? product(dy, a, {true, ta}, stream()) : product(a, dy, {!ta, false}, stream()));
      }
    }
    return gradients;
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Matmul&>(other).options_;
    return options_.transpose_a == o.transpose_a && options_.transpose_b == o.transpose_b;
  }
  const char* name() const override { return "aspis_matmul"; }
  Work work(const Arrays& in, const Arrays& out) const override {
    return {.macs = static_cast<double>(out[0].size()) * in[0].shape(options_.transpose_a ? -2 : -1)};
  }

 private:
  MatmulOptions options_;
};

// Of operands whose leading axes are the same.
mx::array product(const mx::array& a, const mx::array& b, const MatmulOptions& o, mx::Stream stream) {
  mx::Shape shape = a.shape();
  shape[shape.size() - 2] = a.shape(o.transpose_a ? -1 : -2);
  shape[shape.size() - 1] = b.shape(o.transpose_b ? -2 : -1);
  return mx::array(shape, a.dtype(), std::make_shared<Matmul>(stream, o), {a, b});
}

}  // namespace

mx::array matmul(const mx::array& a, const mx::array& b, const MatmulOptions& o, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = compute_dtype("matmul", {{"a", &a}, {"b", &b}});
  const auto fail = [&](const char* required) {
    throw Error(ErrorKind::kUsage, {.where = "matmul",
                                    .required = required,
                                    .got = to_string(a.shape()) + (o.transpose_a ? " transposed" : "") + " and " +
                                           to_string(b.shape()) + (o.transpose_b ? " transposed" : "")});
  };
  if (a.ndim() < 2 || b.ndim() < 2) fail("a and b must have at least two axes");
  if (a.shape(o.transpose_a ? -2 : -1) != b.shape(o.transpose_b ? -1 : -2)) {
    fail("the rows of op(a) must be as long as the columns of op(b)");
  }
  const mx::Dtype result = mx::promote_types(a.dtype(), b.dtype());
  auto wide_a = mx::astype(a, dtype, stream), wide_b = mx::astype(b, dtype, stream);
  if (choose_back_end("matmul", stream) == BackEnd::kComposed) {
    return mx::astype(matmul_composed(wide_a, wide_b, o, stream), result, stream);
  }
  // Leading axes, from the last on.
  const size_t axes = std::max(a.ndim(), b.ndim()) - 2;
  mx::Shape lead(axes, 1);
  for (const auto* m : {&a, &b}) {
    const size_t skip = axes + 2 - m->ndim();
    for (size_t i = skip; i < axes; i++) {
      const auto d = m->shape(static_cast<int>(i - skip));
      if (d == 1) continue;
      if (lead[i] != 1 && lead[i] != d) fail("the leading axes of a and b must broadcast");
      lead[i] = d;
    }
  }
  const auto spread = [&](const mx::array& m) {
    mx::Shape shape = lead;
    shape.push_back(m.shape(-2));
    shape.push_back(m.shape(-1));
    return m.shape() == shape ? m : mx::broadcast_to(m, shape, stream);
  };
  return mx::astype(product(spread(wide_a), spread(wide_b), o, stream), result, stream);
}

}  // namespace aspis::ops

#include "aspis/ops/row_norm/row_norm.h"

#include <algorithm>

#include "aspis/ops/common/rows.h"
#include "aspis/ops/common/storage.h"
#include "aspis/ops/row_norm/kernel/cpu.h"

namespace aspis::ops {
namespace {

// What a call has beside x; fixes the order of a primitive's inputs.
struct Parts {
  bool center = true, columns = false, residual = false, weight = false, bias = false;
  float eps = 0;
  bool operator==(const Parts&) const = default;

  const char* name(bool gradient) const {
    if (columns) return gradient ? "layer_norm_channels_first_vjp" : "layer_norm_channels_first";
    if (center) return gradient ? "layer_norm_vjp" : "layer_norm";
    return gradient ? "rms_norm_vjp" : "rms_norm";
  }
  mx::ShapeElem length(const mx::array& x) const { return x.shape(columns ? 1 : -1); }
};

template <typename P>
void fill_columns(P& p, const Parts& parts, const mx::array& x) {
  p.center = parts.center;
  p.samples = x.shape(0);
  p.length = x.shape(1);
  p.positions = 1;
  for (int i = 2; i < static_cast<int>(x.ndim()); i++) p.positions *= x.shape(i);
}

template <typename P>
void fill_rows(P& p, const Parts& parts, const mx::array& x) {
  p.center = parts.center;
  p.rows = row_count(x);
  p.length = x.shape(-1);
}

// Buffers of the gradients of weight and bias, and the scratch for their sums.
template <typename S, typename P>
void take_sums(mx::cpu::CommandEncoder& encoder, P& p, const Parts& parts, Arrays& out, int64_t scratch,
               const char* name) {
  using T = Arithmetic<S>;
  const auto bytes = static_cast<size_t>(scratch) * sizeof(T);
  if (parts.weight) {
    allocate(encoder, out[1], name);
    p.dweight = out[1].data<T>();
    p.dweight_scratch = static_cast<T*>(allocate_scratch(encoder, bytes, name));
  }
  if (parts.bias) {
    allocate(encoder, out.back(), name);
    p.dbias = out.back().data<T>();
    p.dbias_scratch = static_cast<T*>(allocate_scratch(encoder, bytes, name));
  }
}

class RowNormVjp : public CpuPrimitive {
 public:
  RowNormVjp(mx::Stream s, Parts parts) : CpuPrimitive(s), parts_(parts) {}

  // {h, dy, mean, scale, dsum?, weight?} -> {dx, dweight?, dbias?}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      if (parts_.columns) {
        kernel::ColumnNormVjpParams<S> p;
        fill_columns(p, parts_, in[0]);
        p.x = packed<S>(encoder, in[0], name());
        p.dy = packed<S>(encoder, in[1], name());
        p.mean = packed<T>(encoder, in[2], name());
        p.scale = packed<T>(encoder, in[3], name());
        allocate(encoder, out[0], name());
        p.dx = out[0].data<S>();
        if (parts_.weight) p.weight = packed<T>(encoder, in.back(), name());
        take_sums<S>(encoder, p, parts_, out, kernel::column_norm_vjp_scratch(p.samples, p.length, p.positions),
                     name());
        encoder.dispatch([p] { kernel::column_norm_vjp(p); });
        return;
      }
      kernel::RowNormVjpParams<S> p;
      fill_rows(p, parts_, out[0]);
      const auto h = rows<S>(encoder, in[0], name()), dy = rows<S>(encoder, in[1], name());
      p.h = h.data;
      p.h_stride = h.stride;
      p.dy = dy.data;
      p.dy_stride = dy.stride;
      p.mean = packed<T>(encoder, in[2], name());
      p.scale = packed<T>(encoder, in[3], name());
      if (parts_.residual) {
        const auto dsum = rows<S>(encoder, in[4], name());
        p.dsum = dsum.data;
        p.dsum_stride = dsum.stride;
      }
      allocate(encoder, out[0], name());
      p.dx = out[0].data<S>();
      if (parts_.weight) p.weight = packed<T>(encoder, in.back(), name());
      take_sums<S>(encoder, p, parts_, out, kernel::row_norm_vjp_scratch(p.rows, p.length), name());
      encoder.dispatch([p] { kernel::row_norm_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes = {in[0].shape()};
    for (int i = 0; i < parts_.weight + parts_.bias; i++) shapes.push_back({parts_.length(in[0])});
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parts_ == static_cast<const RowNormVjp&>(other).parts_;
  }
  const char* name() const override { return parts_.name(true); }

 private:
  Parts parts_;
};

class RowNorm : public CpuPrimitive {
 public:
  RowNorm(mx::Stream s, Parts parts) : CpuPrimitive(s), parts_(parts) {}

  // {x, residual?, weight?, bias?} -> {y, mean, scale, sum?}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      const auto affine = [&](auto& p) {
        if (parts_.weight) p.weight = packed<T>(encoder, in[parts_.residual ? 2 : 1], name());
        if (parts_.bias) p.bias = packed<T>(encoder, in.back(), name());
        for (size_t i = 0; i < 3; i++) allocate(encoder, out[i], name());
        p.y = out[0].data<S>();
        p.mean = out[1].data<T>();
        p.scale = out[2].data<T>();
        p.eps = parts_.eps;
      };
      if (parts_.columns) {
        kernel::ColumnNormParams<S> p;
        fill_columns(p, parts_, in[0]);
        p.x = packed<S>(encoder, in[0], name());
        affine(p);
        encoder.dispatch([p] { kernel::column_norm(p); });
        return;
      }
      kernel::RowNormParams<S> p;
      fill_rows(p, parts_, out[0]);
      const auto x = rows<S>(encoder, in[0], name());
      p.x = x.data;
      p.x_stride = x.stride;
      if (parts_.residual) {
        const auto residual = rows<S>(encoder, in[1], name());
        p.residual = residual.data;
        p.residual_stride = residual.stride;
        allocate(encoder, out[3], name());
        p.sum = out[3].data<S>();
      }
      affine(p);
      encoder.dispatch([p] { kernel::row_norm(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays inputs = {parts_.residual ? outputs[3] : primals[0], cotangents[0], outputs[1], outputs[2]};
    if (parts_.residual) inputs.push_back(cotangents[3]);
    const int residual = parts_.residual ? 1 : 0;
    if (parts_.weight) inputs.push_back(primals[residual + 1]);
    std::vector<mx::Shape> shapes = {primals[0].shape()};
    std::vector<mx::Dtype> dtypes = {primals[0].dtype()};
    for (size_t i = residual + 1; i < primals.size(); i++) {
      shapes.push_back(primals[i].shape());
      dtypes.push_back(primals[i].dtype());
    }
    const auto gradients =
        mx::array::make_arrays(shapes, dtypes, std::make_shared<RowNormVjp>(stream(), parts_), inputs);
    Arrays result;
    // x and residual share their gradient.
    for (const int a : argnums) result.push_back(gradients[std::max(0, a - residual)]);
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return shapes(parts_, in[0]); }
  // Mean and scale are kept for the gradient and never leave this file.
  static std::vector<mx::Shape> shapes(const Parts& parts, const mx::array& x) {
    const auto rows = static_cast<mx::ShapeElem>(x.size() / static_cast<size_t>(parts.length(x)));
    std::vector<mx::Shape> all = {x.shape(), {rows}, {rows}};
    if (parts.residual) all.push_back(x.shape());
    return all;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parts_ == static_cast<const RowNorm&>(other).parts_;
  }
  const char* name() const override { return parts_.name(false); }

 private:
  Parts parts_;
};

Arrays run(const mx::array& x, const RowNormCall& call, bool columns, mx::Dtype storage, mx::Stream s) {
  const mx::Dtype arithmetic = arithmetic_dtype(storage);
  Arrays inputs = {mx::astype(x, storage, s)};
  if (call.residual) inputs.push_back(mx::astype(*call.residual, storage, s));
  if (call.weight) inputs.push_back(mx::astype(*call.weight, arithmetic, s));
  if (call.bias) inputs.push_back(mx::astype(*call.bias, arithmetic, s));
  const Parts parts{.center = call.center,
                    .columns = columns,
                    .residual = call.residual.has_value(),
                    .weight = call.weight.has_value(),
                    .bias = call.bias.has_value(),
                    .eps = call.eps};
  std::vector<mx::Dtype> dtypes = {storage, arithmetic, arithmetic};
  if (call.residual) dtypes.push_back(storage);
  const auto outputs =
      mx::array::make_arrays(RowNorm::shapes(parts, x), dtypes, std::make_shared<RowNorm>(s, parts), inputs);
  Arrays results = {mx::astype(outputs[0], x.dtype(), s)};
  if (call.residual) results.push_back(mx::astype(outputs[3], x.dtype(), s));
  return results;
}

}  // namespace

Arrays row_norm(const mx::array& x, const RowNormCall& call, mx::Dtype storage, mx::Stream s) {
  return run(x, call, false, storage, s);
}

mx::array column_norm(const mx::array& x, const RowNormCall& call, mx::Dtype storage, mx::Stream s) {
  return run(x, call, true, storage, s)[0];
}

}  // namespace aspis::ops

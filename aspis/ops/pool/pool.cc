#include "aspis/ops/pool/pool.h"

#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/pool/kernel/cpu.h"
#include "aspis/ops/resample/resample.h"

namespace aspis {
namespace {

using kernel::AxisTable;
using Tables = std::shared_ptr<const ops::ResampleTables>;

mx::Shape result_shape(const mx::array& x, const ops::ResampleTables& tables) {
  mx::Shape shape = x.shape();
  const int axes = static_cast<int>(x.ndim()) - 2;
  for (int i = 0; i < axes; i++) {
    shape[1 + i] = static_cast<mx::ShapeElem>(tables.axes[3 - static_cast<size_t>(axes - i)].out);
  }
  return shape;
}

template <typename P>
void fill(P& p, const mx::array& x, const ops::ResampleTables& tables) {
  p.samples = x.shape(0);
  p.channels = x.shape(-1);
  for (size_t i = 0; i < 3; i++) p.axes[i] = &tables.axes[i];
}

class MaxPoolVjp : public ops::CpuPrimitive {
 public:
  MaxPoolVjp(mx::Stream s, Tables tables) : CpuPrimitive(s), tables_(std::move(tables)) {}

  // {x, dy} -> {dx}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      kernel::MaxPoolVjpParams<S> p;
      fill(p, in[0], *tables_);
      p.x = ops::packed<S>(encoder, in[0], name());
      p.dy = ops::packed<S>(encoder, in[1], name());
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<S>();
      p.scratch = static_cast<T*>(ops::allocate_scratch(encoder, in[1].size() * sizeof(T), name()));
      encoder.dispatch([p, keep = tables_] { kernel::max_pool_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return tables_->axes == static_cast<const MaxPoolVjp&>(other).tables_->axes;
  }
  const char* name() const override { return "max_pool_vjp"; }

 private:
  Tables tables_;
};

class MaxPool : public ops::CpuPrimitive {
 public:
  MaxPool(mx::Stream s, Tables tables) : CpuPrimitive(s), tables_(std::move(tables)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::MaxPoolParams<S> p;
      fill(p, in[0], *tables_);
      p.x = ops::packed<S>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<S>();
      encoder.dispatch([p, keep = tables_] { kernel::max_pool(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<MaxPoolVjp>(stream(), tables_),
                      {primals[0], cotangents[0]})};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {result_shape(in[0], *tables_)}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return tables_->axes == static_cast<const MaxPool&>(other).tables_->axes;
  }
  const char* name() const override { return "max_pool"; }

 private:
  Tables tables_;
};

[[noreturn]] void refuse(const char* op, std::string required, std::string got) {
  throw Error(ErrorKind::kUsage, {.where = op, .required = std::move(required), .got = std::move(got)});
}

void check_x(const char* op, const mx::array& x) {
  if (x.ndim() < 3 || x.ndim() > 5) refuse(op, "x must be {B, 1 to 3 axes, C}", ops::to_string(x.shape()));
  for (int i = 1; i + 1 < static_cast<int>(x.ndim()); i++) {
    if (x.shape(i) < 1) refuse(op, "x must have no empty axis", ops::to_string(x.shape()));
  }
}

// The number of each axis out of one for all, one for each, or none.
std::vector<int> spread(const char* op, const char* name, const std::vector<int>& given, size_t axes, int least,
                        const std::vector<int>& otherwise) {
  if (given.empty()) return otherwise;
  if (given.size() != 1 && given.size() != axes) {
    refuse(op, std::string(name) + " must have one number, or " + std::to_string(axes),
           std::to_string(given.size()));
  }
  std::vector<int> all(axes);
  for (size_t i = 0; i < axes; i++) {
    all[i] = given[given.size() == 1 ? 0 : i];
    if (all[i] < least) {
      refuse(op, std::string(name) + " must be " + std::to_string(least) + " or more", std::to_string(all[i]));
    }
  }
  return all;
}

// Tables of an axis each, behind identities; `make(axis, size of it)`.
template <typename Make>
Tables tables_of(const mx::array& x, Make make) {
  ops::ResampleTables tables;
  const size_t axes = x.ndim() - 2;
  for (auto& t : tables.axes) t = kernel::window_table(1, 1, 1, 0, 1, false);
  for (size_t i = 0; i < axes; i++) tables.axes[3 - axes + i] = make(i, x.shape(static_cast<int>(i) + 1));
  return std::make_shared<const ops::ResampleTables>(std::move(tables));
}

Tables average_identity(const Tables& tables, size_t axes) {
  auto copy = *tables;
  for (size_t i = 0; i < 3 - axes; i++) copy.axes[i] = kernel::identity_table(1);
  return std::make_shared<const ops::ResampleTables>(std::move(copy));
}

Tables window_tables(const char* op, const mx::array& x, const PoolOptions& o, bool average) {
  check_x(op, x);
  const size_t axes = x.ndim() - 2;
  if (o.window.empty()) refuse(op, "a window is needed", "none");
  const auto window = spread(op, "window", o.window, axes, 1, {});
  const auto stride = spread(op, "stride", o.stride, axes, 1, window);
  const auto padding = spread(op, "padding", o.padding, axes, 0, std::vector<int>(axes, 0));
  const auto dilation = spread(op, "dilation", o.dilation, axes, 1, std::vector<int>(axes, 1));
  const auto tables = tables_of(x, [&](size_t i, int64_t in) {
    if (average && dilation[i] != 1) refuse(op, "avg_pool has no dilation", std::to_string(dilation[i]));
    const int reach = (window[i] - 1) * dilation[i] + 1;
    if (2 * padding[i] > reach) {
      refuse(op, "padding must be at most half of a window of " + std::to_string(reach),
             std::to_string(padding[i]));
    }
    if (in + 2 * padding[i] < reach) {
      refuse(op, "windows of " + std::to_string(reach) + " must fit into the padded axis", std::to_string(in));
    }
    return average ? kernel::average_table(in, window[i], stride[i], padding[i], o.ceil_mode, o.count_include_pad)
                   : kernel::window_table(in, window[i], stride[i], padding[i], dilation[i], o.ceil_mode);
  });
  return average ? average_identity(tables, axes) : tables;
}

Tables adaptive_tables(const char* op, const mx::array& x, const std::vector<int>& size, bool average) {
  check_x(op, x);
  const size_t axes = x.ndim() - 2;
  const auto sizes = spread(op, "size", size, axes, 1, {});
  if (sizes.empty()) refuse(op, "a size is needed", "none");
  const auto tables = tables_of(x, [&](size_t i, int64_t in) {
    return average ? kernel::adaptive_average_table(in, sizes[i]) : kernel::adaptive_window_table(in, sizes[i]);
  });
  return average ? average_identity(tables, axes) : tables;
}

// Largest of the taps of one axis after the other. The gradient of the largest of
// equal values is divided by MLX, so cases have no ties.
mx::array max_composed(const mx::array& x, const ops::ResampleTables& tables, mx::Stream s) {
  const int axes = static_cast<int>(x.ndim()) - 2;
  auto y = x;
  for (int i = 0; i < axes; i++) {
    const AxisTable& t = tables.axes[3 - static_cast<size_t>(axes - i)];
    Arrays points;
    for (int64_t o = 0; o < t.out; o++) {
      const std::vector<int32_t> taps(t.index.begin() + t.first[o], t.index.begin() + t.first[o + 1]);
      const mx::array at(taps.begin(), {static_cast<mx::ShapeElem>(taps.size())}, mx::int32);
      points.push_back(mx::max(mx::take(y, at, 1 + i, s), 1 + i, true, s));
    }
    y = mx::concatenate(points, 1 + i, s);
  }
  return y;
}

mx::array run_max(const char* op, const mx::array& x, Tables tables, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = ops::storage_dtype(op, x, {{"x", &x}});
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) return max_composed(x, *tables, stream);
  const auto shape = result_shape(x, *tables);
  const mx::array y(shape, storage, std::make_shared<MaxPool>(stream, std::move(tables)),
                    {mx::astype(x, storage, stream)});
  return mx::astype(y, x.dtype(), stream);
}

mx::array run_average(const char* op, const mx::array& x, Tables tables, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = ops::storage_dtype(op, x, {{"x", &x}});
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    return ops::resample_composed(x, *tables, stream);
  }
  return ops::resample(x, std::move(tables), {"avg_pool", "avg_pool_vjp"}, storage, stream);
}

}  // namespace

mx::array max_pool(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s) {
  return run_max("max_pool", x, window_tables("max_pool", x, options, false), s);
}
mx::array avg_pool(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s) {
  return run_average("avg_pool", x, window_tables("avg_pool", x, options, true), s);
}
mx::array adaptive_max_pool(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s) {
  return run_max("adaptive_max_pool", x, adaptive_tables("adaptive_max_pool", x, size, false), s);
}
mx::array adaptive_avg_pool(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s) {
  return run_average("adaptive_avg_pool", x, adaptive_tables("adaptive_avg_pool", x, size, true), s);
}

mx::array global_avg_pool(const mx::array& x, mx::StreamOrDevice s) {
  constexpr const char* kName = "global_avg_pool";
  if (x.ndim() < 3) refuse(kName, "x must be {B, .., C} with an axis between", ops::to_string(x.shape()));
  const auto stream = mx::to_stream(s);
  int positions = 1;
  for (int i = 1; i + 1 < static_cast<int>(x.ndim()); i++) positions *= x.shape(i);
  const auto flat = mx::reshape(x, {x.shape(0), positions, 1, x.shape(-1)}, stream);
  check_x(kName, flat);
  return mx::reshape(run_average(kName, flat, adaptive_tables(kName, flat, {1}, true), s),
                     {x.shape(0), x.shape(-1)}, stream);
}

mx::array max_pool_composed(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s) {
  return max_composed(x, *window_tables("max_pool", x, options, false), mx::to_stream(s));
}
mx::array avg_pool_composed(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s) {
  return ops::resample_composed(x, *window_tables("avg_pool", x, options, true), mx::to_stream(s));
}
mx::array adaptive_max_pool_composed(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s) {
  return max_composed(x, *adaptive_tables("adaptive_max_pool", x, size, false), mx::to_stream(s));
}
mx::array adaptive_avg_pool_composed(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s) {
  return ops::resample_composed(x, *adaptive_tables("adaptive_avg_pool", x, size, true), mx::to_stream(s));
}

}  // namespace aspis

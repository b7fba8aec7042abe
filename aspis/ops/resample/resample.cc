#include "aspis/ops/resample/resample.h"

#include <utility>
#include <vector>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/resample/kernel/cpu.h"

namespace aspis::ops {
namespace {

using Tables = std::shared_ptr<const ResampleTables>;

mx::Shape result_shape(const mx::array& x, const ResampleTables& tables) {
  mx::Shape shape = x.shape();
  const int axes = static_cast<int>(x.ndim()) - 2;
  for (int i = 0; i < axes; i++) {
    shape[1 + i] = static_cast<mx::ShapeElem>(tables.axes[3 - static_cast<size_t>(axes - i)].out);
  }
  return shape;
}

class Resample : public CpuPrimitive {
 public:
  Resample(mx::Stream s, Tables tables, ResampleNames names)
      : CpuPrimitive(s), tables_(std::move(tables)), names_(names) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::ResampleParams<S> p;
      p.samples = in[0].shape(0);
      p.channels = in[0].shape(-1);
      for (size_t i = 0; i < 3; i++) p.axes[i] = &tables_->axes[i];
      p.x = packed<S>(encoder, in[0], name());
      allocate(encoder, out[0], name());
      p.y = out[0].data<S>();
      encoder.dispatch([p, keep = tables_] { kernel::resample(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    ResampleTables turned;
    for (size_t i = 0; i < 3; i++) turned.axes[i] = tables_->axes[i].transposed();
    return {
        mx::array(primals[0].shape(), primals[0].dtype(),
                  std::make_shared<Resample>(stream(), std::make_shared<const ResampleTables>(std::move(turned)),
                                             ResampleNames{names_.gradient, names_.gradient}),
                  {cotangents[0]})};
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {result_shape(in[0], *tables_)}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return tables_->axes == static_cast<const Resample&>(other).tables_->axes;
  }
  const char* name() const override { return names_.forward; }
  Work work(const Arrays&, const Arrays& out) const override {
    // Lines first, then points of a line.
    const double points = static_cast<double>(out[0].size());
    double taps = 1, last = 0;
    for (size_t i = 0; i < 3; i++) {
      const auto& t = tables_->axes[i];
      const double each = static_cast<double>(t.index.size()) / static_cast<double>(std::max<int64_t>(t.out, 1));
      i < 2 ? taps *= each : last = each;
    }
    const double shrink =
        static_cast<double>(tables_->axes[2].in) / static_cast<double>(std::max<int64_t>(tables_->axes[2].out, 1));
    return {.macs = points * (taps * shrink + last)};
  }

 private:
  Tables tables_;
  ResampleNames names_;
};

}  // namespace

mx::array resample(const mx::array& x, Tables tables, ResampleNames names, mx::Dtype storage, mx::Stream s) {
  const auto shape = result_shape(x, *tables);
  const mx::array y(shape, storage, std::make_shared<Resample>(s, std::move(tables), names),
                    {mx::astype(x, storage, s)});
  return mx::astype(y, x.dtype(), s);
}

mx::array resample_composed(const mx::array& x, const ResampleTables& tables, mx::Stream s) {
  const int axes = static_cast<int>(x.ndim()) - 2;
  auto y = x;
  for (int i = 0; i < axes; i++) {
    const auto& t = tables.axes[3 - static_cast<size_t>(axes - i)];
    if (t.is_identity()) continue;
    std::vector<double> dense(static_cast<size_t>(t.in * t.out), 0.0);  // {in, out}
    for (int64_t o = 0; o < t.out; o++) {
      for (int64_t k = t.first[o]; k < t.first[o + 1]; k++) dense[t.index[k] * t.out + o] += t.weight[k];
    }
    const mx::Shape shape = {static_cast<mx::ShapeElem>(t.in), static_cast<mx::ShapeElem>(t.out)};
    const mx::array matrix = mx::astype(mx::array(dense.begin(), shape, mx::float64), x.dtype(), s);
    y = mx::moveaxis(mx::matmul(mx::moveaxis(y, 1 + i, -1, s), matrix, s), -1, 1 + i, s);
  }
  return y;
}

}  // namespace aspis::ops

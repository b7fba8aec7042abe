#include "aspis/ops/cross_scan/cross_scan.h"

#include <memory>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/cross_scan/kernel/cpu.h"

namespace aspis {
namespace {

using Shared = std::shared_ptr<const ScanOrders>;

// cross_scan {B, L, D} -> {B, K, L, D}, or cross_merge the other way; each is
// the other's gradient.
class Cross : public ops::CpuPrimitive {
 public:
  Cross(mx::Stream stream, Shared orders, bool merge, double scale)
      : CpuPrimitive(stream), orders_(std::move(orders)), merge_(merge), scale_(scale) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::CrossParams<T> p;
      p.batch = in[0].shape(0), p.orders = orders_->count(), p.length = orders_->length(),
      p.width = in[0].shape(-1);
      p.index = merge_ ? orders_->places().data() : orders_->steps().data();
      p.scale = static_cast<T>(scale_);
      p.from = ops::packed<T>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.to = out[0].data<T>();
      encoder.dispatch(
          [p, merge = merge_, orders = orders_] { merge ? kernel::cross_merge(p) : kernel::cross_scan(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(),
                      std::make_shared<Cross>(stream(), orders_, !merge_, scale_), {cotangents[0]})};
  }
  const char* name() const override { return merge_ ? "cross_merge" : "cross_scan"; }

 private:
  const Shared orders_;
  const bool merge_;
  const double scale_;
};

mx::array run(const char* op, const mx::array& x, const ScanOrders& orders, bool merge, CrossMerge how,
              mx::StreamOrDevice device) {
  const auto stream = mx::to_stream(device);
  const mx::Dtype dtype = ops::compute_dtype(op, {{"x", &x}});
  const int K = static_cast<int>(orders.count()), L = static_cast<int>(orders.length());
  const bool fits = merge ? x.ndim() == 4 && x.shape(1) == K && x.shape(2) == L : x.ndim() == 3 && x.shape(1) == L;
  if (!fits) {
    throw Error(ErrorKind::kUsage,
                {.where = op,
                 .required = merge ? "x must have shape {B, K, L, D} with K = " + std::to_string(K) +
                                         " and L = " + std::to_string(L)
                                   : "x must have shape {B, L, D} with L = " + std::to_string(L),
                 .got = ops::to_string(x.shape())});
  }
  const auto wide = mx::astype(x, dtype, stream);
  if (x.size() == 0 || ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    const auto y =
        merge ? cross_merge_composed(wide, orders, how, stream) : cross_scan_composed(wide, orders, stream);
    return mx::astype(y, x.dtype(), stream);
  }
  mx::Shape shape{x.shape(0)};
  if (!merge) shape.push_back(K);
  shape.push_back(L);
  shape.push_back(x.shape(-1));
  const double scale = merge && how == CrossMerge::kMean ? 1.0 / K : 1.0;
  const auto shared = std::make_shared<const ScanOrders>(orders);
  return mx::astype(mx::array(shape, dtype, std::make_shared<Cross>(stream, shared, merge, scale), {wide}),
                    x.dtype(), stream);
}

}  // namespace

mx::array cross_scan(const mx::array& x, const ScanOrders& orders, mx::StreamOrDevice s) {
  return run("cross_scan", x, orders, false, CrossMerge::kSum, s);
}

mx::array cross_merge(const mx::array& x, const ScanOrders& orders, CrossMerge merge, mx::StreamOrDevice s) {
  return run("cross_merge", x, orders, true, merge, s);
}

}  // namespace aspis

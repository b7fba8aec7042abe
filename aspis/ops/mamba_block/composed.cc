#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/mamba_block/mamba_block.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {

mx::array mamba_block_composed(const mx::array& h, const mx::array& in_proj,
                               const std::vector<MambaBlockBranch>& branches, const mx::array& out_proj,
                               mx::StreamOrDevice s) {
  const int I = out_proj.shape(1), W = h.shape(2), B = h.shape(0), L = h.shape(1);
  const auto x = linear(h, mx::slice(in_proj, {0, 0}, {I, W}, s), std::nullopt, s);
  const auto z = linear(h, mx::slice(in_proj, {I, 0}, {2 * I, W}, s), std::nullopt, s);
  Arrays outs;
  for (const MambaBlockBranch& b : branches) {
    Conv1dOptions conv;
    conv.bias = b.conv_bias;
    conv.silu = true;
    conv.reverse = b.reverse;
    conv.order = b.order;
    const auto u = causal_conv1d(x, b.conv_weight, conv, s);
    const auto low = linear(u, b.x_proj, std::nullopt, s);
    const int R = b.dt_proj.shape(1), N = b.A.shape(1);
    const auto part = [&](int from, int to) { return mx::slice(low, {0, 0, from}, {B, L, to}, s); };
    ScanOptions scan;
    scan.D = b.D;
    scan.z = z;
    scan.delta_bias = b.dt_bias;
    scan.delta_softplus = true;
    scan.reverse = b.reverse;
    scan.order = b.order;
    const auto delta = linear(part(0, R), b.dt_proj, std::nullopt, s);
    outs.push_back(selective_scan(u, delta, b.A, part(R, R + N), part(R + N, R + 2 * N), scan, s));
  }
  return linear(outs.size() == 1 ? outs[0] : add_n(outs, s), out_proj, std::nullopt, s);
}

}  // namespace aspis

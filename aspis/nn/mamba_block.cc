#include "aspis/nn/mamba_block.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <numeric>

#include "aspis/base/error.h"
#include "aspis/base/parallel.h"
#include "aspis/nn/branch.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/mamba_block/mamba_block.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

const MambaConfig& checked(const MambaConfig& config, std::string_view scan_mode) {
  config.check("MambaBlock");
  check_scan_mode(scan_mode, "MambaBlock");
  return config;
}

void require_width(const mx::array& h, size_t ndim, int64_t width) {
  require(h.ndim() == ndim && h.shape(-1) == width, [&] {
    return Error::Parts{
        .where = "MambaBlock",
        .required = fmt::format("the input must have shape {}",
                                ndim == 3 ? fmt::format("{{B, L, {}}}", width) : fmt::format("{{B, {}}}", width)),
        .got = fmt::format("{{{}}}", fmt::join(h.shape(), ", ")),
        .hint = ""};
  });
}

/// Sum of the outputs of blocks over one norm, each with its direction.
Residual run_blocks(const LayerNorm& norm, const std::vector<const MambaBlock*>& blocks,
                    const std::vector<ScanDirection>& directions, const Residual& h, float scale = 1) {
  auto [n, sum] = norm(h);
  const bool in_one = !blocks.empty() && blocks[0]->runs_in_one(n);
  const int readers = in_one ? 1 : 2;
  const auto copies = fan_out(n, readers * static_cast<int>(blocks.size()));
  std::vector<mx::array> outs;
  for (size_t k = 0; k < blocks.size(); k++) {
    outs.push_back(in_one ? blocks[k]->in_one(copies[k], directions[k], scale)
                          : blocks[k]->forward(copies[2 * k], copies[2 * k + 1], directions[k], scale));
  }
  return {std::move(sum), outs.size() == 1 ? outs[0] : add_n(outs)};
}

}  // namespace

void MambaConfig::check(const std::string& where) const {
  const auto positive = [&](const char* name, int64_t value) {
    require(value > 0, [&] {
      return Error::Parts{.where = where,
                          .required = fmt::format("{} must be at least 1", name),
                          .got = std::to_string(value),
                          .hint = ""};
    });
  };
  positive("width", width);
  positive("state", state);
  positive("conv", conv);
  positive("expand", expand);
}

mx::array MambaBranch::operator()(const mx::array& x, const std::optional<mx::array>& z,
                                  const ScanDirection& direction) const {
  const int64_t rank = dt_proj.weight.shape(1), state = A_log.shape(1);
  const auto u = fan_out(conv1d(x, direction), 2);
  const auto parts = split_sizes(x_proj(u[0]), {rank, state, state}, -1);
  ScanOptions options;
  options.D = D;
  options.z = z;
  options.delta_bias = dt_proj.bias;  // added in registers
  options.delta_softplus = true;
  options.reverse = direction.reverse;
  options.order = direction.order;
  const auto delta = linear(parts[0], dt_proj.weight);
  return selective_scan(u[1], delta, mx::negative(ops::exp(A_log)), parts[1], parts[2], options);
}

MambaBlock::MambaBlock(const MambaConfig& config, const Init& init, std::string_view scan_mode)
    : config_(checked(config, scan_mode)),
      in_proj(config.width, 2 * config.inner(), false, init.child("in_proj")),
      conv1d(config.inner(), config.conv, init.child("conv1d")),
      x_proj(config.inner(), config.rank() + 2 * config.state, false, init.child("x_proj")),
      dt_proj(config.rank(), config.inner(), true, init.child("dt_proj")),
      A_log(init.a_log(config.inner(), config.state)),
      D(init.constant({static_cast<mx::ShapeElem>(config.inner())}, 1)),
      out_proj(config.inner(), config.width, false, init.child("out_proj")) {
  if (init.recipe() == InitRecipe::kStandard) {
    dt_proj.bias = init.child("dt_proj").dt_bias("bias", config.inner());
  }
  add_child("in_proj", in_proj);
  add_child("conv1d", conv1d);
  add_child("x_proj", x_proj);
  add_child("dt_proj", dt_proj);
  add_parameter("A_log", A_log, Decay::kNo);
  add_parameter("D", D, Decay::kNo);
  add_child("out_proj", out_proj);
}

MambaBlockBranch MambaBranch::weights(const ScanDirection& direction) const {
  return {conv1d.weight,
          conv1d.bias,
          x_proj.weight,
          dt_proj.weight,
          *dt_proj.bias,
          mx::negative(ops::exp(A_log)),
          D,
          direction.reverse,
          direction.order};
}

// The figures behind this are in ops/mamba_block/README.md: a sample is a task, and in
// the backward what lies between the projections must fit into a second-level cache.
int64_t mamba_in_one_from(int64_t tokens, int64_t inner, bool training) {
  constexpr int64_t kLeast = 8, kTasksOfACore = 4;
  constexpr int64_t kMostValues = 1 << 15, kMostCores = 16;  // of training
  const int64_t cores = planned_cores();
  if (training && (tokens * inner > kMostValues || cores > kMostCores)) return 0;
  return std::max(kLeast, kTasksOfACore * cores);
}

bool MambaBlock::runs_in_one(const mx::array& h) const {
  if (h.ndim() != 3 || h.dtype() == mx::bfloat16 || h.dtype() == mx::float16) return false;
  const int64_t from = mamba_in_one_from(h.shape(1), config_.inner(), training());
  return from > 0 && h.shape(0) >= from;
}

mx::array MambaBlock::in_one(const mx::array& h, const ScanDirection& direction, float scale) const {
  require_width(h, 3, config_.width);
  const MambaBranch branch{conv1d, x_proj, dt_proj, A_log, D};
  // Scaled weights are cheaper than scaled activations.
  const auto& weight = out_proj.weight;
  return mamba_block(h, in_proj.weight, {branch.weights(direction)},
                     scale == 1 ? weight : weight * mx::array(scale, weight.dtype()));
}

mx::array MambaBlock::operator()(const mx::array& h, const ScanDirection& direction) const {
  if (runs_in_one(h)) return in_one(h, direction);
  const auto copies = fan_out(h, 2);
  return forward(copies[0], copies[1], direction);
}

mx::array MambaBlock::forward(const mx::array& h_for_x, const mx::array& h_for_z, const ScanDirection& direction,
                              float scale) const {
  require_width(h_for_x, 3, config_.width);
  // Two products with halves of the weight cost what one costs, and leave x and
  // z dense; cutting one product apart would copy twice the activations in the gradient.
  const auto halves = split_sizes(in_proj.weight, {config_.inner(), config_.inner()}, 0);
  const MambaBranch branch{conv1d, x_proj, dt_proj, A_log, D};
  // Beside activations in bfloat16 convolution and scan run in float32.
  const bool half = h_for_x.dtype() == mx::bfloat16;
  const auto wide = [&](const mx::array& a) { return half ? aspis::cast(a, mx::float32) : a; };
  auto y = branch(wide(linear(h_for_x, halves[0])), wide(linear(h_for_z, halves[1])), direction);
  if (half) y = aspis::cast(y, mx::bfloat16);
  // Scaled weights are cheaper than scaled activations.
  return scale == 1 ? out_proj(y) : linear(y, out_proj.weight * mx::array(scale, out_proj.weight.dtype()));
}

State MambaBlock::initial_state(int64_t batch) const {
  const auto b = static_cast<mx::ShapeElem>(batch), inner = static_cast<mx::ShapeElem>(config_.inner());
  const auto type = A_log.dtype();
  return {"mamba1",
          {{"conv", mx::zeros({b, static_cast<mx::ShapeElem>(config_.conv - 1), inner}, type)},
           {"ssm", mx::zeros({b, inner, static_cast<mx::ShapeElem>(config_.state)}, type)}}};
}

std::pair<mx::array, State> MambaBlock::prefill(const mx::array& h, const State& state) const {
  require_width(h, 3, config_.width);
  check_state(state, h.shape(0));
  const auto xz = split_sizes(in_proj(h), {config_.inner(), config_.inner()}, -1);
  auto [x, conv_state] = conv1d.prefill(xz[0], state.at("conv"));
  const auto parts = split_sizes(x_proj(x), {config_.rank(), config_.state, config_.state}, -1);
  ScanOptions options;
  options.D = D;
  options.z = xz[1];
  options.delta_bias = dt_proj.bias;
  options.delta_softplus = true;
  options.initial_state = state.at("ssm");
  auto [y, scan_state] = selective_scan_with_state(x, linear(parts[0], dt_proj.weight),
                                                   mx::negative(ops::exp(A_log)), parts[1], parts[2], options);
  return {out_proj(y), {"mamba1", {{"conv", conv_state}, {"ssm", scan_state}}}};
}

std::pair<mx::array, State> MambaBlock::step(const mx::array& h, const State& state) const {
  require_width(h, 2, config_.width);
  check_state(state, h.shape(0));
  const auto xz = split_sizes(in_proj(h), {config_.inner(), config_.inner()}, -1);
  auto [x, conv_state] = conv1d.step(xz[0], state.at("conv"));
  const auto parts = split_sizes(x_proj(x), {config_.rank(), config_.state, config_.state}, -1);
  ScanOptions options;
  options.D = D;
  options.z = xz[1];
  options.delta_bias = dt_proj.bias;
  options.delta_softplus = true;
  auto [y, scan_state] = selective_scan_step(state.at("ssm"), x, linear(parts[0], dt_proj.weight),
                                             mx::negative(ops::exp(A_log)), parts[1], parts[2], options);
  return {out_proj(y), {"mamba1", {{"conv", conv_state}, {"ssm", scan_state}}}};
}

ResidualMambaBlock::ResidualMambaBlock(const MambaConfig& config, const Init& init, std::string_view scan_mode)
    : norm(config.width, init.child("norm")), mamba(config, init.child("mamba"), scan_mode) {
  add_child("norm", norm);
  add_child("mamba", mamba);
}

Residual ResidualMambaBlock::forward(const Residual& h) const { return run_blocks(norm, {&mamba}, {{}}, h); }

BidirectionalMambaBlock::BidirectionalMambaBlock(const MambaConfig& config, const Init& init,
                                                 std::string_view scan_mode)
    : norm(config.width, init.child("norm")),
      forward_mamba(config, init.child("forward_mamba"), scan_mode),
      backward_mamba(config, init.child("backward_mamba"), scan_mode) {
  add_child("norm", norm);
  add_child("forward_mamba", forward_mamba);
  add_child("backward_mamba", backward_mamba);
}

Residual BidirectionalMambaBlock::forward(const Residual& h) const {
  return run_blocks(norm, {&forward_mamba, &backward_mamba}, {{}, {std::nullopt, true}}, h);
}

std::string to_string(DirectionMerge merge) {
  return merge == DirectionMerge::kSum ? "sum" : merge == DirectionMerge::kMean ? "mean" : "vmamba";
}

DirectionMerge parse_direction_merge(std::string_view name, const std::string& where) {
  for (const auto merge : {DirectionMerge::kSum, DirectionMerge::kMean, DirectionMerge::kVmamba}) {
    if (name == to_string(merge)) return merge;
  }
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = "merge must be one of sum, mean, vmamba",
                                  .got = fmt::format("\"{}\"", name),
                                  .hint = nearest_word(name, std::vector<std::string>{"sum", "mean", "vmamba"})});
}

MultiScanMixer::Scan::Scan(const MambaConfig& c, const Init& init)
    : conv1d(c.inner(), c.conv, init.child("conv1d")),
      x_proj(c.inner(), c.rank() + 2 * c.state, false, init.child("x_proj")),
      dt_proj(c.rank(), c.inner(), true, init.child("dt_proj")),
      A_log(init.a_log(c.inner(), c.state)),
      D(init.constant({static_cast<mx::ShapeElem>(c.inner())}, 1)) {
  if (init.recipe() == InitRecipe::kStandard) dt_proj.bias = init.child("dt_proj").dt_bias("bias", c.inner());
  add_child("conv1d", conv1d);
  add_child("x_proj", x_proj);
  add_child("dt_proj", dt_proj);
  add_parameter("A_log", A_log, Decay::kNo);
  add_parameter("D", D, Decay::kNo);
}

MultiScanMixer::MultiScanMixer(const MambaConfig& config, int num_directions, const Init& init)
    : inner_(checked(config, "sequential").inner()),
      in_proj(config.width, 2 * config.inner(), false, init.child("in_proj")),
      out_norm(config.inner(), init.child("out_norm")),
      out_proj(config.inner(), config.width, false, init.child("out_proj")) {
  add_child("in_proj", in_proj);
  for (int k = 0; k < num_directions; k++) {
    const std::string name = fmt::format("scans.{}", k);
    scans.push_back(std::make_unique<Scan>(config, init.child(name)));
    add_child(name, *scans.back());
  }
  add_child("out_norm", out_norm);
  add_child("out_proj", out_proj);
}

mx::array MultiScanMixer::operator()(const mx::array& h, const std::vector<ScanDirection>& directions) const {
  const auto copies = fan_out(h, 2);
  const auto halves = split_sizes(in_proj.weight, {inner_, inner_}, 0);
  const auto x = fan_out(linear(copies[0], halves[0]), static_cast<int>(directions.size()));
  std::vector<mx::array> outs;
  for (size_t k = 0; k < directions.size(); k++) {
    const Scan& s = *scans[k];
    outs.push_back(MambaBranch{s.conv1d, s.x_proj, s.dt_proj, s.A_log, s.D}(x[k], std::nullopt, directions[k]));
  }
  GatedNormOptions options;
  options.z = linear(copies[1], halves[1]);
  options.weight = out_norm.weight;
  options.bias = out_norm.bias;
  options.norm_before_gate = true;
  return out_proj(layer_norm_gated(outs.size() == 1 ? outs[0] : add_n(outs), options));
}

MultiDirectionalMambaBlock::MultiDirectionalMambaBlock(const MambaConfig& config, int num_directions,
                                                       std::vector<int64_t> grid, ScanOrder order,
                                                       const Init& init, std::string_view scan_mode,
                                                       DirectionMerge merge)
    : norm(config.width, init.child("norm")),
      num_directions_(num_directions),
      grid_(std::move(grid)),
      order_(order),
      merge_(merge) {
  const bool known = num_directions == 2 || num_directions == 4 || num_directions == 6 || num_directions == 8;
  require(known, [&] {
    return Error::Parts{.where = type_name(),
                        .required = "num_directions must be 2, 4, 6 or 8",
                        .got = std::to_string(num_directions),
                        .hint = ""};
  });
  require(num_directions == 2 || grid_.size() * 2 == static_cast<size_t>(num_directions), [&] {
    return Error::Parts{
        .where = type_name(),
        .required = fmt::format("{} directions need a grid with {} axes", num_directions, num_directions / 2),
        .got = fmt::format("{{{}}}", fmt::join(grid_, ", ")),
        .hint = ""};
  });
  if (num_directions > 2) {
    tokens_ = std::accumulate(grid_.begin(), grid_.end(), int64_t{1}, std::multiplies<>());
    for (const auto& d : grid_directions(num_directions / 2, order))
      directions_.push_back(scan_direction(grid_, d));
  } else {
    directions_ = {{std::nullopt, false}, {std::nullopt, true}};
  }
  add_child("norm", norm);
  if (merge == DirectionMerge::kVmamba) {
    check_scan_mode(scan_mode, type_name());
    mixer = std::make_unique<MultiScanMixer>(config, num_directions, init.child("mixer"));
    add_child("mixer", *mixer);
    return;
  }
  for (int k = 0; k < num_directions; k++) {
    const std::string name = fmt::format("mamba_blocks.{}", k);
    mamba_blocks.push_back(std::make_unique<MambaBlock>(config, init.child(name), scan_mode));
    add_child(name, *mamba_blocks.back());
  }
}

std::vector<ScanDirection> MultiDirectionalMambaBlock::directions(const std::vector<int64_t>& grid,
                                                                  bool subset) const {
  if (subset || num_directions_ == 2) return {{std::nullopt, false}, {std::nullopt, true}};
  if (grid == grid_) return directions_;
  require(grid.size() == grid_.size(), [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("a grid with {} axes", grid_.size()),
                        .got = fmt::format("{{{}}}", fmt::join(grid, ", ")),
                        .hint = ""};
  });
  std::vector<ScanDirection> list;
  for (const auto& d : grid_directions(num_directions_ / 2, order_)) list.push_back(scan_direction(grid, d));
  return list;
}

Residual MultiDirectionalMambaBlock::forward(const Residual& h,
                                             const std::vector<ScanDirection>& directions) const {
  require(!directions.empty() && directions.size() <= static_cast<size_t>(num_directions_), [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("1 to {} directions", num_directions_),
                        .got = std::to_string(directions.size()),
                        .hint = ""};
  });
  if (mixer) {
    auto [n, sum] = norm(h);
    return {std::move(sum), (*mixer)(n, directions)};
  }
  std::vector<const MambaBlock*> blocks;
  for (size_t k = 0; k < directions.size(); k++) blocks.push_back(mamba_blocks[k].get());
  const float scale = merge_ == DirectionMerge::kMean ? 1.0f / static_cast<float>(blocks.size()) : 1.0f;
  return run_blocks(norm, blocks, directions, h, scale);
}

Residual MultiDirectionalMambaBlock::forward(const Residual& h, bool subset) const {
  const bool other = num_directions_ > 2 && h.sum.ndim() == 3 && h.sum.shape(1) != tokens_;
  return forward(h, directions(grid_, subset || other));
}

}  // namespace aspis

#include "aspis/models/scan_attention.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>

#include "aspis/base/parallel.h"
#include "aspis/models/vim.h"
#include "aspis/models/vision_mamba.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/position_table.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {
namespace {

constexpr int64_t kMostTokens = 4096;

std::vector<float> values_of(const mx::array& a) {
  mx::array dense = mx::contiguous(mx::astype(a, mx::float32));
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

/// The token visited at each step.
std::vector<int32_t> visits(const ScanDirection& direction, int64_t L) {
  std::vector<int32_t> order(static_cast<size_t>(L));
  if (direction.order) {
    mx::array list = mx::contiguous(*direction.order);
    list.eval();
    std::copy_n(list.data<int32_t>(), L, order.begin());
  } else {
    for (int64_t t = 0; t < L; t++) order[t] = static_cast<int32_t>(direction.reverse ? L - 1 - t : t);
  }
  return order;
}

void add_to(std::vector<float>& sum, const std::vector<float>& more) {
  if (sum.empty()) sum.resize(more.size());
  for (size_t i = 0; i < sum.size(); i++) sum[i] += more[i];
}

/// rollout <- (rows of `layer` made to sum to 1, mixed with the identity) rollout.
void roll_out(std::vector<float>& rollout, const std::vector<float>& layer, int64_t L) {
  std::vector<float> next(rollout.size());
  parallel_for(L, [&](int64_t t) {
    const float* row = layer.data() + t * L;
    double sum = 0;
    for (int64_t s = 0; s < L; s++) sum += row[s];
    float* out = next.data() + t * L;
    for (int64_t s = 0; s < L; s++) {
      const float weight = (s == t ? 0.5f : 0.0f) + (sum > 0 ? static_cast<float>(0.5 * row[s] / sum) : 0.0f);
      if (weight == 0) continue;
      const float* from = rollout.data() + s * L;
      for (int64_t i = 0; i < L; i++) out[i] += weight * from[i];
    }
  });
  rollout = std::move(next);
}

std::vector<float> identity(int64_t L) {
  std::vector<float> m(static_cast<size_t>(L * L));
  for (int64_t i = 0; i < L; i++) m[i * L + i] = 1;
  return m;
}

void check_tokens(const ImageModel& model, int64_t L) {
  require(L <= kMostTokens, [&] {
    return Error::Parts{.where = model.model_type(),
                        .required = fmt::format("the scan's map takes at most {} tokens", kMostTokens),
                        .got = std::to_string(L),
                        .hint = "a smaller image, or the method gradient"};
  });
}

mx::array first_half(const Linear& in_proj, const mx::array& h) {
  const int64_t inner = in_proj.weight.shape(0) / 2;
  return linear(h, split_sizes(in_proj.weight, {inner, inner}, 0)[0]);
}

/// Only the families' own mixers have a scan that is written as a matrix here.
void require_own_mixer(const ImageModel& model, bool own, const std::string& mixer) {
  require(own, [&] {
    return Error::Parts{.where = model.model_type(),
                        .required = "the scan's map needs the mixer of the family itself",
                        .got = fmt::format("mixer {} in directions of its own", mixer),
                        .hint = "the method gradient"};
  });
}

PatchRelevance of(const VisionMamba& model, const mx::array& image) {
  const auto& c = model.config();
  require_own_mixer(model, !c.directional(), c.mixer);
  require(c.input_dim == 2, [&] {
    return Error::Parts{
        .where = model.model_type(), .required = "a model of flat images", .got = "one of volumes", .hint = ""};
  });
  const mx::array patches = model.embed_patches(image);
  const int64_t L = patches.shape(1);
  check_tokens(model, L);
  PatchRelevance r{image.shape(1) / c.patch_size, image.shape(2) / c.patch_size, {}};
  const std::vector<int64_t> grid{r.height, r.width};
  Residual tokens{patches + resize_positions(model.pos_embed, c.grid(), grid), std::nullopt};
  std::vector<float> rollout = identity(L);
  for (const auto& block : model.blocks) {
    const mx::array n = block->norm(tokens).first;
    const auto directions = block->directions(grid);
    std::vector<float> layer;
    for (size_t k = 0; k < directions.size(); k++) {
      if (block->mixer) {
        const auto& s = *block->mixer->scans[k];
        add_to(layer, scan_matrix({s.conv1d, s.x_proj, s.dt_proj, s.A_log, s.D},
                                  first_half(block->mixer->in_proj, n), directions[k]));
      } else {
        const MambaBlock& b = *block->mamba_blocks[k];
        add_to(layer, scan_matrix({b.conv1d, b.x_proj, b.dt_proj, b.A_log, b.D}, first_half(b.in_proj, n),
                                  directions[k]));
      }
    }
    roll_out(rollout, layer, L);
    tokens = {block->forward(tokens, directions).value(), std::nullopt};
  }
  r.values.assign(static_cast<size_t>(L), 0);
  for (int64_t t = 0; t < L; t++) {
    for (int64_t s = 0; s < L; s++) r.values[s] += rollout[t * L + s] / static_cast<float>(L);
  }
  return r;
}

PatchRelevance of(const Vim& model, const mx::array& image) {
  const auto& c = model.config();
  require_own_mixer(model, c.own(), c.mixer);
  Residual x = model.tokens(image);
  const int64_t L = x.sum.shape(1), middle = (L - 1) / 2;
  check_tokens(model, L);
  std::vector<float> rollout = identity(L);
  for (const auto& layer : model.layers) {
    const mx::array n = layer->norm(x).first;
    const VimMixer& m = *layer->mixer;
    const mx::array u = first_half(m.in_proj, n);
    std::vector<float> sum;
    add_to(sum, scan_matrix({m.conv1d, m.x_proj, m.dt_proj, m.A_log, m.D}, u, {}));
    add_to(sum, scan_matrix({m.conv1d_b, m.x_proj_b, m.dt_proj_b, m.A_b_log, m.D_b}, u, {std::nullopt, true}));
    roll_out(rollout, sum, L);
    x = {layer->forward(x, {}).value(), std::nullopt};
  }
  PatchRelevance r{c.patches(image.shape(1)), c.patches(image.shape(2)), {}};
  for (int64_t s = 0; s < L; s++) {
    if (s != middle) r.values.push_back(rollout[middle * L + s]);
  }
  return r;
}

void check_image(const ImageModel& model, const mx::array& image) {
  require(image.ndim() == 4 && image.shape(0) == 1, [&] {
    return Error::Parts{.where = model.model_type(),
                        .required = "one flat image {1, H, W, C}",
                        .got = fmt::format("{{{}}}", fmt::join(image.shape(), ", ")),
                        .hint = ""};
  });
}

}  // namespace

std::vector<float> scan_matrix(const MambaBranch& branch, const mx::array& x, const ScanDirection& direction) {
  const int64_t rank = branch.dt_proj.weight.shape(1), N = branch.A_log.shape(1), D = branch.A_log.shape(0);
  const int64_t L = x.shape(1);
  const auto parts = split_sizes(branch.x_proj(branch.conv1d(x, direction)), {rank, N, N}, -1);
  const mx::array p = branch.dt_proj(parts[0]);
  const auto delta = values_of(mx::logaddexp(p, mx::zeros_like(p)));  // softplus
  const auto B = values_of(parts[1]), C = values_of(parts[2]), A = values_of(mx::negative(mx::exp(branch.A_log)));
  const auto order = visits(direction, L);
  // Decays {L, N, D} by step, channels last, so that the loops below run over channels.
  std::vector<float> decay(static_cast<size_t>(L * N * D));
  parallel_for(L, [&](int64_t t) {
    const float* d = delta.data() + order[t] * D;
    for (int64_t n = 0; n < N; n++) {
      float* out = decay.data() + (t * N + n) * D;
      for (int64_t i = 0; i < D; i++) out[i] = std::exp(d[i] * A[i * N + n]);
    }
  });
  std::vector<float> matrix(static_cast<size_t>(L * L));
  parallel_for(L, [&](int64_t s) {
    const int64_t from = order[s];
    std::vector<float> w(static_cast<size_t>(N * D)), y(static_cast<size_t>(D));
    for (int64_t n = 0; n < N; n++) {
      for (int64_t i = 0; i < D; i++) w[n * D + i] = delta[from * D + i] * B[from * N + n];
    }
    for (int64_t t = s; t < L; t++) {
      const float* c = C.data() + order[t] * N;
      std::fill(y.begin(), y.end(), 0.0f);
      for (int64_t n = 0; n < N; n++) {
        float* v = w.data() + n * D;
        const float* a = decay.data() + (t * N + n) * D;
        if (t > s) {
          for (int64_t i = 0; i < D; i++) v[i] *= a[i];
        }
        for (int64_t i = 0; i < D; i++) y[i] += c[n] * v[i];
      }
      double sum = 0;
      for (const float v : y) sum += std::fabs(v);
      matrix[order[t] * L + from] = static_cast<float>(sum / static_cast<double>(D));
    }
  });
  return matrix;
}

PatchRelevance scan_relevance(const ImageModel& model, const mx::array& image) {
  check_image(model, image);
  if (const auto* m = dynamic_cast<const VisionMamba*>(&model)) return of(*m, image);
  if (const auto* m = dynamic_cast<const Vim*>(&model)) return of(*m, image);
  throw Error(
      ErrorKind::kUsage,
      {.where = model.model_type(),
       .required = "the scan's map needs a model whose layers are scans over all patches: vision_mamba, vim",
       .got = model.model_type(),
       .hint = "the method gradient"});
}

std::vector<float> gradient_times_input(const ImageModel& model, const mx::array& image, int64_t target) {
  check_image(model, image);
  require(target >= 0 && target < model.num_classes(), [&] {
    return Error::Parts{.where = model.model_type(),
                        .required = fmt::format("a class in [0, {})", model.num_classes()),
                        .got = std::to_string(target),
                        .hint = ""};
  });
  const auto score = [&](const mx::array& x) {
    const auto k = static_cast<mx::ShapeElem>(target);
    return mx::sum(mx::slice(model.logits(x), {0, k}, {1, k + 1}));
  };
  const mx::array gradient = mx::grad(score)(image);
  return values_of(mx::abs(mx::sum(gradient * image, 3)));
}

}  // namespace aspis

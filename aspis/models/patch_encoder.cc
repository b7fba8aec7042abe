#include "aspis/models/patch_encoder.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "aspis/models/config_fields.h"
#include "aspis/nn/position_table.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/reduce/reduce.h"

namespace aspis {
namespace {

int64_t product(const std::vector<int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

std::string shape_string(const mx::Shape& shape) { return fmt::format("{{{}}}", fmt::join(shape, ", ")); }

mx::array initial_positions(const PatchEncoderConfig& c, const Init& init) {
  const mx::Shape shape{1, static_cast<mx::ShapeElem>(c.tokens()), static_cast<mx::ShapeElem>(c.embed_dim)};
  if (init.recipe() == InitRecipe::kS0) {
    return init.normal("pos_embed", shape, 1 / std::sqrt(static_cast<double>(c.embed_dim)));
  }
  return init.truncated_normal("pos_embed", shape, 0.02);
}

/// Rows of {B or 1, N, E} at `indices` {n} or {B, n}.
mx::array gather(const mx::array& rows, const mx::array& indices) {
  if (indices.ndim() == 1) return mx::take(rows, indices, 1);
  const auto B = indices.shape(0), n = indices.shape(1), E = rows.shape(2);
  return mx::take_along_axis(mx::broadcast_to(rows, {B, rows.shape(1), E}),
                             mx::broadcast_to(mx::expand_dims(indices, 2), {B, n, E}), 1);
}

/// Checks and converts: MLX reads outside the array for an index that is too large.
mx::array checked_indices(const mx::array& indices, int64_t batch, int64_t tokens, const std::string& where) {
  const bool shape_fits = indices.ndim() == 1 || (indices.ndim() == 2 && indices.shape(0) == batch);
  require(shape_fits && mx::issubdtype(indices.dtype(), mx::integer), [&] {
    return Error::Parts{
        .where = where,
        .required = fmt::format("patch_indices must be integers {{n}} or {{B, n}} with B = {}", batch),
        .got = shape_string(indices.shape()),
        .hint = ""};
  });
  mx::array list = mx::contiguous(mx::astype(indices, mx::int64));
  mx::eval(list);
  const int64_t* values = list.data<int64_t>();
  for (size_t i = 0; i < list.size(); i++) {
    require(values[i] >= 0 && values[i] < tokens, [&] {
      return Error::Parts{.where = where,
                          .required = fmt::format("patch_indices must lie in [0, {})", tokens),
                          .got = std::to_string(values[i]),
                          .hint = ""};
    });
  }
  return mx::astype(list, mx::int32);
}

}  // namespace

std::vector<int64_t> PatchEncoderConfig::grid() const {
  const int64_t g = img_size / patch_size;
  if (input_dim == 2) return {g, g};
  if (input_dim == 3) return {g, g, g};
  return {num_temporal_frames / temporal_patch_size, g, g, g};
}

int64_t PatchEncoderConfig::tokens() const { return product(grid()); }

std::vector<int64_t> PatchEncoderConfig::input_shape() const {
  std::vector<int64_t> shape;
  if (input_dim == 4) shape.push_back(num_temporal_frames);
  for (int64_t i = 0; i < std::min<int64_t>(input_dim, 3); i++) shape.push_back(img_size);
  shape.push_back(in_channels);
  return shape;
}

int64_t PatchEncoderConfig::patch_length() const {
  int64_t n = in_channels * (input_dim == 4 ? temporal_patch_size : 1);
  for (int64_t i = 0; i < std::min<int64_t>(input_dim, 3); i++) n *= patch_size;
  return n;
}

void PatchEncoderConfig::check_common(const std::string& where, ErrorKind kind) const {
  const auto in_range = [&](const char* key, int64_t value, int64_t lo, int64_t hi) {
    config::in_range(where, kind, key, value, lo, hi);
  };
  const auto divides = [&](const char* small, int64_t part, const char* large, int64_t whole) {
    config::divides(where, kind, small, part, large, whole);
  };
  // The upper limits only keep products of sizes inside 64 bits.
  in_range("input_dim", input_dim, 2, 4);
  in_range("img_size", img_size, 1, 1 << 16);
  in_range("patch_size", patch_size, 1, 1 << 12);
  in_range("in_channels", in_channels, 1, 1 << 12);
  in_range("embed_dim", embed_dim, 1, 1 << 16);
  in_range("depth", depth, 1, 1 << 12);
  in_range("num_classes", num_classes, 0, 1 << 24);
  in_range("temporal_patch_size", temporal_patch_size, 1, 1 << 12);
  in_range("num_temporal_frames", num_temporal_frames, 1, 1 << 16);
  divides("patch_size", patch_size, "img_size", img_size);
  if (input_dim == 4)
    divides("temporal_patch_size", temporal_patch_size, "num_temporal_frames", num_temporal_frames);
  // Token numbers are int32 in the kernels, and so are MLX's sizes.
  in_range("the number of tokens", tokens(), 1, int64_t{1} << 30);
}

PatchEncoder::PatchEncoder(const PatchEncoderConfig& c, const Init& init)
    : base_(c),
      patch_embed(static_cast<int>(std::min<int64_t>(c.input_dim, 3)),
                  c.in_channels * (c.input_dim == 4 ? c.temporal_patch_size : 1), c.embed_dim, c.patch_size,
                  init.child("patch_embed")),
      pos_embed(initial_positions(c, init)),
      norm(c.embed_dim, init.child("norm")) {
  if (c.num_classes > 0) head = std::make_unique<Linear>(c.embed_dim, c.num_classes, true, init.child("head"));
  add_child("patch_embed", patch_embed);
  add_parameter("pos_embed", pos_embed, Decay::kNo);
}

void PatchEncoder::add_tail() {
  add_child("norm", norm);
  if (head) add_child("head", *head);
}

std::vector<ScanDirection> PatchEncoder::scan_directions(const std::vector<int64_t>&, bool) const { return {}; }

std::vector<int64_t> PatchEncoder::grid_of(const mx::array& images) const {
  const auto want = base_.input_shape();
  const auto fail = [&](const std::string& required) {
    throw Error(ErrorKind::kUsage,
                {.where = model_type(),
                 .required = required,
                 .got = shape_string(images.shape()),
                 .hint = images.ndim() == want.size() ? "add the axis of the channels or of the batch" : ""});
  };
  if (images.ndim() != want.size() + 1 || images.shape(-1) != base_.in_channels || images.shape(0) < 1) {
    fail(fmt::format("images must have shape {{B, {}}} or another size", fmt::join(want, ", ")));
  }
  std::vector<int64_t> grid;
  for (size_t i = 1; i < want.size(); i++) {
    const bool time = base_.input_dim == 4 && i == 1;
    const int64_t step = time ? base_.temporal_patch_size : base_.patch_size,
                  n = images.shape(static_cast<int>(i));
    if (n < step || n % step != 0) {
      fail(fmt::format("{} must divide every {} of the images, {}", time ? "temporal_patch_size" : "patch_size",
                       time ? "number of frames" : "size", step));
    }
    grid.push_back(n / step);
  }
  return grid;
}

mx::array PatchEncoder::embed_patches(const mx::array& images) const {
  grid_of(images);
  if (base_.input_dim < 4) return patch_embed(images);
  // Frames of one token become channels, frame by frame: {B, T, D, H, W, C} ->
  // {B T', D, H, W, tp C}, channel j C + c being channel c of frame j.
  const auto tp = static_cast<mx::ShapeElem>(base_.temporal_patch_size);
  const auto B = images.shape(0), T = images.shape(1) / tp, D = images.shape(2), H = images.shape(3),
             W = images.shape(4), C = images.shape(5);
  const auto frames_last = mx::transpose(mx::reshape(images, {B, T, tp, D, H, W, C}), {0, 1, 3, 4, 5, 2, 6});
  const auto tokens = patch_embed(mx::reshape(frames_last, {B * T, D, H, W, tp * C}));
  return mx::reshape(tokens, {B, T * tokens.shape(1), tokens.shape(2)});
}

PatchEncoder::Start PatchEncoder::start(const mx::array& x, const std::optional<mx::array>& patch_indices) const {
  std::vector<int64_t> grid = base_.grid();
  mx::array tokens = x;
  if (x.ndim() == 3) {
    require(x.shape(2) == base_.embed_dim, [&] {
      return Error::Parts{
          .where = model_type(),
          .required = fmt::format("an input with three axes is tokens {{B, n, {}}}", base_.embed_dim),
          .got = shape_string(x.shape()),
          .hint = "give images their axis of channels"};
    });
  } else {
    tokens = embed_patches(x);
    grid = grid_of(x);
  }
  const int64_t N = product(grid), given = tokens.shape(1);
  mx::array positions = grid == base_.grid() ? pos_embed : resize_positions(pos_embed, base_.grid(), grid);
  bool subset = false;
  if (patch_indices) {
    const auto indices = checked_indices(*patch_indices, tokens.shape(0), N, model_type());
    const int64_t n = indices.shape(-1);
    require(given == n || given == N, [&] {
      return Error::Parts{
          .where = model_type(),
          .required = fmt::format("tokens must be all {} of the grid or the {} of patch_indices", N, n),
          .got = std::to_string(given),
          .hint = ""};
    });
    // Images are always gathered; with tokens, equal numbers mean that the caller did it.
    if (x.ndim() != 3 || given != n) tokens = gather(tokens, indices);
    positions = gather(positions, indices);
    subset = true;
  } else {
    require(given == N, [&] {
      return Error::Parts{.where = model_type(),
                          .required = fmt::format("tokens must be all {} of the grid", N),
                          .got = std::to_string(given),
                          .hint = "say which patches they are with patch_indices"};
    });
  }
  auto directions = scan_directions(grid, subset);
  return {{broadcast_add(tokens, aspis::cast(positions, tokens.dtype())), std::nullopt},
          std::move(grid),
          std::move(directions)};
}

mx::array PatchEncoder::encode(const mx::array& x, const std::optional<mx::array>& patch_indices) const {
  auto [tokens, grid, directions] = start(x, patch_indices);
  for (int64_t i = 0; i < base_.depth; i++) tokens = block(i, tokens, directions);
  return norm(tokens).first;
}

mx::array PatchEncoder::pool(const mx::array& features) const { return mean_over(features, {1}); }

mx::array PatchEncoder::classify(const mx::array& pooled) const {
  require(head != nullptr, [&] {
    return Error::Parts{.where = model_type(),
                        .required = "a model with a classification head",
                        .got = "num_classes 0",
                        .hint = "set num_classes, or call encode for the tokens"};
  });
  return (*head)(pooled);
}

std::optional<mx::array> PatchEncoder::fitted(const std::string& name, const mx::array& value,
                                              const mx::Shape& want) const {
  // Tables of two axes tell their grid; frames of one token are channels of it.
  if (name == "pos_embed" && base_.input_dim == 2) {
    const auto grid = base_.grid();
    return resize_square_positions(value, grid[0], grid[1]);
  }
  if (base_.input_dim == 4 && base_.temporal_patch_size > 1) return std::nullopt;
  return ImageModel::fitted(name, value, want);
}

std::vector<StageInfo> PatchEncoder::stages() const {
  std::vector<StageInfo> list;
  for (int64_t i = 0; i < base_.depth; i++)
    list.push_back({fmt::format("blocks.{}", i), base_.patch_size, base_.embed_dim});
  return list;
}

std::vector<mx::array> PatchEncoder::feature_maps(const mx::array& images,
                                                  const std::vector<int>& out_indices) const {
  const auto places = stage_places(out_indices);
  auto [tokens, grid, directions] = start(images, {});
  mx::Shape shape{images.shape(0)};
  for (const int64_t n : grid) shape.push_back(static_cast<mx::ShapeElem>(n));
  shape.push_back(static_cast<mx::ShapeElem>(base_.embed_dim));
  std::vector<std::optional<mx::array>> maps(static_cast<size_t>(base_.depth));
  for (int64_t i = 0; i < base_.depth; i++) {
    tokens = block(i, tokens, directions);
    if (std::find(places.begin(), places.end(), static_cast<size_t>(i)) == places.end()) continue;
    const auto value = tokens.value();
    maps[static_cast<size_t>(i)] = mx::reshape(value, shape);
    tokens = {value, std::nullopt};
  }
  std::vector<mx::array> out;
  for (const size_t p : places) out.push_back(*maps[p]);
  return out;
}

ModelCost PatchEncoder::common_cost() const {
  // patch embedding L P E; head E classes; kept: patches and final norm (its input and output).
  const int64_t L = base_.tokens(), E = base_.embed_dim, P = base_.patch_length();
  ModelCost cost;
  cost.macs = L * P * E + E * base_.num_classes;
  cost.kept_bytes = 4 * (L * P + 2 * L * E);
  return cost;
}

}  // namespace aspis

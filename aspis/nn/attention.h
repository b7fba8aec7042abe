#pragma once

#include <optional>

#include "aspis/nn/linear.h"
#include "aspis/nn/module.h"
#include "aspis/nn/norm.h"

namespace aspis {

/// Self-attention with several heads (Vaswani et al. 2017):
///
///     softmax(q k^T / sqrt(width / heads)) v, per head, then out_proj
///
/// {B, L, width} -> the same. Children, named as in MLX: query_proj, key_proj,
/// value_proj, out_proj, each width -> width; biases only if asked for.
class MultiHeadAttention final : public Module {
 public:
  /// Throws Error(kUsage) unless `heads` divides `width`.
  MultiHeadAttention(int64_t width, int64_t heads, bool with_bias, const Init& init);
  std::string type_name() const override { return "MultiHeadAttention"; }
  mx::array operator()(const mx::array& x) const;

 private:
  int64_t heads_;

 public:
  Linear query_proj, key_proj, value_proj, out_proj;
};

/// {B, L} in the dtype of the tokens: 1 for tokens that are there, 0 for padding. Null: all are.
using TokenMask = std::optional<mx::array>;

/// The same with one product for query, key and value, all with biases, as timm keeps
/// it. Children: qkv (width -> 3 width, query first), proj.
class QkvAttention final : public Module {
 public:
  /// Throws Error(kUsage) unless `heads` divides `width`.
  QkvAttention(int64_t width, int64_t heads, const Init& init);
  std::string type_name() const override { return "QkvAttention"; }
  mx::array operator()(const mx::array& x) const { return forward(x, {}, {}); }
  /// Padding is no key; the output is multiplied by `scale` {width} if there is one.
  mx::array forward(const mx::array& x, const TokenMask& mask, const std::optional<mx::array>& scale) const;

 private:
  int64_t heads_;

 public:
  Linear qkv, proj;
};

/// fc2(gelu(fc1(x))), width -> hidden -> width, exact GELU, with biases.
class Mlp final : public Module {
 public:
  Mlp(int64_t width, int64_t hidden, const Init& init);
  std::string type_name() const override { return "Mlp"; }
  mx::array operator()(const mx::array& x) const;

  Linear fc1, fc2;
};

/// Pre-norm transformer block (Dosovitskiy et al. 2021):
///
///     x = x + attn(norm1(x));  x = x + mlp(norm2(x))
///
/// Children: norm1, attn, norm2, mlp.
class TransformerBlock final : public Module {
 public:
  TransformerBlock(int64_t width, int64_t heads, int64_t mlp_ratio, const Init& init);
  std::string type_name() const override { return "TransformerBlock"; }
  mx::array operator()(const mx::array& x) const { return forward({x, {}}).value(); }
  Residual forward(const Residual& x) const;

  LayerNorm norm1;
  MultiHeadAttention attn;
  LayerNorm norm2;
  Mlp mlp;
};

}  // namespace aspis

#include "aspis/nn/attention.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/nn/branch.h"
#include "aspis/ops/attention/attention.h"

namespace aspis {
namespace {

void require_heads(const char* where, int64_t width, int64_t heads) {
  require(heads > 0 && width % heads == 0, [&] {
    return Error::Parts{.where = where,
                        .required = fmt::format("the number of heads must divide the width {}", width),
                        .got = std::to_string(heads),
                        .hint = ""};
  });
}

}  // namespace

MultiHeadAttention::MultiHeadAttention(int64_t width, int64_t heads, bool with_bias, const Init& init)
    : heads_(heads),
      query_proj(width, width, with_bias, init.child("query_proj")),
      key_proj(width, width, with_bias, init.child("key_proj")),
      value_proj(width, width, with_bias, init.child("value_proj")),
      out_proj(width, width, with_bias, init.child("out_proj")) {
  require_heads("MultiHeadAttention", width, heads);
  add_child("query_proj", query_proj);
  add_child("key_proj", key_proj);
  add_child("value_proj", value_proj);
  add_child("out_proj", out_proj);
}

mx::array MultiHeadAttention::operator()(const mx::array& x) const {
  const auto copies = fan_out(x, 3);
  const auto B = x.shape(0), L = x.shape(1), width = x.shape(2);
  const mx::Shape by_head{B, L, static_cast<mx::ShapeElem>(heads_), static_cast<mx::ShapeElem>(width / heads_)};
  const auto q = mx::reshape(query_proj(copies[0]), by_head);
  const auto k = mx::reshape(key_proj(copies[1]), by_head);
  const auto v = mx::reshape(value_proj(copies[2]), by_head);
  return out_proj(mx::reshape(attention(q, k, v, AttentionOptions{}), {B, L, width}));
}

QkvAttention::QkvAttention(int64_t width, int64_t heads, const Init& init)
    : heads_(heads), qkv(width, 3 * width, true, init.child("qkv")), proj(width, width, true, init.child("proj")) {
  require_heads("QkvAttention", width, heads);
  add_child("qkv", qkv);
  add_child("proj", proj);
}

mx::array QkvAttention::forward(const mx::array& x, const TokenMask& mask,
                                const std::optional<mx::array>& scale) const {
  const auto B = x.shape(0), L = x.shape(1), width = x.shape(2), H = static_cast<mx::ShapeElem>(heads_),
             d = width / H;
  const auto parts = split_sizes(mx::reshape(qkv(x), {B, L, 3, H, d}), {1, 1, 1}, 2);
  const auto q = mx::squeeze(parts[0], 2), k = mx::squeeze(parts[1], 2), v = mx::squeeze(parts[2], 2);
  AttentionOptions o;
  o.scale = 1 / std::sqrt(static_cast<float>(d));
  if (mask) {  // no query sees the keys of padding
    o.mask = mx::reshape(mx::greater(*mask, mx::array(0.5f, mask->dtype())), {B, 1, 1, L});
  }
  const auto y = attention(q, k, v, o);
  return scaled(proj, mx::reshape(y, {B, L, width}), scale);
}

Mlp::Mlp(int64_t width, int64_t hidden, const Init& init)
    : fc1(width, hidden, true, init.child("fc1")), fc2(hidden, width, true, init.child("fc2")) {
  add_child("fc1", fc1);
  add_child("fc2", fc2);
}

mx::array Mlp::operator()(const mx::array& x) const { return fc2(fc1(x, Activation::kGelu)); }

TransformerBlock::TransformerBlock(int64_t width, int64_t heads, int64_t mlp_ratio, const Init& init)
    : norm1(width, init.child("norm1")),
      attn(width, heads, false, init.child("attn")),
      norm2(width, init.child("norm2")),
      mlp(width, mlp_ratio * width, init.child("mlp")) {
  add_child("norm1", norm1);
  add_child("attn", attn);
  add_child("norm2", norm2);
  add_child("mlp", mlp);
}

Residual TransformerBlock::forward(const Residual& x) const {
  auto [n1, before] = norm1(x);
  auto [n2, middle] = norm2(Residual{before, attn(n1)});
  return {std::move(middle), mlp(n2)};
}

}  // namespace aspis

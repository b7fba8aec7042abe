#pragma once

#include <mlx/array.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aspis/base/rng.h"

/// What the properties need to know of an operator that runs over tokens.
namespace aspis::properties {

namespace mx = mlx::core;
using Named = std::map<std::string, mx::array>;

struct Result {
  mx::array out;                 ///< {B, L, ..}
  std::vector<mx::array> state;  ///< of the last token, batch first
};

struct Dims {
  int batch, length;
};

/// Values that may change places without changing what comes out but for its own places: channels, heads, ..
struct Exchange {
  std::string name;
  int count = 0, block = 0;  ///< values, and how many of them may change places among themselves
  std::vector<std::pair<std::string, int>> axes;  ///< of the inputs that have them
  std::vector<int> state_axes;                    ///< of every state; -1: it has none
  int out_axis = 2;
};

/// A recurrent operator with its options fixed. Inputs that depend on the token
/// are {B, L, ..}; all others are parameters.
struct Recurrent {
  std::string name;
  std::vector<std::string> token_inputs;
  double precision = 2e-6;             ///< of float32 over up to 300 tokens; a looser one carries its reason
  std::vector<std::string> linear_in;  ///< the output is linear in these and `linear_state` together; may be empty
  std::vector<size_t> linear_state;
  std::function<Named(const Dims&, Rng&)> draw;
  std::function<std::vector<mx::array>(int batch)> zero_state;
  std::function<Result(const Named&, const std::vector<mx::array>& state)> run;
  /// The same over sequences one after another ({1, L, ..}, states {S, ..}); may be empty.
  std::function<Result(const Named&, const std::vector<mx::array>& state, const std::vector<int32_t>& cu)> packed;
  /// From a state of zeros by chunks of so many tokens; the same as `run` with another form of the operator, or in
  /// pieces.
  std::function<Result(const Named&, const std::vector<mx::array>& state, int chunk)> chunked;
  /// With ids {B, L}, or empty.
  std::function<Result(const Named&, const std::vector<mx::array>& state, const mx::array& ids)> by_ids;
  /// From the last token to the first, by an option of the operator; may be empty.
  std::function<Result(const Named&, const std::vector<mx::array>& state)> reversed;
  std::vector<Exchange> exchanges;
  /// Makes every step 0; what is then left of the output from a state of zeros (the way past the state).
  std::function<void(Named&)> no_step;
  std::function<mx::array(const Named&)> skip;
  size_t kept_state = 0;               ///< the state that stays as it is without steps
  std::function<void(Named&)> forget;  ///< makes the decay complete
};

/// Random values of a shape as float32; cast them for other types.
inline mx::array normal(Rng& rng, mx::Shape shape, double scale = 1, double shift = 0) {
  int64_t n = 1;
  for (const int d : shape) n *= d;
  std::vector<float> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<float>(shift + scale * rng.normal());
  return mx::array(v.data(), std::move(shape), mx::float32);
}

inline mx::array negative_uniform(Rng& rng, mx::Shape shape, double low, double high) {
  int64_t n = 1;
  for (const int d : shape) n *= d;
  std::vector<float> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<float>(-(low + (high - low) * rng.uniform()));
  return mx::array(v.data(), std::move(shape), mx::float32);
}

inline int64_t between(Rng& rng, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(rng.uniform() * static_cast<double>(high - low + 1));
}

/// All operators of the library with a state.
std::vector<Recurrent> recurrent_operators();

}  // namespace aspis::properties

// Properties that hold for every operator with a state, over random cases. The
// seed is fixed; ASPIS_TEST_SEED gives another one.

#include <doctest/doctest.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

uint64_t seed() {
  const char* text = std::getenv("ASPIS_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 1;
}

Named cast(Named in, mx::Dtype dtype) {
  for (auto& [name, value] : in) value = mx::astype(value, dtype);
  return in;
}

std::vector<mx::array> cast(std::vector<mx::array> list, mx::Dtype dtype) {
  for (auto& a : list) a = mx::astype(a, dtype);
  return list;
}

mx::array part(const mx::array& a, int axis, int first, int last) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = first;
  stop[axis] = last;
  return mx::slice(a, start, stop);
}

/// Tokens [first, last) of all inputs that have tokens.
Named tokens(const Recurrent& op, Named in, int first, int last) {
  for (const auto& name : op.token_inputs) in.at(name) = part(in.at(name), 1, first, last);
  return in;
}

std::vector<double> values(const mx::array& a) {
  auto dense = mx::contiguous(mx::astype(a, mx::float64));
  mx::eval(dense);
  return {dense.data<double>(), dense.data<double>() + dense.size()};
}

double error(const mx::array& got, const mx::array& want) {
  REQUIRE(got.shape() == want.shape());
  const auto a = values(got), b = values(want);
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < a.size(); i++) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

bool same_bits(const mx::array& a, const mx::array& b) {
  auto x = mx::contiguous(a), y = mx::contiguous(b);
  mx::eval(x, y);
  return x.nbytes() == y.nbytes() && std::memcmp(x.data<char>(), y.data<char>(), x.nbytes()) == 0;
}

/// Runs `in` in pieces that end at `cuts`, carrying the state.
Result in_pieces(const Recurrent& op, const Named& in, std::vector<mx::array> state,
                 const std::vector<int>& cuts) {
  std::vector<mx::array> outs;
  int first = 0;
  for (const int last : cuts) {
    Result r = op.run(tokens(op, in, first, last), state);
    outs.push_back(r.out);
    state = r.state;
    first = last;
  }
  return {mx::concatenate(outs, 1), state};
}

struct Problem {
  int batch, length;
  Named in;
  std::vector<mx::array> state;
};

Problem draw(const Recurrent& op, Rng& rng, mx::Dtype dtype, int longest = 70) {
  Problem p;
  p.batch = static_cast<int>(between(rng, 1, 3));
  p.length = static_cast<int>(between(rng, 2, longest));
  p.in = cast(op.draw({p.batch, p.length}, rng), dtype);
  p.state = op.zero_state(p.batch);
  for (auto& s : p.state) s = mx::astype(normal(rng, s.shape()), dtype);
  return p;
}

/// Calls body(op, rng) `cases` times for every operator.
template <typename Body>
void for_all(const char* property, int cases, Body body) {
  for (const auto& op : recurrent_operators()) {
    for (int i = 0; i < cases; i++) {
      Rng rng(seed(), std::string(property) + "." + op.name, static_cast<uint64_t>(i));
      CAPTURE(op.name);
      CAPTURE(i);
      CAPTURE(seed());
      body(op, rng);
    }
  }
}

}  // namespace

TEST_CASE("a sequence cut at a random place with the state carried is the whole") {
  for_all("split", 100, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64);
    const int cut = static_cast<int>(between(rng, 1, p.length - 1));
    const Result whole = op.run(p.in, p.state), pieces = in_pieces(op, p.in, p.state, {cut, p.length});
    CHECK(error(pieces.out, whole.out) < 1e-12);
    for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(pieces.state[i], whole.state[i]) < 1e-12);
  });
}

TEST_CASE("single tokens with the state carried are the whole") {
  for_all("steps", 10, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64, 20);
    std::vector<int> cuts;
    for (int t = 1; t <= p.length; t++) cuts.push_back(t);
    const Result whole = op.run(p.in, p.state), pieces = in_pieces(op, p.in, p.state, cuts);
    CHECK(error(pieces.out, whole.out) < 1e-12);
    for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(pieces.state[i], whole.state[i]) < 1e-12);
  });
}

TEST_CASE("gradients of a cut sequence flow through the carried state") {
  for_all("split gradient", 20, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64, 40);
    const int cut = static_cast<int>(between(rng, 1, p.length - 1));
    std::vector<std::string> names;
    std::vector<mx::array> primals = p.state;
    for (const auto& [name, value] : p.in) {
      names.push_back(name);
      primals.push_back(value);
    }
    const Result shape = op.run(p.in, p.state);
    const auto weight = mx::astype(normal(rng, shape.out.shape()), mx::float64);
    std::vector<mx::array> state_weights;
    for (const auto& s : shape.state) state_weights.push_back(mx::astype(normal(rng, s.shape()), mx::float64));
    const auto gradient = [&](const std::vector<int>& cuts) {
      std::vector<int> all(primals.size());
      for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i);
      return mx::grad(
          [&](const std::vector<mx::array>& a) {
            Named in;
            for (size_t i = 0; i < names.size(); i++) in.emplace(names[i], a[p.state.size() + i]);
            const Result r = in_pieces(op, in, {a.begin(), a.begin() + static_cast<long>(p.state.size())}, cuts);
            auto loss = mx::sum(r.out * weight);
            for (size_t i = 0; i < r.state.size(); i++) loss = loss + mx::sum(r.state[i] * state_weights[i]);
            return loss;
          },
          all)(primals);
    };
    const auto whole = gradient({p.length}), pieces = gradient({cut, p.length});
    for (size_t i = 0; i < whole.size(); i++) {
      CAPTURE(i < p.state.size() ? "state" : names[i - p.state.size()]);
      CHECK(error(pieces[i], whole[i]) < 1e-11);
    }
  });
}

TEST_CASE("packed sequences are the separate ones") {
  for_all("packed", 25, [](const Recurrent& op, Rng& rng) {
    if (!op.packed) return;
    const int count = static_cast<int>(between(rng, 1, 5));
    std::vector<int32_t> cu{0};
    for (int i = 0; i < count; i++)
      cu.push_back(cu.back() + static_cast<int32_t>(between(rng, i == 0 ? 1 : 0, 40)));
    const Named in = cast(op.draw({1, cu.back()}, rng), mx::float64);
    auto state = op.zero_state(count);
    for (auto& s : state) s = mx::astype(normal(rng, s.shape()), mx::float64);
    const Result got = op.packed(in, state, cu);
    for (int i = 0; i < count; i++) {
      std::vector<mx::array> own;
      for (const auto& s : state) own.push_back(part(s, 0, i, i + 1));
      Result want{mx::array(0), own};
      if (cu[i + 1] > cu[i]) {
        want = op.run(tokens(op, in, cu[i], cu[i + 1]), own);
        CHECK(error(part(got.out, 1, cu[i], cu[i + 1]), want.out) < 1e-12);
      }
      for (size_t k = 0; k < state.size(); k++)
        CHECK(error(part(got.state[k], 0, i, i + 1), want.state[k]) < 1e-12);
    }
  });
}

TEST_CASE("a sample's result does not depend on its batch, bit for bit") {
  for_all("batch", 25, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float32);
    const Result all = op.run(p.in, p.state);
    for (int b = 0; b < p.batch; b++) {
      Named one = p.in;
      for (const auto& name : op.token_inputs) one.at(name) = part(one.at(name), 0, b, b + 1);
      std::vector<mx::array> state;
      for (const auto& s : p.state) state.push_back(part(s, 0, b, b + 1));
      const Result alone = op.run(one, state);
      CHECK(same_bits(alone.out, part(all.out, 0, b, b + 1)));
      for (size_t i = 0; i < state.size(); i++) CHECK(same_bits(alone.state[i], part(all.state[i], 0, b, b + 1)));
    }
  });
}

TEST_CASE("a token changes nothing before it, bit for bit, and something at it") {
  for_all("causal", 25, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float32);
    const int t = static_cast<int>(between(rng, 1, p.length - 1));
    Named changed = p.in;
    for (const auto& name : op.token_inputs) {
      const auto& a = p.in.at(name);
      const auto other = mx::astype(normal(rng, part(a, 1, t, t + 1).shape()), a.dtype());
      mx::Shape start(a.ndim(), 0), stop = a.shape();
      start[1] = t, stop[1] = t + 1;
      changed.at(name) = mx::slice_update(a, other, start, stop);
    }
    const auto before = op.run(p.in, p.state).out, after = op.run(changed, p.state).out;
    CHECK(same_bits(part(before, 1, 0, t), part(after, 1, 0, t)));
    CHECK(!same_bits(part(before, 1, t, t + 1), part(after, 1, t, t + 1)));
  });
}

TEST_CASE("a NaN reaches the tokens after it in its own sample only") {
  for_all("nan", 20, [](const Recurrent& op, Rng& rng) {
    Problem p = draw(op, rng, mx::float32);
    const int t = static_cast<int>(between(rng, 0, p.length - 1)),
              b = static_cast<int>(between(rng, 0, p.batch - 1));
    const auto& name =
        op.token_inputs[static_cast<size_t>(between(rng, 0, static_cast<int64_t>(op.token_inputs.size()) - 1))];
    auto& a = p.in.at(name);
    mx::Shape start(a.ndim(), 0), stop = a.shape();
    start[0] = b, stop[0] = b + 1, start[1] = t, stop[1] = t + 1;
    a = mx::slice_update(a, mx::full({1}, std::numeric_limits<float>::quiet_NaN()), start, stop);
    CAPTURE(name);
    auto hit = mx::isnan(op.run(p.in, p.state).out);
    hit = mx::any(mx::reshape(hit, {p.batch, p.length, -1}), 2);
    mx::eval(hit);
    for (int i = 0; i < p.batch; i++) {
      for (int k = 0; k < p.length; k++) {
        const bool is = hit.data<bool>()[i * p.length + k];
        if (i != b || k < t) CHECK(!is);
        if (i == b && k == t) CHECK(is);
      }
    }
  });
}

TEST_CASE("the output is linear in the input and the state together") {
  for_all("linear", 25, [](const Recurrent& op, Rng& rng) {
    if (op.linear_in.empty()) return;
    const Problem p = draw(op, rng, mx::float64);
    Problem q = p, sum = p;
    for (const auto& name : op.linear_in) {
      q.in.at(name) = mx::astype(normal(rng, p.in.at(name).shape()), mx::float64);
      sum.in.at(name) = p.in.at(name) * 2.0 + q.in.at(name);
    }
    for (size_t i = 0; i < p.state.size(); i++) {
      q.state[i] = mx::astype(normal(rng, p.state[i].shape()), mx::float64);
      sum.state[i] = p.state[i] * 2.0 + q.state[i];
    }
    const Result x = op.run(p.in, p.state), y = op.run(q.in, q.state), z = op.run(sum.in, sum.state);
    CHECK(error(z.out, x.out * 2.0 + y.out) < 1e-12);
    for (size_t i = 0; i < z.state.size(); i++) CHECK(error(z.state[i], x.state[i] * 2.0 + y.state[i]) < 1e-12);
  });
}

TEST_CASE("float32 results stay within a bound of the float64 ones") {
  for_all("precision", 25, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float32, 300);
    const Result single = op.run(p.in, p.state);
    const Result fine = op.run(cast(p.in, mx::float64), cast(p.state, mx::float64));
    CHECK(error(single.out, fine.out) < op.precision);
    for (size_t i = 0; i < fine.state.size(); i++) CHECK(error(single.state[i], fine.state[i]) < op.precision);
  });
}

}  // namespace aspis::properties

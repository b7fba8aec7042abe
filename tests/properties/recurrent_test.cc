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
  for_all("split", 200, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64);
    const int cut = static_cast<int>(between(rng, 1, p.length - 1));
    const Result whole = op.run(p.in, p.state), pieces = in_pieces(op, p.in, p.state, {cut, p.length});
    CHECK(error(pieces.out, whole.out) < 1e-12);
    for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(pieces.state[i], whole.state[i]) < 1e-12);
  });
}

TEST_CASE("single tokens with the state carried are the whole") {
  for_all("steps", 50, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64, 20);
    std::vector<int> cuts;
    for (int t = 1; t <= p.length; t++) cuts.push_back(t);
    const Result whole = op.run(p.in, p.state), pieces = in_pieces(op, p.in, p.state, cuts);
    CHECK(error(pieces.out, whole.out) < 1e-12);
    for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(pieces.state[i], whole.state[i]) < 1e-12);
  });
}

namespace {

/// Gradients of all states and inputs, of a random sum over outputs and last states, when the tokens run in
/// pieces.
class Pieces {
 public:
  Pieces(const Recurrent& op, Problem p, Rng& rng) : op_(op), p_(std::move(p)), primals_(p_.state) {
    for (const auto& [name, value] : p_.in) {
      names_.push_back(name);
      primals_.push_back(value);
    }
    const Result shape = op.run(p_.in, p_.state);
    weights_.push_back(mx::astype(normal(rng, shape.out.shape()), shape.out.dtype()));
    for (const auto& s : shape.state) weights_.push_back(mx::astype(normal(rng, s.shape()), s.dtype()));
    mx::eval(weights_);
  }

  std::vector<mx::array> gradients(const std::vector<int>& cuts) const {
    std::vector<int> all(primals_.size());
    for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int>(i);
    return mx::grad([&](const std::vector<mx::array>& a) { return loss(a, cuts); }, all)(primals_);
  }

  void expect_same(const std::vector<mx::array>& got, const std::vector<mx::array>& want, double limit) const {
    for (size_t i = 0; i < want.size(); i++) {
      CAPTURE(i < p_.state.size() ? "state" : names_[i - p_.state.size()]);
      CHECK(error(got[i], want[i]) < limit);
    }
  }

 private:
  mx::array loss(const std::vector<mx::array>& a, const std::vector<int>& cuts) const {
    Named in;
    for (size_t i = 0; i < names_.size(); i++) in.emplace(names_[i], a[p_.state.size() + i]);
    const Result r = in_pieces(op_, in, {a.begin(), a.begin() + static_cast<long>(p_.state.size())}, cuts);
    auto sum = mx::sum(r.out * weights_[0]);
    for (size_t i = 0; i < r.state.size(); i++) sum = sum + mx::sum(r.state[i] * weights_[i + 1]);
    return sum;
  }

  const Recurrent& op_;
  Problem p_;
  std::vector<std::string> names_;
  std::vector<mx::array> primals_, weights_;
};

}  // namespace

TEST_CASE("gradients of a cut sequence flow through the carried state") {
  for_all("split gradient", 20, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64, 40);
    const int cut = static_cast<int>(between(rng, 1, p.length - 1));
    const Pieces pieces(op, p, rng);
    pieces.expect_same(pieces.gradients({cut, p.length}), pieces.gradients({p.length}), 1e-11);
  });
}

TEST_CASE("every cut of 70 tokens, and 70 steps, give the values and gradients of the whole, for every operator") {
  for_all("every cut", 1, [](const Recurrent& op, Rng& rng) {
    Problem p = draw(op, rng, mx::float64);
    p.batch = 1, p.length = 70;
    p.in = cast(op.draw({1, 70}, rng), mx::float64);
    p.state = op.zero_state(1);
    for (auto& s : p.state) s = mx::astype(normal(rng, s.shape()), mx::float64);
    const Pieces pieces(op, p, rng);
    const Result whole = op.run(p.in, p.state);
    const auto want = pieces.gradients({70});
    const auto check = [&](const std::vector<int>& cuts) {
      const Result got = in_pieces(op, p.in, p.state, cuts);
      CHECK(error(got.out, whole.out) < 1e-12);
      for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(got.state[i], whole.state[i]) < 1e-12);
      pieces.expect_same(pieces.gradients(cuts), want, 1e-11);
    };
    std::vector<int> steps;
    for (int cut = 1; cut < 70; cut++) {
      CAPTURE(cut);
      check({cut, 70});
      steps.push_back(cut);
    }
    steps.push_back(70);
    check(steps);
  });
}

TEST_CASE("any chunk size gives what one walk gives, 1 to 700 tokens") {
  for_all("chunked", 200, [](const Recurrent& op, Rng& rng) {
    const int chunk = static_cast<int>(between(rng, 1, 130));
    Problem p = draw(op, rng, mx::float64);
    p.batch = 1;
    // A third of the lengths around a border of chunks.
    const int borders = static_cast<int>(between(rng, 0, 2));
    p.length = borders == 0
                   ? chunk * static_cast<int>(between(rng, 1, 700 / chunk)) + static_cast<int>(between(rng, -1, 1))
                   : static_cast<int>(between(rng, 1, 700));
    p.length = std::clamp(p.length, 1, 700);
    p.in = cast(op.draw({1, p.length}, rng), mx::float64);
    p.state = op.zero_state(1);
    for (auto& s : p.state) s = mx::astype(normal(rng, s.shape()), mx::float64);
    CAPTURE(chunk);
    CAPTURE(p.length);
    std::vector<int> cuts;
    for (int last = std::min(chunk, p.length); last < p.length; last += chunk) cuts.push_back(last);
    cuts.push_back(p.length);
    const Result whole = op.run(p.in, p.state),
                 got = op.chunked ? op.chunked(p.in, p.state, chunk) : in_pieces(op, p.in, p.state, cuts);
    CHECK(error(got.out, whole.out) < 1e-12);
    for (size_t i = 0; i < whole.state.size(); i++) CHECK(error(got.state[i], whole.state[i]) < 1e-12);
  });
}

TEST_CASE("channels, heads, states and ranks that change places change nothing else") {
  for_all("exchange", 50, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float64, 40);
    const Result want = op.run(p.in, p.state);
    for (const Exchange& e : op.exchanges) {
      CAPTURE(e.name);
      std::vector<int32_t> order(static_cast<size_t>(e.count));
      for (int i = 0; i < e.count; i++) order[i] = i;
      for (int first = 0; first < e.count; first += e.block) {
        for (int i = e.block - 1; i > 0; i--)
          std::swap(order[first + i], order[first + static_cast<int>(between(rng, 0, i))]);
      }
      const mx::array index(order.data(), {e.count}, mx::int32);
      const auto moved = [&](const mx::array& a, int axis) { return axis < 0 ? a : mx::take(a, index, axis); };
      Named in = p.in;
      for (const auto& [name, axis] : e.axes) in.at(name) = moved(in.at(name), axis);
      std::vector<mx::array> state = p.state;
      for (size_t i = 0; i < state.size(); i++) state[i] = moved(state[i], e.state_axes[i]);
      const Result got = op.run(in, state);
      CHECK(error(got.out, moved(want.out, e.out_axis)) < 1e-12);
      for (size_t i = 0; i < state.size(); i++) {
        CHECK(error(got.state[i], moved(want.state[i], e.state_axes[i])) < 1e-12);
      }
    }
  });
}

TEST_CASE("an option that turns the direction is a turned input and a turned output") {
  for_all("flip", 50, [](const Recurrent& op, Rng& rng) {
    if (!op.reversed) return;
    const Problem p = draw(op, rng, mx::float64);
    std::vector<int32_t> order(static_cast<size_t>(p.length));
    for (int t = 0; t < p.length; t++) order[t] = p.length - 1 - t;
    const mx::array index(order.data(), {p.length}, mx::int32);
    Named in = p.in;
    for (const auto& name : op.token_inputs) in.at(name) = mx::take(in.at(name), index, 1);
    const Result got = op.reversed(p.in, p.state), want = op.run(in, p.state);
    CHECK(error(got.out, mx::take(want.out, index, 1)) < 1e-12);
    for (size_t i = 0; i < want.state.size(); i++) CHECK(error(got.state[i], want.state[i]) < 1e-12);
  });
}

TEST_CASE("without a step the state stays and only the skip is left; with complete decay only the token itself") {
  for_all("limits", 30, [](const Recurrent& op, Rng& rng) {
    if (!op.no_step) return;
    const Problem p = draw(op, rng, mx::float64, 30);
    Named still = p.in;
    op.no_step(still);
    const Result kept = op.run(still, p.state);
    CHECK(same_bits(kept.state[op.kept_state], p.state[op.kept_state]));
    std::vector<mx::array> nothing;
    for (const auto& s : p.state) nothing.push_back(mx::zeros_like(s));
    CHECK(error(op.run(still, nothing).out, op.skip(still)) < 1e-12);

    Named quick = p.in;
    op.forget(quick);
    const Result whole = op.run(quick, p.state);
    const int t = static_cast<int>(between(rng, 0, p.length - 1));
    const Result alone = op.run(tokens(op, quick, t, t + 1), nothing);
    CHECK(error(part(whole.out, 1, t, t + 1), alone.out) < 1e-11);
  });
}

TEST_CASE("padding in front of a row changes neither what follows nor its last state") {
  for_all("left padding", 30, [](const Recurrent& op, Rng& rng) {
    Problem p = draw(op, rng, mx::float64, 40);
    p.state = op.zero_state(p.batch);
    for (auto& s : p.state) s = mx::astype(s, mx::float64);
    const Result want = op.run(p.in, p.state);
    const int most = static_cast<int>(between(rng, 1, 20)), total = most + p.length;
    const auto spoiled = [&](int row, int pad) {
      Named in = p.in;
      for (const auto& name : op.token_inputs) {
        const auto own = part(in.at(name), 0, row, row + 1);
        mx::Shape shape = own.shape();
        shape[1] = pad;
        const auto junk = mx::astype(normal(rng, shape, 100), mx::float64);
        in.at(name) = mx::concatenate({junk, own}, 1);
      }
      return in;
    };
    if (!op.by_ids && !op.packed) return;
    if (!op.by_ids) {  // padding is then a sequence of its own
      for (int b = 0; b < p.batch; b++) {
        const int pad = static_cast<int>(between(rng, 1, most));
        auto state = op.zero_state(2);
        for (auto& s : state) s = mx::astype(s, mx::float64);
        const Result got = op.packed(spoiled(b, pad), state, {0, pad, pad + p.length});
        CHECK(error(part(got.out, 1, pad, pad + p.length), part(want.out, 0, b, b + 1)) < 1e-12);
        for (size_t i = 0; i < state.size(); i++)
          CHECK(error(part(got.state[i], 0, 1, 2), part(want.state[i], 0, b, b + 1)) < 1e-12);
      }
      return;
    }
    // Rows with different paddings in one batch; the shorter ones have padding behind them too.
    std::vector<Named> rows;
    std::vector<int> pads;
    std::vector<int32_t> ids;
    for (int b = 0; b < p.batch; b++) {
      pads.push_back(most);
      ids.insert(ids.end(), most, -1);
      ids.insert(ids.end(), p.length, 0);
      rows.push_back(spoiled(b, most));
      const int inside = static_cast<int>(between(rng, 0, most - 1));
      // Two kinds of padding, both negative.
      for (int t = 0; t < inside; t++) ids[static_cast<size_t>(b) * total + t] = -2;
    }
    Named in = rows[0];
    for (const auto& name : op.token_inputs) {
      std::vector<mx::array> all;
      for (const auto& r : rows) all.push_back(r.at(name));
      in.at(name) = mx::concatenate(all, 0);
    }
    const Result got = op.by_ids(in, p.state, mx::array(ids.data(), {p.batch, total}, mx::int32));
    CHECK(error(part(got.out, 1, most, total), want.out) < 1e-12);
    for (size_t i = 0; i < want.state.size(); i++) CHECK(error(got.state[i], want.state[i]) < 1e-12);
  });
}

TEST_CASE("inputs at any place in memory give the same bits, gradients too") {
  // One to three values behind the place where an allocator would put them: vectors of float32 begin at 4, 8 or 12
  // bytes, and those of bfloat16 at 2.
  for_all("misaligned", 15, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float32, 40);
    for (const auto dtype : {mx::float32, mx::bfloat16}) {
      const auto shifted = [&](const mx::array& a) {
        const int by = static_cast<int>(between(rng, 1, 3)), n = static_cast<int>(a.size());
        auto wide = mx::contiguous(
            mx::concatenate({mx::full({by}, -77, a.dtype()), mx::flatten(a), mx::full({4}, -77, a.dtype())}, 0));
        mx::eval(wide);
        auto view = mx::reshape(mx::slice(wide, {by}, {by + n}), a.shape());
        mx::eval(view);
        REQUIRE(view.flags().row_contiguous);
        REQUIRE(view.data<char>() == wide.data<char>() + by * static_cast<int64_t>(a.itemsize()));
        return view;
      };
      Problem plain = p, moved = p;
      plain.in = cast(p.in, dtype);
      for (const auto& [name, a] : plain.in) moved.in.at(name) = shifted(a);
      for (auto& s : moved.state) s = shifted(s);
      const Result want = op.run(plain.in, plain.state), got = op.run(moved.in, moved.state);
      CHECK(same_bits(got.out, want.out));
      for (size_t i = 0; i < want.state.size(); i++) CHECK(same_bits(got.state[i], want.state[i]));
      Rng weights(seed(), "misaligned.weights"), again(seed(), "misaligned.weights");
      const auto plain_gradients = Pieces(op, plain, weights).gradients({p.length}),
                 moved_gradients = Pieces(op, moved, again).gradients({p.length});
      for (size_t i = 0; i < plain_gradients.size(); i++) CHECK(same_bits(moved_gradients[i], plain_gradients[i]));
    }
  });
}

TEST_CASE("packed sequences are the separate ones") {
  for_all("packed", 50, [](const Recurrent& op, Rng& rng) {
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
  for_all("batch", 50, [](const Recurrent& op, Rng& rng) {
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
  for_all("causal", 50, [](const Recurrent& op, Rng& rng) {
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
  for_all("nan", 40, [](const Recurrent& op, Rng& rng) {
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
  for_all("linear", 50, [](const Recurrent& op, Rng& rng) {
    if (op.linear_in.empty()) return;
    const Problem p = draw(op, rng, mx::float64);
    Problem q = p, sum = p;
    for (const auto& name : op.linear_in) {
      q.in.at(name) = mx::astype(normal(rng, p.in.at(name).shape()), mx::float64);
      sum.in.at(name) = p.in.at(name) * 2.0 + q.in.at(name);
    }
    for (const size_t i : op.linear_state) {
      q.state[i] = mx::astype(normal(rng, p.state[i].shape()), mx::float64);
      sum.state[i] = p.state[i] * 2.0 + q.state[i];
    }
    const Result x = op.run(p.in, p.state), y = op.run(q.in, q.state), z = op.run(sum.in, sum.state);
    CHECK(error(z.out, x.out * 2.0 + y.out) < 1e-12);
    for (const size_t i : op.linear_state) CHECK(error(z.state[i], x.state[i] * 2.0 + y.state[i]) < 1e-12);
  });
}

TEST_CASE("float32 results stay within a bound of the float64 ones") {
  for_all("precision", 50, [](const Recurrent& op, Rng& rng) {
    const Problem p = draw(op, rng, mx::float32, 300);
    const Result single = op.run(p.in, p.state);
    const Result fine = op.run(cast(p.in, mx::float64), cast(p.state, mx::float64));
    CHECK(error(single.out, fine.out) < op.precision);
    for (size_t i = 0; i < fine.state.size(); i++) CHECK(error(single.state[i], fine.state[i]) < op.precision);
  });
}

}  // namespace aspis::properties
